// SPDX-License-Identifier: MIT
// A picture as PNG, by Cairo, which is loaded at run time: the command starts, and writes SVG, where it is not
// installed. Its interface has been the same since version 1.0; the few functions of it are declared here.
#include "topo/show/draw.h"

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libcairo.so.2"
#define RGB24 1
#define LINE_JOIN_ROUND 1
#define WRITE_ERROR 11
#define MOST 32767 // pixels that Cairo allows in each direction
#define SHARP 2    // pixels for one of the picture's, where there is room

struct extents {
    double x_bearing, y_bearing, width, height, x_advance, y_advance;
};

typedef int sink(void *closure, const unsigned char *data, unsigned length);

static struct cairo {
    void *(*image_surface_create)(int format, int w, int h);
    void *(*create)(void *surface);
    int (*status)(void *cr);
    const char *(*status_to_string)(int status);
    void (*scale)(void *cr, double x, double y);
    void (*set_source_rgb)(void *cr, double r, double g, double b);
    void (*set_line_width)(void *cr, double w);
    void (*set_line_join)(void *cr, int join);
    void (*set_dash)(void *cr, const double *dashes, int n, double offset);
    void (*new_path)(void *cr);
    void (*move_to)(void *cr, double x, double y);
    void (*line_to)(void *cr, double x, double y);
    void (*arc)(void *cr, double x, double y, double r, double from, double to);
    void (*close_path)(void *cr);
    void (*fill_preserve)(void *cr);
    void (*stroke)(void *cr);
    void (*select_font_face)(void *cr, const char *family, int slant, int weight);
    void (*set_font_size)(void *cr, double size);
    void (*text_extents)(void *cr, const char *words, struct extents *e);
    void (*show_text)(void *cr, const char *words);
    int (*surface_write_to_png_stream)(void *surface, sink *write, void *closure);
    void (*destroy)(void *cr);
    void (*surface_destroy)(void *surface);
} c;

#define ENTRY(name) \
    { "cairo_" #name, offsetof(struct cairo, name) }
static const struct {
    const char *symbol;
    size_t at;
} entries[] = {
    ENTRY(image_surface_create),
    ENTRY(create),
    ENTRY(status),
    ENTRY(status_to_string),
    ENTRY(scale),
    ENTRY(set_source_rgb),
    ENTRY(set_line_width),
    ENTRY(set_line_join),
    ENTRY(set_dash),
    ENTRY(new_path),
    ENTRY(move_to),
    ENTRY(line_to),
    ENTRY(arc),
    ENTRY(close_path),
    ENTRY(fill_preserve),
    ENTRY(stroke),
    ENTRY(select_font_face),
    ENTRY(set_font_size),
    ENTRY(text_extents),
    ENTRY(show_text),
    ENTRY(surface_write_to_png_stream),
    ENTRY(destroy),
    ENTRY(surface_destroy),
};
_Static_assert(sizeof entries / sizeof entries[0] == sizeof(struct cairo) / sizeof(void *),
               "each member of the table has a symbol");

// Never unloaded. The command draws from one thread.
static bool load(char *why, size_t cap) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *text = dlerror(); // begins with the library's name
        snprintf(why, cap, "%s; install Cairo (Debian: libcairo2), or use --svg, which needs none",
                 text ? text : LIBRARY " cannot be loaded");
        return false;
    }
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        void *symbol = dlsym(library, entries[i].symbol);
        if (!symbol) {
            snprintf(why, cap, LIBRARY " has no function %s; use --svg", entries[i].symbol);
            return false;
        }
        memcpy((char *)&c + entries[i].at, &symbol, sizeof symbol);
    }
    return true;
}

// ---- Drawing -------------------------------------------------------------------------------------

static void colour(void *cr, unsigned v) {
    c.set_source_rgb(cr, (v >> 16) / 255.0, (v >> 8 & 255) / 255.0, (v & 255) / 255.0);
}

static void dashes(void *cr, const char *words) {
    double length[2] = {0};
    c.set_dash(cr, length, words && sscanf(words, "%lf %lf", &length[0], &length[1]) == 2 ? 2 : 0,
               0);
}

static void box(void *cr, const struct td_box *b) {
    struct td_paint p = td_paint_of(b);
    double r = p.round < b->h / 2.0 ? p.round : b->h / 2.0;
    double x = b->x, y = b->y, right = x + b->w, low = y + b->h;
    c.new_path(cr);
    c.arc(cr, right - r, y + r, r, -M_PI / 2, 0);
    c.arc(cr, right - r, low - r, r, 0, M_PI / 2);
    c.arc(cr, x + r, low - r, r, M_PI / 2, M_PI);
    c.arc(cr, x + r, y + r, r, M_PI, 1.5 * M_PI);
    c.close_path(cr);
    colour(cr, p.fill);
    c.fill_preserve(cr);
    if (p.stroked) {
        c.set_line_width(cr, 1);
        dashes(cr, p.dashed ? "4 3" : NULL);
        colour(cr, p.stroke);
        c.stroke(cr);
    }
}

static void path(void *cr, const struct td_line *l, struct td_point end) {
    c.new_path(cr);
    c.move_to(cr, l->at[0].x, l->at[0].y);
    for (int i = 1; i < l->n; i++) {
        struct td_point at = i + 1 < l->n ? l->at[i] : end;
        c.line_to(cr, at.x, at.y);
    }
}

