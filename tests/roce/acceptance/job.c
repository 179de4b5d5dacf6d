// SPDX-License-Identifier: MIT
// One rank of a job under a launcher, for what the acceptance of a transport needs to see:
//
//   job hash           hashes of results in a strict order; the same on every transport, or one is wrong
//   job ring SECONDS   collectives of several sizes, every result checked
//   job flow SECONDS   messages from even to odd ranks, every one checked: one side only sends
//
// All print what the library logs. The latter two print each pause of more than half a second, and at the end the number of operations, or the
// error and how long after the last good result it came (exit code 3).
#include <rondo/rondo.h>

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STOPPED 3
#define PAUSE 0.5
#define MOST (1 << 20) // bytes of one operation

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

// ---- Hashes --------------------------------------------------------------------------------------

// Finite values of very different size, so that every order of additions gives other bits.
static void fill(void *p, size_t count, rondo_type type, int rank) {
    for (size_t i = 0; i < count; i++) {
        uint64_t x = mix((uint64_t)rank << 40 | i);
        int size = (int)(x >> 8 & 15) - 8;
        float scale = size < 0 ? 1.0f / (float)(1 << -size) : (float)(1 << size);
        float f = ((float)(int32_t)(x >> 32) / 2147483648.0f) * scale;
        if (type == RONDO_F64) {
            ((double *)p)[i] = (double)f * (1.0 + (double)(x & 255) * 1e-9);
        } else if (type == RONDO_F32) {
            ((float *)p)[i] = f;
        } else if (type == RONDO_BF16) {
            uint32_t bits;
            memcpy(&bits, &f, sizeof bits);
            ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
        } else { // F16: sign, exponent 7 to 22, fraction
            ((uint16_t *)p)[i] =
                (uint16_t)((x & 0x8000) | (7 + (x >> 16 & 15)) << 10 | (x >> 32 & 1023));
        }
    }
}

static uint64_t hash_of(const void *p, size_t bytes) {
    const unsigned char *b = p;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++) {
        h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    }
    return h;
}

// All ranks must have the same.
static int tell(rondo_comm *c, const char *what, rondo_type type, size_t count, uint64_t hash) {
    uint64_t least, most;
    if (rondo_all_reduce(&hash, &least, 1, RONDO_U64, RONDO_MIN, c) != RONDO_OK ||
        rondo_all_reduce(&hash, &most, 1, RONDO_U64, RONDO_MAX, c) != RONDO_OK) {
        return STOPPED;
    }
    if (rondo_comm_rank(c) == 0) {
        printf("hash %s %s %zu %016" PRIx64 "%s\n", what, rondo_type_name(type), count, hash,
               least == most ? "" : " and others on other ranks");
    }
    return least == most ? 0 : 1;
}

static int hash_one(rondo_comm *c, rondo_type type, size_t count, void *a, void *b) {
    size_t n = (size_t)rondo_comm_size(c), bytes = count * rondo_type_size(type);
    fill(a, count, type, rondo_comm_rank(c));
    if (rondo_all_reduce(a, a, count, type, RONDO_SUM, c) != RONDO_OK) {
        return STOPPED;
    }
    int rc = tell(c, "all_reduce", type, count, hash_of(a, bytes));
    if (rc != 0 || count % n != 0) {
        return rc;
    }
    size_t part = count / n;
    fill(a, count, type, rondo_comm_rank(c));
    if (rondo_reduce_scatter(a, b, part, type, RONDO_SUM, c) != RONDO_OK ||
        rondo_all_gather(b, a, part, type, c) != RONDO_OK) {
        return STOPPED;
    }
    return tell(c, "reduce_scatter", type, count, hash_of(a, bytes));
}

static int hashes(rondo_comm *c) {
    static const rondo_type types[] = {RONDO_F32, RONDO_F64, RONDO_F16, RONDO_BF16};
    static const size_t counts[] = {1, 12, 1000, 8191, 50004, 262147};
    void *a = malloc(262147 * sizeof(double)), *b = malloc(262147 * sizeof(double));
    int rc = a == NULL || b == NULL;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (size_t k = 0; k < sizeof counts / sizeof *counts && rc == 0; k++) {
            rc = hash_one(c, types[t], counts[k], a, b);
        }
    }
    free(a);
    free(b);
    return rc;
}

// ---- Operations without end ----------------------------------------------------------------------

struct run {
    rondo_comm *comm;
    double begin, last, longest;
    unsigned long ops;
    int32_t *send, *recv;
    size_t bytes;
};

