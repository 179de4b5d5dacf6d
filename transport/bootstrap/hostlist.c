// SPDX-License-Identifier: MIT
// Lists of hosts: one parser that looks at one entry after the other.
//
//   list     = group *( "," group )            rack[01-02]node[3,5-6]-ib0,login
//   group    = 1*( text / "[" range *( "," range ) "]" )
//   range    = number [ "-" number ]           a first number of n digits begins with zeros up to n digits
//
// The last bracket of a group runs fastest, as scontrol show hostnames does.
#include "transport/bootstrap/hostlist.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define PIECES_MAX 16 // texts and brackets of one group
#define DIGITS_MAX 9

struct parser {
    const char *text, *at;
};

// Either text, or the inside of a bracket.
struct piece {
    const char *from;
    size_t len;
    size_t hosts; // 0: text
};

struct group {
    struct piece pieces[PIECES_MAX];
    size_t n, hosts;
    size_t longest; // name
};

struct range {
    size_t low, high;
    int width;
};

static rondo_status wrong(const struct parser *p, const char *what) {
    char found[16] = "the end";
    unsigned char c = (unsigned char)*p->at;
    if (c != '\0') {
        snprintf(found, sizeof found, isgraph(c) && c < 128 ? "'%c'" : "byte 0x%02x", c);
    }
    return rdi_fail(RONDO_ERR_INVALID, "%s at character %zu, where %s is", what,
                    (size_t)(p->at - p->text) + 1, found);
}

static bool in_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("._-:%", c) != NULL);
}

static struct piece parse_text(struct parser *p) {
    struct piece piece = {.from = p->at};
    while (in_name(*p->at)) {
        p->at++;
    }
    piece.len = (size_t)(p->at - piece.from);
    return piece;
}

// ---- Slurm's and Flux's lists -------------------------------------------------------------------

static rondo_status parse_number(struct parser *p, size_t *number, int *digits) {
    *number = 0;
    for (*digits = 0; *p->at >= '0' && *p->at <= '9'; p->at++) {
        if (++*digits > DIGITS_MAX) {
            return wrong(p, "a number of more than 9 digits");
        }
        *number = *number * 10 + (size_t)(*p->at - '0');
    }
    return *digits > 0 ? RONDO_OK : wrong(p, "a number is missing");
}

static rondo_status parse_range(struct parser *p, struct range *r) {
    rondo_status s = parse_number(p, &r->low, &r->width);
    r->high = r->low;
    if (s != RONDO_OK || *p->at != '-') {
        return s;
    }
    const struct parser second = {p->text, ++p->at};
    int digits;
    s = parse_number(p, &r->high, &digits);
    if (s == RONDO_OK && r->high < r->low) {
        s = wrong(&second, "a range that ends before it begins");
    } else if (s == RONDO_OK && digits != r->width && *second.at == '0') {
        s = wrong(&second, "a range whose ends have zeros of different widths");
    }
    return s;
}

static rondo_status parse_bracket(struct parser *p, struct group *g) {
    const struct parser open = *p;
    struct piece piece = {.from = ++p->at};
    size_t longest = 0;
    for (;;) {
        struct range r;
        rondo_status s = parse_range(p, &r);
        if (s != RONDO_OK) {
            return s;
        }
        int digits = snprintf(NULL, 0, "%zu", r.high);
        size_t width = (size_t)(digits > r.width ? digits : r.width);
        longest = width > longest ? width : longest;
        if (r.high - r.low >= RDI_HOSTS_MAX) {
            return wrong(&open, "more than 1048576 hosts in the bracket");
        }
        piece.hosts += r.high - r.low + 1;
        if (piece.hosts > RDI_HOSTS_MAX || piece.hosts * g->hosts > RDI_HOSTS_MAX) {
            return wrong(&open, "more than 1048576 hosts up to the bracket");
        }
        if (*p->at != ',') {
            break;
        }
        p->at++;
    }
    if (*p->at != ']') {
        return wrong(p, "a ',' or ']' is missing");
    }
    piece.len = (size_t)(p->at++ - piece.from);
    g->hosts *= piece.hosts;
    g->longest += longest;
    g->pieces[g->n++] = piece;
    return RONDO_OK;
}

