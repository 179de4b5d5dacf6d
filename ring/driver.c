// SPDX-License-Identifier: MIT
// The driver: who runs the engine, and how it sleeps.
//
// One thread at a time owns the engine (`token`). A thread that waits for a request takes the token and
// drives inline; others park until their request completes or the token is free. The progress thread, if
// there is one, drives when nobody else does.
//
// One way to sleep: epoll on the nets' descriptors and on `wake`. Before it sleeps the owner arms the nets
// (peers then know that they have to wake it) and sets `sleeping`; whoever pushes a request afterwards writes
// `wake`. Both sides use sequentially consistent order: store own flag, then look at the other's.
//
//   waiter:  token held while asleep          (it drives again at once when woken)
//   thread:  token released while asleep      (so that a caller can drive inline without a hand-off)
//
// More ranks than cores: instead of spinning, a waiter gives the processor away (sched_yield) and then sleeps.
#include "ring/record/observe.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define SPIN_NS UINT64_C(50000)   // busy waiting before sleep when every rank has a core
#define YIELD_NS UINT64_C(100000) // the same, giving the core away each time, when not
#define YIELD_EVERY_NS UINT64_C(2000)
#define DEVICE_NAP_NS \
    UINT64_C(50000) // a device writes words, which wake nobody: looked at this often,
#define DEVICE_NAP_MOST_NS UINT64_C(1000000) // and less while nothing moves for long
#define THREAD_NAP_NS UINT64_C(50000000)     // the progress thread looks after its links this often
#define PARK_NS 20000000

struct rdi_driver {
    struct rdi_engine *engine;
    int epfd, wake;
    _Atomic int token;
    _Atomic int wanted;   // threads in rdi_driver_lock(): a driving waiter steps aside for them
    _Atomic int sleeping; // the owner is about to sleep or asleep, holding the token
    _Atomic int thread_asleep; // the progress thread is about to sleep or asleep, without the token
    _Atomic int parked;
    _Atomic uint64_t sleeps;
    bool armed;           // guarded by the token, as is quiet_since
    uint64_t quiet_since; // 0: something moved
    bool oversubscribed;
    uint64_t spin_ns;
    pthread_mutex_t lock; // for parking only
    pthread_cond_t cond;
    pthread_t thread;
    _Atomic int has_thread, stop;
    unsigned char *alive; // a page that is wiped in forked children
};

// ---- Life ----------------------------------------------------------------------------------------

static rondo_status watch(struct rdi_driver *d, int fd) {
    struct epoll_event ev = {.events = EPOLLIN};
    if (fd >= 0 && epoll_ctl(d->epfd, EPOLL_CTL_ADD, fd, &ev) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot watch a transport's descriptor");
    }
    return RONDO_OK;
}

static void set_spin(struct rdi_driver *d) {
    const struct rdi_engine *e = d->engine;
    int local = 0;
    cpu_set_t cpus;
    for (int r = 0; r < e->job.size; r++) {
        local += memcmp(e->peers[r].host_id, e->job.host_id, 16) == 0;
    }
    int cores = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    d->oversubscribed = local > cores;
    d->spin_ns = d->oversubscribed ? YIELD_NS : SPIN_NS;
    if (!e->options.is_auto[RDI_OPT_SPIN]) {
        d->spin_ns = (uint64_t)e->options.num[RDI_OPT_SPIN] * 1000;
    }
}

rondo_status rdi_driver_create(struct rdi_engine *e, struct rdi_driver **out) {
    struct rdi_driver *d = calloc(1, sizeof *d);
    if (!d) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a driver");
    }
    d->engine = e;
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->cond, &attr);
    pthread_condattr_destroy(&attr);
    d->epfd = epoll_create1(EPOLL_CLOEXEC);
    d->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rondo_status s = RONDO_OK;
    if (d->epfd < 0 || d->wake < 0) {
        s = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot create the descriptors to sleep on");
        goto err;
    }
    d->alive = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (d->alive == MAP_FAILED) {
        d->alive = NULL;
        s = rdi_fail_errno(RONDO_ERR_NOMEM, errno, "cannot map a page");
        goto err;
    }
    // Old kernels lack it: forked children are then not told apart, nothing else.
    (void)madvise(d->alive, (size_t)sysconf(_SC_PAGESIZE), MADV_WIPEONFORK);
    *d->alive = 1;
    s = watch(d, d->wake);
    for (unsigned i = 0; i < e->nnets && s == RONDO_OK; i++) {
        s = watch(d, e->nets[i]->ops->fd(e->nets[i]));
    }
    if (s != RONDO_OK) {
        goto err;
    }
    set_spin(d);
    e->driver = d;
    *out = d;
    return RONDO_OK;
