// SPDX-License-Identifier: MIT
// The description of a cluster, and names of hosts in few words.
//
//   # eight nodes alike, and one that is not
//   node[0-7]  node.xml
//   login      login.xml
#include "topo/show/show.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct line {
    char name[TS_NAME]; // up to the bracket
    char tail[TS_NAME]; // behind it
    unsigned first, last;
    int digits; // that each number has at least
    bool range;
    char file[1024];
};

// ---- Reading -------------------------------------------------------------------------------------

static bool wrong(char *why, size_t cap, unsigned number, const char *what) {
    snprintf(why, cap, "line %u: %s", number, what);
    return false;
}

// "node[00-07]" or "node7".
static bool read_names(const char *word, struct line *l) {
    const char *open = strchr(word, '['), *close = strchr(word, ']');
    size_t n = open ? (size_t)(open - word) : strlen(word);
    *l = (struct line){0};
    if (n == 0 || n > TS_NAME - 24 || (!open && close)) {
        return false;
    }
    memcpy(l->name, word, n);
    if (!open) {
        return true;
    }
    int from = 0, to = 0, end = 0;
    if (sscanf(open, "[%n%6u-%n%6u]%n", &from, &l->first, &to, &l->last, &end) != 2 || end == 0 ||
        open[from] < '0' || open[from] > '9' || open[to] < '0' || open[to] > '9' ||
        l->first > l->last || l->last - l->first >= TS_HOSTS) {
        return false;
    }
    const char *tail = open + end;
    l->digits = to - from - 1;
    l->range = true;
    return strlen(tail) < TS_NAME - 24 - n && !strpbrk(tail, "[]") &&
           snprintf(l->tail, sizeof l->tail, "%s", tail) >= 0;
}

static bool add_hosts(struct ts_options *o, const struct line *l, const char *file) {
    for (unsigned i = l->first; i <= l->last; i++) {
        char name[2 * TS_NAME + 16];
        if (l->range) {
            snprintf(name, sizeof name, "%s%0*u%s", l->name, l->digits, i, l->tail);
        } else {
            snprintf(name, sizeof name, "%s", l->name);
        }
        if (o->n == TS_HOSTS || !ts_source_add(o, name, strlen(name), file)) {
            return false;
        }
    }
    return true;
}

// The file's name seen from here: names in a cluster file are relative to it.
static char *beside(const char *path, const char *file) {
    const char *slash = strrchr(path, '/');
    size_t n = slash && file[0] != '/' ? (size_t)(slash + 1 - path) : 0;
    char *out = malloc(n + strlen(file) + 1);
    if (out) {
        memcpy(out, path, n);
        memcpy(out + n, file, strlen(file) + 1);
    }
    return out;
}

// One line with a NUL at its end.
static bool read_one(struct ts_options *o, const char *path, char *text, unsigned number, char *why,
                     size_t cap) {
    struct line l;
    text[strcspn(text, "#\r")] = '\0';
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        // They would come out again on a terminal, in names and errors.
        if ((*c < ' ' && *c != '\t') || *c >= 0x7f) {
            return wrong(why, cap, number, "a character that is not ASCII, or controls a terminal");
        }
    }
    char *rest = NULL, *word = strtok_r(text, " \t", &rest);
    char *file = word ? strtok_r(NULL, " \t", &rest) : NULL;
    if (!word) {
        return true;
    }
    if (!file || strtok_r(NULL, " \t", &rest)) {
        return wrong(why, cap, number, "a line is \"NAME FILE\" or \"NAME[0-7] FILE\"");
    }
    if (!read_names(word, &l)) {
        return wrong(why, cap, number,
                     "names of hosts are one name, or one with numbers such as node[0-7]");
    }
    char *full = beside(path, file);
    bool ok = full && add_hosts(o, &l, full);
    free(full);
    return ok || wrong(why, cap, number, "too many hosts: 4096 at most, or memory ran out");
}

bool ts_cluster_read(struct ts_options *o, const char *path, const char *text, size_t len,
                     char *why, size_t cap) {
    size_t before = o->n;
    unsigned number = 1;
    if (memchr(text, '\0', len)) {
        return wrong(why, cap, 1, "this is no text");
    }
    for (size_t at = 0; at < len; number++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end - (text + at)) : len - at;
        char line[1024];
        if (n >= sizeof line) {
            return wrong(why, cap, number, "longer than 1023 characters");
        }
        memcpy(line, text + at, n);
        line[n] = '\0';
        if (!read_one(o, path, line, number, why, cap)) {
            return false;
        }
        at += n + 1;
    }
    return o->n > before || wrong(why, cap, number, "no host in this file");
}

// ---- Writing -------------------------------------------------------------------------------------

// A name's number at its end; 0 digits: it has none, or one that another would be written as.
static size_t digits_of(const char *name, unsigned *number) {
    size_t len = strlen(name), n = 0;
    while (n < len && name[len - n - 1] >= '0' && name[len - n - 1] <= '9') {
        n++;
    }
    *number = n > 0 && n < 9 ? (unsigned)strtoul(name + len - n, NULL, 10) : 0;
    return n < 9 ? n : 0;
}

// b is what a is but for the number at the end, of as many digits.
static bool alike(const char *a, const char *b) {
    unsigned x, y;
    size_t n = digits_of(a, &x), m = digits_of(b, &y);
    return n > 0 && n == m && strlen(a) == strlen(b) && strncmp(a, b, strlen(a) - n) == 0;
}

void ts_fold(struct rdi_text *out, const char *const *names, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        while (end < n && alike(names[i], names[end])) {
            end++;
        }
        rdi_text_add(out, "%s", i ? ", " : "");
        if (end == i + 1) {
            rdi_text_add(out, "%s", names[i++]);
            continue;
        }
        unsigned number, last;
        size_t digits = digits_of(names[i], &number);
        rdi_text_add(out, "%.*s[", (int)(strlen(names[i]) - digits), names[i]);
        for (size_t first = i; i < end; first = i) {
            digits_of(names[i], &last);
            for (i++; i < end; i++) {
                digits_of(names[i], &number);
                if (number != last + 1) {
                    break;
                }
                last = number;
            }
            digits_of(names[first], &number);
            rdi_text_add(out, "%0*u", (int)digits, number);
            if (last != number) {
                rdi_text_add(out, "-%0*u", (int)digits, last);
            }
            rdi_text_add(out, "%s", i < end ? "," : "");
        }
        rdi_text_add(out, "]");
    }
}
