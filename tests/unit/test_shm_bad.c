// SPDX-License-Identifier: MIT
// The shared-memory transport among bad company: peers that die, strangers, another job's key, another user,
// peers that break the rules, and descriptors that run out. Each ends in one clear error, and whoever is not
// concerned does not notice.
#include "tests/unit/shm_side.h"
#include "transport/memfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define OPTIONS "slots=4,chunk=64K,connect_timeout=4s"

static void expect_why(const struct rdi_link *l, const char *word) {
    if (strstr(l->why, word) == NULL) {
        print_message("expected '%s' in: %s\n", word, l->why);
    }
    assert_non_null(strstr(l->why, word));
}

static rondo_status put(struct rdi_link *l, const void *data, uint32_t len) {
    struct rdi_put p = {.data = data, .len = len, .tag = l->posted};
    return l->ops->put(l, &p);
}

// ---- A peer in a process of its own --------------------------------------------------------------

// Rank 1 in a child: opens a link to rank 0, puts two messages, and then does what `rest` says.
struct child {
    pid_t pid;
    int wire; // to it
};

struct child_side {
    struct side side;
    struct rdi_link *out;
    int wire;
};

static bool write_address(int wire, struct side *s) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    s->net->ops->address(s->net, blob, &len);
    return send(wire, blob, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static struct rdi_link *connect_by_wire(int wire, struct side *s, uint32_t to) {
    uint8_t blob[RDI_BLOB_MAX];
    ssize_t len = recv(wire, blob, sizeof blob, 0);
    struct rdi_link_id id = {.comm = 5, .from = (uint32_t)s->job.rank, .to = to};
    struct rdi_link *l = NULL;
    if (len <= 0 || s->net->ops->connect(s->net, &id, blob, (size_t)len, &l) != RONDO_OK) {
        return NULL;
    }
    return l;
}

static void start_child(struct child *c, int (*body)(struct child_side *me)) {
    int wire[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, wire), 0);
    c->pid = fork();
    assert_true(c->pid >= 0);
    if (c->pid == 0) {
        static struct child_side me;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(wire[0]);
        me.wire = wire[1];
        _exit(side_open(&me.side, 1, 2, OPTIONS) ? body(&me) : 99);
    }
    close(wire[1]);
    c->wire = wire[0];
}

static int end_child(struct child *c) {
    int status;
    close(c->wire);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    return status;
}

// ---- Death ---------------------------------------------------------------------------------------

static bool say(int wire, char c) { return send(wire, &c, 1, MSG_NOSIGNAL) == 1; }
static char hear(int wire) {
    char c = 0;
    return recv(wire, &c, 1, 0) == 1 ? c : '!';
}

static bool put_two(struct child_side *me) {
    uint8_t data[3000];
    memset(data, 7, sizeof data);
    me->out = connect_by_wire(me->wire, &me->side, 0);
    return me->out != NULL && side_await(&me->side, NULL, me->out, RDI_LINK_UP) &&
           put(me->out, data, 10) == RONDO_OK && put(me->out, data, sizeof data) == RONDO_OK;
}

static int put_two_and_hang(struct child_side *me) {
    if (!put_two(me) || !say(me->wire, 'r')) {
        return 1;
    }
    for (;;) {
        pause();
    }
}

// A process of its own holds all of the child's descriptors open, as a data loader forked by a rank does.
static int hang_with_heir(struct child_side *me) {
    if (!put_two(me)) {
        return 1;
    }
    pid_t heir = fork();
    if (heir == 0) {
        struct pollfd p = {.fd = me->wire, .events = 0}; // until the test closes its end
        say(me->wire, 'r');
        poll(&p, 1, 60000);
        _exit(0);
    }
    for (;;) {
        pause();
    }
}

