// SPDX-License-Identifier: MIT
// The picture: bus bandwidth and time against size, both logarithmic, as SVG that needs nothing else. One
// colour a kind of row (type, op and root); out of place is a solid line, in place a dashed one. Points tell
// their figures when the pointer is on them.
#include "ring/perf/perf.h"

#include <string.h>

#define WIDTH 1120
#define HEIGHT 584
#define TOP 172
#define BOTTOM 492
#define SERIES_MAX 8

#define INK "#1f2933"
#define QUIET "#61707f"
#define GRID "#e3e8ed"

// Okabe and Ito's colours, which also those tell apart who see fewer.
static const char *const colours[SERIES_MAX] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                "#e69f00", "#56b4e9", "#6f4e9c", "#4d4d4d"};

struct series {
    size_t first, end; // rows
    const char *colour[2];
};

struct picture {
    const struct perf_report *r;
    FILE *f;
    int nseries, dropped, halves;
    struct series series[SERIES_MAX];
    struct perf_axis size;
};

struct panel {
    const char *title;
    struct perf_axis y;
    double (*value)(const struct perf_half *h);
    void (*text)(double v, char *buf, size_t cap);
    const char *unit; // after a number in a label
    bool highest;     // which figure people look for first: that, or the lowest
};

static bool is_pairs(const struct picture *p) { return p->r->coll->kind != PERF_COLLECTIVE; }

static double algbw_of(const struct perf_half *h) { return h->algbw; }
static double busbw_of(const struct perf_half *h) { return h->busbw; }
static double time_of(const struct perf_half *h) { return h->us; }

static void text(FILE *f, double x, double y, const char *style, const char *s) {
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style);
    for (; *s != '\0'; s++) {
        switch (*s) {
        case '<':
            fputs("&lt;", f);
            break;
        case '&':
            fputs("&amp;", f);
            break;
        default:
            fputc(*s, f);
        }
    }
    fputs("</text>\n", f);
}

// ---- Series --------------------------------------------------------------------------------------

static bool same_kind(const struct perf_row *a, const struct perf_row *b) {
    return a->type == b->type && a->op == b->op && a->root == b->root;
}

static void find_series(struct picture *p) {
    const struct perf_report *r = p->r;
    for (size_t i = 0, end; i < r->nrows; i = end) {
        for (end = i + 1; end < r->nrows && same_kind(&r->rows[i], &r->rows[end]); end++) {}
        if (p->nseries == SERIES_MAX) {
            p->dropped++;
            continue;
        }
        p->series[p->nseries++] = (struct series){.first = i, .end = end};
    }
    for (int s = 0; s < p->nseries; s++) {
        // A single kind has a colour for each half.
        p->series[s].colour[0] = colours[s];
        p->series[s].colour[1] = colours[p->nseries == 1 ? 1 : s];
    }
}

static void kind_text(const struct picture *p, const struct perf_row *row, char *buf, size_t cap) {
    char root[24] = "";
    if (row->root != PERF_NONE) {
        snprintf(root, sizeof root, ", root %d", row->root);
    }
    snprintf(buf, cap, "%s%s%s%s", rondo_type_name(row->type), p->r->coll->reduces ? " " : "",
             p->r->coll->reduces ? perf_row_op(row) : "", root);
}

// The spread of single operations is drawn where it can be told apart.
static bool has_band(const struct picture *p, const struct panel *panel) {
    bool measured = p->r->options->percentiles || p->r->coll->kind > PERF_PUT;
    return measured && p->nseries == 1 && panel->value == time_of;
}

static void widen(double v, double *lo, double *hi) {
    if (v > 0) {
        *hi = *lo == 0 || v > *hi ? v : *hi;
        *lo = *lo == 0 || v < *lo ? v : *lo;
    }
}

