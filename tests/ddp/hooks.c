// SPDX-License-Identifier: MIT
// Communication hooks, each called in rounds as the DDP layer does, against what a single process would compute:
// hooks RANKS OPTIONS
#include "tests/ddp/hook_reference.h"
#include "tests/ring/ring_test.h"

#include <stdbool.h>

#include "ring/half.h"

// ---- Three buckets -------------------------------------------------------------------------------

enum { BUCKETS = 3, SLICES = 3, PARAMS = 7, CAP = 8192 };

// Parameters as they lie in buckets: rows, columns; a vector has rows 0.
static const size_t shape[PARAMS][2] = {{37, 53}, {0, 53}, {16, 90}, {0, 5},
                                        {0, 130}, {5, 4},  {64, 70}};
static const int layout[BUCKETS][SLICES] = {{0, 1, 5}, {3, 4, -1}, {2, 6, -1}};

struct job {
    rondo_comm *comm;
    int n, me;
    rondo_type type;
    rondo_ddp_hook hook;
    rondo_ddp_bucket bucket[BUCKETS];
    rondo_ddp_slice slice[BUCKETS][SLICES];
    size_t at[PARAMS], home[PARAMS];
    void *data[BUCKETS];
    uint64_t bytes;
    double error, norm;
};

static size_t count_of(size_t i) { return shape[i][1] * (shape[i][0] ? shape[i][0] : 1); }

static int set_up(struct job *j, rondo_comm *c, rondo_type type, rondo_ddp_hook hook) {
    *j = (struct job){.comm = c, .n = rondo_comm_size(c), .me = rondo_comm_rank(c), .type = type};
    j->hook = hook;
    for (size_t b = 0; b < BUCKETS; b++) {
        size_t end = 0, n = 0;
        for (; n < SLICES && layout[b][n] >= 0; n++) {
            size_t i = (size_t)layout[b][n];
            j->slice[b][n] = (rondo_ddp_slice){i, end, count_of(i), shape[i][0]};
            j->at[i] = end;
            j->home[i] = b;
            end = (end + count_of(i) + 15) / 16 * 16; // as on cache lines: with gaps
        }
        OK(rondo_mem_alloc(end * rondo_type_size(type), &j->data[b]));
        j->bucket[b] = (rondo_ddp_bucket){.size = sizeof(rondo_ddp_bucket),
                                          .index = b,
                                          .buckets = BUCKETS,
                                          .data = j->data[b],
                                          .count = end,
                                          .type = type,
                                          .nslices = n,
                                          .slices = j->slice[b],
                                          .comm = c};
    }
    return 0;
}

static int tear_down(struct job *j) {
    for (size_t b = 0; b < BUCKETS; b++) {
        if (j->hook.drain) {
            j->hook.drain(j->hook.state, &j->bucket[b]);
        }
        if (j->hook.release) {
            j->hook.release(j->hook.state, &j->bucket[b]);
        }
        CHECK(j->bucket[b].work == NULL);
        OK(rondo_mem_free(j->data[b]));
    }
    rondo_ddp_hook_destroy(&j->hook);
    return 0;
}

static double get(const struct job *j, size_t i, size_t k) {
    const void *d = j->data[j->home[i]];
    k += j->at[i];
    switch (j->type) {
    case RONDO_F64:
        return ((const double *)d)[k];
    case RONDO_F32:
        return (double)((const float *)d)[k];
    case RONDO_F16:
        return (double)rdi_f16_to_f32(((const uint16_t *)d)[k]);
    default:
        return (double)rdi_bf16_to_f32(((const uint16_t *)d)[k]);
    }
}

static void put(struct job *j, size_t i, size_t k, double x) {
    void *d = j->data[j->home[i]];
    k += j->at[i];
    switch (j->type) {
    case RONDO_F64:
        ((double *)d)[k] = x;
        break;
    case RONDO_F32:
        ((float *)d)[k] = (float)x;
        break;
    case RONDO_F16:
        ((uint16_t *)d)[k] = rdi_f32_to_f16((float)x);
        break;
    default:
        ((uint16_t *)d)[k] = rdi_f32_to_bf16((float)x);
    }
}

