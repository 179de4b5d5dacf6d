// SPDX-License-Identifier: MIT
// Elastic training through the public interface, as one rank of rondo-run --elastic:
//   elastic OPTIONS STEPS[+LIVES] [R[/K]:POINT[@STEP]]...
// Trains for so many steps, and on until all ranks together have been started again LIVES times.
// Rank R, in its K-th life (0: the first), kills itself at that point: "start" and "create" (before rondo_init() and
// rondo_ddp_create()), "backward" (half of the gradients handed over), "finish" (before it), "save" (the step has just
// counted), "own" (before its own collective), "restore" (after a loss), "end" (before the last commit), or "after=US"
// (so many microseconds after finish() of that step was called, wherever it is then).
//
// Gradients are small whole numbers, so every sum is exact and what parameters, moments and generator hold after a step
// follows from its number alone: a sample that was lost, or counted twice, is seen at once.
#include "tests/ring/ring_test.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

enum { PARAMS = 5, BATCH = 10 };
static const size_t counts[PARAMS] = {7, 3000, 1, 500, 64};

static struct run {
    rondo_comm *comm;
    rondo_ddp *ddp;
    int rank, life; // in the job
    float *value[PARAMS], *moment[PARAMS];
    char name[PARAMS][16];
    struct {
        uint64_t steps, generator, lives;
    } counters;
    uint64_t saved; // the generator as save() found it
    unsigned saves, restores;
    int npoints;
    char **points;
} run;

// ---- Dying --------------------------------------------------------------------------------------

static void *die_later(void *arg) {
    long us = (long)(intptr_t)arg;
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&t, NULL);
    raise(SIGKILL);
    return NULL;
}

static void point(const char *name, uint64_t step) {
    for (int i = 0; i < run.npoints; i++) {
        char *at = run.points[i], what[32] = "";
        long rank = strtol(at, &at, 10), life = *at == '/' ? strtol(at + 1, &at, 10) : 0, us = 0;
        unsigned long long when = 0;
        sscanf(at, ":%31[a-z]=%ld@%llu", what, &us, &when);
        if (us == 0) {
            sscanf(at, ":%31[a-z]@%llu", what, &when);
        }
        if (rank != run.rank || life != run.life || when != step) {
            continue;
        }
        if (us > 0 && strcmp(name, "finish") == 0) {
            pthread_t thread;
            pthread_create(&thread, NULL, die_later, (void *)(intptr_t)us);
            pthread_detach(thread);
        } else if (strcmp(what, name) == 0) {
            raise(SIGKILL);
        }
    }
}

// ---- The model ----------------------------------------------------------------------------------

static uint64_t next_random(uint64_t g) { return g * 6364136223846793005u + 1442695040888963407u; }

// Of one sample. The generator takes part, so that a generator that was not put back shows.
static float gradient(uint64_t sample, size_t i, size_t k, uint64_t generator) {
    return (float)((sample * 3 + i * 5 + k + (generator >> 60)) % 16);
}

// What a moment and a parameter hold after `steps` steps. Goes on from where it was asked before.
static void expected(uint64_t steps, size_t i, size_t k, float *value, float *moment) {
    static struct {
        uint64_t steps, generator;
        float value, moment;
    } known[PARAMS][3];
    size_t j = k == 0 ? 0 : k == counts[i] - 1 ? 2 : 1;
    if (known[i][j].steps == 0) {
        known[i][j].generator = 1;
        known[i][j].value = (float)(i + k % 7);
    }
    for (uint64_t s = known[i][j].steps; s < steps; s++) {
        float sum = 0;
        known[i][j].generator = next_random(known[i][j].generator);
        for (uint64_t b = 0; b < BATCH; b++) {
            sum += gradient(s * BATCH + b, i, k, known[i][j].generator);
        }
        known[i][j].moment = sum;
        known[i][j].value += sum;
        known[i][j].value -= known[i][j].value > 65536 ? 65536 : 0;
    }
    known[i][j].steps = steps;
    *value = known[i][j].value;
    *moment = known[i][j].moment;
}

