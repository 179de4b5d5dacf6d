// SPDX-License-Identifier: MIT
// Streams of messages, the second process, and what a process has open.
#include "tests/nccl_net/proxy.h"

#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t px_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void px_idle(unsigned *idle) {
    if (++*idle < 50) {
        sched_yield();
        return;
    }
    struct timespec nap = {.tv_nsec = 50000};
    nanosleep(&nap, NULL);
}

// ---- Connecting ----------------------------------------------------------------------------------

void *px_connected(const struct px *p, int dev, void *handle) {
    void *comm = NULL;
    unsigned idle = 0;
    uint64_t end = px_now() + PX_SECONDS * UINT64_C(1000000000);
    while (comm == NULL) {
        if (px_connect(p, dev, handle, &comm) != RDI_NCCL_SUCCESS || px_now() > end) {
            px_die(__FILE__, __LINE__, "connect() came to nothing");
        }
        px_idle(&idle);
    }
    return comm;
}

void *px_accepted(const struct px *p, void *listen) {
    void *comm = NULL;
    unsigned idle = 0;
    uint64_t end = px_now() + PX_SECONDS * UINT64_C(1000000000);
    while (comm == NULL) {
        if (px_accept(p, listen, &comm) != RDI_NCCL_SUCCESS || px_now() > end) {
            px_die(__FILE__, __LINE__, "accept() came to nothing");
        }
        px_idle(&idle);
    }
    return comm;
}

// ---- Contents ------------------------------------------------------------------------------------

static uint64_t word_of(uint64_t seed, size_t i) {
    return (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i * UINT64_C(0xd1b54a32d192ed03);
}

void px_fill(void *data, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i += 8) {
        uint64_t w = word_of(seed, i / 8);
        memcpy((char *)data + i, &w, size - i < 8 ? size - i : 8);
    }
}

bool px_matches(const void *data, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i += 8) {
        uint64_t w = word_of(seed, i / 8);
        if (memcmp((const char *)data + i, &w, size - i < 8 ? size - i : 8) != 0) {
            return false;
        }
    }
    return true;
}

// ---- Streams -------------------------------------------------------------------------------------

struct slots {
    size_t bytes; // of one
    char *memory;
    void *mh;
    void *request[PX_DEPTH];
    unsigned posted;
    uint64_t moved; // when something did last
    unsigned idle;
};

static size_t size_of(const struct px_stream *s, unsigned i) { return s->sizes[i % s->nsizes]; }

static void begin(const struct px *p, void *comm, const struct px_stream *s, struct slots *t) {
    memset(t, 0, sizeof *t);
    px_check(s->depth > 0 && s->depth <= PX_DEPTH);
    for (unsigned i = 0; i < s->nsizes; i++) {
        t->bytes = s->sizes[i] > t->bytes ? s->sizes[i] : t->bytes;
    }
    t->bytes += s->room + 64; // a guard behind each
    t->memory = malloc(t->bytes * s->depth);
    px_check(t->memory != NULL);
    t->mh = s->unregistered ? NULL : px_reg(p, comm, t->memory, t->bytes * s->depth);
    t->moved = px_now();
}

static void end(const struct px *p, void *comm, struct slots *t) {
    if (t->mh != NULL) {
        px_dereg(p, comm, t->mh);
    }
    free(t->memory);
}

static void check_time(struct slots *t, const struct px_stream *s, bool moved) {
    if (moved) {
        t->idle = 0;
        t->moved = px_now();
    } else if (px_now() - t->moved > PX_SECONDS * UINT64_C(1000000000)) {
        px_die(__FILE__, __LINE__, "nothing moves; %u of %u messages are done", s->done, s->count);
    } else {
        px_idle(&t->idle);
    }
}

// True: the oldest is complete.
static bool test_oldest(const struct px *p, struct px_stream *s, struct slots *t, int *size) {
    int done = 0;
    if (s->error == 0 && s->done < t->posted) {
        s->error = px_test(p, t->request[s->done % s->depth], &done, size);
    }
    return done != 0;
}

