// SPDX-License-Identifier: MIT
// The store's server against strangers and clients: connections that say anything, prove the key and then ask for
// anything, in pieces, at once, and end at any time. It runs over sockets in memory (sockets.h) and a clock of the
// input's.
//
// The input is a list of steps, each a byte and its arguments. As long as clients ask for nothing that cannot be,
// each gets its answers in order, and of a key what somebody has set there; no waiting is for ever; nothing is left.
#include "sockets.h"
#include "transport/bootstrap/store_server.h"
#include "world.h"

#include <sys/epoll.h>
#include <unistd.h>

#define STEPS 150
#define CLIENTS 8
#define KEYS 4
#define LIMIT 20000u

struct client {
    struct sock *s;
    bool raw;  // a stranger
    bool wild; // has said something that no client says
    struct rdi_hs hs;
    unsigned asked[64], first, last; // what its answers are to: the request's op and key
    bool member;                     // it has asked to be put on the roll
    uint8_t got[RDI_STORE_RESPONSE_HEAD + 4096];
    size_t got_len;
};

static struct rdi_store_server server;
static struct client clients[CLIENTS];
static bool wild;

// For the address of a stranger, in text.
int __wrap_getnameinfo(const struct sockaddr *a, socklen_t len, char *host, socklen_t host_len,
                       char *service, socklen_t service_len, int flags);
int __wrap_getnameinfo(const struct sockaddr *a, socklen_t len, char *host, socklen_t host_len,
                       char *service, socklen_t service_len, int flags) {
    (void)service;
    (void)service_len;
    (void)flags;
    free(own_copy(a, len));
    snprintf(host, host_len, "10.0.0.2");
    return 0;
}

static void told(void *arg, const char *key, const void *value, size_t len) {
    MUST(arg == &server && strncmp(key, "k0", 2) == 0);
    free(own_copy(value, len));
}

// ---- Clients -------------------------------------------------------------------------------------

static void forget_closed(void) {
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (clients[i].s != NULL && !clients[i].s->watched) {
            clients[i].s = NULL;
        }
    }
}

static struct client *pick(uint8_t number) {
    forget_closed();
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (clients[(number + i) % CLIENTS].s != NULL) {
            return &clients[(number + i) % CLIENTS];
        }
    }
    return NULL;
}

static void check_value(unsigned key, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n && !wild; i++) {
        MUST(bytes[i] == '0' + key);
    }
}

// An answer that is whole; *used is how long it is.
static bool check_answer(struct client *c, size_t *used) {
    struct rdi_store_response r;
    size_t pulses = 0;
    while (pulses < c->got_len && c->got[pulses] == RDI_STORE_PULSE) {
        pulses++;
    }
    MUST(pulses == 0 || c->member);
    memmove(c->got, c->got + pulses, c->got_len - pulses);
    c->got_len -= pulses;
    if (c->got_len < RDI_STORE_RESPONSE_HEAD) {
        return false;
    }
    MUST(rdi_store_decode_response(c->got, &r) == NULL);
    *used = RDI_STORE_RESPONSE_HEAD + r.value_len;
    if (c->wild || r.value_len > sizeof c->got - RDI_STORE_RESPONSE_HEAD) {
        c->wild = true;
        return false;
    }
    if (c->got_len < *used) {
        return false;
    }
    MUST(c->first < c->last);
    unsigned asked = c->asked[c->first++ % 64], op = asked >> 8;
    bool loss = op == RDI_STORE_GET && c->member && r.status == RONDO_ERR_PEER;
    MUST(r.status == RONDO_OK || r.status == RONDO_ERR_NOMEM || loss ||
         (op == RDI_STORE_GET && r.status == RONDO_ERR_TIMEOUT) ||
         (op == RDI_STORE_COME &&
          (r.status == RONDO_ERR_BOOTSTRAP || r.status == RONDO_ERR_INVALID ||
           r.status == RONDO_ERR_MISMATCH)));
    MUST(op == RDI_STORE_GET || op == RDI_STORE_COME || r.value_len == 0);
    if (loss) {
        MUST(r.value_len > 5 && memcmp(c->got + RDI_STORE_RESPONSE_HEAD, "rank ", 5) == 0);
    } else if (op == RDI_STORE_GET) {
        check_value(asked & 0xff, c->got + RDI_STORE_RESPONSE_HEAD, r.value_len);
    } else if (op == RDI_STORE_COME && r.status == RONDO_OK) {
        struct rdi_store_host h;
        MUST(rdi_store_decode_host(c->got + RDI_STORE_RESPONSE_HEAD, r.value_len, &h) == NULL);
    }
    return true;
}