static int check(void) {
    for (size_t i = 0; i < PARAMS; i++) {
        size_t list[] = {0, counts[i] / 2, counts[i] - 1};
        for (size_t j = 0; j < 3; j++) {
            float value, moment;
            expected(run.counters.steps, i, list[j], &value, &moment);
            if (run.value[i][list[j]] != value || run.moment[i][list[j]] != moment) {
                fprintf(stderr, "rank %d after %llu steps: %zu[%zu] is %g, %g, not %g, %g\n",
                        run.rank, (unsigned long long)run.counters.steps, i, list[j],
                        (double)run.value[i][list[j]], (double)run.moment[i][list[j]],
                        (double)value, (double)moment);
                return 1;
            }
        }
    }
    return 0;
}

static void save(void *arg) {
    (void)arg;
    run.saved = run.counters.generator;
    run.saves++;
    if (run.ddp) {
        point("save", run.counters.steps);
    }
}

static void restore(void *arg) {
    (void)arg;
    run.counters.generator = run.saved;
    run.restores++;
    point("restore", run.counters.steps);
}

// ELASTIC_GRAPH=static or unused: there is one parameter more, which takes no part, found out by one option or the other.
static rondo_status create(void) {
    static float idle[33];
    const char *graph = getenv("ELASTIC_GRAPH");
    rondo_param params[PARAMS + 1] = {[PARAMS] = {"idle", idle, 33, RONDO_F32}};
    rondo_ddp_state states[PARAMS + 1];
    for (size_t i = 0; i < PARAMS; i++) {
        // Only rank 0 of the job's beginning has the right ones.
        run.value[i] = malloc(counts[i] * sizeof(float));
        run.moment[i] = calloc(counts[i], sizeof(float));
        for (size_t k = 0; k < counts[i]; k++) {
            run.value[i][k] = run.rank == 0 && run.life == 0 ? (float)(i + k % 7) : -1;
        }
        snprintf(run.name[i], sizeof run.name[i], "layer%zu", i);
        params[i] = (rondo_param){run.name[i], run.value[i], counts[i], RONDO_F32};
        states[i] = (rondo_ddp_state){run.moment[i], counts[i] * sizeof(float)};
    }
    run.counters.generator = 1;
    states[PARAMS] = (rondo_ddp_state){&run.counters, sizeof run.counters};
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    o.first_bucket_bytes = 1024;
    o.bucket_bytes = 8192;
    o.average = 0;
    o.elastic = 1;
    o.save = save;
    o.restore = restore;
    o.states = states;
    o.nstates = PARAMS + 1;
    o.static_graph = graph && strcmp(graph, "static") == 0;
    o.find_unused = graph && strcmp(graph, "unused") == 0;
    return rondo_ddp_create(run.comm, params, PARAMS + (graph != NULL), &o, &run.ddp);
}

// ---- Training -----------------------------------------------------------------------------------

static int backward(uint64_t first, uint64_t count) {
    uint64_t step = run.counters.steps;
    run.counters.generator = next_random(run.counters.generator);
    for (size_t j = 0; j < PARAMS; j++) {
        size_t i = (j * 3 + step % 2) % PARAMS; // not the reverse order, and not always the same
        float *g = rondo_ddp_grad(run.ddp, i);
        for (size_t k = 0; k < counts[i]; k++) {
            g[k] = 0;
            for (uint64_t b = first; b < first + count; b++) {
                g[k] += gradient(step * BATCH + b, i, k, run.counters.generator);
            }
        }
        if (j == PARAMS / 2) {
            point("backward", step);
        }
        OK(rondo_ddp_grad_ready(run.ddp, i));
    }
    return 0;
}

// The number of samples, which must be the batch, and of restarts.
static rondo_status own_collective(uint64_t sum[2]) {
    point("own", run.counters.steps);
    return rondo_all_reduce(sum, sum, 2, RONDO_U64, RONDO_SUM, rondo_ddp_comm(run.ddp));
}

static void optimizer(void) {
    for (size_t i = 0; i < PARAMS; i++) {
        const float *g = rondo_ddp_grad(run.ddp, i);
        for (size_t k = 0; k < counts[i]; k++) {
            run.moment[i][k] = g[k];
            run.value[i][k] += g[k];
            run.value[i][k] -= run.value[i][k] > 65536 ? 65536 : 0;
        }
    }
    run.counters.steps++;
}

static bool is_zero(void) {
    for (size_t i = 0; i < PARAMS; i++) {
        const float *g = rondo_ddp_grad(run.ddp, i);
        for (size_t k = 0; k < counts[i]; k++) {
            if (g[k] != 0) {
                return false;
            }
        }
    }
    return true;
}

