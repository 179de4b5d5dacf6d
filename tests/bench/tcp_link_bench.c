// SPDX-License-Identifier: MIT
// Measures the tcp transport by itself, between two processes on loopback, against a bare loop of send() and
// recv() in the same run: one-way latency of small messages, and throughput one way and both ways at once
// (two links, or two connections). Not a test: it judges nothing.
//
//   tcp_link_bench [-o options] [-c chunk] [-s working set] [-t total] [-r rounds]
//
// Each rank has a core of its own if there are two. The best round of each is what the machine can do when
// nobody disturbs it; the median tells how much it was disturbed.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS_MAX = 64, PINGS = 1000, CASES = 8 };

struct shared {
    _Atomic unsigned barrier;
    uint8_t blob[2][RDI_BLOB_MAX];
    size_t blob_len[2];
    double seconds[CASES][ROUNDS_MAX];
};

struct rank {
    int rank;
    struct shared *shared;
    unsigned barriers;
    size_t chunk, set, total;
    unsigned rounds;
    const char *options;
    char *source, *target;
    int fd_out, fd_in; // bare
    struct rdi_net *net;
    struct rdi_link *out, *in;
    bool landing;
};

static void die(const char *what) {
    fprintf(stderr, "%s: %s (%s)\n", what, rondo_last_error(), strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void meet(struct rank *r) {
    unsigned wanted = ++r->barriers * 2;
    atomic_fetch_add(&r->shared->barrier, 1);
    while (atomic_load(&r->shared->barrier) < wanted) {
        sched_yield();
    }
}

// ---- The bare loop -------------------------------------------------------------------------------

static void bare_latency(struct rank *r) {
    char b[64];
    int fd = r->rank == 0 ? r->fd_out : r->fd_in; // one connection, both ways
    for (int i = 0; i < PINGS; i++) {
        if (r->rank == 0 && send(fd, b, 8, 0) != 8) {
            die("send");
        }
        while (recv(fd, b, sizeof b, MSG_DONTWAIT) <= 0) {}
        if (r->rank == 1 && send(fd, b, 8, 0) != 8) {
            die("send");
        }
    }
}

static size_t piece(const struct rank *r, size_t done, size_t total) {
    size_t n = r->set - done % r->set;
    n = n < r->chunk ? n : r->chunk;
    return n < total - done ? n : total - done;
}

static void bare_stream(struct rank *r, bool send_it, bool receive) {
    size_t sent = send_it ? 0 : r->total, got = receive ? 0 : r->total;
    while (sent < r->total || got < r->total) {
        if (sent < r->total) {
            ssize_t k = send(r->fd_out, r->source + sent % r->set, piece(r, sent, r->total),
                             MSG_DONTWAIT | MSG_NOSIGNAL);
            sent += k > 0 ? (size_t)k : 0;
        }
        if (got < r->total) {
            ssize_t k =
                recv(r->fd_in, r->target + got % r->set, piece(r, got, r->total), MSG_DONTWAIT);
            got += k > 0 ? (size_t)k : 0;
        }
    }
}

// ---- The transport -------------------------------------------------------------------------------

static void turn(struct rank *r) { r->net->ops->progress(r->net, true); }

static void put(struct rank *r, const void *data, size_t len, uint64_t tag, unsigned flags) {
    struct rdi_put p = {.data = data, .len = (uint32_t)len, .tag = tag, .flags = flags};
    rondo_status s;
    while ((s = r->out->ops->put(r->out, &p)) == RONDO_AGAIN) {
        turn(r);
    }
    if (s != RONDO_OK) {
        die("put");
    }
}

static void net_latency(struct rank *r) {
    static char b[64];
    uint64_t next = r->in->arrived;
    for (int i = 0; i < PINGS; i++) {
        if (r->rank == 0) {
            put(r, b, 8, 0, i + 1 == PINGS ? RDI_PUT_ACK : 0);
        }
        while (r->in->arrived == next) {
            turn(r);
        }
        if (r->rank == 1) {
            put(r, b, 8, 0, i + 1 == PINGS ? RDI_PUT_ACK : 0);
        }
        r->in->ops->release(r->in, ++next);
    }
    while (r->out->sent < r->out->posted) {
        turn(r);
    }
}

static void net_stream(struct rank *r, bool send_it, bool receive) {
    size_t sent = send_it ? 0 : r->total, got = receive ? 0 : r->total;
    while (sent < r->total || got < r->total || r->out->sent < r->out->posted) {
        while (sent < r->total && r->out->posted < r->out->credit) {
            size_t n = piece(r, sent, r->total);
            put(r, r->source + sent % r->set, n, sent, sent + n == r->total ? RDI_PUT_ACK : 0);
            sent += n;
        }
        while (r->in->released < r->in->arrived) {
            struct rdi_msg m;
            r->in->ops->peek(r->in, r->in->released, &m);
            got += m.len;
            r->in->ops->release(r->in, r->in->released + 1);
        }
        turn(r);
    }
}

static void *land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    struct rank *r = self;
    (void)link;
    return r->landing && tag % r->set + len <= r->set ? r->target + tag % r->set : NULL;
}

static rondo_status accept_link(void *self, struct rdi_link *link) {
    ((struct rank *)self)->in = link;
    return RONDO_OK;
}

static void ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    (void)self, (void)link, (void)type, (void)msg, (void)len;
}