static void hear(struct client *c) {
    size_t n, used;
    if (c->wild) {
        c->s->out_len = 0;
        return;
    }
    while ((n = sockets_take(c->s, c->got + c->got_len, sizeof c->got - c->got_len)) > 0) {
        c->got_len += n;
        while (check_answer(c, &used)) {
            memmove(c->got, c->got + used, c->got_len - used);
            c->got_len -= used;
        }
        if (c->wild) {
            return;
        }
    }
}

// Whether it went on.
static bool shake(struct client *c) {
    uint8_t bytes[RDI_HS_BUFFER];
    size_t used, n;
    while (c->hs.state == RDI_HS_RUNNING && (n = sockets_take(c->s, bytes, sizeof bytes)) > 0) {
        rdi_hs_input(&c->hs, bytes, n, &used);
    }
    n = c->hs.out_len - c->hs.out_off;
    sockets_give(c->s, c->hs.out + c->hs.out_off, n);
    rdi_hs_sent(&c->hs, n);
    return n > 0;
}

static bool talk(void) {
    bool moved = false;
    forget_closed();
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *c = &clients[i];
        if (c->s == NULL || c->raw) {
            continue;
        }
        if (c->hs.state != RDI_HS_DONE) {
            moved |= shake(c);
        }
        if (c->hs.state == RDI_HS_DONE) {
            hear(c);
        }
    }
    return moved;
}

// Only a turn changes what is stored.
static void check_data(void) {
    const struct rdi_data *d = &server.data;
    size_t entries = 0, bytes = 0;
    for (size_t b = 0; b < d->bucket_count; b++) {
        for (const struct rdi_entry *e = d->buckets[b]; e != NULL; e = e->next) {
            entries++;
            bytes += e->key_len + (e->value != NULL ? e->value->len : 0);
            MUST(e->value == NULL || e->value->refs >= 1);
        }
    }
    MUST(entries == d->entries && bytes <= d->bytes && d->bytes <= LIMIT);
}

// ---- Steps ---------------------------------------------------------------------------------------

// What the server's thread does, once.
static void turn(struct input *in) {
    static const uint64_t steps[] = {0, 0, 1, 50, 400, 1200, 3500, 60000};
    struct epoll_event ready[64];
    uint8_t how = take_byte(in);
    clock_ns += steps[how % 8] * MS;
    bool moved = true;
    for (int round = 0; round < 3 && moved; round++) {
        moved = talk();
        int n = epoll_wait(server.epoll, ready, 64, 0);
        for (int i = 0; i < n; i++) {
            rdi_conn_serve(&server, ready[i].data.ptr);
            moved = true;
        }
        struct rdi_conn_list *lists[] = {&server.strangers, &server.clients};
        server.check_at = UINT64_MAX;
        for (int i = 0; i < 2; i++) {
            for (struct rdi_conn *c = lists[i]->first, *next; c != NULL; c = next) {
                next = c->next;
                rdi_conn_expire(&server, c, clock_ns);
            }
        }
        rdi_roll_tick(&server, clock_ns);
        rdi_conn_bury(&server);
    }
    talk();
    check_data();
}

