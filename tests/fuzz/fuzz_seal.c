// SPDX-License-Identifier: MIT
// Sealed records, after somebody on the way has had his hands on them. What opens is what was sealed, in order, up to
// the first byte that is not the one which was sent; from there on nothing does, and nothing is written.
//
//   input[0]  how many records (0: the rest are the bytes that come)    then 2 bytes of length for each, then what is
//   done, five bytes each: how, where u16, how much, with what          last, the size of the pieces that they come in
#include "fuzz.h"
#include "transport/tcp/seal.h"

#include <sodium.h>

#define RECORDS 12u
#define TEXT 1200u
#define ROOM (1u << 16)

struct sealed {
    uint8_t text[RECORDS][TEXT];
    size_t len[RECORDS], end[RECORDS], n;
    uint8_t bytes[ROOM];
    size_t used;
};

// ---- Two ends, the same for every input ----------------------------------------------------------

static uint64_t seed;

static void fixed_random(void *self, void *buf, size_t n) {
    (void)self;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)buf)[i] = (uint8_t)(seed >> 56);
    }
}

static void fixed_buf(void *const buf, const size_t n) { fixed_random(NULL, buf, n); }

static const char *fixed_name(void) { return "fixed"; }

static uint32_t fixed_number(void) {
    uint32_t v;
    fixed_random(NULL, &v, sizeof v);
    return v;
}

static void deliver(struct rdi_hs *from, struct rdi_hs *to) {
    size_t used;
    rdi_hs_input(to, from->out + from->out_off, from->out_len - from->out_off, &used);
    rdi_hs_sent(from, from->out_len - from->out_off);
}

static const struct rdi_hs *shake_hands(void) {
    static struct randombytes_implementation fixed = {
        .implementation_name = fixed_name, .random = fixed_number, .buf = fixed_buf};
    static const uint8_t key[RDI_KEY_BYTES] = {1, 2, 3};
    static const struct rdi_env env = {.random = fixed_random};
    static const struct rdi_job job = {.size = 2, .auth = true, .key = key};
    static struct rdi_hs hs[2];
    if (hs[0].state != RDI_HS_DONE) {
        MUST(randombytes_set_implementation(&fixed) == 0 && sodium_init() >= 0);
        rdi_hs_connect(&hs[0], RDI_HS_TCP, &job, &env, "hello", 5);
        rdi_hs_accept(&hs[1], RDI_HS_TCP, &job, &env);
        for (int i = 0; i < 3; i++) {
            deliver(&hs[i % 2], &hs[1 - i % 2]);
        }
        rdi_hs_reply(&hs[1], "reply", 5);
        deliver(&hs[1], &hs[0]);
        MUST(hs[0].state == RDI_HS_DONE && hs[1].state == RDI_HS_DONE);
    }
    seed = 1;
    return hs;
}

// ---- On the way ----------------------------------------------------------------------------------

static void seal_all(struct sealed *t, struct rdi_seal *s, struct input *in) {
    for (size_t i = 0; i < t->n; i++) {
        t->len[i] = 1 + take_number(in, 2) % TEXT;
        fixed_random(NULL, t->text[i], t->len[i]);
        t->used += rdi_seal_write(s, t->text[i], t->len[i], t->bytes + t->used);
        t->end[i] = t->used;
    }
}

static void insert(struct sealed *t, size_t at, const uint8_t *what, size_t n) {
    uint8_t copy[256];
    n = n < ROOM - t->used ? n : ROOM - t->used;
    memcpy(copy, what, n); // it may lie in what moves
    memmove(t->bytes + at + n, t->bytes + at, t->used - at);
    memcpy(t->bytes + at, copy, n);
    t->used += n;
}

