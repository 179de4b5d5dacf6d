// SPDX-License-Identifier: MIT
// The last word on a transport: a net of its own on both hosts, a link in each direction, messages that are
// looked at when they arrive.
#include "transport/doctor/peer.h"
#include "transport/tcp/bytes.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES 256u
#define LARGEST (256u << 10)
#define CONNECT_NS (10 * DR_SECOND)

struct test {
    struct dr_session *s;
    struct rdi_options options;
    struct rdi_job job;
    struct rdi_net_events events;
    struct rdi_net_params params;
    struct rdi_net *net;
    struct rdi_link *out, *in;
    uint8_t *data; // one message
    uint64_t got, begin, ns;
    rondo_status status, theirs; // RONDO_AGAIN: not known yet
    char why[320], their_why[320];
};

// ---- Upcalls -------------------------------------------------------------------------------------

static rondo_status on_accept(void *self, struct rdi_link *link) {
    struct test *t = self;
    if (t->in != NULL || link->id.from == link->id.to) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo-doctor takes one link");
    }
    t->in = link;
    return RONDO_OK;
}

static void *on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    (void)self;
    (void)link;
    (void)tag;
    (void)len;
    return NULL;
}

static void on_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    (void)self;
    (void)link;
    (void)type;
    (void)msg;
    (void)len;
}

// ---- Opening -------------------------------------------------------------------------------------

static void note(struct test *t, rondo_status status) {
    t->status = status;
    snprintf(t->why, sizeof t->why, "%s", rondo_last_error());
}

// Both ends tell each other whether they have it, and where.
static bool exchange(struct test *t, const struct rdi_net_ops *ops, uint8_t *blob, size_t *len) {
    uint8_t message[DR_MESSAGE], mine[RDI_BLOB_MAX];
    struct rdi_cursor c = {.at = message, .size = sizeof message, .ok = true};
    size_t n = 0;
    t->params = (struct rdi_net_params){
        .env = t->s->d->env, .options = &t->options, .job = &t->job, .events = &t->events};
    rondo_status status = ops->open(&t->params, &t->net);
    if (status == RONDO_OK) {
        status = ops->address(t->net, mine, &n);
    }
    if (status != RONDO_OK) {
        note(t, status);
    }
    rdi_cursor_put(&c, (uint64_t)-status, 1);
    rdi_cursor_put_text(&c, t->why, 255);
    rdi_cursor_put_bytes(&c, mine, n);
    rondo_status talk = dr_send(t->s, DR_MSG_NET, message, c.used);
    if (talk == RONDO_OK) {
        talk = dr_await(t->s, DR_MSG_NET, message, len,
                        rdi_now(&t->s->d->env) + t->s->answer_ns + CONNECT_NS);
    }
    if (talk != RONDO_OK) {
        note(t, talk);
        return false;
    }
    c = (struct rdi_cursor){.at = message, .size = *len, .ok = true};
    t->theirs = (rondo_status) - (int)(rdi_cursor_get(&c, 1) & 31);
    rdi_cursor_get_text(&c, t->their_why, 256);
    if (!c.ok || *len - c.used > RDI_BLOB_MAX) {
        note(t, rdi_fail(RONDO_ERR_INVALID, "the other end's address cannot be read"));
        return false;
    }
    *len -= c.used;
    memcpy(blob, message + c.used, *len);
    return t->status == RONDO_AGAIN && t->theirs == RONDO_OK;
}

// ---- Messages ------------------------------------------------------------------------------------

static bool push(struct test *t) {
    bool moved = false;
    while (t->out->state == RDI_LINK_UP && t->out->posted < MESSAGES) {
        // One buffer for all: what a message is numbered with travels as its tag.
        uint32_t len = t->out->max_msg < LARGEST ? t->out->max_msg : LARGEST;
        struct rdi_put put = {.data = t->data, .len = len, .tag = t->out->posted};
        put.flags = t->out->posted == MESSAGES - 1 ? RDI_PUT_ACK : 0;
        rondo_status s = t->out->ops->put(t->out, &put);
        if (s != RONDO_OK) {
            if (s != RONDO_AGAIN) {
                note(t, s);
            }
            break;
        }
        moved = true;
    }
    return moved;
}