static int step(void) {
    rondo_status s;
    uint64_t first, count, sum[2];
    unsigned tries = 0;
    do {
        rondo_comm *c = rondo_ddp_comm(run.ddp);
        OK(rondo_sampler_share(BATCH, rondo_comm_rank(c), rondo_comm_size(c), &first, &count));
        sum[0] = count;
        sum[1] = (uint64_t)run.life;
        rondo_status own = own_collective(sum);
        if (own == RONDO_OK) {
            CHECK(sum[0] == BATCH);
            CHECK(backward(first, count) == 0);
        }
        point("finish", run.counters.steps);
        s = rondo_ddp_finish(run.ddp);
        CHECK(s != RONDO_OK || own == RONDO_OK);
        CHECK(s != RONDO_RETRY_STEP || is_zero());
        CHECK(++tries < 20);
    } while (s == RONDO_RETRY_STEP);
    OK(s);
    int used = 0, idle = 0;
    OK(rondo_ddp_grad_used(run.ddp, 0, &used));
    CHECK(used == 1);
    if (getenv("ELASTIC_GRAPH")) {
        OK(rondo_ddp_grad_used(run.ddp, PARAMS, &idle));
        CHECK(idle == 0); // on a rank that came later, too
    }
    optimizer();
    run.counters.lives = sum[1];
    return check();
}

static int end(void) {
    rondo_status s;
    do {
        rondo_comm *c = rondo_ddp_comm(run.ddp);
        uint64_t low = run.counters.generator, high = low;
        point("end", run.counters.steps);
        (void)(rondo_all_reduce(&low, &low, 1, RONDO_U64, RONDO_MIN, c) == RONDO_OK &&
               rondo_all_reduce(&high, &high, 1, RONDO_U64, RONDO_MAX, c) == RONDO_OK);
        s = rondo_ddp_commit(run.ddp);
        CHECK(s != RONDO_OK || low == high);
    } while (s == RONDO_RETRY_STEP);
    OK(s);
    return 0;
}

static void log_line(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    (void)level;
    fprintf(stderr, "%s\n", line);
}

int main(int argc, char **argv) {
    if (argc < 3 || !getenv("RANK")) {
        fprintf(stderr, "usage: rondo-run --elastic MIN:MAX elastic OPTIONS STEPS[+LIVES] "
                        "[R[/K]:POINT[@STEP]]...\n");
        return 2;
    }
    rondo_config config = RONDO_CONFIG_INIT;
    char *plus;
    uint64_t steps = strtoull(argv[2], &plus, 10), lives = strtoull(plus, NULL, 10);
    config.options = argv[1];
    config.log = getenv("ELASTIC_LOG") ? log_line : NULL;
    run.rank = atoi(getenv("RANK"));
    run.life = getenv("RONDO_RESTART") ? atoi(getenv("RONDO_RESTART")) : 0;
    run.points = argv + 3;
    run.npoints = argc - 3;
    point("start", 0);
    OK(rondo_init(&config, &run.comm));
    if (!rondo_comm_is_newcomer(run.comm)) {
        (void)rondo_barrier(run.comm); // so that nobody is in rondo_init() any more
        point("create", 0);
    }
    OK(create());
    CHECK(rondo_ddp_joined(run.ddp) == rondo_comm_is_newcomer(run.comm));
    CHECK(check() == 0);
    while (run.counters.steps < steps || run.counters.lives < lives) {
        CHECK(step() == 0);
    }
    CHECK(end() == 0);
    rondo_ddp_stats stats = {.size = sizeof stats};
    OK(rondo_ddp_get_stats(run.ddp, &stats));
    CHECK(stats.steps == run.counters.steps && stats.rebuilt == 1 && stats.retries == run.restores);
    printf("done: steps %llu, ranks %d, retries %llu, shrinks %llu, grows %llu, joined %d\n",
           (unsigned long long)stats.steps, rondo_comm_size(rondo_ddp_comm(run.ddp)),
           (unsigned long long)stats.retries, (unsigned long long)stats.shrinks,
           (unsigned long long)stats.grows, rondo_ddp_joined(run.ddp));
    OK(rondo_ddp_destroy(run.ddp));
    OK(rondo_comm_destroy(run.comm));
    for (size_t i = 0; i < PARAMS; i++) {
        free(run.value[i]);
        free(run.moment[i]);
    }
    return 0;
}
