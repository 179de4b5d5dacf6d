// SPDX-License-Identifier: MIT
// The checked process: its verdict, its clock and chance, and how it meets the others through the store.
#include "transport/conform/check.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STORE_MS 10000
#define WATCH_NS (100 * CF_MS)

uint64_t cf_now(const struct cf *c) { return rdi_now(&c->env); }

static uint64_t mix(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t cf_random(struct cf *c) {
    c->random++;
    return mix(c->random);
}

uint64_t cf_many(const struct cf *c, uint64_t n) {
    n = c->place->options->longer ? 10 * n : n;
    return CF_SANITIZED ? (n + 7) / 8 : n;
}

// ---- The verdict ---------------------------------------------------------------------------------

// The keeper reads what it can; a failure also reaches the others, so that they need not wait in vain.
static void tell(struct cf *c, char verdict, const char *text) {
    static char message[CF_TEXT + 1];
    snprintf(message, sizeof message, "%c%s", verdict, text);
    while (send(c->wire, message, strlen(message), MSG_NOSIGNAL) < 0 && errno == EINTR) {}
}

void cf_fail(struct cf *c, const char *fmt, ...) {
    static char text[CF_TEXT];
    char key[128];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n + 32 < sizeof text && c->note->step[0] != '\0') {
        snprintf(text + n, sizeof text - (size_t)n, " (while: %s)", c->note->step);
    }
    tell(c, 'F', text);
    if (c->store != NULL) {
        snprintf(key, sizeof key, "%sfailed/%d", c->prefix, c->rank);
        rdi_store_tcp_ops.set(c->store, key, "1", 1, STORE_MS);
    }
    _exit(0);
}

void cf_skip(struct cf *c, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    tell(c, 'S', text);
    _exit(0);
}

void cf_step(struct cf *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->note->step, sizeof c->note->step, fmt, ap);
    va_end(ap);
}

void cf_die(struct cf *c) {
    atomic_store(&c->note->deadly, 1);
    for (;;) {
        kill(getpid(), SIGKILL);
    }
}

void cf_leave(struct cf *c) {
    tell(c, 'P', "");
    _exit(0);
}

void cf_be_stopped(struct cf *c, unsigned ms) {
    int before = atomic_load(&c->note->stops);
    char wish[24];
    snprintf(wish, sizeof wish, "W%u", ms);
    cf_expect(c, send(c->wire, wish, strlen(wish), MSG_NOSIGNAL) > 0, "the keeper does not listen");
    cf_await(c, "the keeper stopped and continued this process",
             atomic_load(&c->note->stops) != before);
}

// ---- The others ----------------------------------------------------------------------------------

bool cf_takes_part(const struct cf *c, int rank) {
    return (c->check->needs & CF_ALL) != 0 || rank == c->rank || rank == c->peer;
}

void cf_watch(struct cf *c) {
    uint64_t now = cf_now(c);
    if (now - c->watched < WATCH_NS) {
        return;
    }
    c->watched = now;
    for (int r = 0; r < c->size; r++) {
        char key[128];
        void *value;
        size_t len;
        if (r == c->rank || !cf_takes_part(c, r)) {
            continue;
        }
        snprintf(key, sizeof key, "%sfailed/%d", c->prefix, r);
        if (rdi_store_tcp_ops.get(c->store, key, &value, &len, 0) == RONDO_OK) {
            free(value);
            cf_fail(c, "ended because rank %d had failed", r);
        }
    }
}

static bool take_box(struct cf *c, int rank) {
    char key[128];
    void *value;
    size_t len;
    snprintf(key, sizeof key, "%s%u/%d", c->prefix, c->step, rank);
    rondo_status s = rdi_store_tcp_ops.get(c->store, key, &value, &len, 0);
    if (s == RONDO_ERR_TIMEOUT) {
        return false;
    }
    cf_expect(c, s == RONDO_OK && len <= CF_BOX, "the store: %s", rondo_last_error());
    memcpy(c->boxes[rank].bytes, value, len);
    c->boxes[rank].len = len;
    free(value);
    return true;
}