typedef double gradient_fn(int rank, int n, int step, size_t i, size_t k);

// A few large directions and some noise, as gradients have; other on each rank. Divided by n, as DDP does.
static double rough(int rank, int n, int step, size_t i, size_t k) {
    size_t cols = shape[i][1], row = k / cols, col = k % cols;
    uint64_t h = ref_mix(ref_mix((uint64_t)rank * 64 + (uint64_t)step) + i * 100000 + k);
    double noise = (double)(h >> 40) / 16777216.0 - 0.5, x = 0.02 * noise;
    for (size_t d = 1; d <= 3; d++) {
        double turn = (double)(d * (row + 1)) + 0.1 * step, lean = (double)((d + 1) * col) + rank;
        x += sin(turn) * cos(lean) / (double)d;
    }
    return x / n;
}

static double fixed(int rank, int n, int step, size_t i, size_t k) {
    (void)step;
    return rough(rank, n, 0, i, k);
}

static double whole_numbers(int rank, int n, int step, size_t i, size_t k) {
    (void)n;
    return (double)((int)(k % 17) - 8 + rank + step + (int)i);
}

static void fill(struct job *j, gradient_fn *g, int step) {
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t k = 0; k < count_of(i); k++) {
            put(j, i, k, g(j->me, j->n, step, i, k));
        }
    }
}

// Rounds as in ddp.h, from round 0 of all buckets to the last one's last.
static rondo_status rounds(struct job *j, int step) {
    bool busy[BUCKETS];
    rondo_status s = RONDO_OK;
    j->bytes = 0;
    j->error = j->norm = 0;
    for (int round = 0, open = BUCKETS; open && s == RONDO_OK; round++) {
        open = 0;
        for (size_t b = 0; b < BUCKETS && s == RONDO_OK; b++) {
            rondo_ddp_bucket *k = &j->bucket[b];
            if (round == 0) {
                k->step = (uint64_t)step;
                k->bytes = 0;
                k->error = k->norm = 0;
            }
            if (round == 0 || busy[b]) {
                s = j->hook.round(j->hook.state, k, round);
                busy[b] = s == RONDO_AGAIN;
                open += busy[b];
                s = s == RONDO_AGAIN ? RONDO_OK : s;
            }
        }
    }
    for (size_t b = 0; b < BUCKETS; b++) {
        j->bytes += j->bucket[b].bytes;
        j->error += j->bucket[b].error;
        j->norm += j->bucket[b].norm;
    }
    return s;
}

static uint64_t digest(const struct job *j) {
    uint64_t h = 0;
    for (size_t b = 0; b < BUCKETS; b++) {
        const unsigned char *d = j->data[b];
        for (size_t i = 0; i < j->bucket[b].count * rondo_type_size(j->type); i++) {
            h = ref_mix(h ^ d[i]);
        }
    }
    return h;
}

// A step, and that its result is the same in all bits on all ranks.
static int step_of(struct job *j, gradient_fn *g, int step) {
    fill(j, g, step);
    OK(rounds(j, step));
    uint64_t mine = digest(j), all[REF_RANKS];
    OK(rondo_all_gather(&mine, all, 1, RONDO_U64, j->comm));
    for (int r = 0; r < j->n; r++) {
        CHECK(all[r] == mine);
    }
    return 0;
}

// The largest distance of any element from the sum over ranks.
static double off_sum(const struct job *j, gradient_fn *g, int step) {
    double worst = 0;
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t k = 0; k < count_of(i); k++) {
            double sum = 0;
            for (int r = 0; r < j->n; r++) {
                sum += g(r, j->n, step, i, k);
            }
            worst = fmax(worst, fabs(get(j, i, k) - sum));
        }
    }
    return worst;
}

static size_t all_elements(const struct job *j) {
    return j->bucket[0].count + j->bucket[1].count + j->bucket[2].count;
}

// ---- all_reduce, and a hook of the program's own -------------------------------------------------

