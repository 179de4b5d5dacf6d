// SPDX-License-Identifier: MIT
// Lost paths and lost peers: what is replayed, what is given up, how soon, and with which words.
#include "tests/unit/tcp_pair.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define LO "interface=lo"

// ---- A stream of messages over paths that break --------------------------------------------------

struct stream {
    struct pair *p;
    uint64_t count, checked;
    uint8_t *data;
    uint32_t random;
    unsigned cuts, resets;
    uint32_t epoch;
};

static uint32_t next_random(struct stream *s, uint32_t below) {
    s->random = s->random * 1664525u + 1013904223u;
    return (s->random >> 8) % below;
}

static uint32_t size_of(uint64_t seq, uint32_t max) { return (uint32_t)(seq * 7919 % (max + 1)); }

static void stream_send(struct stream *s) {
    struct rdi_link *l = s->p->link;
    if (l->state == RDI_LINK_LOST) {
        assert_true(strlen(l->why) > 20);
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

// Exactly once, in order, with the right contents: `checked` only grows by one, and the bytes must fit.
static void stream_receive(struct stream *s) {
    struct rdi_link *in = s->p->side[1].accepted;
    assert_true(in->epoch >= s->epoch);
    s->epoch = in->epoch;
    assert_true(in->released <= in->arrived && in->arrived <= in->released + in->slots);
    while (s->checked < in->arrived) {
        struct rdi_msg m;
        in->ops->peek(in, s->checked, &m);
        assert_true(m.tag == s->checked);
        assert_int_equal(m.len, size_of(s->checked, in->max_msg));
        assert_true(pair_matches(m.data, s->checked, m.len));
        s->checked++;
        // Some are held for a while, but never so many that nothing could come any more.
        if (next_random(s, 3) != 0 || s->checked - in->released > in->slots / 2) {
            in->ops->release(in, s->checked);
        }
    }
}

static bool stream_step(struct stream *s) {
    struct rdi_link *end = next_random(s, 2) ? s->p->link : s->p->side[1].accepted;
    if (s->cuts > 0 && next_random(s, 12) == 0 && end->state == RDI_LINK_UP) {
        s->cuts -= rdi_tcp_test_cut(end, next_random(s, rdi_tcp_test_paths(end)));
    }
    if (s->p->link->state == RDI_LINK_FAILED) {
        fail_msg("%s", s->p->link->why);
    }
    stream_send(s);
    stream_receive(s);
    return s->checked == s->count && s->p->link->sent == s->count;
}

// A message that comes again lands elsewhere, and what is not received shows.
enum { LANDINGS = 256 };
static uint8_t *land_anew(struct side *s, uint64_t tag, uint32_t len) {
    uint8_t *at = s->land_memory + (size_t)(s->lands % LANDINGS) * s->accepted->max_msg;
    memset(at, 0xee, len);
    return tag % 3 ? at : NULL;
}

static void run_stream(const char *options, unsigned cuts, uint32_t seed, bool landing) {
    struct pair p;
    pair_open(&p, options, LO);
    pair_connect(&p);
    struct stream s = {.p = &p, .count = 400, .cuts = cuts, .random = seed};
    s.data = malloc((size_t)p.link->slots * p.link->max_msg);
    p.side[1].land_memory = malloc((size_t)LANDINGS * p.link->max_msg);
    assert_true(s.data != NULL && p.side[1].land_memory != NULL);
    p.side[1].land = landing ? land_anew : NULL;
    pair_drive_until(&p, stream_step(&s));
    assert_true(s.resets > 0);
    assert_int_equal(p.side[1].accepts, 1); // it was the same link all the time
    assert_int_equal(p.link->epoch, p.side[1].accepted->epoch);
    assert_true(p.link->epoch > 0);
    pair_close(&p);
    free(p.side[1].land_memory);
    free(s.data);
}

static void test_replay(void **state) {
    (void)state;
    run_stream(LO ",chunk=16K", 8, 1, false);
    run_stream(LO ",chunk=256K", 8, 2, true);
}

static void test_replay_several_paths(void **state) {
    (void)state;
    for (uint32_t seed = 3; seed < 9; seed++) {
        run_stream(LO ",chunk=64K,tcp_sockets=4,slots=16", 8, seed, seed % 2);
    }
}

// Only the sender resets, but the receiver sees the loss too, and says so until the sender comes back.
static void test_loss_is_seen_on_both_ends(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    pair_connect(&p);
    struct rdi_link *in = p.side[1].accepted;
    assert_true(rdi_tcp_test_cut(in, 0));
    assert_false(rdi_tcp_test_cut(in, 1));
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST && in->state == RDI_LINK_LOST);
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb (127.0.0.1:"));
    assert_non_null(strstr(p.link->why, "rank 0 (127.0.0.1:"));
    assert_non_null(strstr(in->why, "rank 0 on host hosta"));
    struct rdi_put put = {.data = &p, .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_PATH);
    assert_int_equal(in->ops->ctrl(in, 1, "x", 1), RONDO_ERR_PATH);
    assert_int_equal(p.link->ops->reset(p.link, 0), RONDO_ERR_USAGE); // not a later epoch
    assert_int_equal(in->ops->reset(in, 1), RONDO_ERR_USAGE);         // not the sender
    assert_int_equal(p.link->ops->reset(p.link, 7), RONDO_OK);
    pair_drive_until(&p, pair_link_up(&p));
    assert_int_equal(p.link->epoch, 7);
    assert_int_equal(in->epoch, 7);
    pair_close(&p);
}

// A healthy link can be reset as well; what was whole stays, what was not is sent again.
static void test_reset_of_healthy_link(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",slots=4", LO);
    pair_connect(&p);
    struct rdi_link *in = p.side[1].accepted;
    static uint8_t bytes[3][100];
    for (uint64_t seq = 0; seq < 3; seq++) {
        struct rdi_put put = {.data = bytes[seq], .len = 100, .tag = seq};
        pair_fill(bytes[seq], seq, 100);
        assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    }
    pair_drive_until(&p, in->arrived == 3);
    in->ops->release(in, 1);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    assert_int_equal(p.link->state, RDI_LINK_CONNECTING);
    pair_drive_until(&p, p.link->state == RDI_LINK_UP && in->state == RDI_LINK_UP);
    assert_int_equal(p.link->posted, 3);
    assert_int_equal(p.link->sent, 3);
    assert_int_equal(p.link->credit, 5);
    for (uint64_t seq = 1; seq < 3; seq++) {
        struct rdi_msg m;
        in->ops->peek(in, seq, &m);
        assert_true(m.tag == seq && m.len == 100 && pair_matches(m.data, seq, 100));
    }
    pair_close(&p);
}

// Message 1 is whole when message 0 is lost with its path. It comes again, and must not count before 0 does.
static void test_whole_behind_a_gap(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2", LO);
    pair_connect(&p);
    struct rdi_tcp_link *in = (struct rdi_tcp_link *)p.side[1].accepted;
    static uint8_t bytes[2][100];
    struct rdi_put put[2];
    for (unsigned seq = 0; seq < 2; seq++) {
        pair_fill(bytes[seq], seq, 100);
        put[seq] = (struct rdi_put){.data = bytes[seq], .len = 100, .tag = seq};
    }
    assert_true(rdi_tcp_test_cut(p.link, 0));
    assert_int_equal(p.link->ops->put(p.link, &put[0]), RONDO_OK);
    assert_int_equal(p.link->ops->put(p.link, &put[1]), RONDO_OK);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (!in->in[1].whole && pair_now() < end) {
        rdi_tcp_rx(in->paths[1]);
    }
    assert_true(in->in[1].whole);
    assert_int_equal(in->base.arrived, 0);
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    pair_drive_until(&p, pair_link_up(&p));
    assert_int_equal(p.link->posted, 0);
    for (unsigned seq = 0; seq < 2; seq++) {
        assert_int_equal(p.link->ops->put(p.link, &put[seq]), RONDO_OK);
        pair_drive_until(&p, in->base.arrived > seq);
        assert_int_equal(in->base.arrived, seq + 1);
        struct rdi_msg m;
        in->base.ops->peek(&in->base, seq, &m);
        assert_true(m.tag == seq && pair_matches(m.data, seq, 100));
    }
    pair_close(&p);
}

// ---- Peers that are gone -------------------------------------------------------------------------

static void test_peer_closed_its_net(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",path_grace=60s", LO);
    pair_connect(&p);
    p.side[1].accepted->ops->close_link(p.side[1].accepted, false);
    p.side[1].accepted = NULL;
    p.side[1].net->ops->close(p.side[1].net);
    p.side[1].net = NULL;
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    uint64_t start = pair_now();
    p.link->ops->reset(p.link, 1); // may find out at once
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_true(pair_now() - start < 20000 * RDI_MS); // not after path_grace
    assert_int_equal(p.link->status, RONDO_ERR_PEER);
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb (127.0.0.1:"));
    assert_non_null(strstr(p.link->why, "is gone: connection refused"));
    struct rdi_put put = {.data = &p, .len = 1};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_ERR_PEER);
    pair_close(&p);
}

