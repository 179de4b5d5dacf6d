// SPDX-License-Identifier: MIT
// No wake-up is lost: two processes that sleep after every single thing they wait for, with random tiny delays
// in between, so that one publishes at every possible moment of the other's falling asleep. A sleep that ends
// by its timeout is a failure.
//
//   test_shm_wake [ROUNDS]      default: 70000 in each of the three games (fewer under a sanitizer)
#include "tests/unit/shm_side.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
static unsigned long rounds = 10000;
#else
static unsigned long rounds = 70000;
#endif

// What one process plays with.
struct player {
    struct side side;
    struct rdi_link *out, *in;
    uint64_t random;
};

static uint64_t random_of(struct player *p) {
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return p->random;
}

// Mostly nothing, sometimes up to a few microseconds.
static void dawdle(struct player *p) {
    uint64_t r = random_of(p);
    for (volatile uint64_t i = 0; (r & 3) == 0 && i < (r >> 8) % 3000; i = i + 1) {}
}

// False: a second passed without anything.
static bool sleep_once(struct player *p) {
    if (side_progress(&p->side) > 0) {
        return true;
    }
    dawdle(p);
    return side_sleep(&p->side, SECOND);
}

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "rank %d: %s is false at line %d; sent %lu of %lu\n",          \
                    p->side.job.rank, #condition, __LINE__, (unsigned long)p->out->posted, \
                    rounds);                                                               \
            return false;                                                                  \
        }                                                                                  \
    } while (0)

static bool put_one(struct player *p, uint64_t value) {
    struct rdi_put put = {.data = &value, .len = sizeof value, .tag = value};
    rondo_status s;
    while ((s = p->out->ops->put(p->out, &put)) == RONDO_AGAIN) {
        CHECK(sleep_once(p));
    }
    CHECK(s == RONDO_OK);
    return true;
}

static bool take_one(struct player *p, uint64_t value) {
    while (p->in->arrived == p->in->released) {
        CHECK(sleep_once(p));
    }
    struct rdi_msg m;
    p->in->ops->peek(p->in, p->in->released, &m);
    CHECK(m.tag == value && m.len == sizeof value);
    p->in->ops->release(p->in, p->in->released + 1);
    return true;
}

// One message at a time, to and fro.
static bool play_ping_pong(struct player *p) {
    for (unsigned long i = 0; i < rounds; i++) {
        if (p->side.job.rank == 0) {
            CHECK(put_one(p, i));
            dawdle(p);
            CHECK(take_one(p, i));
        } else {
            CHECK(take_one(p, i));
            dawdle(p);
            CHECK(put_one(p, i));
        }
    }
    return true;
}

// One way, with two slots: the sender sleeps for credit, the receiver for messages.
static bool play_stream(struct player *p) {
    for (unsigned long i = 0; i < rounds; i++) {
        CHECK(p->side.job.rank == 0 ? put_one(p, i) : take_one(p, i));
        dawdle(p);
    }
    return true;
}

// Control messages: one sleeps for room in the ring, the other for messages.
static bool play_ctrl(struct player *p) {
    for (unsigned long i = 0; i < rounds; i++) {
        if (p->side.job.rank == 0) {
            rondo_status s;
            while ((s = p->out->ops->ctrl(p->out, (unsigned)i, &i, sizeof i)) == RONDO_AGAIN) {
                CHECK(sleep_once(p));
            }
            CHECK(s == RONDO_OK);
        } else {
            while (p->side.n_ctrl <= i) {
                CHECK(sleep_once(p));
            }
        }
        dawdle(p);
    }
    return true;
}

static bool meet(struct player *p, int wire) {
    uint8_t mine[RDI_BLOB_MAX], theirs[RDI_BLOB_MAX];
    size_t len;
    struct rdi_net *net = p->side.net;
    net->ops->address(net, mine, &len);
    if (write(wire, mine, len) != (ssize_t)len || read(wire, theirs, len) != (ssize_t)len) {
        return false;
    }
    uint32_t me = (uint32_t)p->side.job.rank;
    struct rdi_link_id id = {.comm = 1, .from = me, .to = 1 - me};
    if (net->ops->connect(net, &id, theirs, len, &p->out) != RONDO_OK) {
        return false;
    }
    while (p->out->state != RDI_LINK_UP || p->side.n_accepted == 0) {
        if (p->out->state == RDI_LINK_FAILED) {
            fprintf(stderr, "%s\n", p->out->why);
            return false;
        }
        if (side_progress(&p->side) == 0) {
            side_sleep(&p->side, SECOND);
        }
    }
    p->in = p->side.accepted[0];
    return true;
}

