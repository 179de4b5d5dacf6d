// SPDX-License-Identifier: MIT
// A picture as SVG 1.1, written directly: words stay words, which can be searched and need no font here, and the same
// picture is the same bytes wherever it is made.
#include "topo/show/draw.h"

#include <string.h>

#define FONT "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"

// ---- Looks, for the PNG, too ---------------------------------------------------------------------

// The colours of Okabe and Ito, which all can tell apart; each ring has its number beside it, too.
static const unsigned colours[] = {0x0072b2, 0xe69f00, 0x009e73, 0xcc79a7,
                                   0x56b4e9, 0xd55e00, 0x000000, 0xf0e442};
#define COLOURS (int)(sizeof colours / sizeof colours[0])

unsigned td_ring_colour(int ring) { return ring < 0 ? 0x777777 : colours[ring % COLOURS]; }

// Yellow is not seen on white without a border.
unsigned td_ring_edge(int ring) {
    return td_ring_colour(ring) == 0xf0e442 ? 0x8a8000 : td_ring_colour(ring);
}

unsigned td_arrow_colour(const struct td_line *l) {
    return l->ring < 0 ? td_stroke_of(l).colour : td_ring_edge(l->ring);
}

unsigned td_ring_ink(int ring) {
    unsigned c = td_ring_colour(ring);
    unsigned grey = 30 * (c >> 16) + 59 * (c >> 8 & 255) + 11 * (c & 255);
    return grey > 13500 ? 0x000000 : TD_WHITE;
}

int td_dot_size(const struct td_dot *d) {
    return d->r + (d->number < 10 ? 3 : d->number < 100 ? 1 : -1);
}

struct td_paint td_paint_of(const struct td_box *b) {
    static const struct td_paint all[TD_KINDS] = {
        [TD_SHEET] = {0xffffff, 0, true, false, false, 0},
        [TD_HOST] = {0xffffff, 0x333333, true, true, false, 6},
        [TD_PACKAGE] = {0xf3f3f3, 0xaaaaaa, true, true, false, 4},
        [TD_NUMA] = {0xe6eef5, 0x8aa4bc, true, true, false, 4},
        [TD_ELSEWHERE] = {0xffffff, 0x8aa4bc, true, true, true, 4},
        [TD_CACHE] = {0xffffff, 0xa9b8c6, true, true, false, 2},
        [TD_CORE] = {0xbccbd8, 0xbccbd8, true, true, false, 1},
        [TD_BRIDGE] = {0xfbf9f4, 0xb9ad90, true, true, false, 3},
        [TD_GPU] = {0xdcebd8, 0x5d8a55, true, true, false, 3},
        [TD_NIC] = {0xfdf0d0, 0xa88434, true, true, false, 3},
        [TD_RANK] = {0x333333, 0, true, false, false, 8},
        [TD_CARD] = {0xf3f3f3, 0x333333, true, true, false, 6},
        [TD_KEY] = {0xffffff, 0xcccccc, true, true, false, 4},
    };
    struct td_paint p = all[b->kind];
    if (b->dark) {
        p.fill = p.stroke = 0x333333;
    } else if (b->faint) {
        p.fill = b->kind == TD_CORE ? 0xffffff : 0xf0f0f0;
        p.stroke = b->kind == TD_CORE ? p.stroke : 0xaaaaaa;
        p.dashed = b->kind != TD_CORE;
    }
    return p;
}

struct td_stroke td_stroke_of(const struct td_line *l) {
    struct td_stroke s = {.colour = td_ring_colour(l->ring), .width = 2, .edge_colour = TD_WHITE};
    switch (l->look) {
    case TD_RAIL:
        s.width = 2.5;
        s.edge = 4; // lines that cross are told apart
        s.dashes = l->ring >= COLOURS ? "9 3" : NULL;
        break;
    case TD_USE:
    case TD_USE_FAR:
        s.edge = 4;
        s.dashes = l->look == TD_USE_FAR ? "4 3" : NULL;
        break;
    case TD_WAY:
        s.width = 1.5;
        break;
    case TD_GUIDE:
        s.width = 1;
        s.colour = 0xb8c4cf;
        break;
    }
    if (td_ring_edge(l->ring) != s.colour && l->ring >= 0) {
        s.edge = s.width + 1.2;
        s.edge_colour = td_ring_edge(l->ring);
    }
    return s;
}

// ---- Writing -------------------------------------------------------------------------------------

static void words(struct rdi_text *out, const char *s) {
    while (*s != '\0') {
        size_t n = strcspn(s, "<&>");
        rdi_text_add(out, "%.*s", (int)n, s);
        s += n;
        if (*s != '\0') {
            rdi_text_add(out, *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : "&amp;");
            s++;
        }
    }
}

static void box(struct rdi_text *out, const struct td_box *b) {
    static const char *const names[TD_KINDS] = {"sheet", "host", "package", "numa", "elsewhere",
                                                "cache", "core", "bridge",  "gpu",  "nic",
                                                "rank",  "card", "key"};
    struct td_paint p = td_paint_of(b);
    rdi_text_add(out, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"",
                 names[b->kind], b->x, b->y, b->w, b->h);
    if (p.round) {
        rdi_text_add(out, " rx=\"%d\"", p.round);
    }
    rdi_text_add(out, " fill=\"#%06x\"", p.fill);
    if (p.stroked) {
        rdi_text_add(out, " stroke=\"#%06x\"", p.stroke);
    }
    rdi_text_add(out, "%s", p.dashed ? " stroke-dasharray=\"4 3\"" : "");
    if (b->tip) {
        rdi_text_add(out, "><title>");
        words(out, b->tip);
        rdi_text_add(out, "</title></rect>\n");
    } else {
        rdi_text_add(out, "/>\n");
    }
}

