// SPDX-License-Identifier: MIT
// The keeper: a thread that looks after hubs while NCCL does not call, which between two collectives can be
// long. Whoever waits for a message polls by itself, so a round now and then is all that is needed. It lives as
// long as there are hubs.
#include "transport/nccl/core.h"
#include "transport/thread.h"

#include <stdlib.h>
#include <time.h>

#define ROUND_NS (100 * RDI_MS)

struct rdi_nccl_keeper {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
};

static void *keep(void *arg) {
    struct rdi_nccl_keeper *k = arg;
    pthread_mutex_lock(&k->lock);
    while (!k->stop) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        uint64_t at = (uint64_t)t.tv_sec * 1000 * RDI_MS + (uint64_t)t.tv_nsec + ROUND_NS;
        t = (struct timespec){.tv_sec = (time_t)(at / (1000 * RDI_MS)),
                              .tv_nsec = (long)(at % (1000 * RDI_MS))};
        pthread_cond_timedwait(&k->wake, &k->lock, &t);
        if (!k->stop) {
            pthread_mutex_unlock(&k->lock);
            rdi_nccl_hubs_keep();
            pthread_mutex_lock(&k->lock);
        }
    }
    pthread_mutex_unlock(&k->lock);
    return NULL;
}

struct rdi_nccl_keeper *rdi_nccl_keeper_start(void) {
    struct rdi_nccl_keeper *k = calloc(1, sizeof *k);
    if (k == NULL) {
        return NULL;
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->wake, &attr);
    pthread_condattr_destroy(&attr);
    int err = rdi_thread_create(&k->thread, NULL, keep, k);
    if (err != 0) {
        rdi_nccl_log(RDI_NCCL_LOG_WARN,
                     "NET/" RDI_NCCL_NAME ": no thread can be had (error %d): a path that is lost "
                     "between two operations is noticed at the next one only",
                     err);
        pthread_cond_destroy(&k->wake);
        pthread_mutex_destroy(&k->lock);
        free(k);
        return NULL;
    }
    pthread_setname_np(k->thread, "rondo-nccl");
    return k;
}

void rdi_nccl_keeper_stop(struct rdi_nccl_keeper *k) {
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->lock);
    pthread_join(k->thread, NULL);
    pthread_cond_destroy(&k->wake);
    pthread_mutex_destroy(&k->lock);
    free(k);
}
