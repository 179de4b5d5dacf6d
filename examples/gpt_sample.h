// SPDX-License-Identifier: MIT
// Text from a trained model.
#ifndef GPT_SAMPLE_H
#define GPT_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpt_model.h"

// Prints `length` bytes, drawn one after the other from softmax(logits / temperature), beginning at
// the start of a line. The same seed gives the same text; temperature 0 always takes the likeliest
// byte. Bytes that are no UTF-8 text, or would upset a terminal, are shown as the replacement
// character.
bool gpt_sample(const struct gpt_model *m, struct gpt_activations *a, uint64_t seed,
                double temperature, size_t length, struct gpt_error *e);

#endif