static size_t count_of(unsigned long op) {
    static const size_t bytes[] = {8, 64 << 10, 4096, MOST, 300000};
    return bytes[op % (sizeof bytes / sizeof *bytes)] / sizeof(int32_t);
}

// Element 0 of each operation says whether it is the last one.
static int wrong(const struct run *r, size_t count, int32_t factor, int32_t sum, const char *what) {
    for (size_t i = 1; i < count; i++) {
        int32_t want = factor * (int32_t)(i + r->ops % 1000) + sum;
        if (r->recv[i] != want) {
            printf("%s %lu: element %zu is %d, not %d\n", what, r->ops, i, (int)r->recv[i],
                   (int)want);
            return 1;
        }
    }
    return 0;
}

static void fill_ints(struct run *r, size_t count, bool over) {
    r->send[0] = over;
    for (size_t i = 1; i < count; i++) {
        r->send[i] = (int32_t)(i + r->ops % 1000) + rondo_comm_rank(r->comm);
    }
}

static rondo_status ring_once(struct run *r, size_t count, bool over, int *bad) {
    int n = rondo_comm_size(r->comm), me = rondo_comm_rank(r->comm);
    fill_ints(r, count, over && me == 0);
    rondo_status s = rondo_all_reduce(r->send, r->recv, count, RONDO_I32, RONDO_SUM, r->comm);
    *bad = s == RONDO_OK && wrong(r, count, n, n * (n - 1) / 2, "all_reduce");
    return s;
}

static rondo_status flow_once(struct run *r, size_t count, bool over, int *bad) {
    int me = rondo_comm_rank(r->comm);
    if (me % 2 == 0) {
        fill_ints(r, count, over);
        r->recv[0] = over;
        return rondo_send(r->send, count, RONDO_I32, me + 1, r->comm);
    }
    rondo_status s = rondo_recv(r->recv, count, RONDO_I32, me - 1, r->comm);
    *bad = s == RONDO_OK && wrong(r, count, 1, me - 1, "message");
    return s;
}

static int run(struct run *r, double seconds,
               rondo_status (*once)(struct run *r, size_t count, bool over, int *bad)) {
    r->begin = r->last = now();
    r->recv[0] = 0;
    while (r->recv[0] == 0) {
        int bad = 0;
        rondo_status s = once(r, count_of(r->ops), now() - r->begin >= seconds, &bad);
        double t = now(), took = t - r->last;
        if (s != RONDO_OK) {
            printf("stopped %.2f s after the last good result, by %s: %s\n", took,
                   rondo_status_name(s), rondo_last_error());
            return STOPPED;
        }
        if (bad) {
            return 1;
        }
        if (took > PAUSE) {
            printf("pause of %.2f s until %.1f s\n", took, t - r->begin);
            fflush(stdout);
        }
        r->longest = took > r->longest ? took : r->longest;
        r->last = t;
        r->ops++;
    }
    printf("operations %lu, all right; longest pause %.2f s\n", r->ops, r->longest);
    return 0;
}

static int run_long(rondo_comm *c, const char *how, double seconds) {
    struct run r = {.comm = c, .send = malloc(MOST), .recv = malloc(MOST)};
    int rc = 1;
    if (r.send != NULL && r.recv != NULL) {
        rc = run(&r, seconds, strcmp(how, "flow") == 0 ? flow_once : ring_once);
    }
    free(r.send);
    free(r.recv);
    return rc;
}

static void on_log(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    (void)level;
    printf("log: %s\n", line);
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    bool hash = strcmp(how, "hash") == 0;
    if (!hash && (argc != 3 || (strcmp(how, "ring") != 0 && strcmp(how, "flow") != 0))) {
        fprintf(stderr, "usage: job hash | ring SECONDS | flow SECONDS\n");
        return 2;
    }
    rondo_config config = RONDO_CONFIG_INIT;
    rondo_comm *comm = NULL;
    config.log = on_log;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (rondo_init(&config, &comm) != RONDO_OK) {
        printf("no communicator: %s\n", rondo_last_error());
        return STOPPED;
    }
    int rc = hash ? hashes(comm) : run_long(comm, how, atof(argv[2]));
    if (hash && rc == STOPPED) {
        printf("stopped: %s\n", rondo_last_error());
    }
    if (rondo_comm_destroy(comm) != RONDO_OK && rc == 0) {
        printf("destroy: %s\n", rondo_last_error());
        rc = STOPPED;
    }
    return rc;
}
