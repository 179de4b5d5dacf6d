// SPDX-License-Identifier: MIT
// The shared-memory transport between two nets of one process that are driven in turn: messages of all kinds
// and sizes, credit, control messages, good-byes, payload by reference, and damage in the shared memory.
#include "tests/unit/shm_side.h"
#include "transport/mem.h"

#include <dirent.h>
#include <setjmp.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

// ---- Two ranks -----------------------------------------------------------------------------------

#define SLOTS 4
#define CHUNK 65536u

struct pair {
    struct side a, b;
    struct rdi_link *out, *in; // out: a's end; in: b's
};
static struct pair pair;

static void connect_pair(const char *options) {
    assert_true(side_open(&pair.a, 0, 2, options));
    assert_true(side_open(&pair.b, 1, 2, options));
    pair.out = side_connect(&pair.a, &pair.b, 0);
    assert_non_null(pair.out);
    assert_int_equal(pair.out->state, RDI_LINK_CONNECTING);
    assert_true(side_await(&pair.a, &pair.b, pair.out, RDI_LINK_UP));
    assert_int_equal(pair.b.n_accepted, 1);
    pair.in = pair.b.accepted[0];
    assert_int_equal(pair.in->state, RDI_LINK_UP);
}

static int set_up(void **state) {
    (void)state;
    connect_pair("slots=4,chunk=64K");
    return 0;
}

static void close_in(bool bye) {
    pair.in->ops->close_link(pair.in, bye);
    pair.in = NULL;
}

static void close_out(bool bye) {
    pair.out->ops->close_link(pair.out, bye);
    pair.out = NULL;
}

static int tear_down(void **state) {
    (void)state;
    if (pair.out != NULL) {
        close_out(true);
    }
    if (pair.in != NULL) {
        close_in(true);
    }
    side_close(&pair.a);
    side_close(&pair.b);
    return 0;
}

static void pattern(uint8_t *at, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++) {
        at[i] = (uint8_t)(seed * 131 + i * 7 + (i >> 8));
    }
}

static rondo_status put(const void *data, uint32_t len, uint64_t tag, const void *sig) {
    struct rdi_put p = {.data = data, .len = len, .tag = tag, .sig = sig};
    return pair.out->ops->put(pair.out, &p);
}

static struct rdi_msg peek(uint64_t seq) {
    struct rdi_msg m;
    pair.in->ops->peek(pair.in, seq, &m);
    return m;
}

static void release(uint64_t upto) { pair.in->ops->release(pair.in, upto); }

static uint8_t source[CHUNK], sig[RDI_SIG_BYTES];

// ---- Messages ------------------------------------------------------------------------------------

static void test_geometry(void **state) {
    (void)state;
    assert_int_equal(pair.out->slots, SLOTS);
    assert_int_equal(pair.in->slots, SLOTS);
    assert_int_equal(pair.out->max_msg, CHUNK);
    assert_int_equal(pair.in->max_msg, CHUNK);
    assert_int_equal(pair.out->credit, SLOTS);
    assert_true(pair.out->sender && !pair.in->sender);
    assert_int_equal(pair.in->id.comm, 77);
    assert_int_equal(pair.in->id.from, 0);
    assert_int_equal(pair.in->id.to, 1);
    assert_ptr_equal(pair.in->owner, &pair.b);
}

// Every size at which something changes, with and without a signature.
static void test_sizes(void **state) {
    (void)state;
    const uint32_t sizes[] = {0,    1,    7,     8,     63,    64,    1023,      1024, 1025,
                              4095, 4096, 16383, 16384, 30001, 65535, CHUNK - 1, CHUNK};
    pattern(sig, sizeof sig, 99);
    uint64_t q = 0;
    for (unsigned with_sig = 0; with_sig < 2; with_sig++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++, q++) {
            pattern(source, sizes[i], (unsigned)q);
            assert_int_equal(put(source, sizes[i], q << 40 | 5, with_sig ? sig : NULL), RONDO_OK);
            assert_int_equal(pair.out->posted, q + 1);
            assert_int_equal(pair.out->sent, q + 1); // copied: the source is free
            assert_true(side_progress(&pair.b) > 0);
            assert_int_equal(pair.in->arrived, q + 1);
            struct rdi_msg m = peek(q);
            assert_int_equal(m.len, sizes[i]);
            assert_int_equal(m.tag, q << 40 | 5);
            assert_memory_equal(m.data, source, sizes[i]);
            assert_int_equal((uintptr_t)m.data % 8, 0); // fit for any type
            if (with_sig) {
                assert_memory_equal(m.sig, sig, sizeof sig);
            } else {
                assert_null(m.sig);
            }
            release(q + 1);
            side_progress(&pair.a);
        }
    }
    assert_int_equal(pair.a.net->messages_sent, q);
    assert_int_equal(pair.a.net->bytes_sent, pair.b.net->bytes_received);
}

