// SPDX-License-Identifier: MIT
// Every collective, type and op on devices, bit for bit: collectives RANKS OPTIONS [threads]
//
// The reference folds all ranks' data on the host with the library's own kernels, in the order that ring.h promises:
// around the ring from the block's first rank, or from rank 0 with order=strict. The order of the ring is that of the
// ranks' numbers, or in the environment: RING=0,2,1,3. A rank that a launcher starts takes its place from there.
#include "cuda_test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

struct job {
    rondo_comm *c;
    int n, me;
    bool strict;
    int *ring; // the rank at each place
    rdi_cu_stream stream;
    uint64_t seed;
};

static int find_ring(struct job *j) {
    const char *at = getenv("RING");
    j->ring = malloc((size_t)j->n * sizeof *j->ring);
    for (int i = 0; i < j->n; i++) {
        CHECK(at == NULL || (*at >= '0' && *at <= '9'));
        j->ring[i] = at == NULL ? i : (int)strtol(at, (char **)(uintptr_t)&at, 10);
        at = at == NULL || *at == '\0' ? at : at + 1;
        CHECK(j->ring[i] == rdi_layout_rank(&j->c->layout, i));
    }
    return 0;
}

static int place_of(const struct job *j, int rank) {
    int place = 0;
    while (j->ring[place] != rank) {
        place++;
    }
    return place;
}

// ---- Reference -----------------------------------------------------------------------------------

// All ranks' `bytes` of data, rank r's at r * bytes.
static char *everybody(const struct job *j, size_t bytes) {
    char *all = malloc((size_t)j->n * bytes + 8);
    for (int r = 0; r < j->n; r++) {
        ct_random(all + (size_t)r * bytes, bytes, j->seed * 64 + (uint64_t)r);
    }
    return all;
}

// to = the fold of [at, at + bytes) of all ranks' data, from place `start` of the ring around, or from rank 0.
static void fold(const struct job *j, const char *all, size_t each, size_t at, size_t bytes,
                 int start, rondo_type t, rondo_op op, char *to) {
    size_t count = bytes / rondo_type_size(t);
    for (int d = 0; d < j->n; d++) {
        size_t rank = (size_t)(j->strict ? d : j->ring[(start + d) % j->n]);
        if (d == 0) {
            memcpy(to, all + rank * each + at, bytes);
        } else {
            rdi_reduce2(to, to, all + rank * each + at, count, t, op);
        }
    }
    if (op == RONDO_AVG && j->n > 1) {
        rdi_divide(to, count, t, (uint64_t)j->n);
    }
}

static void fold_blocks(const struct job *j, const char *all, size_t bytes, rondo_type t,
                        rondo_op op, char *to) {
    size_t n = (size_t)j->n, block = 262144, seg = n * block;
    for (size_t base = 0; base < bytes; base += seg) {
        size_t whole = bytes - base < seg ? bytes - base : seg, len = block;
        if (whole < seg) {
            len = ((whole + n - 1) / n + 63) / 64 * 64;
        }
        for (size_t b = 0; b < n && b * len < whole; b++) {
            size_t part = whole - b * len < len ? whole - b * len : len;
            fold(j, all, bytes, base + b * len, part, (int)b, t, op, to + base + b * len);
        }
    }
}

static int same(const char *got, const char *want, size_t bytes, const char *what, rondo_type t,
                rondo_op op) {
    for (size_t i = 0; i < bytes; i++) {
        if (got[i] != want[i]) {
            fprintf(stderr, "%s of %s, %s: byte %zu of %zu is %02x, not %02x\n", what,
                    rondo_type_name(t), rondo_op_name(op), i, bytes, (unsigned char)got[i],
                    (unsigned char)want[i]);
            return 0;
        }
    }
    return 1;
}

// ---- One check per collective --------------------------------------------------------------------

struct bufs {
    struct ct_buf send, recv;
    char *all, *got, *want;
};

static int make(struct job *j, struct bufs *b, size_t send, size_t recv) {
    j->seed++;
    b->all = everybody(j, send);
    b->got = malloc(recv + 8);
    b->want = malloc(recv + 8);
    RUN(ct_new(&b->send, send));
    RUN(ct_new(&b->recv, recv));
    return ct_put(&b->send, b->all + (size_t)j->me * send);
}

