// SPDX-License-Identifier: MIT
// A tcp link that works: every size, order, landing, credit, several paths, control messages, the end.
#include "tests/unit/tcp_pair.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#define LO "interface=lo"

// ---- Sending and checking ------------------------------------------------------------------------

// Sends messages from one side and checks them on the other; both go on where they stood.
struct flow {
    struct pair *p;
    uint64_t count; // messages in all
    uint32_t (*size)(uint64_t seq, uint32_t max);
    uint8_t *data; // slots * max_msg bytes of the sender
    uint64_t checked;
    unsigned flags;
    bool sig;
    uint64_t hold; // released lags arrived by so much
};

static uint32_t any_size(uint64_t seq, uint32_t max) {
    const uint32_t sizes[] = {0, 1, max, 7, 64, max - 1, 4096, 63, 65, max / 2 + 1, 31, 0, 96, max};
    uint32_t n = sizes[seq % (sizeof sizes / sizeof sizes[0])];
    return n < max ? n : max;
}
static uint32_t biggest(uint64_t seq, uint32_t max) {
    (void)seq;
    return max;
}
static uint32_t small(uint64_t seq, uint32_t max) {
    (void)max;
    return (uint32_t)(seq % 50);
}

static void flow_send(struct flow *f) {
    struct rdi_link *l = f->p->link;
    while (l->posted < f->count && l->posted < l->credit) {
        uint64_t seq = l->posted;
        uint32_t len = f->size(seq, l->max_msg);
        uint8_t *at = f->data + (seq % l->slots) * l->max_msg, sig[RDI_SIG_BYTES];
        pair_fill(at, seq, len);
        pair_fill(sig, ~seq, sizeof sig);
        struct rdi_put put = {.data = at,
                              .len = len,
                              .flags = f->flags,
                              .tag = seq * 3 + 1,
                              .sig = f->sig && seq % 2 ? sig : NULL};
        rondo_status s = l->ops->put(l, &put);
        memset(sig, 0, sizeof sig); // put() has copied it
        assert_int_equal(s, RONDO_OK);
        assert_true(l->posted == seq + 1);
    }
}

static void flow_check(struct flow *f) {
    struct rdi_link *in = f->p->side[1].accepted;
    while (f->checked < in->arrived) {
        uint64_t seq = f->checked++;
        struct rdi_msg m;
        in->ops->peek(in, seq, &m);
        uint32_t len = f->size(seq, in->max_msg);
        assert_int_equal(m.len, len);
        assert_true(m.tag == seq * 3 + 1);
        assert_true(pair_matches(m.data, seq, len));
        if (f->sig && seq % 2) {
            assert_non_null(m.sig);
            assert_true(pair_matches(m.sig, ~seq, RDI_SIG_BYTES));
        } else {
            assert_null(m.sig);
        }
    }
    uint64_t upto = in->arrived > f->hold ? in->arrived - f->hold : 0;
    if (upto > in->released) {
        in->ops->release(in, upto);
    }
}

static bool flow_step(struct flow *f) {
    flow_send(f);
    flow_check(f);
    return f->checked == f->count;
}

static struct flow flow_new(struct pair *p, uint64_t count,
                            uint32_t (*size)(uint64_t seq, uint32_t max)) {
    struct flow f = {.p = p, .count = count, .size = size};
    f.data = malloc((size_t)p->link->slots * p->link->max_msg);
    assert_non_null(f.data);
    return f;
}

static void flow_run(struct flow *f) {
    pair_drive_until(f->p, flow_step(f));
    // Without being asked for, the last acknowledgement comes within a few turns.
    pair_drive_until(f->p, f->p->link->sent == f->count);
    free(f->data);
}

// ---- Messages ------------------------------------------------------------------------------------

static void exchange(const char *options0, const char *options1, unsigned paths) {
    struct pair p;
    pair_open(&p, options0, options1);
    pair_connect(&p);
    assert_int_equal(rdi_tcp_test_paths(p.link), paths);
    assert_int_equal(p.link->posted, 0);
    assert_int_equal(p.link->credit, p.link->slots);
    struct flow f = flow_new(&p, 300, any_size);
    f.sig = true;
    f.flags = RDI_PUT_ACK;
    flow_run(&f);
    uint64_t bytes = 0;
    for (uint64_t seq = 0; seq < 300; seq++) {
        bytes += any_size(seq, p.link->max_msg);
    }
    assert_true(p.side[0].net->bytes_sent == bytes && p.side[1].net->bytes_received == bytes);
    assert_int_equal(p.side[0].net->messages_sent, 300);
    assert_int_equal(p.side[1].net->strangers, 0);
    pair_close(&p);
}

