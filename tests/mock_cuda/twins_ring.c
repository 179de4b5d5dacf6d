// SPDX-License-Identifier: MIT
// Twins of the kernels of ring/cuda/step.h: the same bodies, ring/cuda/body.h, on the memory behind device addresses.
// Each block of a grid is one thread here; a stream's thread runs them in turn.
#include "tests/mock_cuda/mock_cuda.h"

#include "ring/cuda/body.h"

#include <string.h>

static void rdi_pause(uint32_t *ns) {
    (void)ns;
    mock_cuda_relax();
}

static uint64_t here(uint64_t address, uint64_t bytes) {
    return address != 0 && bytes != 0 ? (uint64_t)(uintptr_t)mock_cuda_range(address, bytes) : 0;
}

typedef void piece_fn(struct rdi_piece p);

// The share of block `b` of `blocks`.
static void share(piece_fn *piece, struct rdi_gpu_step s, unsigned b, unsigned blocks) {
    s.in = here(s.in, s.bytes);
    s.local = here(s.local, s.bytes);
    s.dst = here(s.dst, s.bytes);
    s.out = here(s.out, s.bytes);
    piece(rdi_piece_of(s, b, blocks));
}

static void step(void **args, const unsigned grid[3], piece_fn *piece) {
    struct rdi_gpu_step s;
    memcpy(&s, args[0], sizeof s);
    for (unsigned b = 0; b < grid[0]; b++) {
        share(piece, s, b, grid[0]);
    }
}

static void walk(void **args, const unsigned grid[3], piece_fn *piece) {
    uint64_t steps, done, arrive;
    struct rdi_walk w = {.blocks = grid[0]};
    memcpy(&steps, args[0], sizeof steps);
    memcpy(&w.n, args[1], sizeof w.n);
    memcpy(&done, args[2], sizeof done);
    memcpy(&arrive, args[3], sizeof arrive);
    w.done = here(done, 4);
    w.arrive = here(arrive, 4);
    bool alive = true;
    for (uint32_t k = 0; k < w.n; k++) {
        for (unsigned b = 0; b < grid[0]; b++) {
            struct rdi_gpu_step s, flags;
            memcpy(&s, mock_cuda_range(steps + k * sizeof s, sizeof s), sizeof s);
            flags = s;
            flags.in_flag = here(s.in_flag, 4);
            flags.out_flag = here(s.out_flag, 4);
            alive = rdi_walk_before(&w, k, flags, alive);
            if (alive) {
                share(piece, s, b, grid[0]);
            }
            rdi_walk_after(&w, k);
        }
    }
}

#define TWIN(op, t)                                                                             \
    static void piece_##op##_##t(struct rdi_piece p) { rdi_piece_##op##_##t(p); }               \
    static void step_##op##_##t(void **args, const unsigned grid[3], const unsigned block[3]) { \
        (void)block;                                                                            \
        step(args, grid, piece_##op##_##t);                                                     \
    }                                                                                           \
    static void walk_##op##_##t(void **args, const unsigned grid[3], const unsigned block[3]) { \
        (void)block;                                                                            \
        walk(args, grid, piece_##op##_##t);                                                     \
    }
RDI_FOR_KERNELS(TWIN)

#define ROWS(op, t)                                                              \
    {"rdi_step_" #op "_" #t, step_##op##_##t, 1, {sizeof(struct rdi_gpu_step)}}, \
        {"rdi_walk_" #op "_" #t, walk_##op##_##t, 4, {8, 4, 8, 8}},

extern const struct mock_cuda_twin mock_twin_table[];
__attribute__((visibility("default")))
const struct mock_cuda_twin mock_twin_table[] = {RDI_FOR_KERNELS(ROWS){.name = NULL}};