// Smallest and largest value to draw (a size, if panel is NULL); false if there is none.
static bool find_range(const struct picture *p, const struct panel *panel, double *lo, double *hi) {
    *lo = *hi = 0;
    for (int s = 0; s < p->nseries; s++) {
        for (size_t i = p->series[s].first; i < p->series[s].end; i++) {
            const struct perf_row *row = &p->r->rows[i];
            for (int h = 0; h < p->halves && row->bytes > 0; h++) {
                widen(panel != NULL ? panel->value(&row->half[h]) : (double)row->bytes, lo, hi);
                if (panel != NULL && has_band(p, panel)) {
                    widen(row->half[h].each.p50, lo, hi);
                    widen(row->half[h].each.p99, lo, hi);
                }
            }
        }
    }
    return *lo > 0;
}

// ---- Drawing -------------------------------------------------------------------------------------

static void draw_axes(const struct picture *p, const struct panel *panel) {
    FILE *f = p->f;
    const struct perf_axis *x = &p->size, *y = &panel->y;
    char label[32];
    text(f, x->from, TOP - 16, "font-size=\"15\" font-weight=\"600\"", panel->title);
    for (int i = 0; i < y->nticks; i++) {
        double at = perf_axis_at(y, y->ticks[i]);
        fprintf(f, "<path d=\"M%d %.1fH%d\" stroke=\"" GRID "\"/>\n", x->from, at, x->to);
        panel->text(y->ticks[i], label, sizeof label);
        text(f, x->from - 8, at + 4, "class=\"tick\" text-anchor=\"end\"", label);
    }
    for (int i = 0; i < x->nticks; i++) {
        double at = perf_axis_at(x, x->ticks[i]);
        fprintf(f, "<path d=\"M%.1f %dV%d\" stroke=\"" GRID "\"/>\n", at, TOP, BOTTOM);
        perf_bytes_text(x->ticks[i], label, sizeof label);
        text(f, at, BOTTOM + 19, "class=\"tick\" text-anchor=\"middle\"", label);
    }
    fprintf(f, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"" QUIET "\"/>\n", x->from, TOP,
            BOTTOM, x->to);
    text(f, (x->from + x->to) / 2.0, BOTTOM + 42, "class=\"tick\" text-anchor=\"middle\"",
         "message size");
}

// Between median and 99th percentile, behind the lines.
static void draw_band(const struct picture *p, const struct panel *panel, const struct series *s,
                      int half) {
    size_t n = s->end - s->first;
    fputs("<path d=\"", p->f);
    char command = 'M';
    for (size_t k = 0; k < 2 * n; k++) {
        // There along the median, back along the percentile.
        const struct perf_row *row = &p->r->rows[s->first + (k < n ? k : 2 * n - 1 - k)];
        const struct perf_stats *each = &row->half[half].each;
        double v = k < n ? each->p50 : each->p99;
        if (row->bytes > 0 && v > 0) {
            fprintf(p->f, "%c%.1f %.1f", command, perf_axis_at(&p->size, (double)row->bytes),
                    perf_axis_at(&panel->y, v));
            command = 'L';
        }
    }
    fprintf(p->f, "\" fill=\"%s\" fill-opacity=\".13\"/>\n", s->colour[half]);
}

static void draw_points(const struct picture *p, const struct panel *panel, const struct series *s,
                        int half) {
    char size[32], bw[32], time[32];
    const char *place = is_pairs(p) ? "" : half == 0 ? " out of place" : " in place";
    for (size_t i = s->first; i < s->end; i++) {
        const struct perf_row *row = &p->r->rows[i];
        const struct perf_half *h = &row->half[half];
        if (row->bytes == 0 || panel->value(h) <= 0) {
            continue;
        }
        perf_bytes_text((double)row->bytes, size, sizeof size);
        perf_number_text(is_pairs(p) ? h->algbw : h->busbw, bw, sizeof bw);
        perf_time_text(h->us, time, sizeof time);
        fprintf(p->f,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\" stroke=\"%s\" "
                "stroke-width=\"1.6\"><title>%s%s: %s, %s GB/s</title></circle>\n",
                perf_axis_at(&p->size, (double)row->bytes),
                perf_axis_at(&panel->y, panel->value(h)), half == 0 ? s->colour[half] : "#fff",
                s->colour[half], size, place, time, bw);
    }
}