static void edge(void *cr, const struct td_line *l) {
    struct td_stroke s = td_stroke_of(l);
    struct td_point head[3] = {{0}}, end = l->at[l->n - 1];
    if (l->arrow) {
        td_arrow(l, head, &end);
    }
    if (s.edge > 0) {
        path(cr, l, end);
        c.set_line_width(cr, s.edge);
        dashes(cr, NULL);
        colour(cr, s.edge_colour);
        c.stroke(cr);
    }
}

static void line(void *cr, const struct td_line *l) {
    struct td_stroke s = td_stroke_of(l);
    struct td_point head[3] = {{0}}, end = l->at[l->n - 1];
    if (l->arrow) {
        td_arrow(l, head, &end);
    }
    path(cr, l, end);
    c.set_line_width(cr, s.width);
    dashes(cr, s.dashes);
    colour(cr, s.colour);
    c.stroke(cr);
    if (l->arrow) {
        colour(cr, td_arrow_colour(l));
        c.new_path(cr);
        c.move_to(cr, head[0].x, head[0].y);
        c.line_to(cr, head[1].x, head[1].y);
        c.line_to(cr, head[2].x, head[2].y);
        c.close_path(cr);
        c.fill_preserve(cr);
    }
}

static void lines(void *cr, const struct td_picture *p) {
    for (size_t i = 0, end; i < p->nlines; i = end) {
        end = td_group_end(p, i);
        for (size_t k = i; k < end; k++) {
            edge(cr, &p->lines[k]);
        }
        for (size_t k = i; k < end; k++) {
            line(cr, &p->lines[k]);
        }
    }
}

static double font(void *cr, int size, bool bold, const char *words) {
    struct extents e = {0};
    c.select_font_face(cr, "sans-serif", 0, bold);
    c.set_font_size(cr, size);
    c.text_extents(cr, words, &e);
    return e.x_advance;
}

static void dot(void *cr, const struct td_dot *d) {
    char number[16];
    snprintf(number, sizeof number, "%d", d->number);
    c.new_path(cr);
    c.arc(cr, d->x, d->y, d->r, 0, 2 * M_PI);
    colour(cr, d->hollow ? TD_WHITE : td_ring_colour(d->ring));
    c.fill_preserve(cr);
    colour(cr, td_ring_edge(d->ring));
    c.set_line_width(cr, 1.5);
    dashes(cr, NULL);
    c.stroke(cr);
    int size = td_dot_size(d);
    double w = font(cr, size, false, number);
    colour(cr, d->hollow ? TD_INK : td_ring_ink(d->ring));
    c.move_to(cr, d->x - w / 2, d->y + size * 0.36);
    c.show_text(cr, number);
}

// A font that is wider than the layout thinks is made smaller.
static void text(void *cr, const struct td_picture *p, const struct td_text *t) {
    double w = font(cr, t->size, t->bold, t->words);
    if (w > t->width) {
        c.set_font_size(cr, t->size * t->width / w);
    }
    colour(cr, t->colour);
    c.move_to(cr, p->boxes[t->box].x + t->dx, p->boxes[t->box].y + t->dy);
    c.show_text(cr, t->words);
}

static void draw(void *cr, const struct td_picture *p) {
    c.set_line_join(cr, LINE_JOIN_ROUND);
    for (size_t i = 0; i < p->nboxes; i++) {
        box(cr, &p->boxes[i]);
    }
    lines(cr, p);
    for (size_t i = 0; i < p->ndots; i++) {
        dot(cr, &p->dots[i]);
    }
    for (size_t i = 0; i < p->ntexts; i++) {
        text(cr, p, &p->texts[i]);
    }
}

// ---- Writing -------------------------------------------------------------------------------------

struct bytes {
    unsigned char *at;
    size_t len, cap;
};

static int take(void *closure, const unsigned char *data, unsigned length) {
    struct bytes *b = closure;
    if (b->cap - b->len < length) {
        size_t cap = 2 * b->cap + length;
        unsigned char *more = realloc(b->at, cap);
        if (!more) {
            return WRITE_ERROR;
        }
        b->at = more;
        b->cap = cap;
    }
    memcpy(b->at + b->len, data, length);
    b->len += length;
    return 0;
}

bool td_png(const struct td_picture *p, unsigned char **bytes, size_t *len, char *why, size_t cap) {
    int w = p->boxes[0].w, h = p->boxes[0].h;
    if (w > MOST || h > MOST) {
        snprintf(why, cap, "%d x %d pixels, and PNG is written up to %d: use --svg", w, h, MOST);
        return false;
    }
    if (!load(why, cap)) {
        return false;
    }
    int sharp = w > MOST / (4 * SHARP) || h > MOST / (4 * SHARP) ? 1 : SHARP;
    struct bytes out = {0};
    void *surface = c.image_surface_create(RGB24, w * sharp, h * sharp), *cr = c.create(surface);
    c.scale(cr, sharp, sharp);
    draw(cr, p);
    int status = c.status(cr);
    status = status ? status : c.surface_write_to_png_stream(surface, take, &out);
    if (status) {
        snprintf(why, cap, "Cairo: %s", c.status_to_string(status));
        free(out.at);
    }
    c.destroy(cr);
    c.surface_destroy(surface);
    *bytes = out.at;
    *len = out.len;
    return status == 0;
}
