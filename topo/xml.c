// SPDX-License-Identifier: MIT
#include "topo/xml.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    struct rdi_xml *x;
    char *at; // the text ends with a NUL
    uint32_t line;
    uint32_t open[RDI_XML_DEPTH];
    size_t depth;
    size_t elements_cap, attributes_cap;
    char *why;
    size_t cap;
};

static bool wrong(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool wrong(struct reader *r, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = snprintf(r->why, r->cap, "line %u: ", r->line);
    if (n > 0 && (size_t)n < r->cap) {
        vsnprintf(r->why + n, r->cap - (size_t)n, fmt, ap);
    }
    va_end(ap);
    return false;
}

// ---- Characters ----------------------------------------------------------------------------------

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == ':' || c == '.';
}

static void skip(struct reader *r, size_t n) {
    for (; n > 0; n--, r->at++) {
        r->line += *r->at == '\n';
    }
}

static void skip_space(struct reader *r) {
    while (is_space(*r->at)) {
        skip(r, 1);
    }
}

static bool begins(const struct reader *r, const char *word) {
    return strncmp(r->at, word, strlen(word)) == 0;
}

// Past the next `word`.
static bool skip_past(struct reader *r, const char *word, const char *what) {
    const char *end = strstr(r->at, word);
    if (!end) {
        return wrong(r, "%s has no end", what);
    }
    skip(r, (size_t)(end - r->at) + strlen(word));
    return true;
}

// A name, which what follows it will end with a NUL; NULL if there is none.
static char *name(struct reader *r, size_t *len) {
    char *start = r->at;
    while (is_name(*r->at)) {
        r->at++;
    }
    *len = (size_t)(r->at - start);
    return *len > 0 && *len < 64 ? start : NULL;
}

// ---- Values --------------------------------------------------------------------------------------

static char *put_character(char *to, unsigned long c) {
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    }
    return to;
}

// "&amp;" at r->at, to *to, which never passes what is read: no reference is shorter than its character.
static bool reference(struct reader *r, char **to) {
    static const struct {
        const char *text;
        char c;
    } known[] = {{"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (begins(r, known[i].text)) {
            *(*to)++ = known[i].c;
            r->at += strlen(known[i].text);
            return true;
        }
    }
    bool hex = begins(r, "&#x");
    const char *digits = r->at + (hex ? 3 : begins(r, "&#") ? 2 : 0);
    size_t n = strspn(digits, hex ? "0123456789abcdefABCDEF" : "0123456789");
    unsigned long c = n > 0 && n < 8 && digits[n] == ';' ? strtoul(digits, NULL, hex ? 16 : 10) : 0;
    if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        return wrong(r, "an entity that is none of XML's own: %.12s", r->at);
    }
    *to = put_character(*to, c);
    r->at += (size_t)(digits - r->at) + n + 1;
    return true;
}

// The value behind '=', decoded where it lies.
static bool value(struct reader *r, const char **out) {
    char quote = *r->at;
    if (quote != '"' && quote != '\'') {
        return wrong(r, "a value without quotes");
    }
    char *to = ++r->at;
    *out = to;
    while (*r->at != quote) {
        if (*r->at == '\0' || *r->at == '<') {
            return wrong(r, "a value has no end");
        }
        if (*r->at == '&') {
            if (!reference(r, &to)) {
                return false;
            }
        } else {
            *to++ = *r->at;
            skip(r, 1);
        }
    }
    *to = '\0';
    r->at++;
    return true;
}

// ---- Elements ------------------------------------------------------------------------------------

// Room for one more in an array of n, of elements of `size` bytes.
static bool grow(struct reader *r, void **array, size_t n, size_t *cap, size_t size) {
    if (n < *cap) {
        return true;
    }
    size_t more = *cap ? 2 * *cap : 256;
    void *p = realloc(*array, more * size);
    if (!p) {
        return wrong(r, "out of memory");
    }
    *array = p;
    *cap = more;
    return true;
}

static bool attribute(struct reader *r, uint32_t e) {
    struct rdi_xml *x = r->x;
    size_t len;
    char *key = name(r, &len);
    if (!key) {
        return wrong(r, "%.20s where the name of an attribute should be", r->at);
    }
    char *end = r->at;
    skip_space(r);
    if (*r->at != '=') {
        return wrong(r, "attribute %.*s has no value", (int)len, key);
    }
    skip(r, 1);
    *end = '\0';
    skip_space(r);
    if (x->elements[e].count == RDI_XML_EACH) {
        return wrong(r, "an element with more than %d attributes", RDI_XML_EACH);
    }
    if (rdi_xml_get(x, e, key)) {
        return wrong(r, "attribute %s twice", key);
    }
    const char *text = NULL;
    if (!grow(r, (void **)&x->attributes, x->nattributes, &r->attributes_cap,
              sizeof *x->attributes) ||
        !value(r, &text)) {
        return false;
    }
    x->attributes[x->nattributes++] = (struct rdi_xml_attribute){key, text};
    x->elements[e].count++;
    return true;
}

static void close_element(struct reader *r) {
    r->x->elements[r->open[--r->depth]].end = (uint32_t)r->x->nelements;
}

