// SPDX-License-Identifier: MIT
// Option encrypt: what an eavesdropper finds on the wire, what somebody in the middle of a running link can do, and
// what two ends that do not agree say.
#include "tests/unit/tcp_middle.h"

#define LO "interface=127.0.0.1/8,family=ipv4"
#define SEALED LO ",encrypt=yes"

// A pair with somebody in between.
struct tapped {
    struct pair p;
    struct middle m;
};

static void tapped_open(struct tapped *t, const char *options0, const char *options1) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    pair_open(&t->p, options0, options1);
    middle_open(&t->m, t->p.side[1].net, blob, &len);
    const struct rdi_link_id id = {.comm = 42, .from = 0, .to = 1};
    struct rdi_net *from = t->p.side[0].net;
    assert_int_equal(from->ops->connect(from, &id, blob, len, &t->p.link), RONDO_OK);
}

static void tapped_close(struct tapped *t) {
    pair_close(&t->p);
    middle_close(&t->m);
}

// For conditions: the middle has its turn too.
static bool tapped_turn(struct tapped *t) {
    middle_turn(&t->m);
    return true;
}

static void tapped_connect(struct tapped *t) {
    pair_drive_until(&t->p, tapped_turn(t) && pair_link_up(&t->p));
}

static uint64_t damaged(const struct pair *p) {
    return p->side[0].net->damaged + p->side[1].net->damaged;
}

// ---- Messages that go and are looked at ----------------------------------------------------------

struct stream {
    struct tapped *t;
    uint64_t count, checked;
    uint8_t *data;
    unsigned resets;
};

static uint32_t size_of(uint64_t seq, uint32_t max) { return (uint32_t)(seq * 7919 % (max + 1)); }

static void stream_send(struct stream *s) {
    struct rdi_link *l = s->t->p.link;
    if (l->state == RDI_LINK_LOST) {
        assert_int_equal(l->ops->reset(l, l->epoch + 1), RONDO_OK);
        s->resets++;
        return;
    }
    while (l->state == RDI_LINK_UP && l->posted < s->count && l->posted < l->credit) {
        uint64_t seq = l->posted;
        uint8_t *at = s->data + (seq % l->slots) * l->max_msg;
        struct rdi_put put = {.data = at, .len = size_of(seq, l->max_msg), .tag = seq};
        pair_fill(at, seq, put.len);
        if (l->ops->put(l, &put) != RONDO_OK) {
            return;
        }
    }
}

static void stream_receive(struct stream *s) {
    struct rdi_link *in = s->t->p.side[1].accepted;
    while (s->checked < in->arrived) {
        struct rdi_msg m;
        in->ops->peek(in, s->checked, &m);
        assert_true(m.tag == s->checked);
        assert_int_equal(m.len, size_of(s->checked, in->max_msg));
        assert_true(pair_matches(m.data, s->checked, m.len));
        s->checked++;
        in->ops->release(in, s->checked);
    }
}

static bool stream_step(struct stream *s) {
    middle_turn(&s->t->m);
    if (s->t->p.link->state == RDI_LINK_FAILED) {
        fail_msg("%s", s->t->p.link->why);
    }
    stream_send(s);
    stream_receive(s);
    return s->checked == s->count && s->t->p.link->sent == s->count;
}

static unsigned run_stream(struct tapped *t, uint64_t count) {
    struct stream s = {.t = t, .count = count};
    s.data = malloc((size_t)t->p.link->slots * t->p.link->max_msg);
    assert_non_null(s.data);
    pair_drive_until(&t->p, stream_step(&s));
    free(s.data);
    return s.resets;
}

// ---- Eavesdropping -------------------------------------------------------------------------------

static const char secret[] = "weights that nobody else shall see: 0123456789";
static const char word[] = "a control message's words: 9876543210";
static const uint8_t frame_magic[8] = {0x52, 0x6e, 1}; // a DATA frame without flags, epoch 0

// Whether each of them passes the middle in the clear.
static void listen_in(const char *options, bool clear) {
    struct tapped t;
    static uint8_t payload[100000];
    tapped_open(&t, options, options);
    tapped_connect(&t);
    for (size_t i = 0; i + sizeof secret <= sizeof payload; i += sizeof secret) {
        memcpy(payload + i, secret, sizeof secret);
    }
    struct rdi_link *l = t.p.link, *in = t.p.side[1].accepted;
    const struct rdi_put small = {.data = payload, .len = sizeof secret, .tag = 1},
                         big = {.data = payload, .len = sizeof payload, .tag = 2};
    assert_int_equal(l->ops->put(l, &small), RONDO_OK);
    assert_int_equal(l->ops->put(l, &big), RONDO_OK);
    assert_int_equal(in->ops->ctrl(in, 5, word, sizeof word), RONDO_OK);
    pair_drive_until(&t.p, tapped_turn(&t) && in->arrived == 2 && t.p.side[0].ctrls == 1);
    struct rdi_msg m;
    in->ops->peek(in, 1, &m);
    assert_int_equal(m.len, sizeof payload);
    assert_memory_equal(m.data, payload, sizeof payload);
    assert_memory_equal(t.p.side[0].ctrl[0].bytes, word, sizeof word);
    assert_true(t.m.nkept > sizeof payload + sizeof secret);
    assert_int_equal(middle_saw(&t.m, secret, 16), clear);
    assert_int_equal(middle_saw(&t.m, word, 16), clear);
    assert_int_equal(middle_saw(&t.m, frame_magic, sizeof frame_magic), clear);
    assert_int_equal(damaged(&t.p), 0);
    tapped_close(&t);
}

