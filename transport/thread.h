// SPDX-License-Identifier: MIT
// How a library starts a thread.
#ifndef RDI_TRANSPORT_THREAD_H
#define RDI_TRANSPORT_THREAD_H

#include <pthread.h>
#include <signal.h>

// As pthread_create(), but the program's signals are for the program's threads: their handlers run neither on this one nor
// on those that it starts.
static inline int rdi_thread_create(pthread_t *thread, const pthread_attr_t *attr,
                                    void *(*run)(void *), void *arg) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(thread, attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

#endif
