// SPDX-License-Identifier: MIT
// What TCP peers tell each other, as bytes: every field survives, nothing that is out of bounds is believed.
// And which addresses of two hosts are paired.
#include "transport/tcp/frame.h"
#include "transport/tcp/hello.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- Frames --------------------------------------------------------------------------------------

static const struct rdi_tcp_expect from_sender = {
    .from_sender = true, .epoch = 3, .max_msg = 4096, .next = 10, .limit = 12};
static const struct rdi_tcp_expect from_receiver = {.epoch = 3, .max_msg = 4096, .sendable = 20};

static const struct rdi_tcp_frame data = {.type = RDI_TCP_DATA,
                                          .flags = RDI_TCP_HAS_SIG | RDI_TCP_WANTS_ACK,
                                          .epoch = 3,
                                          .seq = 10,
                                          .len = 4096,
                                          .tag = UINT64_C(0xfedcba9876543210)};
static const struct rdi_tcp_frame ack = {.type = RDI_TCP_ACK, .epoch = 3, .seq = 20, .tag = 18};
static const struct rdi_tcp_frame ctrl = {
    .type = RDI_TCP_CTRL, .epoch = 3, .len = RDI_CTRL_MAX, .aux = 0xdeadbeef};
static const struct rdi_tcp_frame bye = {.type = RDI_TCP_BYE, .epoch = 3, .seq = 10};
// The receiver's good-bye is its last acknowledgement, too.
static const struct rdi_tcp_frame last = {.type = RDI_TCP_BYE, .epoch = 3, .seq = 20, .tag = 20};

static const char *read_back(struct rdi_tcp_frame f, const struct rdi_tcp_expect *expect) {
    uint8_t bytes[RDI_TCP_HEADER];
    struct rdi_tcp_frame out;
    memset(&out, 0, sizeof out);
    rdi_tcp_frame_write(&f, bytes);
    const char *wrong = rdi_tcp_frame_read(&out, bytes, expect);
    if (wrong == NULL) {
        assert_int_equal(out.type, f.type);
        assert_int_equal(out.flags, f.flags);
        assert_int_equal(out.epoch, f.epoch);
        assert_int_equal(out.len, f.len);
        assert_int_equal(out.aux, f.aux);
        assert_true(out.seq == f.seq && out.tag == f.tag);
    }
    return wrong;
}

static void test_frames_survive(void **state) {
    (void)state;
    assert_null(read_back(data, &from_sender));
    assert_null(read_back(ctrl, &from_sender));
    assert_null(read_back(bye, &from_sender));
    assert_null(read_back(ack, &from_receiver));
    assert_null(read_back(ctrl, &from_receiver));
    assert_null(read_back(last, &from_receiver));
}

static void test_frame_layout(void **state) {
    (void)state;
    // The format is a promise to other builds: these bytes may never change within one version.
    static const uint8_t wanted[RDI_TCP_HEADER] = {
        0x52, 0x6e, 1, 3, 3, 0, 0, 0, 10,   0,    0,    0,    0,    0,    0,    0,
        0,    0x10, 0, 0, 0, 0, 0, 0, 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe};
    uint8_t bytes[RDI_TCP_HEADER];
    rdi_tcp_frame_write(&data, bytes);
    assert_memory_equal(bytes, wanted, sizeof wanted);
}

#define REJECTED(frame, expect, change)         \
    do {                                        \
        struct rdi_tcp_frame f = frame;         \
        change;                                 \
        assert_non_null(read_back(f, &expect)); \
    } while (0)