static void test_sizes(void **state) {
    (void)state;
    exchange(LO, LO, 1);
}

static void test_several_sockets(void **state) {
    (void)state;
    exchange(LO ",tcp_sockets=3,chunk=64K", LO ",tcp_sockets=1,chunk=64K", 3);
    exchange(LO ",tcp_sockets=8,slots=2,chunk=4K", LO ",slots=64", 8);
}

static void test_ipv6(void **state) {
    (void)state;
    struct side s;
    side_prepare(&s, 0, LO ",family=ipv6");
    if (rdi_tcp_ops.open(&s.params, &s.net) != RONDO_OK) {
        print_message("skipped: %s\n", rondo_last_error());
        skip();
    }
    s.net->ops->close(s.net);
    exchange(LO ",family=ipv6", LO ",family=ipv6", 1);
}

// Link-local addresses need a zone, and the zone that counts is ours.
static void test_link_local(void **state) {
    (void)state;
    struct side s;
    side_prepare(&s, 0, "interface=fe80::/10");
    if (rdi_tcp_ops.open(&s.params, &s.net) != RONDO_OK) {
        print_message("skipped: %s\n", rondo_last_error());
        skip();
    }
    s.net->ops->close(s.net);
    exchange("interface=fe80::/10", "interface=fe80::/10", 1);

    // The peer's number of its zone is another one.
    struct pair p;
    struct rdi_tcp_blob other;
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    pair_open(&p, "interface=fe80::/10", "interface=fe80::/10");
    p.side[1].net->ops->address(p.side[1].net, blob, &len);
    assert_true(rdi_tcp_blob_read(&other, blob, len));
    for (unsigned i = 0; i < other.count; i++) {
        other.addr[i].scope += 1000;
    }
    len = rdi_tcp_blob_write(&other, blob);
    struct rdi_link_id id = {.comm = 1, .from = 0, .to = 1};
    assert_int_equal(p.side[0].net->ops->connect(p.side[0].net, &id, blob, len, &p.link), RONDO_OK);
    pair_drive_until(&p, pair_link_up(&p));
    pair_close(&p);
}

// What the kernel is told about each connection, on both ends.
static void test_socket_options(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",path_grace=7s", LO ",path_grace=7s");
    pair_connect(&p);
    struct rdi_link *ends[2] = {p.link, p.side[1].accepted};
    for (int i = 0; i < 2; i++) {
        int fd = ((struct rdi_tcp_link *)ends[i])->paths[0]->fd, on = 0;
        unsigned ms = 0;
        socklen_t len = sizeof on;
        assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &len), 0);
        assert_int_equal(on, 1);
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &len), 0);
        assert_int_equal(on, 1);
        assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, &len), 0);
        assert_int_equal(ms, 7000);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    pair_close(&p);
}

static void test_smaller_of_both(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=4,chunk=128K", LO ",slots=9,chunk=8K");
    pair_connect(&p);
    assert_int_equal(p.link->slots, 4);
    assert_int_equal(p.link->max_msg, 8192);
    assert_int_equal(p.side[1].accepted->slots, 4);
    assert_int_equal(p.side[1].accepted->max_msg, 8192);
    assert_true(p.side[1].accepted->id.comm == 42 && !p.side[1].accepted->sender);
    struct flow f = flow_new(&p, 50, biggest);
    flow_run(&f);
    struct rdi_put put = {.data = &p, .len = 8193};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_INVALID);
    pair_close(&p);
}

// Messages of many small sizes at once, so that frames and the reader's buffer meet in every phase.
static void test_many_small(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=64,tcp_sockets=2", LO ",slots=64");
    pair_connect(&p);
    struct flow f = flow_new(&p, 20000, small);
    f.sig = true;
    flow_run(&f);
    pair_close(&p);
}