static bool pull(struct test *t) {
    bool moved = false;
    while (t->in != NULL && t->in->released < t->in->arrived) {
        struct rdi_msg m;
        t->in->ops->peek(t->in, t->in->released, &m);
        if (m.tag != t->got || m.len == 0 || m.len > LARGEST ||
            memcmp(m.data, t->data, m.len) != 0) {
            note(t, rdi_fail(RONDO_ERR_INTERNAL,
                             "message %llu arrived with other bytes than were"
                             " sent",
                             (unsigned long long)t->got));
            return false;
        }
        t->got++;
        t->in->ops->release(t->in, t->in->released + 1);
        moved = true;
    }
    return moved;
}

static void look_at_link(struct test *t, const struct rdi_link *l) {
    if (l != NULL && t->status == RONDO_AGAIN &&
        (l->state == RDI_LINK_FAILED || l->state == RDI_LINK_LOST)) {
        t->status = l->status != RONDO_OK ? l->status : RONDO_ERR_PATH;
        snprintf(t->why, sizeof t->why, "%s", l->why);
    }
}

static void nap(struct test *t) {
    uint64_t timeout = 5000000;
    struct pollfd p[2] = {{.fd = t->s->control, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    bool sleep = t->net->ops->arm(t->net, &timeout) == RONDO_OK;
    p[1].fd = t->net->ops->fd(t->net);
    poll(p, 2, sleep ? (int)(timeout / 1000000) : 0);
    t->net->ops->disarm(t->net);
}

static void read_done(struct test *t) {
    uint8_t message[DR_MESSAGE];
    enum dr_message type;
    size_t len;
    rondo_status s =
        dr_receive(t->s, &type, message, &len, rdi_now(&t->s->d->env) + t->s->answer_ns);
    if (s == RONDO_OK && type != DR_MSG_NET_DONE) {
        s = rdi_fail(RONDO_ERR_INVALID, "the other end sent message %d", (int)type);
    }
    struct rdi_cursor c = {.at = message, .size = s == RONDO_OK ? len : 0, .ok = true};
    t->theirs = (rondo_status) - (int)(rdi_cursor_get(&c, 1) & 31);
    rdi_cursor_get_text(&c, t->their_why, 256);
    if (s != RONDO_OK || !c.ok) {
        t->theirs = s != RONDO_OK ? s : RONDO_ERR_INVALID;
        snprintf(t->their_why, sizeof t->their_why, "%s", rondo_last_error());
    }
}

static bool tell_done(struct test *t) {
    uint8_t message[512];
    struct rdi_cursor c = {.at = message, .size = sizeof message, .ok = true};
    rdi_cursor_put(&c, (uint64_t)-t->status, 1);
    rdi_cursor_put_text(&c, t->why, 255);
    return dr_send(t->s, DR_MSG_NET_DONE, message, c.used) == RONDO_OK;
}

// Moves messages until both ends have said how it went; each end helps the other until then.
static void run(struct test *t) {
    const struct rdi_env *env = &t->s->d->env;
    uint64_t end = rdi_now(env) + t->s->answer_ns + CONNECT_NS;
    bool told = false;
    while (!told || t->theirs == RONDO_AGAIN) {
        uint64_t now = rdi_now(env);
        bool moved = t->net->ops->progress(t->net, false) > 0;
        moved = (t->status == RONDO_AGAIN && push(t)) || moved;
        moved = pull(t) || moved;
        t->begin = t->begin == 0 && t->out->state == RDI_LINK_UP ? now : t->begin;
        look_at_link(t, t->out);
        look_at_link(t, t->in);
        if (t->status == RONDO_AGAIN && t->theirs < 0) {
            note(t, rdi_fail(RONDO_ERR_PEER, "the other end gave up: %s", t->their_why));
        }
        if (t->status == RONDO_AGAIN && t->out->sent == MESSAGES && t->got == MESSAGES) {
            t->status = RONDO_OK;
            t->ns = now - t->begin;
        } else if (t->status == RONDO_AGAIN && now > end) {
            note(t,
                 rdi_fail(RONDO_ERR_TIMEOUT, "of %u messages %llu were sent and %llu came in time",
                          MESSAGES, (unsigned long long)t->out->sent, (unsigned long long)t->got));
        }
        if (t->status != RONDO_AGAIN && !told) {
            told = true;
            if (!tell_done(t)) {
                return;
            }
        }
        if (t->theirs == RONDO_AGAIN && dr_wait(env, t->s->control, POLLIN, 0)) {
            read_done(t);
        } else if (now > end + t->s->answer_ns) {
            t->theirs = RONDO_ERR_TIMEOUT;
            snprintf(t->their_why, sizeof t->their_why, "the other end says nothing");
        } else if (!moved) {
            nap(t);
        }
    }
}

// ---- The whole -----------------------------------------------------------------------------------

static bool tell(struct test *t, const char *name) {
    struct doctor *d = t->s->d;
    bool mine = t->status == RONDO_OK, both = mine && t->theirs == RONDO_OK;
    const char *why = mine || t->status == RONDO_AGAIN ? t->their_why : t->why;
    bool none = t->status == RONDO_ERR_UNSUPPORTED || t->theirs == RONDO_ERR_UNSUPPORTED;
    char subject[RDI_HOST_MAX + 16];
    snprintf(subject, sizeof subject, "%s, %.60s", name, t->s->peer);
    if (both) {
        double bytes = (double)t->got * (t->out->max_msg < LARGEST ? t->out->max_msg : LARGEST);
        dr_add(d, DR_OK, subject, "%u messages each way arrive as they were sent (%.3g GB/s)",
               MESSAGES, t->ns > 0 ? bytes / (double)t->ns : 0);
    } else if (none && !dr_insists(d, name)) {
        dr_add(d, DR_INFO, subject, "not %s: %s",
               t->status == RONDO_ERR_UNSUPPORTED ? "here" : "there", why);
        dr_means(d, "ranks of these hosts use another transport");
    } else {
        dr_add(d, DR_ERROR, subject, "%s: %s", mine ? "at the other end" : "at this end", why);
        dr_means(d, "ranks of these hosts cannot talk over %s", name);
        dr_remedy(d, "see the rdma and peer sections on both hosts; RONDO_TRANSPORT chooses another"
                     " transport");
    }
    return both || (none && !dr_insists(d, name));
}

bool dr_link_test(struct dr_session *s, const struct rdi_net_ops *ops, bool first) {
    struct test *t = calloc(1, sizeof *t);
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    uint8_t *data = malloc(LARGEST);
    if (t == NULL || data == NULL) {
        free(t);
        free(data);
        s->d->no_memory = true;
        return false;
    }
    for (uint32_t i = 0; i < LARGEST; i++) {
        data[i] = (uint8_t)(i * 2654435761u >> 24);
    }
    *t = (struct test){.s = s,
                       .options = s->d->options,
                       .job = s->job,
                       .data = data,
                       .status = RONDO_AGAIN,
                       .theirs = RONDO_AGAIN};
    t->job.rank = first ? 0 : 1;
    t->events =
        (struct rdi_net_events){.self = t, .accept = on_accept, .land = on_land, .ctrl = on_ctrl};
    struct rdi_link_id id = {
        .comm = rdi_get_le(s->token, 8), .from = first ? 0 : 1, .to = first ? 1 : 0};
    if (exchange(t, ops, blob, &len)) {
        t->theirs = RONDO_AGAIN;
        // A way that does not fit is a failure at this end; the other one is told when its time is over.
        rondo_status status = ops->reach(t->net, blob, len);
        status = status == RONDO_OK ? ops->connect(t->net, &id, blob, len, &t->out) : status;
        if (status == RONDO_OK) {
            run(t);
        } else {
            note(t, status);
            tell_done(t);
            read_done(t);
        }
    }
    bool ok = first ? tell(t, ops->name) : t->status == RONDO_OK;
    if (t->in != NULL) {
        ops->close_link(t->in, true);
    }
    if (t->out != NULL) {
        ops->close_link(t->out, true);
    }
    if (t->net != NULL) {
        ops->close(t->net);
    }
    free(data);
    free(t);
    return ok;
}
