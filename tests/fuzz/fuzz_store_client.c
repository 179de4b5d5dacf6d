// SPDX-License-Identifier: MIT
// The store's client against a server that has the key or has not, and answers as it should or as the input has it:
// handshakes and responses in pieces, too late, cut off, longer than they say. It runs over sockets in memory
// (sockets.h) and a clock that passes when the client waits.
//
//   input[0]  bit 0: the server has another key   1: it says bytes of the input instead of a handshake
//             2: the client gives a silent server up   3-7: most bytes in one read, 0: no limit
//   then      0xff: the connection is refused; for each request a byte: op % 3, bit 6: come, 2 silence, 3 hang-up, 4 bytes of the input, 5 changed
#include "sockets.h"
#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/store_wire.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <time.h>

#define MS UINT64_C(1000000)
#define REQUESTS 12

static struct input in;
static uint8_t how;
static uint64_t clock_ns;
static struct rdi_hs hs;
static struct sock *peer;
static const uint8_t keys[2][RDI_KEY_BYTES] = {"the ranks' key", "another key"};
static const struct rdi_job job = {.rank = 1, .size = 2, .auth = true, .key = keys[0]};
static const struct rdi_job other = {.rank = 0, .size = 2, .auth = true, .key = keys[1]};

static uint64_t now(void *self) {
    (void)self;
    return clock_ns;
}

static void ones(void *self, void *buf, size_t n) {
    (void)self;
    memset(buf, 0x11, n);
}

static const struct rdi_env env = {.now = now, .random = ones};

void __wrap_rdi_env_system(struct rdi_env *e, rondo_log_fn log, void *arg);
void __wrap_rdi_env_system(struct rdi_env *e, rondo_log_fn log, void *arg) {
    (void)log;
    (void)arg;
    *e = env;
}

static struct sockaddr_in address = {.sin_family = AF_INET};
static struct addrinfo found = {.ai_family = AF_INET,
                                .ai_socktype = SOCK_STREAM,
                                .ai_addrlen = sizeof address,
                                .ai_addr = (struct sockaddr *)&address};

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **out) {
    MUST(strcmp(host, "there") == 0 && strcmp(service, "29500") == 0 && hints != NULL);
    *out = &found;
    return 0;
}
void __wrap_freeaddrinfo(struct addrinfo *list);
void __wrap_freeaddrinfo(struct addrinfo *list) { MUST(list == &found); }

int __wrap_nanosleep(const struct timespec *t, struct timespec *left);
int __wrap_nanosleep(const struct timespec *t, struct timespec *left) {
    (void)left;
    clock_ns += (uint64_t)t->tv_sec * 1000 * MS + (uint64_t)t->tv_nsec;
    return 0;
}

// ---- The server ----------------------------------------------------------------------------------

static void answer(void) {
    uint8_t all[RDI_STORE_REQUEST_HEAD + 900], bytes[RDI_STORE_RESPONSE_HEAD + 300];
    const uint8_t *request = all;
    struct rdi_store_request r;
    size_t n = sockets_take(peer, all, sizeof all);
    if (n < RDI_STORE_REQUEST_HEAD || rdi_store_decode_request(request, &r) != NULL) {
        return;
    }
    size_t used = RDI_STORE_REQUEST_HEAD + r.key_len + r.value_len;
    // Leaving has no answer; and what was said too much before may have been taken for the answer to another one.
    while (r.op == RDI_STORE_LEAVE || n > used) {
        request += used;
        n -= used;
        if (n < RDI_STORE_REQUEST_HEAD || rdi_store_decode_request(request, &r) != NULL) {
            return;
        }
        used = RDI_STORE_REQUEST_HEAD + r.key_len + r.value_len;
    }
    MUST(n == used);
    uint8_t what = take_byte(&in);
    struct rdi_store_response response = {.status = what & 0x40 ? RONDO_ERR_TIMEOUT : RONDO_OK};
    response.value_len = r.op == RDI_STORE_GET && response.status == RONDO_OK ? what : 0;
    if (r.op == RDI_STORE_GET && (what & 0xe0) == 0x80) {
        response.status = RONDO_ERR_PEER; // somebody is lost
    }
    if (r.op == RDI_STORE_COME && response.status == RONDO_OK) {
        response.value_len = RDI_STORE_HOST_BYTES;
    }
    for (unsigned i = 0; what >= 0xc0 && i < 3; i++) {
        sockets_give(peer, (const uint8_t[]){RDI_STORE_PULSE}, 1);
    }
    rdi_store_encode_response(bytes, &response);
    memset(bytes + RDI_STORE_RESPONSE_HEAD, 'v', response.value_len);
    if (r.op == RDI_STORE_COME && response.value_len > 0) {
        const struct rdi_store_host h = {.pid = 7, .rank_0 = what & 1, .host = "there"};
        rdi_store_encode_host(bytes + RDI_STORE_RESPONSE_HEAD, &h);
    }
    n = RDI_STORE_RESPONSE_HEAD + response.value_len;
    const uint8_t *from = bytes;
    if (what & 16) {
        from = take_bytes(&in, take_byte(&in), &n);
    } else if (what & 32) {
        uint8_t at = take_byte(&in);
        bytes[at % n] ^= take_byte(&in);
    }
    if (!(what & 4)) {
        sockets_give(peer, from, n);
    }
    if (what & 8) {
        sockets_end(peer, 0);
    }
}

