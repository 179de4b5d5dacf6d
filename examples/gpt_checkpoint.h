// SPDX-License-Identifier: MIT
// Checkpoints: all that is needed to go on with a run as if it had not been interrupted.
//
//   0   8  "rondogpt"                      32   8  steps done
//   8   4  version, now 1                  40   8  number of parameters, n
//   12  4  layers                          48   8  checksum: FNV-1a of all other bytes
//   16  4  heads                           56  4n  parameters
//   20  4  dim                             ..  4n  AdamW's first moments
//   24  4  context                         ..  4n  AdamW's second moments
//   28  4  zero
//
// Numbers are little endian, the values IEEE single precision.
#ifndef GPT_CHECKPOINT_H
#define GPT_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpt_adamw.h"
#include "gpt_model.h"

enum { GPT_CHECKPOINT_HEADER = 56 };

struct gpt_checkpoint {
    struct gpt_shape shape;
    uint64_t step;
    size_t count;
    const uint8_t *values; // 3 * count floats, not aligned, inside the bytes that were parsed
};

// Reads and checks a checkpoint that lies in memory; every byte counts. Pure.
bool gpt_checkpoint_parse(const uint8_t *bytes, size_t len, struct gpt_checkpoint *out,
                          struct gpt_error *e);

// Saves model and optimizer as they are in host memory, atomically (gpt_file_replace).
bool gpt_checkpoint_save(const char *path, const struct gpt_model *m, const struct gpt_adamw *o,
                         struct gpt_error *e);

// Fills model and optimizer in host memory; they keep what they had if this fails. The model must have the shape
// that was saved.
bool gpt_checkpoint_load(const char *path, struct gpt_model *m, struct gpt_adamw *o,
                         struct gpt_error *e);

#endif