static void test_too_long(void **state) {
    (void)state;
    assert_int_equal(put(source, CHUNK + 1, 0, NULL), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "65537"));
    assert_int_equal(pair.out->posted, 0);
    assert_int_equal(pair.out->state, RDI_LINK_UP);
}

// Many rounds through the slots, in bursts of all lengths; order and content hold.
static void test_order(void **state) {
    (void)state;
    uint64_t next = 0;
    for (unsigned round = 0; round < 2000; round++) {
        unsigned burst = round % (SLOTS + 1);
        for (unsigned k = 0; k < burst; k++) {
            uint64_t value[3] = {pair.out->posted, ~pair.out->posted, round};
            assert_int_equal(put(value, sizeof value, pair.out->posted, NULL), RONDO_OK);
        }
        side_progress(&pair.b);
        for (; next < pair.in->arrived; next++) {
            uint64_t value[3];
            struct rdi_msg m = peek(next);
            assert_int_equal(m.tag, next);
            memcpy(value, m.data, sizeof value);
            assert_int_equal(value[0], next);
            assert_int_equal(value[1], ~next);
        }
        if (pair.in->released < next) {
            release(next);
        }
        uint64_t timeout = SECOND;
        pair.b.net->ops->arm(pair.b.net, &timeout); // hands out all credit
        pair.b.net->ops->disarm(pair.b.net);
        side_progress(&pair.a);
        assert_int_equal(pair.out->credit, next + SLOTS);
    }
    assert_int_equal(next, pair.out->posted);
}

static void test_back_pressure(void **state) {
    (void)state;
    for (unsigned i = 0; i < SLOTS; i++) {
        assert_int_equal(put(source, 100, i, NULL), RONDO_OK);
    }
    assert_int_equal(put(source, 100, 9, NULL), RONDO_AGAIN);
    assert_int_equal(pair.out->posted, SLOTS);
    side_progress(&pair.b);
    assert_int_equal(pair.in->arrived, SLOTS);
    release(1); // fewer than half of the slots: told later
    side_progress(&pair.a);
    assert_int_equal(pair.out->credit, SLOTS);
    release(2); // half of the slots
    side_progress(&pair.a);
    assert_int_equal(pair.out->credit, 2 + SLOTS);
    release(3);
    uint64_t timeout = SECOND;
    assert_int_equal(pair.b.net->ops->arm(pair.b.net, &timeout), RONDO_OK); // or before sleeping
    pair.b.net->ops->disarm(pair.b.net);
    side_progress(&pair.a);
    assert_int_equal(pair.out->credit, 3 + SLOTS);
    assert_int_equal(put(source, 100, 9, NULL), RONDO_OK);
}

// ---- Control messages ----------------------------------------------------------------------------

static void test_ctrl(void **state) {
    (void)state;
    uint8_t msg[RDI_CTRL_MAX];
    pattern(msg, sizeof msg, 3);
    const struct rdi_net_ops *ops = &rdi_shm_ops;
    unsigned sent = 0;
    while (ops->ctrl(pair.out, 40 + sent, msg, sizeof msg - sent) == RONDO_OK) {
        sent++;
    }
    assert_int_equal(sent, SHM_CTRL_RING); // then AGAIN
    assert_int_equal(ops->ctrl(pair.out, 1, msg, 1), RONDO_AGAIN);
    side_progress(&pair.b);
    assert_int_equal(pair.b.n_ctrl, sent);
    assert_int_equal(pair.b.ctrl_type, 40 + sent - 1);
    assert_int_equal(pair.b.ctrl_len, sizeof msg - sent + 1);
    assert_memory_equal(pair.b.ctrl, msg, pair.b.ctrl_len);
    assert_true(side_progress(&pair.a) > 0); // there is room again
    assert_int_equal(ops->ctrl(pair.out, 1, NULL, 0), RONDO_OK);
    // And from the receiver to the sender.
    assert_int_equal(ops->ctrl(pair.in, 8, msg, 5), RONDO_OK);
    side_progress(&pair.a);
    assert_int_equal(pair.a.n_ctrl, 1);
    assert_int_equal(pair.a.ctrl_len, 5);
    assert_int_equal(ops->ctrl(pair.in, 8, msg, RDI_CTRL_MAX + 1), RONDO_ERR_INVALID);
}

