// SPDX-License-Identifier: MIT
// DDP steps whose every gradient is checked, until something fails; with --elastic those that are left repeat the step
// by themselves. Gradients are small whole numbers, so that their sum is exact in any order. One parameter is the
// roster: each rank adds a one at its own place, so that the sum tells who took part.
#include "tests/fault/rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARAMS = 6, ROSTER = PARAMS };

struct model {
    rondo_param params[PARAMS + 1];
    char names[PARAMS + 1][16];
    rondo_ddp *ddp;
};

static float gradient(uint64_t step, int param, size_t i, int member) {
    return (float)((uint64_t)member * 64 + step % 17 + (uint64_t)param + i % 251);
}

static bool model_open(struct job *j, struct model *m) {
    *m = (struct model){.ddp = NULL};
    for (int p = 0; p <= PARAMS; p++) {
        size_t count = p == ROSTER ? MAX_RANKS : j->wish.counts[p % j->wish.ncounts];
        snprintf(m->names[p], sizeof m->names[p], p == ROSTER ? "roster" : "weight%d", p);
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
    for (int p = 0; p <= PARAMS; p++) {
        free(m->params[p].data);
    }
}

static rondo_status backward(struct job *j, struct model *m, uint64_t step, const char **call) {
    rondo_status s = RONDO_OK;
    listen_to(j, 0);
    bool stop = j->stop && rondo_comm_rank(rondo_ddp_comm(m->ddp)) == 0;
    for (int p = PARAMS; p >= 0 && s == RONDO_OK; p--) {
        float *g = rondo_ddp_grad(m->ddp, (size_t)p);
        for (size_t i = 0; i < m->params[p].count; i++) {
            g[i] = p == ROSTER ? (float)(i == (size_t)j->me) : gradient(step, p, i, j->me);
        }
        if (p == 0) {
            g[0] = stop ? 1.0f : 0.0f;
        }
        *call = "ddp_grad_ready";
        s = rondo_ddp_grad_ready(m->ddp, (size_t)p);
    }
    // Elastic: finish() finds out what became of the step, whatever went wrong in it.
    if (s == RONDO_OK || j->wish.elastic) {
        *call = "ddp_finish";
        s = rondo_ddp_finish(m->ddp);
    }
    return s;
}

// Who took part in this step. Before a shrink within finish() that is known, afterwards it is learned here.
static void read_roster(struct job *j, struct model *m, uint64_t step) {
    const float *g = rondo_ddp_grad(m->ddp, ROSTER);
    int found[MAX_RANKS], n = 0;
    for (int r = 0; r < MAX_RANKS; r++) {
        if (g[r] > 0) {
            found[n++] = r;
        }
        if (g[r] > 1) {
            wrong(j, "step %llu: rank %d took part more than once", (unsigned long long)step, r);
        }
    }
    if (n != rondo_comm_size(rondo_ddp_comm(m->ddp)) || g[j->me] < 1) {
        wrong(j, "step %llu: %d ranks took part, of %d", (unsigned long long)step, n,
              rondo_comm_size(rondo_ddp_comm(m->ddp)));
    }
    memcpy(j->members, found, sizeof found);
    j->n = n;
}

static void check(struct job *j, struct model *m, uint64_t step) {
    float members = 0;
    for (int r = 0; r < j->n; r++) {
        members += (float)(j->members[r] * 64);
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

// The optimizer: what it makes of the steps that counted has to be the same on all ranks.
static void update(struct model *m) {
    for (int p = 0; p < PARAMS; p++) {
        float *x = m->params[p].data;
        const float *g = rondo_ddp_grad(m->ddp, (size_t)p);
        for (size_t i = 0; i < m->params[p].count; i++) {
            x[i] = x[i] * 0.5f + g[i];
        }
    }
}

static void say_trained(const struct model *m, uint64_t steps) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (int p = 0; p < PARAMS; p++) {
        const unsigned char *b = m->params[p].data;
        for (size_t i = 0; i < m->params[p].count * sizeof(float); i++) {
            h = (h ^ b[i]) * UINT64_C(0x100000001b3);
        }
    }
    struct line l;
    line_begin(&l, "trained", 0);
    line_int(&l, "steps", (int64_t)steps);
    line_int(&l, "hash", (int64_t)(h >> 1));
    line_end(&l);
}

static void say_retry(const struct job *j, const struct model *m, uint64_t t) {
    struct line l;
    line_begin(&l, "retry", t);
    line_int(&l, "generation", j->generation);
    line_int(&l, "size", rondo_comm_size(rondo_ddp_comm(m->ddp)));
    line_end(&l);
}

static rondo_status create(struct job *j, struct model *m) {
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.average = 0;
    o.elastic = j->wish.elastic;
    o.first_bucket_bytes = 65536;
    o.bucket_bytes = (size_t)1 << 20;
    return rondo_ddp_create(j->comm, m->params, PARAMS + 1, &o, &m->ddp);
}

rondo_status work_train(struct job *j, uint64_t *t, const char **call) {
    struct model m;
    rondo_status s = RONDO_OK;
    uint64_t step = 0;
    bool over = !model_open(j, &m), told = false;
    if (!over) {
        *call = "ddp_create";
        s = create(j, &m);
        *t = now_ns();
    }
    while (!over && s == RONDO_OK) {
        pause_at(j, step);
        s = backward(j, &m, step, call);
        *t = now_ns();
        if (s == RONDO_RETRY_STEP) {
            j->generation++;
            say_retry(j, &m, *t);
            told = false;
            s = RONDO_OK;
        } else if (s == RONDO_OK) {
            over = ((const float *)rondo_ddp_grad(m.ddp, 0))[0] > 0;
            read_roster(j, &m, step);
            check(j, &m, step++);
            update(&m);
            over |= j->is_wrong;
            if (!told) {
                say_ready(j, "works", 0);
            }
            told = true;
        }
    }
    if (s != RONDO_OK) {
        say_failed(j, s, *call, *t, step);
    } else {
        say_trained(&m, step);
    }
    model_close(&m);
    return s;
}
