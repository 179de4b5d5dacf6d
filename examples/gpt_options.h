// SPDX-License-Identifier: MIT
// What train_gpt can be told on its command line.
#ifndef GPT_OPTIONS_H
#define GPT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "gpt_model.h"

enum gpt_device_option { GPT_DEVICE_CPU, GPT_DEVICE_CUDA };

enum { GPT_BUCKET_AUTO = 0 }; // --bucket auto

struct gpt_options {
    // Files to train on: `files` words of the command line. None = the default corpus.
    const char **data;
    size_t files;
    // The model.
    int64_t layers, heads, dim, context;
    // The run.
    int64_t device; // enum gpt_device_option
    int64_t dp;     // devices of one process; 0 = DDP
    int64_t batch, steps, warmup, seed, threads, bucket;
    double minutes, rate, decay, clip;
    const char *hook; // as gpt_hook.h says; NULL = none
    // What is shown and kept.
    int64_t eval_every, save_every, sample;
    double temperature;
    const char *checkpoint, *resume, *plot, *csv, *trace, *samples; // NULL = none
    bool live, quiet, elastic, ddp, zero;
};

enum gpt_options_result { GPT_OPTIONS_RUN, GPT_OPTIONS_HELP, GPT_OPTIONS_WRONG };

// Reads the command line. The strings of `o` point into argv; the caller frees it with
// gpt_options_free(). With GPT_OPTIONS_WRONG there is nothing to free, and the error names the
// option and what is allowed.
enum gpt_options_result gpt_options_parse(int argc, char **argv, struct gpt_options *o,
                                          struct gpt_error *e);
void gpt_options_free(struct gpt_options *o);

// The table of options, as --help prints it.
void gpt_options_help(FILE *out);

// Hash of all numbers, of the hook and of the device, which have to be the same on all ranks. Names of files need not.
uint64_t gpt_options_hash(const struct gpt_options *o);

struct gpt_shape gpt_options_shape(const struct gpt_options *o);

#endif