static int plain(rondo_comm *c) {
    struct job j;
    CHECK(set_up(&j, c, RONDO_F32, rondo_ddp_hook_all_reduce()) == 0);
    for (int step = 0; step < 2; step++) {
        CHECK(step_of(&j, whole_numbers, step) == 0);
        CHECK(off_sum(&j, whole_numbers, step) <= 0 && j.bytes == 4 * all_elements(&j));
    }
    // A step that is given up in the middle: its requests are waited for.
    fill(&j, whole_numbers, 2);
    for (size_t b = 0; b < BUCKETS; b++) {
        CHECK(j.hook.round(j.hook.state, &j.bucket[b], 0) == RONDO_AGAIN);
        j.hook.drain(j.hook.state, &j.bucket[b]);
    }
    CHECK(off_sum(&j, whole_numbers, 2) <= 0);
    return tear_down(&j);
}

// Twice the sum, in three rounds.
struct own {
    int destroyed;
};

static rondo_status own_round(void *state, rondo_ddp_bucket *b, int round) {
    (void)state;
    rondo_request *req = b->work;
    if (round == 0) {
        b->bytes += b->count * rondo_type_size(b->type);
        rondo_status s =
            rondo_all_reduce_start(b->data, b->data, b->count, b->type, RONDO_SUM, b->comm, &req);
        b->work = req;
        return s == RONDO_OK ? RONDO_AGAIN : s;
    }
    b->work = NULL;
    if (round == 1) {
        rondo_status s = rondo_wait(&req);
        return s == RONDO_OK ? RONDO_AGAIN : s;
    }
    for (size_t i = 0; i < b->count; i++) {
        if (b->type == RONDO_F32) {
            ((float *)b->data)[i] *= 2.0f;
        } else {
            ((uint16_t *)b->data)[i] =
                rdi_f32_to_f16(2.0f * rdi_f16_to_f32(((uint16_t *)b->data)[i]));
        }
    }
    return RONDO_OK;
}

static void own_destroy(void *state) { ((struct own *)state)->destroyed++; }

static double twice(int rank, int n, int step, size_t i, size_t k) {
    return 2 * whole_numbers(rank, n, step, i, k);
}

static int own_hook(rondo_comm *c) {
    struct own own = {0};
    const rondo_ddp_hook mine = {.size = sizeof mine,
                                 .name = "twice",
                                 .round = own_round,
                                 .destroy = own_destroy,
                                 .state = &own};
    rondo_ddp_hook hook[3] = {mine};
    rondo_powersgd_options o = RONDO_POWERSGD_OPTIONS_INIT;
    o.start_step = 9; // whole through the inner hook until then
    OK(rondo_ddp_hook_cast(RONDO_F16, &mine, &hook[1]));
    OK(rondo_ddp_hook_powersgd(&o, &mine, &hook[2]));
    CHECK(strcmp(hook[1].name, "fp16+twice") == 0 && strstr(hook[2].name, "+twice"));
    for (int kind = 0; kind < 3; kind++) {
        struct job j;
        CHECK(set_up(&j, c, RONDO_F32, hook[kind]) == 0);
        for (int step = 0; step < 3; step++) {
            CHECK(step_of(&j, whole_numbers, step) == 0);
            for (size_t i = 0; i < PARAMS; i++) {
                for (size_t k = 0; k < count_of(i); k++) {
                    double sum = 0;
                    for (int r = 0; r < j.n; r++) {
                        sum += twice(r, j.n, step, i, k);
                    }
                    CHECK(fabs(get(&j, i, k) - sum) <= 0);
                }
            }
        }
        CHECK(tear_down(&j) == 0 && own.destroyed == kind + 1);
    }
    return 0;
}

// ---- Casts ---------------------------------------------------------------------------------------

