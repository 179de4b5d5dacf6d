// SPDX-License-Identifier: MIT
// DDP through its public interface, against what a single process would compute: reducer RANKS OPTIONS
#include "tests/ring/ring_test.h"

#include <stdbool.h>
#include <stdint.h>

enum { PARAMS = 9 };
static const size_t counts[PARAMS] = {5, 300000, 1, 64, 70001, 3, 262144, 1000, 12};

struct model {
    float *value[PARAMS];
    char name[PARAMS][16];
    rondo_param param[PARAMS];
};

static void make_model(struct model *m, int rank) {
    for (size_t i = 0; i < PARAMS; i++) {
        m->value[i] = malloc(counts[i] * sizeof(float));
        for (size_t k = 0; k < counts[i]; k++) {
            m->value[i][k] = (float)rank * 1000.0f + (float)i + (float)(k % 7);
        }
        snprintf(m->name[i], sizeof m->name[i], "layer%zu.w", i);
        m->param[i] = (rondo_param){m->name[i], m->value[i], counts[i], RONDO_F32};
    }
}

static void free_model(struct model *m) {
    for (size_t i = 0; i < PARAMS; i++) {
        free(m->value[i]);
    }
}

// Multiples of the world size, so that the pre-divided sum is exact.
static float gradient(int rank, int n, int step, size_t i, size_t k) {
    return (float)(n * ((rank + 1) * (step + 1) + (int)i + (int)(k % 11)));
}

static float mean(int n, int step, size_t i, size_t k) {
    float sum = 0;
    for (int r = 0; r < n; r++) {
        sum += gradient(r, n, step, i, k) / (float)n;
    }
    return sum;
}

// The order in which a rank's gradients come: its own shuffle; launches must meet all the same.
static size_t order_of(int rank, int step, size_t j) {
    return (j * (size_t)(rank % 2 ? 5 : 7) + (size_t)(step * 2 + rank)) % PARAMS;
}

static int check_step(rondo_ddp *d, int n, int step) {
    for (size_t i = 0; i < PARAMS; i++) {
        const float *g = rondo_ddp_grad(d, i);
        for (size_t k = 0; k < counts[i]; k++) {
            if (g[k] != mean(n, step, i, k)) {
                fprintf(stderr, "step %d: gradient %zu[%zu] is %g, not %g\n", step, i, k,
                        (double)g[k], (double)mean(n, step, i, k));
                return 1;
            }
        }
    }
    return 0;
}

static int steps(rondo_comm *c, rondo_ddp *d) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    float *elsewhere = malloc(300000 * sizeof *elsewhere);
    for (int step = 0; step < 4; step++) {
        for (size_t j = 0; j < PARAMS; j++) {
            size_t i = order_of(me, step, j);
            // Half of the parameters as views, half from the caller's own memory.
            float *g = i % 2 ? elsewhere : rondo_ddp_grad(d, i);
            for (size_t k = 0; k < counts[i]; k++) {
                g[k] = gradient(me, n, step, i, k);
            }
            if (i % 2) {
                OK(rondo_ddp_grad_ready_copy(d, i, elsewhere));
            } else {
                OK(rondo_ddp_grad_ready(d, i));
            }
        }
        OK(rondo_ddp_finish(d));
        CHECK(check_step(d, n, step) == 0);
        rondo_ddp_stats s = {.size = sizeof s};
        OK(rondo_ddp_get_stats(d, &s));
        CHECK(s.steps == (uint64_t)step + 1 && s.rebuilt == 1 && s.buckets >= 2);
        CHECK(s.total_comm >= s.step_comm && s.total_exposed >= 0 &&
              s.step_exposed <= s.step_comm + 1);
    }
    free(elsewhere);
    return 0;
}

// Two accumulated passes and one reduction are one pass over the sum.
static int no_sync(rondo_comm *c, rondo_ddp *d) {
    int n = rondo_comm_size(c), me = rondo_comm_rank(c);
    OK(rondo_ddp_zero_grad(d));
    for (int pass = 0; pass < 2; pass++) {
        OK(rondo_ddp_set_sync(d, pass == 1));
        for (size_t i = 0; i < PARAMS; i++) {
            float *g = rondo_ddp_grad(d, i);
            for (size_t k = 0; k < counts[i]; k++) {
                g[k] += gradient(me, n, pass, i, k);
            }
            OK(rondo_ddp_grad_ready(d, i));
        }
        OK(rondo_ddp_finish(d));
    }
    for (size_t i = 0; i < PARAMS; i++) {
        const float *g = rondo_ddp_grad(d, i);
        for (size_t k = 0; k < counts[i]; k++) {
            CHECK(g[k] == mean(n, 0, i, k) + mean(n, 1, i, k));
        }
    }
    return 0;
}

static int misuse(rondo_ddp *d) {
    OK(rondo_ddp_zero_grad(d));
    OK(rondo_ddp_grad_ready(d, 3));
    CHECK(rondo_ddp_grad_ready(d, 3) == RONDO_ERR_USAGE);
    CHECK(strstr(rondo_last_error(), "layer3.w") && strstr(rondo_last_error(), "twice"));
    CHECK(rondo_ddp_finish(d) == RONDO_ERR_USAGE);
    CHECK(strstr(rondo_last_error(), "layer0.w") && strstr(rondo_last_error(), "never"));
    CHECK(!strstr(rondo_last_error(), "layer3.w"));
    CHECK(rondo_ddp_zero_grad(d) == RONDO_ERR_USAGE && rondo_ddp_set_sync(d, 0) == RONDO_ERR_USAGE);
    CHECK(rondo_ddp_grad_ready(d, PARAMS) == RONDO_ERR_INVALID);
    CHECK(rondo_ddp_grad(d, PARAMS) == NULL);
    for (size_t i = 0; i < PARAMS; i++) {
        if (i != 3) {
            OK(rondo_ddp_grad_ready(d, i));
        }
    }
    OK(rondo_ddp_finish(d)); // the step goes on where it stood
    return 0;
}

