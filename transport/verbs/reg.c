// SPDX-License-Identifier: MIT
// Registering memory with a device, and the words for what it or the kernel refuses.
#include "transport/verbs/parts.h"

#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>

// ---- Refusals ------------------------------------------------------------------------------------

// Registered memory stays in place, so it counts against RLIMIT_MEMLOCK for all but the superuser.
static rondo_status fail_memlock(const char *what, int err) {
    struct rlimit l = {.rlim_cur = 0};
    if (getrlimit(RLIMIT_MEMLOCK, &l) == 0 && l.rlim_cur == RLIM_INFINITY) {
        return rdi_fail_errno(RONDO_ERR_NOMEM, err,
                              "cannot %s: not for the limit on locked memory, which is unlimited; "
                              "the machine is out of memory, or the device or the container's "
                              "cgroup (rdma.max) out of such objects",
                              what);
    }
    return rdi_fail_errno(RONDO_ERR_NOMEM, err,
                          "cannot %s: this process may lock %llu bytes of memory (ulimit -l); "
                          "raise the limit to unlimited (/etc/security/limits.conf, "
                          "docker run --ulimit memlock=-1, LimitMEMLOCK= of the service that "
                          "starts the job)",
                          what, (unsigned long long)l.rlim_cur);
}

rondo_status rdi_verbs_fail_device(const struct rdi_verbs_rail *r, int err, const char *fmt, ...) {
    char what[128], full[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    snprintf(full, sizeof full, "%s on RDMA port %s:%u", what, r->info.device, r->info.port);
    switch (err) {
    case ENOMEM:
    case EPERM:
    case EAGAIN:
        return fail_memlock(full, err);
    case EFAULT:
        return rdi_fail_errno(RONDO_ERR_INVALID, err,
                              "cannot %s: memory that is not mapped, or read-only", full);
    case EMFILE:
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err,
                              "cannot %s: raise the limit on descriptors (ulimit -n)", full);
    default:
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot %s; see the kernel log for the device",
                              full);
    }
}

static int error_or(int fallback) { return errno != 0 ? errno : fallback; }

// ---- Memory --------------------------------------------------------------------------------------

// The soft limit is often the small default where the hard one is not.
static bool raise_memlock(void) {
    struct rlimit l;
    if (getrlimit(RLIMIT_MEMLOCK, &l) != 0 || l.rlim_cur == l.rlim_max) {
        return false;
    }
    l.rlim_cur = l.rlim_max;
    return setrlimit(RLIMIT_MEMLOCK, &l) == 0;
}

static struct ibv_mr *try_once(struct rdi_verbs_rail *r, void *at, size_t bytes, int access,
                               bool relaxed) {
    errno = 0;
    if (relaxed) {
        return r->v->reg_mr_iova2(r->pd, at, bytes, (uintptr_t)at,
                                  (unsigned)access | IBV_ACCESS_RELAXED_ORDERING);
    }
    return r->v->reg_mr(r->pd, at, bytes, access);
}

bool rdi_verbs_is_refusal(int err) {
    return err == EINVAL || err == EOPNOTSUPP || err == ENOSYS || err == EPROTONOSUPPORT;
}

int rdi_verbs_try_reg(struct rdi_verbs_rail *r, void *at, size_t bytes, int access,
                      struct ibv_mr **mr) {
    *mr = try_once(r, at, bytes, access, r->relaxed);
    if (*mr == NULL && errno == ENOMEM && raise_memlock()) {
        *mr = try_once(r, at, bytes, access, r->relaxed);
    }
    if (*mr == NULL && r->relaxed && !r->relaxed_wanted && rdi_verbs_is_refusal(errno)) {
        r->relaxed = false;
        *mr = try_once(r, at, bytes, access, false);
        r->relaxed = *mr == NULL; // else it was the request that is wrong, not the flag
    }
    return *mr != NULL ? 0 : error_or(EIO);
}

rondo_status rdi_verbs_reg(struct rdi_verbs_rail *r, void *at, size_t bytes, int access,
                           struct ibv_mr **mr) {
    int err = rdi_verbs_try_reg(r, at, bytes, access, mr);
    if (err == 0) {
        return RONDO_OK;
    }
    if (r->relaxed_wanted && rdi_verbs_is_refusal(err)) {
        return rdi_fail_errno(RONDO_ERR_UNSUPPORTED, err,
                              "option verbs_relaxed=yes: RDMA port %s:%u refuses relaxed ordering; "
                              "set it to auto or no",
                              r->info.device, r->info.port);
    }
    return rdi_verbs_fail_device(r, err, "register %zu bytes of memory", bytes);
}

rondo_status rdi_verbs_reg_ordered(struct rdi_verbs_rail *r, void *at, size_t bytes, int access,
                                   struct ibv_mr **mr) {
    *mr = try_once(r, at, bytes, access, false);
    if (*mr == NULL && errno == ENOMEM && raise_memlock()) {
        *mr = try_once(r, at, bytes, access, false);
    }
    return *mr != NULL
               ? RONDO_OK
               : rdi_verbs_fail_device(r, error_or(EIO), "register %zu bytes of memory", bytes);
}