static int cast(rondo_comm *c, rondo_type type, rondo_type from) {
    struct job j;
    rondo_ddp_hook hook;
    const double unit = type == RONDO_F16 ? 0x1p-11 : 0x1p-8; // half a unit in the last place
    OK(rondo_ddp_hook_cast(type, NULL, &hook));
    CHECK(strcmp(hook.name, type == RONDO_F16 ? "fp16" : "bf16") == 0);
    CHECK(set_up(&j, c, from, hook) == 0);
    CHECK(step_of(&j, whole_numbers, 0) == 0);
    CHECK(off_sum(&j, whole_numbers, 0) <= 0 && j.bytes == 2 * all_elements(&j));
    CHECK(j.error <= 0 && j.norm > 1000);
    CHECK(step_of(&j, rough, 1) == 0);
    CHECK(off_sum(&j, rough, 1) < 6 * unit && off_sum(&j, rough, 1) > 0);
    CHECK(sqrt(j.error / j.norm) > unit / 20 && sqrt(j.error / j.norm) < unit);
    // The largest, infinity and NaN of a single rank; ties.
    fill(&j, whole_numbers, 0);
    for (size_t k = 0; k < 8; k++) {
        double x[8] = {1e6, -1e6, (double)INFINITY, (double)NAN, 1 + unit, 1 + 3 * unit, 65520, 0};
        put(&j, 4, k, j.me == j.n - 1 ? x[k] : 0);
    }
    OK(rounds(&j, 2));
    const double most = type == RONDO_F16 ? 65504 : 999424; // 1e6 has no more than 8 bits in bf16
    CHECK(get(&j, 4, 0) >= most && get(&j, 4, 0) <= most);
    CHECK(get(&j, 4, 1) >= -most && get(&j, 4, 1) <= -most);
    CHECK(isinf(get(&j, 4, 2)) && isnan(get(&j, 4, 3)) && get(&j, 4, 4) <= 1);
    CHECK(get(&j, 4, 5) >= 1 + 4 * unit && get(&j, 4, 5) <= 1 + 4 * unit);
    CHECK(get(&j, 4, 6) <= (type == RONDO_F16 ? 65504 : 65536));
    return tear_down(&j);
}

// ---- PowerSGD ------------------------------------------------------------------------------------

struct powersgd_case {
    rondo_powersgd_options o;
    rondo_type type, inner, outer; // inner, outer: RONDO_F32 for none, or a cast there
    double tolerance;
};

static int make_hook(const struct powersgd_case *p, rondo_ddp_hook *hook) {
    rondo_ddp_hook inner, middle;
    if (p->inner != RONDO_F32) {
        OK(rondo_ddp_hook_cast(p->inner, NULL, &inner));
    }
    OK(rondo_ddp_hook_powersgd(&p->o, p->inner != RONDO_F32 ? &inner : NULL, &middle));
    *hook = middle;
    if (p->outer != RONDO_F32) {
        OK(rondo_ddp_hook_cast(p->outer, &middle, hook));
    }
    return 0;
}

static bool compressed(const rondo_powersgd_options *o, size_t i) {
    double r = (double)shape[i][0], c = (double)shape[i][1];
    return shape[i][0] > 1 && r * c > o->min_saving * o->rank * (r + c);
}

// What is handed to collectives, counted by hand.
static uint64_t bytes_of(const struct job *j, const struct powersgd_case *p) {
    uint64_t elements = 0, vectors = 0;
    for (size_t i = 0; i < PARAMS; i++) {
        size_t least = shape[i][0] < shape[i][1] ? shape[i][0] : shape[i][1];
        size_t rank = (size_t)p->o.rank < least ? (size_t)p->o.rank : least;
        // A bucket without a matrix goes as it is, with its gaps.
        if (compressed(&p->o, i)) {
            elements += rank * (shape[i][0] + shape[i][1]);
        } else if (j->home[i] != 1) {
            vectors += count_of(i);
        }
    }
    vectors += j->bucket[1].count;
    size_t narrow = p->inner != RONDO_F32 ? 2 : 0;
    size_t factor = p->type == RONDO_F64 ? 8 : 4;
    size_t value = p->outer != RONDO_F32 ? 2 : rondo_type_size(p->type);
    return elements * (narrow ? narrow : factor) + vectors * (narrow ? narrow : value);
}