static rondo_status parse_group(struct parser *p, struct group *g) {
    const struct parser begin = *p;
    *g = (struct group){.hosts = 1};
    while (*p->at == '[' || in_name(*p->at)) {
        rondo_status s = RONDO_OK;
        if (g->n == PIECES_MAX) {
            return wrong(p, "more than 16 parts of a name");
        }
        if (*p->at == '[') {
            s = parse_bracket(p, g);
        } else {
            g->pieces[g->n] = parse_text(p);
            g->longest += g->pieces[g->n++].len;
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    if (*p->at == ',' && g->n > 0 && p->at[1] == '\0') {
        p->at++; // the name after it is missing
        g->n = 0;
    }
    if (g->n == 0) {
        return wrong(p, "a host's name is missing");
    }
    if (*p->at != ',' && *p->at != '\0') {
        return wrong(p, "no character of a host's name");
    }
    p->at += *p->at == ',';
    return g->longest < RDI_HOST_NAME ? RONDO_OK : wrong(&begin, "a name of more than 255 bytes");
}

// Number i of a bracket that was parsed.
static int number_of(const struct piece *piece, size_t i, char *out, size_t cap) {
    struct parser p = {piece->from, piece->from};
    struct range r = {0};
    while (parse_range(&p, &r) == RONDO_OK && i > r.high - r.low) {
        i -= r.high - r.low + 1;
        p.at++; // the comma
    }
    return snprintf(out, cap, "%0*zu", r.width, r.low + i);
}

static rondo_status host_of(const struct group *g, size_t i, char *out, size_t cap) {
    size_t place[PIECES_MAX] = {0}, used = 0;
    for (size_t k = g->n; k-- > 0;) {
        if (g->pieces[k].hosts > 0) {
            place[k] = i % g->pieces[k].hosts;
            i /= g->pieces[k].hosts;
        }
    }
    for (size_t k = 0; k < g->n && used < cap; k++) {
        const struct piece *piece = &g->pieces[k];
        used += (size_t)(piece->hosts > 0 ? number_of(piece, place[k], out + used, cap - used)
                                          : snprintf(out + used, cap - used, "%.*s",
                                                     (int)piece->len, piece->from));
    }
    return used < cap ? RONDO_OK
                      : rdi_fail(RONDO_ERR_INVALID, "a host's name of more than %zu bytes",
                                 cap > 0 ? cap - 1 : 0);
}

// ---- LSF's pairs, PBS's lines -------------------------------------------------------------------

static rondo_status parse_name(struct parser *p, struct group *g) {
    const struct parser begin = *p;
    *g = (struct group){.n = 1, .hosts = 1, .pieces = {parse_text(p)}};
    if (g->pieces[0].len == 0) {
        return wrong(p, "a host's name is missing");
    }
    return g->pieces[0].len < RDI_HOST_NAME ? RONDO_OK
                                            : wrong(&begin, "a name of more than 255 bytes");
}

static rondo_status parse_pair(struct parser *p, struct group *g) {
    int digits;
    rondo_status s = parse_name(p, g);
    if (s == RONDO_OK && *p->at != ' ') {
        s = wrong(p, "a blank before the number of slots is missing");
    }
    if (s != RONDO_OK) {
        return s;
    }
    p->at += strspn(p->at, " ");
    const struct parser number = *p;
    s = parse_number(p, &g->hosts, &digits);
    if (s == RONDO_OK && (g->hosts == 0 || g->hosts > RDI_HOSTS_MAX)) {
        s = wrong(&number, "a number of slots that is not 1 to 1048576");
    } else if (s == RONDO_OK && *p->at != ' ' && *p->at != '\0') {
        s = wrong(p, "no digit");
    }
    p->at += strspn(p->at, " ");
    return s;
}

static rondo_status parse_line(struct parser *p, struct group *g) {
    rondo_status s = parse_name(p, g);
    if (s == RONDO_OK && *p->at != '\n' && *p->at != '\0') {
        s = wrong(p, "no character of a host's name");
    }
    p->at += strspn(p->at, "\n");
    return s;
}

// ---- One entry after the other ------------------------------------------------------------------

static rondo_status parse_next(enum rdi_hosts_form form, struct parser *p, struct group *g) {
    return form == RDI_HOSTS_LIST    ? parse_group(p, g)
           : form == RDI_HOSTS_SLOTS ? parse_pair(p, g)
                                     : parse_line(p, g);
}

rondo_status rdi_hosts_count(enum rdi_hosts_form form, const char *text, size_t *count) {
    struct parser p = {text, text};
    struct group g;
    size_t n = 0;
    do {
        const struct parser begin = p;
        rondo_status s = parse_next(form, &p, &g);
        if (s != RONDO_OK) {
            return s;
        }
        n += g.hosts;
        if (n > RDI_HOSTS_MAX) {
            return wrong(&begin, "more than 1048576 hosts");
        }
    } while (*p.at != '\0');
    *count = n;
    return RONDO_OK;
}

// The group that has entry *i, which becomes its number there.
static rondo_status find(enum rdi_hosts_form form, const char *text, size_t *i, struct group *g) {
    struct parser p = {text, text};
    do {
        rondo_status s = parse_next(form, &p, g);
        if (s != RONDO_OK) {
            return s;
        }
        if (*i < g->hosts) {
            return RONDO_OK;
        }
        *i -= g->hosts;
    } while (*p.at != '\0');
    return rdi_fail(RONDO_ERR_INVALID, "a list that is too short by %zu", *i + 1);
}

rondo_status rdi_hosts_at(enum rdi_hosts_form form, const char *text, size_t i, char *out,
                          size_t cap) {
    struct group g;
    rondo_status s = find(form, text, &i, &g);
    return s == RONDO_OK ? host_of(&g, i, out, cap) : s;
}

rondo_status rdi_hosts_beside(enum rdi_hosts_form form, const char *text, size_t i, size_t *before,
                              size_t *all) {
    struct group mine, g;
    size_t begin = i, at = 0;
    rondo_status s = find(form, text, &begin, &mine);
    begin = i - begin; // of the group
    *before = *all = 0;
    struct parser p = {text, text};
    while (s == RONDO_OK && *p.at != '\0') {
        s = parse_next(form, &p, &g);
        if (s == RONDO_OK && g.pieces[0].len == mine.pieces[0].len &&
            memcmp(g.pieces[0].from, mine.pieces[0].from, g.pieces[0].len) == 0) {
            *all += g.hosts;
            *before += at < begin ? g.hosts : at == begin ? i - begin : 0;
        }
        at += g.hosts;
    }
    return s;
}

// ---- Slurm's numbers of tasks -------------------------------------------------------------------

rondo_status rdi_tasks_on_node(const char *text, size_t i, int *tasks) {
    struct parser p = {text, text};
    for (;;) {
        size_t n, times = 1;
        int digits;
        rondo_status s = parse_number(&p, &n, &digits);
        if (s == RONDO_OK && strncmp(p.at, "(x", 2) == 0) {
            p.at += 2;
            s = parse_number(&p, &times, &digits);
            if (s == RONDO_OK && *p.at != ')') {
                s = wrong(&p, "a ')' is missing");
            }
            p.at += s == RONDO_OK;
        }
        if (s != RONDO_OK) {
            return s;
        }
        if (i < times) {
            *tasks = (int)n;
            return RONDO_OK;
        }
        i -= times;
        if (*p.at != ',') {
            return *p.at == '\0'
                       ? rdi_fail(RONDO_ERR_INVALID, "a list that is too short by %zu nodes", i + 1)
                       : wrong(&p, "a ',' is missing");
        }
        p.at++;
    }
}