static void change(struct sealed *t, struct input *in) {
    uint8_t how = take_byte(in);
    size_t at = take_number(in, 2) % (t->used + 1), much = take_byte(in);
    uint8_t with[256];
    memset(with, take_byte(in), sizeof with);
    much = much < t->used - at ? much : t->used - at;
    switch (how % 6) {
    case 0:
        for (size_t i = 0; i < much; i++) {
            t->bytes[at + i] ^= with[0];
        }
        break;
    case 1:
        memmove(t->bytes + at, t->bytes + at + much, t->used - at - much);
        t->used -= much;
        break;
    case 2:
        insert(t, at, t->bytes + at, much);
        break;
    case 3:
        insert(t, at, with, 1 + with[0]);
        break;
    case 4:
        t->used = at;
        break;
    default: // a whole record comes again, or is left out
        if (t->n > 1) {
            size_t k = 1 + at % (t->n - 1), from = t->end[k - 1], len = t->end[k] - from;
            if (t->end[k] <= t->used && much % 2 == 0) {
                memmove(t->bytes + from, t->bytes + t->end[k], t->used - t->end[k]);
                t->used -= len;
            } else if (t->end[k] <= t->used && len <= 256) {
                insert(t, t->end[k], t->bytes + from, len);
            }
        }
    }
}

// ---- At the other end ----------------------------------------------------------------------------

// Opens what is whole of n bytes. False: broken.
static bool open_some(const struct sealed *t, struct rdi_seal *s, const uint8_t *at, size_t n,
                      size_t *off, size_t *opened) {
    static uint8_t out[RDI_SEAL_BIG], untouched[RDI_SEAL_BIG];
    for (;;) {
        size_t skip, whole = 0, plain = 0;
        enum rdi_seal_found found = rdi_seal_look(s, at + *off, n - *off, &skip, &whole, &plain);
        *off += skip;
        MUST(*off <= n);
        if (found == RDI_SEAL_PART) {
            MUST(whole > n - *off && whole <= RDI_SEAL_PREFIX + RDI_SEAL_BIG + RDI_SEAL_MORE);
            return true;
        }
        if (found == RDI_SEAL_BROKEN) {
            return false;
        }
        MUST(whole <= n - *off && plain > 0 && plain <= RDI_SEAL_BIG &&
             plain == whole - RDI_SEAL_MORE);
        // A block of its own, so that a sanitizer sees a read behind the end.
        uint8_t *record = own_copy(at + *off, whole);
        memset(out, 0xee, plain);
        memset(untouched, 0xee, plain);
        bool ok = rdi_seal_read(s, record, whole, out);
        free(record);
        if (!ok) {
            MUST(memcmp(out, untouched, plain) == 0);
            return false;
        }
        MUST(*opened < t->n && plain == t->len[*opened]);
        MUST(memcmp(out, t->text[*opened], plain) == 0);
        ++*opened;
        *off += whole;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct sealed t, sent;
    const struct rdi_hs *hs = shake_hands();
    struct input in = {data, size};
    struct rdi_seal from, to;
    t.n = take_byte(&in) % (RECORDS + 1);
    t.used = 0;
    MUST(rdi_seal_begin(&from, &hs[0]) && rdi_seal_begin(&to, &hs[1]));
    seal_all(&t, &from, &in);
    sent = t;
    size_t piece = ROOM;
    if (t.n == 0) {
        size_t n;
        const uint8_t *raw = take_bytes(&in, ROOM, &n);
        memcpy(t.bytes, raw, n);
        t.used = n;
    }
    while (in.left >= 5) {
        change(&t, &in);
    }
    piece = in.left > 0 ? (size_t)1 + take_byte(&in) : piece;
    size_t same = 0, expected = 0, off = 0, opened = 0;
    while (same < t.used && same < sent.used && t.bytes[same] == sent.bytes[same]) {
        same++;
    }
    while (expected < t.n && sent.end[expected] <= same) {
        expected++;
    }
    bool ok = true;
    for (size_t n = 0; ok && n < t.used;) {
        n = n + piece < t.used ? n + piece : t.used;
        ok = open_some(&t, &to, t.bytes, n, &off, &opened);
    }
    MUST(opened == expected);
    MUST(ok || same < t.used); // what was sent as it is breaks nothing
    rdi_seal_end(&from);
    rdi_seal_end(&to);
    return 0;
}