static int against_reference(rondo_comm *c, struct powersgd_case p) {
    struct job j;
    rondo_ddp_hook hook;
    struct ref_matrix ref[PARAMS];
    double *grad[REF_RANKS], *want = malloc(CAP * sizeof *want);
    CHECK(make_hook(&p, &hook) == 0 && set_up(&j, c, p.type, hook) == 0);
    for (int r = 0; r < REF_RANKS; r++) {
        grad[r] = malloc(CAP * sizeof **grad);
    }
    for (size_t i = 0; i < PARAMS; i++) {
        ref[i] = ref_make(i, shape[i][0], shape[i][1], p.o.rank, p.o.error_feedback);
    }
    for (int step = 0; step < 5; step++) {
        CHECK(step_of(&j, rough, step) == 0);
        bool whole = (uint64_t)step < p.o.start_step;
        CHECK(whole || j.bytes == bytes_of(&j, &p));
        CHECK(j.norm > 0 && (whole || (j.error > 0 && j.error < 20 * j.norm)));
        for (size_t i = 0; i < PARAMS; i++) {
            size_t n = count_of(i);
            for (int r = 0; r < j.n; r++) {
                for (size_t k = 0; k < n; k++) {
                    grad[r][k] = rough(r, j.n, step, i, k);
                }
            }
            if (compressed(&p.o, i) && !whole) {
                ref_step(&ref[i], j.n, grad, (uint64_t)step, want);
                ref[i].begun = p.o.warm_start;
            } else {
                for (size_t k = 0; k < n; k++) {
                    want[k] = 0;
                    for (int r = 0; r < j.n; r++) {
                        want[k] += grad[r][k];
                    }
                }
            }
            for (size_t k = 0; k < n; k++) {
                if (!(fabs(get(&j, i, k) - want[k]) < p.tolerance)) {
                    fprintf(stderr, "%s: step %d, gradient %zu[%zu] is %g, not %g\n", hook.name,
                            step, i, k, get(&j, i, k), want[k]);
                    return 1;
                }
            }
        }
    }
    for (size_t i = 0; i < PARAMS; i++) {
        ref_free(&ref[i]);
    }
    for (int r = 0; r < REF_RANKS; r++) {
        free(grad[r]);
    }
    free(want);
    return tear_down(&j);
}

static int references(rondo_comm *c) {
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 1e-4};
    CHECK(against_reference(c, p) == 0);
    p.o.rank = 4;
    CHECK(against_reference(c, p) == 0);
    p.o.start_step = 2;
    CHECK(against_reference(c, p) == 0);
    p.o.warm_start = 0;
    CHECK(against_reference(c, p) == 0);
    p.o.error_feedback = 0;
    p.o.rank = 3;
    CHECK(against_reference(c, p) == 0);
    p = (struct powersgd_case){RONDO_POWERSGD_OPTIONS_INIT, RONDO_F64, RONDO_F32, RONDO_F32, 1e-11};
    p.o.rank = 2;
    CHECK(against_reference(c, p) == 0);
    p.o.min_saving = 0.5; // and the small one
    CHECK(against_reference(c, p) == 0);
    // Both ways round; and gradients that are f16 themselves.
    p = (struct powersgd_case){RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F16, RONDO_F32, 0.02};
    p.o.rank = 2;
    CHECK(against_reference(c, p) == 0);
    p.inner = RONDO_F32;
    p.outer = RONDO_F16;
    CHECK(against_reference(c, p) == 0);
    p.outer = RONDO_F32;
    p.type = RONDO_F16;
    return against_reference(c, p);
}

// With as many columns as the matrix has nothing is left out.
static int full_rank(rondo_comm *c) {
    struct job j;
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 0};
    rondo_ddp_hook hook;
    p.o.rank = 64;
    p.o.min_saving = 0;
    CHECK(make_hook(&p, &hook) == 0 && set_up(&j, c, RONDO_F32, hook) == 0);
    for (int step = 0; step < 8; step++) {
        CHECK(step_of(&j, rough, step) == 0);
        // Of a matrix with fewer columns than rows a rank's own part may be left out, but not of the sum.
        CHECK(off_sum(&j, rough, step) < 2e-5 && j.error < (j.n == 1 ? 1e-12 : 1e-5) * j.norm);
    }
    return tear_down(&j);
}

