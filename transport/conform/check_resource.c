// SPDX-License-Identifier: MIT
// What a transport takes of the machine: all of it comes back, and where there is too little a clear error says
// so.
#include "transport/conform/check.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

void cf_check_resource_leaks(struct cf *c) {
    struct cf_usage before = {0};
    for (unsigned round = 0; round < 12; round++) {
        struct cf_pair p;
        cf_pair_open(&p, c, "chunk=128K", CF_BOTH);
        cf_pair_stream(&p, c, 30, cf_any_size, true);
        cf_pair_close(&p, c);
        cf_sync(c);
        if (round == 2) {
            cf_usage_take(&before);
        }
    }
    cf_usage_expect(c, &before, 16u << 20, "after nets had come and gone");
}

// A child of a rank, such as a data loader, comes and goes, and writes to what it has inherited.
void cf_check_resource_fork(struct cf *c) {
    struct cf_pair p;
    struct cf_flow out, in;
    pid_t child = -1;
    int status = 0;
    cf_pair_open(&p, c, NULL, CF_BOTH);
    cf_flow_begin(&out, c, p.out, 300, cf_wild_size);
    cf_flow_begin(&in, c, p.in, 300, cf_wild_size);
    for (unsigned i = 0; !cf_flow_done(&out) || !cf_flow_done(&in); i++) {
        cf_flow_move(&out);
        cf_flow_move(&in);
        if (child < 0 && in.taken > 50 && out.link->sent > 50) {
            child = fork();
            if (child == 0) {
                memset(out.memory, 0xcc, out.link->slots * out.stride); // its own copy
                _exit(7);
            }
            cf_expect(c, child > 0, "fork: %s", strerror(errno));
        }
        cf_wait_turn(c, c->deadline, "all messages came, though there was a child");
    }
    cf_expect(c,
              child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
                  WEXITSTATUS(status) == 7,
              "the child ended with status %d", status);
    cf_flow_end(&out);
    cf_flow_end(&in);
    cf_pair_stream(&p, c, 30, cf_any_size, true);
    cf_pair_close(&p, c);
}

// ---- Descriptors ---------------------------------------------------------------------------------

static void expect_limit_text(struct cf *c, rondo_status s, const char *text, const char *where) {
    cf_expect(c, s == RONDO_ERR_SYSTEM || s == RONDO_ERR_NOMEM || s == RONDO_ERR_UNSUPPORTED,
              "%s without descriptors says %s: %s", where, rondo_status_name(s), text);
    cf_expect(c, strstr(text, "descriptor") != NULL || strstr(text, "open files") != NULL,
              "%s without descriptors says \"%s\", which does not speak of them", where, text);
}

void cf_check_resource_open_fds(struct cf *c) {
    struct cf_usage before;
    bool opened = false;
    cf_net_close(cf_net_open(c, NULL)); // what is loaded once stays
    cf_usage_take(&before);
    for (int more = 1; more < 64 && !opened; more++) {
        struct cf_net *n = cf_net_prepare(c, NULL);
        cf_limit_fds(c, more);
        rondo_status s = cf_net_start(n);
        cf_limit_fds(c, -1);
        if (s != RONDO_OK) {
            expect_limit_text(c, s, rondo_last_error(), "open()");
        }
        opened = s == RONDO_OK;
        cf_net_close(n);
        cf_usage_expect(c, &before, 64u << 20, "after open() without descriptors");
    }
    cf_expect(c, opened, "open() does not succeed with 64 descriptors");
    cf_sync(c);
}

