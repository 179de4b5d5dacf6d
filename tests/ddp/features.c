// SPDX-License-Identifier: MIT
// What DDP does besides dense steps that are all alike, against what a single process computes: features RANKS OPTIONS
#include "ring/half.h"
#include "tests/ring/ring_test.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum { PARAMS = 6, WIDTH = 8, ROWS = 40 };
static const size_t counts[PARAMS] = {ROWS * WIDTH, 3000, 70001, 1, 500, 64};
static const size_t rows[PARAMS] = {ROWS, 30, 0, 0, 0, 8};
static const char *const names[PARAMS] = {"embed", "w1", "w2", "bias", "w3", "head"};

struct model {
    float *value[PARAMS];
    rondo_param param[PARAMS];
};

static void make_model(struct model *m) {
    for (size_t i = 0; i < PARAMS; i++) {
        m->value[i] = calloc(counts[i], sizeof(float));
        m->param[i] = (rondo_param){names[i], m->value[i], counts[i], RONDO_F32};
    }
}

static void free_model(struct model *m) {
    for (size_t i = 0; i < PARAMS; i++) {
        free(m->value[i]);
    }
}

// Multiples of the world size, so that divided sums are exact.
static float gradient(int n, int rank, int step, size_t i, size_t k) {
    return (float)(n * ((rank + 2) * (step + 1) + (int)i + (int)(k % 11)));
}

static void write_gradient(rondo_ddp *d, int n, int rank, int step, size_t i) {
    float *g = rondo_ddp_grad(d, i);
    for (size_t k = 0; k < counts[i]; k++) {
        g[k] = gradient(n, rank, step, i, k);
    }
}

static rondo_ddp_options small_buckets(void) {
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.first_bucket_bytes = 4 << 10;
    o.bucket_bytes = 64 << 10;
    o.rows = rows;
    return o;
}

// ---- Types ---------------------------------------------------------------------------------------

static void put(void *p, size_t k, rondo_type t, float x) {
    if (t == RONDO_F32) {
        ((float *)p)[k] = x;
    } else if (t == RONDO_F64) {
        ((double *)p)[k] = (double)x;
    } else {
        ((uint16_t *)p)[k] = t == RONDO_F16 ? rdi_f32_to_f16(x) : rdi_f32_to_bf16(x);
    }
}

static float get(const void *p, size_t k, rondo_type t) {
    if (t == RONDO_F32) {
        return ((const float *)p)[k];
    }
    return t == RONDO_F64   ? (float)((const double *)p)[k]
           : t == RONDO_F16 ? rdi_f16_to_f32(((const uint16_t *)p)[k])
                            : rdi_bf16_to_f32(((const uint16_t *)p)[k]);
}

static int mixed_types(rondo_comm *c) {
    enum { N = 4, COUNT = 300 };
    static const rondo_type types[N] = {RONDO_F32, RONDO_BF16, RONDO_F64, RONDO_F16};
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    double memory[N][COUNT] = {{0}};
    rondo_param params[N];
    rondo_ddp *d = NULL;
    for (size_t i = 0; i < N; i++) {
        params[i] = (rondo_param){names[i], memory[i], COUNT, types[i]};
    }
    OK(rondo_ddp_create(c, params, N, NULL, &d));
    for (int step = 0; step < 3; step++) {
        for (size_t i = 0; i < N; i++) {
            for (size_t k = 0; k < COUNT; k++) {
                put(rondo_ddp_grad(d, i), k, types[i], (float)(n * (me + step + (int)(k % 5))));
            }
            OK(rondo_ddp_grad_ready(d, i));
        }
        OK(rondo_ddp_finish(d));
        for (size_t i = 0; i < N; i++) {
            for (size_t k = 0; k < COUNT; k++) {
                float sum = (float)(n * (n - 1) / 2 + n * (step + (int)(k % 5)));
                CHECK(get(rondo_ddp_grad(d, i), k, types[i]) == sum);
            }
        }
    }
    OK(rondo_ddp_destroy(d));
    return 0;
}

// ---- Parameters that take no part ----------------------------------------------------------------

static bool uses(int rank, int step, size_t i) {
    return i != 3 ? ((int)i + step + rank) % 3 != 0 : step != 1;
}