// On a gradient that stays the same, what is handed out tends in the mean to what it should be; without feedback not.
static int feedback(rondo_comm *c, int on, double *off) {
    struct job j;
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 0};
    rondo_ddp_hook hook;
    enum { STEPS = 60 };
    double *sum = calloc(CAP, sizeof *sum);
    p.o.error_feedback = on;
    CHECK(make_hook(&p, &hook) == 0 && set_up(&j, c, RONDO_F32, hook) == 0);
    for (int step = 0; step < STEPS; step++) {
        CHECK(step_of(&j, fixed, step) == 0);
        for (size_t k = 0; k < count_of(6); k++) {
            sum[k] += get(&j, 6, k) / STEPS;
        }
    }
    double error = 0, norm = 0;
    for (size_t k = 0; k < count_of(6); k++) {
        double want = 0;
        for (int r = 0; r < j.n; r++) {
            want += fixed(r, j.n, 0, 6, k);
        }
        error += (sum[k] - want) * (sum[k] - want);
        norm += want * want;
    }
    *off = sqrt(error / norm);
    free(sum);
    return tear_down(&j);
}

static int convergence(rondo_comm *c) {
    double with = 0, without = 0;
    CHECK(feedback(c, 1, &with) == 0 && feedback(c, 0, &without) == 0);
    if (with > 0.05 || without < 0.2) {
        fprintf(stderr, "off the mean by %g with feedback, by %g without\n", with, without);
        return 1;
    }
    return 0;
}

// A gradient that is not finite is seen in its step, by all, and in none after it.
static int not_finite(rondo_comm *c) {
    struct job j;
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 0};
    rondo_ddp_hook hook;
    p.o.rank = 64;
    p.o.min_saving = 0;
    CHECK(make_hook(&p, &hook) == 0 && set_up(&j, c, RONDO_F32, hook) == 0);
    for (int step = 0; step < 6; step++) {
        fill(&j, rough, step);
        bool bad = step == 1 || step == 3;
        if (bad && j.me == j.n - 1) {
            put(&j, 0, 100, step == 1 ? (double)NAN : (double)INFINITY);
        }
        OK(rounds(&j, step));
        CHECK(bad ? isnan(get(&j, 0, 100)) : off_sum(&j, rough, step) < 2e-5);
        CHECK(!isnan(get(&j, 6, 0)));
    }
    return tear_down(&j);
}

// Zeros, on all ranks or all but one: no NaN, and no part of the rank is lost for later.
static int zeros(rondo_comm *c) {
    struct job j;
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 0};
    rondo_ddp_hook hook;
    p.o.rank = 64;
    p.o.min_saving = 0;
    CHECK(make_hook(&p, &hook) == 0 && set_up(&j, c, RONDO_F32, hook) == 0);
    for (size_t b = 0; b < BUCKETS; b++) {
        memset(j.data[b], 0, j.bucket[b].count * 4);
    }
    OK(rounds(&j, 0));
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t k = 0; k < count_of(i); k++) {
            CHECK(fabs(get(&j, i, k)) <= 0);
        }
    }
    CHECK(step_of(&j, rough, 1) == 0 && off_sum(&j, rough, 1) < 2e-5);
    return tear_down(&j);
}

// A step that does not count, at its beginning or its end, leaves nothing behind when it is repeated.
static int repeated(rondo_comm *c) {
    struct job a, b;
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 0};
    rondo_ddp_hook hook;
    p.o.rank = 2;
    CHECK(make_hook(&p, &hook) == 0 && set_up(&a, c, RONDO_F32, hook) == 0);
    CHECK(make_hook(&p, &hook) == 0 && set_up(&b, c, RONDO_F32, hook) == 0);
    for (int step = 0; step < 4; step++) {
        CHECK(step_of(&a, rough, step) == 0);
        fill(&b, rough, step + 7);
        for (size_t k = 0; k < BUCKETS; k++) {
            b.bucket[k].step = (uint64_t)step;
            CHECK(b.hook.round(b.hook.state, &b.bucket[k], 0) == RONDO_AGAIN);
        }
        for (size_t k = 0; k < BUCKETS; k++) {
            b.hook.drain(b.hook.state, &b.bucket[k]);
        }
        for (int again = 0; again < 2; again++) {
            CHECK(step_of(&b, rough, step) == 0);
            CHECK(digest(&a) == digest(&b));
        }
    }
    return tear_down(&a) || tear_down(&b);
}

