// SPDX-License-Identifier: MIT
// See owner.h.
#include "owner.h"

struct owner owner;

struct held *owner_held(const struct rdi_link *link) {
    for (unsigned i = 0; i < OWNER_LINKS; i++) {
        if (owner.held[i].link == link) {
            return &owner.held[i];
        }
    }
    return NULL;
}

struct held *owner_pick(uint8_t number) {
    for (unsigned i = 0; i < OWNER_LINKS; i++) {
        struct held *h = &owner.held[(number + i) % OWNER_LINKS];
        if (h->link != NULL) {
            return h;
        }
    }
    return NULL;
}

bool owner_is_idle(void) {
    for (unsigned i = 0; i < OWNER_LINKS; i++) {
        if (owner.held[i].link != NULL) {
            return false;
        }
    }
    return true;
}

void owner_close(struct held *h, bool bye) {
    h->link->ops->close_link(h->link, bye);
    for (unsigned i = 0; i < OWNER_SLOTS; i++) {
        free(h->data[i]);
    }
    for (unsigned i = 0; i < OWNER_LANDED; i++) {
        free(h->landed[i]);
    }
    memset(h, 0, sizeof *h);
}

// ---- Upcalls -------------------------------------------------------------------------------------

static rondo_status on_accept(void *self, struct rdi_link *link) {
    (void)self;
    struct held *h = owner_held(NULL);
    MUST(!link->sender && link->slots >= 1 && link->slots <= owner.slots);
    MUST(link->max_msg > 0 && link->max_msg <= owner.max_msg && link->max_msg % 64 == 0);
    MUST(link->id.from < (uint32_t)owner.ranks && link->id.to == (uint32_t)owner.rank);
    MUST(owner_held(link) == NULL);
    if (h == NULL || owner.how % 4 == 1) {
        return rdi_fail(RONDO_ERR_USAGE, "no more links");
    }
    if (owner.how % 4 == 2) {
        link->ops->close_link(link, owner.how & 4);
        return RONDO_OK;
    }
    h->link = link;
    return RONDO_OK;
}

static void *on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    (void)self;
    struct held *h = owner_held(link);
    MUST(h != NULL && len <= link->max_msg);
    if (tag % 8 == OWNER_CLOSES) {
        owner_close(h, false);
        return NULL;
    }
    for (unsigned i = 0; tag & OWNER_LANDS && i < OWNER_LANDED; i++) {
        if (h->landed[i] == NULL) {
            h->landed[i] = malloc(len > 0 ? len : 1);
            MUST(h->landed[i] != NULL);
            return h->landed[i];
        }
    }
    return NULL;
}

static void on_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    (void)self;
    struct held *h = owner_held(link);
    MUST(h != NULL && len <= RDI_CTRL_MAX);
    free(own_copy(msg, len));
    if (type % 8 == OWNER_CLOSES) {
        owner_close(h, true);
    }
}

const struct rdi_net_events owner_events = {.accept = on_accept, .land = on_land, .ctrl = on_ctrl};

// ---- The contract --------------------------------------------------------------------------------

// Whether `data` is what a message that is there was received into.
static bool is_there(struct rdi_link *l, const void *data) {
    for (uint64_t q = l->released; q < l->arrived; q++) {
        struct rdi_msg m;
        l->ops->peek(l, q, &m);
        if (m.data == data) {
            return true;
        }
    }
    return false;
}

static void free_sources(struct held *h) {
    struct rdi_link *l = h->link;
    for (uint64_t q = l->posted - l->sent; q < OWNER_SLOTS; q++) {
        unsigned i = (l->sent + q) % OWNER_SLOTS;
        if (h->data[i] != NULL) {
            free(h->data[i]);
            h->data[i] = NULL;
        }
    }
}

static void free_landed(struct held *h) {
    struct rdi_link *l = h->link;
    for (unsigned k = 0; l->state != RDI_LINK_UP && k < OWNER_LANDED; k++) {
        if (h->landed[k] != NULL && !is_there(l, h->landed[k])) {
            free(h->landed[k]);
            h->landed[k] = NULL;
        }
    }
}