// Only what lies within reach of credit is taken; the rest is taken later, and nothing is lost.
static void test_credit(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=4", LO);
    pair_connect(&p);
    struct flow f = flow_new(&p, 4, biggest);
    flow_send(&f);
    uint8_t byte = 0;
    struct rdi_put put = {.data = &byte, .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_AGAIN);
    pair_drive_until(&p, p.side[1].accepted->arrived == 4);
    for (int i = 0; i < 300; i++) {
        pair_turn(&p);
    }
    // Everything has arrived and was acknowledged, but nothing was released.
    assert_int_equal(p.link->sent, 4);
    assert_int_equal(p.link->credit, 4);
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_AGAIN);
    assert_int_equal(p.link->posted, 4);
    flow_check(&f);
    pair_drive_until(&p, p.link->credit == 8);
    f.count = 200;
    f.hold = 2; // credit comes back while messages are held
    flow_run(&f);
    pair_close(&p);
}

// Half of the slots is told at once, without any turn of the receiver's.
static void test_credit_is_prompt(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=8", LO);
    pair_connect(&p);
    struct rdi_link *in = p.side[1].accepted;
    struct flow f = flow_new(&p, 8, small);
    flow_send(&f);
    pair_drive_until(&p, in->arrived == 8 && p.link->sent == 8);
    in->ops->release(in, 3);
    in->ops->release(in, 4);
    struct rdi_net *sender = p.side[0].net;
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->credit < 12 && pair_now() < end) {
        sender->ops->progress(sender, false);
    }
    assert_int_equal(p.link->credit, 12);
    // Less than half waits for arm(), which is called before sleep.
    in->ops->release(in, 5);
    uint64_t timeout = UINT64_MAX;
    assert_int_equal(p.side[1].net->ops->arm(p.side[1].net, &timeout), RONDO_OK);
    while (p.link->credit < 13 && pair_now() < end) {
        sender->ops->progress(sender, false);
    }
    assert_int_equal(p.link->credit, 13);
    free(f.data);
    pair_close(&p);
}

// A receiver that has taken everything and then makes no progress for long: the sender that waits for the
// last message hears of it nevertheless.
static void test_acknowledged_at_release(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_link *in = p.side[1].accepted;
    static uint8_t bytes[100000];
    for (int i = 0; i < 3; i++) {
        struct rdi_put put = {
            .data = bytes, .len = sizeof bytes, .flags = i == 2 ? RDI_PUT_ACK : 0};
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    }
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (in->released < 3 && pair_now() < end) {
        p.side[0].net->ops->progress(p.side[0].net, true);
        p.side[1].net->ops->progress(p.side[1].net, true);
        if (in->arrived > in->released) {
            in->ops->release(in, in->released + 1);
        }
    }
    while (p.link->sent < 3 && pair_now() < end) {
        p.side[0].net->ops->progress(p.side[0].net, false);
    }
    assert_int_equal(p.link->sent, 3);
    pair_close(&p);
}

// Two ranks that only ever poll: the acknowledgement that nobody asked for comes all the same, soon.
static void test_lazy_acknowledgement(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_put put = {.data = "x", .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->sent == 0 && pair_now() < end) {
        for (int i = 0; i < 2; i++) {
            p.side[i].net->ops->progress(p.side[i].net, true);
        }
    }
    assert_int_equal(p.link->sent, 1);
    pair_close(&p);
}

// ---- Landing -------------------------------------------------------------------------------------

static uint8_t *land_odd(struct side *s, uint64_t tag, uint32_t len) {
    uint64_t seq = (tag - 1) / 3;
    (void)len;
    return seq % 2 ? s->land_memory + (seq % 64) * s->accepted->max_msg : NULL;
}

static void test_landing(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",chunk=128K,tcp_sockets=3", LO);
    pair_connect(&p);
    struct side *s = &p.side[1];
    s->land_memory = malloc((size_t)64 * p.link->max_msg);
    assert_non_null(s->land_memory);
    s->land = land_odd;
    struct flow f = flow_new(&p, 200, any_size);
    f.sig = true;
    uint64_t seen = 0;
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (f.checked < f.count && pair_now() < end) {
        flow_send(&f);
        for (; seen < s->accepted->arrived; seen++) {
            struct rdi_msg m;
            s->accepted->ops->peek(s->accepted, seen, &m);
            const uint8_t *wanted = land_odd(s, seen * 3 + 1, m.len);
            assert_true(wanted == NULL ? (m.data < (void *)s->land_memory ||
                                          m.data >= (void *)(s->land_memory + 64 * p.link->max_msg))
                                       : m.data == wanted);
        }
        flow_check(&f);
        pair_turn(&p);
    }
    assert_int_equal(f.checked, f.count);
    assert_int_equal(s->lands, f.count); // asked once for each
    free(f.data);
    pair_close(&p);
    free(s->land_memory);
}