// With another communicator the last step's factors count no more: a rank may be there that has none.
static int other_comm(rondo_comm *c) {
    struct job a, b;
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 0};
    rondo_ddp_hook hook;
    rondo_comm *next = NULL;
    p.o.error_feedback = 0;
    CHECK(make_hook(&p, &hook) == 0 && set_up(&a, c, RONDO_F32, hook) == 0);
    CHECK(make_hook(&p, &hook) == 0 && set_up(&b, c, RONDO_F32, hook) == 0);
    CHECK(step_of(&a, rough, 0) == 0 && step_of(&a, rough, 1) == 0);
    OK(rondo_comm_split(c, 0, 0, &next));
    for (size_t k = 0; k < BUCKETS; k++) {
        a.bucket[k].comm = next;
    }
    CHECK(step_of(&a, rough, 2) == 0 && step_of(&b, rough, 2) == 0);
    CHECK(digest(&a) == digest(&b));
    int rc = tear_down(&a) || tear_down(&b);
    OK(rondo_comm_destroy(next));
    return rc;
}

// ---- Through the reducer -------------------------------------------------------------------------

static int reduce_by_ddp(rondo_comm *c, rondo_ddp_hook hook, double tolerance, double factor) {
    static const char *const names[PARAMS] = {"a", "b", "c", "d", "e", "f", "g"};
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    rondo_param param[PARAMS];
    size_t rows[PARAMS], bytes = 0;
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    rondo_ddp *d = NULL;
    for (size_t i = 0; i < PARAMS; i++) {
        rows[i] = shape[i][0];
        param[i] = (rondo_param){names[i], calloc(count_of(i), 4), count_of(i), RONDO_F32};
        bytes += count_of(i) * 4;
    }
    o.first_bucket_bytes = 1000;
    o.bucket_bytes = 10000;
    o.hook = &hook;
    o.rows = rows;
    OK(rondo_ddp_create(c, param, PARAMS, &o, &d));
    for (int step = 0; step < 4; step++) {
        for (size_t j = 0; j < PARAMS; j++) {
            size_t i = (j * 3 + (size_t)me) % PARAMS;
            float *g = rondo_ddp_grad(d, i);
            for (size_t k = 0; k < count_of(i); k++) {
                g[k] = (float)(n * rough(me, n, step, i, k));
            }
            OK(rondo_ddp_grad_ready(d, i));
        }
        OK(rondo_ddp_finish(d));
        for (size_t i = 0; i < PARAMS; i++) {
            const float *g = rondo_ddp_grad(d, i);
            for (size_t k = 0; k < count_of(i); k++) {
                double want = 0;
                for (int r = 0; r < n; r++) {
                    want += factor * rough(r, n, step, i, k);
                }
                CHECK(fabs((double)g[k] - want) < tolerance);
            }
        }
    }
    rondo_ddp_stats s = {.size = sizeof s};
    OK(rondo_ddp_get_stats(d, &s));
    CHECK(s.steps == 4 && s.hook_bytes > 0 && s.bytes_reduced >= 4 * bytes);
    if (strcmp(hook.name, "bf16") == 0) {
        CHECK(s.hook_bytes * 2 == s.bytes_reduced && s.hook_error > 1e-4 && s.hook_error < 1e-2);
    }
    OK(rondo_ddp_destroy(d));
    for (size_t i = 0; i < PARAMS; i++) {
        free(param[i].data);
    }
    return 0;
}