static int finish(struct job *j, struct bufs *b, const struct ct_buf *out, const char *what,
                  rondo_type t, rondo_op op) {
    CU(cu->stream_sync(j->stream));
    RUN(ct_get(out, b->got));
    CHECK(same(b->got, b->want, out->bytes, what, t, op));
    OK(rondo_comm_error(j->c));
    RUN(ct_free(&b->send));
    RUN(ct_free(&b->recv));
    free(b->all);
    free(b->got);
    free(b->want);
    return 0;
}

#define P(b) ((void *)(uintptr_t)(b).p)

static int all_reduce(struct job *j, size_t count, rondo_type t, rondo_op op, bool in_place) {
    struct bufs b;
    size_t bytes = count * rondo_type_size(t);
    RUN(make(j, &b, bytes, bytes));
    fold_blocks(j, b.all, bytes, t, op, b.want);
    struct ct_buf *out = in_place ? &b.send : &b.recv;
    OK(rondo_all_reduce_stream(P(b.send), P(*out), count, t, op, j->c, j->stream));
    return finish(j, &b, out, "all_reduce", t, op);
}

static int reduce_scatter(struct job *j, size_t count, rondo_type t, rondo_op op) {
    struct bufs b;
    size_t bytes = count * rondo_type_size(t), n = (size_t)j->n;
    RUN(make(j, &b, bytes * n, bytes));
    fold(j, b.all, bytes * n, (size_t)j->me * bytes, bytes, place_of(j, j->me) + 1, t, op, b.want);
    OK(rondo_reduce_scatter_stream(P(b.send), P(b.recv), count, t, op, j->c, j->stream));
    return finish(j, &b, &b.recv, "reduce_scatter", t, op);
}

static int reduce(struct job *j, size_t count, rondo_type t, rondo_op op, int root) {
    struct bufs b;
    size_t bytes = count * rondo_type_size(t);
    RUN(make(j, &b, bytes, bytes));
    bool mine = j->me == root;
    fold(j, b.all, bytes, 0, bytes, place_of(j, root) + 1, t, op, b.want);
    if (!mine) {
        memcpy(b.want, b.all + (size_t)j->me * bytes, bytes); // the send buffer is as it was
    }
    OK(rondo_reduce_stream(P(b.send), mine ? P(b.recv) : NULL, count, t, op, root, j->c,
                           j->stream));
    return finish(j, &b, mine ? &b.recv : &b.send, "reduce", t, op);
}

static int all_gather(struct job *j, size_t count, rondo_type t, bool in_place) {
    struct bufs b;
    size_t bytes = count * rondo_type_size(t), mine = (size_t)j->me * bytes;
    RUN(make(j, &b, bytes, bytes * (size_t)j->n));
    memcpy(b.want, b.all, bytes * (size_t)j->n);
    rdi_cu_ptr send = b.send.p;
    if (in_place) {
        send = b.recv.p + mine;
        if (bytes) {
            CU(cu->copy_to_device(send, b.all + mine, bytes));
            CU(cu->stream_sync(NULL));
        }
    }
    OK(rondo_all_gather_stream((void *)(uintptr_t)send, P(b.recv), count, t, j->c, j->stream));
    return finish(j, &b, &b.recv, "all_gather", t, RONDO_SUM);
}

static int broadcast(struct job *j, size_t count, rondo_type t, int root, bool in_place) {
    struct bufs b;
    size_t bytes = count * rondo_type_size(t);
    RUN(make(j, &b, bytes, bytes));
    memcpy(b.want, b.all + (size_t)root * bytes, bytes);
    struct ct_buf *out = in_place ? &b.send : &b.recv;
    OK(rondo_broadcast_stream(P(b.send), P(*out), count, t, root, j->c, j->stream));
    return finish(j, &b, out, "broadcast", t, RONDO_SUM);
}

static int all_to_all(struct job *j, size_t count, rondo_type t) {
    struct bufs b;
    size_t bytes = count * rondo_type_size(t), n = (size_t)j->n;
    RUN(make(j, &b, bytes * n, bytes * n));
    for (size_t r = 0; r < n; r++) {
        memcpy(b.want + r * bytes, b.all + r * bytes * n + (size_t)j->me * bytes, bytes);
    }
    OK(rondo_all_to_all_stream(P(b.send), P(b.recv), count, t, j->c, j->stream));
    return finish(j, &b, &b.recv, "all_to_all", t, RONDO_SUM);
}

