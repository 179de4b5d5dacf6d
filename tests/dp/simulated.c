// SPDX-License-Identifier: MIT
// One way of training on devices whose computation is simulated, for ./bench, where a host has fewer cores than devices:
//
//   simulated dp|ddp DEVICES MIB ROWS US_PER_ROW OPTIMIZER_US STEPS
//
// A device "computes" by sleeping: US_PER_ROW for each of its rows of the batch, a third of it forward, then backward
// tensor by tensor, and OPTIMIZER_US for the optimizer. All else is real: the threads or processes, the copies of the
// parameters, the gradients' way, on as many cores as there are. Prints the median and the quartiles of the steps in ms.
#include "tests/ring/ring_test.h"

#include <errno.h>
#include <stdint.h>
#include <time.h>

enum { TENSORS = 32, WARM_UP = 3, MOST_STEPS = 1000 };

struct job {
    int devices, steps;
    size_t bytes; // of a tensor
    uint64_t rows, row_ns, optimizer_ns;
    rondo_param param[TENSORS];
    double ms[MOST_STEPS];
};

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// The device works through its queue by itself: it is as far as the clock is, however late the host looks.
static void sleep_until(uint64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}

static int make_params(struct job *j) {
    for (size_t i = 0; i < TENSORS; i++) {
        j->param[i] = (rondo_param){"tensor", malloc(j->bytes), j->bytes / 4, RONDO_F32};
        CHECK(j->param[i].data);
        memset(j->param[i].data, 0, j->bytes);
    }
    return 0;
}

// ---- DP ------------------------------------------------------------------------------------------

static rondo_status compute(rondo_dp_part *p, void *arg) {
    const struct job *j = arg;
    sleep_until(now() + p->count * j->row_ns);
    return RONDO_OK;
}

static int by_dp(struct job *j) {
    rondo_dp *dp;
    CHECK(make_params(j) == 0);
    OK(rondo_dp_create(j->param, TENSORS, j->devices, NULL, &dp));
    for (int step = -WARM_UP; step < j->steps; step++) {
        const uint64_t began = now();
        OK(rondo_dp_step(dp, j->rows, compute, j));
        sleep_until(now() + j->optimizer_ns);
        if (step >= 0) {
            j->ms[step] = (double)(now() - began) * 1e-6;
        }
    }
    OK(rondo_dp_destroy(dp));
    return 0;
}

// ---- DDP -----------------------------------------------------------------------------------------

static int ddp_step(rondo_ddp *ddp, const struct job *j, uint64_t count) {
    const uint64_t began = now(), work = count * j->row_ns, forward = work / 3;
    for (size_t done = 1; done <= TENSORS; done++) {
        sleep_until(began + forward + (work - forward) * done / TENSORS);
        OK(rondo_ddp_grad_ready(ddp, TENSORS - done));
    }
    OK(rondo_ddp_finish(ddp));
    sleep_until(now() + j->optimizer_ns);
    return 0;
}

static int compare_ms(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print(struct job *j) {
    const int n = j->steps;
    qsort(j->ms, (size_t)n, sizeof j->ms[0], compare_ms);
    printf("%.3f %.3f %.3f\n", j->ms[n / 2], j->ms[n / 4], j->ms[3 * n / 4]);
    fflush(stdout);
}

static int rank_main(rondo_comm *c, void *arg) {
    struct job *j = arg;
    rondo_ddp *ddp;
    rondo_ddp_options o = RONDO_DDP_OPTIONS_INIT;
    uint64_t first, count;
    o.average = 0;
    o.bucket_bytes = 4u << 20;
    CHECK(make_params(j) == 0);
    OK(rondo_sampler_share(j->rows, rondo_comm_rank(c), j->devices, &first, &count));
    OK(rondo_ddp_create(c, j->param, TENSORS, &o, &ddp));
    for (int step = -WARM_UP; step < j->steps; step++) {
        const uint64_t began = now();
        CHECK(ddp_step(ddp, j, count) == 0);
        if (step >= 0) {
            j->ms[step] = (double)(now() - began) * 1e-6;
        }
    }
    OK(rondo_ddp_destroy(ddp));
    if (rondo_comm_rank(c) == 0) {
        print(j);
    }
    return 0;
}

int main(int argc, char **argv) {
    static struct job j;
    if (argc != 8) {
        fprintf(stderr, "usage: %s dp|ddp DEVICES MIB ROWS US_PER_ROW OPTIMIZER_US STEPS\n",
                argv[0]);
        return 2;
    }
    j.devices = atoi(argv[2]);
    j.bytes = ((size_t)atoi(argv[3]) << 20) / TENSORS;
    j.rows = (uint64_t)atoi(argv[4]);
    j.row_ns = (uint64_t)atoi(argv[5]) * 1000;
    j.optimizer_ns = (uint64_t)atoi(argv[6]) * 1000;
    j.steps = atoi(argv[7]);
    if (j.devices < 1 || j.devices > 64 || j.rows < (uint64_t)j.devices || j.steps < 1 ||
        j.steps > MOST_STEPS || j.bytes < 4) {
        fprintf(stderr, "%s: a number is out of range\n", argv[0]);
        return 2;
    }
    if (strcmp(argv[1], "dp") == 0) {
        int rc = by_dp(&j);
        if (rc == 0) {
            print(&j);
        }
        return rc;
    }
    return rt_run(j.devices, "transport=shm", rank_main, &j);
}