// The process lives but has dropped the link: the other end must not wait.
static void test_peer_closed_its_end(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",path_grace=60s", LO ",path_grace=60s");
    pair_connect(&p);
    p.side[1].accepted->ops->close_link(p.side[1].accepted, false);
    p.side[1].accepted = NULL;
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PEER);
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb has closed this link"));
    assert_int_equal(p.side[1].accepts, 1); // it was not taken for a new link
    pair_close(&p);

    pair_open(&p, LO ",path_grace=60s", LO ",path_grace=60s");
    pair_connect(&p);
    p.link->ops->close_link(p.link, false);
    p.link = NULL;
    pair_drive_until(&p, p.side[1].accepted->state == RDI_LINK_FAILED);
    assert_int_equal(p.side[1].accepted->status, RONDO_ERR_PEER);
    assert_non_null(strstr(p.side[1].accepted->why, "rank 0 on host hosta"));
    assert_int_equal(p.side[0].net->strangers, 0);
    pair_close(&p);
}

// The sender lives, still has the link, but does not come back.
static void test_grace_of_receiver(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO ",path_grace=300ms");
    pair_connect(&p);
    rdi_tcp_test_cut(p.link, 0);
    pair_drive_until(&p, p.side[1].accepted->state == RDI_LINK_FAILED);
    assert_int_equal(p.side[1].accepted->status, RONDO_ERR_PATH);
    assert_non_null(strstr(p.side[1].accepted->why, "process lives"));
    // Too late: the receiver has given up, and is not surprised.
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PEER);
    pair_close(&p);
}

