// SPDX-License-Identifier: MIT
// A rank on the store's roll: it comes, gives signs of life from a thread of its own, as between two requests it may
// be busy with its devices for long, and leaves.
#include "transport/bootstrap/store_client.h"
#include "transport/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROLL "roll" // COME and LEAVE have a key like all requests
#define ANSWER_MS 10000
#define LEAVE_MS 100 // it fits into any socket's buffer, unless that is full

struct rdi_store_pulse {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    bool stop;
};

static void beat(struct rdi_store *st) {
    static const uint8_t pulse = RDI_STORE_PULSE;
    // Where a request is being sent, that is the sign.
    if (pthread_mutex_trylock(&st->write) == 0) {
        if (st->fd >= 0) {
            (void)send(st->fd, &pulse, 1, MSG_NOSIGNAL); // who asks sees what is wrong
        }
        pthread_mutex_unlock(&st->write);
    }
}

static void *run(void *arg) {
    struct rdi_store *st = arg;
    struct rdi_store_pulse *p = st->pulse;
    long ns = (long)rdi_store_beat_ms(st->grace_ms) * 1000000;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += ns;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&p->stopped, &p->lock, &until) != 0) {
            beat(st);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static rondo_status start(struct rdi_store *st) {
    struct rdi_store_pulse *p = calloc(1, sizeof *p);
    pthread_condattr_t attr;
    if (p == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the thread of the store's client");
    }
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->stopped, &attr);
    pthread_condattr_destroy(&attr);
    st->pulse = p;
    int err = rdi_thread_create(&p->thread, NULL, run, st);
    if (err != 0) {
        pthread_cond_destroy(&p->stopped);
        pthread_mutex_destroy(&p->lock);
        free(p);
        st->pulse = NULL;
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err,
                              "cannot start the thread of the store's client");
    }
    pthread_setname_np(p->thread, "rondo-pulse");
    return RONDO_OK;
}

void rdi_store_pulse_stop(struct rdi_store *st) {
    struct rdi_store_pulse *p = st->pulse;
    if (p == NULL) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->stopped);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->stopped);
    pthread_mutex_destroy(&p->lock);
    free(p);
    st->pulse = NULL;
}

rondo_status rdi_store_come(struct rdi_store *st, const struct rdi_job *job) {
    struct rdi_store_come who = {.rank = job->rank,
                                 .size = job->size,
                                 .pid = (int)getpid(),
                                 .launch = job->launch,
                                 .grace_ms = st->grace_ms,
                                 .silence_ms = st->silence_ms};
    struct rdi_store_host h;
    uint8_t bytes[RDI_STORE_COME_BYTES];
    bool answered;
    void *got = NULL;
    size_t len = 0;
    snprintf(who.host, sizeof who.host, "%s", job->host);
    rdi_store_encode_come(bytes, &who);
    rondo_status s = rdi_store_ask(st, RDI_STORE_COME, ROLL, bytes, sizeof bytes, ANSWER_MS,
                                   rdi_store_after_ms(st, ANSWER_MS), "coming to the meeting",
                                   &answered, &got, &len);
    const char *wrong = NULL;
    if (!answered) {
        return s;
    }
    if (s == RONDO_OK) {
        wrong = rdi_store_decode_host(got, len, &h);
    }
    free(got);
    if (s == RONDO_ERR_BOOTSTRAP) {
        return rdi_fail(RONDO_AGAIN,
                        "the store at %s serves another meeting, at which a rank %d was already."
                        " Is another process rank %d too?",
                        st->where, job->rank, job->rank);
    }
    if (s == RONDO_ERR_MISMATCH) {
        return rdi_fail(RONDO_AGAIN,
                        "the store at %s is that of another job, which began earlier with the same"
                        " address and port: give each job a MASTER_PORT of its own, or none",
                        st->where);
    }
    if (s != RONDO_OK || wrong != NULL) {
        return rdi_fail(wrong != NULL ? RONDO_ERR_PEER : s, "the store at %s refused rank %d: %s",
                        st->where, job->rank, wrong != NULL ? wrong : rondo_status_string(s));
    }
    if (h.rank_0) {
        snprintf(st->server, sizeof st->server, "rank 0 (host %s, pid %d)", h.host, h.pid);
    } else {
        snprintf(st->server, sizeof st->server, "the launcher (host %s, pid %d)", h.host, h.pid);
    }
    return st->grace_ms > 0 ? start(st) : RONDO_OK;
}

void rdi_store_leave(struct rdi_store *st, const char *reason) {
    size_t n = strlen(reason);
    const struct rdi_store_request q = {.op = RDI_STORE_LEAVE,
                                        .key_len = strlen(ROLL),
                                        .value_len = n < RDI_ERROR_TEXT ? n : RDI_ERROR_TEXT};
    rdi_store_pulse_stop(st);
    if (st->fd >= 0 && st->server[0] != '\0') {
        (void)rdi_store_send(st, &q, ROLL, reason, rdi_store_after_ms(st, LEAVE_MS));
    }
}
