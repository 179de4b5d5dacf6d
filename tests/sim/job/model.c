// SPDX-License-Identifier: MIT
#include "tests/sim/job/model.h"

#define VALUES 1021 // parameters are 0 .. VALUES-1
#define LARGE 8     // a gradient is -LARGE .. LARGE

const size_t model_count[PARAMS] = {7, 64, LARGEST, 1, 33, 90};

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = a + UINT64_C(0x9e3779b97f4a7c15) * (b + 1);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ (x >> 27);
}

static int64_t value(const struct model *m, int p, size_t i) {
    return (int64_t)(p % 2 ? m->d[p][i] : (double)m->f[p][i]);
}

static void set(struct model *m, int p, size_t i, int64_t v) {
    if (p % 2) {
        m->d[p][i] = (double)v;
    } else {
        m->f[p][i] = (float)v;
    }
}

void model_begin(struct model *m) {
    *m = (struct model){.course = {.step = 0}};
    for (int p = 0; p < PARAMS; p++) {
        for (size_t i = 0; i < model_count[p]; i++) {
            set(m, p, i, (int64_t)(mix((uint64_t)p, i) % VALUES));
        }
    }
}

void model_gradient(const struct model *m, int p, uint64_t sample, int64_t *grad) {
    uint64_t x = mix(mix(sample, (uint64_t)p), m->course.passes);
    for (size_t i = 0; i < model_count[p]; i++) {
        grad[i] += (int64_t)(mix(x + i, (uint64_t)value(m, p, i)) % (2 * LARGE + 1)) - LARGE;
    }
}

void model_update(struct model *m, int p, const int64_t *grad) {
    for (size_t i = 0; i < model_count[p]; i++) {
        int64_t moment = (3 * m->moment[p][i] + grad[i]) % VALUES;
        m->moment[p][i] = moment < 0 ? moment + VALUES : moment;
        set(m, p, i, (value(m, p, i) + m->moment[p][i]) % VALUES);
    }
}

uint64_t model_hash(const struct model *m) {
    uint64_t h = mix(m->course.step, m->course.passes);
    for (int p = 0; p < PARAMS; p++) {
        for (size_t i = 0; i < model_count[p]; i++) {
            h = mix(h, (uint64_t)(value(m, p, i) * VALUES + m->moment[p][i]));
        }
    }
    return h;
}
