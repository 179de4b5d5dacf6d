// SPDX-License-Identifier: MIT
// Measures the shared-memory transport by itself, between two processes with one link each way: one-way latency
// by size, and throughput by chunk size, copied and by reference. The receiver adds each message to a buffer
// of its own, as a reduction does; memcpy and the same addition in one process, measured in the same run, say
// what the machine could do. Not a test: it judges nothing.
//
//   shm_link_bench [-r rounds] [-s slots] [-w working set in MiB] [-c chunk in KiB]...
#include "transport/internal.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ROUNDS_MAX = 999,
    CHUNKS_MAX = 16,
    PINGS = 200,
    IDLE = 20000
}; // short rounds: some are not disturbed

struct options {
    int rounds, slots;
    size_t set; // bytes
    size_t chunks[CHUNKS_MAX];
    int n_chunks;
};

// What both processes see.
struct shared {
    _Atomic unsigned arrived;
    struct {
        _Atomic size_t len;
        uint8_t blob[RDI_BLOB_MAX];
    } address[2];
};

struct rank {
    struct shared *shared;
    unsigned barriers;
    struct rdi_env env;
    struct rdi_options options;
    struct rdi_job job;
    struct rdi_net_events events;
    struct rdi_net *net;
    struct rdi_link *out, *in;
};

static uint64_t now(const struct rank *r) { return rdi_now(&r->env); }

static void die(const char *what) {
    fprintf(stderr, "shm_link_bench: %s: %s\n", what, rondo_last_error());
    exit(1);
}

// ---- Two ranks -----------------------------------------------------------------------------------

static void meet(struct rank *r) {
    r->barriers++;
    atomic_fetch_add(&r->shared->arrived, 1);
    while (atomic_load(&r->shared->arrived) < 2 * r->barriers) {
        sched_yield();
    }
}

static rondo_status take_link(void *self, struct rdi_link *link) {
    struct rank *r = self;
    r->in = link;
    return RONDO_OK;
}

static void ignore_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg,
                        size_t len) {
    (void)self, (void)link, (void)type, (void)msg, (void)len;
}

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static void open_rank(struct rank *r, const char *options) {
    if (rdi_options_load(&r->options, options, no_environment) != RONDO_OK) {
        die("options");
    }
    r->events = (struct rdi_net_events){.self = r, .accept = take_link, .ctrl = ignore_ctrl};
    struct rdi_net_params p = {
        .env = r->env, .options = &r->options, .job = &r->job, .events = &r->events};
    if (rdi_shm_ops.open(&p, &r->net) != RONDO_OK) {
        die("open");
    }
    int me = r->job.rank;
    size_t len;
    rdi_shm_ops.address(r->net, r->shared->address[me].blob, &len);
    atomic_store(&r->shared->address[me].len, len);
    meet(r);
    struct rdi_link_id id = {.from = (uint32_t)me, .to = (uint32_t)(1 - me)};
    r->in = NULL;
    if (rdi_shm_ops.connect(r->net, &id, r->shared->address[1 - me].blob,
                            r->shared->address[1 - me].len, &r->out) != RONDO_OK) {
        die("connect");
    }
    while (r->out->state != RDI_LINK_UP || r->in == NULL) {
        rdi_shm_ops.progress(r->net, false);
        if (r->out->state == RDI_LINK_FAILED) {
            fprintf(stderr, "%s\n", r->out->why);
            exit(1);
        }
    }
    meet(r);
}

static void close_rank(struct rank *r) {
    meet(r);
    rdi_shm_ops.close_link(r->out, true);
    rdi_shm_ops.close_link(r->in, true);
    rdi_shm_ops.close(r->net);
    meet(r);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[n / 2];
}

// ---- Latency -------------------------------------------------------------------------------------

static void send_one(struct rank *r, const void *data, size_t len) {
    struct rdi_put p = {.data = data, .len = (uint32_t)len};
    rondo_status s;
    while ((s = rdi_shm_ops.put(r->out, &p)) == RONDO_AGAIN) {
        rdi_shm_ops.progress(r->net, true);
    }
    if (s != RONDO_OK) {
        die("put");
    }
}

