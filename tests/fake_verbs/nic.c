// SPDX-License-Identifier: MIT
// The NIC thread: receives, sends, looks at the clock, sleeps.
#include "fake.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64u // packets between looks at everything else
#define FILE_LOOK_NS 20000000u

static pthread_mutex_t stopping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stopped = PTHREAD_COND_INITIALIZER;

void fv_kick(struct fv_nic *nic) {
    if (atomic_exchange(&nic->kicked, true))
        return;
    uint64_t one = 1;
    if (write(nic->event_fd, &one, sizeof one) < 0)
        abort(); // it cannot be full
}

// ---- Receiving -----------------------------------------------------------------------------------

// Takes the buffer.
static void process(struct fv_nic *nic, struct fv_buf *b, uint64_t now) {
    struct fv_qp *q = fv_route(nic, &b->p);
    bool taken = false;
    if (q && b->p.type == FV_REQUEST)
        taken = fv_responder_request(q, b, now);
    else if (q)
        fv_requester_answer(q, b, now);
    if (!taken)
        fv_buf_give(nic, b);
}

static void arrive(struct fv_nic *nic, struct fv_buf *b, uint64_t now) {
    const struct fv_faults *f = &nic->faults;
    struct fv_qp *q = fv_route(nic, &b->p);
    uint64_t due = now;
    if (f->delay_us)
        due += fv_random(&nic->rng) % (f->delay_us * 1000ull);
    if (fv_chance(&nic->rng, f->reorder))
        due += fv_random(&nic->rng) % 500000;
    if (!q || (!q->queue && due == now)) {
        process(nic, b, now);
        return;
    }
    // Packets of a queue pair stay in order, those of different ones do not.
    q->queue_due = b->due = due > q->queue_due ? due : q->queue_due;
    b->next = NULL;
    *q->queue_end = b;
    q->queue_end = &b->next;
}

static uint64_t process_queue(struct fv_qp *q, uint64_t now) {
    while (q->queue && q->queue->due <= now) {
        struct fv_buf *b = q->queue;
        q->queue = b->next;
        if (!q->queue)
            q->queue_end = &q->queue;
        process(q->nic, b, now);
    }
    return q->queue ? q->queue->due : FV_NEVER;
}

static bool receive_from(struct fv_nic *nic, int fd, unsigned *budget) {
    while (*budget > 0) {
        pthread_mutex_lock(&nic->lock);
        struct fv_buf *b = fv_buf_take(nic);
        pthread_mutex_unlock(&nic->lock);
        int rc = b ? fv_link_receive(fd, b) : 0;
        pthread_mutex_lock(&nic->lock);
        if (rc > 0)
            arrive(nic, b, fv_now());
        else if (b)
            fv_buf_give(nic, b);
        pthread_mutex_unlock(&nic->lock);
        if (rc <= 0)
            return rc == 0;
        --*budget;
    }
    return true;
}

// True if there may be more.
static bool receive_all(struct fv_nic *nic) {
    bool more = false;
    for (unsigned i = 0; i < nic->nin; i++) {
        unsigned budget = BATCH;
        if (!receive_from(nic, nic->in[i], &budget)) {
            pthread_mutex_lock(&nic->lock);
            close(nic->in[i]);
            nic->in[i--] = nic->in[--nic->nin];
            pthread_mutex_unlock(&nic->lock);
        }
        more = more || budget == 0;
    }
    return more;
}

// ---- Sending -------------------------------------------------------------------------------------

static bool send_all(struct fv_nic *nic, uint64_t now) {
    bool sent = true;
    // One queue pair falls behind the others.
    unsigned slow = UINT32_MAX;
    if (nic->faults.reorder && nic->nqps)
        slow = (unsigned)(fv_random(&nic->rng) % nic->nqps);
    for (unsigned round = 0; sent && round < BATCH; round++) {
        sent = false;
        unsigned i = 0;
        for (struct fv_qp *q = nic->qps; q; q = q->next, i++) {
            if (i == slow && round < 4) {
                sent = true;
                continue;
            }
            sent = fv_responder_send(q) || sent;
            sent = fv_requester_send(q, now) || sent;
        }
    }
    return sent;
}

// Everything but receiving. Returns when to come again.
static uint64_t work(struct fv_nic *nic, bool timers) {
    uint64_t now = fv_now();
    uint64_t next = fv_faults_tick(nic, now);
    for (struct fv_qp *q = nic->qps; q; q = q->next) {
        next = fv_min(next, process_queue(q, now));
        next = fv_min(next, fv_msg_tick(q, now));
        if (timers)
            fv_requester_timer(q, now);
        if (q->flush) {
            q->flush = false;
            fv_requester_flush(q);
            fv_responder_flush(q);
        }
    }
    if (send_all(nic, now))
        return now;
    for (struct fv_qp *q = nic->qps; q; q = q->next)
        next = fv_min(next, fv_requester_due(q));
    return next;
}