static void test_frames_out_of_bounds(void **state) {
    (void)state;
    REJECTED(data, from_sender, f.epoch = 2);
    REJECTED(data, from_sender, f.epoch = 4);
    REJECTED(data, from_sender, f.len = 4097);
    REJECTED(data, from_sender, f.len = UINT32_MAX);
    REJECTED(data, from_sender, f.seq = 9);
    REJECTED(data, from_sender, f.seq = 11);
    REJECTED(data, from_sender, f.seq = UINT64_MAX);
    REJECTED(data, from_sender, f.flags = 4);
    REJECTED(data, from_sender, f.aux = 1);
    REJECTED(data, from_receiver, f.seq = 0);
    struct rdi_tcp_expect full = from_sender;
    full.limit = 10;
    REJECTED(data, full, (void)0);

    REJECTED(ack, from_receiver, f.seq = 21);
    REJECTED(ack, from_receiver, f.seq = UINT64_MAX);
    REJECTED(ack, from_receiver, f.tag = 21);
    REJECTED(ack, from_receiver, f.len = 1);
    REJECTED(ack, from_receiver, f.flags = 1);
    REJECTED(ack, from_sender, f.seq = 0);

    REJECTED(ctrl, from_sender, f.len = RDI_CTRL_MAX + 1);
    REJECTED(ctrl, from_sender, f.len = UINT32_MAX);
    REJECTED(ctrl, from_sender, f.seq = 1);
    REJECTED(bye, from_sender, f.len = 1);
    REJECTED(bye, from_sender, f.epoch = 2);
    REJECTED(bye, from_sender, f.tag = 1);
    REJECTED(bye, from_sender, f.seq = 11);
    REJECTED(last, from_receiver, f.seq = 21);
    REJECTED(last, from_receiver, f.tag = 21);
    REJECTED(last, from_receiver, f.aux = 1);
    for (unsigned type = 0; type < 256; type++) {
        if (type < RDI_TCP_DATA || type > RDI_TCP_BYE) {
            REJECTED(bye, from_sender, f.type = (enum rdi_tcp_frame_type)type);
        }
    }
    uint8_t bytes[RDI_TCP_HEADER] = "GET / HTTP/1.1\r\nHost: localhost";
    struct rdi_tcp_frame f;
    assert_non_null(rdi_tcp_frame_read(&f, bytes, &from_sender));
}

// ---- Hello and reply -----------------------------------------------------------------------------

static const struct rdi_tcp_hello hello = {.flags = RDI_TCP_RESUME,
                                           .id = {UINT64_C(0x1122334455667788), 1, 2, 1},
                                           .session = UINT64_C(0x8877665544332211),
                                           .epoch = 5,
                                           .attempt = 6,
                                           .path = 3,
                                           .paths = 4,
                                           .slots = 8,
                                           .max_msg = 65536,
                                           .port = 4711,
                                           .host = "host-of-rank-one"};

static bool hello_back(struct rdi_tcp_hello h, struct rdi_tcp_hello *out) {
    uint8_t bytes[RDI_HS_PAYLOAD];
    size_t len = rdi_tcp_hello_write(&h, bytes);
    assert_true(len > 0);
    uint8_t *exact = malloc(len); // so that a sanitizer sees a read behind the end
    assert_non_null(exact);
    memcpy(exact, bytes, len);
    bool ok = rdi_tcp_hello_read(out, exact, len);
    for (size_t shorter = 0; shorter < len; shorter++) {
        struct rdi_tcp_hello ignored;
        assert_false(rdi_tcp_hello_read(&ignored, exact, shorter));
    }
    free(exact);
    return ok;
}

static void test_hello(void **state) {
    (void)state;
    struct rdi_tcp_hello out;
    memset(&out, 0, sizeof out);
    assert_true(hello_back(hello, &out));
    assert_int_equal(out.flags, hello.flags);
    assert_true(out.id.comm == hello.id.comm && out.id.from == 1 && out.id.to == 2 &&
                out.id.channel == 1);
    assert_true(out.session == hello.session && out.epoch == 5 && out.attempt == 6);
    assert_true(out.path == 3 && out.paths == 4 && out.slots == 8 && out.max_msg == 65536);
    assert_int_equal(out.port, 4711);
    assert_string_equal(out.host, hello.host);
}

#define HELLO_REJECTED(change)               \
    do {                                     \
        struct rdi_tcp_hello h = hello, out; \
        change;                              \
        assert_false(hello_back(h, &out));   \
    } while (0)

static void test_hello_out_of_bounds(void **state) {
    (void)state;
    HELLO_REJECTED(h.paths = 0);
    HELLO_REJECTED(h.path = 4);
    HELLO_REJECTED(h.paths = RDI_TCP_PATHS + 1);
    HELLO_REJECTED(h.slots = 0);
    HELLO_REJECTED(h.slots = RDI_TCP_SLOTS_MAX + 1);
    HELLO_REJECTED(h.max_msg = 0);
    HELLO_REJECTED(h.max_msg = 65);
    HELLO_REJECTED(h.max_msg = RDI_TCP_MSG_MAX + 64);
    HELLO_REJECTED(h.flags = 8);
}