// Reads all of the message, as whoever wants it would.
static uint64_t receive_one(struct rank *r) {
    for (unsigned idle = 0; r->in->arrived == r->in->released; idle++) {
        if (rdi_shm_ops.progress(r->net, true) == 0 && idle > IDLE) {
            sched_yield();
        }
    }
    struct rdi_msg m;
    rdi_shm_ops.peek(r->in, r->in->released, &m);
    uint64_t sum = 0;
    for (size_t i = 0; i + 8 <= m.len; i += 64) {
        uint64_t word;
        memcpy(&word, (const uint8_t *)m.data + i, 8);
        sum += word;
    }
    rdi_shm_ops.release(r->in, r->in->released + 1);
    return sum;
}

static double one_way_ns(struct rank *r, size_t len) {
    static uint8_t data[65536];
    meet(r);
    uint64_t start = now(r);
    for (int i = 0; i < PINGS; i++) {
        if (r->job.rank == 0) {
            send_one(r, data, len);
            data[0] = (uint8_t)(data[0] + receive_one(r));
        } else {
            data[0] = (uint8_t)(data[0] + receive_one(r));
            send_one(r, data, len);
        }
    }
    return (double)(now(r) - start) / (2.0 * PINGS);
}

static void measure_latency(struct rank *r, const struct options *o) {
    static const size_t sizes[] = {0, 8, 40, 64, 256, 512, 1024, 1032, 2048, 4096, 8192, 16384};
    char text[64];
    snprintf(text, sizeof text, "slots=%d,chunk=64K", o->slots);
    open_rank(r, text);
    if (r->job.rank == 0) {
        printf("\none-way latency, ns\n%10s %10s %10s\n", "bytes", "median", "best");
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        double v[ROUNDS_MAX];
        for (int k = 0; k < o->rounds; k++) {
            v[k] = one_way_ns(r, sizes[i]);
        }
        double m = median(v, o->rounds);
        if (r->job.rank == 0) {
            printf("%10zu %10.0f %10.0f\n", sizes[i], m, v[0]);
        }
    }
    close_rank(r);
}

// ---- Throughput ----------------------------------------------------------------------------------

static void add_to(float *restrict to, const float *restrict from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        to[i] += from[i];
    }
}

// Both ends send `set` bytes in chunks and add what arrives; bytes per ns and direction. The source is written
// anew before, as a buffer is between two steps of training: it is not in the receiver's cache.
static double exchange(struct rank *r, uint8_t *from, float *to, size_t set, size_t chunk,
                       int ways) {
    memset(from, 0, set);
    meet(r);
    bool sends = ways == 2 || r->job.rank == 0, receives = ways == 2 || r->job.rank == 1;
    size_t sent = sends ? 0 : set, got = receives ? 0 : set;
    unsigned idle = 0;
    uint64_t start = now(r);
    while (sent < set || got < set || r->out->sent < r->out->posted) {
        int moved = 0;
        if (sent < set) {
            struct rdi_put p = {.data = from + sent, .len = (uint32_t)chunk};
            p.flags = sent + chunk == set ? RDI_PUT_ACK : 0;
            if (rdi_shm_ops.put(r->out, &p) == RONDO_OK) {
                sent += chunk;
                moved = 1;
            }
        }
        moved += rdi_shm_ops.progress(r->net, true);
        if (r->in->released < r->in->arrived) {
            struct rdi_msg m;
            rdi_shm_ops.peek(r->in, r->in->released, &m);
            add_to(to + got / sizeof(float), m.data, m.len / sizeof(float));
            got += m.len;
            rdi_shm_ops.release(r->in, r->in->released + 1);
            moved = 1;
        }
        idle = moved > 0 ? 0 : idle + 1;
        if (idle > IDLE) {
            sched_yield(); // somebody else has the other core
        }
    }
    return (double)set / (double)(now(r) - start);
}

static void *must_alloc(size_t bytes, bool shared) {
    void *at;
    if (shared) {
        if (rondo_mem_alloc(bytes, &at) != RONDO_OK) {
            die("memory");
        }
    } else if ((at = aligned_alloc(4096, bytes)) == NULL) {
        die("memory");
    }
    memset(at, 0, bytes);
    return at;
}