static int check_used(rondo_ddp *d, int n, int step) {
    for (size_t i = 0; i < PARAMS; i++) {
        const float *g = rondo_ddp_grad(d, i);
        int any = 0, used = -1;
        for (int r = 0; r < n; r++) {
            any |= uses(r, step, i);
        }
        for (size_t k = 0; k < counts[i]; k++) {
            float sum = 0;
            for (int r = 0; r < n; r++) {
                sum += uses(r, step, i) ? gradient(n, r, step, i, k) / (float)n : 0;
            }
            CHECK(g[k] == sum);
        }
        OK(rondo_ddp_grad_used(d, i, &used));
        CHECK(used == any);
    }
    return 0;
}

static int find_unused(rondo_comm *c) {
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = small_buckets();
    int n = rondo_comm_size(c), me = rondo_comm_rank(c), used = -1;
    o.find_unused = 1;
    make_model(&m);
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    for (int step = 0; step < 4; step++) {
        for (size_t i = PARAMS; i-- > 0;) {
            if (uses(me, step, i)) {
                write_gradient(d, n, me, step, i);
                OK(rondo_ddp_grad_ready(d, i));
            } else if (step == 2) { // told at once, or found
                OK(rondo_ddp_grad_unused(d, i));
            }
        }
        OK(rondo_ddp_finish(d));
        CHECK(check_used(d, n, step) == 0);
    }
    // What only a pass before has used counts, too.
    OK(rondo_ddp_zero_grad(d));
    OK(rondo_ddp_set_sync(d, 0));
    write_gradient(d, n, me, 0, 1);
    OK(rondo_ddp_grad_ready(d, 1));
    OK(rondo_ddp_finish(d));
    OK(rondo_ddp_set_sync(d, 1));
    OK(rondo_ddp_finish(d));
    CHECK(((float *)rondo_ddp_grad(d, 1))[5] == (float)(n * (n - 1) / 2 + n * (2 + 1 + 5)));
    OK(rondo_ddp_grad_used(d, 1, &used));
    CHECK(used == 1);
    OK(rondo_ddp_grad_used(d, 2, &used));
    CHECK(used == 0);
    CHECK(rondo_ddp_grad_used(d, PARAMS, &used) == RONDO_ERR_INVALID);
    OK(rondo_ddp_destroy(d));
    free_model(&m);
    return 0;
}

// Parameter 2 belongs to `shares` layers, and 4 to none.
static int static_step(rondo_ddp *d, int n, int me, int step, int shares) {
    for (size_t i = PARAMS; i-- > 0;) {
        float *g = rondo_ddp_grad(d, i);
        for (int part = 0; i != 4 && part < (i == 2 ? shares : 1); part++) {
            for (size_t k = 0; k < counts[i]; k++) {
                float all = gradient(n, me, step, i, k);
                g[k] = i != 2 ? all : (part ? g[k] : 0) + all;
            }
            OK(rondo_ddp_grad_ready(d, i));
        }
    }
    return 0;
}

static int static_graph(rondo_comm *c) {
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = small_buckets();
    int n = rondo_comm_size(c), me = rondo_comm_rank(c), used = -1;
    o.static_graph = 1;
    make_model(&m);
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    for (int step = 0; step < 3; step++) {
        CHECK(static_step(d, n, me, step, 3) == 0);
        if (step == 2) {
            CHECK(rondo_ddp_grad_ready(d, 2) == RONDO_ERR_USAGE &&
                  strstr(rondo_last_error(), "w2") && strstr(rondo_last_error(), "4 times"));
        }
        OK(rondo_ddp_finish(d));
        for (size_t i = 0; i < PARAMS; i++) {
            const float *g = rondo_ddp_grad(d, i);
            for (size_t k = 0; k < counts[i]; k++) {
                float sum = 0;
                for (int r = 0; r < n; r++) {
                    sum += (i == 2 ? 3.0f : 1.0f) * gradient(n, r, step, i, k) / (float)n;
                }
                CHECK(g[k] == (i == 4 ? 0 : sum));
            }
            OK(rondo_ddp_grad_used(d, i, &used));
            CHECK(used == (i != 4));
        }
    }
    // A mark too few is found, and named; then the step goes on.
    CHECK(static_step(d, n, me, 0, 2) == 0);
    CHECK(rondo_ddp_finish(d) == RONDO_ERR_USAGE && strstr(rondo_last_error(), "\"w2\"") &&
          !strstr(rondo_last_error(), "w3") && strstr(rondo_last_error(), "static_graph"));
    OK(rondo_ddp_grad_ready(d, 2));
    OK(rondo_ddp_finish(d));
    OK(rondo_ddp_destroy(d));
    // Ranks that mark otherwise.
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    CHECK(static_step(d, n, me, 0, me == 1 ? 2 : 3) == 0);
    rondo_status s = rondo_ddp_finish(d);
    CHECK(n == 1 ? s == RONDO_OK
                 : s == RONDO_ERR_MISMATCH && strstr(rondo_last_error(), "w2") &&
                       strstr(rondo_last_error(), "marked 2 times"));
    OK(rondo_ddp_destroy(d));
    free_model(&m);
    return 0;
}

