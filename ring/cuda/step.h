// SPDX-License-Identifier: MIT
// One step of a collective on a device, as the host writes it and the kernels read it: a piece that arrived meets
// the rank's own data, and the result goes to the receive buffer, to the wire, or to both.
//
//        in (arrived) ---\                  /---> dst (the caller's receive buffer)
//                         >-- op, divide --<
//   local (own data) ----/                  \---> out (for the next rank)
//
// Compiled by nvcc and by C compilers: fixed-size fields only, addresses as the device sees them, 0 = none.
#ifndef RDI_CUDA_STEP_H
#define RDI_CUDA_STEP_H

#include <stdint.h>

// What to do with `bytes` bytes. With one of `in` and `local` the value is that one's; with both it is
// `in op local`, rounded to the type. Afterwards, with DIVIDE, it is divided by `ranks` as rdi_divide() does
// (floats only by rounding once more; integers truncate).
// EARLY: only for the walker, whose blocks otherwise begin a step when all of them have done the one before. A
// step that neither reads nor overwrites what the step before it wrote, nor overwrites what that one reads, may
// begin earlier.
enum { RDI_STEP_DIVIDE = 1, RDI_STEP_EARLY = 2 };

struct rdi_gpu_step {
    uint64_t in, local, dst, out;
    uint64_t bytes;
    // The walker waits before a step until (int32_t)(*flag - value) >= 0; 0 = no such wait. In a chain of stream
    // operations the same waits are the stream's.
    uint64_t in_flag, out_flag;
    uint32_t in_value, out_value;
    uint32_t flags, ranks;
};

// Kernels, by name; <op> is sum, prod, min, max; <type> is f32 f64 f16 bf16 i8 u8 i32 u32 i64 u64 f8e4m3 f8e5m2:
//   rdi_step_<op>_<type>(struct rdi_gpu_step step)
//       One step, no waiting. Any one-dimensional grid, blocks of at most RDI_STEP_BLOCK threads. Addresses need
//       no alignment; multiples of 16 are fast. `dst` may equal `in` or `local`; no other overlap.
//   rdi_walk_<op>_<type>(const struct rdi_gpu_step *steps, uint32_t n, uint32_t *done, uint32_t *arrive)
//       All n steps in order. Each block waits for a step's flags by itself, does its share, and the last block
//       to finish step k (counted in arrive[0] in device memory, zero before and after) stores k + 1 to *done,
//       visible to the host after the step's data. Blocks wait for each other, so all have to find room on the
//       device. A flag that holds RDI_STEP_POISON ends the kernel early, with *done = n. n is at least 1.
#define RDI_STEP_POISON 0x7fffffffu
#define RDI_STEP_BLOCK 512

#endif
