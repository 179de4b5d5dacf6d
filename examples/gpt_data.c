// SPDX-License-Identifier: MIT
// The text and its windows.
#include "gpt_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo/ddp.h>

#include "gpt_file.h"

#define FORTUNES "/usr/share/games/fortunes/"

// English prose and verse of the package fortunes, about 2.2 MB. A fixed list: what lies in the
// folder depends on which languages' fortunes are installed, and a loss that is quoted should mean
// the same text everywhere. Left out are drawings and the categories that tend to offend.
static const char *const fortunes[] = {
    "computers",   "cookie",     "definitions", "education",   "food",     "fortunes",
    "goedel",      "humorists",  "kids",        "knghtbrd",    "law",      "linux",
    "linuxcookie", "literature", "love",        "magic",       "medicine", "miscellaneous",
    "news",        "paradoxum",  "people",      "perl",        "pets",     "platitudes",
    "politics",    "riddles",    "science",     "songs-poems", "sports",   "startrek",
    "tao",         "wisdom",     "work",        "zippy",
};
enum { FORTUNES_FILES = sizeof fortunes / sizeof fortunes[0] };

static const size_t held_percent = 5;

// ---- Reading ------------------------------------------------------------------------------------

static bool append(uint8_t **to, size_t *len, const uint8_t *bytes, size_t n, struct gpt_error *e) {
    uint8_t *more = realloc(*to, *len + n + 1); // + 1: an empty part is no failure
    if (!more) {
        return gpt_fail(e, "no memory for %zu bytes of text", *len + n);
    }
    memcpy(more + *len, bytes, n);
    *to = more;
    *len += n;
    return true;
}

static bool add_file(struct gpt_corpus *c, const char *name, struct gpt_error *e) {
    uint8_t *bytes;
    size_t size;
    if (!gpt_file_read(name, "cannot train on", &bytes, &size, e)) {
        return false;
    }
    const size_t held = size / 100 * held_percent + size % 100 * held_percent / 100;
    bool ok = append(&c->train, &c->train_len, bytes, size - held, e) &&
              append(&c->held, &c->held_len, bytes + size - held, held, e);
    c->files += ok;
    free(bytes);
    return ok;
}

static bool add_fortunes(struct gpt_corpus *c, struct gpt_error *e) {
    for (size_t i = 0; i < FORTUNES_FILES; i++) {
        char name[100];
        struct gpt_error why;
        snprintf(name, sizeof name, FORTUNES "%s", fortunes[i]);
        if (!add_file(c, name, &why)) {
            return gpt_fail(e,
                            "the default text is missing (%s): install the Debian package fortunes "
                            "(apt-get install fortunes), or name files of your own with --data",
                            why.text);
        }
    }
    return true;
}

bool gpt_corpus_load(struct gpt_corpus *c, const char *const *names, size_t files, int context,
                     struct gpt_error *e) {
    struct gpt_corpus corpus = {0};
    bool ok = files > 0 || add_fortunes(&corpus, e);
    for (size_t i = 0; ok && i < files; i++) {
        ok = add_file(&corpus, names[i], e);
    }
    // Two windows of text to train on, since windows are moved by up to one from epoch to epoch.
    const size_t least = 2 * (size_t)context + 1;
    if (ok && (corpus.train_len < least || corpus.held_len < least)) {
        ok = gpt_fail(
            e,
            "the text is too short: %zu bytes to train on and %zu held out (%zu %%), and --context "
            "%d needs %zu of each: give more text or a lower --context",
            corpus.train_len, corpus.held_len, held_percent, context, least);
    }
    if (!ok) {
        gpt_corpus_free(&corpus);
        return false;
    }
    *c = corpus;
    return true;
}

void gpt_corpus_free(struct gpt_corpus *c) {
    free(c->train);
    free(c->held);
    memset(c, 0, sizeof *c);
}

uint64_t gpt_corpus_hash(const struct gpt_corpus *c) {
    const uint64_t cut[2] = {c->train_len, c->held_len};
    uint64_t hash = gpt_hash(GPT_HASH_START, cut, sizeof cut);
    hash = gpt_hash(hash, c->train, c->train_len);
    return gpt_hash(hash, c->held, c->held_len);
}

// ---- Windows ------------------------------------------------------------------------------------

// Copies bytes start .. start + context, the last one only into the target.
static void copy_window(const uint8_t *text, size_t start, int context, uint8_t *in,
                        uint8_t *target) {
    memcpy(in, text + start, (size_t)context);
    memcpy(target, text + start + 1, (size_t)context);
}

int gpt_share_count(const struct gpt_share *s) {
    uint64_t first, count;
    const bool ok = rondo_sampler_share((uint64_t)s->batch, s->rank, s->world, &first, &count) ==
                    RONDO_OK;
    return ok ? (int)count : 0;
}

// The sampler is asked as if there were one rank, by the number of the sequence in the whole run.
// That deals the same sequences to a step whatever the number of ranks, also where the batch does
// not divide by it.
bool gpt_train_batch(const struct gpt_corpus *c, const struct gpt_share *s, uint64_t seed,
                     uint64_t step, int context, uint8_t *in, uint8_t *target, uint64_t *sample) {
    const uint64_t windows = c->train_len / (size_t)context - 1;
    uint64_t first, count;
    if (rondo_sampler_share((uint64_t)s->batch, s->rank, s->world, &first, &count) != RONDO_OK) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++, in += context, target += context) {
        const uint64_t sequence = step * (uint64_t)s->batch + first + i;
        const rondo_sampler sampler = {.samples = windows,
                                       .seed = seed,
                                       .epoch = sequence / windows,
                                       .rank = 0,
                                       .world = 1,
                                       .shuffle = 1,
                                       .drop_tail = 1};
        uint64_t window;
        if (rondo_sampler_get(&sampler, sequence % windows, &window) != RONDO_OK) {
            return false;
        }
        // Each epoch cuts the text at other places.
        const uint64_t shift = gpt_random(seed, sampler.epoch) % (uint64_t)context;
        copy_window(c->train, window * (uint64_t)context + shift, context, in, target);
        if (sample) {
            sample[i] = sampler.epoch * windows + window;
        }
    }
    return true;
}

size_t gpt_held_count(const struct gpt_corpus *c, int context, size_t limit) {
    const size_t all = (c->held_len - 1) / (size_t)context;
    return all < limit ? all : limit;
}

void gpt_held_window(const struct gpt_corpus *c, int context, size_t limit, size_t i, uint8_t *in,
                     uint8_t *target) {
    const size_t room = c->held_len - 1 - (size_t)context,
                 last = gpt_held_count(c, context, limit) - 1;
    copy_window(c->held, room * i / (last ? last : 1), context, in, target);
}