// ---- Uneven inputs -------------------------------------------------------------------------------

static int batches(int rank) { return 2 + (rank * 2) % 3; }

struct trained {
    rondo_ddp *d;
    struct model m;
    int shadows;
};

static rondo_status on_shadow(void *arg) {
    ((struct trained *)arg)->shadows++;
    return RONDO_OK;
}

static int train(struct trained *t, int n, int me, bool buffers) {
    for (int step = 0; step < batches(me); step++) {
        if (buffers) {
            OK(rondo_ddp_forward(t->d));
        }
        for (size_t i = PARAMS; i-- > 0;) {
            write_gradient(t->d, n, me, step, i);
            OK(rondo_ddp_grad_ready(t->d, i));
        }
        OK(rondo_ddp_finish(t->d));
        for (size_t i = 0; i < PARAMS; i++) {
            const float *g = rondo_ddp_grad(t->d, i);
            for (size_t k = 0; k < counts[i]; k++) {
                t->m.value[i][k] -= 0.125f * g[k];
            }
        }
    }
    return 0;
}

// What all steps come to, in one process.
static float trained(int n, bool initial, size_t i, size_t k, int *steps, int *least) {
    double value = 0;
    for (int step = 0;; step++) {
        double sum = 0;
        int active = 0;
        for (int r = 0; r < n; r++) {
            active += step < batches(r);
            sum += step < batches(r) ? (double)gradient(n, r, step, i, k) : 0;
        }
        if (active == 0) {
            *steps = step;
            *least = 2;
            return (float)value;
        }
        value -= 0.125 * sum / (initial ? n : active);
    }
}

static int join(rondo_comm *c, bool initial, bool buffers) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c), steps = 0, least = 0;
    struct trained t = {0};
    rondo_ddp_options o = small_buckets();
    rondo_ddp_join_options j = RONDO_DDP_JOIN_OPTIONS_INIT;
    int64_t running[3] = {me, me + 10, me + 20};
    const rondo_ddp_buffer list[] = {{"running", running, 3, RONDO_I64}};
    o.buffers = list;
    o.nbuffers = buffers;
    o.find_unused = buffers;
    j.divide_by_initial = initial;
    j.shadow = on_shadow;
    j.arg = &t;
    make_model(&t.m);
    OK(rondo_ddp_create(c, t.m.param, PARAMS, &o, &t.d));
    CHECK(!buffers || running[1] == 10);
    OK(rondo_ddp_join_begin(t.d, &j));
    CHECK(rondo_ddp_join_begin(t.d, &j) == RONDO_ERR_USAGE);
    running[1] = 100 + me;
    CHECK(train(&t, n, me, buffers) == 0);
    OK(rondo_ddp_join_end(t.d));
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t k = 0; k < counts[i]; k++) {
            float want = trained(n, initial, i, k, &steps, &least);
            CHECK(fabsf(t.m.value[i][k] - want) <= 1e-5f * fabsf(want));
        }
    }
    CHECK(t.shadows == steps - batches(me) && (!buffers || running[1] == 100));
    CHECK(rondo_ddp_join_end(t.d) == RONDO_ERR_USAGE);
    OK(rondo_ddp_destroy(t.d));
    free_model(&t.m);
    return 0;
}