static void test_reply(void **state) {
    (void)state;
    struct rdi_tcp_reply r = {
        .status = RONDO_OK, .slots = 4, .max_msg = 128, .arrived = 7, .released = 6};
    struct rdi_tcp_reply out;
    uint8_t bytes[RDI_HS_PAYLOAD];
    size_t len = rdi_tcp_reply_write(&r, bytes);
    assert_true(rdi_tcp_reply_read(&out, bytes, len));
    assert_true(out.status == RONDO_OK && out.slots == 4 && out.max_msg == 128 &&
                out.arrived == 7 && out.released == 6);
    assert_false(rdi_tcp_reply_read(&out, bytes, len - 1));
    r.released = 8;
    assert_false(rdi_tcp_reply_read(&out, bytes, rdi_tcp_reply_write(&r, bytes)));

    // The longest text, and one that would like to write to the terminal.
    struct rdi_tcp_reply no = {.status = RONDO_ERR_MISMATCH};
    memset(no.text, 'x', sizeof no.text - 1);
    memcpy(no.text, "\033[2J", 4);
    assert_true(rdi_tcp_reply_read(&out, bytes, rdi_tcp_reply_write(&no, bytes)));
    assert_int_equal(out.status, RONDO_ERR_MISMATCH);
    assert_int_equal(strlen(out.text), sizeof no.text - 1);
    assert_memory_equal(out.text, "?[2Jxxx", 7);

    // A status that no build knows.
    no.status = (rondo_status)-77;
    assert_false(rdi_tcp_reply_read(&out, bytes, rdi_tcp_reply_write(&no, bytes)));
    no.status = RONDO_RETRY_STEP;
    assert_false(rdi_tcp_reply_read(&out, bytes, rdi_tcp_reply_write(&no, bytes)));
}

// ---- Addresses -----------------------------------------------------------------------------------

static void add(struct rdi_tcp_blob *b, unsigned device, const char *ip, unsigned prefix) {
    struct rdi_tcp_addr *a = &b->addr[b->count];
    memset(a, 0, sizeof *a);
    a->family = strchr(ip, ':') != NULL ? 6 : 4;
    assert_int_equal(inet_pton(a->family == 4 ? AF_INET : AF_INET6, ip, a->ip), 1);
    a->device = (uint8_t)device;
    a->prefix = (uint8_t)prefix;
    a->port = (uint16_t)(1000 + b->count);
    a->loopback = strcmp(ip, "127.0.0.1") == 0 || strcmp(ip, "::1") == 0;
    b->count++;
}

static struct rdi_tcp_blob host(char id) {
    struct rdi_tcp_blob b = {0};
    memset(b.host_id, id, sizeof b.host_id);
    snprintf(b.host, sizeof b.host, "host%c", id);
    return b;
}

static void test_blob(void **state) {
    (void)state;
    struct rdi_tcp_blob b = host('a'), out;
    for (unsigned i = 0; i < RDI_TCP_ADDRS; i++) {
        add(&b, i, i % 2 ? "fd00::1234" : "10.1.2.3", 16);
        b.addr[i].scope = i;
        b.addr[i].preferred = i % 3 == 0;
        b.addr[i].loopback = i % 4 == 1;
    }
    memset(b.host, 'h', sizeof b.host - 1);
    uint8_t bytes[RDI_BLOB_MAX];
    size_t len = rdi_tcp_blob_write(&b, bytes);
    assert_true(len > 0 && len <= RDI_BLOB_MAX);
    assert_true(rdi_tcp_blob_read(&out, bytes, len));
    assert_int_equal(out.count, b.count);
    assert_string_equal(out.host, b.host);
    assert_memory_equal(out.host_id, b.host_id, sizeof b.host_id);
    assert_memory_equal(out.addr, b.addr, sizeof b.addr);
    for (size_t shorter = 0; shorter < len; shorter++) {
        assert_false(rdi_tcp_blob_read(&out, bytes, shorter));
    }
}

