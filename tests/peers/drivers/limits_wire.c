// SPDX-License-Identifier: MIT
// Loopback TCP as a long stream, one way and both ways at once, and hand-overs of a cache line, a
// futex, an eventfd and eight bytes over TCP between two processes (half of a round trip).
#include "limits.h"
#include "sockets.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static void die(const char *what) {
    perror(what);
    exit(1);
}

// ---- Streams ------------------------------------------------------------------------------------

// Each process works through a buffer of its own that is larger than the second-level caches.
static void stream(const char *name, int both_ways, size_t chunk, int repeats) {
    enum { BUFFER_MIB = 64, TOTAL_MIB = 192 };
    double times[LIMITS_MAX_REPEATS];
    _Atomic int *gate = limits_shared(sizeof *gate);
    char parameter[32];
    int fds[2];
    sockets_pair(&fds[0], &fds[1]);
    int me = limits_two(0);
    char *memory = mmap(NULL, 2 * BUFFER_MIB * MIB, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    memset(memory, 1, 2 * BUFFER_MIB * MIB);
    sockets_flow flow = {.in = fds[me],
                         .out = fds[me],
                         .send_from = memory,
                         .receive_to = memory + BUFFER_MIB * MIB,
                         .send_size = BUFFER_MIB * MIB,
                         .receive_size = BUFFER_MIB * MIB,
                         .send_bytes = both_ways || me == 1 ? TOTAL_MIB * MIB : 0,
                         .receive_bytes = both_ways || me == 0 ? TOTAL_MIB * MIB : 0,
                         .chunk = chunk};
    for (int r = -1; r < repeats; r++) {
        atomic_fetch_add(gate, 1);
        while (atomic_load(gate) < 2 * (r + 2))
            sched_yield();
        double start = limits_now_us();
        if (sockets_flow_run(&flow))
            die("stream");
        if (r >= 0)
            times[r] = limits_now_us() - start;
    }
    limits_join(me);
    munmap(memory, 2 * BUFFER_MIB * MIB);
    munmap(gate, sizeof *gate);
    close(fds[0]);
    close(fds[1]);
    snprintf(parameter, sizeof parameter, "%zu KiB a call", chunk >> 10);
    limits_print(name, parameter, 2, times, repeats, (double)(TOTAL_MIB * MIB) / 1e3, "GB/s");
}

void limits_streams(int repeats) {
    static const size_t chunks[] = {256 << 10, 1 << 20};
    int n = repeats < 5 ? repeats : 5;
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        stream("TCP one way", 0, chunks[i], n);
        stream("TCP both ways (each)", 1, chunks[i], n);
    }
}

// ---- Hand-overs ---------------------------------------------------------------------------------

typedef struct place {
    _Alignas(64) _Atomic uint32_t turn[2]; // turn[i]: the last number that process i was handed
    char padding[64];
    _Alignas(64) _Atomic uint32_t far;
    int sockets[2];
    int events[2];
} place;

typedef void (*step)(place *p, int me, uint32_t n);

static _Atomic uint32_t *word(place *p, int of) { return of ? &p->far : &p->turn[0]; }

static void spin_give(place *p, int me, uint32_t n) {
    atomic_store_explicit(word(p, !me), n, memory_order_release);
}

static void spin_take(place *p, int me, uint32_t n) {
    while (atomic_load_explicit(word(p, me), memory_order_acquire) != n) {}
}

static void futex_give(place *p, int me, uint32_t n) {
    atomic_store(word(p, !me), n);
    syscall(SYS_futex, word(p, !me), FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futex_take(place *p, int me, uint32_t n) {
    for (uint32_t seen; (seen = atomic_load(word(p, me))) != n;)
        syscall(SYS_futex, word(p, me), FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void event_give(place *p, int me, uint32_t n) {
    uint64_t one = 1;
    (void)n;
    if (write(p->events[!me], &one, sizeof one) != (ssize_t)sizeof one)
        die("eventfd");
}

static void event_take(place *p, int me, uint32_t n) {
    uint64_t got;
    (void)n;
    if (read(p->events[me], &got, sizeof got) != (ssize_t)sizeof got)
        die("eventfd");
}

static void tcp_give(place *p, int me, uint32_t n) {
    char message[8] = {0};
    (void)n;
    if (send(p->sockets[me], message, sizeof message, MSG_NOSIGNAL) != (ssize_t)sizeof message)
        die("send");
}

static void tcp_take(place *p, int me, uint32_t n) {
    char message[8];
    (void)n;
    if (recv(p->sockets[me], message, sizeof message, MSG_WAITALL) != (ssize_t)sizeof message)
        die("recv");
}

static void tcp_take_spinning(place *p, int me, uint32_t n) {
    char message[8];
    size_t have = 0;
    (void)n;
    while (have < sizeof message) {
        ssize_t got = recv(p->sockets[me], message + have, sizeof message - have, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            die("recv");
        have += got > 0 ? (size_t)got : 0;
    }
}

static void ping_pong(const char *name, step give, step take, int together, int rounds,
                      int repeats) {
    double times[LIMITS_MAX_REPEATS];
    place *p = limits_shared(sizeof *p);
    sockets_pair(&p->sockets[0], &p->sockets[1]);
    for (int i = 0; i < 2; i++) {
        p->events[i] = eventfd(0, EFD_CLOEXEC);
        if (p->events[i] < 0)
            die("eventfd");
    }
    int me = limits_two(together);
    uint32_t n = 0;
    for (int r = -1; r < repeats; r++) {
        double start = limits_now_us();
        for (int k = 0; k < rounds; k++) {
            n++;
            if (me == 1)
                take(p, me, n);
            give(p, me, n);
            if (me == 0)
                take(p, me, n);
        }
        if (r >= 0)
            times[r] = (limits_now_us() - start) / rounds / 2;
    }
    limits_join(me);
    for (int i = 0; i < 2; i++) {
        close(p->sockets[i]);
        close(p->events[i]);
    }
    munmap(p, sizeof *p);
    limits_print(name, together ? "one core" : "two cores", 2, times, repeats, 0, "us");
}

void limits_latency(int repeats) {
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        ping_pong("cache line (spinning)", spin_give, spin_take, 0, 5000, repeats);
        ping_pong("futex", futex_give, futex_take, 0, 500, repeats);
        ping_pong("eventfd (blocking)", event_give, event_take, 0, 500, repeats);
        ping_pong("TCP 8 B (spinning)", tcp_give, tcp_take_spinning, 0, 2000, repeats);
        ping_pong("TCP 8 B (blocking)", tcp_give, tcp_take, 0, 500, repeats);
    }
    ping_pong("futex", futex_give, futex_take, 1, 500, repeats);
    ping_pong("TCP 8 B (blocking)", tcp_give, tcp_take, 1, 500, repeats);
}