static void test_eavesdropper(void **state) {
    (void)state;
    listen_in(LO, true);
    listen_in(LO ",encrypt=yes", false);
    listen_in(LO ",encrypt=yes,tcp_sockets=3", false);
}

// ---- In the middle of a running link -------------------------------------------------------------

// What somebody does to messages, once every so many bytes. More of them always follow: what is cut off at the very end
// is only missed when a deadline passes.
struct crime {
    int kind; // 0: flips a bit, 1: drops bytes, 2: repeats some, 3: puts some in, 4: swaps two stretches
    unsigned left;
    uint64_t every, next;
    uint32_t random;
};

static uint32_t next_random(struct crime *c, uint32_t below) {
    c->random = c->random * 1664525u + 1013904223u;
    return (c->random >> 8) % below;
}

static bool commit_crime(struct middle *m, struct middle_connection *connection, int from,
                         uint8_t *bytes, size_t *n) {
    struct crime *c = m->arg;
    (void)connection;
    if (from != 0) {
        return true;
    }
    if (c->left == 0 || *n < c->next) {
        c->next -= *n < c->next ? *n : c->next;
        return true;
    }
    size_t at = next_random(c, (uint32_t)*n), some = 1 + next_random(c, 64);
    some = some < *n - at ? some : *n - at;
    switch (c->kind) {
    case 0:
        bytes[at] ^= (uint8_t)(1u << next_random(c, 8));
        break;
    case 1:
        memmove(bytes + at, bytes + at + some, *n - at - some);
        *n -= some;
        break;
    case 2:
    case 3:
        memmove(bytes + at + some, bytes + at, *n - at);
        for (size_t i = 0; i < some && c->kind == 3; i++) {
            bytes[at + i] = (uint8_t)next_random(c, 256);
        }
        *n += some;
        break;
    default:
        for (size_t i = 0; 2 * i < some; i++) {
            uint8_t x = bytes[at + i];
            bytes[at + i] = bytes[at + some - 1 - i];
            bytes[at + some - 1 - i] = x;
        }
        // A stretch that reads the same backwards would be no crime.
        bytes[at] ^= 1;
    }
    c->left--;
    c->next = c->every;
    return true;
}

static void attack(const char *options, int kind, uint32_t seed) {
    struct tapped t;
    struct crime c = {.kind = kind, .left = 4, .every = 200000, .next = 50000, .random = seed};
    tapped_open(&t, options, options);
    t.m.change = commit_crime;
    t.m.arg = &c;
    tapped_connect(&t);
    unsigned resets = run_stream(&t, 120);
    assert_int_equal(c.left, 0);
    // Each was found, on whichever end it came to, and cost a connection.
    assert_true(damaged(&t.p) >= 1 && damaged(&t.p) <= 4);
    assert_true(resets >= 1);
    assert_int_equal(t.p.side[1].accepts, 1); // it was the same link all the time
    assert_int_equal(t.p.side[0].net->strangers + t.p.side[1].net->strangers, 0);
    tapped_close(&t);
}

static void test_attacks(void **state) {
    (void)state;
    for (int kind = 0; kind < 5; kind++) {
        attack(SEALED ",chunk=64K", kind, (uint32_t)(7 + kind));
        attack(SEALED ",chunk=256K,tcp_sockets=2", kind, (uint32_t)(70 + kind));
    }
}

// The way back, where acknowledgements travel.
static bool spoil_answer(struct middle *m, struct middle_connection *c, int from, uint8_t *bytes,
                         size_t *n) {
    struct crime *crime = m->arg;
    (void)c;
    if (from == 1 && crime->left > 0) {
        bytes[*n - 1] ^= 0x80;
        crime->left--;
    }
    return true;
}

static void test_attacked_answers(void **state) {
    (void)state;
    struct tapped t;
    struct crime c = {.left = 3};
    tapped_open(&t, SEALED ",chunk=64K", SEALED);
    t.m.change = spoil_answer;
    t.m.arg = &c;
    tapped_connect(&t);
    unsigned resets = run_stream(&t, 60); // two of a connection are found as one
    assert_true(c.left == 0 && resets >= 1 && resets <= 3);
    assert_int_equal(t.p.side[0].net->damaged, resets);
    assert_int_equal(t.p.side[1].net->damaged, 0);
    tapped_close(&t);
}

