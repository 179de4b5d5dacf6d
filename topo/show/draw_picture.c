// SPDX-License-Identifier: MIT
// The parts of a picture, and how wide words are.
#include "topo/show/draw.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Memory --------------------------------------------------------------------------------------

static void *more(struct td_picture *p, void *old, size_t n, size_t *cap, size_t size) {
    if (n < *cap) {
        return old;
    }
    size_t want = *cap ? 2 * *cap : 64;
    void *got = p->failed || want > SIZE_MAX / size ? NULL : realloc(old, want * size);
    p->failed = p->failed || !got;
    *cap = got ? want : *cap;
    return got ? got : old;
}

// Room for one more in an array of p; false: out of memory.
#define GROW(p, array, count, capacity)                                                  \
    ((p)->array = more((p), (p)->array, (p)->count, &(p)->capacity, sizeof *(p)->array), \
     (p)->count < (p)->capacity)

void td_free(struct td_picture *p) {
    for (size_t i = 0; i < p->nstrings; i++) {
        free(p->strings[i]);
    }
    free(p->strings);
    free(p->boxes);
    free(p->texts);
    free(p->lines);
    free(p->dots);
    *p = (struct td_picture){0};
}

static size_t character(const char *s) {
    size_t n = rdi_utf8_character((const unsigned char *)s);
    return n ? n : 1;
}

// Numbers that Unicode gives to no character, for ever: neither XML nor Cairo takes them.
static bool is_no_character(const unsigned char *u, size_t n) {
    if (n == 3) {
        return u[0] == 0xef && ((u[1] == 0xbf && u[2] >= 0xbe) ||               // U+FFFE, U+FFFF
                                (u[1] == 0xb7 && u[2] >= 0x90 && u[2] < 0xb0)); // U+FDD0 to U+FDEF
    }
    return n == 4 && (u[1] & 15) == 15 && u[2] == 0xbf && u[3] >= 0xbe; // U+1FFFE and so on
}

// What cannot be drawn: no UTF-8, no character, or one that controls, but for the end of a line.
static bool is_wrong(const char *s) {
    const unsigned char *u = (const unsigned char *)s;
    size_t n = rdi_utf8_character(u);
    return n == 0 || (*u < ' ' && *u != '\n') || *u == 0x7f || (*u == 0xc2 && u[1] < 0xa0) ||
           is_no_character(u, n);
}

static void clean(char *s) {
    for (size_t n; *s != '\0'; s += n) {
        n = character(s);
        if (is_wrong(s)) {
            memset(s, '?', n);
        }
    }
}

// A string in a block of memory of its own, NULL when there was none for it.
static const char *own(struct td_picture *p, char *words) {
    if (!words || !GROW(p, strings, nstrings, string_cap)) {
        p->failed = true;
        free(words);
        return "";
    }
    clean(words);
    return p->strings[p->nstrings++] = words;
}

const char *td_keep(struct td_picture *p, struct rdi_text *words) {
    char *copy = words->failed ? NULL : strdup(words->buf ? words->buf : "");
    rdi_text_free(words);
    return own(p, copy);
}