// The engine may close the link, and others, from an upcall.
static void test_close_in_upcall(void **state) {
    (void)state;
    pair.b.close_in_upcall = true;
    assert_int_equal(rdi_shm_ops.ctrl(pair.out, 1, "x", 1), RONDO_OK);
    assert_int_equal(rdi_shm_ops.ctrl(pair.out, 2, "x", 1), RONDO_OK);
    side_progress(&pair.b);
    pair.in = NULL;
    assert_int_equal(pair.b.n_ctrl, 1);
    assert_true(side_await(&pair.a, &pair.b, pair.out, RDI_LINK_CLOSED));
}

// ---- Endings -------------------------------------------------------------------------------------

static void test_bye_after_messages(void **state) {
    (void)state;
    pattern(source, CHUNK, 4);
    assert_int_equal(put(source, CHUNK, 1, NULL), RONDO_OK);
    assert_int_equal(put(source, 10, 2, NULL), RONDO_OK);
    close_out(true);
    assert_true(side_await(&pair.b, NULL, pair.in, RDI_LINK_CLOSED));
    assert_int_equal(pair.in->arrived, 2);
    assert_memory_equal(peek(0).data, source, CHUNK);
    assert_memory_equal(peek(1).data, source, 10);
    release(2);
}

static void test_bye_of_receiver(void **state) {
    (void)state;
    assert_int_equal(put(source, 10, 2, NULL), RONDO_OK);
    close_in(true);
    assert_true(side_await(&pair.a, NULL, pair.out, RDI_LINK_CLOSED));
    assert_int_equal(put(source, 10, 2, NULL), RONDO_ERR_PEER);
    assert_non_null(strstr(rondo_last_error(), "rank 1"));
    assert_int_equal(rdi_shm_ops.ctrl(pair.out, 1, NULL, 0), RONDO_ERR_PEER);
}

static void test_abort(void **state) {
    (void)state;
    assert_int_equal(put(source, 10, 2, NULL), RONDO_OK);
    close_out(false);
    assert_true(side_await(&pair.b, NULL, pair.in, RDI_LINK_FAILED));
    assert_int_equal(pair.in->status, RONDO_ERR_PEER);
    assert_non_null(strstr(pair.in->why, "rank 0"));
    assert_non_null(strstr(pair.in->why, "aborted"));
    assert_int_equal(pair.in->arrived, 1);
}

static void test_refusal(void **state) {
    (void)state;
    pair.b.refuse = "no room in this inn";
    struct rdi_link *l = side_connect(&pair.a, &pair.b, 1);
    assert_true(side_await(&pair.a, &pair.b, l, RDI_LINK_FAILED));
    assert_int_equal(l->status, RONDO_ERR_USAGE);
    assert_non_null(strstr(l->why, "no room in this inn"));
    assert_non_null(strstr(l->why, "rank 1"));
    assert_int_equal(pair.b.n_accepted, 1);
    assert_int_equal(put(source, 10, 0, NULL), RONDO_OK); // the other link is none the worse
    l->ops->close_link(l, false);
}

// ---- By reference --------------------------------------------------------------------------------

static uint8_t *block(size_t bytes) {
    void *at;
    assert_int_equal(rondo_mem_alloc(bytes, &at), RONDO_OK);
    return at;
}

// Sends one message through the copying path, which offers the block, and lets both ends settle that.
static void introduce(const void *at) {
    uint64_t q = pair.out->posted;
    assert_int_equal(put(at, SHM_REFERENCE_MIN, 0, NULL), RONDO_OK);
    assert_int_equal(pair.out->sent, q + 1);
    side_progress(&pair.b);
    side_progress(&pair.a);
    release(q + 1);
    uint64_t timeout = SECOND;
    pair.b.net->ops->arm(pair.b.net, &timeout);
    pair.b.net->ops->disarm(pair.b.net);
    side_progress(&pair.a);
}

