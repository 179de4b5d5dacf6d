// SPDX-License-Identifier: MIT
// What the analysers cannot see, because it is in another file: the functions that record an error return its status.
// `run` includes it before each file of the product but the one that defines them.
#ifndef RDI_TESTS_STATIC_ASSUME_H
#define RDI_TESTS_STATIC_ASSUME_H

#if __has_include("transport/internal.h") && __has_include("transport/cuda/cuda.h")
#include "transport/cuda/cuda.h"
#include "transport/internal.h"
#include "transport/memfile.h"

// An error's status is not RONDO_OK.
static inline rondo_status assume_error(rondo_status s) {
    if (s == RONDO_OK) {
        __builtin_unreachable();
    }
    return s;
}

#define rdi_fail(s, ...) ((void)(rdi_fail)(s, __VA_ARGS__), assume_error(s))
#define rdi_fail_errno(s, ...) ((void)(rdi_fail_errno)(s, __VA_ARGS__), assume_error(s))
#define rdi_fail_prefix(s, ...) ((void)(rdi_fail_prefix)(s, __VA_ARGS__), assume_error(s))
#define rdi_fail_resource(err, ...) assume_error((rdi_fail_resource)(err, __VA_ARGS__))
#define rdi_cuda_fail(r, ...) assume_error((rdi_cuda_fail)(r, __VA_ARGS__))
#endif

#endif
