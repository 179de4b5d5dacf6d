// SPDX-License-Identifier: MIT
// Protection domains and memory regions.
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#undef ibv_reg_mr
#undef ibv_reg_mr_iova

FV_EXPORT struct ibv_pd *ibv_alloc_pd(struct ibv_context *context) {
    struct fv_pd *pd = calloc(1, sizeof *pd);
    if (!pd)
        return NULL;
    pd->magic = FV_ALIVE;
    pd->v.context = context;
    struct fv_nic *nic = fv_enter_locked(context);
    bool gone = nic->gone;
    if (!gone) {
        pd->next = nic->pds;
        nic->pds = pd;
        nic->npds++;
    }
    fv_leave(nic);
    if (!gone)
        return &pd->v;
    free(pd);
    errno = EIO;
    return NULL;
}

FV_EXPORT int ibv_dealloc_pd(struct ibv_pd *v) {
    struct fv_pd *pd = FV_CONTAINER(v, struct fv_pd, v);
    fv_check_alive(pd->magic, "protection domain", "ibv_dealloc_pd()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    int rc = pd->users ? EBUSY : 0;
    if (rc == 0) {
        struct fv_pd **at = &nic->pds;
        while (*at != pd)
            at = &(*at)->next;
        *at = pd->next;
        nic->npds--;
        pd->magic = FV_DEAD;
        fv_bury(nic, pd);
    }
    fv_leave(nic);
    return rc;
}

// ---- Registration --------------------------------------------------------------------------------

static bool is_mapped(const void *addr, size_t length) {
    enum { STEP = 4096 };
    static const size_t page = 4096;
    unsigned char vec[STEP];
    uintptr_t from = (uintptr_t)addr & ~(page - 1), to = (uintptr_t)addr + length;
    for (; from < to; from += STEP * page) {
        size_t bytes = to - from < STEP * page ? to - from : STEP * page;
        if (mincore((void *)from, bytes, vec) != 0)
            return false;
    }
    return true;
}

static struct fv_mr **bucket(struct fv_nic *nic, uint32_t key) {
    return &nic->mrs[(key >> 8) % (sizeof nic->mrs / sizeof nic->mrs[0])];
}

// A region's two keys differ, and neither is used again soon: keys of another region, device or kind are
// always found out.
static void give_keys(struct fv_nic *nic, struct fv_mr *m) {
    uint32_t low = nic->next_key & 0xffff;
    nic->next_key = (nic->next_key & 0xff0000u) | ((low + 1) & 0xffff);
    uint32_t noise = (uint32_t)fv_random(&nic->rng);
    m->v.handle = nic->next_key;
    m->v.lkey = nic->next_key << 8 | (noise & 0x7f);
    m->v.rkey = nic->next_key << 8 | 0x80 | (noise >> 8 & 0x7f);
}

static int check_access(int access) {
    const int remote = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
    if ((access & remote) && !(access & IBV_ACCESS_LOCAL_WRITE)) {
        fv_rule("REMOTE_NEEDS_LOCAL_WRITE",
                "registration for remote writing or atomics without IBV_ACCESS_LOCAL_WRITE");
        return EINVAL;
    }
    return 0;
}

// The kernel asks nothing of a privileged user; where it is asked for, this is the limit of any.
static bool over_memlock(const struct fv_nic *nic, size_t length) {
    struct rlimit limit;
    return nic->device.config.memlock && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
           limit.rlim_cur != RLIM_INFINITY &&
           (rlim_t)fv_counters.registered_bytes + length > limit.rlim_cur;
}

static int add(struct fv_nic *nic, struct fv_mr *m) {
    if (nic->gone)
        return EIO;
    if (++nic->registrations == nic->faults.regfail || over_memlock(nic, m->v.length))
        return ENOMEM;
    give_keys(nic, m);
    m->next = *bucket(nic, m->v.lkey);
    *bucket(nic, m->v.lkey) = m;
    nic->nmrs++;
    FV_CONTAINER(m->v.pd, struct fv_pd, v)->users++;
    fv_counters.registrations++;
    fv_counters.registered_bytes += (long)m->v.length;
    return 0;
}

static struct ibv_mr *reg(struct ibv_pd *pd, void *base, size_t length, uint64_t iova, int access,
                          bool mapped) {
    fv_check_alive(FV_CONTAINER(pd, struct fv_pd, v)->magic, "protection domain", "registration");
    struct fv_mr *m = calloc(1, sizeof *m);
    int rc = m ? check_access(access) : ENOMEM;
    if (rc == 0 && (length == 0 || iova + length < iova))
        rc = EINVAL;
    if (rc == 0 && !mapped && !is_mapped(base, length))
        rc = EFAULT;
    if (rc == 0) {
        *m = (struct fv_mr){.magic = FV_ALIVE,
                            .base = base,
                            .iova = access & IBV_ACCESS_ZERO_BASED ? 0 : iova,
                            .access = access,
                            .mapped = mapped};
        m->v.context = pd->context;
        m->v.pd = pd;
        m->v.addr = base;
        m->v.length = length;
        struct fv_nic *nic = fv_enter_locked(pd->context);
        rc = add(nic, m);
        fv_leave(nic);
    }
    if (rc == 0)
        return &m->v;
    free(m);
    errno = rc;
    return NULL;
}

// Ours goes with the registration.
static struct ibv_mr *reg_mapped(struct ibv_pd *pd, uint8_t *map, size_t length, uint64_t iova,
                                 int access) {
    struct ibv_mr *mr = reg(pd, map, length, iova, access, true);
    if (!mr) {
        int error = errno;
        munmap(map - (uintptr_t)map % 4096, length + (uintptr_t)map % 4096);
        errno = error;
    }
    return mr;
}

static struct ibv_mr *reg_address(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
                                  int access) {
    uint8_t *peer = fv_peer_map(addr, length);
    if (peer)
        return reg_mapped(pd, peer, length, iova, access);
    if (is_mapped(addr, length) && !fv_readable(addr, length)) {
        fv_rule("NOT_READABLE",
                "%p+%zu is registered by its address, but is another device's memory, of which "
                "nothing tells here",
                addr, length);
        errno = EFAULT;
        return NULL;
    }
    return reg(pd, addr, length, iova, access, false);
}

FV_EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access) {
    if (access & (int)IBV_ACCESS_OPTIONAL_RANGE) {
        fv_rule("OPTIONAL_ACCESS", "optional access flags need ibv_reg_mr_iova2()");
        access &= ~(int)IBV_ACCESS_OPTIONAL_RANGE;
    }
    return reg_address(pd, addr, length, (uintptr_t)addr, access);
}