static void die_and_see(int (*body)(struct child_side *me)) {
    struct side a;
    struct child c;
    start_child(&c, body);
    assert_true(side_open(&a, 0, 2, OPTIONS));
    assert_true(write_address(c.wire, &a));
    uint64_t end = rdi_now(&a.env) + 5 * SECOND;
    while (a.n_accepted == 0 && rdi_now(&a.env) < end) {
        side_progress(&a);
    }
    assert_int_equal(a.n_accepted, 1);
    struct rdi_link *in = a.accepted[0];
    while (in->arrived < 1 && rdi_now(&a.env) < end) {
        side_progress(&a);
    }
    assert_int_equal(hear(c.wire), 'r');
    kill(c.pid, SIGKILL);
    uint64_t start = rdi_now(&a.env);
    while (in->state == RDI_LINK_UP && side_sleep(&a, 3 * SECOND)) {
        side_progress(&a);
    }
    uint64_t took = rdi_now(&a.env) - start;
    assert_int_equal(in->state, RDI_LINK_FAILED);
    assert_in_range(took, 0, SECOND);
    assert_int_equal(in->status, RONDO_ERR_PEER);
    char name[64];
    snprintf(name, sizeof name, "rank 1 (pid %d on host testhost) ended without closing",
             (int)c.pid);
    expect_why(in, name);
    // What it had published is still there, in order.
    assert_int_equal(in->arrived, 2);
    struct rdi_msg m;
    in->ops->peek(in, 1, &m);
    assert_int_equal(m.len, 3000);
    assert_int_equal(((const uint8_t *)m.data)[2999], 7);
    in->ops->release(in, 2);
    in->ops->close_link(in, false);
    side_close(&a);
    int status = end_child(&c);
    assert_true(WIFSIGNALED(status));
}

static void test_killed(void **state) {
    (void)state;
    die_and_see(put_two_and_hang);
}

static void test_killed_with_heir(void **state) {
    (void)state;
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (pidfd < 0) {
        skip(); // without pidfds only a hang-up tells, and there is none
    }
    close(pidfd);
    die_and_see(hang_with_heir);
}

// ---- Those that do not belong --------------------------------------------------------------------

static void test_other_key(void **state) {
    (void)state;
    struct side a, b;
    assert_true(side_open(&a, 0, 2, OPTIONS));
    assert_true(side_open(&b, 1, 2, OPTIONS));
    assert_int_equal(rdi_key_set(&a.job, "the key of another job..", 24), RONDO_OK);
    struct rdi_link *l = side_connect(&a, &b, 0);
    assert_true(side_await(&a, &b, l, RDI_LINK_FAILED));
    assert_int_equal(l->status, RONDO_ERR_AUTH);
    expect_why(l, "key");
    expect_why(l, "rank 1");
    l->ops->close_link(l, false);
    for (int i = 0; i < 10; i++) {
        side_progress(&b);
    }
    assert_int_equal(b.n_accepted, 0);
    assert_int_equal(b.net->strangers, 1);
    assert_non_null(strstr(b.last_log, "did not prove"));
    side_close(&a);
    side_close(&b);
}

// Right key, but for another rank; and a rank that the job does not have.
static void test_wrong_ranks(void **state) {
    (void)state;
    struct side a, b;
    assert_true(side_open(&a, 0, 2, OPTIONS));
    assert_true(side_open(&b, 1, 2, OPTIONS));
    for (int i = 0; i < 2; i++) {
        uint8_t blob[RDI_BLOB_MAX];
        size_t len;
        struct rdi_link_id id = {.from = i == 0 ? 0 : 7, .to = i == 0 ? 0 : 1};
        struct rdi_link *l;
        b.net->ops->address(b.net, blob, &len);
        assert_int_equal(a.net->ops->connect(a.net, &id, blob, len, &l), RONDO_OK);
        assert_true(side_await(&a, &b, l, RDI_LINK_FAILED));
        assert_int_equal(l->status, RONDO_ERR_INVALID);
        expect_why(l, "refused the link");
        expect_why(l, "rank 1 of 2");
        l->ops->close_link(l, false);
    }
    assert_int_equal(b.n_accepted, 0);
    assert_int_equal(b.net->strangers, 0); // they had the key
    side_close(&a);
    side_close(&b);
}

static struct shm_net *net_of(struct side *s) { return shm_net_of(s->net); }

static unsigned count_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;
    while (readdir(d) != NULL) {
        n++;
    }
    closedir(d);
    return n;
}

