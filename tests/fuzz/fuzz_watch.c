// SPDX-License-Identifier: MIT
// The watch against ranks that send what they like: all of its messages, in any order and state, with fields that are
// near to what is awaited; links that come, break and are accepted twice; time that jumps. It runs over a fake net
// (fake_net.h). Whatever comes, epochs only grow, what it says of ranks is in range, and nothing is left at its end.
//
// The input is a list of steps, each a byte and its arguments.
#include "fake_net.h"
#include "transport/watch/core.h"

#include <sanitizer/asan_interface.h>

#define RANKS 5
#define STEPS 160
#define MS UINT64_C(1000000)

static struct fake_net net;
static struct rdi_watch *watch;
static uint64_t clock_ns, epoch;
static int me;

static uint64_t now(void *self) {
    (void)self;
    return clock_ns;
}

static void no_random(void *self, void *buf, size_t n) {
    (void)self;
    memset(buf, 5, n);
}

// What only a process has.
uint64_t __wrap_rdi_w_pid_space(void);
uint64_t __wrap_rdi_w_pid_space(void) { return 7; }
void __wrap_rdi_w_stopped_text(const struct rdi_watch *w, int rank, char *buf, size_t cap);
void __wrap_rdi_w_stopped_text(const struct rdi_watch *w, int rank, char *buf, size_t cap) {
    MUST(w == watch && rank >= 0 && rank < RANKS);
    snprintf(buf, cap, "is stopped");
}

// The watch itself is so large a block that an allocator asks the system for it each time. Here it is always the same,
// with zeros whenever the product gets it and poisoned while the product has not got it.
static _Alignas(64) uint8_t block[sizeof(struct rdi_watch)];
static bool lent;

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size) {
    if (n * size != sizeof block || lent) {
        return __real_calloc(n, size);
    }
    lent = true;
    ASAN_UNPOISON_MEMORY_REGION(block, sizeof block);
    return memset(block, 0, sizeof block);
}

void __real_free(void *at);
void __wrap_free(void *at);
void __wrap_free(void *at) {
    if (at != block) {
        __real_free(at);
        return;
    }
    MUST(lent);
    lent = false;
    ASAN_POISON_MEMORY_REGION(block, sizeof block);
}

// ---- Messages ------------------------------------------------------------------------------------

static void fill_decision(struct rdi_w_decision *d, struct input *in) {
    uint8_t failed = take_byte(in), more = take_byte(in);
    *d = (struct rdi_w_decision){.epoch = watch->epoch + 1,
                                 .round = watch->round + (more & 1),
                                 .coordinator = more >> 1 & 3,
                                 .cause = RDI_CAUSE_DEAD,
                                 .soft = more >> 3 & 1,
                                 .text = "ended"};
    d->failed[0] = failed % (1u << RANKS);
    if (more & 16) {
        d->joined[0][0] = 1 + (more >> 5) % RANKS;
        d->joined[0][1] = 1;
    }
}

static void fill_join(struct rdi_w_join *m, const struct rdi_w_rank *r, struct input *in) {
    uint8_t how = take_byte(in);
    *m = (struct rdi_w_join){.incarnation = 1 + (how & 1), .total = 900};
    m->offset = how & 2 && r->record != NULL ? r->record_len : 0;
    m->len = m->total - m->offset < RDI_W_PART ? m->total - m->offset : RDI_W_PART;
    m->len = how & 4 ? m->len / 2 : m->len;
    memset(m->bytes, how & 8 ? 0xff : 0, sizeof m->bytes);
}

static unsigned compose(union rdi_w_any *m, const struct rdi_w_rank *r, struct input *in);

// Another message from somebody else, passed on: to this rank or to one that it may not reach either.
static void fill_relay(struct rdi_w_relay *m, const struct rdi_w_rank *r, uint8_t a,
                       struct input *in) {
    union rdi_w_any inner;
    m->from = a % RANKS;
    m->to = a >> 3 & 1 ? (uint32_t)watch->rank : (a >> 4) % RANKS;
    m->type = compose(&inner, r, in);
    m->len = (uint32_t)rdi_w_size(m->type);
    memcpy(m->bytes, &inner, m->len < sizeof m->bytes ? m->len : sizeof m->bytes);
}

