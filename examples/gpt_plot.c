// SPDX-License-Identifier: MIT
// The loss curve as a picture. SVG is text, so it needs no library, and every browser shows it.
//
//   nats |\                        | bits     faint: loss of each step, as measured
//        | \__                     |          blue: the same, smoothed
//        |    \____o______o____o   |          orange, with dots: held-out text
//        +-------------------------+
//          0      step
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "gpt_curve.h"
#include "gpt_file.h"

enum {
    WIDTH = 900,
    HEIGHT = 540,
    LEFT = 76,
    RIGHT = 822,
    TOP = 84,
    BOTTOM = 472,
    MOST_POINTS = 1500
};

static const double LN2 = 0.69314718055994531;
static const char *const ink = "#1f2933", *const grey = "#66717d", *const grid = "#e4e8ec",
                         *const blue = "#2f6fb3", *const orange = "#d9701a";

// From values to places in the picture.
struct scale {
    double x_max, y_min, y_max;
};

static double at_x(const struct scale *s, double step) {
    return LEFT + (RIGHT - LEFT) * step / s->x_max;
}

static double at_y(const struct scale *s, double loss) {
    return BOTTOM - (BOTTOM - TOP) * (loss - s->y_min) / (s->y_max - s->y_min);
}

// A step of 1, 2 or 5 times a power of ten that cuts `range` into at most `pieces`.
static double nice_step(double range, int pieces) {
    const double rough = range / pieces, power = pow(10.0, floor(log10(rough)));
    const double digit = rough / power;
    return power * (digit <= 1.0 ? 1.0 : digit <= 2.0 ? 2.0 : digit <= 5.0 ? 5.0 : 10.0);
}

// ---- Text ---------------------------------------------------------------------------------------

static void text(FILE *out, double x, double y, const char *anchor, int size, const char *colour,
                 const char *words) {
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%d\" fill=\"%s\">", x,
            y, anchor, size, colour);
    for (; *words; words++) {
        switch (*words) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        default:
            fputc(*words, out);
        }
    }
    fprintf(out, "</text>\n");
}

static void number(FILE *out, double x, double y, const char *anchor, const char *format,
                   double value) {
    char words[32];
    snprintf(words, sizeof words, format, value);
    text(out, x, y, anchor, 13, grey, words);
}

static void line(FILE *out, double x1, double y1, double x2, double y2, const char *colour,
                 double width) {
    fprintf(out,
            "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
            "stroke-width=\"%.1f\"/>\n",
            x1, y1, x2, y2, colour, width);
}

// ---- Axes ---------------------------------------------------------------------------------------

// The first steps fall from so high that all the rest would be a flat line: the highest loss that
// is shown is the highest after a fiftieth of the run, and what is above leaves the picture at its
// top.
static struct scale find_scale(const struct gpt_curve *c) {
    double low = INFINITY, high = -INFINITY;
    const double steps = c->count ? fmax(1.0, (double)c->point[c->count - 1].step) : 1.0;
    for (size_t i = 0; i < c->count; i++) {
        const struct gpt_point *p = &c->point[i];
        low = fmin(low, fmin(p->train, p->held)); // fmin and fmax pass over a NAN
        if ((double)p->step >= steps / 50.0) {
            high = fmax(high, fmax(p->train, p->held));
        }
    }
    if (!(high > low)) { // one point, or none
        low = isfinite(low) ? low - 0.5 : 0.0;
        high = low + 1.0;
    }
    const double step = nice_step(high - low, 8);
    return (struct scale){
        .x_max = steps, .y_min = floor(low / step) * step, .y_max = ceil(high / step) * step};
}

static void draw_axes(FILE *out, const struct scale *s) {
    const double nats = nice_step(s->y_max - s->y_min, 8);
    const double bits = nice_step((s->y_max - s->y_min) / LN2, 8),
                 steps = fmax(1.0, nice_step(s->x_max, 8));
    for (int i = 0; s->y_min + i * nats <= s->y_max + 1e-9; i++) {
        const double v = s->y_min + i * nats;
        line(out, LEFT, at_y(s, v), RIGHT, at_y(s, v), grid, 1.0);
        number(out, LEFT - 10, at_y(s, v) + 4.5, "end", nats < 0.1 ? "%.2f" : "%.1f", v);
    }
    for (int i = (int)ceil(s->y_min / LN2 / bits); i * bits * LN2 <= s->y_max + 1e-9; i++) {
        const double v = i * bits;
        line(out, RIGHT, at_y(s, v * LN2), RIGHT + 6, at_y(s, v * LN2), grey, 1.0);
        number(out, RIGHT + 12, at_y(s, v * LN2) + 4.5, "start", bits < 0.1 ? "%.2f" : "%.1f", v);
    }
    for (int i = 0; i * steps <= s->x_max; i++) {
        const double v = i * steps;
        line(out, at_x(s, v), BOTTOM, at_x(s, v), BOTTOM + 6, grey, 1.0);
        number(out, at_x(s, v), BOTTOM + 23, "middle", "%.0f", v);
    }
    line(out, LEFT, BOTTOM, RIGHT, BOTTOM, grey, 1.0);
    line(out, RIGHT, TOP, RIGHT, BOTTOM, grey, 1.0);
    text(out, (LEFT + RIGHT) / 2.0, BOTTOM + 48, "middle", 14, ink, "step");
    text(out, LEFT - 10, TOP - 14, "end", 13, ink, "nats/byte");
    text(out, RIGHT + 12, TOP - 14, "start", 13, ink, "bits/byte");
}

