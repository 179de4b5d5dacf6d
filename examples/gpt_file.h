// SPDX-License-Identifier: MIT
// Files as a whole: read at once, or replaced at once.
#ifndef GPT_FILE_H
#define GPT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "gpt_model.h"

// Reads a regular file that is not empty. The caller frees *bytes. `purpose` begins the error, as
// in "cannot train on".
bool gpt_file_read(const char *path, const char *purpose, uint8_t **bytes, size_t *len,
                   struct gpt_error *e);

// Makes `path` a file that holds the parts, one after the other: written beside it and flushed to
// the disk before it takes the name, so that whoever reads `path`, also after a power cut, finds
// the old file or the new one and nothing in between.
bool gpt_file_replace(const char *path, const struct iovec *parts, int count, struct gpt_error *e);

// Whether gpt_file_replace() could work, to be told before hours of training rather than after.
bool gpt_file_probe(const char *path, struct gpt_error *e);

#endif