static int stop_early(rondo_comm *c) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_join_options j = RONDO_DDP_JOIN_OPTIONS_INIT;
    j.stop_early = 1;
    make_model(&m);
    OK(rondo_ddp_create(c, m.param, PARAMS, NULL, &d));
    OK(rondo_ddp_join_begin(d, &j));
    rondo_status s = RONDO_OK;
    int step = 0, mine = me == 0 ? 2 : 4;
    for (; step < mine && s == RONDO_OK; step++) {
        for (size_t i = 0; i < PARAMS; i++) {
            write_gradient(d, n, me, step, i);
            OK(rondo_ddp_grad_ready(d, i));
        }
        s = rondo_ddp_finish(d);
    }
    if (me == 0) {
        s = rondo_ddp_join_end(d);
    }
    CHECK(n == 1 ? s == RONDO_OK
                 : s == RONDO_END_OF_INPUT && strstr(rondo_last_error(), "rank 0") != NULL);
    CHECK(step == (me == 0 ? 2 : 3));
    OK(rondo_barrier(c));
    OK(rondo_ddp_destroy(d));
    free_model(&m);
    return 0;
}

// ---- Sparse gradients ----------------------------------------------------------------------------

// Rows that a rank has in a pass, one of them twice, and their values.
static size_t sparse_rows(int n, int rank, int pass, uint64_t *row, float *values) {
    size_t k = 0;
    row[k++] = (uint64_t)(5 + rank);
    row[k++] = 3;
    row[k++] = (uint64_t)(30 - rank - pass);
    row[k++] = 3;
    for (size_t e = 0; e < k * WIDTH; e++) {
        values[e] = (float)(n * (rank + 1 + (int)(e % 7) + pass));
    }
    return rank == 2 ? 0 : k;
}

static int check_rows(rondo_ddp *d, int n, int passes) {
    float want[ROWS][WIDTH] = {{0}}, values[4 * WIDTH];
    bool there[ROWS] = {false};
    uint64_t row[4];
    for (int r = 0; r < n; r++) {
        for (int pass = 0; pass < passes; pass++) {
            size_t count = sparse_rows(n, r, pass, row, values);
            for (size_t e = 0; e < count * WIDTH; e++) {
                want[row[e / WIDTH]][e % WIDTH] += values[e] / (float)n;
                there[row[e / WIDTH]] = true;
            }
        }
    }
    const uint64_t *got;
    const void *sum;
    size_t nrows = 0, at = 0;
    OK(rondo_ddp_grad_sparse(d, 0, &got, &sum, &nrows));
    for (size_t r = 0; r < ROWS; r++) {
        if (there[r]) {
            CHECK(at < nrows && got[at] == r);
            CHECK(memcmp((const float *)sum + at++ * WIDTH, want[r], sizeof want[r]) == 0);
        }
    }
    CHECK(at == nrows);
    return 0;
}

static int sparse(rondo_comm *c) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = small_buckets();
    const size_t list[] = {0};
    uint64_t row[4], wrong = ROWS;
    float values[4 * WIDTH];
    o.sparse = list;
    o.nsparse = 1;
    make_model(&m);
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    CHECK(rondo_ddp_grad(d, 0) == NULL);
    for (int step = 0; step < 4; step++) {
        int passes = step == 3 ? 2 : 1;
        for (int pass = 0; pass < passes; pass++) {
            OK(rondo_ddp_set_sync(d, pass + 1 == passes));
            for (size_t i = PARAMS; i-- > 1;) {
                write_gradient(d, n, me, step, i);
                OK(rondo_ddp_grad_ready(d, i));
            }
            CHECK(rondo_ddp_grad_ready(d, 0) == RONDO_ERR_USAGE);
            OK(rondo_ddp_grad_ready_sparse(d, 0, row, values,
                                           sparse_rows(n, me, pass, row, values)));
            OK(rondo_ddp_finish(d));
        }
        CHECK(check_rows(d, n, passes) == 0);
        CHECK(((float *)rondo_ddp_grad(d, 1))[0] ==
              (float)((step + 1) * (n * (n - 1) / 2 + 2 * n) + n));
    }
    CHECK(rondo_ddp_grad_ready_sparse(d, 0, &wrong, values, 1) == RONDO_ERR_INVALID &&
          strstr(rondo_last_error(), "40 rows"));
    OK(rondo_ddp_destroy(d));
    o.rows = NULL;
    CHECK(rondo_ddp_create(c, m.param, PARAMS, &o, &d) == RONDO_ERR_INVALID &&
          strstr(rondo_last_error(), "embed"));
    OK(rondo_barrier(c));
    free_model(&m);
    return 0;
}