err:
    d->engine = NULL;
    rdi_driver_destroy(d);
    return s;
}

static void wake_owner(struct rdi_driver *d) {
    uint64_t one = 1;
    ssize_t n = write(d->wake, &one, sizeof one);
    (void)n; // full means that it is awake already
}

void rdi_driver_destroy(struct rdi_driver *d) {
    if (atomic_load(&d->has_thread)) {
        atomic_store(&d->stop, 1);
        wake_owner(d);
        pthread_mutex_lock(&d->lock);
        pthread_cond_broadcast(&d->cond);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->thread, NULL);
    }
    if (d->engine) {
        rdi_observe_close(d->engine);
        rdi_engine_destroy(d->engine); // ends the watch first, which nudges this driver
    }
    if (d->alive) {
        munmap(d->alive, (size_t)sysconf(_SC_PAGESIZE));
    }
    if (d->epfd >= 0) {
        close(d->epfd);
    }
    if (d->wake >= 0) {
        close(d->wake);
    }
    pthread_cond_destroy(&d->cond);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

rondo_status rdi_driver_check(const struct rdi_driver *d) {
    if (*d->alive != 1) {
        return rdi_fail(
            RONDO_ERR_FORKED,
            "this communicator belongs to the parent process; a forked child must create its own");
    }
    return RONDO_OK;
}

uint64_t rdi_driver_sleeps(const struct rdi_driver *d) { return atomic_load(&d->sleeps); }

// ---- Ownership -----------------------------------------------------------------------------------

static void disarm(struct rdi_driver *d) {
    if (!d->armed) {
        return;
    }
    uint64_t count;
    ssize_t n = read(d->wake, &count, sizeof count);
    (void)n;
    for (unsigned i = 0; i < d->engine->nnets; i++) {
        d->engine->nets[i]->ops->disarm(d->engine->nets[i]);
    }
    d->armed = false;
}

// True: nothing to do, the nets will make epfd readable. Lowers *until to a time that a net asks for.
static bool arm(struct rdi_driver *d, uint64_t now, uint64_t *until) {
    d->armed = true;
    for (unsigned i = 0; i < d->engine->nnets; i++) {
        uint64_t timeout = *until > now ? *until - now : 0;
        if (d->engine->nets[i]->ops->arm(d->engine->nets[i], &timeout) != RONDO_OK) {
            disarm(d);
            return false;
        }
        *until = now + timeout < *until ? now + timeout : *until;
    }
    return true;
}

static bool try_token(struct rdi_driver *d) {
    int free_token = 0;
    return atomic_load_explicit(&d->token, memory_order_relaxed) == 0 &&
           atomic_compare_exchange_strong(&d->token, &free_token, 1);
}

static void wake_parked(struct rdi_driver *d) {
    if (atomic_load(&d->parked)) {
        pthread_mutex_lock(&d->lock);
        pthread_cond_broadcast(&d->cond);
        pthread_mutex_unlock(&d->lock);
    }
}

static void release_token(struct rdi_driver *d) {
    atomic_store(&d->token, 0);
    wake_parked(d);
}

// Leaves the engine to the progress thread: it must find the nets armed, or be woken.
static void hand_over(struct rdi_driver *d) {
    bool wake = false;
    if (atomic_load(&d->thread_asleep) && atomic_load(&d->engine->active) > 0) {
        uint64_t until = UINT64_MAX;
        wake = !arm(d, rdi_now(&d->engine->env), &until) || atomic_load(&d->engine->inbox) != NULL;
    }
    release_token(d);
    if (wake) {
        wake_owner(d);
    }
}

// Waits for a change: a completion, or a token that got free.
static void park(struct rdi_driver *d, bool (*done)(const void *), const void *arg) {
    struct timespec t;
    atomic_fetch_add(&d->parked, 1);
    pthread_mutex_lock(&d->lock);
    if (atomic_load(&d->token) && !atomic_load(&d->stop) && !(done && done(arg))) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += PARK_NS;
        if (t.tv_nsec >= 1000000000) {
            t.tv_nsec -= 1000000000;
            t.tv_sec++;
        }
        pthread_cond_timedwait(&d->cond, &d->lock, &t);
    }
    pthread_mutex_unlock(&d->lock);
    atomic_fetch_sub(&d->parked, 1);
}

