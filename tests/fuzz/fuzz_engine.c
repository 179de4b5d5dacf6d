// SPDX-License-Identifier: MIT
// The engine against peers that proved the job's key and yet send what they like: messages with any tag, length and
// signature, control messages, links for any communicator, links that break at any moment. It runs over a fake net
// (fake_net.h), whose rules it must keep; it must end every operation, and nothing may be left when it has ended.
//
// The input is a list of steps, each a byte and its arguments; what it does not say is right by itself: a message
// continues its operation's data and has its signature, and the input's bits are applied to that.
#include "fake_net.h"
#include "ring/internal.h"

#define RANKS 4
#define ME 1
#define REQUESTS 12
#define STEPS 200
#define COUNT_MAX 300
#define MS UINT64_C(1000000)

static struct fake_net net;
static struct rdi_engine *engine;
static struct rondo_comm *comms[2];
static uint64_t clock_ns;

static struct {
    struct rondo_request *request;
    void *send, *recv;
} started[REQUESTS];

static uint64_t now(void *self) {
    (void)self;
    return clock_ns;
}

static void no_random(void *self, void *buf, size_t n) {
    (void)self;
    memset(buf, 5, n);
}

// ---- What this rank does -------------------------------------------------------------------------

static size_t elements(enum rdi_kind kind, const struct rondo_comm *c, size_t count, bool send) {
    bool all = kind == RDI_ALL_TO_ALL ||
               (send ? kind == RDI_REDUCE_SCATTER : kind == RDI_ALL_GATHER);
    return all ? count * (size_t)c->size : count;
}

static void submit(struct input *in) {
    uint8_t what = take_byte(in), how = take_byte(in);
    struct rondo_comm *c = comms[how & 1];
    enum rdi_kind kind = (enum rdi_kind)(what % RDI_KIND_COUNT);
    rondo_type type = (rondo_type)(what / RDI_KIND_COUNT % RONDO_TYPE_COUNT);
    size_t count = kind == RDI_BARRIER ? 0 : take_number(in, 2) % COUNT_MAX;
    int root = c != NULL ? (how >> 1 & 3) % c->size : 0;
    unsigned i = 0;
    while (i < REQUESTS && started[i].request != NULL) {
        i++;
    }
    if (c == NULL || i == REQUESTS) {
        return;
    }
    bool in_place = how & 8 && elements(kind, c, count, true) == elements(kind, c, count, false) &&
                    kind != RDI_ALL_TO_ALL;
    size_t size = rondo_type_size(type);
    started[i].send = calloc(elements(kind, c, count, true) + 1, size);
    started[i].recv = in_place ? started[i].send
                               : calloc(elements(kind, c, count, false) + 1, size);
    MUST(started[i].send != NULL && started[i].recv != NULL);
    rondo_status s = rdi_request_new(c, kind, started[i].send, started[i].recv, count, type,
                                     (rondo_op)(how >> 4 & 3), root, &started[i].request);
    if (s != RONDO_OK) {
        MUST(rondo_last_error()[0] != '\0');
        free(started[i].recv != started[i].send ? started[i].recv : NULL);
        free(started[i].send);
        started[i].request = NULL;
        return;
    }
    rdi_engine_push(engine, started[i].request);
}

static void collect(void) {
    for (unsigned i = 0; i < REQUESTS; i++) {
        struct rondo_request *r = started[i].request;
        if (r != NULL && atomic_load(&r->complete)) {
            MUST(r->status == RONDO_OK || atomic_load(&r->comm->status) != RONDO_OK);
            free(started[i].recv != started[i].send ? started[i].recv : NULL);
            free(started[i].send);
            rdi_request_free(r);
            started[i].request = NULL;
        }
    }
}

static void progress(struct input *in) {
    uint8_t how = take_byte(in);
    clock_ns += how & 0x80 ? (how & 0x7f) * 100 * MS : (how & 0x7f) * 1000;
    rdi_engine_progress(engine, how & 1);
    collect();
}