void cf_check_resource_connect_fds(struct cf *c) {
    struct cf_pair p;
    struct cf_usage before;
    cf_pair_open(&p, c, "connect_timeout=2s", CF_TO);
    cf_pair_hello(&p, c);
    cf_turns(c, 50);
    cf_usage_take(&before);
    if (c->first) {
        struct rdi_link *l;
        cf_limit_fds(c, 0);
        rondo_status s = cf_try_connect(p.n, p.peer, c->peer, 9, &l);
        if (s == RONDO_OK) {
            cf_await(c, "the link failed for want of descriptors", l->state != RDI_LINK_CONNECTING);
            cf_expect(c, l->state == RDI_LINK_FAILED, "the link is in state %d", l->state);
            expect_limit_text(c, l->status, l->why, "connect()");
            cf_close(p.n, l, false);
        } else {
            expect_limit_text(c, s, rondo_last_error(), "connect()");
        }
        cf_limit_fds(c, -1);
        cf_turns(c, 50);
        cf_usage_expect(c, &before, 16u << 20, "after connect() without descriptors");
    }
    cf_sync(c);
    struct cf_pair q = p;
    cf_pair_links(&q, c, CF_TO, 10);
    cf_pair_hello(&q, c);
    cf_pair_stream(&p, c, 20, cf_any_size, true);
    cf_sync(c);
    cf_close(p.n, c->first ? q.out : q.in, true);
    cf_pair_close(&p, c);
}

// The receiver runs out: the link waits or fails with a reason, what is up goes on, and later links come.
void cf_check_resource_accept_fds(struct cf *c) {
    struct cf_pair p;
    struct rdi_link *l = NULL;
    cf_pair_open(&p, c, "connect_timeout=4s", CF_TO);
    cf_pair_hello(&p, c);
    if (!c->first) {
        cf_limit_fds(c, 0);
    }
    cf_sync(c);
    if (c->first) {
        l = cf_connect(p.n, p.peer, c->peer, 9);
        cf_turns(c, 500);
        cf_expect(c, l->state != RDI_LINK_UP, "a link came up without descriptors");
    }
    cf_pair_stream(&p, c, 20, cf_any_size, true);
    cf_sync(c);
    if (!c->first) {
        cf_limit_fds(c, -1);
    }
    if (c->first) {
        cf_await(c, "the link came up or failed", l->state != RDI_LINK_CONNECTING);
        if (l->state == RDI_LINK_FAILED) {
            expect_limit_text(c, l->status == RONDO_ERR_TIMEOUT ? RONDO_ERR_SYSTEM : l->status,
                              l->why, "accept");
        }
    }
    cf_sync(c);
    if (c->first) {
        cf_close(p.n, l, true);
    }
    struct cf_pair q = p;
    cf_pair_links(&q, c, CF_TO, 10);
    cf_pair_hello(&q, c);
    cf_sync(c);
    cf_close(p.n, c->first ? q.out : q.in, true);
    cf_pair_close(&p, c);
}

// ---- Locked memory -------------------------------------------------------------------------------

// Whoever may lock all memory is not bound by the limit.
static bool drop_capability(void) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}};
    if (syscall(SYS_capget, &head, data) != 0) {
        return false;
    }
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~(uint32_t)CAP_TO_MASK(CAP_IPC_LOCK);
    return syscall(SYS_capset, &head, data) == 0;
}

void cf_check_resource_memlock(struct cf *c) {
    struct cf_net *n = cf_net_prepare(c, "chunk=1M,slots=64");
    struct rlimit limit = {.rlim_cur = 16u << 10, .rlim_max = 16u << 10};
    rondo_status s = cf_net_start(n);
    cf_expect(c, s == RONDO_OK, "open() says %s: %s", rondo_status_name(s), rondo_last_error());
    cf_meet(c, n);
    if (!c->first) {
        cf_expect(c, drop_capability() && setrlimit(RLIMIT_MEMLOCK, &limit) == 0, "setrlimit: %s",
                  strerror(errno));
        cf_starve(c);
    }
    cf_sync(c);
    if (c->first) {
        struct rdi_link *l = cf_connect(n, &n->peers[c->peer], c->peer, 1);
        cf_await(c, "the link failed for want of locked memory", l->state != RDI_LINK_CONNECTING);
        cf_expect(c, l->state == RDI_LINK_FAILED, "the link is in state %d", l->state);
        cf_expect(c, strstr(l->why, "memlock") != NULL || strstr(l->why, "ulimit -l") != NULL,
                  "the text does not speak of locked memory: %s", l->why);
        cf_close(n, l, false);
    }
    cf_sync(c);
    cf_net_close(n);
}
