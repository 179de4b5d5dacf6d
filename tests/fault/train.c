// SPDX-License-Identifier: MIT
// DDP steps whose every gradient is checked, until something fails. Gradients are small whole numbers, so that their
// sum is exact in any order.
#include "tests/fault/rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARAMS = 6 };

struct model {
    rondo_param params[PARAMS];
    char names[PARAMS][16];
    rondo_ddp *ddp;
};

static float gradient(uint64_t step, int param, size_t i, int member) {
    return (float)((uint64_t)member * 64 + step % 17 + (uint64_t)param + i % 251);
}

static bool model_open(struct job *j, struct model *m) {
    *m = (struct model){.ddp = NULL};
    for (int p = 0; p < PARAMS; p++) {
        size_t count = j->wish.counts[p % j->wish.ncounts];
        snprintf(m->names[p], sizeof m->names[p], "weight%d", p);
        m->params[p] = (rondo_param){m->names[p], calloc(count, sizeof(float)), count, RONDO_F32};
        if (!m->params[p].data) {
            wrong(j, "no memory for a parameter of %zu elements", count);
            return false;
        }
    }
    return true;
}

static void model_close(struct model *m) {
    (void)rondo_ddp_destroy(m->ddp);
    for (int p = 0; p < PARAMS; p++) {
        free(m->params[p].data);
    }
}

static rondo_status backward(struct job *j, struct model *m, uint64_t step, bool stop,
                             const char **call) {
    rondo_status s = RONDO_OK;
    for (int p = PARAMS - 1; p >= 0 && s == RONDO_OK; p--) {
        float *g = rondo_ddp_grad(m->ddp, (size_t)p);
        for (size_t i = 0; i < m->params[p].count; i++) {
            g[i] = gradient(step, p, i, j->me);
        }
        g[0] = p == 0 && stop ? 1.0f : 0.0f;
        *call = "ddp_grad_ready";
        s = rondo_ddp_grad_ready(m->ddp, (size_t)p);
    }
    if (s == RONDO_OK) {
        *call = "ddp_finish";
        s = rondo_ddp_finish(m->ddp);
    }
    return s;
}

static void check(struct job *j, struct model *m, uint64_t step) {
    float members = 0;
    for (int r = 0; r < j->n; r++) {
        members += gradient(step, 0, 0, j->members[r]) - (float)(step % 17);
    }
    for (int p = 0; p < PARAMS; p++) {
        const float *g = rondo_ddp_grad(m->ddp, (size_t)p);
        for (size_t i = 1; i < m->params[p].count; i++) {
            float want = members + (float)j->n * gradient(step, p, i, 0);
            if (g[i] < want || g[i] > want) {
                wrong(j, "step %llu, %s[%zu]: %g, not %g", (unsigned long long)step, m->names[p], i,
                      (double)g[i], (double)want);
                return;
            }
        }
    }
}

rondo_status work_train(struct job *j, uint64_t *t, const char **call) {
    struct model m;
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.average = 0;
    o.first_bucket_bytes = 65536;
    o.bucket_bytes = (size_t)1 << 20;
    rondo_status s = RONDO_OK;
    uint64_t step = 0;
    if (model_open(j, &m)) {
        *call = "ddp_create";
        s = rondo_ddp_create(j->comm, m.params, PARAMS, &o, &m.ddp);
        *t = now_ns();
    }
    for (bool over = j->is_wrong; !over && s == RONDO_OK; step++) {
        pause_at(j, step);
        s = backward(j, &m, step, stop_wish(j), call);
        *t = now_ns();
        if (s == RONDO_OK) {
            const float *g = rondo_ddp_grad(m.ddp, 0);
            check(j, &m, step);
            over = j->is_wrong || g[0] > 0;
            if (step == 0) {
                say_ready(j, "works", 0);
            }
        }
    }
    if (s != RONDO_OK) {
        say_failed(j, s, *call, *t, step);
    }
    model_close(&m);
    return s;
}
