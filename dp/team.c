// SPDX-License-Identifier: MIT
// A thread for each device. They sleep until there is a round of work, and the caller sleeps until all are through.
#include "dp/internal.h"
#include "transport/thread.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// On the device's thread, or, with one device, on the caller's, whose last error stays if nothing fails. Errors are
// texts of a thread, so they are taken along.
static void work_on(struct rdi_dp_device *k, rdi_dp_work work, void *arg) {
    char before[RDI_ERROR_TEXT];
    snprintf(before, sizeof before, "%s", rondo_last_error());
    rdi_set_last_error("");
    k->status = work(k, arg);
    snprintf(k->error, sizeof k->error, "%s", k->status == RONDO_OK ? "" : rondo_last_error());
    rdi_set_last_error(before);
}

static void *thread_main(void *arg) {
    struct rdi_dp_device *k = arg;
    struct rdi_dp_team *t = &k->dp->team;
    uint64_t seen = 0;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->stop && t->round == seen) {
            pthread_cond_wait(&t->begin, &t->lock);
        }
        if (t->stop) {
            break;
        }
        seen = t->round;
        if (k->index >= t->width) {
            continue;
        }
        rdi_dp_work work = t->work;
        void *given = t->arg;
        pthread_mutex_unlock(&t->lock);
        work_on(k, work, given);
        pthread_mutex_lock(&t->lock);
        if (--t->left == 0) {
            pthread_cond_signal(&t->end);
        }
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

// Before the thread runs, so that all memory that it touches first is near its processors.
static int bind(pthread_attr_t *attr, const struct rdi_set *cpus) {
    cpu_set_t *set = CPU_ALLOC(RDI_SET_BITS);
    size_t bytes = CPU_ALLOC_SIZE(RDI_SET_BITS);
    if (!set) {
        return ENOMEM;
    }
    CPU_ZERO_S(bytes, set);
    for (unsigned bit = 0; bit < RDI_SET_BITS; bit++) {
        if (rdi_set_has(cpus, bit)) {
            CPU_SET_S(bit, bytes, set);
        }
    }
    int err = pthread_attr_setaffinity_np(attr, bytes, set);
    CPU_FREE(set);
    return err;
}

static int start(struct rdi_dp_device *k) {
    pthread_attr_t attr;
    int err = pthread_attr_init(&attr);
    if (err) {
        return err;
    }
    err = rdi_set_first(&k->cpus) >= 0 ? bind(&attr, &k->cpus) : 0;
    err = err ? err : rdi_thread_create(&k->thread, &attr, thread_main, k);
    pthread_attr_destroy(&attr);
    return err;
}

rondo_status rdi_dp_team_start(struct rondo_dp *dp) {
    struct rdi_dp_team *t = &dp->team;
    t->made = true;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begin, NULL);
    pthread_cond_init(&t->end, NULL);
    for (int i = 0; i < dp->devices && dp->devices > 1; i++) {
        int err = start(&dp->device[i]);
        if (err) {
            return rdi_fail_errno(RONDO_ERR_SYSTEM, err,
                                  "cannot start the thread of device %d (%s)", i,
                                  dp->device[i].name);
        }
        t->threads++;
    }
    return RONDO_OK;
}

rondo_status rdi_dp_team_run(struct rondo_dp *dp, int width, rdi_dp_work work, void *arg) {
    struct rdi_dp_team *t = &dp->team;
    if (dp->devices == 1) {
        work_on(&dp->device[0], work, arg);
    } else {
        pthread_mutex_lock(&t->lock);
        t->work = work;
        t->arg = arg;
        t->width = t->left = width;
        t->round++;
        pthread_cond_broadcast(&t->begin);
        while (t->left > 0) {
            pthread_cond_wait(&t->end, &t->lock);
        }
        pthread_mutex_unlock(&t->lock);
    }
    for (int i = 0; i < width; i++) {
        if (dp->device[i].status != RONDO_OK) {
            rdi_set_last_error(dp->device[i].error);
            return dp->device[i].status;
        }
    }
    return RONDO_OK;
}

void rdi_dp_team_stop(struct rondo_dp *dp) {
    struct rdi_dp_team *t = &dp->team;
    if (!t->made) {
        return;
    }
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->begin);
    pthread_mutex_unlock(&t->lock);
    for (int i = 0; i < t->threads; i++) {
        pthread_join(dp->device[i].thread, NULL);
    }
    pthread_cond_destroy(&t->end);
    pthread_cond_destroy(&t->begin);
    pthread_mutex_destroy(&t->lock);
}