// ---- Curves -------------------------------------------------------------------------------------

static void begin_path(FILE *out, const char *colour, double width, double opacity) {
    fprintf(out,
            "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%.1f\" stroke-opacity=\"%.2f\" "
            "stroke-linejoin=\"round\" points=\"",
            colour, width, opacity);
}

// Only every so many points of a long run: more than there are pixels would show as much in a
// larger file.
static size_t stride_of(const struct gpt_curve *c) { return c->count / MOST_POINTS + 1; }

// As measured, or smoothed: a running mean over ever more steps, up to thirty, so that the steep
// beginning is not smeared.
static void draw_train(FILE *out, const struct gpt_curve *c, const struct scale *s, bool smooth) {
    double mean = 0.0, seen = 0.0;
    begin_path(out, blue, smooth ? 2.2 : 1.0, smooth ? 1.0 : 0.3);
    for (size_t i = 0; i < c->count; i++) {
        const struct gpt_point *p = &c->point[i];
        if (isnan(p->train)) {
            continue;
        }
        mean += (p->train - mean) / (smooth ? fmin(30.0, 1.0 + seen++ / 10.0) : 1.0);
        if (i % stride_of(c) == 0 || i + 1 == c->count) {
            fprintf(out, "%.1f,%.1f ", at_x(s, (double)p->step), at_y(s, mean));
        }
    }
    fprintf(out, "\"/>\n");
}

static void draw_dot(FILE *out, double x, double y) {
    fprintf(out,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.4\" fill=\"white\" stroke=\"%s\" "
            "stroke-width=\"2\"/>\n",
            x, y, orange);
}

static void draw_held(FILE *out, const struct gpt_curve *c, const struct scale *s) {
    begin_path(out, orange, 1.6, 1.0);
    for (size_t i = 0; i < c->count; i++) {
        if (c->point[i].held <= s->y_max) { // false for a NAN, too
            fprintf(out, "%.1f,%.1f ", at_x(s, (double)c->point[i].step),
                    at_y(s, c->point[i].held));
        }
    }
    fprintf(out, "\"/>\n");
    for (size_t i = 0; i < c->count; i++) {
        if (c->point[i].held <= s->y_max) {
            draw_dot(out, at_x(s, (double)c->point[i].step), at_y(s, c->point[i].held));
        }
    }
}

static void draw_legend(FILE *out, const struct gpt_curve *c) {
    const double x = RIGHT - 384, y = TOP + 22;
    const double held = c->count ? c->point[c->count - 1].held : NAN;
    char words[80] = "held-out text";
    if (!isnan(held)) {
        snprintf(words, sizeof words, "held-out text: ends at %.3f nats (%.3f bits)", held,
                 held / LN2);
    }
    line(out, x, y, x + 30, y, blue, 2.2);
    text(out, x + 40, y + 4.5, "start", 14, ink, "training text (smoothed)");
    line(out, x, y + 24, x + 30, y + 24, orange, 1.6);
    draw_dot(out, x + 15, y + 24);
    text(out, x + 40, y + 28.5, "start", 14, ink, words);
}

static void draw_caption(FILE *out, const struct gpt_caption *c) {
    char words[200];
    snprintf(words, sizeof words, "Loss of train_gpt on %d rank%s", c->ranks,
             c->ranks == 1 ? "" : "s");
    text(out, LEFT, 32, "start", 19, ink, words);
    snprintf(
        words, sizeof words,
        "%.2f M parameters in %d layer%s of width %d; a step takes %lld sequences of %d bytes; "
        "%.1f MB of text",
        (double)c->parameters * 1e-6, c->shape.layers, c->shape.layers == 1 ? "" : "s",
        c->shape.dim, (long long)c->batch, c->shape.context, (double)c->text * 1e-6);
    text(out, LEFT, 53, "start", 13, grey, words);
}

bool gpt_curve_save_svg(const struct gpt_curve *c, const char *file,
                        const struct gpt_caption *caption, struct gpt_error *e) {
    char *picture = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&picture, &len);
    if (!out) {
        return gpt_fail(e, "no memory for %s", file);
    }
    const struct scale s = find_scale(c);
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
            "height=\"%d\" "
            "font-family=\"system-ui, 'DejaVu Sans', sans-serif\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    draw_caption(out, caption);
    draw_axes(out, &s);
    fprintf(
        out,
        "<clipPath id=\"frame\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n",
        LEFT, TOP, RIGHT - LEFT + 6, BOTTOM - TOP + 6);
    fprintf(out, "<g clip-path=\"url(#frame)\">\n");
    draw_train(out, c, &s, false);
    draw_train(out, c, &s, true);
    draw_held(out, c, &s);
    fprintf(out, "</g>\n");
    draw_legend(out, c);
    fprintf(out, "</svg>\n");
    if (fclose(out) != 0) {
        free(picture);
        return gpt_fail(e, "no memory for %s", file);
    }
    const struct iovec part = {picture, len};
    const bool ok = gpt_file_replace(file, &part, 1, e);
    free(picture);
    return ok;
}