FV_EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length,
                                         uint64_t iova, int access) {
    return reg_address(pd, addr, length, iova, access);
}

FV_EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length,
                                          uint64_t iova, unsigned access) {
    return reg_address(pd, addr, length, iova, (int)access);
}

FV_EXPORT struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length,
                                           uint64_t iova, int fd, int access) {
    const int known = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                      IBV_ACCESS_REMOTE_ATOMIC | (int)IBV_ACCESS_RELAXED_ORDERING;
    errno = EOPNOTSUPP;
    if (!fv_nic_of(pd->context)->device.config.dmabuf)
        return NULL;
    errno = EBADF;
    if (fcntl(fd, F_GETFD) < 0)
        return NULL;
    errno = EINVAL;
    if ((access & ~known) || offset % 4096 != iova % 4096 || length == 0)
        return NULL;
    // A file that stands for a part of a larger memory says by its position where that part begins.
    off_t begins = lseek(fd, 0, SEEK_CUR);
    if (begins > 0 && begins % 4096 == 0)
        offset += (uint64_t)begins;
    size_t in_page = offset % 4096;
    uint8_t *map = mmap(NULL, length + in_page, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                        (off_t)(offset - in_page));
    if (map == MAP_FAILED)
        return NULL;
    return reg_mapped(pd, map + in_page, length, iova, access);
}

static void check_unused(struct fv_nic *nic, const struct fv_mr *m) {
    for (struct fv_qp *q = nic->qps; q; q = q->next) {
        if (fv_qp_uses(q, m->v.lkey))
            fv_rule(
                "DEREG_IN_FLIGHT",
                "the memory %p+%zu is deregistered while a work request of queue pair 0x%06x uses "
                "it whose completion was not polled",
                m->v.addr, m->v.length, q->v.qp_num);
        fv_msg_place(q); // what was accepted for it
    }
}

FV_EXPORT int ibv_dereg_mr(struct ibv_mr *v) {
    struct fv_mr *m = FV_CONTAINER(v, struct fv_mr, v);
    fv_check_alive(m->magic, "memory region", "ibv_dereg_mr()");
    struct fv_nic *nic = fv_enter_locked(v->context);
    check_unused(nic, m);
    struct fv_mr **at = bucket(nic, v->lkey);
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    nic->nmrs--;
    fv_counters.registered_bytes -= (long)v->length;
    FV_CONTAINER(v->pd, struct fv_pd, v)->users--;
    if (m->mapped) {
        size_t in_page = (uintptr_t)m->base % 4096;
        munmap(m->base - in_page, v->length + in_page);
    }
    m->magic = FV_DEAD;
    fv_bury(nic, m);
    fv_leave(nic);
    return 0;
}

// ---- Use -----------------------------------------------------------------------------------------

static struct fv_mr *find(struct fv_nic *nic, uint32_t key, bool remote) {
    for (struct fv_mr *m = *bucket(nic, key); m; m = m->next)
        if ((remote ? m->v.rkey : m->v.lkey) == key)
            return m;
    return NULL;
}

static const char *check(const struct fv_mr *m, const struct ibv_pd *pd, uint64_t addr,
                         uint64_t bytes, int access) {
    if (!m)
        return "there is no such key";
    if (m->v.pd != pd)
        return "the key is of another protection domain";
    if (addr < m->iova || bytes > m->v.length || addr - m->iova > m->v.length - bytes)
        return "the range is not within the registration";
    if ((m->access & access) != access)
        return "the registration does not allow this access";
    return NULL;
}

uint8_t *fv_mr_local(struct fv_nic *nic, struct ibv_pd *pd, const struct ibv_sge *sge, int access,
                     struct fv_mr **mr, const char **why) {
    struct fv_mr *m = find(nic, sge->lkey, false);
    *why = check(m, pd, sge->addr, sge->length, access);
    if (*why)
        return NULL;
    if (mr)
        *mr = m;
    return m->base + (sge->addr - m->iova);
}

uint8_t *fv_mr_remote(struct fv_nic *nic, struct ibv_pd *pd, uint32_t rkey, uint64_t addr,
                      uint64_t bytes, int access, struct fv_mr **mr) {
    struct fv_mr *m = find(nic, rkey, true);
    if (check(m, pd, addr, bytes, access))
        return NULL;
    uint8_t *at = m->base + (addr - m->iova);
    if (!is_mapped(at, bytes)) {
        fv_rule("UNMAPPED",
                "a peer writes or reads %p+%llu, which is registered but was unmapped meanwhile",
                (void *)at, (unsigned long long)bytes);
        return NULL;
    }
    *mr = m;
    return at;
}