const char *td_say(struct td_picture *p, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *words = n < 0 ? NULL : malloc((size_t)n + 1);
    if (words) {
        vsnprintf(words, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    va_end(ap);
    return own(p, words);
}

// ---- Parts ---------------------------------------------------------------------------------------

int td_box(struct td_picture *p, enum td_kind kind, int parent, int x, int y, int w, int h) {
    if (!GROW(p, boxes, nboxes, box_cap)) {
        return -1;
    }
    p->boxes[p->nboxes] =
        (struct td_box){.kind = kind, .parent = parent, .x = x, .y = y, .w = w, .h = h};
    return (int)p->nboxes++;
}

struct td_box *td_at(struct td_picture *p, int box) {
    static _Thread_local struct td_box nobody;
    nobody = (struct td_box){.parent = -1};
    return box < 0 || (size_t)box >= p->nboxes ? &nobody : &p->boxes[box];
}

struct td_line *td_line(struct td_picture *p, enum td_look look, int ring, bool arrow) {
    static _Thread_local struct td_line nobody;
    nobody = (struct td_line){0};
    if (!GROW(p, lines, nlines, line_cap)) {
        return &nobody;
    }
    p->lines[p->nlines] = (struct td_line){.look = look, .ring = ring, .arrow = arrow};
    return &p->lines[p->nlines++];
}

void td_point(struct td_line *l, int x, int y) {
    if (l->n < TD_POINTS) {
        l->at[l->n++] = (struct td_point){x, y};
    }
}

void td_dot(struct td_picture *p, int x, int y, int r, int ring, bool hollow, int number) {
    if (GROW(p, dots, ndots, dot_cap)) {
        p->dots[p->ndots++] = (struct td_dot){x, y, r, ring, hollow, number};
    }
}

size_t td_group_end(const struct td_picture *p, size_t first) {
    size_t i = first + 1;
    while (i < p->nlines && p->lines[i].group != 0 && p->lines[i].group == p->lines[first].group) {
        i++;
    }
    return i;
}

static int towards(int from, int to) { return (to > from) - (to < from); }

void td_arrow(const struct td_line *l, struct td_point head[3], struct td_point *end) {
    struct td_point a = l->at[l->n - 2], b = l->at[l->n - 1];
    int dx = towards(a.x, b.x), dy = towards(a.y, b.y);
    int length = l->look == TD_RAIL ? 9 : 5, half = l->look == TD_RAIL ? 5 : 3;
    *end = (struct td_point){b.x - dx * length, b.y - dy * length};
    head[0] = b;
    head[1] = (struct td_point){end->x + dy * half, end->y + dx * half};
    head[2] = (struct td_point){end->x - dy * half, end->y - dx * half};
}

// ---- Words ---------------------------------------------------------------------------------------

// Thousandths of the size, from ' ' to '~': DejaVu Sans and its bold, wider than what else is common for screens.
static const uint16_t plain_width[95] = {
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361,  318, 337, 636, 636, 636,
    636, 636, 636, 636, 636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632,
    575, 775, 752, 295, 295, 656, 557, 863, 748, 787, 603, 787, 695, 635,  611, 732, 684, 989, 685,
    611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635, 615, 352,  635, 634, 278, 278, 579,
    278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592,  525, 636, 337, 636, 838};
static const uint16_t bold_width[95] = {
    348,  456, 521, 838, 696, 1002, 872, 306,  457, 457, 523, 838, 380, 415,  380, 365,
    696,  696, 696, 696, 696, 696,  696, 696,  696, 696, 400, 400, 838, 838,  838, 580,
    1000, 774, 762, 734, 830, 683,  683, 821,  837, 372, 372, 775, 637, 995,  837, 850,
    733,  850, 770, 720, 682, 812,  774, 1103, 771, 724, 725, 457, 365, 457,  838, 500,
    500,  675, 716, 593, 716, 678,  435, 716,  712, 343, 343, 665, 343, 1042, 712, 687,
    716,  716, 493, 595, 478, 712,  652, 924,  645, 652, 582, 712, 365, 712,  838};

static int thousandths(const char *s, bool bold) {
    unsigned char c = (unsigned char)*s;
    return c < ' ' || c > '~' ? 1000 : bold ? bold_width[c - ' '] : plain_width[c - ' '];
}

int td_width(const char *words, size_t len, int size, bool bold) {
    int64_t sum = 0;
    for (size_t i = 0; i < len && words[i] != '\0'; i += character(words + i)) {
        sum += thousandths(words + i, bold);
    }
    sum = (sum * size + 999) / 1000;
    return sum > INT32_MAX / 4 ? INT32_MAX / 4 : (int)sum;
}

// As much as fits, with an ellipsis where it was cut; NULL: not even that.
static const char *fit(struct td_picture *p, const char *words, int size, bool bold, int room) {
    if (td_width(words, SIZE_MAX, size, bold) <= room) {
        return words;
    }
    int64_t sum = 1000, most = (int64_t)room * 1000 / size; // the ellipsis first
    size_t n = 0;
    for (; words[n] != '\0' && sum + thousandths(words + n, bold) <= most;
         n += character(words + n)) {
        sum += thousandths(words + n, bold);
    }
    while (n > 0 && (words[n - 1] == ' ' || words[n - 1] == ',')) {
        n--;
    }
    return n == 0 ? NULL : td_say(p, "%.*s\u2026", (int)n, words);
}

static bool is_clean(const char *s) {
    while (*s != '\0' && !is_wrong(s)) {
        s += character(s);
    }
    return *s == '\0';
}

static int put(struct td_picture *p, const struct td_text *t) {
    int width = td_width(t->words, SIZE_MAX, t->size, t->bold);
    if (t->words[0] != '\0' && GROW(p, texts, ntexts, text_cap)) {
        p->texts[p->ntexts] = *t;
        p->texts[p->ntexts++].width = width;
    }
    return width;
}

int td_write(struct td_picture *p, int box, int dx, int dy, int size, bool bold, int room,
             const char *words) {
    words = is_clean(words) ? words : td_say(p, "%s", words);
    const char *some = fit(p, words, size, bold, room);
    struct td_text t = {.box = box, .dx = dx, .dy = dy, .size = size, .bold = bold};
    t.words = some;
    t.colour = bold ? TD_INK : TD_SOFT;
    return some && box >= 0 ? put(p, &t) : 0;
}

void td_centre(struct td_picture *p, int box, int dx, int dy, int size, int room, unsigned colour,
               const char *words) {
    words = is_clean(words) ? words : td_say(p, "%s", words);
    const char *some = fit(p, words, size, false, room);
    if (some && box >= 0) {
        int spare = room - td_width(some, SIZE_MAX, size, false);
        struct td_text t = {.box = box, .dx = dx + spare / 2, .dy = dy, .size = size};
        t.words = some;
        t.colour = colour;
        put(p, &t);
    }
}