// ---- Sleeping ------------------------------------------------------------------------------------

struct sleepers {
    struct pollfd *p;
    size_t cap;
};

static size_t fill(struct fv_nic *nic, struct sleepers *s) {
    size_t need = 3 + nic->nin + nic->nout, n = 0;
    if (need > s->cap) {
        struct pollfd *p = realloc(s->p, 2 * need * sizeof *p);
        if (!p)
            abort();
        s->p = p;
        s->cap = 2 * need;
    }
    const int fixed[] = {nic->event_fd, nic->listen_fd, nic->inotify_fd};
    for (; n < 3; n++)
        s->p[n] = (struct pollfd){.fd = fixed[n], .events = POLLIN};
    for (unsigned i = 0; i < nic->nin; i++)
        s->p[n++] = (struct pollfd){.fd = nic->in[i], .events = POLLIN};
    for (unsigned i = 0; i < nic->nout; i++)
        if (nic->out[i].blocked)
            s->p[n++] = (struct pollfd){.fd = nic->out[i].fd, .events = POLLOUT};
    return n;
}

static void wake(struct fv_nic *nic, const struct pollfd *p, size_t n) {
    uint64_t count;
    if ((p[0].revents & POLLIN) && read(nic->event_fd, &count, sizeof count) < 0)
        count = 0;
    atomic_store(&nic->kicked, false);
    pthread_mutex_lock(&nic->lock);
    bool full = (p[1].revents & POLLIN) && !fv_link_accept(nic);
    if ((p[2].revents & POLLIN) || nic->inotify_fd < 0)
        fv_faults_read_file(nic);
    for (unsigned i = 0; i < nic->nout; i++)
        for (size_t k = 3; k < n; k++)
            if (p[k].fd == nic->out[i].fd && p[k].revents)
                nic->out[i].blocked = false;
    pthread_mutex_unlock(&nic->lock);
    if (full)
        poll(NULL, 0, 10); // the connection stays there, and would be asked about at once again
}

static void sleep_until(struct fv_nic *nic, struct sleepers *s, uint64_t next) {
    pthread_mutex_lock(&nic->lock);
    size_t n = fill(nic, s);
    pthread_mutex_unlock(&nic->lock);
    uint64_t now = fv_now();
    uint64_t ns = next > now ? next - now : 0;
    if (nic->inotify_fd < 0)
        ns = fv_min(ns, FILE_LOOK_NS);
    ns = fv_min(ns, 3600ull * 1000000000u);
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    fv_registry_awake(nic, ns == 0);
    int rc = ppoll(s->p, n, &t, NULL);
    fv_registry_awake(nic, true);
    if (rc < 0)
        for (size_t i = 0; i < n; i++)
            s->p[i].revents = 0;
    wake(nic, s->p, n);
}

static void *nic_main(void *arg) {
    struct fv_nic *nic = arg;
    struct sleepers s = {0};
    bool stop = false;
    while (!stop) {
        bool more = receive_all(nic);
        pthread_mutex_lock(&nic->lock);
        // An answer that lies in a socket comes before the timer that waits for it.
        uint64_t next = work(nic, !more);
        stop = nic->stop;
        pthread_mutex_unlock(&nic->lock);
        if (!stop)
            sleep_until(nic, &s, more ? 0 : next);
    }
    free(s.p);
    pthread_mutex_lock(&stopping);
    nic->stopped = true;
    pthread_cond_broadcast(&stopped);
    pthread_mutex_unlock(&stopping);
    return NULL;
}

int fv_nic_start(struct fv_nic *nic) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&thread, &attr, nic_main, nic);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return rc;
}

void fv_nic_stop(struct fv_nic *nic) {
    pthread_mutex_lock(&nic->lock);
    nic->stop = true;
    pthread_mutex_unlock(&nic->lock);
    fv_kick(nic);
    pthread_mutex_lock(&stopping);
    while (!nic->stopped)
        pthread_cond_wait(&stopped, &stopping);
    pthread_mutex_unlock(&stopping);
}

void fv_nic_abandon(struct fv_nic *nic) {
    const int fixed[] = {nic->event_fd, nic->listen_fd, nic->inotify_fd};
    for (size_t i = 0; i < 3; i++)
        if (fixed[i] >= 0)
            close(fixed[i]);
    for (unsigned i = 0; i < nic->nin; i++)
        close(nic->in[i]);
    for (unsigned i = 0; i < nic->nout; i++)
        close(nic->out[i].fd);
}
