// SPDX-License-Identifier: MIT
// The sharded optimizer beside plain DDP with the same optimizer, on the same gradients: zero RANKS OPTIONS
#include "tests/ring/ring_test.h"

#include <math.h>
#include <stdint.h>

enum { PARAMS = 5 };
static const size_t counts[PARAMS] = {300, 70001, 17, 33000, 1};
static const char *const names[PARAMS] = {"embed", "w1", "bias", "w2", "scale"};

// Adam without bias correction, on plain arrays.
static void adam(float *value, const float *grad, float *m, float *v, size_t count) {
    for (size_t k = 0; k < count; k++) {
        m[k] = 0.9f * m[k] + 0.1f * grad[k];
        v[k] = 0.99f * v[k] + 0.01f * grad[k] * grad[k];
        value[k] -= 0.01f * m[k] / (sqrtf(v[k]) + 1e-6f);
    }
}

struct side {
    float *value[PARAMS], *m[PARAMS], *v[PARAMS];
    rondo_ddp *d;
    rondo_zero *z;
};

static int make(struct side *s, rondo_comm *c, int shard) {
    rondo_param params[PARAMS];
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.first_bucket_bytes = 4 << 10;
    o.bucket_bytes = 128 << 10;
    o.shard = shard;
    *s = (struct side){.d = NULL};
    for (size_t i = 0; i < PARAMS; i++) {
        s->value[i] = malloc(counts[i] * sizeof(float));
        s->m[i] = calloc(counts[i], sizeof(float));
        s->v[i] = calloc(counts[i], sizeof(float));
        for (size_t k = 0; k < counts[i]; k++) {
            s->value[i][k] = (float)(k % 19) * 0.1f;
        }
        params[i] = (rondo_param){names[i], s->value[i], counts[i], RONDO_F32};
    }
    OK(rondo_ddp_create(c, params, PARAMS, &o, &s->d));
    return 0;
}

static int drop(struct side *s) {
    OK(rondo_zero_destroy(s->z));
    OK(rondo_ddp_destroy(s->d));
    for (size_t i = 0; i < PARAMS; i++) {
        free(s->value[i]);
        free(s->m[i]);
        free(s->v[i]);
    }
    return 0;
}

static int backward(rondo_ddp *d, int rank, int step) {
    for (size_t i = PARAMS; i-- > 0;) {
        // Another order than that of definition, so that buckets are rebuilt otherwise.
        size_t p = (i + 2) % PARAMS;
        float *g = rondo_ddp_grad(d, p);
        for (size_t k = 0; k < counts[p]; k++) {
            g[k] += sinf((float)(k % 97) + (float)(rank * 3 + step)) + 0.1f * (float)p;
        }
        OK(rondo_ddp_grad_ready(d, p));
    }
    return 0;
}

static rondo_status update(void *arg, const rondo_zero_piece *p) {
    size_t *updated = arg;
    *updated += p->count;
    adam(p->data, p->grad, p->state[0], p->state[1], p->count);
    return RONDO_OK;
}

static int same(const struct side *a, const struct side *b) {
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t k = 0; k < counts[i]; k++) {
            // Sums of other orders differ in their last bits, which Adam's quotient enlarges near 0.
            CHECK(fabsf(a->value[i][k] - b->value[i][k]) <= 2e-4f);
        }
    }
    return 0;
}

static int step_plain(struct side *s) {
    OK(rondo_ddp_finish(s->d));
    for (size_t i = 0; i < PARAMS; i++) {
        adam(s->value[i], rondo_ddp_grad(s->d, i), s->m[i], s->v[i], counts[i]);
    }
    OK(rondo_ddp_zero_grad(s->d));
    return 0;
}

// The state of all parameters as rank 0 puts it together is that of the plain optimizer.
static int check_saved(struct side *plain, struct side *sharded, rondo_comm *c) {
    for (size_t i = 0; i < PARAMS; i++) {
        float *out = calloc(counts[i], sizeof *out);
        OK(rondo_zero_save(sharded->z, i, 1, 0, out));
        for (size_t k = 0; k < counts[i] && rondo_comm_rank(c) == 0; k++) {
            CHECK(fabsf(out[k] - plain->v[i][k]) <= 1e-5f);
        }
        free(out);
    }
    return 0;
}

