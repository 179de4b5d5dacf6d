// SPDX-License-Identifier: MIT
#include "topo/set.h"

#include "transport/text.h"

#include <stdlib.h>
#include <string.h>

// One group of at most 32 bits, up to the comma or the end; an empty one is 0.
static bool read_group(const char **at, uint32_t *word) {
    const char *p = *at;
    uint64_t v = 0;
    p += p[0] == '0' && p[1] == 'x' ? 2 : 0;
    size_t n = strspn(p, "0123456789abcdefABCDEF");
    if (n > 8 || (p[n] != ',' && p[n] != '\0') || (n == 0 && p != *at)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned c = (unsigned char)p[i];
        v = v << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    *word = (uint32_t)v;
    *at = p + n;
    return true;
}

bool rdi_set_read(struct rdi_set *s, const char *text) {
    size_t groups = 1;
    memset(s, 0, sizeof *s);
    for (const char *p = text; *p != '\0'; p++) {
        groups += *p == ',';
    }
    if (text[0] == '\0' || groups > RDI_SET_WORDS) {
        return false;
    }
    // The highest group comes first.
    for (size_t i = groups; i > 0; i--) {
        if (!read_group(&text, &s->word[i - 1]) || (i > 1) != (*text == ',')) {
            return false;
        }
        text += i > 1;
    }
    return true;
}

bool rdi_set_has(const struct rdi_set *s, unsigned bit) {
    return bit < RDI_SET_BITS && (s->word[bit / 32] >> bit % 32 & 1) != 0;
}

unsigned rdi_set_count(const struct rdi_set *s) {
    unsigned n = 0;
    for (size_t i = 0; i < RDI_SET_WORDS; i++) {
        n += (unsigned)__builtin_popcount(s->word[i]);
    }
    return n;
}

int rdi_set_first(const struct rdi_set *s) {
    for (unsigned i = 0; i < RDI_SET_WORDS; i++) {
        if (s->word[i]) {
            return (int)(32 * i) + __builtin_ctz(s->word[i]);
        }
    }
    return -1;
}

bool rdi_set_equal(const struct rdi_set *a, const struct rdi_set *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

bool rdi_set_within(const struct rdi_set *a, const struct rdi_set *b) {
    uint32_t some = 0, beyond = 0;
    for (size_t i = 0; i < RDI_SET_WORDS; i++) {
        some |= a->word[i];
        beyond |= a->word[i] & ~b->word[i];
    }
    return some != 0 && beyond == 0;
}

bool rdi_set_meet(const struct rdi_set *a, const struct rdi_set *b) {
    uint32_t both = 0;
    for (size_t i = 0; i < RDI_SET_WORDS; i++) {
        both |= a->word[i] & b->word[i];
    }
    return both != 0;
}

void rdi_set_keep(struct rdi_set *s, const struct rdi_set *only) {
    for (size_t i = 0; i < RDI_SET_WORDS; i++) {
        s->word[i] &= only->word[i];
    }
}

char *rdi_set_list(const struct rdi_set *s) {
    struct rdi_text t = {0};
    rdi_text_add(&t, "%s", "");
    for (unsigned bit = 0; bit < RDI_SET_BITS; bit++) {
        unsigned from = bit;
        if (s->word[bit / 32] == 0) {
            bit |= 31; // none of these
            continue;
        }
        while (rdi_set_has(s, bit)) {
            bit++;
        }
        if (bit > from) {
            rdi_text_add(&t, "%s%u", t.len ? "," : "", from);
        }
        if (bit > from + 1) {
            rdi_text_add(&t, "-%u", bit - 1);
        }
    }
    if (t.failed) {
        rdi_text_free(&t);
    }
    return t.buf;
}