static struct shm_link *out_link(void) { return shm_link_of(pair.out); }
static struct shm_link *in_link(void) { return shm_link_of(pair.in); }

static void test_reference(void **state) {
    (void)state;
    uint8_t *at = block(3 * CHUNK);
    pattern(at, 3 * CHUNK, 5);
    assert_true(pair.a.net->attr.by_reference);
    introduce(at);
    assert_int_equal(put(at + 100, CHUNK, 1, NULL), RONDO_OK);
    assert_int_equal(pair.out->posted, 2);
    assert_int_equal(pair.out->sent, 1); // the receiver still reads it
    assert_int_equal(put(at, 8, 2, NULL), RONDO_OK);
    assert_int_equal(pair.out->sent, 1); // a prefix
    side_progress(&pair.b);
    struct rdi_msg m = peek(1);
    assert_int_equal(m.len, CHUNK);
    assert_memory_equal(m.data, at + 100, CHUNK);
    at[100] ^= 0xff; // one memory: no copy was made
    assert_int_equal(((const uint8_t *)m.data)[0], at[100]);
    release(3);
    side_progress(&pair.a);
    assert_int_equal(pair.out->sent, 3);
    assert_int_equal(rondo_mem_free(at), RONDO_OK);
}

static void test_reference_ack(void **state) {
    (void)state;
    uint8_t *at = block(CHUNK);
    introduce(at);
    struct rdi_put p = {.data = at, .len = CHUNK, .flags = RDI_PUT_ACK};
    assert_int_equal(pair.out->ops->put(pair.out, &p), RONDO_OK);
    side_progress(&pair.b);
    release(2); // one of four slots, but the sender waits for it
    side_progress(&pair.a);
    assert_int_equal(pair.out->sent, 2);
    rondo_mem_free(at);
}

// The block is freed while a message still refers to it: the receiver keeps its view until it has released
// the message; then both ends forget the block, and its handle serves the next one.
static void test_reference_freed(void **state) {
    (void)state;
    uint8_t *at = block(CHUNK), *copy = malloc(CHUNK);
    pattern(at, CHUNK, 6);
    memcpy(copy, at, CHUNK);
    introduce(at);
    assert_int_equal(put(at, CHUNK, 1, NULL), RONDO_OK);
    side_progress(&pair.b);
    assert_int_equal(rondo_mem_free(at), RONDO_OK);
    side_progress(&pair.a);
    side_progress(&pair.b);
    assert_memory_equal(peek(1).data, copy, CHUNK);
    assert_non_null(in_link()->borrowed[0].map);
    release(2);
    uint64_t timeout = SECOND;
    pair.b.net->ops->arm(pair.b.net, &timeout);
    pair.b.net->ops->disarm(pair.b.net);
    side_progress(&pair.a);
    side_progress(&pair.b);
    assert_null(in_link()->borrowed[0].map);
    assert_int_equal(out_link()->lent[0].state, SHM_LENT_NONE);

    uint8_t *next = block(CHUNK);
    pattern(next, CHUNK, 8);
    introduce(next);
    assert_int_equal(out_link()->lent[0].state, SHM_LENT_MAPPED);
    uint64_t q = pair.out->posted;
    assert_int_equal(put(next, CHUNK, 1, NULL), RONDO_OK);
    assert_int_equal(pair.out->sent, q);
    side_progress(&pair.b);
    assert_memory_equal(peek(q).data, next, CHUNK);
    rondo_mem_free(next);
    free(copy);
}

static void test_reference_off(void **state) {
    tear_down(state);
    connect_pair("slots=4,chunk=64K,zero_copy=no");
    assert_false(pair.a.net->attr.by_reference);
    uint8_t *at = block(CHUNK);
    introduce(at);
    assert_int_equal(put(at, CHUNK, 1, NULL), RONDO_OK);
    assert_int_equal(pair.out->sent, 2);
    rondo_mem_free(at);
}

