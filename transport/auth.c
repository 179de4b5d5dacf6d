// SPDX-License-Identifier: MIT
// The authenticated handshake: a state machine over bytes that knows nothing of sockets.
//
// Every message begins with the same header, which all versions of the protocol keep, so that two
// versions can at least tell each other who they are. All numbers are in network byte order.
//
//   0    4        6     7     8       10
//   RNDO version  type  kind  length  body of `length` bytes
//
//   HELLO      nonce_c[32] hello[0..512]
//   CHALLENGE  nonce_a[32] MAC("A", T, header, nonce_a)[32]  body empty: "I speak another version"
//   PROOF      MAC("C", T, header)[32]
//   WELCOME    reply[0..512] MAC("W", T, header, reply)[32]
//
// T is the hash chain over the whole messages before this one, T' = H(T, message), so each MAC
// covers all that was said: a changed bit, another kind, a replayed or reflected message all end in
// a MAC that does not fit. Each type has one length (or a bounded one), known before its body is
// read; the first wrong byte ends the handshake, so garbage costs neither memory nor time.
//
// What it gives: both ends know the job's key, now. What it does not: bytes that follow are neither
// encrypted nor authenticated, so somebody who can alter packets between the hosts can alter them,
// unless the two seal them with the keys that come of it (rdi_hs_session_key()).
// A peer that connects learns a MAC that it can try keys on, hence keys must be random, not words.
// The version in a header is believed before anything is proved, because a peer of another version
// can prove nothing.
//
// With auth=none the key is 32 zeros: the same exchange then shows that the other end is Rondo, of
// this version and for this purpose; a port scanner or a job that has a key is kept out, but
// another job without a key is not, nor is anybody who wants in.
#include "transport/internal.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define PROTOCOL 2
#define HEADER 10
#define NONCE 32
#define MAC 32

enum { HELLO = 1, CHALLENGE, PROOF, WELCOME };

static const uint8_t magic[4] = {'R', 'N', 'D', 'O'};

static const char *kind_name(unsigned kind) {
    static const char *const names[] = {"an unknown service", "the store", "tcp data",
                                        "shm control", "rondo-doctor"};
    return names[kind < 5 ? kind : 0];
}

static void fail_with(struct rdi_hs *hs, rondo_status error, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void fail_with(struct rdi_hs *hs, rondo_status error, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(hs->why, sizeof hs->why, fmt, ap);
    va_end(ap);
    hs->state = RDI_HS_FAILED;
    hs->error = error;
    // What the other side claimed was never proved; nobody shall use it by mistake.
    sodium_memzero(hs->peer, sizeof hs->peer);
    hs->peer_len = 0;
}

// ---- Hashes -------------------------------------------------------------------------------------

static void extend_transcript(struct rdi_hs *hs, const uint8_t *message, size_t n) {
    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, sizeof hs->transcript);
    crypto_generichash_update(&h, hs->transcript, sizeof hs->transcript);
    crypto_generichash_update(&h, message, n);
    crypto_generichash_final(&h, hs->transcript, sizeof hs->transcript);
}

// MAC over label, transcript and the n bytes of the message that precede the MAC itself.
static void compute_mac(const struct rdi_hs *hs, char label, const uint8_t *message, size_t n,
                        uint8_t mac[MAC]) {
    static const uint8_t no_key[RDI_KEY_BYTES];
    crypto_generichash_state h;
    crypto_generichash_init(&h, hs->job->key != NULL ? hs->job->key : no_key, RDI_KEY_BYTES, MAC);
    crypto_generichash_update(&h, (const uint8_t *)&label, 1);
    crypto_generichash_update(&h, hs->transcript, sizeof hs->transcript);
    crypto_generichash_update(&h, message, n);
    crypto_generichash_final(&h, mac, MAC);
    sodium_memzero(&h, sizeof h);
    sodium_stackzero(RDI_STACK_WIPE);
}

// Whether the received message of n bytes ends in the MAC that only a holder of the key can make.
static bool check_mac(struct rdi_hs *hs, char label, const uint8_t *message, size_t n) {
    uint8_t mac[MAC];
    compute_mac(hs, label, message, n - MAC, mac);
    bool ok = sodium_memcmp(mac, message + n - MAC, MAC) == 0;
    sodium_memzero(mac, sizeof mac);
    if (!ok) {
        fail_with(
            hs, RONDO_ERR_AUTH,
            "the other side does not have this job's key: it belongs to another job, or the ranks"
            " of this job were given different keys or values of option auth");
    }
    return ok;
}

