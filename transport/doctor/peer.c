// SPDX-License-Identifier: MIT
// rondo-doctor --peer: the end that asks.
#include "transport/doctor/peer.h"
#include "transport/tcp/bytes.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CLOCK_ROUNDS 8
#define PAIRS 16u

static void look_at(struct doctor *d, unsigned check) { d->check = &dr_peer_checks[check]; }

// ---- The control connection ----------------------------------------------------------------------

static bool connect_address(struct dr_session *s, const struct addrinfo *a, struct dr_outcome *o) {
    struct sockaddr_storage to = {.ss_family = AF_UNSPEC}, from = {.ss_family = AF_UNSPEC};
    uint8_t hello[RDI_HS_PAYLOAD];
    size_t len = dr_hello(s, DR_FOR_CONTROL, hello);
    memcpy(&to, a->ai_addr, a->ai_addrlen);
    from.ss_family = to.ss_family; // whatever address the route has
    *o = (struct dr_outcome){.stage = DR_CONNECT};
    int fd = dr_dial(s, &from, &to, o);
    if (fd < 0) {
        return false;
    }
    if (!dr_shake(s, fd, true, hello, &len, rdi_now(&s->d->env) + s->answer_ns, o)) {
        close(fd);
        return false;
    }
    s->control = fd;
    return true;
}

// Each address of the name is tried; only when none answers that is an error.
static bool connect_control(struct dr_session *s, const char *host, int port) {
    struct doctor *d = s->d;
    char service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list;
    snprintf(service, sizeof service, "%d", port);
    // The resolver has deadlines of its own (resolv.conf(5)).
    int err = getaddrinfo(host, service, &hints, &list);
    if (err != 0) {
        dr_add(d, DR_ERROR, host, "the name cannot be resolved: %s", gai_strerror(err));
        dr_means(d, "ranks that are given this name as MASTER_ADDR do not find the store");
        dr_remedy(d,
                  "getent hosts %s; add it to DNS or /etc/hosts on all hosts, or give its address",
                  host);
        return false;
    }
    for (const struct addrinfo *a = list; a != NULL && s->control < 0; a = a->ai_next) {
        struct sockaddr_storage to = {.ss_family = AF_UNSPEC};
        struct dr_outcome o;
        char name[RDI_TCP_NAME];
        memcpy(&to, a->ai_addr, a->ai_addrlen);
        rdi_tcp_name(&to, name);
        if (connect_address(s, a, &o)) {
            dr_add(d, DR_OK, name, "rondo-doctor answers and has the key (%.3g ms)",
                   (double)o.connect_ns / 1e6);
        } else {
            // The last address decides; before it, one that does not answer is worth a line only.
            dr_explain(s, a->ai_next == NULL ? DR_ERROR : DR_INFO, name, &o, port);
        }
    }
    freeaddrinfo(list);
    return s->control >= 0;
}

static bool failed(struct dr_session *s, rondo_status status) {
    if (status == RONDO_OK) {
        return false;
    }
    dr_add(s->d, DR_ERROR, s->peer, "%s", rondo_last_error());
    dr_means(s->d, "the test is not complete");
    dr_remedy(s->d,
              "look at what rondo-doctor --listen says there; a larger --timeout for slow hosts");
    return true;
}

static bool exchange_cards(struct dr_session *s) {
    uint8_t message[DR_MESSAGE];
    size_t len;
    if (failed(s, dr_send_card(s)) ||
        failed(s, dr_await(s, DR_MSG_CARD, message, &len, rdi_now(&s->d->env) + s->answer_ns))) {
        return false;
    }
    if (!dr_read_card(s, message, len)) {
        return !failed(s, rdi_fail(RONDO_ERR_INVALID, "the other end's card cannot be read: install"
                                                      " the same release on both hosts"));
    }
    if (s->theirs.version != s->mine.version) {
        dr_add(s->d, DR_WARNING, s->peer, "Rondo %d.%d.%d there, %s here",
               s->theirs.version / 10000, s->theirs.version / 100 % 100, s->theirs.version % 100,
               rondo_version());
        dr_means(s->d, "a job needs one release on all hosts");
        dr_remedy(s->d, "install the same release on both");
    }
    return true;
}

// ---- Clocks --------------------------------------------------------------------------------------

static int64_t wall_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool compare_clocks(struct dr_session *s) {
    struct doctor *d = s->d;
    uint64_t best = UINT64_MAX;
    int64_t difference = 0;
    for (int i = 0; i < CLOCK_ROUNDS; i++) {
        uint8_t message[DR_MESSAGE];
        size_t len;
        uint64_t begin = rdi_now(&d->env);
        int64_t mine = wall_clock();
        if (failed(s, dr_send(s, DR_MSG_CLOCK, "", 0)) ||
            failed(s, dr_await(s, DR_MSG_CLOCK, message, &len, begin + s->answer_ns))) {
            return false;
        }
        uint64_t round = rdi_now(&d->env) - begin;
        // The shortest round trip tells it best: half of it passed when the other clock was read.
        if (len == 8 && round < best) {
            best = round;
            difference = (int64_t)rdi_get_le(message, 8) - mine - (int64_t)round / 2;
        }
    }
    double seconds = (double)difference / 1e9;
    bool far = seconds > 1 || seconds < -1;
    dr_add(d, far ? DR_WARNING : DR_OK, s->peer,
           "its clock is %.6g s %s; a round trip takes %.3g ms", seconds < 0 ? -seconds : seconds,
           seconds < 0 ? "behind" : "ahead", (double)best / 1e6);
    if (far) {
        dr_means(d,
                 "Rondo does not mind; logs of both hosts cannot be compared, and munge or Kerberos"
                 " may refuse");
        dr_remedy(d, "chronyc tracking, or timedatectl set-ntp true, on both hosts");
    }
    return true;
}