// The second communicator comes and goes.
static void change_comm(struct input *in) {
    static const int world[] = {ME, 3};
    uint8_t how = take_byte(in);
    if (comms[1] == NULL) {
        MUST(rdi_comm_create(engine, 8, 0, 2, world, &comms[0]->plan, &comms[1]) == RONDO_OK);
        return;
    }
    if (comms[1]->head == NULL && atomic_load(&engine->inbox) == NULL) {
        rdi_comm_free(comms[1], how & 1);
        comms[1] = NULL;
    }
}

// ---- What the peers do ---------------------------------------------------------------------------

static void connect_to_us(struct input *in) {
    uint8_t from = take_byte(in), what = take_byte(in);
    // Two communicators that there are or will be, and one that there never is.
    struct rdi_link_id id = {.comm = 7 + what % 3,
                             .from = from % (RANKS + 1),
                             .to = from & 0x80 ? from >> 3 & 7 : ME,
                             .channel = what >> 2 & 7};
    fake_net_accept(&net, &id);
}

static void come_up(struct input *in) {
    struct fake_link *l = fake_net_pick(&net, take_byte(in));
    if (l != NULL) {
        fake_net_state(l, RDI_LINK_UP, RONDO_OK);
        fake_net_back(l, take_byte(in));
    }
}

static void all_come_up(struct input *in) {
    (void)in;
    for (unsigned i = 0; i < FAKE_LINKS; i++) {
        if (net.links[i] != NULL) {
            fake_net_state(net.links[i], RDI_LINK_UP, RONDO_OK);
            fake_net_back(net.links[i], 0);
            fake_net_take(net.links[i], FAKE_SLOTS, FAKE_SLOTS);
        }
    }
}

static void break_link(struct input *in) {
    static const enum rdi_link_state states[] = {RDI_LINK_LOST, RDI_LINK_FAILED, RDI_LINK_CLOSED};
    struct fake_link *l = fake_net_pick(&net, take_byte(in));
    uint8_t how = take_byte(in);
    if (l != NULL) {
        fake_net_state(l, states[how % 3], (rondo_status) - (how >> 2 & 15));
    }
}

static void change(uint8_t *bytes, size_t n, struct input *in) {
    uint8_t times = take_byte(in) % 4;
    for (; times > 0; times--) {
        uint8_t at = take_byte(in);
        bytes[at % n] ^= take_byte(in);
    }
}

// What would come next on this link, if its peer were as it should be.
static void right_message(const struct rdi_link *l, uint64_t *tag, uint32_t *len,
                          struct rdi_sig *sig, bool *has_sig) {
    const struct rdi_edge *e = l->owner;
    uint64_t unread = 0;
    *tag = 0;
    *len = 8;
    *sig = (struct rdi_sig){.comm = l->id.comm};
    *has_sig = true;
    for (uint64_t q = l->released; q < l->arrived; q++) {
        unread += ((const struct fake_link *)l)->messages[q % FAKE_SLOTS].len;
    }
    if (e == NULL || e->head == NULL) {
        return;
    }
    const struct rdi_flow *f = e->head;
    uint64_t off = f->done - e->consumed + unread;
    *sig = f->req->sig;
    *has_sig = off == 0;
    *tag = f->req->sig.seq << 48 | off;
    uint64_t left = off < f->total ? f->total - off : 0;
    *len = left < FAKE_MSG_MAX ? (uint32_t)left : FAKE_MSG_MAX;
}

static void send_message(struct input *in) {
    struct fake_link *l = fake_net_pick(&net, take_byte(in));
    uint8_t how = take_byte(in);
    struct rdi_sig sig;
    uint64_t tag;
    uint32_t len;
    bool has_sig;
    if (l == NULL || l->base.sender) {
        return;
    }
    right_message(&l->base, &tag, &len, &sig, &has_sig);
    if (how & 1) {
        len = take_byte(in);
    }
    if (how & 2) {
        tag ^= take_number(in, 8);
    }
    if (how & 4) {
        has_sig = !has_sig;
    }
    if (how & 8) {
        change((uint8_t *)&sig, sizeof sig, in);
    }
    fake_net_deliver(l, tag, len, has_sig ? &sig : NULL);
}