// "<object type=... >", behind the '<'.
static bool open_element(struct reader *r) {
    struct rdi_xml *x = r->x;
    size_t len;
    char *word = name(r, &len);
    if (!word) {
        return wrong(r, "'<' where no element begins: %.20s", r->at);
    }
    if (r->depth == RDI_XML_DEPTH) {
        return wrong(r, "elements within elements, more than %d deep", RDI_XML_DEPTH);
    }
    if (x->nelements == RDI_XML_ELEMENTS) {
        return wrong(r, "more than %d elements", RDI_XML_ELEMENTS);
    }
    if (!grow(r, (void **)&x->elements, x->nelements, &r->elements_cap, sizeof *x->elements)) {
        return false;
    }
    uint32_t e = (uint32_t)x->nelements++;
    x->elements[e] = (struct rdi_xml_element){
        .name = word,
        .parent = r->depth ? r->open[r->depth - 1] : RDI_XML_NONE,
        .attributes = (uint32_t)x->nattributes,
        .line = r->line,
    };
    r->open[r->depth++] = e;
    char *end = r->at;
    for (;;) {
        bool space = is_space(*r->at);
        skip_space(r);
        bool alone = begins(r, "/>");
        if (alone || *r->at == '>') {
            r->at += alone ? 2 : 1;
            *end = '\0'; // what stood here has been read
            if (alone) {
                close_element(r);
            }
            return true;
        }
        if (*r->at == '\0') {
            return wrong(r, "<%.*s has no end", (int)len, word);
        }
        if (!space) {
            return wrong(r, "%.20s within <%.*s", r->at, (int)len, word);
        }
        if (!attribute(r, e)) {
            return false;
        }
    }
}

// "</object>", behind the "</".
static bool end_element(struct reader *r) {
    size_t len;
    const char *word = name(r, &len);
    skip_space(r);
    if (!word || *r->at != '>') {
        return wrong(r, "'</' without an element's name");
    }
    r->at++;
    const struct rdi_xml_element *e = r->depth ? &r->x->elements[r->open[r->depth - 1]] : NULL;
    if (!e || strlen(e->name) != len || strncmp(e->name, word, len) != 0) {
        return wrong(r, "</%.*s> ends what has not begun", (int)len, word);
    }
    close_element(r);
    return true;
}

// ---- The whole -----------------------------------------------------------------------------------

// "<!...": a comment, or the one line of hwloc that names its DTD, which nobody fetches.
static bool declaration(struct reader *r) {
    if (begins(r, "<!--")) {
        return skip_past(r, "-->", "a comment");
    }
    size_t to = strcspn(r->at, "[>");
    if (!begins(r, "<!DOCTYPE") || r->x->nelements > 0 || r->at[to] != '>') {
        return wrong(r, "definitions (%.12s) have no place in a topology", r->at);
    }
    skip(r, to + 1);
    return true;
}

static bool next(struct reader *r) {
    if (begins(r, "<?xml")) {
        return skip_past(r, "?>", "<?xml");
    }
    if (begins(r, "<!")) {
        return declaration(r);
    }
    if (begins(r, "</")) {
        r->at += 2;
        return end_element(r);
    }
    if (*r->at == '<') {
        if (r->depth == 0 && r->x->nelements > 0) {
            return wrong(r, "a second element beside <%s>", r->x->elements[0].name);
        }
        r->at++;
        return open_element(r);
    }
    if (r->depth == 0 && !is_space(*r->at)) {
        return wrong(r, "text outside of elements: this is no XML");
    }
    skip(r, r->depth ? strcspn(r->at, "<") : 1);
    return true;
}

bool rdi_xml_read(struct rdi_xml *x, const char *text, size_t len, char *why, size_t cap) {
    struct reader r = {.x = x, .line = 1, .why = why, .cap = cap};
    *x = (struct rdi_xml){0};
    bool ok = true;
    if (len == 0) {
        return wrong(&r, "it is empty");
    }
    if (len > RDI_XML_BYTES) {
        snprintf(why, cap, "it has %zu bytes; no topology has more than %zu", len, RDI_XML_BYTES);
        return false;
    }
    if (memchr(text, '\0', len)) {
        snprintf(why, cap, "it has NUL bytes: this is no XML");
        return false;
    }
    x->text = malloc(len + 1);
    if (!x->text) {
        return wrong(&r, "out of memory");
    }
    memcpy(x->text, text, len);
    x->text[len] = '\0';
    r.at = x->text;
    while (ok && *r.at != '\0') {
        ok = next(&r);
    }
    if (ok && (r.depth > 0 || x->nelements == 0)) {
        ok = r.depth > 0 ? wrong(&r, "it ends within <%s> of line %u",
                                 x->elements[r.open[r.depth - 1]].name,
                                 x->elements[r.open[r.depth - 1]].line)
                         : wrong(&r, "it has no element");
    }
    if (!ok) {
        rdi_xml_free(x);
    }
    return ok;
}

void rdi_xml_free(struct rdi_xml *x) {
    free(x->text);
    free(x->elements);
    free(x->attributes);
    *x = (struct rdi_xml){0};
}

const char *rdi_xml_get(const struct rdi_xml *x, uint32_t e, const char *name) {
    for (uint32_t i = 0; i < x->elements[e].count; i++) {
        const struct rdi_xml_attribute *a = &x->attributes[x->elements[e].attributes + i];
        if (strcmp(a->name, name) == 0) {
            return a->value;
        }
    }
    return NULL;
}