// Whatever strangers send, they are dropped and counted, nothing is kept, and ranks still get through.
static void test_garbage(void **state) {
    (void)state;
    struct side a, b;
    assert_true(side_open(&a, 0, 2, OPTIONS));
    assert_true(side_open(&b, 1, 2, OPTIONS));
    struct rdi_link *l = side_connect(&a, &b, 0);
    assert_true(side_await(&a, &b, l, RDI_LINK_UP));
    unsigned fds = count_fds();
    uint8_t noise[2000];
    for (size_t i = 0; i < sizeof noise; i++) {
        noise[i] = (uint8_t)(i * 97 + 13);
    }
    const size_t sizes[] = {0, 1, 4, 9, 100, 1024, 2000};
    unsigned strangers = 0;
    for (unsigned with_fds = 0; with_fds < 2; with_fds++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            int fd = shm_dial(&net_of(&b)->address);
            assert_true(fd >= 0);
            int passed[2] = {fd, fd};
            shm_packet_send(fd, noise, sizes[i], passed, with_fds ? 2 : 0);
            side_progress(&b);
            side_progress(&b);
            assert_int_equal(b.net->strangers, ++strangers);
            close(fd);
        }
    }
    int fd = shm_dial(&net_of(&b)->address); // says nothing and hangs up
    side_progress(&b);
    close(fd);
    side_progress(&b);
    assert_int_equal(b.net->strangers, strangers + 1);
    assert_int_equal(count_fds(), fds);
    assert_int_equal(l->state, RDI_LINK_UP);
    assert_int_equal(put(l, noise, 100), RONDO_OK);
    struct rdi_link *l2 = side_connect(&a, &b, 1);
    assert_true(side_await(&a, &b, l2, RDI_LINK_UP));
    l->ops->close_link(l, true);
    l2->ops->close_link(l2, true);
    for (unsigned i = 0; i < b.n_accepted; i++) {
        b.accepted[i]->ops->close_link(b.accepted[i], true);
    }
    side_close(&a);
    side_close(&b);
}

// A stranger that says nothing does not keep its place for ever, nor a rank from sleeping until then.
static void test_silent_stranger(void **state) {
    (void)state;
    struct side b;
    assert_true(side_open(&b, 1, 2, "connect_timeout=50ms"));
    int fd = shm_dial(&net_of(&b)->address);
    side_progress(&b);
    assert_int_equal(net_of(&b)->young, 1);
    uint64_t end = rdi_now(&b.env) + 5 * SECOND;
    while (net_of(&b)->young == 1 && rdi_now(&b.env) < end) {
        side_sleep(&b, 5 * SECOND);
        side_progress(&b);
    }
    assert_int_equal(b.net->strangers, 1);
    close(fd);
    side_close(&b);
}

#define NOBODY 65534

// As another user: knocks at rank 0, then listens itself under a name that rank 0 is given.
static int be_another_user(struct child_side *me) {
    struct shm_address target, mine = {.pid = 1};
    uint8_t blob[RDI_BLOB_MAX];
    ssize_t n = recv(me->wire, blob, sizeof blob, 0);
    memset(mine.name, 0x77, sizeof mine.name);
    int32_t pid;
    if (n <= 0 || !shm_address_parse(blob, (size_t)n, &target) || setuid(NOBODY) != 0) {
        return 1;
    }
    int fd = shm_dial(&target), listener = shm_listen(&mine);
    if (fd < 0 || listener < 0 || shm_same_user(fd, &pid)) {
        return 2;
    }
    struct pollfd p = {.fd = fd, .events = POLLIN};
    size_t len = shm_address_write(&mine, blob);
    if (send(me->wire, blob, len, 0) != (ssize_t)len || poll(&p, 1, 5000) != 1 ||
        recv(fd, blob, sizeof blob, 0) != 0) {
        return 3; // it did not hang up
    }
    return hear(me->wire) == 'e' ? 0 : 4;
}

static void test_other_user(void **state) {
    (void)state;
    if (geteuid() != 0) {
        skip(); // only root can become somebody else
    }
    struct side a;
    struct child c;
    start_child(&c, be_another_user);
    assert_true(side_open(&a, 0, 2, OPTIONS));
    assert_true(write_address(c.wire, &a));
    struct rdi_link *l = connect_by_wire(c.wire, &a, 1);
    assert_true(side_await(&a, NULL, l, RDI_LINK_FAILED));
    assert_int_equal(l->status, RONDO_ERR_AUTH);
    expect_why(l, "another user");
    assert_int_equal(a.net->strangers, 1);
    assert_non_null(strstr(a.last_log, "another user"));
    assert_true(say(c.wire, 'e'));
    assert_int_equal(end_child(&c), 0);
    l->ops->close_link(l, false);
    side_close(&a);
}