// The server's part of what the client waits for. False: nothing more comes.
static bool serve(void) {
    uint8_t bytes[RDI_HS_BUFFER];
    size_t used, n, had = peer->in_len - peer->in_off;
    if (how & 2) {
        const uint8_t *from = take_bytes(&in, 40, &n);
        sockets_give(peer, from, n);
        sockets_end(peer, n == 0 ? 104 : 0);
        return true;
    }
    if (hs.state == RDI_HS_DONE) {
        answer();
    }
    while (hs.state == RDI_HS_RUNNING && (n = sockets_take(peer, bytes, sizeof bytes)) > 0) {
        rdi_hs_input(&hs, bytes, n, &used);
    }
    if (hs.state == RDI_HS_NEED_REPLY) {
        rdi_hs_reply(&hs, NULL, 0);
    }
    n = hs.out_len - hs.out_off;
    sockets_give(peer, hs.out + hs.out_off, n);
    rdi_hs_sent(&hs, n);
    if (hs.state == RDI_HS_FAILED) {
        sockets_end(peer, 0);
    }
    return peer->in_len - peer->in_off > had || peer->in_end || peer->error != 0;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *p, nfds_t n, int timeout) {
    MUST(n == 1 && timeout >= 0);
    struct sock *s = sockets_of(p->fd);
    if (s->kind == SOCKET_DIALING) {
        sockets_answer(s, take_byte(&in) == 0xff ? 111 : 0);
        peer = s;
        s->piece = how >> 3;
        rdi_hs_accept(&hs, RDI_HS_STORE, how & 1 ? &other : &job, &env);
        return 1;
    }
    if (p->events == POLLOUT || serve()) {
        s->room = SOCKET_OUT;
        return 1;
    }
    clock_ns += (uint64_t)timeout * MS;
    return 0;
}

// ---- The whole -----------------------------------------------------------------------------------

static void use(struct rdi_store *st) {
    for (int i = 0; i < REQUESTS && in.left > 0; i++) {
        uint8_t op = take_byte(&in);
        void *value = NULL;
        size_t len = SIZE_MAX;
        rondo_status s;
        rdi_set_last_error("");
        // Vigilant ones would give signs of life, from a thread.
        switch (op & 0x40 && !(how & 4) ? 3 : op % 3) {
        case 3:
            s = rdi_store_come(st, &job);
            s = s == RONDO_AGAIN ? RONDO_ERR_BOOTSTRAP : s;
            if (op & 4) {
                rdi_store_leave(st, "tired");
            }
            break;
        case 0:
            s = rdi_store_tcp_ops.set(st, "key", "value", 5, 1000);
            break;
        case 1:
            s = rdi_store_will(st, "key", "will", op & 4 ? 4 : 0, 1000);
            break;
        default:
            s = rdi_store_tcp_ops.get(st, "key", &value, &len, op & 4 ? 0 : 1000);
            MUST((s == RONDO_OK) == (value != NULL));
            break;
        }
        if (value != NULL) {
            free(own_copy(value, len));
        }
        free(value);
        MUST(s == RONDO_OK || rondo_last_error()[0] != '\0');
        peer->room = op & 8 ? 10 : SOCKET_OUT;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct rdi_store *st = NULL;
    in = (struct input){data, size};
    how = take_byte(&in);
    clock_ns = 1000 * MS;
    rdi_set_last_error("");
    rondo_status s =
        rdi_store_connect_vigilant("there", 29500, &job, 2000, how & 4 ? 500 : 0, 3000, &st);
    if (s == RONDO_OK) {
        MUST(!(how & 3));
        use(st);
        rdi_store_close(st);
    } else {
        MUST(rondo_last_error()[0] != '\0');
    }
    MUST(clock_ns < 1000 * 1000 * MS);
    sockets_check_closed();
    return 0;
}