// ---- Paths ---------------------------------------------------------------------------------------

struct pair {
    unsigned mine, theirs; // addresses
    bool used;             // by a job
};

static unsigned find(const struct rdi_tcp_blob *b, const struct rdi_tcp_addr *a) {
    unsigned i = 0;
    while (i + 1 < b->count && (b->addr[i].port != a->port || b->addr[i].family != a->family ||
                                memcmp(b->addr[i].ip, a->ip, sizeof a->ip) != 0)) {
        i++;
    }
    return i;
}

// The pairs that a job would use, and then all others that could be.
static unsigned find_pairs(const struct dr_session *s, struct pair out[PAIRS]) {
    const struct rdi_tcp_blob *a = &s->mine.where, *b = &s->theirs.where;
    struct rdi_tcp_route routes[RDI_TCP_ROUTES];
    unsigned n = 0, count = rdi_tcp_routes(a, b, routes);
    while (count > 0 && (count > PAIRS || routes[count - 1].worth != routes[0].worth)) {
        count--;
    }
    for (unsigned i = 0; i < count; i++) {
        out[n++] = (struct pair){find(a, &routes[i].local), find(b, &routes[i].remote), true};
    }
    bool same = memcmp(a->host_id, b->host_id, sizeof a->host_id) == 0;
    for (unsigned i = 0; i < a->count && !same; i++) {
        for (unsigned j = 0; j < b->count && n < PAIRS; j++) {
            bool listed = false;
            for (unsigned k = 0; k < count; k++) {
                listed = listed || (out[k].mine == i && out[k].theirs == j);
            }
            if (!listed && a->addr[i].family == b->addr[j].family && !a->addr[i].loopback &&
                !b->addr[j].loopback) {
                out[n++] = (struct pair){i, j, false};
            }
        }
    }
    return n;
}

static void pair_name(const struct rdi_tcp_addr *from, const struct rdi_tcp_addr *to, char *out,
                      size_t cap) {
    char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];
    inet_ntop(from->family == 4 ? AF_INET : AF_INET6, from->ip, a, sizeof a);
    inet_ntop(to->family == 4 ? AF_INET : AF_INET6, to->ip, b, sizeof b);
    snprintf(out, cap, "%s -> %s", a, b);
}

static void tell_mtu(struct dr_session *s, const char *subject, const struct dr_outcome *o,
                     uint32_t here, uint32_t there) {
    struct doctor *d = s->d;
    uint32_t least = here < there ? here : there;
    least = least < 65535 ? least : 65535; // loopback has one more than a packet can
    look_at(d, DR_PEER_MTU);
    if (here != there && here > 0 && there > 0) {
        dr_add(d, DR_WARNING, subject, "the interfaces' MTUs differ: %u and %u", here, there);
        dr_means(d,
                 "TCP agrees on the smaller one; RDMA and UDP packets of the larger size are lost"
                 " without a word");
        dr_remedy(d, "the same MTU on both: ip link set INTERFACE mtu N");
    } else if (o->pmtu > 0 && o->pmtu < least) {
        dr_add(d, DR_WARNING, subject, "the way carries %u bytes at most, the interfaces %u",
               o->pmtu, least);
        dr_means(d,
                 "something between has a smaller MTU; each new connection has to find that out");
        dr_remedy(d, "raise the MTU of the switches or tunnels between, or lower that of the"
                     " interfaces");
    } else {
        dr_add(d, DR_OK, subject, "256 KiB at once arrive; MTU %u, %u bytes of data in a packet",
               least, o->mss);
    }
}

// True: it went well.
static bool tell_pair(struct dr_session *s, const struct pair *p, bool forward,
                      const struct dr_outcome *o) {
    struct doctor *d = s->d;
    const struct rdi_tcp_addr *mine = &s->mine.where.addr[p->mine];
    const struct rdi_tcp_addr *theirs = &s->theirs.where.addr[p->theirs];
    char subject[2 * INET6_ADDRSTRLEN + 8];
    pair_name(forward ? mine : theirs, forward ? theirs : mine, subject, sizeof subject);
    look_at(d, DR_PEER_PATH);
    if (o->stage != DR_DONE) {
        dr_explain(s, p->used ? DR_WARNING : DR_INFO, subject, o, 0);
        return false;
    }
    dr_add(d, DR_OK, subject, "connects in %.3g ms%s", (double)o->connect_ns / 1e6,
           p->used ? "; a job uses this pair" : "");
    tell_mtu(s, subject, o, s->mine.mtu[p->mine], s->theirs.mtu[p->theirs]);
    if (o->ns > 0) {
        look_at(d, DR_PEER_SPEED);
        dr_add(d, DR_OK, subject, "%.3g GB/s with one connection",
               (double)o->bytes / (double)o->ns);
    }
    return true;
}

