// SPDX-License-Identifier: MIT
// Sleep: two ranks on two threads that sleep whenever they can. A wake-up that gets lost shows as a sleep that
// lasts until its timeout though there is something to do.
#include "verbs_pair.h"

#include <pthread.h>
#include <stdatomic.h>

#define LO "interface=lo,device=fake0"
#define MESSAGES 1500u
#define LONG_MS 8000

struct end {
    struct side *side;
    struct rdi_link *link;
    uint64_t count;
    atomic_int *over;
    bool slow; // the sender answers each message's arrival, else it fills the slots
};

// One turn: moves, and sleeps when there is nothing to move. False: it slept until the timeout.
static bool turn(struct end *e, bool (*work)(struct end *e)) {
    struct rdi_net *net = e->side->net;
    if (net->ops->progress(net, false) > 0 || work(e)) {
        return true;
    }
    uint64_t timeout = UINT64_MAX;
    if (net->ops->arm(net, &timeout) != RONDO_OK) {
        return true; // it disarmed itself
    }
    // Nobody else moves this net, so what work() saw is as it was.
    int ms = timeout / RDI_MS < LONG_MS ? (int)(timeout / RDI_MS) + 1 : LONG_MS;
    struct pollfd p = {.fd = net->ops->fd(net), .events = POLLIN};
    int k = poll(&p, 1, ms);
    net->ops->disarm(net);
    return k != 0 || ms < LONG_MS;
}

static bool send_work(struct end *e) {
    struct rdi_link *l = e->link;
    uint8_t byte = 0;
    struct rdi_put put = {.data = &byte, .len = 1, .tag = l->posted};
    if (l->posted == e->count || (e->slow && l->sent < l->posted)) {
        return false;
    }
    put.flags = l->posted % 2 == 0 ? RDI_PUT_ACK : 0;
    return l->ops->put(l, &put) == RONDO_OK;
}

static bool receive_work(struct end *e) {
    struct rdi_link *l = e->side->accepted;
    if (l == NULL || l->arrived == l->released) {
        return false;
    }
    l->ops->release(l, l->released + 1);
    return true;
}

static void *sender(void *arg) {
    struct end *e = arg;
    while (e->link->sent < e->count && *e->over == 0) {
        if (!turn(e, send_work)) {
            *e->over = 1;
        }
    }
    return NULL;
}

static void *receiver(void *arg) {
    struct end *e = arg;
    while ((e->side->accepted == NULL || e->side->accepted->released < e->count) && *e->over == 0) {
        if (!turn(e, receive_work)) {
            *e->over = 2;
        }
    }
    return NULL;
}

static void run(const char *options, bool slow) {
    struct pair p;
    pthread_t threads[2];
    atomic_int over = 0;
    verbs_open(&p, options, options);
    pair_connect(&p);
    struct end ends[2] = {{&p.side[0], p.link, MESSAGES, &over, slow},
                          {&p.side[1], NULL, MESSAGES, &over, slow}};
    assert_int_equal(pthread_create(&threads[0], NULL, sender, &ends[0]), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, receiver, &ends[1]), 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    assert_int_equal(over, 0);
    assert_int_equal(p.link->sent, MESSAGES);
    assert_int_equal(p.side[1].accepted->released, MESSAGES);
    pair_close(&p);
}

static void test_wake(void **state) {
    (void)state;
    run(LO ",slots=2", true);
    run(LO ",slots=4", false);
    run(LO ",slots=16,verbs_qps=3", false);
    run(LO ",slots=4,verbs_mode=send", false);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wake)};
    if (fake_prepare("1") != 0) {
        return 1;
    }
    return cmocka_run_group_tests_name("verbs_wake", tests, NULL, fake_dir_remove);
}