static void draw_line(const struct picture *p, const struct panel *panel, const struct series *s,
                      int half) {
    char command = 'M';
    fputs("<path d=\"", p->f);
    for (size_t i = s->first; i < s->end; i++) {
        const struct perf_row *row = &p->r->rows[i];
        double v = panel->value(&row->half[half]);
        if (row->bytes > 0 && v > 0) {
            fprintf(p->f, "%c%.1f %.1f", command, perf_axis_at(&p->size, (double)row->bytes),
                    perf_axis_at(&panel->y, v));
            command = 'L';
        }
    }
    fprintf(p->f,
            "\" fill=\"none\" stroke=\"%s\" stroke-width=\"2.2\" stroke-linejoin=\"round\"%s/>\n",
            s->colour[half], half == 1 ? " stroke-dasharray=\"6 4\"" : "");
    draw_points(p, panel, s, half);
}

static void draw_best(const struct picture *p, const struct panel *panel) {
    const struct perf_row *best = NULL;
    double value = 0;
    bool highest = panel->highest;
    for (int s = 0; s < p->nseries; s++) {
        for (size_t i = p->series[s].first; i < p->series[s].end; i++) {
            const struct perf_row *row = &p->r->rows[i];
            for (int h = 0; h < p->halves; h++) {
                double v = panel->value(&row->half[h]);
                if (row->bytes > 0 && v > 0 &&
                    (best == NULL || (highest ? v > value : v < value))) {
                    best = row;
                    value = v;
                }
            }
        }
    }
    if (best == NULL) {
        return;
    }
    char number[32], size[32], label[96];
    panel->text(value, number, sizeof number);
    perf_bytes_text((double)best->bytes, size, sizeof size);
    snprintf(label, sizeof label, "%s %s%s at %s", highest ? "highest" : "shortest", number,
             panel->unit, size);
    text(p->f, p->size.to, TOP - 16, "class=\"tick\" text-anchor=\"end\"", label);
}

static void draw_panel(struct picture *p, struct panel *panel, int from, int to) {
    double lo, hi;
    p->size.from = from;
    p->size.to = to;
    panel->y.from = BOTTOM;
    panel->y.to = TOP;
    if (!find_range(p, panel, &lo, &hi)) {
        text(p->f, from, TOP - 16, "font-size=\"15\" font-weight=\"600\"", panel->title);
        text(p->f, from, TOP + 20, "class=\"tick\"",
             p->r->ranks < 2 ? "nothing moves with one rank" : "no row with a size above 0");
        return;
    }
    perf_axis_decimal(&panel->y, lo, hi);
    draw_axes(p, panel);
    for (int h = 0; h < p->halves && has_band(p, panel); h++) {
        draw_band(p, panel, &p->series[0], h);
    }
    for (int s = 0; s < p->nseries; s++) {
        for (int h = p->halves - 1; h >= 0; h--) {
            draw_line(p, panel, &p->series[s], h);
        }
    }
    draw_best(p, panel);
}

// ---- Words ---------------------------------------------------------------------------------------

static void legend_item(const struct picture *p, int x, int y, const char *colour, bool dashed,
                        const char *label) {
    fprintf(p->f,
            "<path d=\"M%d %dh30\" stroke=\"%s\" stroke-width=\"2.2\"%s/>"
            "<circle cx=\"%d\" cy=\"%d\" r=\"3.2\" fill=\"%s\" stroke=\"%s\" "
            "stroke-width=\"1.6\"/>\n",
            x, y, colour, dashed ? " stroke-dasharray=\"6 4\"" : "", x + 15, y,
            dashed ? "#fff" : colour, colour);
    text(p->f, x + 37, y + 4, "font-size=\"13\"", label);
}