static void test_blob_out_of_bounds(void **state) {
    (void)state;
    struct rdi_tcp_blob b = host('a'), out;
    uint8_t bytes[RDI_BLOB_MAX];
    add(&b, 0, "10.1.2.3", 33);
    assert_false(rdi_tcp_blob_read(&out, bytes, rdi_tcp_blob_write(&b, bytes)));
    b.addr[0].prefix = 32;
    assert_true(rdi_tcp_blob_read(&out, bytes, rdi_tcp_blob_write(&b, bytes)));
    b.addr[0].port = 0;
    assert_false(rdi_tcp_blob_read(&out, bytes, rdi_tcp_blob_write(&b, bytes)));
    b.addr[0].port = 1;
    size_t len = rdi_tcp_blob_write(&b, bytes);
    size_t count_at = 1 + 16 + 1 + strlen(b.host);
    assert_int_equal(bytes[count_at], 1);
    bytes[count_at] = RDI_TCP_ADDRS + 1;
    assert_false(rdi_tcp_blob_read(&out, bytes, len));
    bytes[count_at] = 1;
    bytes[count_at + 4] = 4; // flags
    assert_false(rdi_tcp_blob_read(&out, bytes, len));
    assert_int_equal(rdi_tcp_blob_fail(bytes, len, "rank 3"), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "rank 3"));
    assert_non_null(strstr(rondo_last_error(), "malformed"));
    bytes[count_at + 4] = 0;
    assert_true(rdi_tcp_blob_read(&out, bytes, len));
    bytes[count_at + 1] = 5; // family
    assert_false(rdi_tcp_blob_read(&out, bytes, len));
    bytes[count_at + 1] = 4;
    bytes[0] = 1; // version
    assert_false(rdi_tcp_blob_read(&out, bytes, len));
    assert_int_equal(rdi_tcp_blob_fail(bytes, len, "rank 3"), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "one version on all hosts"));
    assert_false(rdi_tcp_blob_read(&out, NULL, 0));
}

// ---- Routes --------------------------------------------------------------------------------------

static void check_route(const struct rdi_tcp_route *r, const struct rdi_tcp_blob *a, unsigned i,
                        const struct rdi_tcp_blob *b, unsigned j) {
    assert_memory_equal(&r->local, &a->addr[i], sizeof r->local);
    assert_memory_equal(&r->remote, &b->addr[j], sizeof r->remote);
}

static void test_routes_on_one_host(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('a');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    add(&a, 0, "10.0.0.1", 24);
    add(&a, 1, "127.0.0.1", 8);
    add(&b, 0, "10.0.0.1", 24);
    add(&b, 1, "127.0.0.1", 8);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 1);
    check_route(&r[0], &a, 1, &b, 1);
    b.count = 1; // the peer was told to use one interface
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 1);
    check_route(&r[0], &a, 0, &b, 0);
    b.count = 0;
    add(&b, 0, "::1", 128);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 0);
}

static void test_routes_between_hosts(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('b');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    add(&a, 2, "127.0.0.1", 8);
    add(&b, 2, "127.0.0.1", 8);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 0); // loopback leads nowhere
    // The same bridge everywhere leads nowhere either.
    add(&a, 3, "192.168.122.1", 24);
    add(&b, 3, "192.168.122.1", 24);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 0);
    // Two rails in another order, each with two families: one connection per rail.
    add(&a, 0, "10.0.0.1", 24);
    add(&a, 0, "fd00:0::1", 64);
    add(&a, 1, "10.0.1.1", 24);
    add(&b, 1, "10.0.1.2", 24);
    add(&b, 0, "fd00:0::2", 64);
    add(&b, 0, "10.0.0.2", 24);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 2);
    check_route(&r[0], &a, 2, &b, 4);
    check_route(&r[1], &a, 4, &b, 2);
}

static void test_routes_through_a_router(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('b');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    add(&a, 0, "fe80::1", 64);
    add(&b, 0, "10.9.0.2", 20);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 0);
    add(&a, 1, "10.8.0.1", 20);
    add(&a, 2, "10.7.0.1", 20);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 1);
    check_route(&r[0], &a, 1, &b, 0);
    // A link-local address serves on its own link only, which both seem to share here.
    add(&b, 1, "fe80::2", 64);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 1);
    check_route(&r[0], &a, 0, &b, 1);
}

static void test_odd_prefixes(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('b');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    add(&a, 0, "10.0.0.0", 31);
    add(&a, 1, "10.0.0.130", 25);
    add(&b, 0, "10.0.0.129", 25);
    add(&b, 1, "10.0.0.1", 31);
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 2);
    check_route(&r[0], &a, 0, &b, 1);
    check_route(&r[1], &a, 1, &b, 0);
}

// ---- Routes over decided NICs --------------------------------------------------------------------

// How many routes are worth as much as the first one, and can be used at once.
static unsigned at_once(const struct rdi_tcp_route *r, unsigned n) {
    unsigned same = 0;
    while (same < n && r[same].worth == r[0].worth) {
        same++;
    }
    return same;
}

