// SPDX-License-Identifier: MIT
// From the text of a topology to its tables.
#include "topo/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Helpers -------------------------------------------------------------------------------------

bool rdi_topo_wrong(struct rdi_topo_reader *r, uint32_t e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = snprintf(r->why, r->cap, "line %u: ", r->x->elements[e].line);
    if (n > 0 && (size_t)n < r->cap) {
        vsnprintf(r->why + n, r->cap - (size_t)n, fmt, ap);
    }
    va_end(ap);
    return false;
}

// What a terminal takes for a command (C0, U+0080 to U+009F), or what is no UTF-8, becomes a '?'. Never longer.
static void make_printable(char *text) {
    char *to = text;
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        size_t n = rdi_utf8_character(s);
        bool bad = n == 0 || *s < 0x20 || *s == 0x7f || (*s == 0xc2 && s[1] < 0xa0);
        n = n > 0 ? n : 1;
        if (bad) {
            *to++ = '?';
        } else {
            memmove(to, s, n);
            to += n;
        }
        s += n;
    }
    *to = '\0';
}

const char *rdi_topo_string(struct rondo_topo *t, const char *text) {
    if (t->nstrings == t->strings_cap) {
        size_t cap = t->strings_cap ? 2 * t->strings_cap : 64;
        char **more = realloc(t->strings, cap * sizeof *more);
        if (!more) {
            t->nomem = true;
            return "";
        }
        t->strings = more;
        t->strings_cap = cap;
    }
    char *copy = strdup(text ? text : "");
    if (!copy) {
        t->nomem = true;
        return "";
    }
    make_printable(copy);
    t->strings[t->nstrings++] = copy;
    return copy;
}

bool rdi_topo_is(const struct rdi_xml *x, uint32_t e, const char *type) {
    const char *is = strcmp(x->elements[e].name, "object") == 0 ? rdi_xml_get(x, e, "type") : NULL;
    return is && strcmp(is, type) == 0;
}

const char *rdi_topo_info(const struct rdi_xml *x, uint32_t e, const char *name) {
    for (uint32_t i = e + 1; i < x->elements[e].end; i = x->elements[i].end) {
        const char *is = strcmp(x->elements[i].name, "info") == 0 ? rdi_xml_get(x, i, "name")
                                                                  : NULL;
        if (is && strcmp(is, name) == 0) {
            return rdi_xml_get(x, i, "value");
        }
    }
    return NULL;
}

bool rdi_topo_number(const char *text, uint64_t max, const char *unit, uint64_t *out) {
    uint64_t v = 0;
    const char *p = text;
    for (; p && *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v)) {
            return false;
        }
    }
    if (p == text || v > max || (*p != '\0' && (!unit || strcmp(p, unit) != 0))) {
        return false;
    }
    *out = v;
    return true;
}

bool rdi_topo_set(struct rdi_topo_reader *r, uint32_t e, const char *name, struct rdi_set *s) {
    const char *text = rdi_xml_get(r->x, e, name);
    memset(s, 0, sizeof *s);
    if (text && !rdi_set_read(s, text)) {
        return rdi_topo_wrong(r, e, "%s=\"%.40s\" is no set of numbers below %d", name, text,
                              RDI_SET_BITS);
    }
    return true;
}

// ---- The whole -----------------------------------------------------------------------------------

// The format's number, from the root.
static bool read_format(struct rdi_topo_reader *r) {
    const struct rdi_xml *x = r->x;
    if (strcmp(x->elements[0].name, "topology") != 0) {
        return rdi_topo_wrong(r, 0, "<%s> is no topology of hwloc, which begins with <topology>",
                              x->elements[0].name);
    }
    const char *version = rdi_xml_get(x, 0, "version");
    if (!version) {
        return rdi_topo_wrong(r, 0,
                              "this is the format of hwloc 1: load and save it with lstopo of "
                              "hwloc 2 (lstopo -i old.xml new.xml)");
    }
    if ((version[0] != '2' && version[0] != '3') || version[1] != '.') {
        return rdi_topo_wrong(r, 0, "format %.20s of hwloc's XML; known are 2 and 3", version);
    }
    r->format = version[0] - '0';
    return true;
}

static bool build(struct rondo_topo *t, const struct rdi_xml *x, const struct rdi_set *only_cpus,
                  const struct rdi_set *only_nodes, char *why, size_t cap) {
    struct rdi_topo_reader r = {.t = t, .x = x, .why = why, .cap = cap};
    if (!read_format(&r) || !rdi_topo_read_machine(&r, only_cpus, only_nodes) ||
        !rdi_topo_read_devices(&r)) {
        return false;
    }
    t->nomem = t->nomem || !rdi_topo_measure(t);
    return true;
}

rondo_status rdi_topo_parse(const char *text, size_t len, const char *name,
                            const struct rdi_set *only_cpus, const struct rdi_set *only_nodes,
                            struct rondo_topo **out) {
    struct rdi_xml x;
    char why[300] = "";
    struct rondo_topo *t = calloc(1, sizeof *t);
    if (!t) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to load the topology %s", name);
    }
    bool ok = rdi_xml_read(&x, text, len, why, sizeof why);
    if (ok) {
        ok = build(t, &x, only_cpus, only_nodes, why, sizeof why);
        rdi_xml_free(&x);
    }
    t->text = ok ? malloc(len) : NULL;
    if (t->text) {
        memcpy(t->text, text, len);
        t->len = len;
    }
    if (ok && !t->nomem && t->text) {
        *out = t;
        return RONDO_OK;
    }
    rondo_topo_free(t);
    make_printable(why);
    return ok ? rdi_fail(RONDO_ERR_NOMEM, "out of memory to load the topology %s", name)
              : rdi_fail(RONDO_ERR_INVALID, "%s is no topology that can be used: %s", name, why);
}