// The receiver lives but does not answer (it does not call progress): the path is to blame, not the rank.
static void test_grace_of_sender(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",path_grace=300ms", LO);
    pair_connect(&p);
    rdi_tcp_test_cut(p.link, 0);
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS;
    while (p.link->state == RDI_LINK_CONNECTING && pair_now() < end) {
        p.side[0].net->ops->progress(p.side[0].net, false);
        usleep(1000);
    }
    assert_int_equal(p.link->state, RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PATH);
    assert_non_null(strstr(p.link->why, "within 300 ms"));
    pair_close(&p);
}

// ---- Peers that are killed -----------------------------------------------------------------------

// A child that is one side of a pair whose other side is ours. They tell their addresses through a socket.
struct child {
    pid_t pid;
    int fd;
};

static void send_address(int fd, struct rdi_net *net) {
    uint8_t blob[RDI_BLOB_MAX] = {0};
    size_t len;
    net->ops->address(net, blob, &len);
    if (send(fd, blob, len, 0) != (ssize_t)len) {
        abort();
    }
}

static struct rdi_link *connect_to(struct side *from, int fd, uint32_t to) {
    uint8_t blob[RDI_BLOB_MAX];
    ssize_t len = recv(fd, blob, sizeof blob, 0);
    assert_true(len > 0);
    struct rdi_link_id id = {.comm = 1, .from = (uint32_t)from->job.rank, .to = to};
    struct rdi_link *link = NULL;
    assert_int_equal(from->net->ops->connect(from->net, &id, blob, (size_t)len, &link), RONDO_OK);
    return link;
}