// Eight NICs in one network: ranks with one each keep to these, and all others stand in for them.
static void test_one_nic_each(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('b');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    for (unsigned i = 0; i < 8; i++) {
        char ip[32];
        snprintf(ip, sizeof ip, "10.0.%u.1", i);
        add(&a, i, ip, 16);
        snprintf(ip, sizeof ip, "10.0.%u.2", i);
        add(&b, i, ip, 16);
    }
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 8);
    assert_int_equal(at_once(r, 8), 8);
    for (unsigned mine = 0; mine < 8; mine++) {
        unsigned theirs = (mine * 5 + 3) % 8;
        a.addr[mine].preferred = b.addr[theirs].preferred = true;
        unsigned n = rdi_tcp_routes(&a, &b, r);
        assert_int_equal(at_once(r, n), 1);
        assert_int_equal(r[0].worth, 2);
        check_route(&r[0], &a, mine, &b, theirs);
        // One of its NICs fails: the other one, with any of the peer's; both fail: the others.
        assert_int_equal(at_once(r + 1, n - 1), 2);
        assert_int_equal(r[1].worth, 1);
        assert_int_equal(at_once(r + 3, n - 3), 7);
        assert_int_equal(n, 10);
        a.addr[mine].preferred = b.addr[theirs].preferred = false;
    }
    // One end alone knows, or has two.
    a.addr[2].preferred = a.addr[6].preferred = true;
    unsigned n = rdi_tcp_routes(&a, &b, r);
    assert_int_equal(at_once(r, n), 2);
    assert_int_equal(r[0].worth, 1);
    check_route(&r[0], &a, 2, &b, 0);
    check_route(&r[1], &a, 6, &b, 1);
}

// Rails in networks of their own, with no way between them: NIC 0 here and NIC 1 there cannot meet.
static void test_rails_apart(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('b');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    for (unsigned i = 0; i < 3; i++) {
        char ip[32];
        snprintf(ip, sizeof ip, "10.%u.0.1", i);
        add(&a, i, ip, 24);
        snprintf(ip, sizeof ip, "10.%u.0.2", i);
        add(&b, i, ip, 24);
    }
    a.addr[0].preferred = b.addr[1].preferred = true;
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 3);
    assert_int_equal(at_once(r, 3), 2);
    check_route(&r[0], &a, 0, &b, 0);
    check_route(&r[1], &a, 1, &b, 1);
    check_route(&r[2], &a, 2, &b, 2);
    assert_int_equal(r[2].worth, 0);
    b.addr[0].preferred = true;
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 3);
    assert_int_equal(at_once(r, 3), 1);
    check_route(&r[0], &a, 0, &b, 0);
}

// A network for each NIC, and routers between: of the pairs that are a guess, that of the decided ones.
static void test_decided_nics_through_a_router(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('b');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    for (unsigned i = 0; i < 4; i++) {
        char ip[32];
        snprintf(ip, sizeof ip, "10.1.%u.0", i);
        add(&a, i, ip, 31);
        snprintf(ip, sizeof ip, "10.2.%u.0", i);
        add(&b, i, ip, 31);
    }
    a.addr[3].preferred = true;
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 1);
    check_route(&r[0], &a, 3, &b, 0);
    b.addr[2].preferred = true;
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 1);
    check_route(&r[0], &a, 3, &b, 2);
}

// On one host nothing leaves it.
static void test_decided_nics_on_one_host(void **state) {
    (void)state;
    struct rdi_tcp_blob a = host('a'), b = host('a');
    struct rdi_tcp_route r[RDI_TCP_ROUTES];
    add(&a, 0, "10.0.0.1", 24);
    a.addr[0].preferred = true;
    add(&a, 1, "127.0.0.1", 8);
    b = a;
    assert_int_equal(rdi_tcp_routes(&a, &b, r), 1);
    check_route(&r[0], &a, 1, &b, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames_survive),
        cmocka_unit_test(test_frame_layout),
        cmocka_unit_test(test_frames_out_of_bounds),
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_hello_out_of_bounds),
        cmocka_unit_test(test_reply),
        cmocka_unit_test(test_blob),
        cmocka_unit_test(test_blob_out_of_bounds),
        cmocka_unit_test(test_routes_on_one_host),
        cmocka_unit_test(test_routes_between_hosts),
        cmocka_unit_test(test_routes_through_a_router),
        cmocka_unit_test(test_odd_prefixes),
        cmocka_unit_test(test_one_nic_each),
        cmocka_unit_test(test_rails_apart),
        cmocka_unit_test(test_decided_nics_through_a_router),
        cmocka_unit_test(test_decided_nics_on_one_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