static void send_ctrl(struct input *in) {
    struct fake_link *l = fake_net_pick(&net, take_byte(in));
    uint8_t how = take_byte(in);
    uint8_t bytes[RDI_CTRL_MAX] = {0};
    size_t n = 8 + RDI_ERROR_TEXT; // of an abort
    if (l == NULL) {
        return;
    }
    unsigned type = how & 1 ? RDI_CTRL_SIG : RDI_CTRL_ABORT;
    if (how & 2) {
        type = take_byte(in);
    }
    if (type == RDI_CTRL_SIG) {
        struct rdi_sig sig = {.comm = l->base.id.comm, .seq = how >> 4};
        n = sizeof sig;
        memcpy(bytes, &sig, n);
        change(bytes, n, in);
    } else {
        memset(bytes, 0xff, 4);
        memset(bytes + 8, 'x', n - 8);
        change(bytes, n, in);
    }
    if (how & 4) {
        n = take_number(in, 2) % (sizeof bytes + 1);
    }
    fake_net_ctrl(l, type, bytes, n);
}

static void take_messages(struct input *in) {
    struct fake_link *l = fake_net_pick(&net, take_byte(in));
    uint8_t how = take_byte(in);
    if (l != NULL) {
        fake_net_take(l, how & 15, how >> 4);
    }
}

static void set_full(struct input *in) { net.full = take_byte(in) & 1; }

// ---- The whole -----------------------------------------------------------------------------------

static void begin(uint8_t how) {
    static struct rdi_options options;
    static const int world[] = {0, 1, 2, 3};
    const struct rdi_env env = {.now = now, .random = no_random};
    const struct rdi_job job = {.rank = ME, .size = RANKS, .host = "here"};
    const struct rdi_net_ops *ops = &fake_net_ops;
    const struct rdi_plan plan = {.strict = how & 1,
                                  .algorithm = how >> 1 & 3,
                                  .direct_max = how & 8 ? 0 : 256,
                                  .block = how & 16 ? 64 : 512};
    options.num[RDI_OPT_OP_TIMEOUT] = 10000;
    options.num[RDI_OPT_RECORD] = 4;
    clock_ns = MS;
    MUST(rdi_engine_create(&env, &options, &job, &ops, 1, &net, NULL, &engine) == RONDO_OK);
    for (int r = 0; r < RANKS; r++) {
        struct rdi_peer *p = &engine->peers[r];
        p->net = 0;
        p->blob[0] = malloc(1);
        MUST(p->blob[0] != NULL);
        p->blob[0][0] = 'f';
        p->blob_len[0] = 1;
        p->host_id[0] = (uint8_t)(how & 32 ? 1 : r);
    }
    engine->peers_added = true; // by hand, as above
    MUST(rdi_comm_create(engine, 7, ME, RANKS, world, &plan, &comms[0]) == RONDO_OK);
    comms[1] = NULL;
}

// Whatever happened: an abort ends all operations once the links had their time to say so.
static void end(void) {
    for (int i = 0; i < 2; i++) {
        if (comms[i] != NULL) {
            rdi_comm_fail(comms[i], RONDO_ERR_ABORTED, "the end");
        }
    }
    for (int i = 0; i < 3; i++) {
        rdi_engine_progress(engine, false);
        collect();
        clock_ns += 400 * MS;
    }
    for (unsigned i = 0; i < REQUESTS; i++) {
        MUST(started[i].request == NULL);
    }
    MUST(atomic_load(&engine->active) == 0);
    rdi_engine_destroy(engine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const steps[])(struct input *) = {
        progress,     submit,    connect_to_us, come_up,       all_come_up, break_link,
        send_message, send_ctrl, take_messages, set_full,      change_comm, send_message,
        progress,     submit,    send_message,  take_messages,
    };
    struct input in = {data, size};
    begin(take_byte(&in));
    for (int i = 0; i < STEPS && in.left > 0; i++) {
        steps[take_byte(&in) % (sizeof steps / sizeof steps[0])](&in);
    }
    end();
    return 0;
}
