// SPDX-License-Identifier: MIT
// See fake_net.h.
#include "fake_net.h"

static struct fake_net *net_of(struct rdi_net *n) { return (struct fake_net *)n; }
static struct fake_link *link_of(struct rdi_link *l) { return (struct fake_link *)l; }

// ---- Links ---------------------------------------------------------------------------------------

static struct fake_link *new_link(struct fake_net *n, const struct rdi_link_id *id, bool sender) {
    unsigned number = 0;
    while (number < FAKE_LINKS && n->links[number] != NULL) {
        number++;
    }
    if (number == FAKE_LINKS) {
        return NULL;
    }
    struct fake_link *l = calloc(1, sizeof *l);
    MUST(l != NULL);
    l->base = (struct rdi_link){.ops = &fake_net_ops,
                                .net = &n->base,
                                .id = *id,
                                .sender = sender,
                                .slots = FAKE_SLOTS,
                                .max_msg = FAKE_MSG_MAX};
    l->number = number;
    n->links[number] = l;
    return l;
}

static void forget(struct fake_message *m) {
    if (!m->landed) {
        free(m->data);
    }
    free(m->sig);
    *m = (struct fake_message){.data = NULL};
}

struct fake_link *fake_net_pick(struct fake_net *n, uint8_t number) {
    for (unsigned i = 0; i < FAKE_LINKS; i++) {
        struct fake_link *l = n->links[(number + i) % FAKE_LINKS];
        if (l != NULL) {
            return l;
        }
    }
    return NULL;
}

// ---- The table -----------------------------------------------------------------------------------

static rondo_status fake_open(const struct rdi_net_params *params, struct rdi_net **out) {
    struct fake_net *n = params->extra;
    memset(n, 0, sizeof *n);
    n->base.ops = &fake_net_ops;
    n->base.params = *params;
    n->base.attr = (struct rdi_net_attr){
        .latency_ns = 1000, .bytes_per_s = 1000000, .chunk = FAKE_MSG_MAX, .lands = true};
    *out = &n->base;
    return RONDO_OK;
}

static void fake_close(struct rdi_net *net) {
    for (unsigned i = 0; i < FAKE_LINKS; i++) {
        MUST(net_of(net)->links[i] == NULL);
    }
}

static rondo_status fake_address(struct rdi_net *net, void *blob, size_t *len) {
    (void)net;
    memcpy(blob, "fake", 4);
    *len = 4;
    return RONDO_OK;
}

static rondo_status fake_reach(struct rdi_net *net, const void *blob, size_t len) {
    (void)net;
    MUST(len <= RDI_BLOB_MAX);
    free(own_copy(blob, len));
    return len > 0 && *(const char *)blob == 'f'
               ? RONDO_OK
               : rdi_fail(RONDO_ERR_UNSUPPORTED, "not an address of this net");
}

static rondo_status fake_connect(struct rdi_net *net, const struct rdi_link_id *id,
                                 const void *blob, size_t len, struct rdi_link **out) {
    (void)fake_reach(net, blob, len);
    struct fake_link *l = new_link(net_of(net), id, true);
    if (l == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no more links");
    }
    l->base.state = RDI_LINK_CONNECTING;
    net_of(net)->connects++;
    *out = &l->base;
    return RONDO_OK;
}

static rondo_status refusal(const struct rdi_link *l) {
    switch (l->state) {
    case RDI_LINK_FAILED:
        return rdi_fail(l->status, "%s", l->why);
    case RDI_LINK_LOST:
        return rdi_fail(RONDO_ERR_PATH, "%s", l->why);
    case RDI_LINK_CLOSED:
        return rdi_fail(RONDO_ERR_PEER, "closed");
    default:
        return RONDO_AGAIN;
    }
}

// A sanitizer looks at all of it at once.
static void read_all(const void *data, uint32_t len) {
    static uint8_t copy[RDI_CTRL_MAX > FAKE_MSG_MAX ? RDI_CTRL_MAX : FAKE_MSG_MAX];
    if (len > 0) {
        memcpy(copy, data, len);
    }
    __asm__ volatile("" : : "r"(copy) : "memory");
}