// The child's whole life: it works until it is killed.
static void child_works(int fd, int rank, bool sends) {
    struct side s;
    side_prepare(&s, rank, LO);
    side_open(&s);
    struct rdi_link *link = NULL;
    if (sends) {
        link = connect_to(&s, fd, (uint32_t)(1 - rank));
    } else {
        send_address(fd, s.net);
    }
    static uint8_t bytes[1000];
    for (;;) {
        s.net->ops->progress(s.net, false);
        if (link != NULL && link->state == RDI_LINK_UP) {
            struct rdi_put put = {.data = bytes, .len = sizeof bytes};
            link->ops->put(link, &put);
        }
        usleep(500);
    }
}

static struct child start_child(int rank, bool sends) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    fflush(NULL);
    struct child c = {.pid = fork(), .fd = fds[0]};
    assert_true(c.pid >= 0);
    if (c.pid == 0) {
        close(fds[0]);
        child_works(fds[1], rank, sends);
    }
    close(fds[1]);
    return c;
}

static void kill_child(struct child *c) {
    int status;
    kill(c->pid, SIGKILL);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(c->fd);
}

static void test_receiver_killed(void **state) {
    (void)state;
    struct child c = start_child(1, false);
    struct pair p = {0};
    side_prepare(&p.side[0], 0, LO ",path_grace=60s");
    side_open(&p.side[0]);
    p.link = connect_to(&p.side[0], c.fd, 1);
    pair_drive_until(&p, p.link->state == RDI_LINK_UP);
    kill_child(&c);
    uint64_t start = pair_now();
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    p.link->ops->reset(p.link, 1);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_PEER);
    assert_non_null(strstr(p.link->why, "is gone"));
    assert_true(pair_now() - start < 20000 * RDI_MS);
    pair_close(&p);
}

static void test_sender_killed(void **state) {
    (void)state;
    struct child c = start_child(1, true);
    struct pair p = {0};
    struct side *s = &p.side[0];
    side_prepare(s, 0, LO ",path_grace=60s");
    side_open(s);
    send_address(c.fd, s->net);
    pair_drive_until(&p, s->accepted != NULL && s->accepted->arrived > 2);
    kill_child(&c);
    uint64_t start = pair_now();
    pair_drive_until(&p, s->accepted->state == RDI_LINK_FAILED);
    assert_int_equal(s->accepted->status, RONDO_ERR_PEER);
    assert_non_null(strstr(s->accepted->why, "rank 1 on host hostb (127.0.0.1:"));
    assert_non_null(strstr(s->accepted->why, "is gone"));
    assert_true(pair_now() - start < 20000 * RDI_MS);
    s->accepted->ops->close_link(s->accepted, false);
    s->accepted = NULL;
    pair_close(&p);
}

// ---- Links that never come up --------------------------------------------------------------------

static void test_nobody_listens(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",connect_timeout=60s", LO);
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    p.side[1].net->ops->address(p.side[1].net, blob, &len);
    p.side[1].net->ops->close(p.side[1].net);
    p.side[1].net = NULL;
    struct rdi_link_id id = {.comm = 1, .from = 0, .to = 1};
    assert_int_equal(p.side[0].net->ops->connect(p.side[0].net, &id, blob, len, &p.link), RONDO_OK);
    uint64_t start = pair_now();
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_true(pair_now() - start < 30000 * RDI_MS);
    assert_int_equal(p.link->status, RONDO_ERR_PEER);
    assert_non_null(strstr(p.link->why, "connection refused"));
    pair_close(&p);
}

// Something listens where the peer should, and says nothing.
static void test_connect_timeout(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",connect_timeout=400ms", LO);
    p.link = pair_begin_link(&p, 1);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS, timeout = UINT64_MAX;
    assert_int_equal(p.side[0].net->ops->arm(p.side[0].net, &timeout), RONDO_OK);
    assert_true(timeout <= 400 * RDI_MS); // it asks to be called in time
    while (p.link->state == RDI_LINK_CONNECTING && pair_now() < end) {
        p.side[0].net->ops->progress(p.side[0].net, false);
        usleep(1000);
    }
    assert_int_equal(p.link->state, RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_TIMEOUT);
    assert_non_null(strstr(p.link->why, "rank 1 on host hostb (127.0.0.1:"));
    assert_non_null(strstr(p.link->why, "interface"));
    pair_close(&p);
}