// ---- Control messages ----------------------------------------------------------------------------

static void test_ctrl(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2", LO);
    p.link = pair_begin_link(&p, 42);
    uint8_t bytes[RDI_CTRL_MAX + 1];
    pair_fill(bytes, 5, sizeof bytes);
    assert_int_equal(p.link->ops->ctrl(p.link, 1, bytes, 1), RONDO_AGAIN); // CONNECTING
    pair_drive_until(&p, pair_link_up(&p));
    struct rdi_link *ends[2] = {p.link, p.side[1].accepted};
    for (unsigned from = 0; from < 2; from++) {
        struct side *to = &p.side[1 - from];
        const size_t sizes[] = {0, 1, RDI_CTRL_MAX, 64};
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(ends[from]->ops->ctrl(ends[from], 100 + i, bytes, sizes[i]), RONDO_OK);
        }
        pair_drive_until(&p, to->ctrls == 4);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(to->ctrl[i].type, 100 + i);
            assert_int_equal(to->ctrl[i].len, sizes[i]);
            assert_memory_equal(to->ctrl[i].bytes, bytes, sizes[i]);
        }
        assert_int_equal(ends[from]->ops->ctrl(ends[from], 1, bytes, sizeof bytes),
                         RONDO_ERR_INVALID);
    }
    pair_close(&p);
}

// Control messages pass in the middle of a stream of messages that nobody takes.
static void test_ctrl_beside_messages(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=8", LO);
    pair_connect(&p);
    struct flow f = flow_new(&p, 8, biggest);
    flow_send(&f);
    assert_int_equal(p.link->ops->ctrl(p.link, 9, "now", 3), RONDO_OK);
    pair_drive_until(&p, p.side[1].ctrls == 1);
    assert_int_equal(p.link->credit, 8);
    f.count = 100;
    flow_run(&f);
    pair_close(&p);
}

// A peer that does not read: control messages are taken until there is no room, then AGAIN, and all come.
static void test_ctrl_without_room(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=64,chunk=1M", LO ",slots=64,chunk=1M");
    pair_connect(&p);
    struct flow f = flow_new(&p, 64, biggest);
    flow_send(&f); // 64 MiB: more than the kernel buffers
    uint8_t bytes[RDI_CTRL_MAX] = {0};
    unsigned taken = 0;
    while (p.link->ops->ctrl(p.link, taken, bytes, sizeof bytes) == RONDO_OK) {
        assert_true(++taken < PAIR_CTRLS);
    }
    assert_true(taken > 0);
    pair_drive_until(&p, p.side[1].ctrls == taken);
    for (unsigned i = 0; i < taken; i++) {
        assert_int_equal(p.side[1].ctrl[i].type, i);
    }
    flow_run(&f);
    pair_close(&p);
}

// ---- The end -------------------------------------------------------------------------------------

static void test_bye_from_sender(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2", LO);
    pair_connect(&p);
    struct flow f = flow_new(&p, 5, small);
    flow_send(&f);
    p.link->ops->close_link(p.link, true); // the receiver has read nothing yet
    p.link = NULL;
    struct rdi_link *in = p.side[1].accepted;
    pair_drive_until(&p, in->state != RDI_LINK_UP);
    assert_int_equal(in->state, RDI_LINK_CLOSED);
    assert_int_equal(in->arrived, 5); // in order after the last message
    while (f.checked < 5) {
        struct rdi_msg m;
        in->ops->peek(in, f.checked, &m);
        assert_true(pair_matches(m.data, f.checked, small(f.checked, 0)));
        f.checked++;
    }
    in->ops->release(in, 5);
    assert_int_equal(in->ops->ctrl(in, 1, "x", 1), RONDO_ERR_PEER);
    free(f.data);
    pair_close(&p);
}

