// SPDX-License-Identifier: MIT
// A rank's end of the shared-memory transport for tests: a net with an engine that only takes notes.
#ifndef RDI_TESTS_SHM_SIDE_H
#define RDI_TESTS_SHM_SIDE_H

#include "transport/internal.h"
#include "transport/shm/shm.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND 1000000000ull

struct side {
    struct rdi_env env;
    struct rdi_options options;
    struct rdi_job job;
    struct rdi_net_events events;
    struct rdi_net *net;
    struct rdi_link *accepted[16]; // in the order of their arrival
    unsigned n_accepted;
    const char *refuse; // accept() refuses with this text
    bool close_in_upcall;
    unsigned n_ctrl, ctrl_type;
    size_t ctrl_len;
    uint8_t ctrl[RDI_CTRL_MAX];
    char last_log[512];
};

static inline rondo_status side_accept(void *self, struct rdi_link *link) {
    struct side *s = self;
    if (s->refuse != NULL) {
        return rdi_fail(RONDO_ERR_USAGE, "%s", s->refuse);
    }
    link->owner = s;
    s->accepted[s->n_accepted++ % 16] = link;
    return RONDO_OK;
}

static inline void *side_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    (void)self, (void)link, (void)tag, (void)len;
    return NULL;
}

static inline void side_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg,
                             size_t len) {
    struct side *s = self;
    s->n_ctrl++;
    s->ctrl_type = type;
    s->ctrl_len = len;
    memcpy(s->ctrl, msg, len);
    if (s->close_in_upcall) {
        link->ops->close_link(link, true);
    }
}

static inline void side_log(void *self, rondo_log_level level, const char *line) {
    (void)level;
    struct side *s = self;
    snprintf(s->last_log, sizeof s->last_log, "%s", line);
}

static inline char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

// Fills everything but the net.
static inline bool side_init(struct side *s, int rank, int size, const char *options) {
    memset(s, 0, sizeof *s);
    rdi_env_system(&s->env, side_log, s);
    s->job = (struct rdi_job){.rank = rank, .size = size, .local_rank = rank, .auth = true};
    memset(s->job.host_id, 7, sizeof s->job.host_id);
    strcpy(s->job.host, "testhost");
    s->events = (struct rdi_net_events){
        .self = s, .accept = side_accept, .land = side_land, .ctrl = side_ctrl};
    return rdi_key_set(&s->job, "a key that only tests use", 25) == RONDO_OK &&
           rdi_options_load(&s->options, options, no_environment) == RONDO_OK;
}

static inline rondo_status side_open_net(struct side *s) {
    struct rdi_net_params p = {
        .env = s->env, .options = &s->options, .job = &s->job, .events = &s->events};
    return rdi_shm_ops.open(&p, &s->net);
}

static inline bool side_open(struct side *s, int rank, int size, const char *options) {
    return side_init(s, rank, size, options) && side_open_net(s) == RONDO_OK;
}

static inline void side_close(struct side *s) { s->net->ops->close(s->net); }

static inline int side_progress(struct side *s) { return s->net->ops->progress(s->net, false); }

// A link from a to the net with b's address; NULL on failure.
static inline struct rdi_link *side_connect(struct side *a, struct side *b, uint32_t channel) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    struct rdi_link_id id = {
        .comm = 77, .from = (uint32_t)a->job.rank, .to = (uint32_t)b->job.rank, .channel = channel};
    struct rdi_link *l = NULL;
    if (b->net->ops->address(b->net, blob, &len) != RONDO_OK ||
        a->net->ops->connect(a->net, &id, blob, len, &l) != RONDO_OK) {
        return NULL;
    }
    return l;
}

// Drives the nets (b may be NULL) until the link is in the state; false after 5 s.
static inline bool side_await(struct side *a, struct side *b, const struct rdi_link *l,
                              enum rdi_link_state state) {
    uint64_t end = rdi_now(&a->env) + 5 * SECOND;
    while (l->state != state) {
        int moved = side_progress(a) + (b != NULL ? side_progress(b) : 0);
        if (rdi_now(&a->env) > end) {
            return false;
        }
        if (moved == 0) {
            poll(NULL, 0, 1);
        }
    }
    return true;
}

// Sleeps as an engine does, at most `ns`. True: there was something; false: the time passed.
static inline bool side_sleep(struct side *s, uint64_t ns) {
    const struct rdi_net_ops *ops = s->net->ops;
    uint64_t timeout = ns;
    if (ops->arm(s->net, &timeout) != RONDO_OK) {
        return true;
    }
    struct pollfd p = {.fd = ops->fd(s->net), .events = POLLIN};
    int n = poll(&p, 1, (int)(timeout / 1000000) + 1);
    ops->disarm(s->net);
    return n != 0 || timeout < ns;
}

#endif