void rdi_driver_lock(struct rdi_driver *d) {
    atomic_fetch_add(&d->wanted, 1);
    while (!try_token(d)) {
        if (atomic_load(&d->sleeping)) {
            wake_owner(d);
        }
        park(d, NULL, NULL);
    }
    atomic_fetch_sub(&d->wanted, 1);
    disarm(d);
}

bool rdi_driver_lock_until(struct rdi_driver *d, uint64_t until) {
    bool mine;
    atomic_fetch_add(&d->wanted, 1);
    while (!(mine = try_token(d)) && rdi_now(&d->engine->env) < until) {
        if (atomic_load(&d->sleeping)) {
            wake_owner(d);
        }
        park(d, NULL, NULL);
    }
    atomic_fetch_sub(&d->wanted, 1);
    if (mine) {
        disarm(d);
    } else {
        wake_parked(d); // whoever stepped aside for this thread
    }
    return mine;
}

void rdi_driver_unlock(struct rdi_driver *d) { hand_over(d); }

// ---- Driving -------------------------------------------------------------------------------------

static void sleep_until(struct rdi_driver *d, uint64_t now, uint64_t until, enum rdi_wait wait) {
    struct pollfd p = {.fd = d->epfd, .events = POLLIN};
    uint64_t ns = until > now ? until - now : 0;
    ns = ns > UINT64_C(60000000000) ? UINT64_C(60000000000) : ns;
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    atomic_fetch_add_explicit(&d->sleeps, 1, memory_order_relaxed);
    // An interrupted sleep is a short sleep; the caller looks again anyway. poll(2) on the epoll descriptor, as it
    // knows times shorter than a millisecond.
    (void)ppoll(&p, 1, &t, NULL);
    if (wait != RDI_WAIT_NONE) {
        atomic_fetch_add_explicit(&d->engine->recorder.waited[wait], rdi_now(&d->engine->env) - now,
                                  memory_order_relaxed);
    }
}

// How long a sleep may last at most. *napping: a device is at work; how long it has been tells how long it may still
// be, and there is no use in spinning between such naps.
static uint64_t wake_by(struct rdi_driver *d, uint64_t now, uint64_t until, bool *napping) {
    *napping = rdi_engine_device_busy(d->engine);
    if (!*napping) {
        return until;
    }
    d->quiet_since = d->quiet_since ? d->quiet_since : now;
    uint64_t nap = (now - d->quiet_since) / 16;
    nap = nap < DEVICE_NAP_NS ? DEVICE_NAP_NS : nap;
    nap = now + (nap > DEVICE_NAP_MOST_NS ? DEVICE_NAP_MOST_NS : nap);
    return nap < until ? nap : until;
}

