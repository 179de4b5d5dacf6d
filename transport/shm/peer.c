// SPDX-License-Identifier: MIT
// Other processes: waking them, and seeing them end.
//
// A rank that is about to sleep makes the word on its bell page odd; peers have that page mapped read-only.
// After publishing something a peer looks at the word, and only if it is odd writes the rank's eventfd. So
// while both run no system call is made. Having rung once for a word's value, a peer does not ring again: the
// eventfd stays readable until the rank has woken up and changed the word.
//
// A process' end shows as a hang-up of the Unix socket. That is not enough when it had forked a child which
// still holds the socket open, so its pidfd is watched too where the kernel has that.
#include "transport/memfile.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct shm_peer *find(struct shm_net *net, const uint8_t name[SHM_NAME_BYTES]) {
    struct shm_peer *p = net->peers;
    while (p != NULL && memcmp(p->name, name, SHM_NAME_BYTES) != 0) {
        p = p->next;
    }
    return p;
}

// A write to whatever a peer passed as its eventfd must not block, nor reach a file, nor end this process (SIGPIPE).
static rondo_status check_eventfd(int fd) {
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    // Of all kinds of descriptors only those of anonymous inodes have no type.
    if (flags < 0 || (flags & O_NONBLOCK) == 0 || fstat(fd, &st) != 0 ||
        (st.st_mode & S_IFMT) != 0) {
        return rdi_fail(RONDO_ERR_PEER,
                        "the descriptor that a peer passed for waking it would block or is no "
                        "eventfd: all ranks must run the same release of Rondo");
    }
    return RONDO_OK;
}

// -1 also where there is no need or no way; only a resource that ran out is an error.
static rondo_status open_pidfd(int32_t pid, int *out) {
    *out = -1;
    if (pid <= 0 || pid == getpid()) {
        return RONDO_OK;
    }
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
        return rdi_fail_resource(errno, "watch process %d", (int)pid);
    }
    *out = fd;
    return RONDO_OK;
}

static rondo_status open_peer(struct shm_net *net, int32_t pid, const int fds[2],
                              struct shm_peer **out) {
    struct shm_peer *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return rdi_fail_resource(ENOMEM, "remember a peer");
    }
    p->source = (struct shm_source){.kind = SHM_PEER, .object = p};
    p->eventfd = fds[0];
    void *page;
    rondo_status s = check_eventfd(fds[0]);
    if (s != RONDO_OK) {
        goto free_peer;
    }
    s = rdi_memfile_map("a bell page", fds[1], sizeof(struct shm_bell), RDI_MEMFILE_PRIVATE, &page);
    if (s != RONDO_OK) {
        goto free_peer;
    }
    s = open_pidfd(pid, &p->pidfd);
    if (s != RONDO_OK) {
        goto unmap;
    }
    if (p->pidfd >= 0) {
        int err = shm_watch(net, p->pidfd, &p->source);
        if (err != 0) {
            s = rdi_fail_resource(err, "watch process %d", (int)pid);
            goto close_pidfd;
        }
    }
    p->bell = page;
    *out = p;
    return RONDO_OK;

close_pidfd:
    close(p->pidfd);
unmap:
    rdi_memfile_unmap(page, sizeof(struct shm_bell));
free_peer:
    free(p);
    return s;
}

rondo_status shm_peer_get(struct shm_net *net, const uint8_t name[SHM_NAME_BYTES], int32_t pid,
                          const int fds[2], struct shm_peer **out) {
    struct shm_peer *p = find(net, name);
    if (p != NULL) {
        close(fds[0]);
        close(fds[1]);
        p->refs++;
        *out = p;
        return RONDO_OK;
    }
    rondo_status s = open_peer(net, pid, fds, &p);
    close(fds[1]);
    if (s != RONDO_OK) {
        close(fds[0]);
        return s;
    }
    memcpy(p->name, name, SHM_NAME_BYTES);
    p->refs = 1;
    p->next = net->peers;
    net->peers = p;
    *out = p;
    return RONDO_OK;
}

void shm_peer_put(struct shm_net *net, struct shm_peer *p) {
    if (--p->refs > 0) {
        return;
    }
    struct shm_peer **at = &net->peers;
    while (*at != p) {
        at = &(*at)->next;
    }
    *at = p->next;
    if (p->pidfd >= 0) {
        shm_unwatch(net, p->pidfd);
        close(p->pidfd);
        p->pidfd = -1; // an event that tells of its end may still be about to be looked at
    }
    close(p->eventfd);
    rdi_memfile_unmap((void *)(uintptr_t)p->bell, sizeof(struct shm_bell));
    shm_bury(net, &p->source);
}

void shm_peer_wake(struct shm_peer *p) {
    shm_fence();
    uint64_t word = shm_peek_word(&p->bell->word);
    if ((word & 1) == 0 || word == p->rang) {
        return;
    }
    p->rang = word;
    uint64_t one = 1;
    ssize_t rc;
    do {
        rc = write(p->eventfd, &one, sizeof one);
    } while (rc < 0 && errno == EINTR);
    // EAGAIN: the count is at its maximum, so the eventfd is readable as it should be.
}
