// SPDX-License-Identifier: MIT
// Compares the latency of all_reduce in two builds of the library, or with two sets of options, so that the
// machine's moods hit both: two ranks hold a communicator of each and take turns with them, a batch each. Prints
// the medians over the batches and the median of the ratios of neighbours. Not a test: it judges nothing.
//
//   two_builds librondo.so[,name=value...] librondo.so[,name=value...] [batches [operations [bytes]]]
#include <rondo/rondo.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct build {
    void *library;
    rondo_comm *comm;
    rondo_status (*init)(const rondo_config *, rondo_comm **);
    rondo_status (*all_reduce)(const void *, void *, size_t, rondo_type, rondo_op, rondo_comm *);
    rondo_status (*barrier)(rondo_comm *);
    rondo_status (*destroy)(rondo_comm *);
    const char *(*last_error)(void);
    double *us; // of each batch
};

static void die(const char *what, const char *why) {
    fprintf(stderr, "two_builds: %s: %s\n", what, why);
    exit(1);
}

static void find(struct build *b, const char *name, void *to) {
    void *f = dlsym(b->library, name);
    if (f == NULL) {
        die(name, dlerror());
    }
    memcpy(to, &f, sizeof f);
}

static void load(struct build *b, char *spec, int port) {
    char *options = strchr(spec, ','), text[16];
    if (options != NULL) {
        *options++ = '\0';
    }
    b->library = dlopen(spec, RTLD_NOW | RTLD_LOCAL);
    if (b->library == NULL) {
        die(spec, dlerror());
    }
    find(b, "rondo_init", &b->init);
    find(b, "rondo_all_reduce", &b->all_reduce);
    find(b, "rondo_barrier", &b->barrier);
    find(b, "rondo_comm_destroy", &b->destroy);
    find(b, "rondo_last_error", &b->last_error);
    snprintf(text, sizeof text, "%d", port);
    setenv("MASTER_PORT", text, 1);
    rondo_config config = RONDO_CONFIG_INIT;
    config.options = options;
    if (b->init(&config, &b->comm) != RONDO_OK) {
        die("rondo_init", b->last_error());
    }
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double batch(struct build *b, int operations, float *data, size_t count) {
    for (int i = -operations / 10; i < 0; i++) {
        b->all_reduce(data, data, count, RONDO_F32, RONDO_SUM, b->comm);
    }
    double began = now_us();
    for (int i = 0; i < operations; i++) {
        if (b->all_reduce(data, data, count, RONDO_F32, RONDO_MAX, b->comm) != RONDO_OK) {
            die("rondo_all_reduce", b->last_error());
        }
    }
    return (now_us() - began) / operations;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[n / 2];
}

static int run(int rank, char **specs, int batches, int operations, size_t bytes) {
    struct build b[2] = {{0}};
    size_t count = bytes / sizeof(float);
    float *data = calloc(count, sizeof *data);
    double *ratio = calloc((size_t)batches, sizeof *ratio);
    setenv("RANK", rank == 0 ? "0" : "1", 1);
    for (int i = 0; i < 2; i++) {
        load(&b[i], specs[i], 29701 + i);
        b[i].us = calloc((size_t)batches, sizeof *b[i].us);
    }
    for (int n = 0; n < batches; n++) {
        // Who goes first changes, too.
        for (int i = 0; i < 2; i++) {
            struct build *x = &b[(n + i) % 2];
            x->barrier(x->comm);
            x->us[n] = batch(x, operations, data, count);
        }
        ratio[n] = b[1].us[n] / b[0].us[n];
    }
    if (rank == 0) {
        double least[2], middle[2];
        for (int i = 0; i < 2; i++) {
            middle[i] = median(b[i].us, batches);
            least[i] = b[i].us[0];
        }
        printf("%zu bytes, %d batches of %d: first %.3f us (least %.3f), second %.3f us (least "
               "%.3f), median ratio %.4f\n",
               bytes, batches, operations, middle[0], least[0], middle[1], least[1],
               median(ratio, batches));
    }
    for (int i = 0; i < 2; i++) {
        b[i].destroy(b[i].comm);
        free(b[i].us);
    }
    free(ratio);
    free(data);
    return 0;
}

int main(int argc, char **argv) {
    int batches = argc > 3 ? atoi(argv[3]) : 200, operations = argc > 4 ? atoi(argv[4]) : 2000;
    size_t bytes = argc > 5 ? strtoul(argv[5], NULL, 10) : 8;
    if (argc < 3 || batches < 1 || operations < 1 || bytes < 4) {
        fprintf(stderr, "usage: two_builds LIBRARY[,OPTIONS] LIBRARY[,OPTIONS] [BATCHES "
                        "[OPERATIONS [BYTES]]]\n");
        return 2;
    }
    setenv("WORLD_SIZE", "2", 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    pid_t child = fork();
    if (child == 0) {
        return run(1, argv + 1, batches, operations, bytes);
    }
    int status, mine = run(0, argv + 1, batches, operations, bytes);
    return waitpid(child, &status, 0) == child && status == 0 ? mine : 1;
}
