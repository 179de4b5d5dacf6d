// SPDX-License-Identifier: MIT
// Who should not be here, who has another key or version, and who breaks the protocol after proving the key:
// each is dropped or told, and a working link beside it is not disturbed.
#include "tests/unit/tcp_pair.h"

#include <errno.h>
#include <netinet/in.h>
#include <unistd.h>

#define LO "interface=lo"

static struct rdi_tcp_net *tcp(struct rdi_net *net) { return (struct rdi_tcp_net *)net; }

static void one_message(struct pair *p) {
    struct rdi_link *in = p->side[1].accepted;
    uint64_t seq = p->link->posted;
    uint8_t bytes[5000];
    pair_fill(bytes, seq, sizeof bytes);
    struct rdi_put put = {.data = bytes, .len = sizeof bytes, .tag = seq, .flags = RDI_PUT_ACK};
    assert_int_equal(p->link->ops->put(p->link, &put), RONDO_OK);
    pair_drive_until(p, in->arrived == seq + 1);
    struct rdi_msg m;
    in->ops->peek(in, seq, &m);
    assert_true(pair_matches(m.data, seq, m.len));
    in->ops->release(in, seq + 1);
    pair_drive_until(p, p->link->sent == seq + 1);
}

// A plain client's connection to side 1.
static int client(struct pair *p) {
    struct rdi_tcp_net *n = tcp(p->side[1].net);
    struct sockaddr_storage to;
    socklen_t len = rdi_tcp_sockaddr(&n->self.addr[0], n->self.addr[0].port, &to);
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_true(connect(fd, (struct sockaddr *)&to, len) == 0 || errno == EINPROGRESS);
    return fd;
}

static bool is_closed(int fd) {
    char bytes[256];
    ssize_t k = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    return k == 0 || (k < 0 && errno != EAGAIN);
}

// ---- Strangers -----------------------------------------------------------------------------------

static void test_garbage(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    static const char *const words[] = {"GET / HTTP/1.1\r\n\r\n",
                                        "\x16\x03\x01",
                                        "RNDO\xff\xff\xff\xff\xff\xff",
                                        "R",
                                        "",
                                        "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u2\r\n"};
    const size_t count = sizeof words / sizeof words[0];
    for (size_t i = 0; i < count; i++) {
        int fd = client(&p);
        pair_turn(&p);
        if (words[i][0] != '\0') {
            assert_int_equal(send(fd, words[i], strlen(words[i]), MSG_NOSIGNAL), strlen(words[i]));
        }
        if (strlen(words[i]) < 4) {
            shutdown(fd, SHUT_WR);
        }
        pair_drive_until(&p, is_closed(fd));
        close(fd);
        assert_int_equal(p.side[1].net->strangers, i + 1);
        one_message(&p);
    }
    assert_non_null(strstr(p.side[1].last_line, "dropped a connection from 127.0.0.1:"));
    assert_int_equal(p.side[1].accepts, 1);
    assert_int_equal(p.side[0].net->strangers, 0);
    pair_close(&p);
}

// One line for a burst, and one more after a second.
static void test_strangers_are_logged_seldom(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    uint64_t start = pair_now();
    for (unsigned i = 0; i < 20; i++) {
        int fd = client(&p);
        pair_turn(&p);
        assert_int_equal(send(fd, "hello", 5, MSG_NOSIGNAL), 5);
        pair_drive_until(&p, is_closed(fd));
        close(fd);
    }
    uint64_t seconds = (pair_now() - start) / (1000 * RDI_MS);
    assert_int_equal(p.side[1].net->strangers, 20);
    assert_in_range(p.side[1].lines, 1, 2 + seconds);
    pair_close(&p);
}

static uint64_t fake_now;
static uint64_t read_fake_now(void *self) {
    (void)self;
    return fake_now;
}

// More connections that say nothing than may be: the oldest go, and whoever knows the key gets in.
static void test_flood(void **state) {
    (void)state;
    enum { FLOOD = 300 };
    struct pair p = {0};
    side_prepare(&p.side[0], 0, LO);
    side_prepare(&p.side[1], 1, LO);
    fake_now = 1000 * RDI_MS; // no time passes: nobody is dropped for being slow
    p.side[1].params.env.now = read_fake_now;
    side_open(&p.side[0]);
    side_open(&p.side[1]);
    int fds[FLOOD];
    for (int i = 0; i < FLOOD; i++) {
        fds[i] = client(&p);
        pair_turn(&p);
    }
    unsigned most = rdi_strangers_max(256);
    pair_drive_until(&p, p.side[1].net->strangers >= FLOOD - most);
    assert_int_equal(tcp(p.side[1].net)->half_open, most);
    pair_connect(&p);
    one_message(&p);
    assert_true(is_closed(fds[0]));
    assert_false(is_closed(fds[FLOOD - 1]));
    for (int i = 0; i < FLOOD; i++) {
        close(fds[i]);
    }
    pair_drive_until(&p, tcp(p.side[1].net)->half_open == 0);
    assert_int_equal(p.side[1].net->strangers, FLOOD);
    pair_close(&p);
}

