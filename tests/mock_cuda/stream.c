// SPDX-License-Identifier: MIT
// Streams: a FIFO and a thread each. The operation that runs is the head of the FIFO.
//
//     legacy stream      ...  L1 ........ L2          an operation of it waits for all before it in blocking streams,
//     blocking stream    A1 A2  \ ....... / A3        and these wait for all before it in the legacy stream;
//     non-blocking       N1 N2 N3 N4 N5               these know nothing of it
#include "tests/mock_cuda/mock.h"

#include <stdio.h>
#include <stdlib.h>

static _Atomic unsigned last_number;

// ---- Marks ---------------------------------------------------------------------------------------

struct mc_mark *mc_mark_new(void) {
    struct mc_mark *m = calloc(1, sizeof *m);
    if (!m)
        mc_rule("environment", "out of memory");
    pthread_mutex_init(&m->lock, NULL);
    mc_cond_init(&m->changed);
    m->refs = 1;
    return m;
}

struct mc_mark *mc_mark_get(struct mc_mark *m) {
    atomic_fetch_add(&m->refs, 1);
    return m;
}

void mc_mark_put(struct mc_mark *m) {
    if (!m || atomic_fetch_sub(&m->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->changed);
    free(m);
}

void mc_mark_set(struct mc_mark *m) {
    pthread_mutex_lock(&m->lock);
    m->done = true;
    m->when = mc_now();
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

bool mc_mark_done(struct mc_mark *m, uint64_t *when) {
    pthread_mutex_lock(&m->lock);
    bool done = m->done;
    if (when)
        *when = m->when;
    pthread_mutex_unlock(&m->lock);
    return done;
}

void mc_mark_wait(struct mc_mark *m, const char *what) {
    uint64_t since = mc_now();
    pthread_mutex_lock(&m->lock);
    while (!m->done)
        mc_cond_wait(&m->changed, &m->lock, since, what);
    pthread_mutex_unlock(&m->lock);
}

// ---- Operations ----------------------------------------------------------------------------------

struct mc_op *mc_op_new(enum mc_work work) {
    struct mc_op *op = calloc(1, sizeof *op);
    if (!op)
        mc_rule("environment", "out of memory");
    op->work = work;
    return op;
}

void mc_op_use(struct mc_op *op, unsigned i, struct mc_mem *m) {
    op->uses[i] = m;
    if (m)
        atomic_fetch_add_explicit(&m->uses, 1, memory_order_relaxed);
}

static void end_uses(struct mc_op *op) {
    for (unsigned i = 0; i < 2; i++) {
        if (!op->uses[i])
            continue;
        atomic_fetch_sub_explicit(&op->uses[i]->uses, 1, memory_order_relaxed);
        mc_mem_put(op->uses[i]);
        op->uses[i] = NULL;
    }
}

void mc_op_free(struct mc_op *op) {
    end_uses(op);
    mc_mark_put(op->mark);
    if (op->other)
        mc_stream_put(op->other);
    if (op->staged)
        free(op->host_from);
    free(op->arg_bytes);
    free(op);
}

// ---- The thread ----------------------------------------------------------------------------------

// In its hardware queue an operation is dispatched when all before it were, of whatever stream; a wait is
// dispatched when it is met.
static void take_turn(struct mc_stream *s, const struct mc_op *op) {
    struct mc_queue *q = s->queue;
    char what[80];
    snprintf(what, sizeof what, "stream %u waits for its hardware queue", s->number);
    uint64_t since = mc_now();
    pthread_mutex_lock(&q->lock);
    while (q->head != op->queue_ticket)
        mc_cond_wait(&q->moved, &q->lock, since, what);
    pthread_mutex_unlock(&q->lock);
}

static void end_turn(struct mc_queue *q) {
    pthread_mutex_lock(&q->lock);
    q->head++;
    pthread_cond_broadcast(&q->moved);
    pthread_mutex_unlock(&q->lock);
}

static bool is_wait(const struct mc_op *op) {
    return op->work == MC_WAIT32 || op->work == MC_WAIT_MARK || op->work == MC_WAIT_STREAM;
}

static void run_one(struct mc_stream *s, struct mc_op *op) {
    if (mc_config.jitter_us)
        mc_sleep_us((unsigned)(mc_random(&s->rng) % mc_config.jitter_us));
    if (s->queue)
        take_turn(s, op);
    if (s->queue && !is_wait(op))
        end_turn(s->queue);
    mc_execute(s, op);
    if (s->queue && is_wait(op))
        end_turn(s->queue);
    end_uses(op);
}

static void *stream_thread(void *arg) {
    struct mc_stream *s = arg;
    char name[16];
    snprintf(name, sizeof name, "mock-stream-%u", s->number % 100);
    pthread_setname_np(pthread_self(), name);
    mc_tls.running = s;
    pthread_mutex_lock(&s->lock);
    while (s->head || !s->closing) {
        if (!s->head || s->held) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        struct mc_op *op = s->head;
        pthread_mutex_unlock(&s->lock);
        run_one(s, op);
        pthread_mutex_lock(&s->lock);
        s->head = op->next;
        if (!s->head)
            s->tail = &s->head;
        s->completed++;
        pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        mc_op_free(op);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    struct mc_ctx *c = s->ctx;
    pthread_mutex_lock(&c->lock);
    struct mc_stream **at = &c->streams;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&c->lock);
    mc_stream_put(s);
    return NULL;
}

static void start(struct mc_stream *s) {
    pthread_attr_t a;
    pthread_t t;
    pthread_attr_init(&a);
    pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    sigset_t all, before;
    sigfillset(&all); // the application's signals are for its own threads
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGABRT);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&t, &a, stream_thread, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&a);
    if (error)
        mc_rule("environment", "no thread for a stream: error %d", error);
}