static void knock(struct input *in) {
    uint8_t how = take_byte(in);
    unsigned i = 0;
    forget_closed();
    while (i < CLIENTS && clients[i].s != NULL) {
        i++;
    }
    struct sock *s = i < CLIENTS ? sockets_connected() : NULL;
    if (s == NULL) {
        return;
    }
    struct client *c = &clients[i];
    c->s = s;
    c->raw = c->wild = how & 1;
    c->first = c->last = 0;
    c->member = false;
    c->got_len = 0;
    if (c->raw) {
        size_t n;
        const uint8_t *bytes = take_bytes(in, how >> 1, &n);
        sockets_give(s, bytes, n);
    } else {
        rdi_hs_connect(&c->hs, RDI_HS_STORE, &server.job, &server.env, NULL, 0);
    }
    rdi_conn_adopt(&server, s->fd);
    rdi_conn_bury(&server);
}

static void ask(struct input *in) {
    struct client *c = pick(take_byte(in));
    uint8_t how = take_byte(in);
    uint16_t more = (uint16_t)take_number(in, 2);
    unsigned op = 1 + how % 3, key = how >> 2 & 3;
    char name[8];
    snprintf(name, sizeof name, "k%u", key);
    struct rdi_store_request r = {.op = op, .key_len = 2, .timeout_ms = (how >> 4 & 3) * 500};
    r.value_len = op == RDI_STORE_GET ? 0 : op == RDI_STORE_WILL ? more % 64 : more % 4000;
    if (c == NULL || c->raw || c->hs.state != RDI_HS_DONE || c->last - c->first >= 64) {
        return;
    }
    uint8_t bytes[RDI_STORE_REQUEST_HEAD + 2 + 4000];
    rdi_store_encode_request(bytes, &r);
    memcpy(bytes + RDI_STORE_REQUEST_HEAD, name, 2);
    memset(bytes + RDI_STORE_REQUEST_HEAD + 2, '0' + (int)key, r.value_len);
    if (how & 0x80) {
        uint8_t at = take_byte(in);
        bytes[at % (RDI_STORE_REQUEST_HEAD + 2)] ^= take_byte(in);
        wild = c->wild = true;
    }
    if (c->s->in_len - c->s->in_off + sizeof bytes > SOCKET_IN) {
        return;
    }
    c->asked[c->last++ % 64] = op << 8 | key;
    sockets_give(c->s, bytes, RDI_STORE_REQUEST_HEAD + 2 + r.value_len);
    // A client has one request at a time; where it does not wait, it may be dropped, and is from here on.
    c->wild = c->wild || c->last - c->first > 1;
}

// Comes, leaves, or gives a sign of life.
static void meet(struct input *in) {
    struct client *c = pick(take_byte(in));
    uint8_t how = take_byte(in);
    uint8_t bytes[RDI_STORE_REQUEST_HEAD + 1 + RDI_STORE_COME_BYTES];
    struct rdi_store_request r = {.op = how & 1 ? RDI_STORE_LEAVE : RDI_STORE_COME, .key_len = 1};
    struct rdi_store_come who = {.rank = how >> 4 & 3, .size = 4 << (how >> 6), .pid = 7};
    who.grace_ms = how & 8 ? 1000 : 0;
    who.silence_ms = 3000;
    who.launch = how & 4 ? 1 + (how >> 3 & 1) : 0; // this job's, another one's, or not told
    if (c == NULL || c->raw || c->hs.state != RDI_HS_DONE || c->last - c->first >= 64 ||
        c->s->in_len - c->s->in_off + sizeof bytes > SOCKET_IN) {
        return;
    }
    if (how & 2) {
        static const uint8_t pulse = RDI_STORE_PULSE;
        sockets_give(c->s, &pulse, 1);
        wild |= !c->member;
        c->wild |= !c->member;
        return;
    }
    r.value_len = how & 1 ? how >> 4 : RDI_STORE_COME_BYTES;
    rdi_store_encode_request(bytes, &r);
    bytes[RDI_STORE_REQUEST_HEAD] = 'r';
    if (how & 1) {
        memset(bytes + RDI_STORE_REQUEST_HEAD + 1, how & 4 ? '\n' : 'w', r.value_len);
    } else {
        rdi_store_encode_come(bytes + RDI_STORE_REQUEST_HEAD + 1, &who);
        c->asked[c->last++ % 64] = RDI_STORE_COME << 8;
        c->member = c->member || who.launch != 2;
    }
    sockets_give(c->s, bytes, RDI_STORE_REQUEST_HEAD + 1 + r.value_len);
    c->wild = c->wild || c->last - c->first > 1 || (how & 1) != 0;
    wild |= c->wild;
}

