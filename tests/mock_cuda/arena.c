// SPDX-License-Identifier: MIT
// Addresses. One reservation of the process:
//
//     base                    base + size              base + 2 size       base + 3 size
//     | device addresses      | their readable views   | pinned host memory |
//     | never accessible      | memfds are mapped here | accessible while   |
//     |                       |                        | it is allocated    |
//
// Addresses are taken in one direction, and only from the start again when all were used. The processes of a host
// begin at different places, so that an address of one means nothing in another.
#include "tests/mock_cuda/mock.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Of each part. Some tools have less room for a program.
#define MOST (64ull << 30)
#define LEAST (8ull << 30)

uint64_t mc_view_delta; // which is the size of a part
static uint64_t base, size;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t next_device, next_host;
static struct sigaction previous[2];

bool mc_arena_has(uint64_t address) { return base && address - base < size; }

static void segv(int sig, siginfo_t *info, void *context) {
    uint64_t at = (uint64_t)(uintptr_t)info->si_addr;
    if (mc_arena_has(at))
        mc_rule("host-touches-device-memory", "the host reads or writes the device address 0x%llx",
                (unsigned long long)at);
    if (base && at - base < 3 * size)
        mc_rule("host-use-after-free",
                "the host reads or writes 0x%llx, which was pinned memory or never any",
                (unsigned long long)at);
    const struct sigaction *p = &previous[sig == SIGBUS];
    if (p->sa_flags & SA_SIGINFO) {
        p->sa_sigaction(sig, info, context);
    } else if (p->sa_handler != SIG_DFL && p->sa_handler != SIG_IGN) {
        p->sa_handler(sig);
    } else {
        sigaction(sig, p, NULL); // it comes again
    }
}

// After the sanitizers' own handlers, which are set before main(), and are called for all else.
static void watch(void) {
    struct sigaction a = {.sa_sigaction = segv, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigemptyset(&a.sa_mask);
    sigaction(SIGSEGV, &a, &previous[0]);
    sigaction(SIGBUS, &a, &previous[1]);
}

void mc_arena_init(void) {
    // Not mmap(2) by its name, of whose size a sanitizer would make a lot of shadow memory.
    long p = -1;
    for (size = MOST; p == -1 && size >= LEAST; size /= p == -1 ? 2 : 1)
        p = syscall(SYS_mmap, NULL, 3 * size + MC_GRANULARITY, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
    if (p == -1)
        mc_rule("environment", "no address space of %llu GiB: %s", 3 * LEAST >> 30,
                strerror(errno));
    base = ((uint64_t)p + MC_GRANULARITY - 1) & ~(MC_GRANULARITY - 1);
    mc_view_delta = size;
    uint64_t state = mc_config.seed * 0x9e3779b97f4a7c15ull + (unsigned)getpid();
    mc_random(&state);
    next_device = base + (mc_random(&state) % (size / 4)) / MC_GRANULARITY * MC_GRANULARITY;
    next_host = base + 2 * size;
    watch();
}

uint64_t mc_arena_take(uint64_t bytes, uint64_t align) {
    if (bytes == 0 || bytes > size / 2)
        return 0;
    pthread_mutex_lock(&lock);
    uint64_t at = 0;
    bool again = false;
    for (;;) {
        at = (next_device + align - 1) & ~(align - 1);
        if (at + bytes > base + size) {
            if (again) {
                at = 0;
                break;
            }
            again = true;
            next_device = base;
            continue;
        }
        next_device = at + bytes + MC_PAGE; // what runs over the end finds nothing
        struct mc_mem *m = mc_mem_overlap(at, bytes);
        if (!m)
            break;
        next_device = m->span_address + m->span_bytes + MC_PAGE;
        mc_mem_put(m);
    }
    pthread_mutex_unlock(&lock);
    return at;
}

static void *at_view(uint64_t address) { return (void *)(uintptr_t)(address + mc_view_delta); }

bool mc_arena_map(uint64_t address, uint64_t bytes, int fd, uint64_t offset) {
    return mmap(at_view(address), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                (off_t)offset) != MAP_FAILED;
}

static void close_range_of(void *p, uint64_t bytes) {
    if (mmap(p, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        mc_rule("environment", "mmap: %s", strerror(errno));
}

void mc_arena_unmap(uint64_t address, uint64_t bytes) { close_range_of(at_view(address), bytes); }

void *mc_arena_host(uint64_t bytes) {
    pthread_mutex_lock(&lock);
    uint64_t at = next_host;
    if (bytes > size || at + bytes + MC_PAGE > base + 3 * size) {
        pthread_mutex_unlock(&lock);
        return NULL;
    }
    next_host += bytes + MC_PAGE;
    pthread_mutex_unlock(&lock);
    void *p = (void *)(uintptr_t)at;
    return mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                   MAP_FAILED
               ? NULL
               : p;
}

void mc_arena_host_give(void *p, uint64_t bytes) { close_range_of(p, bytes); }