// Even with a core for every rank two of them may have been put on one: every few microseconds the core is
// given away, which costs next to nothing when nobody wants it.
static void relax(const struct rdi_driver *d, uint64_t now, uint64_t *yielded) {
    if (d->oversubscribed || now - *yielded > YIELD_EVERY_NS) {
        sched_yield();
        *yielded = now;
    } else {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

static uint64_t min64(uint64_t a, uint64_t b) { return a < b ? a : b; }

// With the token: until done, or until somebody wants the token.
static void drive(struct rdi_driver *d, bool (*done)(const void *), const void *arg,
                  uint64_t until) {
    struct rdi_engine *e = d->engine;
    uint64_t idle_since = 0, seen = atomic_load(&e->completions);
    uint64_t yielded = 0;
    while (!done(arg) && !atomic_load_explicit(&d->wanted, memory_order_relaxed)) {
        int moved = rdi_engine_progress(e, true);
        uint64_t completions = atomic_load_explicit(&e->completions, memory_order_relaxed);
        if (completions != seen) {
            seen = completions;
            wake_parked(d);
        }
        if (moved) {
            idle_since = d->quiet_since = 0;
            continue;
        }
        uint64_t now = rdi_now(&e->env);
        if (now >= until) {
            return;
        }
        idle_since = idle_since ? idle_since : now;
        if (now - idle_since < d->spin_ns) {
            relax(d, now, &yielded);
            continue;
        }
        bool napping;
        uint64_t wake_at = wake_by(d, now, min64(until, rdi_engine_next_deadline(e)), &napping);
        if (arm(d, now, &wake_at)) {
            atomic_store(&d->sleeping, 1);
            if (!atomic_load(&e->inbox) && !atomic_load(&d->wanted)) {
                sleep_until(d, now, wake_at, rdi_record_waiting(e));
            }
            atomic_store(&d->sleeping, 0);
            disarm(d);
        }
        idle_since = napping ? idle_since : 0;
    }
}

bool rdi_driver_wait(struct rdi_driver *d, bool (*done)(const void *arg), const void *arg,
                     uint64_t until) {
    while (!done(arg)) {
        if (rdi_now(&d->engine->env) >= until) {
            return false;
        }
        if (!atomic_load(&d->wanted) && try_token(d)) {
            disarm(d);
            drive(d, done, arg, until);
            hand_over(d);
        } else {
            if (atomic_load(&d->sleeping)) {
                wake_owner(d);
            }
            park(d, done, arg);
        }
    }
    return true;
}

bool rdi_driver_wait_owned(struct rdi_driver *d, bool (*done)(const void *arg), const void *arg,
                           uint64_t until) {
    for (;;) {
        rdi_driver_lock(d);
        drive(d, done, arg, until);
        bool ok = done(arg);
        rdi_driver_unlock(d);
        if (ok || rdi_now(&d->engine->env) >= until) {
            return ok;
        }
    }
}

rondo_status rdi_driver_poll(struct rdi_driver *d) {
    if (!try_token(d)) {
        return RONDO_AGAIN;
    }
    disarm(d);
    int moved = rdi_engine_progress(d->engine, false);
    hand_over(d);
    return moved ? RONDO_OK : RONDO_AGAIN;
}

void rdi_driver_kick(struct rdi_driver *d) {
    if (atomic_load(&d->sleeping) || atomic_load(&d->thread_asleep)) {
        wake_owner(d);
    } else if (!atomic_load(&d->has_thread)) {
        (void)rdi_driver_poll(d);
    }
}

void rdi_driver_nudge(struct rdi_driver *d) {
    wake_owner(d);
    wake_parked(d);
}

// ---- The progress thread -------------------------------------------------------------------------

static void thread_turn(struct rdi_driver *d, uint64_t *idle_since) {
    struct rdi_engine *e = d->engine;
    uint64_t seen = atomic_load(&e->completions);
    int moved = rdi_engine_progress(e, true);
    if (atomic_load(&e->completions) != seen) {
        wake_parked(d);
    }
    uint64_t now = rdi_now(&e->env);
    if (moved) {
        *idle_since = d->quiet_since = 0;
        release_token(d);
        return;
    }
    *idle_since = *idle_since ? *idle_since : now;
    if (atomic_load(&e->active) > 0 && now - *idle_since < d->spin_ns) {
        release_token(d);
        // The caller computes on this core: giving it away costs it less than spinning.
        sched_yield();
        return;
    }
    bool napping;
    uint64_t until =
        wake_by(d, now, min64(now + THREAD_NAP_NS, rdi_engine_next_deadline(e)), &napping);
    bool sleep = arm(d, now, &until);
    enum rdi_wait wait = rdi_record_waiting(e);
    atomic_store(&d->thread_asleep, 1);
    sleep = sleep && !atomic_load(&e->inbox);
    release_token(d);
    if (sleep && !atomic_load(&d->stop)) {
        sleep_until(d, now, until, wait);
    }
    atomic_store(&d->thread_asleep, 0);
    *idle_since = napping ? *idle_since : 0;
}

static void *thread_main(void *arg) {
    struct rdi_driver *d = arg;
    uint64_t idle_since = 0;
    while (!atomic_load(&d->stop)) {
        if (!atomic_load(&d->wanted) && try_token(d)) {
            disarm(d);
            thread_turn(d, &idle_since);
        } else {
            park(d, NULL, NULL);
        }
    }
    return NULL;
}

// To the processor that was decided for it. One that may not be used any more is no reason to fail.
static void bind_thread(const struct rdi_driver *d) {
    int cpu = d->engine->cpu;
    cpu_set_t set;
    if (cpu < 0 || cpu >= CPU_SETSIZE) {
        return;
    }
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    int err = pthread_setaffinity_np(d->thread, sizeof set, &set);
    if (err) {
        rdi_log(&d->engine->env, RONDO_LOG_WARN,
                "rank %d: the progress thread is not bound to processor %d: %s",
                d->engine->job.rank, cpu, strerror(err));
    }
}

rondo_status rdi_driver_start_thread(struct rdi_driver *d) {
    const char *progress = d->engine->options.str[RDI_OPT_PROGRESS];
    if (atomic_load(&d->has_thread) || strcmp(progress, "caller") == 0) {
        return RONDO_OK;
    }
    int err = pthread_create(&d->thread, NULL, thread_main, d);
    if (err) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err,
                              "cannot start the progress thread; use progress=caller");
    }
    atomic_store(&d->has_thread, 1);
    bind_thread(d);
    return RONDO_OK;
}