static void give_bytes(struct input *in) {
    struct client *c = pick(take_byte(in));
    size_t n;
    const uint8_t *bytes = take_bytes(in, take_byte(in), &n);
    if (c != NULL) {
        sockets_give(c->s, bytes, n);
        wild = c->wild = true;
    }
}

static void limit(struct input *in) {
    struct client *c = pick(take_byte(in));
    if (c != NULL) {
        c->s->piece = take_byte(in);
        c->s->room = take_byte(in) * 16u;
    }
}

static void end_client(struct input *in) {
    struct client *c = pick(take_byte(in));
    uint8_t how = take_byte(in);
    if (c != NULL) {
        sockets_end(c->s, how & 1 ? 104 : 0);
    }
}

// ---- The whole -----------------------------------------------------------------------------------

static void check_accounts(void) {
    MUST(server.data.bytes <= LIMIT);
    MUST(atomic_load(&server.clients_now) == server.clients.count);
    size_t members = 0;
    for (const struct rdi_conn *c = server.clients.first; c != NULL; c = c->next) {
        members += c->member != NULL;
    }
    MUST(atomic_load(&server.members_now) == members && (server.tick_at == 0 || members > 0));
    MUST(server.strangers.count <= server.limits.strangers && server.graveyard.first == NULL);
    for (const struct rdi_conn *c = server.clients.first; c != NULL; c = c->next) {
        // Who is idle may be so; everybody else has a time.
        MUST(c->deadline != 0 || (c->state == CONN_HEAD && c->got == 0));
    }
}

static void begin(void) {
    memset(&server, 0, sizeof server);
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i].s = NULL;
    }
    world_begin();
    wild = false;
    server.job = (struct rdi_job){.size = 2, .auth = true, .key = world_key, .launch = 1};
    server.env = world_env;
    server.limits = (struct rdi_store_limits){
        .clients = 6, .strangers = 3, .handshake_ms = 1000, .stall_ms = 3000, .bytes = LIMIT};
    server.epoll = epoll_create1(0);
    server.check_at = UINT64_MAX;
    pthread_mutex_init(&server.lock, NULL);
    MUST(rdi_data_init(&server.data, LIMIT));
    rdi_store_server_tell(&server, "k0", told, &server);
}

static void end(void) {
    server.closing = true;
    while (server.strangers.first != NULL) {
        rdi_conn_drop(&server, server.strangers.first);
    }
    while (server.clients.first != NULL) {
        rdi_conn_drop(&server, server.clients.first);
    }
    rdi_conn_bury(&server);
    rdi_roll_close(&server);
    rdi_data_free(&server.data);
    close(server.epoll);
    pthread_mutex_destroy(&server.lock);
    sockets_check_closed();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const steps[])(struct input *) = {turn,  knock,      ask,  turn,
                                                    limit, give_bytes, meet, end_client};
    struct input in = {data, size};
    begin();
    for (int i = 0; i < STEPS && in.left > 0; i++) {
        steps[take_byte(&in) % (sizeof steps / sizeof steps[0])](&in);
        check_accounts();
    }
    end();
    return 0;
}