static bool play(int rank, int wire, bool (*game)(struct player *p)) {
    struct player p = {.random = 0x9e3779b97f4a7c15u + (uint64_t)rank};
    char byte = 0;
    bool good = side_open(&p.side, rank, 2, "slots=2,chunk=4K") && meet(&p, wire) && game(&p);
    // Neither closes before the other has finished.
    good = write(wire, &byte, 1) == 1 && good;
    while (good && recv(wire, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN) {
        side_progress(&p.side);
        side_sleep(&p.side, 1000000);
    }
    if (p.out != NULL && p.in != NULL) {
        p.out->ops->close_link(p.out, true);
        p.in->ops->close_link(p.in, true);
        side_close(&p.side);
    }
    return good;
}

static void run(bool (*game)(struct player *p)) {
    int wire[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, wire), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        _exit(play(1, wire[1], game) ? 0 : 1);
    }
    bool good = play(0, wire[0], game);
    close(wire[0]);
    close(wire[1]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(good);
    assert_int_equal(status, 0);
}

static void test_ping_pong(void **state) {
    (void)state;
    run(play_ping_pong);
}

static void test_stream(void **state) {
    (void)state;
    run(play_stream);
}

static void test_ctrl(void **state) {
    (void)state;
    run(play_ctrl);
}

// ---- The very moment -----------------------------------------------------------------------------

// Two threads meet, then one falls asleep while the other publishes. Each processor may let its own load pass
// its store; without the fences on both sides that shows here within some thousand meetings.
struct moment {
    struct side sleeper, waker;
    struct rdi_link *out, *in;
    _Atomic unsigned long met[2];
    _Atomic bool failed;
};

static void meet_other(struct moment *m, int me, unsigned long n) {
    atomic_store(&m->met[me], n);
    for (unsigned spins = 0; atomic_load(&m->met[1 - me]) < n; spins++) {
        if (spins > 1000) {
            sched_yield(); // there may be one processor for both
        }
    }
}

static void *publish(void *arg) {
    struct moment *m = arg;
    const _Atomic uint64_t *bell = &shm_link_of(m->out)->peer->bell->word;
    struct rdi_put put = {.data = m, .len = 8};
    for (unsigned long n = 1; n <= 3 * rounds && !m->failed; n++) {
        meet_other(m, 1, 3 * n);
        for (volatile unsigned long i = 0; i < n % 61; i = i + 1) {}
        shm_load(bell); // into our cache, so that the next load of it is quick
        rondo_status s = m->out->ops->put(m->out, &put);
        meet_other(m, 1, 3 * n + 1);
        meet_other(m, 1, 3 * n + 2); // it has released the message
        side_progress(&m->waker);
        if (s != RONDO_OK) {
            m->failed = true;
        }
    }
    atomic_store(&m->met[1], 9 * rounds + 9);
    return NULL;
}

static void fall_asleep(struct moment *m) {
    struct rdi_net *net = m->sleeper.net;
    for (unsigned long n = 1; n <= 3 * rounds && !m->failed; n++) {
        uint64_t timeout = SECOND;
        meet_other(m, 0, 3 * n);
        for (volatile unsigned long i = 0; i < n % 67; i = i + 1) {}
        rondo_status s = net->ops->arm(net, &timeout);
        meet_other(m, 0, 3 * n + 1);
        struct pollfd p = {.fd = net->ops->fd(net), .events = POLLIN};
        if (s == RONDO_OK && poll(&p, 1, 0) == 0) {
            m->failed = true; // asleep with a message there and no bell
            fprintf(stderr, "a wake-up was lost at meeting %lu\n", n);
        }
        net->ops->disarm(net);
        net->ops->progress(net, false);
        if (m->in->arrived == m->in->released + 1) {
            m->in->ops->release(m->in, m->in->arrived);
        } else {
            m->failed = true;
        }
        meet_other(m, 0, 3 * n + 2);
    }
    atomic_store(&m->met[0], 9 * rounds + 9);
}

static void test_moment(void **state) {
    (void)state;
    static struct moment m;
    assert_true(side_open(&m.sleeper, 0, 2, "slots=2,chunk=4K"));
    assert_true(side_open(&m.waker, 1, 2, "slots=2,chunk=4K"));
    m.out = side_connect(&m.waker, &m.sleeper, 0);
    assert_true(side_await(&m.waker, &m.sleeper, m.out, RDI_LINK_UP));
    m.in = m.sleeper.accepted[0];
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, publish, &m), 0);
    fall_asleep(&m);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(m.failed);
    m.out->ops->close_link(m.out, true);
    m.in->ops->close_link(m.in, true);
    side_close(&m.sleeper);
    side_close(&m.waker);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        rounds = strtoul(argv[1], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ping_pong),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_ctrl),
        cmocka_unit_test(test_moment),
    };
    return cmocka_run_group_tests_name("shm_wake", tests, NULL, NULL);
}