static rondo_status fake_put(struct rdi_link *link, const struct rdi_put *put) {
    struct fake_message *m = &link_of(link)->messages[link->posted % FAKE_SLOTS];
    if (link->state != RDI_LINK_UP) {
        return refusal(link);
    }
    if (link->posted >= link->credit || net_of(link->net)->full) {
        return RONDO_AGAIN;
    }
    MUST(link->sender && put->len <= link->max_msg);
    read_all(put->data, put->len);
    if (put->sig != NULL) {
        read_all(put->sig, RDI_SIG_BYTES);
    }
    *m = (struct fake_message){
        .data = (void *)(uintptr_t)put->data, .landed = true, .len = put->len, .tag = put->tag};
    link->posted++;
    return RONDO_OK;
}

static void fake_peek(struct rdi_link *link, uint64_t seq, struct rdi_msg *out) {
    MUST(!link->sender && seq >= link->released && seq < link->arrived);
    const struct fake_message *m = &link_of(link)->messages[seq % FAKE_SLOTS];
    *out = (struct rdi_msg){.data = m->data, .len = m->len, .tag = m->tag, .sig = m->sig};
}

static void fake_release(struct rdi_link *link, uint64_t upto) {
    MUST(!link->sender && upto > link->released && upto <= link->arrived);
    for (; link->released < upto; link->released++) {
        forget(&link_of(link)->messages[link->released % FAKE_SLOTS]);
    }
}

static rondo_status fake_ctrl(struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    MUST(type < 64 && len <= RDI_CTRL_MAX);
    if (link->state != RDI_LINK_UP) {
        return refusal(link);
    }
    if (net_of(link->net)->full) {
        return RONDO_AGAIN;
    }
    read_all(msg, (uint32_t)len);
    net_of(link->net)->ctrls++;
    return RONDO_OK;
}

static rondo_status fake_reset(struct rdi_link *link, uint32_t epoch) {
    MUST(link->sender && epoch > link->epoch);
    if (link->state != RDI_LINK_LOST) {
        return rdi_fail(RONDO_ERR_USAGE, "reset of a link that is not lost");
    }
    link->epoch = epoch;
    link->state = RDI_LINK_CONNECTING;
    net_of(link->net)->resets++;
    return RONDO_OK;
}

static void fake_close_link(struct rdi_link *link, bool bye) {
    struct fake_link *l = link_of(link);
    (void)bye;
    MUST(net_of(link->net)->links[l->number] == l);
    net_of(link->net)->links[l->number] = NULL;
    for (unsigned i = 0; i < FAKE_SLOTS; i++) {
        forget(&l->messages[i]);
    }
    free(l);
}

static int fake_progress(struct rdi_net *net, bool busy) {
    (void)net;
    (void)busy;
    return 0;
}

static bool fake_delivered(struct rdi_link *link) { return link->posted == 0; }

static void fake_describe(struct rdi_link *link, char *buf, size_t cap) {
    size_t used = strlen(buf);
    snprintf(buf + used, cap - used, "fake link %u", link->id.channel);
}

const struct rdi_net_ops fake_net_ops = {
    .size = sizeof(struct rdi_net_ops),
    .name = "fake",
    .open = fake_open,
    .close = fake_close,
    .address = fake_address,
    .reach = fake_reach,
    .connect = fake_connect,
    .put = fake_put,
    .peek = fake_peek,
    .release = fake_release,
    .ctrl = fake_ctrl,
    .delivered = fake_delivered,
    .reset = fake_reset,
    .close_link = fake_close_link,
    .progress = fake_progress,
    .describe = fake_describe,
};

// ---- The other end -------------------------------------------------------------------------------

