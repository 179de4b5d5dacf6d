// SPDX-License-Identifier: MIT
// What the fuzz targets share.
#ifndef RDI_TESTS_FUZZ_H
#define RDI_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// Called by libFuzzer, or by replay.c.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// What must hold for every input; independent of NDEBUG.
#define MUST(condition)                                                                    \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

#endif