// ---- Nobody answers ------------------------------------------------------------------------------

static void test_nobody(void **state) {
    (void)state;
    struct side a, b;
    assert_true(side_open(&a, 0, 2, "connect_timeout=60ms"));
    assert_true(side_open(&b, 1, 2, OPTIONS));
    struct rdi_link *busy = side_connect(&a, &b, 0); // b listens, but does nothing
    assert_true(side_await(&a, NULL, busy, RDI_LINK_FAILED));
    assert_int_equal(busy->status, RONDO_ERR_TIMEOUT);
    expect_why(busy, "busy or stopped");
    uint8_t blob[RDI_BLOB_MAX];
    size_t len;
    b.net->ops->address(b.net, blob, &len);
    side_close(&b);
    struct rdi_link_id id = {.from = 0, .to = 1};
    struct rdi_link *gone;
    assert_int_equal(a.net->ops->connect(a.net, &id, blob, len, &gone), RONDO_OK);
    uint64_t start = rdi_now(&a.env);
    while (gone->state == RDI_LINK_CONNECTING && side_sleep(&a, 5 * SECOND)) {
        side_progress(&a); // sleeps between attempts, and wakes for the next one by itself
    }
    assert_in_range(rdi_now(&a.env) - start, 60000000, 3 * SECOND);
    assert_int_equal(gone->status, RONDO_ERR_TIMEOUT);
    expect_why(gone, "RONDO_CONNECT_TIMEOUT");
    expect_why(gone, "it has ended");
    busy->ops->close_link(busy, false);
    gone->ops->close_link(gone, false);
    side_close(&a);
}

// ---- A receiver that breaks the rules ------------------------------------------------------------

enum wrong {
    WRONG_NOTHING,
    WRONG_UNSEALED, // memory that could shrink under the sender's hands
    WRONG_SIZE,     // other than agreed
    WRONG_BLOCKING, // something that would block instead of an eventfd
    WRONG_PIPE,     // something that would end the process when its reader is gone
    WRONG_BELL,     // an unsealed bell page
    WRONG_FDS,      // no descriptors at all
    WRONG_ORDER,    // a verdict before the memory
    WRONG_GEOMETRY, // more than was proposed
    WRONG_NAME,     // another net than the one that was called
    WRONG_HANG_UP,  // ends the connection once; the sender tries again
};

struct rogue {
    struct side side; // for job and clock only
    struct shm_address address;
    int listener, fd;
    struct rdi_hs hs;
};

static void rogue_open(struct rogue *r) {
    assert_true(side_init(&r->side, 1, 2, OPTIONS));
    r->address = (struct shm_address){.pid = 4711};
    memset(r->address.name, 0x31, sizeof r->address.name);
    r->listener = shm_listen(&r->address);
    assert_true(r->listener >= 0);
}

static int sealed_file(size_t bytes, bool sealed) {
    int fd = memfd_create("rogue", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, (off_t)rdi_memfile_size(bytes)), 0);
    if (sealed) {
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    }
    return fd;
}

