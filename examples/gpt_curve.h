// SPDX-License-Identifier: MIT
// What a run measured, step by step; as a file of figures and as a picture.
#ifndef GPT_CURVE_H
#define GPT_CURVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "gpt_model.h"

// Losses are in nats per byte and belong to the parameters after `step` steps. NAN = not measured.
struct gpt_point {
    uint64_t step;
    double seconds; // since training began
    double rate;    // learning rate
    double train;   // mean over the global batch
    double norm;    // of the gradient
    double held;    // mean over the held-out windows
};

struct gpt_curve {
    struct gpt_point *point;
    size_t count, capacity;
    FILE *csv; // NULL = none
    const char *csv_name;
    int csv_error; // errno of the first write that failed
    bool careful;  // each line is written at once: this process may be killed
};

// Starts an empty curve; `careful` stays as it is. With a name, each point is also written to that file, as comma-separated
// values under a header line; the name must stay valid. The caller ends it with gpt_curve_close().
bool gpt_curve_open(struct gpt_curve *c, const char *csv_name, struct gpt_error *e);
// Goes on with the file of another process that wrote it before, and stops writing so that another can.
bool gpt_curve_take_over(struct gpt_curve *c, const char *csv_name, struct gpt_error *e);
void gpt_curve_hand_over(struct gpt_curve *c);
bool gpt_curve_add(struct gpt_curve *c, const struct gpt_point *p, struct gpt_error *e);

// Frees the curve. False when the file could not be written in full.
bool gpt_curve_close(struct gpt_curve *c, struct gpt_error *e);

// What the picture says of the run besides its losses.
struct gpt_caption {
    int ranks;
    size_t parameters;
    struct gpt_shape shape;
    int64_t batch;
    size_t text; // bytes to train on
};

// Draws the losses over the steps, as an SVG picture.
bool gpt_curve_save_svg(const struct gpt_curve *c, const char *file,
                        const struct gpt_caption *caption, struct gpt_error *e);

#endif
