// SPDX-License-Identifier: MIT
// Two ranks with a tcp net each in one process, driven in turns, for the tests of the tcp transport.
#ifndef RDI_TESTS_TCP_PAIR_H
#define RDI_TESTS_TCP_PAIR_H

#include "transport/tcp/tcp.h"

#include <poll.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PAIR_SECONDS 60u // longest wait of a test; nothing takes that long unless it hangs
#define PAIR_CTRLS 64

struct side {
    struct rdi_job job;
    struct rdi_options options;
    struct rdi_net_events events;
    struct rdi_net_params params;
    struct rdi_net *net;
    struct rdi_link *accepted; // the last link that a peer opened
    unsigned accepts;
    rondo_status refuse; // accept() answers so
    bool close_on_accept;
    bool close_on_ctrl;
    uint8_t *(*land)(struct side *s, uint64_t tag, uint32_t len);
    uint8_t *land_memory;
    unsigned lands;
    unsigned ctrls;
    struct {
        unsigned type;
        size_t len;
        uint8_t bytes[RDI_CTRL_MAX];
    } ctrl[PAIR_CTRLS];
    unsigned lines; // logged
    char last_line[1024];
};

struct pair {
    struct side side[2];
    struct rdi_link *link; // opened by side 0
    unsigned turn;
};

static inline rondo_status pair_on_accept(void *self, struct rdi_link *link) {
    struct side *s = self;
    s->accepts++;
    if (s->refuse != RONDO_OK) {
        return rdi_fail(s->refuse, "not today");
    }
    if (s->close_on_accept) {
        link->ops->close_link(link, false);
        return RONDO_OK;
    }
    link->owner = s;
    s->accepted = link;
    return RONDO_OK;
}

static inline void *pair_on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    struct side *s = self;
    assert_false(link->sender);
    assert_true(len <= link->max_msg);
    s->lands++;
    return s->land != NULL ? s->land(s, tag, len) : NULL;
}

static inline void pair_on_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg,
                                size_t len) {
    struct side *s = self;
    assert_true(s->ctrls < PAIR_CTRLS);
    s->ctrl[s->ctrls].type = type;
    s->ctrl[s->ctrls].len = len;
    memcpy(s->ctrl[s->ctrls].bytes, msg, len);
    s->ctrls++;
    if (s->close_on_ctrl) {
        s->accepted = NULL;
        link->ops->close_link(link, false);
    }
}

static inline void pair_on_log(void *self, rondo_log_level level, const char *line) {
    struct side *s = self;
    (void)level;
    s->lines++;
    snprintf(s->last_line, sizeof s->last_line, "%s", line);
}

static inline char *pair_no_environment(const char *name) {
    (void)name;
    return NULL;
}

// Rank `rank` of 2 with these options and the tests' key; does not open the net.
static inline void side_prepare(struct side *s, int rank, const char *options) {
    memset(s, 0, sizeof *s);
    assert_int_equal(rdi_options_load(&s->options, options, pair_no_environment), RONDO_OK);
    s->job = (struct rdi_job){.rank = rank, .size = 2, .local_rank = rank, .auth = true};
    memset(s->job.host_id, 7, sizeof s->job.host_id);
    snprintf(s->job.host, sizeof s->job.host, "host%c", 'a' + rank);
    assert_int_equal(rdi_key_set(&s->job, "a key that only tests use", 25), RONDO_OK);
    s->events = (struct rdi_net_events){
        .self = s, .accept = pair_on_accept, .land = pair_on_land, .ctrl = pair_on_ctrl};
    s->params =
        (struct rdi_net_params){.options = &s->options, .job = &s->job, .events = &s->events};
    rdi_env_system(&s->params.env, pair_on_log, s);
}

static inline void side_open(struct side *s) {
    if (rdi_tcp_ops.open(&s->params, &s->net) != RONDO_OK) {
        fail_msg("open: %s", rondo_last_error());
    }
}

static inline void pair_open(struct pair *p, const char *options0, const char *options1) {
    memset(p, 0, sizeof *p);
    side_prepare(&p->side[0], 0, options0);
    side_prepare(&p->side[1], 1, options1);
    side_open(&p->side[0]);
    side_open(&p->side[1]);
}

static inline uint64_t pair_now(void) {
    struct rdi_env env;
    rdi_env_system(&env, NULL, NULL);
    return rdi_now(&env);
}