// Ten seconds of silence are enough. The clock is ours, so nobody waits for it.
static void test_silence(void **state) {
    (void)state;
    struct pair p;
    memset(&p, 0, sizeof p);
    fake_now = 1000 * RDI_MS;
    side_prepare(&p.side[1], 1, LO);
    p.side[1].params.env.now = read_fake_now;
    side_open(&p.side[1]);
    int fd = client(&p);
    pair_drive_until(&p, tcp(p.side[1].net)->half_open == 1);
    fake_now += 9900 * RDI_MS;
    pair_turn(&p);
    pair_turn(&p);
    assert_false(is_closed(fd));
    uint64_t timeout = UINT64_MAX;
    assert_int_equal(p.side[1].net->ops->arm(p.side[1].net, &timeout), RONDO_OK);
    assert_int_equal(timeout, 100 * RDI_MS);
    fake_now += 101 * RDI_MS;
    pair_drive_until(&p, is_closed(fd));
    close(fd);
    assert_int_equal(p.side[1].net->strangers, 1);
    pair_close(&p);
}

// ---- Other keys and versions ---------------------------------------------------------------------

static void test_other_key(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    assert_int_equal(rdi_key_set(&p.side[1].job, "the key of another job..", 24), RONDO_OK);
    p.link = pair_begin_link(&p, 1);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_AUTH);
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb (127.0.0.1:"));
    assert_non_null(strstr(p.link->why, "key"));
    pair_drive_until(&p, p.side[1].net->strangers == 1);
    assert_int_equal(p.side[1].accepts, 0);
    pair_close(&p);
}

// Takes the next connection in place of side 1, which makes no progress meanwhile.
static int accept_in_place(struct pair *p) {
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    for (;;) {
        p->side[0].net->ops->progress(p->side[0].net, false);
        int fd =
            accept4(tcp(p->side[1].net)->listeners[0].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        assert_true(fd >= 0 || errno == EAGAIN);
        assert_true(pair_now() < end);
        if (fd >= 0) {
            return fd;
        }
    }
}

// An acceptor of another version: the bytes of a real one with other version numbers.
static void test_other_version_accepts(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    p.link = pair_begin_link(&p, 1);
    int fd = accept_in_place(&p);
    struct rdi_hs hs;
    rdi_hs_accept(&hs, RDI_HS_TCP, &p.side[1].job, &p.side[1].params.env);
    uint8_t bytes[RDI_HS_BUFFER];
    ssize_t k = -1;
    while (k < 0) {
        p.side[0].net->ops->progress(p.side[0].net, false);
        k = recv(fd, bytes, sizeof bytes, 0);
    }
    size_t used;
    bytes[5]++; // the version in the header
    rdi_hs_input(&hs, bytes, (size_t)k, &used);
    assert_int_equal(hs.state, RDI_HS_FAILED);
    assert_int_equal(hs.error, RONDO_ERR_VERSION);
    hs.out[5]++; // we are that version
    assert_int_equal(send(fd, hs.out, hs.out_len, 0), hs.out_len);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->state == RDI_LINK_CONNECTING && pair_now() < end) {
        p.side[0].net->ops->progress(p.side[0].net, false);
    }
    assert_int_equal(p.link->state, RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_VERSION);
    assert_non_null(strstr(p.link->why, "version 2"));
    close(fd);
    pair_close(&p);
}

static void test_other_version_connects(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    struct rdi_hs hs;
    rdi_hs_connect(&hs, RDI_HS_TCP, &p.side[0].job, &p.side[0].params.env, "x", 1);
    int fd = client(&p);
    pair_turn(&p);
    hs.out[5]++;
    assert_int_equal(send(fd, hs.out, hs.out_len, 0), hs.out_len);
    uint8_t bytes[RDI_HS_BUFFER];
    ssize_t k = -1;
    pair_drive_until(&p, (k = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) >= 0);
    assert_true(k > 0); // it is told our version before it is dropped
    assert_memory_equal(bytes, "RNDO", 4);
    pair_drive_until(&p, p.side[1].net->strangers == 1);
    assert_non_null(strstr(p.side[1].last_line, "version"));
    close(fd);
    pair_close(&p);
}