static void test_refused_by_engine(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2", LO);
    p.side[1].refuse = RONDO_ERR_MISMATCH;
    p.link = pair_begin_link(&p, 1);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_MISMATCH);
    assert_non_null(strstr(p.link->why, "refused by rank 1 on host hostb: not today"));
    pair_close(&p);
}

static void test_bad_addresses(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO, LO);
    struct rdi_net *net = p.side[0].net;
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    struct rdi_link_id id = {.comm = 1, .from = 0, .to = 1};
    struct rdi_link *link = NULL;
    p.side[1].net->ops->address(p.side[1].net, blob, &len);
    assert_int_equal(net->ops->reach(net, blob, len - 1), RONDO_ERR_INVALID);
    assert_int_equal(net->ops->connect(net, &id, blob, len - 1, &link), RONDO_ERR_INVALID);
    blob[1] ^= 1; // another host: loopback does not lead there
    assert_int_equal(net->ops->reach(net, blob, len), RONDO_ERR_UNSUPPORTED);
    assert_non_null(strstr(rondo_last_error(), "hostb"));
    assert_int_equal(net->ops->connect(net, &id, blob, len, &link), RONDO_ERR_UNSUPPORTED);
    assert_null(link);
    pair_close(&p);
}

// ---- Rails ---------------------------------------------------------------------------------------

// Gives a net two interfaces 127.0.1.<last> and 127.0.2.<last> that pass for real ones of a host of its own.
static void give_rails(struct side *s, uint8_t last) {
    struct rdi_tcp_net *n = (struct rdi_tcp_net *)s->net;
    for (unsigned i = 0; i < n->self.count; i++) {
        close(n->listeners[i].fd);
    }
    memset(n->self.host_id, last, sizeof n->self.host_id);
    n->self.count = 2;
    for (unsigned i = 0; i < 2; i++) {
        n->self.addr[i] = (struct rdi_tcp_addr){.family = 4,
                                                .device = (uint8_t)i,
                                                .prefix = 24,
                                                .ip = {127, 0, (uint8_t)(1 + i), last}};
        int fd = rdi_tcp_listen(&n->self.addr[i]);
        assert_true(fd >= 0);
        n->listeners[i] = (struct rdi_tcp_listener){.source = RDI_TCP_LISTENER, .fd = fd};
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &n->listeners[i]};
        assert_int_equal(epoll_ctl(n->epfd, EPOLL_CTL_ADD, fd, &e), 0);
    }
}

static bool path_goes(const struct rdi_link *link, unsigned path, const char *from,
                      const char *to) {
    const struct rdi_tcp_link *l = (const struct rdi_tcp_link *)link;
    char local[RDI_TCP_NAME], remote[RDI_TCP_NAME];
    rdi_tcp_name(&l->paths[path]->local, local);
    rdi_tcp_name(&l->paths[path]->remote, remote);
    return strncmp(local, from, strlen(from)) == 0 && strncmp(remote, to, strlen(to)) == 0;
}

static void test_rails(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",tcp_sockets=2,chunk=64K", LO);
    give_rails(&p.side[0], 1);
    give_rails(&p.side[1], 2);
    pair_connect(&p);
    assert_int_equal(rdi_tcp_test_paths(p.link), 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(i % 2 == 0 ? path_goes(p.link, i, "127.0.1.1:", "127.0.1.2:")
                               : path_goes(p.link, i, "127.0.2.1:", "127.0.2.2:"));
    }
    struct stream s = {.p = &p, .count = 200, .cuts = 3, .random = 5};
    s.data = malloc((size_t)p.link->slots * p.link->max_msg);
    assert_non_null(s.data);
    pair_drive_until(&p, stream_step(&s));
    free(s.data);
    pair_close(&p);
}