// With several connections the good-bye on another one can be read before a control message on the first.
static void test_bye_behind_control(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=3", LO);
    pair_connect(&p);
    struct rdi_tcp_link *in = (struct rdi_tcp_link *)p.side[1].accepted;
    assert_int_equal(p.link->ops->ctrl(p.link, 9, "last words", 10), RONDO_OK);
    p.link->ops->close_link(p.link, true);
    p.link = NULL;
    uint64_t until = pair_now() + PAIR_SECONDS * 1000000000u;
    while (!in->paths[2]->said_bye && pair_now() < until) {
        rdi_tcp_rx(in->paths[2]);
    }
    rdi_tcp_rx(in->paths[2]); // nor is its end a loss
    assert_int_equal(in->base.state, RDI_LINK_UP);
    assert_int_equal(p.side[1].ctrls, 0);
    pair_drive_until(&p, in->base.state != RDI_LINK_UP);
    assert_int_equal(in->base.state, RDI_LINK_CLOSED);
    assert_int_equal(p.side[1].ctrls, 1);
    assert_int_equal(p.side[1].ctrl[0].type, 9);
    pair_close(&p);
}

// All connections say good-bye and end, although not all messages came of which they told.
static void test_bye_without_message(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2", LO);
    pair_connect(&p);
    struct rdi_tcp_link *out = (struct rdi_tcp_link *)p.link;
    struct rdi_tcp_link *in = (struct rdi_tcp_link *)p.side[1].accepted;
    struct rdi_put put = {.data = "x", .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK); // by the first connection
    for (unsigned i = 0; i < 2; i++) {
        // No connection may tell of more than it has carried: the second message is the other one's.
        struct rdi_tcp_frame bye = {.type = RDI_TCP_BYE, .seq = i == 0 ? 2 : 1};
        assert_true(rdi_tcp_tx_frame(out->paths[i], &bye, NULL));
        assert_int_equal(rdi_tcp_tx(out->paths[i]), 1);
        assert_int_equal(shutdown(out->paths[i]->fd, SHUT_WR), 0);
    }
    uint64_t until = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (in->base.state == RDI_LINK_UP && !in->paths[0]->over && pair_now() < until) {
        rdi_tcp_rx(in->paths[0]);
    }
    assert_true(in->bye && in->bye_at == 2 && in->base.arrived == 1);
    assert_int_equal(in->base.state, RDI_LINK_UP); // the other connection may still bring it
    // What the receiver says on the one that is over gives a reset, which wakes nobody.
    assert_int_equal(shutdown(out->paths[0]->fd, SHUT_RD), 0);
    assert_int_equal(setsockopt(out->paths[0]->fd, SOL_SOCKET, SO_LINGER,
                                &(struct linger){.l_onoff = 1}, sizeof(struct linger)),
                     0);
    int sock = out->paths[0]->fd, null = open("/dev/null", O_RDWR);
    assert_int_equal(dup2(null, sock), sock); // closes it, unknown to the sender
    close(null);
    struct pollfd hup = {.fd = in->paths[0]->fd, .events = 0};
    assert_int_equal(poll(&hup, 1, 1000), 1);
    assert_true(hup.revents & (POLLHUP | POLLERR));
    struct pollfd set = {.fd = ((struct rdi_tcp_net *)in->base.net)->epfd, .events = POLLIN};
    struct epoll_event e;
    while (poll(&set, 1, 50) > 0) {
        assert_int_equal(epoll_wait(set.fd, &e, 1, 0), 1);
        assert_ptr_not_equal(e.data.ptr, in->paths[0]);
        rdi_tcp_rx(e.data.ptr);
    }
    while (in->base.state == RDI_LINK_UP && !in->paths[1]->over && pair_now() < until) {
        rdi_tcp_rx(in->paths[1]);
    }
    assert_int_equal(in->base.state, RDI_LINK_LOST);
    pair_close(&p);
}

static void test_bye_from_receiver(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2", LO);
    pair_connect(&p);
    struct rdi_link *in = p.side[1].accepted;
    in->ops->close_link(in, true);
    p.side[1].accepted = NULL;
    pair_drive_until(&p, p.link->state != RDI_LINK_UP);
    assert_int_equal(p.link->state, RDI_LINK_CLOSED);
    struct rdi_put put = {.data = &p, .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_PEER);
    pair_close(&p);
}