// ---- Messages out -------------------------------------------------------------------------------

static void put16(uint8_t *at, unsigned v) {
    at[0] = (uint8_t)(v >> 8);
    at[1] = (uint8_t)v;
}

static unsigned get16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }

// Appends a message of header, two parts and, unless label is 0, a MAC to the output. It always
// fits: the longest HELLO and PROOF, or CHALLENGE and WELCOME, are shorter than the buffer
// together.
static void emit(struct rdi_hs *hs, unsigned type, const void *a, size_t a_len, const void *b,
                 size_t b_len, char label) {
    uint8_t *message = hs->out + hs->out_len;
    size_t n = HEADER + a_len + b_len;
    size_t total = n + (label != 0 ? MAC : 0);
    memcpy(message, magic, sizeof magic);
    put16(message + 4, PROTOCOL);
    message[6] = (uint8_t)type;
    message[7] = (uint8_t)hs->kind;
    put16(message + 8, (unsigned)(total - HEADER));
    if (a_len > 0) {
        memcpy(message + HEADER, a, a_len);
    }
    if (b_len > 0) {
        memcpy(message + HEADER + a_len, b, b_len);
    }
    if (label != 0) {
        compute_mac(hs, label, message, n, message + n);
    }
    extend_transcript(hs, message, total);
    hs->out_len += total;
}
_Static_assert(HEADER + NONCE + RDI_HS_PAYLOAD + HEADER + MAC <= RDI_HS_BUFFER, "HELLO, PROOF");
_Static_assert(HEADER + NONCE + MAC + HEADER + RDI_HS_PAYLOAD + MAC <= RDI_HS_BUFFER,
               "CHALLENGE, WELCOME");

static void begin(struct rdi_hs *hs, bool connector, enum rdi_hs_kind kind,
                  const struct rdi_job *job, const struct rdi_env *env) {
    memset(hs, 0, sizeof *hs);
    hs->state = RDI_HS_RUNNING;
    hs->connector = connector;
    hs->kind = kind;
    hs->job = job;
    env->random(env->self, hs->nonce, NONCE);
}

void rdi_hs_connect(struct rdi_hs *hs, enum rdi_hs_kind kind, const struct rdi_job *job,
                    const struct rdi_env *env, const void *hello, size_t len) {
    begin(hs, true, kind, job, env);
    if (len > RDI_HS_PAYLOAD) {
        fail_with(hs, RONDO_ERR_INVALID, "a hello of %zu bytes; at most %d are allowed", len,
                  RDI_HS_PAYLOAD);
        return;
    }
    emit(hs, HELLO, hs->nonce, NONCE, hello, len, 0);
}

void rdi_hs_accept(struct rdi_hs *hs, enum rdi_hs_kind kind, const struct rdi_job *job,
                   const struct rdi_env *env) {
    begin(hs, false, kind, job, env);
}

void rdi_hs_reply(struct rdi_hs *hs, const void *reply, size_t len) {
    if (hs->state != RDI_HS_NEED_REPLY) {
        return;
    }
    if (len > RDI_HS_PAYLOAD) {
        fail_with(hs, RONDO_ERR_INVALID, "a reply of %zu bytes; at most %d are allowed", len,
                  RDI_HS_PAYLOAD);
        return;
    }
    hs->state = RDI_HS_RUNNING; // until the bytes are on the wire
    hs->step = 2;
    emit(hs, WELCOME, reply, len, NULL, 0, 'W');
}

void rdi_hs_sent(struct rdi_hs *hs, size_t n) {
    hs->out_off += n < hs->out_len - hs->out_off ? n : hs->out_len - hs->out_off;
    if (hs->out_off < hs->out_len) {
        return;
    }
    hs->out_off = hs->out_len = 0;
    if (!hs->connector && hs->step == 2 && hs->state == RDI_HS_RUNNING) {
        hs->state = RDI_HS_DONE;
    }
}

// The MACs' function under labels that no message has. T has all that was said by now, both nonces among it, so
// there is no such key a second time, and none that both ends have if a word was changed on its way.
void rdi_hs_session_key(const struct rdi_hs *hs, bool from_connector, uint8_t key[RDI_KEY_BYTES]) {
    compute_mac(hs, from_connector ? 'c' : 'a', NULL, 0, key);
}
_Static_assert(MAC == RDI_KEY_BYTES, "a MAC is a key");

// ---- Messages in --------------------------------------------------------------------------------