void cf_exchange(struct cf *c, const void *mine, size_t len) {
    char key[128], what[64];
    c->step++;
    snprintf(key, sizeof key, "%s%u/%d", c->prefix, c->step, c->rank);
    rondo_status s = rdi_store_tcp_ops.set(c->store, key, mine, len, STORE_MS);
    cf_expect(c, s == RONDO_OK && len <= CF_BOX, "the store: %s", rondo_last_error());
    for (int r = 0; r < c->size; r++) {
        if (!cf_takes_part(c, r)) {
            continue;
        }
        snprintf(what, sizeof what, "rank %d came to meeting %u", r, c->step);
        uint64_t end = cf_wait_begin(c, 0, what), ask = 0;
        // One look at the store costs as much as some turns.
        for (bool there = false; !there;) {
            if (cf_now(c) >= ask) {
                there = take_box(c, r);
                ask = cf_now(c) + CF_MS;
            }
            if (!there) {
                cf_wait_turn(c, end, what);
            }
        }
    }
}

void cf_sync(struct cf *c) { cf_exchange(c, "", 0); }

// ---- Life ----------------------------------------------------------------------------------------

static const struct rdi_net_ops *find_ops(const char *name) {
    static const struct rdi_net_ops *const all[] = {&rdi_shm_ops, &rdi_tcp_ops, &rdi_verbs_ops};
    const size_t n = sizeof all / sizeof *all;
    size_t i = 0;
    while (i + 1 < n && strcmp(all[i]->name, name) != 0) {
        i++; // the option was checked: one of them it is
    }
    return all[i];
}

static void check_needs(struct cf *c) {
    unsigned needs = c->check->needs;
    const char *excuse = cf_excuse(c->ops->name, c->check);
    if (excuse != NULL) {
        cf_skip(c, "%s: %s", c->ops->name, excuse);
    }
    if ((needs & CF_THREE) != 0 && c->size < 3) {
        cf_skip(c, "needs three ranks or more; add --ranks 3");
    }
    if ((needs & CF_ALL) == 0 && c->peer >= c->size) {
        tell(c, 'A', "");
        _exit(0);
    }
    if ((needs & CF_RESET) != 0 && c->ops->reset == NULL) {
        cf_skip(c, "%s has no path that could be lost while the peer lives", c->ops->name);
    }
    const char *no_cut = (needs & CF_CUT) != 0 ? cf_cut_excuse(c) : NULL;
    if (no_cut != NULL) {
        cf_skip(c, "%s", no_cut);
    }
}

static void connect_store(struct cf *c, int seq, int round) {
    const struct cf_place *p = c->place;
    snprintf(c->prefix, sizeof c->prefix, "conform/%s/%d/%d/", p->session, seq, round);
    rondo_status s = rdi_store_connect(p->host, p->port, &p->job, STORE_MS, &c->store);
    cf_expect(c, s == RONDO_OK, "%s", rondo_last_error());
}

void cf_child_main(const struct cf_place *place, const struct cf_check *check, int seq, int round,
                   struct cf_note *note, int wire) {
    static struct cf c;
    c = (struct cf){.place = place, .check = check, .note = note, .wire = wire};
    c.rank = place->job.rank;
    c.size = place->job.size;
    c.peer = c.rank ^ 1;
    c.first = c.rank % 2 == 0;
    c.ops = find_ops(place->options->transport);
    rdi_env_system(&c.env, NULL, NULL);
    c.deadline = cf_now(&c) + cf_deadline(place, check) * CF_SECOND;
    c.shared_random = place->seed + (unsigned)round;
    for (const char *at = check->id; *at != '\0'; at++) {
        c.shared_random = mix(c.shared_random ^ (unsigned char)*at);
    }
    c.random = mix(c.shared_random + (uint64_t)c.rank);
    c.boxes = calloc((size_t)c.size, sizeof *c.boxes);
    cf_expect(&c, c.boxes != NULL, "no memory");
    signal(SIGPIPE, SIG_IGN);
    // Each arena reserves 64 MiB of address space, whenever two threads happen to meet: no growth of ours.
    mallopt(M_ARENA_MAX, 1);
    check_needs(&c);
    connect_store(&c, seq, round);
    check->run(&c);
    cf_step(&c, "ending");
    rdi_store_close(c.store);
    free(c.boxes);
    tell(&c, 'P', "");
    // An orderly end: whoever watches for leaks looks now.
    exit(0);
}
