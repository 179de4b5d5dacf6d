// SPDX-License-Identifier: MIT
// Where messages may come from: any memory; and what registrations promise and refuse.
#include "transport/conform/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES (192u << 10)

// Sends `len` bytes that lie at `from` (contents of cf_fill with key 9 and this number) and waits until they
// are sent; the partner verifies them.
static void send_one(struct cf *c, struct cf_pair *p, const void *from, uint64_t number,
                     uint32_t len) {
    struct rdi_msg m;
    uint64_t seq = c->first ? p->out->posted : p->in->released;
    if (c->first) {
        cf_put_wait(c, p->out, from, len, number, RDI_PUT_ACK);
        cf_await(c, "the message was sent", p->out->sent > seq);
        return;
    }
    cf_await(c, "the message arrived", p->in->arrived > seq);
    p->in->ops->peek(p->in, seq, &m);
    cf_expect(c, m.len == len && m.tag == number, "message %llu came with %u bytes and tag %llu",
              (unsigned long long)number, m.len, (unsigned long long)m.tag);
    cf_expect(c, cf_matches(m.data, 9, number, len),
              "message %llu of %u bytes came with other "
              "contents",
              (unsigned long long)number, len);
    p->in->ops->release(p->in, seq + 1);
}

static void fill_and_send(struct cf *c, struct cf_pair *p, uint8_t *at, uint64_t number,
                          uint32_t len) {
    if (c->first) {
        cf_fill(at, 9, number, len);
    }
    send_one(c, p, at, number, len);
}

static void expect_ok(struct cf *c, rondo_status s, const char *what) {
    cf_expect(c, s == RONDO_OK, "%s says %s: %s", what, rondo_status_name(s), rondo_last_error());
}

// ---- Sources -------------------------------------------------------------------------------------

// What a program cannot write to: a device that maps its source for writing would refuse it.
static const uint8_t *read_only(struct cf *c) {
    uint8_t *at = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cf_expect(c, at != MAP_FAILED, "mmap: %s", strerror(errno));
    cf_fill(at, 9, 1000, 65536);
    cf_expect(c, mprotect(at, 65536, PROT_READ) == 0, "mprotect: %s", strerror(errno));
    return at;
}

void cf_check_memory_sources(struct cf *c) {
    static const uint32_t lengths[] = {1, 100, 5000, 20000, 65536};
    static uint8_t fixed[65536];
    uint8_t stack[20000], *own = malloc(BYTES), *registered = malloc(BYTES);
    void *block = NULL;
    struct cf_pair p;
    expect_ok(c, rondo_mem_alloc(BYTES, &block), "rondo_mem_alloc()");
    expect_ok(c, rondo_mem_register(registered, BYTES), "rondo_mem_register()");
    cf_expect(c, own != NULL && registered != NULL, "no memory");
    cf_pair_open(&p, c, "chunk=64K", CF_TO);
    uint8_t *const places[] = {own,  registered, registered + 4711, block, (uint8_t *)block + 333,
                               fixed};
    uint64_t number = 1;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            for (size_t k = 0; k < sizeof places / sizeof *places; k++) {
                fill_and_send(c, &p, places[k], number++, lengths[i]);
            }
        }
        fill_and_send(c, &p, stack, number++, sizeof stack);
    }
    const uint8_t *constant = read_only(c);
    for (int i = 0; i < 3; i++) {
        send_one(c, &p, constant, 1000, 65536);
    }
    expect_ok(c, rondo_mem_register((void *)(uintptr_t)constant, 65536), "rondo_mem_register()");
    send_one(c, &p, constant, 1000, 65536);
    cf_sync(c);
    expect_ok(c, rondo_mem_unregister((void *)(uintptr_t)constant), "rondo_mem_unregister()");
    expect_ok(c, rondo_mem_unregister(registered), "rondo_mem_unregister()");
    cf_pair_close(&p, c);
    expect_ok(c, rondo_mem_free(block), "rondo_mem_free()");
    munmap((void *)(uintptr_t)constant, 65536);
    free(own);
    free(registered);
}

// ---- Registrations -------------------------------------------------------------------------------

