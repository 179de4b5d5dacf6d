// SPDX-License-Identifier: MIT
// The points of a run, and the file of figures. It is written as the run goes, so that what was
// measured survives whatever ends the run.
#include "gpt_curve.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool gpt_curve_open(struct gpt_curve *c, const char *csv_name, struct gpt_error *e) {
    struct gpt_curve curve = {.csv_name = csv_name, .careful = c->careful};
    if (csv_name) {
        if (!(curve.csv = fopen(csv_name, "we"))) {
            return gpt_fail(e, "cannot write %s: %s", csv_name, strerror(errno));
        }
        fprintf(curve.csv, "step,seconds,learning_rate,train_loss,gradient_norm,held_out_loss\n");
    }
    *c = curve;
    return true;
}

bool gpt_curve_take_over(struct gpt_curve *c, const char *csv_name, struct gpt_error *e) {
    if (!(c->csv = fopen(csv_name, "ae"))) {
        return gpt_fail(e, "cannot go on with %s: %s", csv_name, strerror(errno));
    }
    c->csv_name = csv_name;
    return true;
}

void gpt_curve_hand_over(struct gpt_curve *c) {
    if (c->csv && fclose(c->csv) != 0 && !c->csv_error) {
        c->csv_error = errno;
    }
    c->csv = NULL;
}

// Nothing between two commas says "not measured", which every reader of such files understands.
// Nine digits tell any two floats apart.
static void field(FILE *out, double value) {
    if (isnan(value)) {
        fputc(',', out);
    } else {
        fprintf(out, ",%.9g", value);
    }
}

static void write_row(FILE *out, const struct gpt_point *p) {
    fprintf(out, "%" PRIu64 ",%.3f", p->step, p->seconds);
    field(out, p->rate);
    field(out, p->train);
    field(out, p->norm);
    field(out, p->held);
    fputc('\n', out);
}

bool gpt_curve_add(struct gpt_curve *c, const struct gpt_point *p, struct gpt_error *e) {
    if (c->count == c->capacity) {
        const size_t capacity = c->capacity ? 2 * c->capacity : 1024;
        struct gpt_point *more = realloc(c->point, capacity * sizeof *more);
        if (!more) {
            return gpt_fail(e, "no memory for a curve of %zu steps", capacity);
        }
        c->point = more;
        c->capacity = capacity;
    }
    c->point[c->count++] = *p;
    if (c->csv) {
        write_row(c->csv, p);
        if (c->careful || !isnan(p->held)) {
            fflush(c->csv); // for those who watch the file
        }
        if (ferror(c->csv) && !c->csv_error) {
            c->csv_error = errno;
        }
    }
    return true;
}

bool gpt_curve_close(struct gpt_curve *c, struct gpt_error *e) {
    gpt_curve_hand_over(c);
    const bool ok = !c->csv_error ||
                    gpt_fail(e, "cannot write all of %s: %s", c->csv_name, strerror(c->csv_error));
    free(c->point);
    memset(c, 0, sizeof *c);
    return ok;
}