// A message that might well come now. Returns its type.
static unsigned compose(union rdi_w_any *m, const struct rdi_w_rank *r, struct input *in) {
    unsigned type = take_byte(in) % RDI_W_TYPES;
    uint8_t a = take_byte(in);
    memset(m, 0, sizeof *m);
    switch ((enum rdi_watch_type)type) {
    case RDI_W_BEAT:
        m->beat = (struct rdi_w_beat){.epoch = a & 7,
                                      .incarnation = a >> 6,
                                      .number = r->beat_heard + 1,
                                      .heard = a & 8 ? watch->beats : 0};
        break;
    case RDI_W_SUSPECT:
        m->suspect = (struct rdi_w_suspect){.epoch = watch->epoch,
                                            .rank = a % RANKS,
                                            .incarnation = watch->ranks[a % RANKS].peer.incarnation,
                                            .cause = 1 + (a >> 4) % 3};
        break;
    case RDI_W_PROPOSE:
    case RDI_W_PRIOR:
    case RDI_W_COMMIT:
        fill_decision(&m->decision, in);
        break;
    case RDI_W_ACK:
        m->ack = (struct rdi_w_ack){.epoch = watch->epoch + 1, .round = watch->round + (a & 1)};
        break;
    case RDI_W_ALIVE:
        m->alive = (struct rdi_w_alive){
            .epoch = watch->epoch + 1, .rank = a % RANKS, .via = (a >> 4) % (RANKS + 1)};
        break;
    case RDI_W_REPORT:
    case RDI_W_VERDICT:
        m->verdict = (struct rdi_w_verdict){
            .comm = a & 7, .epoch = watch->epoch, .status = -1 - (a >> 4), .text = "mismatch"};
        break;
    case RDI_W_VOTE:
    case RDI_W_QUERY:
        m->vote = (struct rdi_w_vote){
            .comm = a & 1, .tag = a >> 1 & 3, .flags = a, .epoch = watch->epoch};
        break;
    case RDI_W_RESULT:
        m->result = (struct rdi_w_result){
            .comm = a & 1, .tag = a >> 1 & 3, .flags = a, .epoch = watch->epoch};
        m->result.live[0] = (a >> 3) % (1u << RANKS);
        break;
    case RDI_W_JOIN:
        fill_join(&m->join, r, in);
        break;
    case RDI_W_JOIN_ACK:
    case RDI_W_READY:
        m->live = (struct rdi_w_live){.epoch = watch->epoch, .incarnation = 1 + (a >> 7)};
        m->live.live[0] = a % (1u << RANKS);
        break;
    case RDI_W_INVITE:
        m->invite = (struct rdi_watch_invite){.comm = a, .n = 2, .extra_len = a % 129};
        break;
    case RDI_W_CUT:
        m->cut = (struct rdi_w_cut){.epoch = a >> 6};
        break;
    case RDI_W_RELAY:
        fill_relay(&m->relay, r, a, in);
        break;
    case RDI_W_TYPES:
        break;
    }
    return type;
}

static void receive(struct input *in) {
    struct fake_link *l = fake_net_pick(&net, take_byte(in));
    union rdi_w_any m;
    uint8_t how = take_byte(in);
    if (l == NULL || l->base.owner == NULL) {
        return;
    }
    unsigned type = compose(&m, l->base.owner, in);
    size_t n = rdi_w_size(type);
    for (unsigned times = how % 4; times > 0; times--) {
        uint16_t at = (uint16_t)take_number(in, 2);
        ((uint8_t *)&m)[at % sizeof m] ^= take_byte(in);
    }
    if (how & 0x80) {
        n = take_number(in, 2) % (RDI_CTRL_MAX + 1);
        n = n < sizeof m ? n : sizeof m;
    }
    fake_net_ctrl(l, type, &m, n);
}

// ---- Links and time ------------------------------------------------------------------------------

static void connect_to_us(struct input *in) {
    unsigned from = take_byte(in);
    struct rdi_link_id id = {.comm = from & 0x80 ? 1 : RDI_W_COMM,
                             .from = (from & 7u) % (RANKS + 1u),
                             .to = (uint32_t)me};
    fake_net_accept(&net, &id);
}

static void change_link(struct input *in) {
    static const enum rdi_link_state states[] = {RDI_LINK_UP, RDI_LINK_LOST, RDI_LINK_FAILED,
                                                 RDI_LINK_CLOSED};
    struct fake_link *l = fake_net_pick(&net, take_byte(in));
    uint8_t how = take_byte(in);
    if (l != NULL) {
        fake_net_state(l, states[how % 4], how & 4 ? RONDO_ERR_PEER : RONDO_ERR_PATH);
        fake_net_back(l, 0);
    }
}

static void all_come_up(struct input *in) {
    (void)in;
    for (unsigned i = 0; i < FAKE_LINKS; i++) {
        if (net.links[i] != NULL) {
            fake_net_state(net.links[i], RDI_LINK_UP, RONDO_OK);
        }
    }
}

static void progress(struct input *in) {
    static const uint64_t steps[] = {0, 10, 60, 120, 260, 600, 3100, 11000};
    uint8_t how = take_byte(in);
    clock_ns += steps[how % 8] * MS;
    net.full = how & 0x80;
    rdi_watch_progress(watch);
}

// ---- Questions and wishes of this rank -----------------------------------------------------------

