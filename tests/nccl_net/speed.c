// SPDX-License-Identifier: MIT
// How fast the plugin moves bytes between two processes of this machine, next to a bare TCP connection that does
// nothing else: send() and recv() in a loop. A measurement, not a test.
//
//   nccl_net_speed libnccl-net-rondo.so [seconds [in flight]]
#include "tests/nccl_net/proxy.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)

struct plan {
    size_t size;
    unsigned depth, seconds;
};

static void report(const char *what, const struct plan *plan, uint64_t messages, uint64_t ns) {
    printf("%-8s %8zu bytes, %2u in flight: %6.2f GB/s\n", what, plan->size, plan->depth,
           (double)messages * (double)plan->size / (double)ns);
    fflush(stdout);
}

// ---- The plugin ----------------------------------------------------------------------------------

// Sends until its time is over; the last message has one byte.
static int sender(int fd, void *arg) {
    struct plan *plan = arg;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *request[PX_DEPTH];
    px_load(&p, 12);
    px_read(fd, handle, sizeof handle);
    void *comm = px_connected(&p, 0, handle);
    char *memory = calloc(plan->depth, plan->size);
    void *mh = px_reg(&p, comm, memory, plan->depth * plan->size);
    uint64_t end = px_now() + plan->seconds * SECOND;
    unsigned posted = 0, done = 0, idle = 0;
    bool last = false;
    while (!last || done < posted) {
        int complete = 0, size;
        void *r = NULL;
        if (!last && posted < done + plan->depth) {
            bool over = px_now() > end;
            px_check(px_isend(&p, comm, memory + (posted % plan->depth) * plan->size,
                              over ? 1 : plan->size, mh, &r) == 0);
            last = over && r != NULL;
        }
        if (r != NULL) {
            request[posted++ % plan->depth] = r;
        }
        if (done < posted) {
            px_check(px_test(&p, request[done % plan->depth], &complete, &size) == 0);
            done += complete != 0;
        }
        idle = complete || r != NULL ? 0 : idle;
        px_idle(&idle);
    }
    px_dereg(&p, comm, mh);
    px_close_send(&p, comm);
    px_unload(&p);
    return 0;
}

static void receive(const struct px *p, void *comm, const struct plan *plan) {
    void *request[PX_DEPTH];
    char *memory = calloc(plan->depth, plan->size);
    void *mh = px_reg(p, comm, memory, plan->depth * plan->size);
    uint64_t begin = 0;
    unsigned posted = 0, done = 0, idle = 0;
    for (int size = 0; size != 1;) {
        int complete = 0;
        void *r = NULL;
        if (posted < done + plan->depth) {
            px_check(px_irecv(p, comm, memory + (posted % plan->depth) * plan->size, plan->size, mh,
                              &r) == 0);
        }
        if (r != NULL) {
            request[posted++ % plan->depth] = r;
        }
        px_check(px_test(p, request[done % plan->depth], &complete, &size) == 0);
        if (complete && ++done == 1) {
            begin = px_now();
        }
        idle = complete || r != NULL ? 0 : idle;
        px_idle(&idle);
    }
    report("plugin", plan, done - 2, px_now() - begin);
    px_dereg(p, comm, mh);
    free(memory);
}

static void run(struct plan plan) {
    struct px_child child;
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL;
    px_fork(&child, sender, &plan);
    px_load(&p, 12);
    px_listen(&p, 0, handle, &listen);
    px_write(child.fd, handle, sizeof handle);
    void *comm = px_accepted(&p, listen);
    px_close_listen(&p, listen);
    receive(&p, comm, &plan);
    px_close_recv(&p, comm);
    px_unload(&p);
    px_check(px_wait(&child) == 0);
}

// ---- Bare TCP ------------------------------------------------------------------------------------

static int bare_sender(int fd, void *arg) {
    struct plan *plan = arg;
    struct sockaddr_in a;
    char *memory = calloc(plan->depth, plan->size);
    px_read(fd, &a, sizeof a);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    px_check(connect(s, (struct sockaddr *)&a, sizeof a) == 0);
    uint64_t end = px_now() + plan->seconds * SECOND;
    for (unsigned i = 0; px_now() < end; i++) {
        char *at = memory + (i % plan->depth) * plan->size;
        for (size_t off = 0; off < plan->size;) {
            ssize_t k = send(s, at + off, plan->size - off, MSG_NOSIGNAL);
            px_check(k > 0);
            off += (size_t)k;
        }
    }
    close(s);
    free(memory);
    return 0;
}

static void run_bare(struct plan plan) {
    struct px_child child;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    px_check(bind(l, (struct sockaddr *)&a, sizeof a) == 0 && listen(l, 1) == 0 &&
             getsockname(l, (struct sockaddr *)&a, &len) == 0);
    px_fork(&child, bare_sender, &plan);
    px_write(child.fd, &a, sizeof a);
    int s = accept4(l, NULL, NULL, SOCK_CLOEXEC);
    px_check(s >= 0);
    char *memory = calloc(plan.depth, plan.size);
    uint64_t bytes = 0, begin = px_now();
    for (ssize_t k = 1; k > 0; bytes += k > 0 ? (uint64_t)k : 0) {
        size_t at = bytes % (plan.depth * plan.size), left = plan.size - at % plan.size;
        k = recv(s, memory + at, left, 0);
    }
    report("bare TCP", &plan, bytes / plan.size, px_now() - begin);
    free(memory);
    close(s);
    close(l);
    px_check(px_wait(&child) == 0);
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0) {
        return 2;
    }
    unsigned seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 2;
    unsigned depth = argc > 3 ? (unsigned)atoi(argv[3]) : 8;
    if (seconds < 1 || seconds > 60 || depth < 1 || depth > PX_DEPTH) {
        fprintf(stderr, "seconds 1 to 60, in flight 1 to %d\n", PX_DEPTH);
        return 2;
    }
    static const size_t sizes[] = {512u << 10, 4u << 20};
    for (unsigned i = 0; i < 2; i++) {
        struct plan plan = {.size = sizes[i], .depth = depth, .seconds = seconds};
        run(plan);
        run_bare(plan);
    }
    return 0;
}