static void open_net(struct rank *r) {
    static struct rdi_job job;
    static struct rdi_options options;
    static struct rdi_net_events events;
    events = (struct rdi_net_events){.self = r, .accept = accept_link, .land = land, .ctrl = ctrl};
    if (rdi_options_load(&options, r->options, getenv) != RONDO_OK) {
        die("options");
    }
    options.num[RDI_OPT_CHUNK] = (int64_t)r->chunk;
    job = (struct rdi_job){.rank = r->rank, .size = 2};
    snprintf(job.host, sizeof job.host, "here");
    struct rdi_net_params params = {.options = &options, .job = &job, .events = &events};
    rdi_env_system(&params.env, NULL, NULL);
    struct shared *s = r->shared;
    if (rdi_tcp_ops.open(&params, &r->net) != RONDO_OK) {
        die("open");
    }
    r->net->ops->address(r->net, s->blob[r->rank], &s->blob_len[r->rank]);
    meet(r);
    int peer = 1 - r->rank;
    struct rdi_link_id id = {.comm = 1, .from = (uint32_t)r->rank, .to = (uint32_t)peer};
    if (r->net->ops->connect(r->net, &id, s->blob[peer], s->blob_len[peer], &r->out) != RONDO_OK) {
        die("connect");
    }
    while (r->in == NULL || r->in->state != RDI_LINK_UP || r->out->state != RDI_LINK_UP) {
        r->net->ops->progress(r->net, false);
        if (r->out->state == RDI_LINK_FAILED) {
            die(r->out->why);
        }
    }
    meet(r);
}

// ---- Rounds --------------------------------------------------------------------------------------

enum { BARE_LAT, NET_LAT, BARE_ONE, NET_ONE, BARE_BOTH, NET_BOTH, NET_BOTH_LANDED };
static const char *const names[] = {"bare ping-pong",        "link ping-pong", "bare one way",
                                    "link one way",          "bare both ways", "link both ways",
                                    "link both ways, landed"};

static void one(struct rank *r, int which) {
    bool zero = r->rank == 0;
    r->landing = which == NET_BOTH_LANDED;
    switch (which) {
    case BARE_LAT:
        bare_latency(r);
        break;
    case NET_LAT:
        net_latency(r);
        break;
    case BARE_ONE:
        bare_stream(r, zero, !zero);
        break;
    case NET_ONE:
        net_stream(r, zero, !zero);
        break;
    case BARE_BOTH:
        bare_stream(r, true, true);
        break;
    default:
        net_stream(r, true, true);
    }
}

