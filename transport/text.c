// SPDX-License-Identifier: MIT
#include "transport/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool room(struct rdi_text *t, size_t more) {
    if (t->failed) {
        return false;
    }
    if (t->len + more < t->cap) {
        return true;
    }
    size_t cap = t->cap ? t->cap : 4096;
    while (cap <= t->len + more) {
        cap *= 2;
    }
    char *buf = realloc(t->buf, cap);
    if (!buf) {
        t->failed = true;
        return false;
    }
    t->buf = buf;
    t->cap = cap;
    return true;
}

static void put(struct rdi_text *t, const char *s, size_t n) {
    if (room(t, n)) {
        memcpy(t->buf + t->len, s, n);
        t->len += n;
        t->buf[t->len] = '\0';
    }
}

void rdi_text_add(struct rdi_text *t, const char *fmt, ...) {
    for (int tries = 0; tries < 2 && room(t, 1); tries++) {
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(t->buf + t->len, t->cap - t->len, fmt, ap);
        va_end(ap);
        if (n < 0) {
            t->failed = true;
        } else if ((size_t)n < t->cap - t->len) {
            t->len += (size_t)n;
            return;
        } else if (!room(t, (size_t)n)) {
            return;
        }
    }
}

void rdi_text_free(struct rdi_text *t) {
    free(t->buf);
    *t = (struct rdi_text){0};
}

// ---- JSON ----------------------------------------------------------------------------------------

size_t rdi_utf8_character(const unsigned char *s) {
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
                                             : 0;
    n = s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : n;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    // Overlong forms, surrogates, beyond the last character.
    bool wrong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
                 (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f);
    return n > 1 && wrong ? 0 : n;
}

static void quote(struct rdi_text *t, const char *value) {
    put(t, "\"", 1);
    for (const unsigned char *s = (const unsigned char *)value; *s != '\0';) {
        size_t n = rdi_utf8_character(s);
        if (n == 0) {
            put(t, "\\ufffd", 6);
            n = 1;
        } else if (*s < 0x20 || *s == 0x7f) {
            rdi_text_add(t, "\\u%04x", *s);
        } else {
            put(t, "\\", *s == '"' || *s == '\\' ? 1 : 0);
            put(t, (const char *)s, n);
        }
        s += n;
    }
    put(t, "\"", 1);
}

// The comma before a member that is not the first one, and its name.
static void member(struct rdi_text *t, const char *key) {
    size_t at = t->len;
    while (at > 0 && (t->buf[at - 1] == '\n' || t->buf[at - 1] == ' ')) {
        at--;
    }
    if (at > 0 && !strchr("{[,:", t->buf[at - 1])) {
        // Before the line end that is there already.
        size_t tail = t->len - at;
        put(t, tail ? "," : ", ", tail ? 1 : 2);
        if (!t->failed && tail > 0) {
            memmove(t->buf + at + 1, t->buf + at, tail);
            t->buf[at] = ',';
        }
    }
    if (key) {
        quote(t, key);
        put(t, ": ", 2);
    }
}

void rdi_json_begin(struct rdi_text *t, const char *key, char bracket) {
    member(t, key);
    put(t, &bracket, 1);
}

void rdi_json_end(struct rdi_text *t, char bracket) { put(t, &bracket, 1); }

void rdi_json_string(struct rdi_text *t, const char *key, const char *value) {
    member(t, key);
    if (value) {
        quote(t, value);
    } else {
        put(t, "null", 4);
    }
}

void rdi_json_u64(struct rdi_text *t, const char *key, uint64_t value) {
    member(t, key);
    // Integers of JSON are signed for most readers.
    rdi_text_add(t, "%llu", (unsigned long long)(value > INT64_MAX ? INT64_MAX : value));
}

void rdi_json_int(struct rdi_text *t, const char *key, int64_t value) {
    member(t, key);
    rdi_text_add(t, "%lld", (long long)value);
}

void rdi_json_bool(struct rdi_text *t, const char *key, bool value) {
    member(t, key);
    rdi_text_add(t, "%s", value ? "true" : "false");
}

void rdi_json_hex(struct rdi_text *t, const char *key, uint64_t value) {
    member(t, key);
    rdi_text_add(t, "\"%016llx\"", (unsigned long long)value);
}

void rdi_json_line(struct rdi_text *t) { put(t, "\n", 1); }