// Called with c->lock.
static struct mc_stream *new_locked(struct mc_ctx *c, unsigned flags, int priority) {
    struct mc_stream *s = calloc(1, sizeof *s);
    if (!s)
        mc_rule("environment", "out of memory");
    s->ctx = c;
    s->number = atomic_fetch_add(&last_number, 1) + 1;
    s->flags = flags;
    s->priority = priority;
    s->rng = mc_config.seed * 0x9e3779b97f4a7c15ull + s->number;
    s->refs = 2; // the handle's (or the context's) and the thread's
    s->tail = &s->head;
    if (mc_config.queues)
        s->queue = &c->queues[c->next_queue++ % mc_config.queues];
    pthread_mutex_init(&s->lock, NULL);
    mc_cond_init(&s->changed);
    s->next = c->streams;
    c->streams = s;
    start(s);
    return s;
}

struct mc_stream *mc_stream_new(struct mc_ctx *c, unsigned flags, int priority) {
    pthread_mutex_lock(&c->lock);
    struct mc_stream *s = new_locked(c, flags, priority);
    pthread_mutex_unlock(&c->lock);
    return s;
}

struct mc_stream *mc_stream_legacy(struct mc_ctx *c) {
    pthread_mutex_lock(&c->lock);
    if (!c->legacy)
        c->legacy = new_locked(c, 0, 0);
    struct mc_stream *s = c->legacy;
    pthread_mutex_unlock(&c->lock);
    return s;
}

void mc_stream_put(struct mc_stream *s) {
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
}

// ---- Enqueuing -----------------------------------------------------------------------------------

static uint64_t append(struct mc_stream *s, struct mc_op *op) {
    char what[80];
    snprintf(what, sizeof what, "stream %u has %u operations and takes no more", s->number,
             mc_config.depth);
    uint64_t since = mc_now();
    pthread_mutex_lock(&s->lock);
    while (mc_config.depth && s->submitted - s->completed >= mc_config.depth)
        mc_cond_wait(&s->changed, &s->lock, since, what);
    if (s->queue) {
        pthread_mutex_lock(&s->queue->lock);
        op->queue_ticket = s->queue->next++;
        pthread_mutex_unlock(&s->queue->lock);
    }
    *s->tail = op;
    s->tail = &op->next;
    uint64_t ticket = ++s->submitted;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return ticket;
}

// An operation that waits for all there is in `other` now.
static struct mc_op *wait_for(struct mc_stream *other) {
    if (mc_stream_idle(other))
        return NULL;
    struct mc_op *op = mc_op_new(MC_WAIT_STREAM);
    atomic_fetch_add(&other->refs, 1);
    op->other = other;
    op->other_ticket = mc_stream_last(other);
    return op;
}

static struct mc_op *barriers(struct mc_stream *s) {
    struct mc_ctx *c = s->ctx;
    struct mc_op *list = NULL, *op;
    pthread_mutex_lock(&c->lock);
    for (struct mc_stream *o = c->streams; o; o = o->next) {
        if (o == s || (o->flags & RDI_CU_STREAM_NON_BLOCKING) || (s != c->legacy && o != c->legacy))
            continue;
        op = wait_for(o);
        if (!op)
            continue;
        op->next = list;
        list = op;
    }
    pthread_mutex_unlock(&c->lock);
    return list;
}

uint64_t mc_enqueue(struct mc_stream *s, struct mc_op *op) {
    if (atomic_load(&s->capture) != RDI_CU_CAPTURE_NONE)
        mc_rule("enqueued-in-capture", "work is enqueued in stream %u, which captures", s->number);
    if (!(s->flags & RDI_CU_STREAM_NON_BLOCKING)) {
        struct mc_op *list = barriers(s);
        while (list) {
            struct mc_op *next = list->next;
            list->next = NULL;
            append(s, list);
            list = next;
        }
    }
    return append(s, op);
}

uint64_t mc_stream_last(struct mc_stream *s) {
    pthread_mutex_lock(&s->lock);
    uint64_t ticket = s->submitted;
    pthread_mutex_unlock(&s->lock);
    return ticket;
}

bool mc_stream_idle(struct mc_stream *s) {
    pthread_mutex_lock(&s->lock);
    bool idle = s->completed == s->submitted;
    pthread_mutex_unlock(&s->lock);
    return idle;
}

void mc_stream_wait(struct mc_stream *s, uint64_t ticket, const char *what) {
    char text[120];
    snprintf(text, sizeof text, "%s waits for stream %u", what, s->number);
    uint64_t since = mc_now();
    pthread_mutex_lock(&s->lock);
    while (s->completed < ticket)
        mc_cond_wait(&s->changed, &s->lock, since, text);
    pthread_mutex_unlock(&s->lock);
}