void owner_check(void) {
    for (unsigned i = 0; i < OWNER_LINKS; i++) {
        struct rdi_link *l = owner.held[i].link;
        if (l == NULL) {
            continue;
        }
        if (l->why[0] != '\0') {
            MUST(memchr(l->why, '\0', sizeof l->why) != NULL && is_clean(l->why));
        }
        MUST(l->state != RDI_LINK_FAILED || (l->status < 0 && l->why[0] != '\0'));
        if (l->sender) {
            MUST(l->sent <= l->posted && l->posted <= l->credit);
            MUST(l->credit <= l->posted + owner.slots);
            free_sources(&owner.held[i]);
        } else {
            MUST(l->released <= l->arrived && l->arrived <= l->released + l->slots);
            free_landed(&owner.held[i]);
        }
    }
}

// ---- What the engine does ------------------------------------------------------------------------

void owner_put(struct input *in) {
    struct held *h = owner_pick(take_byte(in));
    uint8_t how = take_byte(in), sig[RDI_SIG_BYTES] = {0};
    uint32_t len = (uint32_t)take_number(in, 2);
    if (h == NULL || !h->link->sender) {
        return;
    }
    struct rdi_link *l = h->link;
    len = how & 0x80 ? len % (owner.longest + 1) : len % 80; // may be longer than the link takes
    void *data = malloc(len > 0 ? len : 1);
    MUST(data != NULL);
    memset(data, 'd', len);
    struct rdi_put p = {.data = data, .len = len, .tag = how};
    p.flags = (how & 1 ? RDI_PUT_ACK : 0u) | (how & 4 ? RDI_PUT_COPY : 0u);
    p.sig = how & 2 ? sig : NULL;
    uint64_t seq = l->posted;
    if (l->ops->put(l, &p) == RONDO_OK) {
        MUST(l->posted == seq + 1 && l->posted <= l->credit);
        free(h->data[seq % OWNER_SLOTS]);
        h->data[seq % OWNER_SLOTS] = data;
    } else {
        MUST(l->posted == seq);
        free(data);
    }
}

static void release(struct held *h, bool one) {
    struct rdi_link *l = h->link;
    if (l->sender || l->arrived == l->released) {
        return;
    }
    uint64_t upto = one ? l->released + 1 : l->arrived;
    for (uint64_t q = l->released; q < upto; q++) {
        struct rdi_msg m;
        l->ops->peek(l, q, &m);
        MUST(m.len <= l->max_msg);
        free(own_copy(m.data, m.len));
        if (m.sig != NULL) {
            free(own_copy(m.sig, RDI_SIG_BYTES));
        }
    }
    l->ops->release(l, upto);
}

void owner_ask(struct input *in) {
    struct held *h = owner_pick(take_byte(in));
    uint8_t what = take_byte(in);
    char text[600] = "";
    if (h == NULL) {
        return;
    }
    struct rdi_link *l = h->link;
    switch (what % 8) {
    case 0:
    case 1:
        release(h, what & 8);
        break;
    case 2:
        memset(text, 'c', sizeof text);
        l->ops->ctrl(l, what >> 3, text, (size_t)(what >> 3) * 18);
        break;
    case 3:
        if (l->sender && l->state == RDI_LINK_LOST && l->ops->reset != NULL) {
            l->ops->reset(l, l->epoch + 1 + (what >> 6));
        }
        break;
    case 4:
        owner_close(h, what & 8);
        break;
    case 5:
        l->ops->describe(l, text, sizeof text);
        MUST(memchr(text, '\0', sizeof text) != NULL);
        if (l->ops->delivered != NULL) {
            (void)l->ops->delivered(l);
        }
        break;
    default:
        break;
    }
}

void owner_end(void) {
    for (unsigned i = 0; i < OWNER_LINKS; i++) {
        struct rdi_link *l = owner.held[i].link;
        if (l != NULL) {
            MUST(l->state == RDI_LINK_FAILED || l->state == RDI_LINK_CLOSED ||
                 (l->sender && l->state == RDI_LINK_LOST));
            owner_close(&owner.held[i], i & 1);
        }
    }
}