// From there to here: the other end dials and tells.
static rondo_status probe_back(struct dr_session *s, const struct pair *p, struct dr_outcome *o) {
    uint8_t message[DR_MESSAGE] = {(uint8_t)p->theirs, (uint8_t)p->mine, p->used};
    size_t len;
    rdi_put_le(message + 3, s->answer_ns / DR_SECOND, 4);
    rondo_status status = dr_send(s, DR_MSG_DIAL, message, 7);
    if (status == RONDO_OK) {
        status = dr_await(s, DR_MSG_OUTCOME, message, &len,
                          rdi_now(&s->d->env) + 6 * s->answer_ns + 2 * DR_STREAM_NS);
    }
    if (status == RONDO_OK && !dr_outcome_read(o, message, len)) {
        status = rdi_fail(RONDO_ERR_INVALID, "the other end's result cannot be read");
    }
    return status;
}

// How many of the ways that a job uses fail; -1: the test broke off. *dead: all of one direction.
static int test_pairs(struct dr_session *s, bool *dead) {
    struct doctor *d = s->d;
    struct pair pairs[PAIRS];
    unsigned n = find_pairs(s, pairs), used = 0, good[2] = {0, 0};
    for (unsigned i = 0; i < n; i++) {
        struct dr_outcome o = {.stage = DR_CONNECT};
        dr_probe(s, &s->mine.where.addr[pairs[i].mine], &s->theirs.where.addr[pairs[i].theirs],
                 pairs[i].used, &o);
        bool forward = tell_pair(s, &pairs[i], true, &o);
        o = (struct dr_outcome){.stage = DR_CONNECT};
        if (failed(s, probe_back(s, &pairs[i], &o))) {
            return -1;
        }
        bool back = tell_pair(s, &pairs[i], false, &o);
        used += pairs[i].used;
        good[0] += forward && pairs[i].used;
        good[1] += back && pairs[i].used;
    }
    look_at(d, DR_PEER_PATH);
    if (used == 0) {
        dr_add(d, DR_ERROR, s->peer, "no pair of addresses fits: other families, or loopback only");
        dr_means(d, "ranks of these hosts cannot connect with TCP");
        dr_remedy(d, "give both hosts addresses of one family, and check RONDO_INTERFACE and"
                     " RONDO_FAMILY on both");
        *dead = true;
        return 1;
    }
    for (int back = 0; back <= 1; back++) {
        if (good[back] == 0) {
            *dead = true;
            dr_add(d, dr_wants(d, "tcp") ? DR_ERROR : DR_WARNING, s->peer,
                   "no connection %s works on the addresses that a job uses",
                   back ? "from there to here" : "from here to there");
            dr_means(d, "ranks cannot connect: rondo_init() fails after connect_timeout");
            dr_remedy(d, "see the ways above; RONDO_INTERFACE can choose another one");
        }
    }
    return (int)(2 * used - good[0] - good[1]);
}

// ---- The whole -----------------------------------------------------------------------------------

static void test(struct dr_session *s) {
    static const struct rdi_net_ops *const nets[] = {&rdi_tcp_ops, &rdi_verbs_ops};
    struct doctor *d = s->d;
    look_at(d, DR_PEER_CONNECT);
    if (!exchange_cards(s)) {
        return;
    }
    look_at(d, DR_PEER_CLOCK);
    if (!compare_clocks(s)) {
        return;
    }
    bool dead = false;
    int bad = test_pairs(s, &dead);
    look_at(d, DR_PEER_LINK);
    for (size_t i = 0; i < 2 && bad >= 0; i++) {
        bool asked = dr_wants(d, nets[i]->name) && !(dead && nets[i] == &rdi_tcp_ops);
        if (asked && failed(s, dr_send(s, DR_MSG_NET, nets[i]->name, strlen(nets[i]->name)))) {
            return;
        }
        bad += asked && !dr_link_test(s, nets[i], true);
    }
    uint8_t count[4];
    rdi_put_le(count, (uint64_t)(bad > 0 ? bad : 0), 4);
    failed(s, dr_send(s, DR_MSG_BYE, count, sizeof count));
}

void dr_peer(struct doctor *d) {
    struct dr_session s;
    char host[256] = "";
    int port = d->ask.port > 0 ? d->ask.port : DR_PORT;
    dr_split_peer(d->ask.peer, host, sizeof host, &port);
    look_at(d, DR_PEER_CONNECT);
    if (dr_session_open(&s, d)) {
        snprintf(s.peer, sizeof s.peer, "%.60s", host);
        if (connect_control(&s, host, port)) {
            test(&s);
        }
    }
    dr_session_close(&s);
}