static void measure_chunk(struct rank *r, const struct options *o, size_t chunk, size_t set,
                          double memcpy_rate) {
    char text[64];
    snprintf(text, sizeof text, "slots=%d,chunk=%zu", o->slots, chunk);
    open_rank(r, text);
    uint8_t *private = must_alloc(set, false), *shared = must_alloc(set, true);
    float *to = must_alloc(set, false);
    for (int kind = 0; kind < 4; kind++) {
        bool by_reference = kind % 2 == 1;
        int ways = kind / 2 + 1;
        double v[ROUNDS_MAX];
        exchange(r, by_reference ? shared : private, to, set, chunk, ways);
        for (int k = 0; k < o->rounds; k++) {
            v[k] = exchange(r, by_reference ? shared : private, to, set, chunk, ways);
        }
        double m = median(v, o->rounds);
        if (r->job.rank == 0) {
            printf("%8zu K %8zu K  %-9s %s %8.2f %8.2f %8.2f\n", chunk >> 10, set >> 10,
                   by_reference ? "reference" : "copy", ways == 2 ? "both" : "one ", m,
                   v[o->rounds - 1], m / memcpy_rate);
        }
    }
    free(private);
    free(to);
    close_rank(r);
    rondo_mem_free(shared);
}

// Both processes at once, so that they share the memory's bandwidth as they do above.
static double measure_alone(struct rank *r, const struct options *o, size_t set, bool add) {
    uint8_t *from = must_alloc(set, false);
    float *to = must_alloc(set, false);
    double v[ROUNDS_MAX];
    for (int k = 0; k < o->rounds; k++) {
        meet(r);
        uint64_t start = now(r);
        for (int times = 0; times < 4; times++) {
            if (add) {
                add_to(to, (const float *)(void *)from, set / sizeof(float));
            } else {
                memcpy(to, from, set);
            }
            from[times] = (uint8_t)to[times];
        }
        v[k] = 4.0 * (double)set / (double)(now(r) - start);
    }
    free(from);
    free(to);
    return median(v, o->rounds);
}

static void measure_throughput(struct rank *r, const struct options *o) {
    const size_t sets[] = {1u << 20, o->set};
    for (int i = 0; i < 2; i++) {
        double copy = measure_alone(r, o, sets[i], false), add = measure_alone(r, o, sets[i], true);
        if (r->job.rank == 0) {
            printf("\n%zu KiB a rank: memcpy %.2f, a += b %.2f GB/s in each of two processes at "
                   "once\n%10s %10s  %-9s %s %8s %8s %8s\n",
                   sets[i] >> 10, copy, add, "chunk", "bytes", "payload", "ways", "median", "best",
                   "/memcpy");
        }
        for (int c = 0; c < o->n_chunks; c++) {
            measure_chunk(r, o, o->chunks[c], sets[i], copy);
        }
    }
}

// ---- Main ----------------------------------------------------------------------------------------

static void run_rank(int rank, struct shared *shared, const struct options *o) {
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET((unsigned)rank % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &core);
    sched_setaffinity(0, sizeof core, &core);
    struct rank r = {.shared = shared, .job = {.rank = rank, .size = 2, .host = "here"}};
    rdi_env_system(&r.env, NULL, NULL);
    measure_latency(&r, o);
    measure_throughput(&r, o);
}

int main(int argc, char **argv) {
    struct options o = {.rounds = 9, .slots = 8, .set = 64u << 20};
    int c;
    while ((c = getopt(argc, argv, "r:s:w:c:")) != -1) {
        size_t v = c == '?' ? 0 : strtoul(optarg, NULL, 10);
        if (v == 0 || (c == 'r' && v > ROUNDS_MAX) || (c == 'c' && o.n_chunks == CHUNKS_MAX)) {
            fprintf(stderr, "usage: shm_link_bench [-r rounds] [-s slots] [-w MiB] [-c KiB]...\n");
            return 2;
        }
        switch (c) {
        case 'r':
            o.rounds = (int)v;
            break;
        case 's':
            o.slots = (int)v;
            break;
        case 'w':
            o.set = v << 20;
            break;
        default:
            o.chunks[o.n_chunks++] = v << 10;
        }
    }
    if (o.n_chunks == 0) {
        for (size_t k = 16; k <= 1024; k *= 2) {
            o.chunks[o.n_chunks++] = k << 10;
        }
    }
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    pid_t child = fork();
    if (child == 0) {
        run_rank(1, shared, &o);
        _exit(0);
    }
    run_rank(0, shared, &o);
    int status = 0;
    waitpid(child, &status, 0);
    return status != 0;
}