static int through_ddp(rondo_comm *c) {
    struct own own = {0};
    struct powersgd_case p = {RONDO_POWERSGD_OPTIONS_INIT, RONDO_F32, RONDO_F32, RONDO_F32, 0};
    rondo_ddp_hook hook = rondo_ddp_hook_all_reduce();
    CHECK(reduce_by_ddp(c, hook, 1e-5, 1) == 0);
    OK(rondo_ddp_hook_cast(RONDO_BF16, NULL, &hook));
    CHECK(reduce_by_ddp(c, hook, 0.05, 1) == 0);
    p.o.rank = 64;
    p.o.min_saving = 0;
    CHECK(make_hook(&p, &hook) == 0 && reduce_by_ddp(c, hook, 2e-5, 1) == 0);
    hook = (rondo_ddp_hook){sizeof hook, "twice", own_round, NULL, NULL, own_destroy, &own};
    CHECK(reduce_by_ddp(c, hook, 2e-5, 2) == 0 && own.destroyed == 1);
    return 0;
}

// ---- Bad options ---------------------------------------------------------------------------------

static int refuses(rondo_powersgd_options o, const char *word) {
    struct own own = {0};
    const rondo_ddp_hook mine = {sizeof mine, "twice", own_round, NULL, NULL, own_destroy, &own};
    rondo_ddp_hook hook;
    CHECK(rondo_ddp_hook_powersgd(&o, &mine, &hook) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), word) && own.destroyed == 1);
    return 0;
}

static int bad_options(void) {
    rondo_powersgd_options o = RONDO_POWERSGD_OPTIONS_INIT, bad = o;
    struct own own = {0};
    rondo_ddp_hook hook, mine = {sizeof mine, "twice", own_round, NULL, NULL, own_destroy, &own};
    CHECK(rondo_ddp_hook_cast(RONDO_F32, &mine, &hook) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), "float") && own.destroyed == 1);
    mine.round = NULL;
    CHECK(rondo_ddp_hook_cast(RONDO_F16, &mine, &hook) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), "round") && own.destroyed == 2);
    mine.size--;
    CHECK(rondo_ddp_hook_powersgd(NULL, &mine, &hook) == RONDO_ERR_INVALID);
    CHECK(strstr(rondo_last_error(), "inner.size") && own.destroyed == 2);
    bad.rank = 65;
    CHECK(refuses(bad, "rank is 65; it can be 1 to 64") == 0);
    bad.rank = 0;
    CHECK(refuses(bad, "rank is 0") == 0);
    bad = o;
    bad.min_saving = (double)NAN;
    CHECK(refuses(bad, "min_saving is nan") == 0);
    bad.min_saving = -1;
    CHECK(refuses(bad, "min_saving is -1") == 0);
    bad = o;
    bad.size = 8;
    CHECK(refuses(bad, "size is 8") == 0);
    o.seed = 3;
    OK(rondo_ddp_hook_powersgd(&o, NULL, &hook));
    CHECK(strstr(hook.name, "seed=3"));
    rondo_ddp_hook_destroy(&hook);
    OK(rondo_ddp_hook_powersgd(NULL, NULL, &hook));
    CHECK(strcmp(hook.name, "powersgd:1") == 0);
    rondo_ddp_hook_destroy(&hook);
    rondo_ddp_hook_destroy(NULL);
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    (void)arg;
    CHECK(bad_options() == 0);
    CHECK(plain(c) == 0 && own_hook(c) == 0);
    for (rondo_type type = RONDO_F16; type <= RONDO_BF16; type++) {
        CHECK(cast(c, type, RONDO_F32) == 0 && cast(c, type, RONDO_F64) == 0);
    }
    CHECK(references(c) == 0);
    CHECK(full_rank(c) == 0 && convergence(c) == 0);
    CHECK(not_finite(c) == 0 && zeros(c) == 0);
    CHECK(repeated(c) == 0 && other_comm(c) == 0);
    CHECK(through_ddp(c) == 0);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3 || atoi(argv[1]) < 1 || atoi(argv[1]) > REF_RANKS) {
        fprintf(stderr, "usage: hooks RANKS OPTIONS, at most %d ranks\n", REF_RANKS);
        return 2;
    }
    return rt_run(atoi(argv[1]), argv[2], body, NULL);
}