// ---- Proven, but wrong ---------------------------------------------------------------------------

// Runs the connector's side of a handshake by hand. Returns the connection; the reply is in *reply.
static int shake_hands(struct pair *p, const void *hello, size_t len, struct rdi_tcp_reply *reply) {
    struct rdi_hs hs;
    rdi_hs_connect(&hs, RDI_HS_TCP, &p->side[0].job, &p->side[0].params.env, hello, len);
    int fd = client(p);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (hs.state == RDI_HS_RUNNING && pair_now() < end) {
        uint8_t bytes[RDI_HS_BUFFER];
        pair_turn(p);
        if (hs.out_off < hs.out_len) {
            ssize_t k = send(fd, hs.out + hs.out_off, hs.out_len - hs.out_off, MSG_NOSIGNAL);
            rdi_hs_sent(&hs, k > 0 ? (size_t)k : 0);
            continue;
        }
        ssize_t k = recv(fd, bytes, sizeof bytes, 0);
        size_t used;
        if (k > 0) {
            rdi_hs_input(&hs, bytes, (size_t)k, &used);
            assert_int_equal(used, k);
        }
    }
    assert_int_equal(hs.state, RDI_HS_DONE);
    assert_true(rdi_tcp_reply_read(reply, hs.peer, hs.peer_len));
    return fd;
}

static const struct rdi_tcp_hello good_hello = {.id = {.comm = 5, .from = 0, .to = 1},
                                                .session = 77,
                                                .attempt = 1,
                                                .paths = 1,
                                                .slots = 4,
                                                .max_msg = 4096,
                                                .host = "hand"};

static rondo_status say(struct pair *p, const struct rdi_tcp_hello *h, struct rdi_tcp_reply *r) {
    uint8_t bytes[RDI_HS_PAYLOAD];
    int fd = shake_hands(p, bytes, rdi_tcp_hello_write(h, bytes), r);
    close(fd);
    return r->status;
}

static void test_wrong_hellos(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",path_grace=60s", LO ",path_grace=60s");
    struct rdi_tcp_reply r;
    close(shake_hands(&p, "?", 1, &r));
    assert_int_equal(r.status, RONDO_ERR_VERSION);

    struct rdi_tcp_hello h = good_hello;
    h.id.to = 7;
    assert_int_equal(say(&p, &h, &r), RONDO_ERR_INVALID);
    assert_non_null(strstr(r.text, "this is rank 1 of 2 on host hostb, not rank 7"));
    h = good_hello;
    h.id.from = 2;
    assert_int_equal(say(&p, &h, &r), RONDO_ERR_INVALID);
    h = good_hello;
    h.flags = RDI_TCP_RESUME; // of a link that does not exist
    assert_int_equal(say(&p, &h, &r), RONDO_ERR_PEER);
    h.flags = RDI_TCP_PROBE;
    assert_int_equal(say(&p, &h, &r), RONDO_ERR_PEER);
    assert_int_equal(p.side[1].accepts, 0);

    // An older attempt than the one that is up.
    h = good_hello;
    h.epoch = 3;
    h.attempt = 4;
    uint8_t bytes[RDI_HS_PAYLOAD];
    int fd = shake_hands(&p, bytes, rdi_tcp_hello_write(&h, bytes), &r);
    assert_int_equal(r.status, RONDO_OK);
    assert_true(r.slots == 4 && r.max_msg == 4096 && r.arrived == 0);
    pair_drive_until(&p, p.side[1].accepted->state == RDI_LINK_UP);
    assert_int_equal(p.side[1].accepted->epoch, 3);
    assert_int_equal(say(&p, &h, &r), RONDO_ERR_USAGE);
    h.attempt = 3;
    assert_int_equal(say(&p, &h, &r), RONDO_ERR_USAGE);
    h.epoch = 2;
    h.attempt = 99;
    assert_int_equal(say(&p, &h, &r), RONDO_ERR_USAGE);
    assert_int_equal(p.side[1].accepted->state, RDI_LINK_UP);
    assert_int_equal(p.side[1].net->strangers, 0); // all of them have the key
    close(fd);
    pair_close(&p);
}