// One turn of every net that is open; sleeps a little when nothing moved, on the nets' own descriptors.
static inline void pair_turn(struct pair *p) {
    int moved = 0;
    bool busy = p->turn++ % 3 != 0; // both ways of asking
    for (int i = 0; i < 2; i++) {
        if (p->side[i].net != NULL) {
            moved += p->side[i].net->ops->progress(p->side[i].net, busy);
        }
    }
    if (moved > 0 || busy) {
        return;
    }
    struct pollfd fds[2];
    uint64_t timeout = 5 * RDI_MS;
    nfds_t n = 0;
    for (int i = 0; i < 2; i++) {
        struct rdi_net *net = p->side[i].net;
        if (net != NULL && net->ops->arm(net, &timeout) == RONDO_OK) {
            fds[n++] = (struct pollfd){.fd = net->ops->fd(net), .events = POLLIN};
        }
    }
    poll(fds, n, (int)(timeout / RDI_MS));
    for (int i = 0; i < 2; i++) {
        if (p->side[i].net != NULL) {
            p->side[i].net->ops->disarm(p->side[i].net);
        }
    }
}

static inline void pair_describe(const struct pair *p, char *text, size_t cap) {
    if (p->link != NULL) {
        p->link->ops->describe(p->link, text, cap);
    }
    if (p->side[1].accepted != NULL) {
        p->side[1].accepted->ops->describe(p->side[1].accepted, text, cap);
    }
}

#define pair_drive_until(p, condition)                                    \
    do {                                                                  \
        uint64_t pair_end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;    \
        while (!(condition)) {                                            \
            pair_turn(p);                                                 \
            if (pair_now() > pair_end) {                                  \
                char pair_text[512] = "";                                 \
                pair_describe(p, pair_text, sizeof pair_text);            \
                fail_msg("%s did not happen: %s", #condition, pair_text); \
            }                                                             \
        }                                                                 \
    } while (0)

static inline struct rdi_link *pair_begin_link(struct pair *p, uint64_t comm) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    struct rdi_net *to = p->side[1].net, *from = p->side[0].net;
    struct rdi_link_id id = {.comm = comm, .from = 0, .to = 1};
    struct rdi_link *link = NULL;
    assert_int_equal(to->ops->address(to, blob, &len), RONDO_OK);
    assert_int_equal(from->ops->reach(from, blob, len), RONDO_OK);
    if (from->ops->connect(from, &id, blob, len, &link) != RONDO_OK) {
        fail_msg("connect: %s", rondo_last_error());
    }
    assert_int_equal(link->state, RDI_LINK_CONNECTING);
    return link;
}

static inline bool pair_link_up(const struct pair *p) {
    if (p->link->state == RDI_LINK_FAILED) {
        fail_msg("link failed: %s", p->link->why);
    }
    return p->link->state == RDI_LINK_UP && p->side[1].accepted != NULL &&
           p->side[1].accepted->state == RDI_LINK_UP;
}

static inline void pair_connect(struct pair *p) {
    p->link = pair_begin_link(p, 42);
    pair_drive_until(p, pair_link_up(p));
}

static inline void pair_close(struct pair *p) {
    if (p->link != NULL) {
        p->link->ops->close_link(p->link, true);
    }
    if (p->side[1].accepted != NULL) {
        p->side[1].accepted->ops->close_link(p->side[1].accepted, true);
    }
    for (int i = 0; i < 2; i++) {
        if (p->side[i].net != NULL) {
            p->side[i].net->ops->close(p->side[i].net);
        }
    }
}

// Contents of message `seq`: both ends can make it, so a wrong byte, a wrong length or a wrong order shows.
static inline void pair_fill(uint8_t *at, uint64_t seq, uint32_t len) {
    uint32_t x = (uint32_t)(seq * 2654435761u + len) | 1;
    for (uint32_t i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        at[i] = (uint8_t)(x >> 24);
    }
}

static inline bool pair_matches(const uint8_t *at, uint64_t seq, uint32_t len) {
    uint32_t x = (uint32_t)(seq * 2654435761u + len) | 1;
    for (uint32_t i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        if (at[i] != (uint8_t)(x >> 24)) {
            return false;
        }
    }
    return true;
}

#endif