// Good-bye is heard although the peer is gone and our own sending runs into a reset first.
static void test_bye_before_reset(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_link *in = p.side[1].accepted;
    in->ops->close_link(in, true);
    p.side[1].accepted = NULL;
    p.side[1].net->ops->close(p.side[1].net);
    p.side[1].net = NULL;
    uint8_t bytes[1000] = {0};
    for (int i = 0; i < 8 && p.link->state == RDI_LINK_UP; i++) {
        struct rdi_put put = {.data = bytes, .len = sizeof bytes};
        p.link->ops->put(p.link, &put);
    }
    pair_drive_until(&p, p.link->state != RDI_LINK_UP);
    assert_int_equal(p.link->state, RDI_LINK_CLOSED);
    pair_close(&p);
}

// Small messages that the kernel has no room for are finished after close_link(), from a copy.
static void test_bye_behind_little_output(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=64,chunk=4K", LO ",slots=64,chunk=4K");
    pair_connect(&p);
    struct rdi_link *in = p.side[1].accepted;
    struct rdi_tcp_path *out_path = ((struct rdi_tcp_link *)p.link)->paths[0];
    int least = 1, little = 64 << 10;
    setsockopt(out_path->fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
    setsockopt(((struct rdi_tcp_link *)in)->paths[0]->fd, SOL_SOCKET, SO_RCVBUF, &little,
               sizeof little);
    static uint8_t bytes[64][2000];
    uint64_t seq = 0;
    while (seq < 60 && out_path->tx.next == seq) { // until the kernel is full
        pair_fill(bytes[seq], seq, 2000);
        struct rdi_put put = {.data = bytes[seq], .len = 2000, .tag = seq};
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
        seq++;
    }
    for (int more = 0; more < 3; more++, seq++) {
        pair_fill(bytes[seq], seq, 2000);
        struct rdi_put put = {.data = bytes[seq], .len = 2000, .tag = seq};
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    }
    assert_true(out_path->tx.next < seq);
    p.link->ops->close_link(p.link, true);
    p.link = NULL;
    memset(bytes, 0, sizeof bytes); // no longer the transport's business
    pair_drive_until(&p, in->state != RDI_LINK_UP);
    assert_int_equal(in->state, RDI_LINK_CLOSED);
    assert_int_equal(in->arrived, seq);
    for (uint64_t i = 0; i < seq; i++) {
        struct rdi_msg m;
        in->ops->peek(in, i, &m);
        assert_true(m.tag == i && m.len == 2000 && pair_matches(m.data, i, 2000));
    }
    pair_close(&p);
}

// What the receiver says right after its welcome is read together with it, and not lost.
static void test_ctrl_behind_welcome(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    p.link = pair_begin_link(&p, 42);
    struct rdi_net *a = p.side[0].net, *b = p.side[1].net;
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    for (int i = 0; p.side[1].accepted == NULL || p.side[1].accepted->state != RDI_LINK_UP; i++) {
        assert_true(pair_now() < end);
        b->ops->progress(b, false);
        if (p.side[1].accepted == NULL) {
            a->ops->progress(a, false);
        }
    }
    assert_int_equal(p.link->state, RDI_LINK_CONNECTING);
    struct rdi_link *in = p.side[1].accepted;
    assert_int_equal(in->ops->ctrl(in, 7, "early", 5), RONDO_OK);
    pair_drive_until(&p, p.side[0].ctrls == 1);
    assert_int_equal(p.side[0].ctrl[0].type, 7);
    assert_int_equal(p.link->state, RDI_LINK_UP);
    pair_close(&p);
}

// A rank that has polled for long in vain still hears.
static void test_long_silence(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_net *b = p.side[1].net;
    for (int i = 0; i < 10000; i++) {
        b->ops->progress(b, true);
    }
    struct rdi_put put = {.data = "x", .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.side[1].accepted->arrived == 0 && pair_now() < end) {
        b->ops->progress(b, true);
    }
    assert_int_equal(p.side[1].accepted->arrived, 1);
    pair_close(&p);
}

// The engine may close a link from within an upcall.
static void test_close_in_upcall(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",path_grace=200ms", LO ",path_grace=200ms");
    pair_connect(&p);
    p.side[1].close_on_ctrl = true;
    struct flow f = flow_new(&p, 8, biggest);
    flow_send(&f);
    assert_int_equal(p.link->ops->ctrl(p.link, 1, "end", 3), RONDO_OK);
    pair_drive_until(&p, p.side[1].ctrls == 1);
    assert_null(p.side[1].accepted);
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    free(f.data);
    pair_close(&p);

    pair_open(&p, LO ",path_grace=200ms", LO);
    p.side[1].close_on_accept = true;
    p.link = pair_begin_link(&p, 1);
    pair_drive_until(&p, p.side[1].accepts > 0);
    pair_close(&p);
}