void px_send_stream(const struct px *p, void *comm, struct px_stream *s) {
    struct slots t;
    begin(p, comm, s, &t);
    while (s->done < s->count && s->error == 0) {
        bool moved = false;
        while (t.posted < s->count && t.posted < s->done + s->depth && s->error == 0) {
            char *at = t.memory + (t.posted % s->depth) * t.bytes;
            void *r = NULL;
            px_fill(at, size_of(s, t.posted), s->seed + t.posted);
            s->error = px_isend(p, comm, at, size_of(s, t.posted), t.mh, &r);
            if (r == NULL) {
                break;
            }
            t.request[t.posted++ % s->depth] = r;
            moved = true;
        }
        int size = -1;
        if (test_oldest(p, s, &t, &size)) {
            px_check(size == (int)size_of(s, s->done));
            // From now on the memory is ours again.
            memset(t.memory + (s->done % s->depth) * t.bytes, 0xee, size_of(s, s->done));
            s->done++;
            moved = true;
            if (s->each != NULL) {
                s->each(s->arg, s->done);
            }
        }
        check_time(&t, s, moved);
    }
    end(p, comm, &t);
}

static void check_message(const struct px_stream *s, const char *at, int size) {
    size_t want = size_of(s, s->done);
    px_check(size == (int)want);
    px_check(px_matches(at, want, s->seed + s->done));
    for (size_t i = want; i < want + s->room + 64; i++) {
        px_check(at[i] == 0x55); // nothing was written behind the message
    }
}

void px_recv_stream(const struct px *p, void *comm, struct px_stream *s) {
    struct slots t;
    begin(p, comm, s, &t);
    while (s->done < s->count && s->error == 0) {
        bool moved = false;
        while (t.posted < s->count && t.posted < s->done + s->depth && s->error == 0) {
            char *at = t.memory + (t.posted % s->depth) * t.bytes;
            void *r = NULL;
            memset(at, 0x55, size_of(s, t.posted) + s->room + 64);
            s->error = px_irecv(p, comm, at, size_of(s, t.posted) + s->room, t.mh, &r);
            if (r == NULL) {
                break;
            }
            t.request[t.posted++ % s->depth] = r;
            moved = true;
        }
        int size = -1;
        if (test_oldest(p, s, &t, &size)) {
            check_message(s, t.memory + (s->done % s->depth) * t.bytes, size);
            s->done++;
            moved = true;
            if (s->each != NULL) {
                s->each(s->arg, s->done);
            }
        }
        check_time(&t, s, moved);
    }
    end(p, comm, &t);
}

// ---- A second process ----------------------------------------------------------------------------

void px_fork(struct px_child *c, int (*body)(int fd, void *arg), void *arg) {
    int pair[2];
    px_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    fflush(NULL);
    c->pid = fork();
    px_check(c->pid >= 0);
    if (c->pid == 0) {
        close(pair[0]);
        int status = body(pair[1], arg);
        fflush(NULL);
        _exit(status);
    }
    close(pair[1]);
    c->fd = pair[0];
}

void px_write(int fd, const void *bytes, size_t n) {
    px_check(send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
}

void px_read(int fd, void *bytes, size_t n) {
    px_check(recv(fd, bytes, n, MSG_WAITALL) == (ssize_t)n);
}

int px_wait(struct px_child *c) {
    int status = 0;
    px_check(waitpid(c->pid, &status, 0) == c->pid);
    close(c->fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// ---- What is open --------------------------------------------------------------------------------

static unsigned count_entries(const char *path, bool sockets_cut, unsigned *cut) {
    DIR *d = opendir(path);
    px_check(d != NULL);
    unsigned n = 0;
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        if (e->d_name[0] == '.') {
            continue;
        }
        n++;
        int fd = atoi(e->d_name);
        struct tcp_info info;
        socklen_t len = sizeof info;
        if (sockets_cut && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
            info.tcpi_state == TCP_ESTABLISHED) {
            *cut += shutdown(fd, SHUT_RDWR) == 0;
        }
    }
    closedir(d);
    return n - 1; // its own
}

unsigned px_count_fds(void) { return count_entries("/proc/self/fd", false, NULL); }
unsigned px_count_threads(void) { return count_entries("/proc/self/task", false, NULL) + 1; }

unsigned px_cut_tcp(void) {
    unsigned cut = 0;
    count_entries("/proc/self/fd", true, &cut);
    return cut;
}
