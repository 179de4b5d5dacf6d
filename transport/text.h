// SPDX-License-Identifier: MIT
// Text that grows, and JSON written into it. Nothing here fails on the spot: memory that ran out shows at the
// end, in `failed`.
#ifndef RDI_TEXT_H
#define RDI_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rdi_text {
    char *buf; // NUL-terminated once something was added
    size_t len, cap;
    bool failed;
};
void rdi_text_add(struct rdi_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void rdi_text_free(struct rdi_text *t);

// Length of the UTF-8 character of more than one byte at s, 1 for ASCII, 0 if it is none.
size_t rdi_utf8_character(const unsigned char *s);

// One member of an object, or of an array where key is NULL. Commas come by themselves. Strings that are no UTF-8
// have U+FFFD for each wrong byte; NULL is null.
void rdi_json_begin(struct rdi_text *t, const char *key, char bracket); // '{' or '['
void rdi_json_end(struct rdi_text *t, char bracket);                    // '}' or ']'
void rdi_json_string(struct rdi_text *t, const char *key, const char *value);
void rdi_json_u64(struct rdi_text *t, const char *key, uint64_t value);
void rdi_json_int(struct rdi_text *t, const char *key, int64_t value);
void rdi_json_bool(struct rdi_text *t, const char *key, bool value);
// Sixteen digits as a string: JSON's numbers end at 2^53 for many readers.
void rdi_json_hex(struct rdi_text *t, const char *key, uint64_t value);
// A new line, for readers.
void rdi_json_line(struct rdi_text *t);

#endif