// More blocks than a link remembers: the rest is copied.
static void test_many_blocks(void **state) {
    (void)state;
    enum { N = SHM_BLOCKS_MAX + 5 };
    static uint8_t *at[N];
    for (unsigned i = 0; i < N; i++) {
        at[i] = block(SHM_REFERENCE_MIN);
        memset(at[i], (int)i, 64);
        introduce(at[i]);
    }
    assert_int_equal(out_link()->n_lent, SHM_BLOCKS_MAX);
    for (unsigned i = 0; i < N; i++) {
        uint64_t q = pair.out->posted;
        assert_int_equal(put(at[i], SHM_REFERENCE_MIN, i, NULL), RONDO_OK);
        assert_int_equal(pair.out->sent, i < SHM_BLOCKS_MAX ? q : q + 1);
        side_progress(&pair.b);
        assert_memory_equal(peek(q).data, at[i], 64);
        release(q + 1);
        uint64_t timeout = SECOND;
        pair.b.net->ops->arm(pair.b.net, &timeout);
        pair.b.net->ops->disarm(pair.b.net);
        side_progress(&pair.a);
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(rondo_mem_free(at[i]), RONDO_OK);
    }
    for (int i = 0; i < 200; i++) {
        side_progress(&pair.a);
        side_progress(&pair.b);
    }
    for (unsigned i = 0; i < in_link()->n_borrowed; i++) {
        assert_null(in_link()->borrowed[i].map);
    }
}

// ---- Damage --------------------------------------------------------------------------------------

static void expect_failed(struct side *s, struct rdi_link *l, const char *word) {
    for (int i = 0; i < 20; i++) {
        side_progress(s);
    }
    assert_int_equal(l->state, RDI_LINK_FAILED);
    assert_int_equal(l->status, RONDO_ERR_PEER);
    if (strstr(l->why, word) == NULL) {
        print_message("expected '%s' in: %s\n", word, l->why);
    }
    assert_non_null(strstr(l->why, word));
    assert_non_null(strstr(l->why, "testhost"));
    assert_int_equal(rdi_shm_ops.ctrl(l, 1, NULL, 0), RONDO_ERR_PEER);
}

static void test_damaged_length(void **state) {
    (void)state;
    assert_int_equal(put(source, 5000, 1, NULL), RONDO_OK);
    atomic_store(&out_link()->region.slots[0].len, CHUNK + 1);
    expect_failed(&pair.b, pair.in, "length of a message");
    assert_int_equal(pair.in->arrived, 0);
}

static void test_damaged_inline_length(void **state) {
    (void)state;
    assert_int_equal(put(source, 50, 1, NULL), RONDO_OK);
    atomic_store(&out_link()->region.slots[0].len, SHM_INLINE + 1);
    expect_failed(&pair.b, pair.in, "length of a message");
}

static void test_damaged_kind(void **state) {
    (void)state;
    assert_int_equal(put(source, 50, 1, NULL), RONDO_OK);
    atomic_store(&out_link()->region.slots[0].flags, 0x10);
    expect_failed(&pair.b, pair.in, "kind of message");
}

static void test_damaged_seq(void **state) {
    (void)state;
    atomic_store(&out_link()->region.slots[0].seq, 2);
    uint64_t timeout = SECOND;
    assert_int_equal(rdi_shm_ops.arm(pair.b.net, &timeout), RONDO_AGAIN);
    expect_failed(&pair.b, pair.in, "message number");
}

static void test_damaged_release(void **state) {
    (void)state;
    assert_int_equal(put(source, 50, 1, NULL), RONDO_OK);
    atomic_store(&in_link()->mine->released, 2);
    expect_failed(&pair.a, pair.out, "counter of released");
    assert_int_equal(put(source, 50, 1, NULL), RONDO_ERR_PEER);
}

// The counter goes backwards, and put() itself is the first to see it.
static void test_damaged_release_in_put(void **state) {
    (void)state;
    for (unsigned i = 0; i < SLOTS; i++) {
        assert_int_equal(put(source, 50, 1, NULL), RONDO_OK);
    }
    atomic_store(&in_link()->mine->released, UINT64_MAX);
    assert_int_equal(put(source, 50, 1, NULL), RONDO_ERR_PEER);
    assert_int_equal(pair.out->state, RDI_LINK_FAILED);
}