// Around the ring: even ranks send first, so that one stream serves.
static int send_recv(struct job *j, size_t count, rondo_type t) {
    struct bufs b;
    size_t bytes = count * rondo_type_size(t);
    if (j->n == 1) {
        return 0;
    }
    int to = (j->me + 1) % j->n, from = (j->me + j->n - 1) % j->n;
    RUN(make(j, &b, bytes, bytes));
    memcpy(b.want, b.all + (size_t)from * bytes, bytes);
    for (int turn = 0; turn < 2; turn++) {
        if (turn == j->me % 2) {
            OK(rondo_send_stream(P(b.send), count, t, to, j->c, j->stream));
        } else {
            OK(rondo_recv_stream(P(b.recv), count, t, from, j->c, j->stream));
        }
    }
    return finish(j, &b, &b.recv, "send and recv", t, RONDO_SUM);
}

// ---- All of them ---------------------------------------------------------------------------------

static int every_type_and_op(struct job *j, size_t count) {
    for (int t = 0; t < RONDO_TYPE_COUNT; t++) {
        for (int op = 0; op < RONDO_OP_COUNT; op++) {
            RUN(all_reduce(j, count + (size_t)t, (rondo_type)t, (rondo_op)op, op % 2 == 0));
        }
        RUN(reduce_scatter(j, count, (rondo_type)t, (rondo_op)(t % RONDO_OP_COUNT)));
        RUN(reduce(j, count, (rondo_type)t, (rondo_op)((t + 1) % RONDO_OP_COUNT), t % j->n));
    }
    return 0;
}

static int every_collective(struct job *j, size_t count) {
    static const rondo_type types[] = {RONDO_F32, RONDO_BF16, RONDO_U8};
    rondo_type t = types[count % 3];
    for (int again = 0; again < 2; again++) {
        int root = (int)((count + (size_t)again) % (size_t)j->n);
        RUN(all_reduce(j, count, t, RONDO_SUM, again));
        RUN(reduce_scatter(j, count, t, RONDO_AVG));
        RUN(all_gather(j, count, t, again));
        RUN(broadcast(j, count, t, root, again));
        RUN(reduce(j, count, t, RONDO_MAX, root));
        RUN(all_to_all(j, count, t));
        RUN(send_recv(j, count, t));
    }
    return 0;
}

static bool brief; // types and ops do not depend on the order, nor on what ranks are

static int body(rondo_comm *c, void *arg) {
    int ordinal;
    struct rdi_cuda_device *d;
    int rc = ct_begin(rondo_comm_local_rank(c), (size_t)rondo_comm_size(c) * 48000000 + 64000000,
                      &ordinal, &d);
    if (rc) {
        return rc;
    }
    struct job j = {.c = c,
                    .n = rondo_comm_size(c),
                    .me = rondo_comm_rank(c),
                    .strict = strstr(arg, "strict") != NULL};
    RUN(find_ring(&j));
    OK(rondo_comm_attach(c, ordinal));
    char reaches[1024];
    OK(rondo_comm_reaches(c, reaches, sizeof reaches));
    if (j.me == 0) {
        printf("%s", reaches);
    }
    CU(cu->stream_create(&j.stream, RDI_CU_STREAM_NON_BLOCKING, 0));
    static const size_t counts[] = {0, 1, 7, 4099, 65536, 300001};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        RUN(every_collective(&j, counts[i]));
    }
    if (!brief) {
        RUN(every_type_and_op(&j, 999));
    }
    // Nearly as many steps as a chain holds, far more than slots.
    for (int root = brief ? j.n - 1 : 0; root < j.n; root++) {
        RUN(broadcast(&j, 3500000, RONDO_F32, root, true));
    }
    RUN(send_recv(&j, 3500000, RONDO_F32));
    // More steps than a chain holds: the walker.
    RUN(all_reduce(&j, SANITIZED || brief ? 6000000 : 12000001, RONDO_F32, RONDO_SUM, true));
    RUN(every_collective(&j, SANITIZED || brief ? 1500001 : 5000001));
    CU(cu->stream_destroy(j.stream));
    free(j.ring);
    return ct_end(c, d);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s RANKS OPTIONS [threads]\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    bool threads = argc > 3 && strcmp(argv[3], "threads") == 0;
#if defined(__SANITIZE_THREAD__)
    brief = true;
#else
    brief = threads || getenv("RING") != NULL;
#endif
    const char *ranks = getenv("RANK") ? getenv("WORLD_SIZE") : argv[1];
    return (threads ? ct_run_threads : rt_run)(atoi(ranks), argv[2], body, argv[2]);
}