// Another optimizer that goes on from this one's state.
static int resume(struct side *from, rondo_comm *c, const rondo_zero_options *o) {
    rondo_zero *again = NULL;
    float *whole[2][PARAMS];
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t a = 0; a < 2; a++) {
            whole[a][i] = calloc(counts[i], sizeof(float));
            OK(rondo_zero_save(from->z, i, a, 0, whole[a][i]));
            OK(rondo_broadcast(whole[a][i], whole[a][i], counts[i], RONDO_F32, 0, c));
        }
    }
    OK(rondo_zero_destroy(from->z));
    OK(rondo_zero_create(from->d, o, &again));
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t a = 0; a < 2; a++) {
            OK(rondo_zero_load(again, i, a, whole[a][i]));
            free(whole[a][i]);
        }
    }
    from->z = again;
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    (void)arg;
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    struct side plain, sharded;
    size_t updated = 0, mine = 0, whole = 0, all = 0;
    double a = 0, b = 0;
    const rondo_zero_options o = {sizeof o, sizeof(float), 2, update, &updated};
    CHECK(make(&plain, c, 0) == 0 && make(&sharded, c, 1) == 0);
    CHECK(rondo_zero_create(plain.d, &o, &plain.z) == RONDO_ERR_USAGE);
    OK(rondo_zero_create(sharded.d, &o, &sharded.z));
    CHECK(rondo_zero_create(sharded.d, &o, &plain.z) == RONDO_ERR_USAGE);
    for (int step = 0; step < 6; step++) {
        int passes = step == 3 ? 3 : 1;
        for (int pass = 0; pass < passes; pass++) {
            OK(rondo_ddp_set_sync(plain.d, pass + 1 == passes));
            OK(rondo_ddp_set_sync(sharded.d, pass + 1 == passes));
            CHECK(backward(plain.d, me, step + pass) == 0 &&
                  backward(sharded.d, me, step + pass) == 0);
            if (pass + 1 < passes) {
                OK(rondo_ddp_finish(plain.d));
                OK(rondo_ddp_finish(sharded.d));
            }
        }
        if (step == 4) { // the norm is that of all shares, and clips all of them
            OK(rondo_ddp_finish(plain.d));
            OK(rondo_ddp_finish(sharded.d));
            OK(rondo_ddp_clip_grad_norm(plain.d, 0.5, 2, &a));
            OK(rondo_ddp_clip_grad_norm(sharded.d, 0.5, 2, &b));
            CHECK(fabs(a - b) <= 1e-6 * a && a > 0.5);
            for (size_t i = 0; i < PARAMS; i++) {
                adam(plain.value[i], rondo_ddp_grad(plain.d, i), plain.m[i], plain.v[i], counts[i]);
            }
            OK(rondo_ddp_zero_grad(plain.d));
        } else {
            CHECK(step_plain(&plain) == 0);
            OK(rondo_ddp_finish(sharded.d));
        }
        updated = 0;
        OK(rondo_zero_bytes(sharded.z, &mine, &whole)); // shares move in the first step
        OK(rondo_zero_step(sharded.z));
        CHECK(updated <= mine / 8);
        CHECK(same(&plain, &sharded) == 0);
        if (step == 2) {
            CHECK(check_saved(&plain, &sharded, c) == 0 && resume(&sharded, c, &o) == 0);
        }
    }
    rondo_ddp_stats s = {.size = sizeof s};
    OK(rondo_ddp_get_stats(sharded.d, &s));
    for (size_t i = 0; i < PARAMS; i++) {
        all += counts[i] * 2 * sizeof(float);
    }
    // A rank keeps 1/n, but for what fills shares up.
    CHECK(mine * (size_t)n == whole && whole >= all &&
          whole <= all + s.buckets * 2 * 128 * (size_t)n);
    CHECK(s.rebuilt == 1);
    CHECK(drop(&sharded) == 0 && drop(&plain) == 0);
    return 0;
}

// ---- Uneven inputs -------------------------------------------------------------------------------

static rondo_status shadow(void *arg) { return rondo_zero_step(((struct side *)arg)->z); }

static int train_unevenly(struct side *s, rondo_comm *c) {
    int me = rondo_comm_rank(c);
    rondo_ddp_join_options j = RONDO_DDP_JOIN_OPTIONS_INIT;
    j.shadow = s->z ? shadow : NULL;
    j.arg = s;
    OK(rondo_ddp_join_begin(s->d, &j));
    for (int step = 0; step < 2 + me % 3; step++) {
        CHECK(backward(s->d, me, step) == 0);
        if (s->z) {
            OK(rondo_ddp_finish(s->d));
            OK(rondo_zero_step(s->z));
        } else {
            CHECK(step_plain(s) == 0);
        }
    }
    OK(rondo_ddp_join_end(s->d));
    return 0;
}

// A rank that is through still updates its share.
static int join(rondo_comm *c) {
    struct side plain, sharded;
    size_t updated = 0;
    const rondo_zero_options o = {sizeof o, sizeof(float), 2, update, &updated};
    CHECK(make(&plain, c, 0) == 0 && make(&sharded, c, 1) == 0);
    OK(rondo_zero_create(sharded.d, &o, &sharded.z));
    CHECK(train_unevenly(&plain, c) == 0 && train_unevenly(&sharded, c) == 0);
    CHECK(same(&plain, &sharded) == 0);
    CHECK(drop(&sharded) == 0 && drop(&plain) == 0);
    return 0;
}

// An update that fails on one rank is an error on all, and nobody waits.
static rondo_status failing(void *arg, const rondo_zero_piece *piece) {
    (void)piece;
    return *(int *)arg ? RONDO_ERR_SYSTEM : RONDO_OK;
}

static int failing_update(rondo_comm *c) {
    struct side s;
    int fails = rondo_comm_rank(c) == rondo_comm_size(c) - 1;
    const rondo_zero_options o = {sizeof o, sizeof(float), 2, failing, &fails};
    CHECK(make(&s, c, 1) == 0);
    OK(rondo_zero_create(s.d, &o, &s.z));
    CHECK(backward(s.d, rondo_comm_rank(c), 0) == 0);
    // The others may still wait for the last of the gradients when they hear of it.
    rondo_status status = rondo_ddp_finish(s.d);
    status = status == RONDO_OK ? rondo_zero_step(s.z) : status;
    CHECK(status == (fails ? RONDO_ERR_SYSTEM : RONDO_ERR_ABORTED));
    OK(rondo_barrier(c));
    CHECK(drop(&s) == 0);
    return 0;
}

static int all(rondo_comm *c, void *arg) {
    CHECK(body(c, arg) == 0);
    CHECK(join(c) == 0);
    CHECK(failing_update(c) == 0);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: zero RANKS OPTIONS\n");
        return 2;
    }
    return rt_run(atoi(argv[1]), argv[2], all, NULL);
}