bool fake_net_accept(struct fake_net *n, const struct rdi_link_id *id) {
    const struct rdi_net_events *events = n->base.params.events;
    struct fake_link *l = new_link(n, id, false);
    if (l == NULL) {
        return false;
    }
    unsigned number = l->number;
    l->base.state = RDI_LINK_UP;
    rondo_status s = events->accept(events->self, &l->base);
    // The caller may have closed it and the place may hold another one, but not before it returns.
    if (s != RONDO_OK && n->links[number] == l) {
        fake_close_link(&l->base, false);
    }
    return s == RONDO_OK && n->links[number] == l;
}

void fake_net_state(struct fake_link *l, enum rdi_link_state state, rondo_status status) {
    struct rdi_link *b = &l->base;
    bool ended = b->state == RDI_LINK_FAILED || b->state == RDI_LINK_CLOSED;
    // A lost path comes back by fake_net_back() only, after reset() has asked for it.
    bool begins = state == RDI_LINK_UP && b->state == RDI_LINK_CONNECTING && b->epoch == 0;
    bool ends = state != RDI_LINK_UP && state != RDI_LINK_CONNECTING && b->state == RDI_LINK_UP;
    ends = ends || (state == RDI_LINK_FAILED && !ended);
    if (begins) {
        b->state = RDI_LINK_UP;
        b->credit = FAKE_SLOTS;
    } else if (ends) {
        b->state = state;
        b->status = status < 0 ? status : RONDO_ERR_PEER;
        snprintf(b->why, sizeof b->why, "the other end did so");
    }
}

void fake_net_deliver(struct fake_link *l, uint64_t tag, uint32_t len, const void *sig) {
    struct rdi_link *b = &l->base;
    const struct rdi_net_events *events = b->net->params.events;
    if (b->sender || b->state != RDI_LINK_UP || b->arrived - b->released == FAKE_SLOTS) {
        return;
    }
    len = len <= FAKE_MSG_MAX ? len : FAKE_MSG_MAX;
    struct fake_net *n = net_of(b->net);
    unsigned number = l->number;
    void *to = events->land(events->self, b, tag, len);
    if (n->links[number] != l) {
        return;
    }
    struct fake_message *m = &l->messages[b->arrived % FAKE_SLOTS];
    *m = (struct fake_message){.landed = to != NULL, .len = len, .tag = tag};
    m->data = to != NULL ? to : malloc(len > 0 ? len : 1);
    MUST(m->data != NULL);
    memset(m->data, 0x3f, len);
    m->sig = sig != NULL ? own_copy(sig, RDI_SIG_BYTES) : NULL;
    b->arrived++;
}

void fake_net_ctrl(struct fake_link *l, unsigned type, const void *msg, size_t len) {
    const struct rdi_net_events *events = l->base.net->params.events;
    if (l->base.state == RDI_LINK_UP && type < 64 && len <= RDI_CTRL_MAX) {
        void *copy = own_copy(msg, len);
        events->ctrl(events->self, &l->base, type, copy, len);
        free(copy);
    }
}

void fake_net_take(struct fake_link *l, uint32_t messages, uint32_t slots) {
    struct rdi_link *b = &l->base;
    if (!b->sender || b->state != RDI_LINK_UP) {
        return;
    }
    for (; messages > 0 && b->sent < b->posted; messages--, b->sent++) {
        // Until now the source had to stay.
        const struct fake_message *m = &l->messages[b->sent % FAKE_SLOTS];
        read_all(m->data, m->len);
    }
    uint64_t credit = b->credit + slots;
    b->credit = credit < b->sent + FAKE_SLOTS ? credit : b->sent + FAKE_SLOTS;
}

void fake_net_back(struct fake_link *l, uint32_t have) {
    struct rdi_link *b = &l->base;
    if (!b->sender || b->state != RDI_LINK_CONNECTING || b->epoch == 0) {
        return;
    }
    uint64_t arrived = b->sent + have % (b->posted - b->sent + 1);
    b->posted = b->sent = arrived;
    b->credit = b->credit > arrived ? b->credit : arrived;
    b->state = RDI_LINK_UP;
}