// ---- Clipping ------------------------------------------------------------------------------------

static int clip(rondo_comm *c) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    struct model m;
    rondo_ddp *d = NULL;
    double norm = 0, sum = 0, most = 0;
    make_model(&m);
    OK(rondo_ddp_create(c, m.param, PARAMS, NULL, &d));
    for (size_t i = 0; i < PARAMS; i++) {
        write_gradient(d, n, me, 0, i);
        OK(rondo_ddp_grad_ready(d, i));
    }
    OK(rondo_ddp_finish(d));
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t k = 0; k < counts[i]; k++) {
            double g = (double)((float *)rondo_ddp_grad(d, i))[k];
            sum += g * g;
            most = fmax(most, fabs(g));
        }
    }
    float before = ((float *)rondo_ddp_grad(d, 2))[9];
    OK(rondo_ddp_clip_grad_norm(d, 1e9, 2, &norm));
    CHECK(fabs(norm - sqrt(sum)) <= 1e-9 * norm && ((float *)rondo_ddp_grad(d, 2))[9] == before);
    OK(rondo_ddp_clip_grad_norm(d, 1e9, INFINITY, &norm));
    CHECK(norm == most);
    OK(rondo_ddp_clip_grad_norm(d, 2.0, 2, NULL));
    OK(rondo_ddp_clip_grad_norm(d, 10.0, 2, &norm));
    CHECK(fabs(norm - 2.0) < 1e-3);
    CHECK(fabs((double)((float *)rondo_ddp_grad(d, 2))[9] - (double)before * 2 / sqrt(sum)) < 1e-6);
    ((float *)rondo_ddp_grad(d, 1))[0] = NAN;
    CHECK(rondo_ddp_clip_grad_norm(d, 1.0, 2, &norm) == RONDO_ERR_INVALID && isnan(norm));
    CHECK(rondo_ddp_clip_grad_norm(d, 1.0, INFINITY, &norm) == RONDO_ERR_INVALID && isnan(norm));
    CHECK(rondo_ddp_clip_grad_norm(d, 0.0, 2, &norm) == RONDO_ERR_INVALID);
    CHECK(rondo_ddp_clip_grad_norm(d, 1.0, 3, &norm) == RONDO_ERR_INVALID);
    OK(rondo_ddp_destroy(d));
    free_model(&m);
    return 0;
}

// ---- Sizes that are tried out, and figures -------------------------------------------------------

static float any_float(int rank, int step, size_t i, size_t k) {
    return 1.0f / (float)(3 + rank * 7 + step + (int)i) + (float)(k % 13) * 0.01f;
}

static int tune(rondo_comm *c, bool strict) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c), step = 0;
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    rondo_ddp_stats s = {.size = sizeof s};
    uint64_t caps[64];
    o.bucket_bytes = RONDO_DDP_BUCKET_AUTO;
    make_model(&m);
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    do {
        for (size_t i = PARAMS; i-- > 0;) {
            float *g = rondo_ddp_grad(d, i);
            for (size_t k = 0; k < counts[i]; k++) {
                g[k] = any_float(me, step, i, k);
            }
            OK(rondo_ddp_grad_ready(d, i));
        }
        OK(rondo_ddp_finish(d));
        for (size_t i = 0; i < PARAMS; i++) {
            const float *g = rondo_ddp_grad(d, i);
            for (size_t k = 0; k < counts[i]; k++) {
                float sum = any_float(0, step, i, k) * (1.0f / (float)n);
                for (int r = 1; r < n; r++) {
                    sum += any_float(r, step, i, k) * (1.0f / (float)n);
                }
                CHECK(strict ? g[k] == sum : fabsf(g[k] - sum) < 1e-6f);
            }
        }
        OK(rondo_ddp_get_stats(d, &s));
    } while (s.tuning && ++step < 60);
    CHECK(!s.tuning && step >= 3 && s.bucket_bytes >= 256 << 10 && s.buckets >= 1);
    caps[me] = s.bucket_bytes;
    OK(rondo_all_gather(&caps[me], caps, 1, RONDO_U64, c));
    for (int r = 0; r < n; r++) {
        CHECK(caps[r] == caps[0]);
    }
    OK(rondo_ddp_destroy(d));
    free_model(&m);
    return 0;
}