static void draw_legend(const struct picture *p) {
    char label[64];
    if (p->nseries == 1) {
        legend_item(p, 70, 106, p->series[0].colour[0], false,
                    is_pairs(p) ? p->r->coll->name : "out of place");
        if (p->halves == 2) {
            legend_item(p, 220, 106, p->series[0].colour[1], true, "in place");
        }
        if (p->r->options->percentiles || p->r->coll->kind > PERF_PUT) {
            text(p->f, p->halves == 2 ? 340 : 220, 110, "font-size=\"13\" fill=\"" QUIET "\"",
                 "shaded: from the median to the 99th percentile of single operations");
        }
        return;
    }
    for (int s = 0; s < p->nseries; s++) {
        kind_text(p, &p->r->rows[p->series[s].first], label, sizeof label);
        legend_item(p, 70 + s % 4 * 255, 98 + s / 4 * 22, p->series[s].colour[0], false, label);
    }
}

static void draw_words(const struct picture *p) {
    const struct perf_report *r = p->r;
    char line[512], kind[64] = "", more[80] = "";
    if (p->nseries == 1 && !is_pairs(p)) {
        kind_text(p, &r->rows[0], kind, sizeof kind);
    }
    snprintf(line, sizeof line, "%s on %d rank%s%s%s", r->coll->name, r->ranks,
             r->ranks == 1 ? "" : "s", kind[0] != '\0' ? ", " : "", kind);
    text(p->f, 70, 44, "font-size=\"22\" font-weight=\"600\"", line);
    if (p->dropped > 0) {
        snprintf(more, sizeof more, "; the first %d of %d kinds of rows", SERIES_MAX,
                 SERIES_MAX + p->dropped);
    } else if (p->nseries > 1 && p->halves == 2) {
        snprintf(more, sizeof more, "; solid: out of place, dashed: in place");
    }
    snprintf(line, sizeof line, "Rondo %s; rank 0 on %s%s", rondo_version(), r->device, more);
    text(p->f, 70, 70, "font-size=\"13\" fill=\"" QUIET "\"", line);
    if (is_pairs(p)) {
        snprintf(line, sizeof line,
                 "Means, averaged over the pairs; %s. 1 GB/s = 10\u2079 bytes a second.", r->plan);
    } else {
        snprintf(line, sizeof line,
                 "Means of %d operations back to back, averaged over the ranks. Bus bandwidth as "
                 "nccl-tests define it; 1 GB/s = 10\u2079 bytes a second.",
                 r->options->iters);
    }
    text(p->f, 70, HEIGHT - 20, "class=\"tick\"", line);
}

void perf_plot(const struct perf_report *r) {
    struct picture p = {.r = r, .f = r->plot, .halves = r->coll->in_place ? 2 : 1};
    bool pairs = is_pairs(&p);
    struct panel bandwidth = {.title = pairs ? "Bandwidth of one direction, GB/s"
                                             : "Bus bandwidth, GB/s",
                              .value = pairs ? algbw_of : busbw_of,
                              .text = perf_number_text,
                              .unit = " GB/s",
                              .highest = true};
    struct panel time = {.title = r->coll->kind == PERF_PINGPONG ? "Half a round trip"
                                  : pairs                        ? "Time per message"
                                                                 : "Time per operation",
                         .value = time_of,
                         .text = perf_time_text,
                         .unit = ""};
    double lo, hi;
    find_series(&p);
    fprintf(p.f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"'DejaVu Sans', Verdana, sans-serif\" fill=\"" INK
            "\">\n<style>.tick{font-size:12px;fill:" QUIET "}</style>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    if (find_range(&p, NULL, &lo, &hi)) {
        perf_axis_bytes(&p.size, lo, hi);
        draw_words(&p);
        draw_legend(&p);
        draw_panel(&p, &bandwidth, 70, 530);
        draw_panel(&p, &time, 630, 1090);
    } else {
        text(p.f, 70, 44, "font-size=\"22\"", "There is no row with a size above 0 to draw.");
    }
    fputs("</svg>\n", p.f);
}
