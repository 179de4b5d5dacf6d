// SPDX-License-Identifier: MIT
// Memory that the processor cannot read: it stands for that of another device, as of a GPU.
//
// A DMA-BUF is the usual way to it. With a kernel module like nvidia-peermem a device finds it by its address
// alone; fake_verbs_peer_memory() says what such a module would know. Without either, registering it is a misuse:
// hardware's answer would be EFAULT, and of the program a memory that it took for its own.
#include "fake.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PEERS 16

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct peer {
    uintptr_t start;
    size_t bytes;
    int fd;
    off_t offset;
} peers[PEERS];
static unsigned npeers;

FV_EXPORT int fake_verbs_peer_memory(const void *addr, size_t length, int fd, uint64_t offset);

// [addr, addr+length) is the file from `offset` on; both multiples of 4096. Length 0: forgets all. 0 or -1.
FV_EXPORT int fake_verbs_peer_memory(const void *addr, size_t length, int fd, uint64_t offset) {
    int rc = -1;
    pthread_mutex_lock(&mutex);
    while (length == 0 && npeers > 0)
        close(peers[--npeers].fd);
    int own = length > 0 && npeers < PEERS ? dup(fd) : -1;
    if (own >= 0) {
        peers[npeers++] = (struct peer){(uintptr_t)addr, length, own, (off_t)offset};
        rc = 0;
    }
    pthread_mutex_unlock(&mutex);
    return length == 0 ? 0 : rc;
}

uint8_t *fv_peer_map(const void *addr, size_t length) {
    uint8_t *map = MAP_FAILED;
    uintptr_t at = (uintptr_t)addr;
    pthread_mutex_lock(&mutex);
    for (unsigned i = 0; i < npeers; i++) {
        const struct peer *p = &peers[i];
        if (at < p->start || length > p->bytes || at - p->start > p->bytes - length)
            continue;
        size_t in_page = at % 4096;
        map = mmap(NULL, length + in_page, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd,
                   p->offset + (off_t)(at - p->start - in_page));
        map = map == MAP_FAILED ? map : map + in_page;
    }
    pthread_mutex_unlock(&mutex);
    return map == MAP_FAILED ? NULL : map;
}

// The kernel looks, so that nothing is raised. One byte of a page tells of all.
bool fv_readable(const void *addr, size_t length) {
    enum { BATCH = 256 };
    uintptr_t at = (uintptr_t)addr, end = at + length;
    while (at < end) {
        char bytes[BATCH];
        struct iovec from[BATCH];
        unsigned n = 0;
        for (; n < BATCH && at < end; n++, at = (at & ~(uintptr_t)4095) + 4096)
            from[n] = (struct iovec){(void *)at, 1};
        struct iovec to = {bytes, n};
        ssize_t got = process_vm_readv(getpid(), &to, 1, from, n, 0);
        if (got < 0 ? errno == EFAULT : got < (ssize_t)n)
            return false;
    }
    return true;
}