static void test_damaged_reference(void **state) {
    (void)state;
    uint8_t *at = block(CHUNK);
    const struct shm_reference bad[] = {
        {1, 0}, {UINT64_MAX, 0}, {0, 1}, {0, CHUNK + 1}, {0, UINT64_MAX - 10}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        introduce(at);
        uint64_t q = pair.out->posted;
        assert_int_equal(put(at, CHUNK, 1, NULL), RONDO_OK);
        assert_int_equal(pair.out->sent, q); // by reference
        memcpy(out_link()->region.slots[q % SLOTS].body, &bad[i], sizeof bad[i]);
        expect_failed(&pair.b, pair.in, "reference to a block");
        tear_down(state);
        connect_pair("slots=4,chunk=64K");
    }
    rondo_mem_free(at);
}

static void test_damaged_ctrl(void **state) {
    (void)state;
    assert_int_equal(rdi_shm_ops.ctrl(pair.out, 1, "x", 1), RONDO_OK);
    atomic_store(&out_link()->ctrl_out[0].len, RDI_CTRL_MAX + 1);
    expect_failed(&pair.b, pair.in, "length of a control message");
    atomic_store(&in_link()->mine->ctrl_taken, 2);
    expect_failed(&pair.a, pair.out, "control counter");
}

static void test_damaged_ctrl_counter(void **state) {
    (void)state;
    atomic_store(&out_link()->mine->ctrl_posted, SHM_CTRL_RING + 1);
    expect_failed(&pair.b, pair.in, "control counter");
    atomic_store(&in_link()->mine->bye, 9);
    expect_failed(&pair.a, pair.out, "good-bye");
}

// ---- Sleeping, addresses, reports ----------------------------------------------------------------