// A listener whose queue is full does not answer at all, as an address behind a dead rail.
static int make_deaf(struct rdi_tcp_net *n, unsigned which, int busy[8]) {
    int fd = n->listeners[which].fd;
    epoll_ctl(n->epfd, EPOLL_CTL_DEL, fd, NULL);
    assert_int_equal(listen(fd, 0), 0);
    struct sockaddr_storage to;
    socklen_t len = rdi_tcp_sockaddr(&n->self.addr[which], n->self.addr[which].port, &to);
    for (int i = 0; i < 8; i++) {
        busy[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        assert_true(busy[i] >= 0);
        connect(busy[i], (struct sockaddr *)&to, len);
    }
    return fd;
}

static void test_dead_rail(void **state) {
    (void)state;
    struct pair p;
    int busy[8];
    pair_open(&p, LO, LO);
    give_rails(&p.side[0], 1);
    give_rails(&p.side[1], 2);
    make_deaf((struct rdi_tcp_net *)p.side[1].net, 1, busy);
    pair_connect(&p);
    assert_int_equal(rdi_tcp_test_paths(p.link), 1); // goes on with what there is
    assert_true(path_goes(p.link, 0, "127.0.1.1:", "127.0.1.2:"));
    assert_non_null(strstr(p.side[0].last_line, "127.0.2.2:"));
    struct stream s = {.p = &p, .count = 100, .random = 5};
    s.data = malloc((size_t)p.link->slots * p.link->max_msg);
    assert_non_null(s.data);
    pair_drive_until(&p, stream_step(&s));
    free(s.data);
    for (int i = 0; i < 8; i++) {
        close(busy[i]);
    }
    pair_close(&p);
}

static void decide_rail(struct side *s, unsigned which) {
    ((struct rdi_tcp_net *)s->net)->self.addr[which].preferred = true;
}

static void test_decided_rail(void **state) {
    (void)state;
    struct pair p;
    char text[512] = "";
    pair_open(&p, LO, LO);
    give_rails(&p.side[0], 1);
    give_rails(&p.side[1], 2);
    decide_rail(&p.side[0], 1);
    decide_rail(&p.side[1], 1);
    pair_connect(&p);
    assert_int_equal(rdi_tcp_test_paths(p.link), 1);
    assert_true(path_goes(p.link, 0, "127.0.2.1:", "127.0.2.2:"));
    p.link->ops->describe(p.link, text, sizeof text);
    assert_non_null(strstr(text, "1 path over the decided NICs"));
    pair_close(&p);
}

// The only rail that both have decided on is dead: the others stand in for it.
static void test_decided_rail_is_dead(void **state) {
    (void)state;
    struct pair p;
    int busy[8];
    char text[512] = "";
    pair_open(&p, LO, LO);
    give_rails(&p.side[0], 1);
    give_rails(&p.side[1], 2);
    decide_rail(&p.side[0], 1);
    decide_rail(&p.side[1], 1);
    make_deaf((struct rdi_tcp_net *)p.side[1].net, 1, busy);
    p.link = pair_begin_link(&p, 42);
    uint64_t timeout = UINT64_MAX;
    assert_int_equal(p.side[0].net->ops->arm(p.side[0].net, &timeout), RONDO_OK);
    assert_true(timeout <= 3000 * RDI_MS); // it asks to be called in time
    pair_drive_until(&p, pair_link_up(&p));
    assert_int_equal(rdi_tcp_test_paths(p.link), 1);
    assert_true(path_goes(p.link, 0, "127.0.1.1:", "127.0.1.2:"));
    assert_non_null(strstr(p.side[0].last_line, "127.0.2.2:"));
    p.link->ops->describe(p.link, text, sizeof text);
    assert_non_null(strstr(text, "1 path beside the decided NICs"));
    for (int i = 0; i < 8; i++) {
        close(busy[i]);
    }
    pair_close(&p);
}

// Where little is said one way is enough, and the others stand in for it.
static void test_narrow_link(void **state) {
    (void)state;
    struct pair p;
    int busy[8];
    pair_open(&p, LO ",tcp_sockets=3", LO);
    give_rails(&p.side[0], 1);
    give_rails(&p.side[1], 2);
    p.side[0].net->params.narrow = true;
    pair_connect(&p);
    assert_int_equal(rdi_tcp_test_paths(p.link), 1);
    assert_true(path_goes(p.link, 0, "127.0.1.1:", "127.0.1.2:"));
    make_deaf((struct rdi_tcp_net *)p.side[1].net, 0, busy);
    assert_true(rdi_tcp_test_cut(p.link, 0));
    pair_drive_until(&p, p.link->state == RDI_LINK_LOST);
    assert_int_equal(p.link->ops->reset(p.link, 1), RONDO_OK);
    pair_drive_until(&p, pair_link_up(&p));
    assert_int_equal(rdi_tcp_test_paths(p.link), 1);
    assert_true(path_goes(p.link, 0, "127.0.2.1:", "127.0.2.2:"));
    for (int i = 0; i < 8; i++) {
        close(busy[i]);
    }
    pair_close(&p);
}

// The kernel of a peer that does not run answers on every rail, and that is all: nothing is to be done but to wait.
static void test_stopped_peer(void **state) {
    (void)state;
    struct pair p;
    pair_open(&p, LO ",connect_timeout=60s", LO);
    give_rails(&p.side[0], 1);
    give_rails(&p.side[1], 2);
    p.link = pair_begin_link(&p, 42);
    struct rdi_net *net = p.side[0].net;
    struct rdi_tcp_link *l = (struct rdi_tcp_link *)p.link;
    assert_int_equal(l->npaths, 2);
    uint64_t end = pair_now() + PAIR_SECONDS * 1000 * RDI_MS, timeout = UINT64_MAX;
    while ((l->paths[0]->stage != RDI_TCP_SHAKING || l->paths[1]->stage != RDI_TCP_SHAKING) &&
           pair_now() < end) {
        net->ops->progress(net, false);
    }
    l->attempt_at = 1; // long ago
    net->ops->progress(net, false);
    assert_int_equal(l->attempt, 1);
    assert_int_equal(net->ops->arm(net, &timeout), RONDO_OK);
    assert_true(timeout > 10000 * RDI_MS);
    net->ops->disarm(net);
    pair_drive_until(&p, pair_link_up(&p));
    assert_int_equal(rdi_tcp_test_paths(p.link), 2);
    pair_close(&p);
}

// All rails are dead, and the error names them.
static void test_all_rails_are_dead(void **state) {
    (void)state;
    struct pair p;
    int busy[2][8];
    pair_open(&p, LO ",connect_timeout=4500ms", LO);
    give_rails(&p.side[0], 1);
    give_rails(&p.side[1], 2);
    decide_rail(&p.side[0], 0);
    for (unsigned i = 0; i < 2; i++) {
        make_deaf((struct rdi_tcp_net *)p.side[1].net, i, busy[i]);
    }
    p.link = pair_begin_link(&p, 42);
    pair_drive_until(&p, p.link->state == RDI_LINK_FAILED);
    assert_int_equal(p.link->status, RONDO_ERR_TIMEOUT);
    assert_non_null(strstr(p.link->why, "127.0.1.1 to 127.0.1.2, 127.0.2.1 to 127.0.2.2"));
    for (unsigned i = 0; i < 16; i++) {
        close(busy[i / 8][i % 8]);
    }
    pair_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_replay_several_paths),
        cmocka_unit_test(test_loss_is_seen_on_both_ends),
        cmocka_unit_test(test_reset_of_healthy_link),
        cmocka_unit_test(test_whole_behind_a_gap),
        cmocka_unit_test(test_peer_closed_its_net),
        cmocka_unit_test(test_peer_closed_its_end),
        cmocka_unit_test(test_grace_of_receiver),
        cmocka_unit_test(test_grace_of_sender),
        cmocka_unit_test(test_receiver_killed),
        cmocka_unit_test(test_sender_killed),
        cmocka_unit_test(test_nobody_listens),
        cmocka_unit_test(test_connect_timeout),
        cmocka_unit_test(test_refused_by_engine),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_rails),
        cmocka_unit_test(test_dead_rail),
        cmocka_unit_test(test_decided_rail),
        cmocka_unit_test(test_decided_rail_is_dead),
        cmocka_unit_test(test_narrow_link),
        cmocka_unit_test(test_stopped_peer),
        cmocka_unit_test(test_all_rails_are_dead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
