// SPDX-License-Identifier: MIT
// The text: read, cut into a part to train on and one to test on, and handed out in windows.
#ifndef GPT_DATA_H
#define GPT_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpt_model.h"

// The last 5 % of every file is held out: never trained on, only measured. (Of every file and not
// of all files together, so that both parts hold the same kinds of text.)
struct gpt_corpus {
    uint8_t *train, *held;
    size_t train_len, held_len;
    size_t files;
};

// Reads `files`; with files == 0 the English text of Debian's package fortunes. Both parts must
// hold at least two windows of `context` bytes. The caller frees the corpus with gpt_corpus_free().
bool gpt_corpus_load(struct gpt_corpus *c, const char *const *names, size_t files, int context,
                     struct gpt_error *e);
void gpt_corpus_free(struct gpt_corpus *c);

// Hash of the text and of how it was cut, by which the ranks see whether they have the same.
uint64_t gpt_corpus_hash(const struct gpt_corpus *c);

// How a global batch is dealt out: in parts that follow each other, as rondo_sampler_share() says.
struct gpt_share {
    int rank, world;
    int64_t batch;
};
int gpt_share_count(const struct gpt_share *s);

// This rank's sequences of a step: in[count][context], and target[count][context], which are the
// bytes that follow. The windows of a step depend on seed, step and batch, not on the number of
// ranks. sample[count], if not NULL, receives a number for each window, which comes once in a run.
bool gpt_train_batch(const struct gpt_corpus *c, const struct gpt_share *s, uint64_t seed,
                     uint64_t step, int context, uint8_t *in, uint8_t *target, uint64_t *sample);

// The held-out windows: how many there are (at most `limit`), and number i, spread evenly over the
// text.
size_t gpt_held_count(const struct gpt_corpus *c, int context, size_t limit);
void gpt_held_window(const struct gpt_corpus *c, int context, size_t limit, size_t i, uint8_t *in,
                     uint8_t *target);

#endif