static bool readable(struct side *s) {
    struct pollfd p = {.fd = rdi_shm_ops.fd(s->net), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void test_bell(void **state) {
    (void)state;
    uint64_t timeout = SECOND;
    side_progress(&pair.b);
    assert_false(readable(&pair.b));
    assert_int_equal(put(source, 8, 0, NULL), RONDO_OK);
    assert_false(readable(&pair.b)); // awake: no system call for it
    assert_int_equal(rdi_shm_ops.arm(pair.b.net, &timeout), RONDO_AGAIN);
    side_progress(&pair.b);
    assert_int_equal(rdi_shm_ops.arm(pair.b.net, &timeout), RONDO_OK);
    assert_int_equal(timeout, SECOND);
    assert_false(readable(&pair.b));
    assert_int_equal(put(source, 8, 0, NULL), RONDO_OK);
    assert_int_equal(put(source, 8, 0, NULL), RONDO_OK);
    assert_true(readable(&pair.b));
    eventfd_t rings;
    assert_int_equal(eventfd_read(shm_net_of(pair.b.net)->eventfd, &rings), 0);
    assert_int_equal(rings, 1); // once for a sleep, however much there is
    rdi_shm_ops.disarm(pair.b.net);
    assert_false(readable(&pair.b));
    side_progress(&pair.b);
    // Credit, control messages and good-byes wake too.
    side_progress(&pair.a);
    assert_int_equal(rdi_shm_ops.arm(pair.a.net, &timeout), RONDO_OK);
    release(3);
    assert_true(readable(&pair.a));
    rdi_shm_ops.disarm(pair.a.net);
    assert_int_equal(rdi_shm_ops.arm(pair.a.net, &timeout), RONDO_AGAIN);
    side_progress(&pair.a);
    assert_int_equal(rdi_shm_ops.arm(pair.a.net, &timeout), RONDO_OK);
    assert_int_equal(rdi_shm_ops.ctrl(pair.in, 1, NULL, 0), RONDO_OK);
    assert_true(readable(&pair.a));
    rdi_shm_ops.disarm(pair.a.net);
    side_progress(&pair.a);
    assert_int_equal(rdi_shm_ops.arm(pair.a.net, &timeout), RONDO_OK);
    close_in(true);
    assert_true(readable(&pair.a));
    rdi_shm_ops.disarm(pair.a.net);
}

static void test_address(void **state) {
    (void)state;
    uint8_t blob[RDI_BLOB_MAX], again[RDI_BLOB_MAX];
    size_t len, len2;
    assert_int_equal(rdi_shm_ops.address(pair.b.net, blob, &len), RONDO_OK);
    assert_int_equal(rdi_shm_ops.address(pair.b.net, again, &len2), RONDO_OK);
    assert_int_equal(len, len2);
    assert_memory_equal(blob, again, len);
    assert_int_equal(rdi_shm_ops.reach(pair.a.net, blob, len), RONDO_OK);
    for (size_t n = 0; n < len; n++) {
        assert_int_equal(rdi_shm_ops.reach(pair.a.net, blob, n), RONDO_ERR_INVALID);
    }
    struct rdi_link_id id = {.comm = 1, .from = 0, .to = 1};
    struct rdi_link *l = NULL;
    assert_int_equal(rdi_shm_ops.connect(pair.a.net, &id, blob, len - 1, &l), RONDO_ERR_INVALID);
    assert_null(l);
    blob[5] ^= 1; // another host
    assert_int_equal(rdi_shm_ops.reach(pair.a.net, blob, len), RONDO_ERR_UNSUPPORTED);
    blob[5] ^= 1;
    blob[len - 12] ^= 1; // another user
    assert_int_equal(rdi_shm_ops.reach(pair.a.net, blob, len), RONDO_ERR_UNSUPPORTED);
    blob[0] ^= 1;
    assert_int_equal(rdi_shm_ops.reach(pair.a.net, blob, len), RONDO_ERR_INVALID);
}

static void test_describe(void **state) {
    (void)state;
    char buf[400] = "before\n";
    rdi_shm_ops.describe(pair.out, buf, sizeof buf);
    rdi_shm_ops.describe(pair.in, buf, sizeof buf);
    assert_non_null(strstr(buf, "before\nshm to rank 1 (pid "));
    assert_non_null(strstr(buf, "\nshm from rank 0 (pid "));
    char small[8] = "ab";
    rdi_shm_ops.describe(pair.out, small, sizeof small);
    assert_int_equal(strlen(small), 7);
}

// ---- Nothing is left -----------------------------------------------------------------------------

static unsigned count_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;
    while (readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n;
}

static unsigned count_maps(void) {
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned n = 0;
    while (fgets(line, sizeof line, f) != NULL) {
        n += strstr(line, "memfd:rondo") != NULL;
    }
    fclose(f);
    return n;
}

// Also closes links in every phase of their rendezvous.
static void test_nothing_left(void **state) {
    (void)state;
    unsigned fds = count_fds(), maps = count_maps();
    for (int steps = 0; steps < 14; steps++) {
        connect_pair("slots=4,chunk=64K");
        uint8_t *at = block(CHUNK);
        introduce(at);
        struct rdi_link *more = side_connect(&pair.a, &pair.b, 1);
        for (int i = 0; i < steps; i++) {
            side_progress(i % 2 == 0 ? &pair.a : &pair.b);
        }
        rondo_mem_free(at);
        more->ops->close_link(more, true);
        for (unsigned i = 1; i < pair.b.n_accepted; i++) {
            pair.b.accepted[i]->ops->close_link(pair.b.accepted[i], false);
        }
        tear_down(state);
        assert_int_equal(count_fds(), fds);
        assert_int_equal(count_maps(), maps);
    }
}

#define WITH_PAIR(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_PAIR(test_geometry),
        WITH_PAIR(test_sizes),
        WITH_PAIR(test_too_long),
        WITH_PAIR(test_order),
        WITH_PAIR(test_back_pressure),
        WITH_PAIR(test_ctrl),
        WITH_PAIR(test_close_in_upcall),
        WITH_PAIR(test_bye_after_messages),
        WITH_PAIR(test_bye_of_receiver),
        WITH_PAIR(test_abort),
        WITH_PAIR(test_refusal),
        WITH_PAIR(test_reference),
        WITH_PAIR(test_reference_ack),
        WITH_PAIR(test_reference_freed),
        WITH_PAIR(test_reference_off),
        WITH_PAIR(test_many_blocks),
        WITH_PAIR(test_damaged_length),
        WITH_PAIR(test_damaged_inline_length),
        WITH_PAIR(test_damaged_kind),
        WITH_PAIR(test_damaged_seq),
        WITH_PAIR(test_damaged_release),
        WITH_PAIR(test_damaged_release_in_put),
        WITH_PAIR(test_damaged_reference),
        WITH_PAIR(test_damaged_ctrl),
        WITH_PAIR(test_damaged_ctrl_counter),
        WITH_PAIR(test_bell),
        WITH_PAIR(test_address),
        WITH_PAIR(test_describe),
        cmocka_unit_test(test_nothing_left),
    };
    return cmocka_run_group_tests_name("shm", tests, NULL, NULL);
}