// Welcomes a sender by hand with this reply.
static void welcome(struct pair *p, int fd, const void *reply, size_t len) {
    struct rdi_hs hs;
    rdi_hs_accept(&hs, RDI_HS_TCP, &p->side[1].job, &p->side[1].params.env);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (hs.state != RDI_HS_DONE) {
        uint8_t bytes[RDI_HS_BUFFER];
        size_t used;
        p->side[0].net->ops->progress(p->side[0].net, false);
        ssize_t k = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (k > 0) {
            rdi_hs_input(&hs, bytes, (size_t)k, &used);
        }
        rdi_hs_reply(&hs, reply, len);
        k = send(fd, hs.out + hs.out_off, hs.out_len - hs.out_off, MSG_NOSIGNAL);
        rdi_hs_sent(&hs, k > 0 ? (size_t)k : 0);
        assert_int_not_equal(hs.state, RDI_HS_FAILED);
        assert_true(pair_now() < end);
    }
}

// An acceptor with the key whose numbers are wrong.
static void test_wrong_replies(void **state) {
    (void)state;
    const struct rdi_tcp_reply wrong[] = {
        {.slots = 9, .max_msg = 4096}, // more than was offered
        {.slots = 8, .max_msg = 1 << 20},
        {.slots = 0, .max_msg = 0},
        {.slots = 8, .max_msg = 4096, .arrived = 1}, // nothing was sent yet
    };
    for (size_t i = 0; i <= sizeof wrong / sizeof wrong[0]; i++) {
        struct pair p;
        uint8_t bytes[RDI_HS_PAYLOAD] = "?";
        size_t len = 1;
        bool readable = i < sizeof wrong / sizeof wrong[0];
        pair_open(&p, LO, LO);
        p.link = pair_begin_link(&p, 1);
        int fd = accept_in_place(&p);
        if (readable) {
            len = rdi_tcp_reply_write(&wrong[i], bytes);
        }
        welcome(&p, fd, bytes, len);
        uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
        while (p.link->state == RDI_LINK_CONNECTING && pair_now() < end) {
            p.side[0].net->ops->progress(p.side[0].net, false);
        }
        assert_int_equal(p.link->state, RDI_LINK_FAILED);
        assert_int_equal(p.link->status, readable ? RONDO_ERR_INTERNAL : RONDO_ERR_VERSION);
        assert_non_null(strstr(p.link->why, "rank 1 on host hostb"));
        close(fd);
        pair_close(&p);
    }
}

// The peer's numbers after a reset must fit what was sent and acknowledged before.
static void test_wrong_resume(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    one_message(&p);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    int fd = accept_in_place(&p);
    struct rdi_tcp_reply r = {.slots = p.link->slots, .max_msg = p.link->max_msg, .arrived = 2};
    uint8_t bytes[RDI_HS_PAYLOAD];
    welcome(&p, fd, bytes, rdi_tcp_reply_write(&r, bytes));
    pair_drive_until(&p, p.link->state != RDI_LINK_CONNECTING);
    assert_int_equal(p.link->state, RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_INTERNAL);
    assert_non_null(strstr(p.link->why, "do not fit"));
    close(fd);
    pair_close(&p);
}

// Connections that break while hands are shaken are tried again.
static void test_handshake_interrupted(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2", LO);
    p.link = pair_begin_link(&p, 1);
    for (int i = 0; i < 3; i++) {
        close(accept_in_place(&p));
    }
    pair_drive_until(&p, pair_link_up(&p));
    one_message(&p);
    assert_int_equal(p.side[1].accepts, 1);
    pair_close(&p);
}