static void test_two_links_each_way(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_link *first = p.link, *first_in = p.side[1].accepted;
    p.link = pair_begin_link(&p, 43);
    pair_drive_until(&p, p.side[1].accepts == 2 && pair_link_up(&p));
    assert_ptr_not_equal(first_in, p.side[1].accepted);
    assert_true(p.side[1].accepted->id.comm == 43);
    struct flow f = flow_new(&p, 30, any_size);
    flow_run(&f);
    assert_int_equal(first_in->arrived, 0);
    first->ops->close_link(first, true);
    first_in->ops->close_link(first_in, true);
    pair_close(&p);
}

// ---- Sleep ---------------------------------------------------------------------------------------

static bool readable(struct rdi_net *net, int timeout_ms) {
    struct pollfd fd = {.fd = net->ops->fd(net), .events = POLLIN};
    return poll(&fd, 1, timeout_ms) == 1;
}

// A rank that sleeps is woken by a message, and by room in the kernel when it has more to send.
static void test_wake(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=64,chunk=1M", LO ",slots=64,chunk=1M");
    pair_connect(&p);
    struct rdi_net *a = p.side[0].net, *b = p.side[1].net;
    for (int i = 0; i < 200; i++) {
        pair_turn(&p);
    }
    uint64_t timeout = UINT64_MAX;
    assert_int_equal(b->ops->arm(b, &timeout), RONDO_OK);
    assert_int_equal(timeout, UINT64_MAX); // nothing that needs time
    assert_false(readable(b, 0));
    struct flow f = flow_new(&p, 64, biggest);
    flow_send(&f);
    assert_true(readable(b, 10000));
    // The kernel is full: nothing to do, so the sender may sleep.
    while (a->ops->progress(a, false) > 0) {}
    assert_int_equal(a->ops->arm(a, &timeout), RONDO_OK);
    assert_false(readable(a, 0));
    while (p.side[1].accepted->arrived < 2) {
        b->ops->progress(b, false);
    }
    assert_true(readable(a, 10000));
    a->ops->disarm(a);
    flow_run(&f);
    for (int i = 0; i < 200; i++) {
        pair_turn(&p);
    }
    assert_int_equal(a->ops->arm(a, &timeout), RONDO_OK);
    assert_false(readable(a, 0)); // room alone is no reason any more
    pair_close(&p);
}

static void test_describe(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    char text[400] = "";
    p.link->ops->describe(p.link, text, sizeof text);
    p.side[1].accepted->ops->describe(p.side[1].accepted, text, sizeof text);
    assert_non_null(strstr(text, "tcp link to rank 1 on host hostb (127.0.0.1:"));
    assert_non_null(strstr(text, "tcp link from rank 0 on host hosta (127.0.0.1:"));
    for (size_t cap = 1; cap < 60; cap++) {
        char little[60] = "";
        p.link->ops->describe(p.link, little, cap);
        assert_true(strlen(little) < cap);
    }
    pair_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_several_sockets),
        cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_link_local),
        cmocka_unit_test(test_socket_options),
        cmocka_unit_test(test_smaller_of_both),
        cmocka_unit_test(test_many_small),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_credit_is_prompt),
        cmocka_unit_test(test_acknowledged_at_release),
        cmocka_unit_test(test_lazy_acknowledgement),
        cmocka_unit_test(test_landing),
        cmocka_unit_test(test_ctrl),
        cmocka_unit_test(test_ctrl_beside_messages),
        cmocka_unit_test(test_ctrl_without_room),
        cmocka_unit_test(test_bye_from_sender),
        cmocka_unit_test(test_bye_behind_control),
        cmocka_unit_test(test_bye_without_message),
        cmocka_unit_test(test_bye_from_receiver),
        cmocka_unit_test(test_bye_before_reset),
        cmocka_unit_test(test_bye_behind_little_output),
        cmocka_unit_test(test_ctrl_behind_welcome),
        cmocka_unit_test(test_long_silence),
        cmocka_unit_test(test_close_in_upcall),
        cmocka_unit_test(test_two_links_each_way),
        cmocka_unit_test(test_wake),
        cmocka_unit_test(test_describe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
