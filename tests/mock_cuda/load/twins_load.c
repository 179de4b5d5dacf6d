// SPDX-License-Identifier: MIT
// A library of twins, as MOCK_CUDA_TWINS names one.
#include "tests/mock_cuda/mock_cuda.h"

#include <string.h>

static void twin_set(void **args, const unsigned grid[3], const unsigned block[3]) {
    uint64_t p;
    memcpy(&p, args[0], sizeof p);
    *(uint32_t *)mock_cuda_range(p, 4) = grid[0] * block[0];
}

extern const struct mock_cuda_twin mock_twin_table[];
__attribute__((visibility("default")))
const struct mock_cuda_twin mock_twin_table[] = {{"load_set", twin_set, 1, {8}}, {0}};