// Accepts one connection of `a` and shakes hands, driving a meanwhile.
static void rogue_accept(struct rogue *r, struct side *a, enum wrong wrong) {
    uint64_t end = rdi_now(&a->env) + 5 * SECOND;
    while ((r->fd = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0) {
        side_progress(a);
        assert_true(rdi_now(&a->env) < end);
    }
    rdi_hs_accept(&r->hs, RDI_HS_SHM, &r->side.job, &r->side.env);
    while (r->hs.state != RDI_HS_DONE) {
        uint8_t bytes[RDI_HS_BUFFER];
        ssize_t n = recv(r->fd, bytes, sizeof bytes, 0);
        size_t used;
        if (n > 0) {
            rdi_hs_input(&r->hs, bytes, (size_t)n, &used);
        }
        if (r->hs.state == RDI_HS_NEED_REPLY) {
            struct shm_reply reply = {.slots = 4, .max_msg = 65536, .pid = 4711};
            reply.slots = wrong == WRONG_GEOMETRY ? 5 : 4;
            memset(reply.name, wrong == WRONG_NAME ? 0x32 : 0x31, sizeof reply.name);
            rdi_hs_reply(&r->hs, bytes, shm_reply_write(&reply, bytes));
        }
        if (r->hs.out_len > r->hs.out_off) {
            ssize_t sent = send(r->fd, r->hs.out + r->hs.out_off, r->hs.out_len - r->hs.out_off, 0);
            assert_true(sent > 0);
            rdi_hs_sent(&r->hs, (size_t)sent);
        }
        side_progress(a);
        assert_true(rdi_now(&a->env) < end);
    }
}

static void rogue_send(struct rogue *r, enum shm_record_type type, const int *fds, size_t n) {
    struct shm_record rec = {.type = type};
    uint8_t bytes[SHM_RECORD_MAX];
    assert_int_equal(shm_packet_send(r->fd, bytes, shm_record_write(&rec, bytes), fds, n), 0);
}

static void rogue_region(struct rogue *r, enum wrong wrong) {
    size_t bytes = shm_region_bytes(4, 65536);
    int wire[2];
    assert_int_equal(pipe2(wire, O_CLOEXEC | (wrong == WRONG_PIPE ? O_NONBLOCK : 0)), 0);
    int memory = sealed_file(bytes + (wrong == WRONG_SIZE ? 4096 : 0), wrong != WRONG_UNSEALED);
    int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int bell = sealed_file(sizeof(struct shm_bell), wrong != WRONG_BELL);
    int fds[3] = {memory, wrong == WRONG_BLOCKING || wrong == WRONG_PIPE ? wire[1] : event, bell};
    rogue_send(r, wrong == WRONG_ORDER ? SHM_VERDICT : SHM_REGION, fds,
               wrong == WRONG_FDS || wrong == WRONG_ORDER ? 0 : 3);
    close(memory);
    close(event);
    close(bell);
    close(wire[0]);
    close(wire[1]);
}

static void meet_rogue(enum wrong wrong, enum rdi_link_state state, const char *word) {
    struct side a;
    struct rogue r;
    unsigned fds = count_fds();
    assert_true(side_open(&a, 0, 2, OPTIONS));
    struct rdi_link_id id = {.from = 0, .to = 1};
    struct rdi_link *l;
    uint8_t blob[RDI_BLOB_MAX];
    struct shm_address address = {.pid = 4711};
    memset(address.name, 0x31, sizeof address.name);
    assert_int_equal(a.net->ops->connect(a.net, &id, blob, shm_address_write(&address, blob), &l),
                     RONDO_OK);
    side_progress(&a); // nobody is there yet
    assert_int_equal(l->state, RDI_LINK_CONNECTING);
    rogue_open(&r);
    rogue_accept(&r, &a, wrong == WRONG_HANG_UP ? WRONG_NOTHING : wrong);
    if (wrong == WRONG_HANG_UP) {
        rogue_region(&r, WRONG_NOTHING);
        side_progress(&a);
        close(r.fd);
        rogue_accept(&r, &a, WRONG_NOTHING);
    }
    rogue_region(&r, wrong);
    if (state == RDI_LINK_UP) {
        side_progress(&a);
        rogue_send(&r, SHM_VERDICT, NULL, 0);
    }
    assert_true(side_await(&a, NULL, l, state));
    if (state == RDI_LINK_FAILED) {
        assert_int_equal(l->status, RONDO_ERR_PEER);
        expect_why(l, word);
        expect_why(l, "rank 1 (pid 4711");
    }
    close(r.fd);
    close(r.listener);
    l->ops->close_link(l, false);
    side_close(&a);
    assert_int_equal(count_fds(), fds);
}

static void test_rogue_receiver(void **state) {
    (void)state;
    meet_rogue(WRONG_NOTHING, RDI_LINK_UP, ""); // the test's rogue can also behave
    meet_rogue(WRONG_HANG_UP, RDI_LINK_UP, "");
    meet_rogue(WRONG_UNSEALED, RDI_LINK_FAILED, "not sealed");
    meet_rogue(WRONG_SIZE, RDI_LINK_FAILED, "bytes instead of");
    meet_rogue(WRONG_BLOCKING, RDI_LINK_FAILED, "would block");
    meet_rogue(WRONG_PIPE, RDI_LINK_FAILED, "is no eventfd");
    meet_rogue(WRONG_BELL, RDI_LINK_FAILED, "not sealed");
    meet_rogue(WRONG_FDS, RDI_LINK_FAILED, "broke the protocol");
    meet_rogue(WRONG_ORDER, RDI_LINK_FAILED, "broke the protocol");
    meet_rogue(WRONG_NAME, RDI_LINK_FAILED, "broke the protocol");
    meet_rogue(WRONG_GEOMETRY, RDI_LINK_FAILED, "broke the protocol");
}

// ---- A sender that breaks the rules --------------------------------------------------------------

// Sends one record on a link that is UP; the receiver's end must fail.
static void send_wrong(const struct shm_record *rec, int fd, const char *word) {
    struct side a, b;
    assert_true(side_open(&a, 0, 2, OPTIONS));
    assert_true(side_open(&b, 1, 2, OPTIONS));
    struct rdi_link *out = side_connect(&a, &b, 0);
    assert_true(side_await(&a, &b, out, RDI_LINK_UP));
    struct rdi_link *in = b.accepted[0];
    assert_true(shm_link_send(shm_link_of(out), rec, &fd, fd >= 0 ? 1 : 0));
    assert_true(side_await(&b, NULL, in, RDI_LINK_FAILED));
    assert_int_equal(in->status, RONDO_ERR_PEER);
    expect_why(in, word);
    expect_why(in, "rank 0");
    out->ops->close_link(out, false);
    in->ops->close_link(in, false);
    side_close(&a);
    side_close(&b);
}

static void test_rogue_sender(void **state) {
    (void)state;
    int good = sealed_file(4096, true), unsealed = sealed_file(4096, false);
    const struct shm_record offer = {SHM_OFFER, .handle = 0, .value = 4096},
                            shorter = {SHM_OFFER, .handle = 0, .value = 8192},
                            far_off = {SHM_OFFER, .handle = SHM_BLOCKS_MAX, .value = 4096},
                            unknown = {SHM_TAKE_BACK, .handle = 3},
                            answer = {SHM_MAPPED, .handle = 0, .value = 1},
                            late = {SHM_REGION, .handle = 0};
    send_wrong(&offer, unsealed, "not sealed");
    send_wrong(&shorter, good, "bytes instead of");
    send_wrong(&far_off, good, "broke the protocol");
    send_wrong(&offer, -1, "broke the protocol"); // no descriptor
    send_wrong(&unknown, -1, "broke the protocol");
    send_wrong(&answer, -1, "broke the protocol"); // the sender does not borrow
    send_wrong(&late, good, "broke the protocol");
    close(good);
    close(unsealed);
}

// ---- No descriptors ------------------------------------------------------------------------------

static void allow_fds(int more) {
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
    int next = dup(0);
    close(next);
    r.rlim_cur = (rlim_t)(next + more);
    setrlimit(RLIMIT_NOFILE, &r);
}

// Takes links with no descriptors left, then with enough, as the test says.
static int receive_with_limits(struct child_side *me) {
    if (!write_address(me->wire, &me->side)) {
        return 1;
    }
    for (;;) {
        char word;
        if (recv(me->wire, &word, 1, MSG_DONTWAIT) == 1) {
            if (word == 'e') {
                return 0;
            }
            allow_fds(word == '0' ? 0 : 100);
            if (!say(me->wire, 'k')) {
                return 2;
            }
        }
        side_progress(&me->side);
        side_sleep(&me->side, 1000000);
    }
}

static void test_receiver_without_descriptors(void **state) {
    (void)state;
    struct side a;
    struct child c;
    start_child(&c, receive_with_limits);
    assert_true(side_open(&a, 0, 2, OPTIONS));
    uint8_t blob[RDI_BLOB_MAX];
    ssize_t len = recv(c.wire, blob, sizeof blob, 0);
    for (int i = 0; i < 2; i++) {
        struct rdi_link_id id = {.from = 0, .to = 1, .channel = (uint32_t)i};
        struct rdi_link *l;
        assert_true(say(c.wire, i == 0 ? '0' : '9'));
        assert_int_equal(hear(c.wire), 'k');
        assert_int_equal(a.net->ops->connect(a.net, &id, blob, (size_t)len, &l), RONDO_OK);
        assert_true(side_await(&a, NULL, l, i == 0 ? RDI_LINK_FAILED : RDI_LINK_UP));
        if (i == 0) {
            assert_int_equal(l->status, RONDO_ERR_SYSTEM);
            expect_why(l, "rank 1");
            expect_why(l, "ulimit -n");
        }
        l->ops->close_link(l, true);
    }
    assert_true(say(c.wire, 'e'));
    assert_int_equal(end_child(&c), 0);
    side_close(&a);
}

// Opens nets and links with fewer and fewer descriptors: success, or the remedy, but never a crash.
static int send_with_limits(struct child_side *me) {
    uint8_t blob[RDI_BLOB_MAX];
    ssize_t len = recv(me->wire, blob, sizeof blob, 0);
    int seen_up = 0, seen_failed = 0;
    for (int more = 0; more < 8; more++) {
        allow_fds(more);
        struct rdi_link_id id = {.from = 1, .to = 0, .channel = (uint32_t)more};
        struct rdi_link *l;
        struct side extra;
        if (side_init(&extra, 0, 2, OPTIONS) && side_open_net(&extra) == RONDO_OK) {
            side_close(&extra);
        } else if (strstr(rondo_last_error(), "ulimit -n") == NULL) {
            return 1;
        }
        if (me->side.net->ops->connect(me->side.net, &id, blob, (size_t)len, &l) != RONDO_OK) {
            return 2;
        }
        while (l->state == RDI_LINK_CONNECTING) {
            side_progress(&me->side);
            side_sleep(&me->side, 1000000);
        }
        if (l->state == RDI_LINK_FAILED && strstr(l->why, "ulimit -n") == NULL) {
            fprintf(stderr, "with %d: %s\n", more, l->why);
            return 3;
        }
        seen_up += l->state == RDI_LINK_UP;
        seen_failed += l->state == RDI_LINK_FAILED;
        l->ops->close_link(l, true);
    }
    return seen_up > 0 && seen_failed > 2 ? 0 : 4;
}

static void test_sender_without_descriptors(void **state) {
    (void)state;
    struct side a;
    struct child c;
    start_child(&c, send_with_limits);
    assert_true(side_open(&a, 0, 2, OPTIONS));
    assert_true(write_address(c.wire, &a));
    int status = -1;
    while (waitpid(c.pid, &status, WNOHANG) == 0) {
        side_progress(&a);
        side_sleep(&a, 1000000);
    }
    assert_int_equal(status, 0);
    for (unsigned i = 0; i < a.n_accepted; i++) {
        assert_int_not_equal(a.accepted[i]->state, RDI_LINK_FAILED);
        a.accepted[i]->ops->close_link(a.accepted[i], true);
    }
    close(c.wire);
    side_close(&a);
}

// The receiver has no descriptor left for a block that it is offered: payload goes on, as copies.
static int copy_without_descriptors(struct child_side *me) {
    struct side a;
    void *at;
    if (!side_open(&a, 0, 2, OPTIONS) || rondo_mem_alloc(65536, &at) != RONDO_OK) {
        return 1;
    }
    memset(at, 9, 65536);
    struct rdi_link *out = side_connect(&a, &me->side, 0);
    if (!side_await(&a, &me->side, out, RDI_LINK_UP)) {
        return 2;
    }
    struct rdi_link *in = me->side.accepted[0];
    allow_fds(0);
    for (uint64_t q = 0; q < 10; q++) {
        struct rdi_msg m;
        if (put(out, at, 65536) != RONDO_OK || out->sent != q + 1) {
            return 3;
        }
        side_progress(&me->side);
        if (in->arrived != q + 1) {
            return 4;
        }
        in->ops->peek(in, q, &m);
        if (memcmp(m.data, at, 65536) != 0) {
            return 5;
        }
        in->ops->release(in, q + 1);
        side_sleep(&me->side, 1000000);
        side_progress(&a);
    }
    return shm_link_of(out)->lent[0].state == SHM_LENT_REFUSED ? 0 : 6;
}

static void test_block_without_descriptors(void **state) {
    (void)state;
    struct child c;
    start_child(&c, copy_without_descriptors);
    assert_int_equal(end_child(&c), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_killed_with_heir),
        cmocka_unit_test(test_other_key),
        cmocka_unit_test(test_wrong_ranks),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_silent_stranger),
        cmocka_unit_test(test_other_user),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_rogue_receiver),
        cmocka_unit_test(test_rogue_sender),
        cmocka_unit_test(test_receiver_without_descriptors),
        cmocka_unit_test(test_sender_without_descriptors),
        cmocka_unit_test(test_block_without_descriptors),
    };
    return cmocka_run_group_tests_name("shm_bad", tests, NULL, NULL);
}