static void test_damage_is_logged_seldom(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, SEALED, SEALED);
    struct side *s = &p.side[1];
    unsigned lines = s->lines;
    for (int i = 0; i < 3; i++) {
        rdi_net_damaged(s->net, "a test");
    }
    assert_int_equal(s->lines, lines + 1);
    assert_non_null(strstr(s->last_line, "a test"));
    assert_non_null(strstr(s->last_line, "changed on the way"));
    assert_int_equal(s->net->damaged, 3);
    pair_close(&p);
}

// Nobody can end a link in the peer's name, not even between two records.
static bool end_here(struct middle *m, struct middle_connection *c, int from, uint8_t *bytes,
                     size_t *n) {
    (void)m;
    (void)c;
    (void)from;
    (void)bytes;
    (void)n;
    return false;
}

static void test_cut_between_records(void **state) {
    (void)state;
    struct tapped t;
    tapped_open(&t, SEALED, SEALED);
    tapped_connect(&t);
    run_stream(&t, 10);
    middle_turn(&t.m);
    t.m.change = end_here;
    struct rdi_link *l = t.p.link, *in = t.p.side[1].accepted;
    assert_int_equal(l->ops->ctrl(l, 1, "x", 1), RONDO_OK);
    pair_drive_until(&t.p,
                     tapped_turn(&t) && l->state == RDI_LINK_LOST && in->state == RDI_LINK_LOST);
    assert_int_equal(damaged(&t.p), 0);
    tapped_close(&t);
}

static void test_good_bye(void **state) {
    (void)state;
    static const char *const options[] = {SEALED, SEALED ",tcp_sockets=3"};
    for (int i = 0; i < 4; i++) {
        struct tapped t;
        struct rdi_link **ends[2] = {&t.p.link, &t.p.side[1].accepted};
        tapped_open(&t, options[i % 2], options[i % 2]);
        tapped_connect(&t);
        uint8_t last[3000];
        pair_fill(last, 0, sizeof last);
        const struct rdi_put put = {.data = last, .len = sizeof last};
        assert_int_equal(t.p.link->ops->put(t.p.link, &put), RONDO_OK);
        // The receiver leaves when it has the message, the sender at once.
        struct rdi_link **leaves = ends[i / 2], **stays = ends[1 - i / 2];
        if (i / 2 == 1) {
            pair_drive_until(&t.p, tapped_turn(&t) && t.p.side[1].accepted->arrived == 1);
        }
        (*leaves)->ops->close_link(*leaves, true);
        *leaves = NULL;
        pair_drive_until(&t.p, tapped_turn(&t) && (*stays)->state == RDI_LINK_CLOSED);
        if (i / 2 == 0) {
            struct rdi_msg m;
            assert_int_equal((*stays)->arrived, 1);
            (*stays)->ops->peek(*stays, 0, &m);
            assert_true(m.len == sizeof last && pair_matches(m.data, 0, m.len));
        }
        assert_int_equal(damaged(&t.p), 0);
        tapped_close(&t);
    }
}