static void run(struct rank *r) {
    open_net(r);
    for (unsigned round = 0; round < r->rounds; round++) {
        for (int which = 0; which <= NET_BOTH_LANDED; which++) {
            meet(r);
            double start = now();
            one(r, which);
            meet(r);
            if (r->rank == 0) {
                r->shared->seconds[which][round] = now() - start;
            }
        }
    }
    r->out->ops->close_link(r->out, true);
    r->in->ops->close_link(r->in, true);
    r->net->ops->close(r->net);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const struct rank *r) {
    double best[CASES];
    for (int which = 0; which <= NET_BOTH_LANDED; which++) {
        double *t = r->shared->seconds[which];
        qsort(t, r->rounds, sizeof *t, compare);
        best[which] = t[0];
        double median = t[r->rounds / 2];
        int against = which <= NET_LAT ? BARE_LAT : which <= NET_ONE ? BARE_ONE : BARE_BOTH;
        if (which <= NET_LAT) {
            printf("%-24s best %6.2f median %6.2f us one way", names[which], t[0] / PINGS / 2 * 1e6,
                   median / PINGS / 2 * 1e6);
        } else {
            printf("%-24s best %6.2f median %6.2f GB/s each way", names[which],
                   (double)r->total / t[0] * 1e-9, (double)r->total / median * 1e-9);
        }
        printf("  time / bare: best %.2f median %.2f\n", t[0] / best[against],
               median / r->shared->seconds[against][r->rounds / 2]);
    }
}

static void pin(int rank) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)rank, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static int connect_bare(int listener, int *other) {
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (getsockname(listener, (struct sockaddr *)&a, &len) != 0 ||
        connect(fd, (struct sockaddr *)&a, len) != 0) {
        die("connect");
    }
    *other = accept(listener, NULL, NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(*other, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

int main(int argc, char **argv) {
    struct rank r = {.chunk = 256 << 10,
                     .set = 16 << 20,
                     .total = 64 << 20,
                     .rounds = 9,
                     .options = "interface=lo,auth=none"};
    int c;
    while ((c = getopt(argc, argv, "o:c:s:t:r:")) >= 0) {
        switch (c) {
        case 'o':
            r.options = optarg;
            break;
        case 'c':
            r.chunk = strtoul(optarg, NULL, 0);
            break;
        case 's':
            r.set = strtoul(optarg, NULL, 0);
            break;
        case 't':
            r.total = strtoul(optarg, NULL, 0);
            break;
        case 'r':
            r.rounds = (unsigned)strtoul(optarg, NULL, 0);
            break;
        default:
            fprintf(stderr, "usage: %s [-o options] [-c chunk] [-s set] [-t total] [-r rounds]\n",
                    argv[0]);
            return 2;
        }
    }
    if (r.rounds < 1 || r.rounds > ROUNDS_MAX || r.set < r.chunk || r.chunk < 64) {
        fprintf(stderr, "rounds are 1 to %d, the working set holds at least a chunk\n", ROUNDS_MAX);
        return 2;
    }
    r.shared =
        mmap(NULL, sizeof *r.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), ab[2], ba[2];
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&any, sizeof any) != 0 || listen(listener, 2) != 0) {
        die("listen");
    }
    ab[0] = connect_bare(listener, &ab[1]);
    ba[0] = connect_bare(listener, &ba[1]);
    pid_t child = fork();
    r.rank = child == 0;
    pin(r.rank);
    r.fd_out = r.rank == 0 ? ab[0] : ba[1];
    r.fd_in = r.rank == 0 ? ba[0] : ab[1];
    r.source = aligned_alloc(4096, r.set);
    r.target = aligned_alloc(4096, r.set);
    memset(r.source, r.rank + 1, r.set);
    memset(r.target, 0, r.set);
    run(&r);
    if (r.rank == 1) {
        return 0;
    }
    int status;
    waitpid(child, &status, 0);
    report(&r);
    return status;
}