static unsigned expected_type(const struct rdi_hs *hs) {
    if (hs->connector) {
        return hs->step == 0 ? CHALLENGE : WELCOME;
    }
    return hs->step == 0 ? HELLO : PROOF;
}

static bool length_fits(unsigned type, size_t length) {
    switch (type) {
    case HELLO:
        return length >= NONCE && length <= NONCE + RDI_HS_PAYLOAD;
    case CHALLENGE:
        return length == NONCE + MAC;
    case PROOF:
        return length == MAC;
    default:
        return length >= MAC && length <= RDI_HS_PAYLOAD + MAC;
    }
}

// Looks at as much of the header as is there. False: the handshake failed.
static bool check_header(struct rdi_hs *hs) {
    const uint8_t *in = hs->in;
    size_t letters = hs->in_len < sizeof magic ? hs->in_len : sizeof magic;
    if (memcmp(in, magic, letters) != 0) {
        fail_with(hs, RONDO_ERR_INVALID,
                  "the other side does not speak Rondo's protocol (its first bytes are wrong)");
        return false;
    }
    if (hs->in_len < HEADER) {
        return true;
    }
    unsigned version = get16(in + 4), type = in[6], kind = in[7];
    size_t length = get16(in + 8);
    if (version != PROTOCOL) {
        if (!hs->connector && hs->step == 0) {
            emit(hs, CHALLENGE, NULL, 0, NULL, 0, 0);
        }
        fail_with(
            hs, RONDO_ERR_VERSION,
            "the other side speaks version %u of Rondo's protocol, this side version %d: install"
            " the same release of Rondo on all hosts",
            version, PROTOCOL);
        return false;
    }
    if (type != expected_type(hs) || !length_fits(type, length)) {
        fail_with(
            hs, RONDO_ERR_INVALID,
            "the other side broke the protocol: message type %u of %zu bytes, expected type %u",
            type, length, expected_type(hs));
        return false;
    }
    if (kind != hs->kind) {
        fail_with(hs, RONDO_ERR_INVALID, "the other side wants %s, but this is %s", kind_name(kind),
                  kind_name(hs->kind));
        return false;
    }
    return true;
}

static void keep_payload(struct rdi_hs *hs, const uint8_t *payload, size_t n) {
    memcpy(hs->peer, payload, n);
    hs->peer_len = n;
}

// A whole message is in hs->in, with a correct header.
static void handle_message(struct rdi_hs *hs) {
    const uint8_t *message = hs->in;
    size_t n = hs->in_len;
    switch (message[6]) {
    case HELLO:
        keep_payload(hs, message + HEADER + NONCE, n - HEADER - NONCE);
        extend_transcript(hs, message, n);
        emit(hs, CHALLENGE, hs->nonce, NONCE, NULL, 0, 'A');
        hs->step = 1;
        break;
    case CHALLENGE:
        if (!check_mac(hs, 'A', message, n)) {
            return;
        }
        extend_transcript(hs, message, n);
        emit(hs, PROOF, NULL, 0, NULL, 0, 'C');
        hs->step = 1;
        break;
    case PROOF:
        if (!check_mac(hs, 'C', message, n)) {
            return;
        }
        extend_transcript(hs, message, n);
        hs->state = RDI_HS_NEED_REPLY;
        break;
    default:
        if (!check_mac(hs, 'W', message, n)) {
            return;
        }
        extend_transcript(hs, message, n);
        keep_payload(hs, message + HEADER, n - HEADER - MAC);
        hs->step = 2;
        hs->state = RDI_HS_DONE;
        break;
    }
    hs->in_len = 0;
}

void rdi_hs_input(struct rdi_hs *hs, const void *bytes, size_t n, size_t *used) {
    const uint8_t *at = bytes;
    size_t left = n;
    while (left > 0 && hs->state == RDI_HS_RUNNING && hs->step < 2) {
        size_t want = hs->in_len < HEADER ? HEADER : HEADER + get16(hs->in + 8);
        size_t take = want - hs->in_len < left ? want - hs->in_len : left;
        memcpy(hs->in + hs->in_len, at, take);
        hs->in_len += take;
        at += take;
        left -= take;
        if (hs->in_len <= HEADER && !check_header(hs)) {
            break;
        }
        // No message is empty, so a whole header alone is never a whole message.
        if (hs->in_len > HEADER && hs->in_len == HEADER + (size_t)get16(hs->in + 8)) {
            handle_message(hs);
        }
    }
    *used = n - left;
}