static int good(rondo_comm *c) {
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.first_bucket_bytes = 64 << 10;
    o.bucket_bytes = 512 << 10;
    make_model(&m, rondo_comm_rank(c));
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    for (size_t i = 0; i < PARAMS; i++) {
        for (size_t k = 0; k < counts[i]; k++) {
            CHECK(m.value[i][k] == (float)i + (float)(k % 7)); // rank 0's
        }
    }
    int rc = steps(c, d) || no_sync(c, d) || misuse(d);
    OK(rondo_ddp_destroy(d));
    free_model(&m);
    return rc;
}

// Rank 1's model differs: all ranks get the same error, which names the parameter and both ranks.
static int bad(rondo_comm *c, int kind) {
    struct model m;
    rondo_ddp *d = NULL;
    make_model(&m, rondo_comm_rank(c));
    size_t n = PARAMS;
    bool odd = rondo_comm_rank(c) == 1;
    if (odd && kind == 0) {
        m.param[4].count--;
    } else if (odd && kind == 1) {
        m.param[4].name = "other";
    } else if (odd && kind == 2) {
        n--;
    } else if (odd && kind == 3) {
        m.param[2].data = NULL;
    }
    rondo_status s = rondo_ddp_create(c, m.param, n, NULL, &d);
    CHECK(d == NULL);
    if (kind == 3) {
        CHECK(s == (odd ? RONDO_ERR_INVALID : RONDO_ERR_ABORTED) &&
              strstr(rondo_last_error(), "layer2.w"));
    } else {
        CHECK(s == RONDO_ERR_MISMATCH);
        CHECK(strstr(rondo_last_error(), "rank 0") && strstr(rondo_last_error(), "rank 1"));
        CHECK(kind == 2 || strstr(rondo_last_error(), "parameter 4"));
    }
    free_model(&m);
    OK(rondo_barrier(c)); // the communicator it came from is unharmed
    return 0;
}

// Options that are wrong, or not the same on all ranks.
static int bad_options(rondo_comm *c, int kind) {
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    rondo_ddp_state state = {NULL, 4};
    bool odd = rondo_comm_rank(c) == 1;
    static const char *const words[] = {"elastic of ranks 0 and 1", "bucket_bytes of ranks 0 and 1",
                                        "sizes of states of ranks 0 and 1",
                                        "options.elastic does not work with options.device",
                                        "options.states[0] has 4 bytes and no data"};
    make_model(&m, rondo_comm_rank(c));
    o.elastic = kind != 0 || odd;
    o.bucket_bytes = kind == 1 && odd ? 100000 : 0;
    o.device = kind == 3 ? 0 : -1;
    if (kind == 2 || kind == 4) {
        state = kind == 2 ? (rondo_ddp_state){&m, odd ? 8 : 4} : state;
        o.states = &state;
        o.nstates = 1;
    }
    rondo_status s = rondo_ddp_create(c, m.param, PARAMS, &o, &d);
    CHECK(s == (kind < 3    ? RONDO_ERR_MISMATCH
                : kind == 3 ? RONDO_ERR_UNSUPPORTED
                            : RONDO_ERR_INVALID));
    CHECK(d == NULL && strstr(rondo_last_error(), words[kind]));
    free_model(&m);
    OK(rondo_barrier(c));
    return 0;
}

// Nobody fails: elastic is as good as the other.
static int elastic(rondo_comm *c) {
    struct model m;
    rondo_ddp *d = NULL;
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.elastic = 1;
    make_model(&m, rondo_comm_rank(c));
    OK(rondo_ddp_create(c, m.param, PARAMS, &o, &d));
    CHECK(rondo_ddp_comm(d) == c && !rondo_ddp_joined(d));
    int rc = no_sync(c, d) || misuse(d);
    CHECK(rondo_ddp_grad_ready(d, 3) == RONDO_OK);
    CHECK(rondo_ddp_commit(d) == RONDO_ERR_USAGE);
    for (size_t i = 0; i < PARAMS; i++) {
        CHECK(i == 3 || rondo_ddp_grad_ready(d, i) == RONDO_OK);
    }
    OK(rondo_ddp_finish(d));
    OK(rondo_ddp_commit(d));
    OK(rondo_ddp_destroy(d));
    CHECK(rondo_ddp_comm(NULL) == NULL && rondo_ddp_commit(NULL) == RONDO_ERR_INVALID);
    free_model(&m);
    return rc;
}

static int body(rondo_comm *c, void *arg) {
    (void)arg;
    CHECK(good(c) == 0);
    CHECK(elastic(c) == 0);
    for (int kind = 0; kind < 4 && rondo_comm_size(c) > 1; kind++) {
        CHECK(bad(c, kind) == 0);
    }
    for (int kind = 0; kind < 5 && rondo_comm_size(c) > 1; kind++) {
        CHECK(bad_options(c, kind) == 0);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: reducer RANKS OPTIONS\n");
        return 2;
    }
    return rt_run(atoi(argv[1]), argv[2], body, NULL);
}