// One of two paths comes, the other never does.
static void test_half_a_link(void **state) {
    (void)state;
    struct pair p;
    memset(&p, 0, sizeof p);
    fake_now = 1000 * RDI_MS;
    side_prepare(&p.side[0], 0, LO);
    side_prepare(&p.side[1], 1, LO);
    p.side[1].params.env.now = read_fake_now;
    side_open(&p.side[1]);
    struct rdi_tcp_hello h = good_hello;
    h.paths = 2;
    for (int round = 0; round < 2; round++) {
        struct rdi_hs hs;
        uint8_t bytes[RDI_HS_PAYLOAD];
        size_t used;
        h.session++; // a new life of the sender replaces what was left of the last
        rdi_hs_connect(&hs, RDI_HS_TCP, &p.side[0].job, &p.side[0].params.env, bytes,
                       rdi_tcp_hello_write(&h, bytes));
        int fd = client(&p);
        pair_turn(&p);
        assert_int_equal(send(fd, hs.out, hs.out_len, MSG_NOSIGNAL), hs.out_len);
        rdi_hs_sent(&hs, hs.out_len);
        ssize_t k = -1;
        pair_drive_until(&p, (k = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0);
        rdi_hs_input(&hs, bytes, (size_t)k, &used);
        assert_int_equal(send(fd, hs.out, hs.out_len, MSG_NOSIGNAL), hs.out_len);
        struct rdi_tcp_net *n = tcp(p.side[1].net);
        pair_drive_until(&p, n->links != NULL && n->half_open == 0);
        assert_null(n->links->next);
        if (round == 1) {
            fake_now += 10001 * RDI_MS;
            pair_drive_until(&p, n->links == NULL);
            assert_true(is_closed(fd));
        }
        close(fd);
    }
    assert_int_equal(p.side[1].accepts, 0);
    assert_int_equal(p.side[1].net->strangers, 0);
    pair_close(&p);
}

// A link that the sender opens anew replaces one that it has forgotten.
static void test_forgotten_link(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_link *old = p.side[1].accepted;
    struct rdi_tcp_hello h = good_hello;
    struct rdi_tcp_reply r;
    h.id = p.link->id;
    uint8_t bytes[RDI_HS_PAYLOAD];
    int fd = shake_hands(&p, bytes, rdi_tcp_hello_write(&h, bytes), &r);
    assert_int_equal(r.status, RONDO_OK);
    assert_int_equal(p.side[1].accepts, 2);
    assert_ptr_not_equal(p.side[1].accepted, old);
    assert_int_equal(old->state, RDI_LINK_FAILED);
    assert_int_equal(old->status, RONDO_ERR_PEER);
    assert_non_null(strstr(old->why, "anew"));
    close(fd);
    old->ops->close_link(old, false);
    pair_close(&p);
}

// Frames that a peer with the key should not send.
static void test_protocol_violations(void **state) {
    (void)state;
    struct rdi_tcp_frame wrong[] = {
        {.type = RDI_TCP_DATA, .seq = 1},                // out of order
        {.type = RDI_TCP_DATA, .len = 5000},             // too long
        {.type = RDI_TCP_DATA, .epoch = 1},              // another epoch
        {.type = RDI_TCP_BYE, .seq = 1},                 // before the last message
        {.type = RDI_TCP_ACK},                           // wrong direction
        {.type = RDI_TCP_CTRL, .len = RDI_CTRL_MAX + 1}, // too long
        {.type = (enum rdi_tcp_frame_type)9},            // unknown
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct pair p;
        struct rdi_tcp_reply r;
        pair_open(&p, LO, LO);
        uint8_t bytes[RDI_HS_PAYLOAD];
        int fd = shake_hands(&p, bytes, rdi_tcp_hello_write(&good_hello, bytes), &r);
        uint8_t frame[RDI_TCP_HEADER];
        rdi_tcp_frame_write(&wrong[i], frame);
        assert_int_equal(send(fd, frame, sizeof frame, MSG_NOSIGNAL), sizeof frame);
        pair_drive_until(&p, p.side[1].accepted->state == RDI_LINK_FAILED);
        assert_int_equal(p.side[1].accepted->status, RONDO_ERR_INTERNAL);
        assert_non_null(strstr(p.side[1].accepted->why, "rank 0 on host hand (127.0.0.1:"));
        assert_non_null(strstr(p.side[1].accepted->why, "broke the protocol"));
        assert_int_equal(p.side[1].lands, 0);
        close(fd);
        pair_close(&p);
    }
}

// More messages than there is credit for.
static void test_message_without_credit(void **state) {
    (void)state;
    struct pair p;
    struct rdi_tcp_reply r;
    pair_open(&p, LO, LO);
    uint8_t bytes[RDI_HS_PAYLOAD], frame[RDI_TCP_HEADER];
    int fd = shake_hands(&p, bytes, rdi_tcp_hello_write(&good_hello, bytes), &r);
    for (uint64_t seq = 0; seq <= r.slots; seq++) {
        struct rdi_tcp_frame f = {.type = RDI_TCP_DATA, .seq = seq};
        rdi_tcp_frame_write(&f, frame);
        assert_int_equal(send(fd, frame, sizeof frame, MSG_NOSIGNAL), sizeof frame);
    }
    pair_drive_until(&p, p.side[1].accepted->state == RDI_LINK_FAILED);
    assert_int_equal(p.side[1].accepted->arrived, r.slots);
    assert_non_null(strstr(p.side[1].accepted->why, "without credit"));
    close(fd);
    pair_close(&p);
}

// Streams of frames, some with a wrong byte, in pieces of any size: what is right arrives, what is wrong ends
// the link, and nothing else happens.
static void test_altered_streams(void **state) {
    (void)state;
    static uint8_t stream[4 * (RDI_TCP_HEAD_MAX + 4096) + 4 * (RDI_TCP_HEADER + 64)];
    for (uint32_t seed = 0; seed < 120; seed++) {
        struct pair p;
        struct rdi_tcp_reply r;
        uint32_t x = seed * 2654435761u + 1;
        size_t len = 0;
        uint8_t bytes[RDI_HS_PAYLOAD];
        pair_open(&p, LO, LO);
        int fd = shake_hands(&p, bytes, rdi_tcp_hello_write(&good_hello, bytes), &r);
        for (uint64_t seq = 0; seq < 4; seq++) {
            x = x * 1664525u + 1013904223u;
            struct rdi_tcp_frame f = {.type = RDI_TCP_DATA, .seq = seq, .len = x >> 8 & 0xfff};
            f.flags = x >> 30 ? RDI_TCP_HAS_SIG : RDI_TCP_WANTS_ACK;
            rdi_tcp_frame_write(&f, stream + len);
            len += RDI_TCP_HEADER + (x >> 30 ? (size_t)RDI_SIG_BYTES : 0);
            pair_fill(stream + len, seq, f.len);
            len += f.len;
            f = (struct rdi_tcp_frame){.type = RDI_TCP_CTRL, .len = x >> 24 & 63, .aux = 1};
            rdi_tcp_frame_write(&f, stream + len);
            len += RDI_TCP_HEADER + f.len;
        }
        bool altered = seed % 3 != 0;
        if (altered) {
            stream[(x >> 4) % len] ^= (uint8_t)(1u << (x >> 29));
        }
        for (size_t at = 0; at < len;) {
            x = x * 1664525u + 1013904223u;
            size_t n = x >> 31 ? 1 + (x >> 8) % 60 : 1 + (x >> 8) % 5000;
            n = n < len - at ? n : len - at;
            ssize_t k = send(fd, stream + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
            at += k > 0 ? (size_t)k : 0;
            pair_turn(&p);
            if (p.side[1].accepted->state != RDI_LINK_UP) {
                break;
            }
        }
        shutdown(fd, SHUT_WR);
        struct rdi_link *in = p.side[1].accepted;
        pair_drive_until(&p, in->state != RDI_LINK_UP);
        assert_true(in->arrived <= 4 && p.side[1].ctrls <= 4);
        if (!altered) {
            assert_int_equal(in->state, RDI_LINK_LOST); // it ended without good-bye
            assert_int_equal(in->arrived, 4);
            assert_int_equal(p.side[1].ctrls, 4);
            for (uint64_t seq = 0; seq < 4; seq++) {
                struct rdi_msg m;
                in->ops->peek(in, seq, &m);
                assert_true(pair_matches(m.data, seq, m.len));
            }
        }
        close(fd);
        pair_close(&p);
    }
}

// An acknowledgement of what was never sent must not free anything.
static void test_wrong_ack(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_tcp_frame f = {.type = RDI_TCP_ACK, .seq = 1, .tag = 1};
    uint8_t frame[RDI_TCP_HEADER];
    rdi_tcp_frame_write(&f, frame);
    int fd = ((struct rdi_tcp_link *)p.side[1].accepted)->paths[0]->fd;
    assert_int_equal(send(fd, frame, sizeof frame, MSG_NOSIGNAL), sizeof frame);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->sent, 0);
    assert_non_null(strstr(p.link->why, "was not sent"));
    pair_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_strangers_are_logged_seldom),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_other_key),
        cmocka_unit_test(test_other_version_accepts),
        cmocka_unit_test(test_other_version_connects),
        cmocka_unit_test(test_wrong_hellos),
        cmocka_unit_test(test_wrong_replies),
        cmocka_unit_test(test_wrong_resume),
        cmocka_unit_test(test_handshake_interrupted),
        cmocka_unit_test(test_half_a_link),
        cmocka_unit_test(test_forgotten_link),
        cmocka_unit_test(test_protocol_violations),
        cmocka_unit_test(test_message_without_credit),
        cmocka_unit_test(test_altered_streams),
        cmocka_unit_test(test_wrong_ack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