void cf_check_memory_overlap(struct cf *c) {
    struct cf_pair p;
    uint8_t *at = malloc(BYTES);
    uint64_t number = 1;
    cf_expect(c, at != NULL, "no memory");
    cf_pair_open(&p, c, "chunk=64K", CF_TO);
    const struct {
        size_t from, bytes;
    } ranges[] = {{0, 65536}, {32768, 65536}, {0, 65536}, {0, BYTES}, {32768, 100}, {65536, 4096}};
    enum { N = sizeof ranges / sizeof *ranges };
    for (size_t i = 0; i < N; i++) {
        expect_ok(c, rondo_mem_register(at + ranges[i].from, ranges[i].bytes),
                  "rondo_mem_register()");
        fill_and_send(c, &p, at + ranges[i].from, number++, 60);
        fill_and_send(c, &p, at + 16384, number++, 65536);
        fill_and_send(c, &p, at + 40000, number++, 50000);
    }
    for (size_t i = 0; i < N; i++) {
        cf_sync(c);
        expect_ok(c, rondo_mem_unregister(at + ranges[i].from), "rondo_mem_unregister()");
        fill_and_send(c, &p, at + 16384, number++, 65536);
        fill_and_send(c, &p, at + 40000, number++, 50000);
    }
    rondo_status s = rondo_mem_unregister(at);
    cf_expect(c, s == RONDO_ERR_USAGE, "one rondo_mem_unregister() too many says %s",
              rondo_status_name(s));
    cf_pair_close(&p, c);
    free(at);
}

void cf_check_memory_in_flight(struct cf *c) {
    struct cf_pair p;
    uint8_t *at = malloc(BYTES);
    void *block = NULL;
    cf_expect(c, at != NULL, "no memory");
    expect_ok(c, rondo_mem_alloc(BYTES, &block), "rondo_mem_alloc()");
    cf_pair_open(&p, c, "chunk=64K", CF_TO);
    for (uint64_t i = 1; i <= 20; i++) {
        expect_ok(c, rondo_mem_register(at, BYTES), "rondo_mem_register()");
        // The mark that an operation sets for as long as its messages are on their way.
        cf_expect(c, rdi_mem_hold(at + 100, 1000) && rdi_mem_hold(block, 1000),
                  "registered memory is not known");
        fill_and_send(c, &p, at + 100, 2 * i, 60000);
        fill_and_send(c, &p, block, 2 * i + 1, 60000);
        rondo_status s = rondo_mem_unregister(at), t = rondo_mem_free(block);
        cf_expect(c, s == RONDO_ERR_USAGE && t == RONDO_ERR_USAGE,
                  "of memory in use, rondo_mem_unregister() says %s and rondo_mem_free() says %s",
                  rondo_status_name(s), rondo_status_name(t));
        rdi_mem_unhold(at + 100, 1000);
        rdi_mem_unhold(block, 1000);
        // All was sent: nothing can stand in the way any more.
        expect_ok(c, rondo_mem_unregister(at), "rondo_mem_unregister()");
    }
    expect_ok(c, rondo_mem_free(block), "rondo_mem_free()");
    cf_pair_close(&p, c);
    free(at);
}

// The same addresses with other memory behind them: what was registered there before must not be read.
void cf_check_memory_remap(struct cf *c) {
    enum { ROUNDS = 24, LEN = 65536 };
    struct cf_pair p;
    uint8_t *at = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cf_expect(c, at != MAP_FAILED, "mmap: %s", strerror(errno));
    cf_pair_open(&p, c, "chunk=64K", CF_TO);
    for (uint64_t i = 1; i <= ROUNDS; i++) {
        cf_expect(c,
                  mmap(at, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                       0) == at,
                  "mmap: %s", strerror(errno));
        bool registers = i % 3 != 0;
        if (registers) {
            expect_ok(c, rondo_mem_register(at, LEN), "rondo_mem_register()");
        }
        fill_and_send(c, &p, at, 2 * i, LEN);
        if (registers) {
            expect_ok(c, rondo_mem_unregister(at), "rondo_mem_unregister()");
        }
        // Used after it was unregistered: sent as any other memory.
        fill_and_send(c, &p, at, 2 * i + 1, LEN);
        munmap(at, LEN);
    }
    cf_pair_close(&p, c);
}

// Blocks come and go; the net must not keep what is gone.
void cf_check_memory_blocks(struct cf *c) {
    struct cf_pair p;
    struct cf_usage before;
    cf_pair_open(&p, c, "chunk=64K", CF_TO);
    for (uint64_t i = 1; i <= 60; i++) {
        void *block[3] = {NULL};
        for (uint64_t k = 0; c->first && k < 3; k++) {
            expect_ok(c, rondo_mem_alloc(65536 + 4096 * k, &block[k]), "rondo_mem_alloc()");
        }
        for (uint64_t k = 0; k < 6; k++) {
            fill_and_send(c, &p, block[k % 3], 10 * i + k, 65536);
        }
        for (uint64_t k = 0; c->first && k < 3; k++) {
            expect_ok(c, rondo_mem_free(block[k]), "rondo_mem_free()");
        }
        if (i == 5) {
            cf_sync(c);
            cf_turns(c, 100);
            cf_usage_take(&before);
        }
    }
    cf_sync(c);
    cf_turns(c, 100);
    cf_usage_expect(c, &before, 4u << 20, "after blocks had come and gone");
    cf_pair_close(&p, c);
}
