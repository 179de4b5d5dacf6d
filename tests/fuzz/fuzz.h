// SPDX-License-Identifier: MIT
// What the fuzz targets share: what must hold, and inputs that are read from their beginning.
#ifndef RDI_TESTS_FUZZ_H
#define RDI_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Called by libFuzzer, or by replay.c.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
// A target may have it: whether the product takes an input for what it is. It must take those of corpus/ whose name begins
// with good_; else they have been left behind by their format, and a search from them stays at its door.
bool fuzz_accepts(const uint8_t *data, size_t size);

// What must hold for every input; independent of NDEBUG.
#define MUST(condition)                                                               \
    do {                                                                              \
        if (!(condition)) {                                                           \
            dprintf(2, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

// An input as it is read. Beyond its end there are zeros.
struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint64_t take_number(struct input *in, size_t bytes) {
    uint64_t v = 0;
    for (size_t i = 0; i < bytes && in->left > 0; i++, in->left--) {
        v |= (uint64_t)*in->at++ << 8 * i;
    }
    return v;
}

static inline uint8_t take_byte(struct input *in) { return (uint8_t)take_number(in, 1); }

// Up to n bytes, where they lie; *got is how many.
static inline const uint8_t *take_bytes(struct input *in, size_t n, size_t *got) {
    const uint8_t *at = in->at;
    *got = n < in->left ? n : in->left;
    in->at += *got;
    in->left -= *got;
    return at;
}

// A copy of n bytes of memory in a block of its own, so that a sanitizer sees a step beyond its end. The caller
// frees it.
static inline void *own_copy(const void *bytes, size_t n) {
    void *copy = malloc(n > 0 ? n : 1);
    MUST(copy != NULL);
    if (n > 0) {
        memcpy(copy, bytes, n);
    }
    return copy;
}

// The rest of the input as text with a NUL. The caller frees it.
static inline char *take_text(struct input *in) {
    char *text = malloc(in->left + 1);
    MUST(text != NULL);
    if (in->left > 0) {
        memcpy(text, in->at, in->left);
    }
    text[in->left] = '\0';
    in->left = 0;
    return text;
}

// For loops over memory that has been looked at as a whole: without a check for each byte they take a tenth of the time.
#ifdef __clang__
#define LOOKED_AT __attribute__((no_sanitize("address", "undefined", "coverage")))
#else
#define LOOKED_AT __attribute__((no_sanitize("address"), no_sanitize("undefined")))
#endif

LOOKED_AT static inline bool has_commands(const char *text, size_t n) {
    unsigned found = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        found |= (c < 0x20) | (c == 0x7f);
    }
    return found != 0;
}

// Whether it can go into a log line or an error text as it is.
static inline bool is_clean(const char *text) { return !has_commands(text, strlen(text)); }

#endif
