// SPDX-License-Identifier: MIT
// The mock reads the environment once a process, and a broken rule aborts: so every case of its tests is a process of
// its own, forked by a parent that never calls the driver.
#ifndef MOCK_CUDA_TEST_SUPPORT_H
#define MOCK_CUDA_TEST_SUPPORT_H

#include "tests/mock_cuda/mock_cuda.h"
#include "transport/cuda/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROTOTYPE(need, name, symbol, arguments) rdi_cu_result symbol arguments;
RDI_CUDA_FUNCTIONS(PROTOTYPE)
#undef PROTOTYPE

struct mock_case {
    const char *name;
    void (*run)(void);
    const char *env;  // "NAME=value NAME=value", or NULL
    const char *rule; // that it must abort with; NULL: it ends well and silently
    bool race;        // ThreadSanitizer must find one; without it the case is left out
};
#define CASE(f, ...) \
    { .name = #f, .run = f, __VA_ARGS__ }
int run_mock_cases(const char *group, const struct mock_case *cases, size_t n);

// In a case; cmocka's own would jump into the parent's tests.
#define CHECK(x)                                                            \
    do {                                                                    \
        if (!(x)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x); \
            _exit(3);                                                       \
        }                                                                   \
    } while (0)
#define RESULT(want, call)                                                                  \
    do {                                                                                    \
        int result_ = call;                                                                 \
        if (result_ != (want)) {                                                            \
            fprintf(stderr, "%s:%d: %d, not %d: %s\n", __FILE__, __LINE__, result_, (want), \
                    #call);                                                                 \
            _exit(3);                                                                       \
        }                                                                                   \
    } while (0)
#define OK(call) RESULT(RDI_CU_OK, call)

rdi_cu_ctx use_device(int ordinal); // cuInit(), its context retained and pushed
rdi_cu_ptr device_memory(size_t bytes);
void *pinned_memory(size_t bytes); // zeroed
rdi_cu_stream new_stream(void);    // non-blocking
rdi_cu_event new_event(void);
rdi_cu_function kernel(const char *name);
// add(dst, a, b, n): floats; fill(dst, n, value): floats; await(flag, value): waits, >=
void launch_add(rdi_cu_stream s, rdi_cu_ptr dst, rdi_cu_ptr a, rdi_cu_ptr b, uint64_t n);
void launch_fill(rdi_cu_stream s, rdi_cu_ptr dst, uint64_t n, float value);
void launch_await(rdi_cu_stream s, rdi_cu_ptr flag, uint32_t value);
float first_float(rdi_cu_ptr p);

#endif
