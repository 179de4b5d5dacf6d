// SPDX-License-Identifier: MIT
// See area.h.
#include "tests/fault/area.h"
#include "tests/fault/say.h"

#include <rondo/rondo.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 4096, PATTERN = 0xa5 };

static struct area *frozen;

struct area *area_new(size_t count, bool shared) {
    struct area *a = calloc(1, sizeof *a);
    size_t bytes = count * sizeof *a->x, all = bytes + (size_t)2 * GUARD;
    void *base = NULL;
    if (a && shared) {
        base = rondo_mem_alloc(all, &base) == RONDO_OK ? base : NULL;
    } else if (a) {
        base = malloc(all);
    }
    if (!base) {
        free(a);
        return NULL;
    }
    memset(base, PATTERN, all);
    *a = (struct area){.base = base, .bytes = bytes, .shared = shared};
    a->x = (int32_t *)(void *)(a->base + GUARD);
    return a;
}

static bool is_pattern(const uint8_t *p) {
    for (int i = 0; i < GUARD; i++) {
        if (p[i] != PATTERN) {
            return false;
        }
    }
    return true;
}

const char *area_guards(const struct area *a) {
    if (!is_pattern(a->base)) {
        return "the guard in front of a buffer was written";
    }
    return is_pattern(a->base + GUARD + a->bytes) ? NULL : "the guard behind a buffer was written";
}

static uint64_t hash(const struct area *a) { // FNV-1a
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < a->bytes; i++) {
        h = (h ^ a->base[GUARD + i]) * UINT64_C(0x100000001b3);
    }
    return h;
}

void area_freeze(struct area *a) {
    if (a) {
        a->hash = hash(a);
        a->next = frozen;
        frozen = a;
    }
}

int area_frozen_check(void) {
    int wrong = 0;
    while (frozen) {
        struct area *a = frozen;
        const char *what = area_guards(a);
        what = !what && hash(a) != a->hash ? "a buffer changed after its operation failed" : what;
        if (what) {
            struct line l;
            line_begin(&l, "wrong", 0);
            line_text(&l, "text", what);
            line_end(&l);
            wrong++;
        }
        frozen = a->next;
        area_free(a);
    }
    return wrong;
}

void area_free(struct area *a) {
    if (a && a->shared) {
        (void)rondo_mem_free(a->base);
    } else if (a) {
        free(a->base);
    }
    free(a);
}