static void path(struct rdi_text *out, const struct td_line *l, struct td_point end) {
    rdi_text_add(out, " d=\"M%d %d", l->at[0].x, l->at[0].y);
    for (int i = 1; i < l->n; i++) {
        struct td_point at = i + 1 < l->n ? l->at[i] : end;
        rdi_text_add(out, "L%d %d", at.x, at.y);
    }
    rdi_text_add(out, "\"");
}

static void edge(struct rdi_text *out, const struct td_line *l) {
    struct td_stroke s = td_stroke_of(l);
    struct td_point head[3] = {{0}}, end = l->at[l->n - 1];
    if (l->arrow) {
        td_arrow(l, head, &end);
    }
    if (s.edge > 0) {
        rdi_text_add(out, "<path");
        path(out, l, end);
        rdi_text_add(out, " stroke=\"#%06x\" stroke-width=\"%g\"/>\n", s.edge_colour, s.edge);
    }
}

static void line(struct rdi_text *out, const struct td_line *l) {
    static const char *const names[] = {"rail", "use", "use far", "way", "guide"};
    struct td_stroke s = td_stroke_of(l);
    struct td_point head[3] = {{0}}, end = l->at[l->n - 1];
    if (l->arrow) {
        td_arrow(l, head, &end);
    }
    rdi_text_add(out, "<path class=\"%s\"", l->key ? "key" : names[l->look]);
    if (l->ring >= 0 && !l->key) {
        rdi_text_add(out, " data-ring=\"%d\"", l->ring);
    }
    path(out, l, end);
    rdi_text_add(out, " stroke=\"#%06x\" stroke-width=\"%g\"", s.colour, s.width);
    if (s.dashes) {
        rdi_text_add(out, " stroke-dasharray=\"%s\"", s.dashes);
    }
    rdi_text_add(out, "/>\n");
    if (l->arrow) {
        rdi_text_add(out, "<path d=\"M%d %dL%d %dL%d %dz\" fill=\"#%06x\"/>\n", head[0].x,
                     head[0].y, head[1].x, head[1].y, head[2].x, head[2].y, td_arrow_colour(l));
    }
}

static void lines(struct rdi_text *out, const struct td_picture *p) {
    for (size_t i = 0, end; i < p->nlines; i = end) {
        end = td_group_end(p, i);
        for (size_t k = i; k < end; k++) {
            edge(out, &p->lines[k]);
        }
        for (size_t k = i; k < end; k++) {
            line(out, &p->lines[k]);
        }
    }
}

static void dot(struct rdi_text *out, const struct td_dot *d) {
    unsigned colour = td_ring_colour(d->ring);
    int size = td_dot_size(d);
    rdi_text_add(out,
                 "<circle cx=\"%d\" cy=\"%d\" r=\"%d\" fill=\"#%06x\" stroke=\"#%06x\" "
                 "stroke-width=\"1.5\"/>",
                 d->x, d->y, d->r, d->hollow ? TD_WHITE : colour, td_ring_edge(d->ring));
    rdi_text_add(out,
                 "<text x=\"%d\" y=\"%g\" font-size=\"%d\" text-anchor=\"middle\" "
                 "fill=\"#%06x\">%d</text>\n",
                 d->x, d->y + size * 0.36, size, d->hollow ? TD_INK : td_ring_ink(d->ring),
                 d->number);
}

static void text(struct rdi_text *out, const struct td_picture *p, const struct td_text *t) {
    rdi_text_add(out, "<text x=\"%d\" y=\"%d\" font-size=\"%d\"%s fill=\"#%06x\">",
                 p->boxes[t->box].x + t->dx, p->boxes[t->box].y + t->dy, t->size,
                 t->bold ? " font-weight=\"bold\"" : "", t->colour);
    words(out, t->words);
    rdi_text_add(out, "</text>\n");
}

void td_svg(struct rdi_text *out, const struct td_picture *p) {
    int w = p->boxes[0].w, h = p->boxes[0].h;
    rdi_text_add(out,
                 "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg "
                 "xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                 "viewBox=\"0 0 %d %d\" font-family=\"" FONT "\">\n",
                 w, h, w, h);
    for (size_t i = 0; i < p->nboxes; i++) {
        box(out, &p->boxes[i]);
    }
    // The pointer sees through what lies over a box.
    rdi_text_add(out, "<g pointer-events=\"none\">\n<g fill=\"none\" stroke-linejoin=\"round\">\n");
    lines(out, p);
    rdi_text_add(out, "</g>\n");
    for (size_t i = 0; i < p->ndots; i++) {
        dot(out, &p->dots[i]);
    }
    for (size_t i = 0; i < p->ntexts; i++) {
        text(out, p, &p->texts[i]);
    }
    rdi_text_add(out, "</g>\n</svg>\n");
}