static void ask(struct input *in) {
    static const int members[] = {0, 1, 2, 3, 4};
    uint8_t what = take_byte(in), a = take_byte(in);
    struct rdi_watch_result result;
    struct rdi_watch_invite invite = {.comm = a, .n = 2};
    char text[RDI_ERROR_TEXT] = "";
    uint8_t record[RDI_WATCH_RECORD];
    uint32_t incarnation;
    uint64_t at;
    rondo_status s;
    size_t len = 0;
    int culprit;
    switch (what % 9) {
    case 0:
        rdi_watch_report(watch, a & 7, RONDO_ERR_ABORTED, (a >> 4) % RANKS - 1, "abort");
        break;
    case 1:
        rdi_watch_vote(watch, a & 1, a >> 1 & 3, members, RANKS, (a >> 3 & 3) % (epoch + 1), a);
        break;
    case 2:
        if (rdi_watch_result(watch, a & 1, a >> 1 & 3, &result)) {
            MUST(result.epoch <= rdi_watch_epoch(watch));
        }
        break;
    case 3:
        rdi_watch_forget(watch, a & 1, a >> 1 & 3);
        break;
    case 4:
        rdi_watch_hint(watch, a % RANKS);
        break;
    case 5:
        if (rdi_watch_record(watch, a % RANKS, &incarnation, record, &len)) {
            MUST(len <= RDI_WATCH_RECORD);
            free(own_copy(record, len));
        }
        break;
    case 6:
        if (a % RANKS != me) {
            rdi_watch_invite(watch, a % RANKS, &invite);
        }
        break;
    case 7:
        if (rdi_watch_invited(watch, &invite)) {
            MUST(invite.n <= RANKS && invite.extra_len <= sizeof invite.extra);
        }
        break;
    default:
        if (rdi_watch_verdict(watch, a & 7, &at, &s, &culprit, text)) {
            MUST(s < 0 && culprit >= -1 && culprit < RANKS);
            MUST(memchr(text, '\0', sizeof text) != NULL);
        }
        break;
    }
}

static void check(void) {
    char text[RDI_WATCH_TEXT], why[RDI_ERROR_TEXT];
    uint64_t is = rdi_watch_epoch(watch);
    MUST(is >= epoch);
    epoch = is;
    for (int r = 0; r < RANKS; r++) {
        const struct rdi_w_rank *k = &watch->ranks[r];
        MUST(rdi_watch_failed_at(watch, r) <= epoch && rdi_watch_joined_at(watch, r) <= epoch);
        rdi_watch_text(watch, r, text);
        MUST(memchr(text, '\0', sizeof text) != NULL);
        MUST(k->peer.blob_len <= RDI_BLOB_MAX && k->record_len <= k->record_total);
        MUST(memchr(k->peer.host, '\0', sizeof k->peer.host) != NULL);
    }
    if (rdi_watch_state(watch, why) != RONDO_OK) {
        MUST(memchr(why, '\0', sizeof why) != NULL && why[0] != '\0');
    }
    // It may have nothing to do for a while, but a heartbeat.
    MUST(rdi_watch_next(watch) <= clock_ns + 1000 * MS);
}

// ---- The whole -----------------------------------------------------------------------------------

static void begin(struct input *in) {
    static struct rdi_options options;
    uint8_t how = take_byte(in);
    const struct rdi_env env = {.now = now, .random = no_random};
    options.num[RDI_OPT_PEER_TIMEOUT] = 3000;
    options.num[RDI_OPT_STOP_GRACE] = 10000;
    options.num[RDI_OPT_CONNECT_TIMEOUT] = 60000;
    me = how % RANKS;
    clock_ns = 1000 * MS;
    epoch = 0;
    bool again = how & 0x40;
    const struct rdi_job job = {.rank = me, .size = RANKS, .host = "here"};
    MUST(rdi_watch_open(&env, &options, &job, again ? 1 : 0, &fake_net_ops, &net, NULL, NULL,
                        &watch) == RONDO_OK);
    for (int r = 0; r < RANKS; r++) {
        struct rdi_watch_peer p = {.host = "there", .pid = r, .blob = "f", .blob_len = 1};
        rdi_watch_add(watch, r, &p);
    }
    if (again) {
        rdi_watch_join(watch, "record", 6);
    }
    MUST(rdi_watch_begin(watch, false) == RONDO_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const steps[])(struct input *) = {
        receive, progress, receive, ask, receive, change_link, connect_to_us, all_come_up};
    struct input in = {data, size};
    begin(&in);
    for (int i = 0; i < STEPS && in.left > 0; i++) {
        steps[take_byte(&in) % (sizeof steps / sizeof steps[0])](&in);
        check();
    }
    net.full = false;
    rdi_watch_close(watch);
    for (unsigned i = 0; i < FAKE_LINKS; i++) {
        MUST(net.links[i] == NULL);
    }
    MUST(!lent);
    return 0;
}