static int logging_data(rondo_comm *c) {
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = small_buckets();
    char text[4096], word[80];
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    o.find_unused = 1;
    make_model(&m);
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    for (int step = 0; step < 3; step++) {
        for (size_t i = 0; i + 1 < PARAMS; i++) {
            write_gradient(d, n, me, step, i);
            OK(rondo_ddp_grad_ready(d, i));
        }
        OK(rondo_ddp_finish(d));
    }
    int used;
    OK(rondo_ddp_grad_used(d, 5, &used));
    OK(rondo_ddp_logging_data(d, text, sizeof text));
    snprintf(word, sizeof word, "\"world_size\": %d, \"rank\": %d", n, me);
    CHECK(strstr(text, word) && strstr(text, "\"num_iterations\": 3") &&
          strstr(text, "\"has_rebuilt_buckets\": 1") &&
          strstr(text, "\"comm_hook\": \"all_reduce\"") &&
          strstr(text, "\"find_unused_parameters\": 1") &&
          strstr(text, "\"unused_parameter_size_bytes\": 256") && text[strlen(text) - 1] == '}');
    CHECK(!strstr(text, "\"avg_backward_compute_time_s\": 0.000000000"));
    CHECK(rondo_ddp_logging_data(d, text, 100) == RONDO_ERR_INVALID &&
          strstr(rondo_last_error(), "are needed") && text[0] == '\0');
    OK(rondo_ddp_destroy(d));
    free_model(&m);
    return 0;
}

// ---- What does not go together -------------------------------------------------------------------

static int refusals(rondo_comm *c) {
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = small_buckets();
    make_model(&m);
    o.shard = o.elastic = 1;
    CHECK(rondo_ddp_create(c, m.param, PARAMS, &o, &d) == RONDO_ERR_UNSUPPORTED &&
          strstr(rondo_last_error(), "checkpoint"));
    o.elastic = 0;
    o.bucket_bytes = RONDO_DDP_BUCKET_AUTO;
    CHECK(rondo_ddp_create(c, m.param, PARAMS, &o, &d) == RONDO_ERR_UNSUPPORTED &&
          strstr(rondo_last_error(), "AUTO"));
    const size_t bad[PARAMS] = {7};
    o = small_buckets();
    o.rows = bad;
    CHECK(rondo_ddp_create(c, m.param, PARAMS, &o, &d) == RONDO_ERR_INVALID &&
          strstr(rondo_last_error(), "7 rows"));
    const size_t other[PARAMS] = {rondo_comm_rank(c) == 1 ? 20 : 40};
    o.rows = other;
    rondo_status s = rondo_ddp_create(c, m.param, PARAMS, &o, &d);
    CHECK(rondo_comm_size(c) == 1
              ? s == RONDO_OK
              : s == RONDO_ERR_MISMATCH && strstr(rondo_last_error(), "20 rows"));
    OK(rondo_ddp_destroy(d));
    OK(rondo_barrier(c));
    free_model(&m);
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    CHECK(mixed_types(c) == 0);
    CHECK(find_unused(c) == 0);
    CHECK(static_graph(c) == 0);
    CHECK(join(c, true, false) == 0);
    CHECK(join(c, false, true) == 0);
    CHECK(stop_early(c) == 0);
    CHECK(sparse(c) == 0);
    CHECK(clip(c) == 0);
    CHECK(tune(c, strstr(arg, "order=strict") != NULL) == 0);
    CHECK(logging_data(c) == 0);
    CHECK(refusals(c) == 0);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: features RANKS OPTIONS\n");
        return 2;
    }
    return rt_run(atoi(argv[1]), argv[2], body, argv[2]);
}