// What is sealed and waits for the kernel goes on by itself, though no message waits any more.
static void test_full_kernel(void **state) {
    (void)state;
    struct pair p;
    unsigned waited = 0;
    uint8_t *data = malloc(1u << 20);
    assert_non_null(data);
    pair_open(&p, SEALED ",chunk=1M", SEALED ",chunk=1M");
    pair_connect(&p);
    struct rdi_link *l = p.link, *in = p.side[1].accepted;
    struct rdi_tcp_path *path = ((struct rdi_tcp_link *)l)->paths[0],
                        *there = ((struct rdi_tcp_link *)in)->paths[0];
    const int small = 16 << 10;
    assert_int_equal(setsockopt(path->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    assert_int_equal(setsockopt(there->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    for (uint32_t len = 64u << 10; len < 1u << 20; len += 12345) {
        const struct rdi_put put = {.data = data, .len = len};
        pair_fill(data, l->posted, len);
        assert_int_equal(l->ops->put(l, &put), RONDO_OK);
        waited += path->tx.next == l->posted && path->sealed->out_len > 0;
        pair_drive_until(&p, in->arrived == l->posted);
        struct rdi_msg m;
        in->ops->peek(in, in->arrived - 1, &m);
        assert_true(m.len == len && pair_matches(m.data, in->arrived - 1, len));
        in->ops->release(in, in->arrived);
        pair_drive_until(&p, l->sent == l->posted && l->credit == l->posted + l->slots);
    }
    assert_true(waited > 0);
    pair_close(&p);
    free(data);
}

// ---- Before the link is up -----------------------------------------------------------------------

// All that the connector of a connection said, said again.
static void test_recorded_connection(void **state) {
    (void)state;
    struct tapped t;
    tapped_open(&t, SEALED, SEALED);
    tapped_connect(&t);
    run_stream(&t, 10);
    unsigned accepts = t.p.side[1].accepts;
    int fd = middle_socket(t.m.target, false);
    assert_true(fd >= 0);
    assert_true(send(fd, t.m.kept, t.m.nkept < 60000 ? t.m.nkept : 60000, MSG_DONTWAIT) > 0);
    pair_drive_until(&t.p, tapped_turn(&t) && t.p.side[1].net->strangers == 1);
    close(fd);
    assert_int_equal(t.p.side[1].accepts, accepts);
    assert_int_equal(pair_link_up(&t.p), true);
    tapped_close(&t);
}

static void disagree(const char *options0, const char *options1, const char *value0,
                     const char *value1) {
    struct tapped t;
    char mine[80], theirs[80];
    tapped_open(&t, options0, options1);
    pair_drive_until(&t.p, tapped_turn(&t) && t.p.link->state == RDI_LINK_FAILED);
    assert_int_equal(t.p.link->status, RONDO_ERR_INVALID);
    snprintf(mine, sizeof mine, "rank 0 on host hosta has encrypt=%s", value0);
    snprintf(theirs, sizeof theirs, "rank 1 on host hostb has encrypt=%s", value1);
    assert_non_null(strstr(t.p.link->why, mine));
    assert_non_null(strstr(t.p.link->why, theirs));
    assert_non_null(strstr(t.p.link->why, "give all ranks the same (RONDO_ENCRYPT)"));
    assert_int_equal(t.p.side[1].accepts, 0);
    tapped_close(&t);
}

static void test_ends_disagree(void **state) {
    (void)state;
    disagree(LO, SEALED, "no", "yes");
    disagree(SEALED, LO, "yes", "no");
}

// Whoever changes the wish in the hello changes what the handshake proves.
static void test_downgrade(void **state) {
    (void)state;
    struct rdi_hs c, a;
    struct pair p;
    uint8_t hello[2] = {1, RDI_TCP_SEALED};
    size_t used;
    memset(&p, 0, sizeof p);
    side_prepare(&p.side[0], 0, SEALED);
    rdi_hs_connect(&c, RDI_HS_TCP, &p.side[0].job, &p.side[0].params.env, hello, sizeof hello);
    rdi_hs_accept(&a, RDI_HS_TCP, &p.side[0].job, &p.side[0].params.env);
    uint8_t *said = c.out;
    assert_int_equal(said[c.out_len - 1], RDI_TCP_SEALED);
    said[c.out_len - 1] = 0;
    rdi_hs_input(&a, said, c.out_len, &used);
    rdi_hs_sent(&c, c.out_len);
    rdi_hs_input(&c, a.out, a.out_len, &used);
    assert_int_equal(c.state, RDI_HS_FAILED);
    assert_int_equal(c.error, RONDO_ERR_AUTH);
    rdi_job_clear(&p.side[0].job);
}

static void test_no_key(void **state) {
    (void)state;
    struct side s;
    side_prepare(&s, 0, SEALED);
    rdi_job_clear(&s.job);
    assert_int_equal(rdi_tcp_ops.open(&s.params, &s.net), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "encrypt=yes"));
    assert_non_null(strstr(rondo_last_error(), "auth=none"));
    assert_non_null(strstr(rondo_last_error(), "key_file"));
}

static void test_no_rdma(void **state) {
    (void)state;
    struct side s;
    side_prepare(&s, 0, "transport=verbs,encrypt=yes");
    assert_int_equal(rdi_verbs_ops.open(&s.params, &s.net), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "transport=verbs and encrypt=yes"));
    rdi_job_clear(&s.job);
    side_prepare(&s, 0, "encrypt=yes");
    assert_int_equal(rdi_verbs_ops.open(&s.params, &s.net), RONDO_ERR_UNSUPPORTED);
    assert_non_null(strstr(rondo_last_error(), "encrypt=yes"));
    rdi_job_clear(&s.job);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eavesdropper),
        cmocka_unit_test(test_attacks),
        cmocka_unit_test(test_attacked_answers),
        cmocka_unit_test(test_damage_is_logged_seldom),
        cmocka_unit_test(test_cut_between_records),
        cmocka_unit_test(test_good_bye),
        cmocka_unit_test(test_full_kernel),
        cmocka_unit_test(test_recorded_connection),
        cmocka_unit_test(test_ends_disagree),
        cmocka_unit_test(test_downgrade),
        cmocka_unit_test(test_no_key),
        cmocka_unit_test(test_no_rdma),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
