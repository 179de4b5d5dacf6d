// SPDX-License-Identifier: MIT
// The observer: the engines of this process, and the thread that serves them. See observe.h.
//
// Locks. `life` is held while an engine comes or goes, so that threads begin and end one at a time. `lock` guards
// the list and the flags and is held for moments only; what takes time (borrowing an engine, writing a file) the thread
// does without it: nobody else takes engines off the list, or closes the descriptors that it sleeps on.
#include "ring/record/observe.h"
#include "ring/record/observe_trace.h"
#include "transport/temp.h"
#include "transport/thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SETTLE_NS UINT64_C(1000000000)
#define STACK_BYTES ((size_t)256 * 1024)
#define TRACE_NAP_MS 20
#define FDS_MAX 256
#define BORROW_NS UINT64_C(100000000)

static pthread_mutex_t life = PTHREAD_MUTEX_INITIALIZER;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool made, running, stop;
    int pid; // whose all this is: a forked child begins anew
    int wake;
    uint64_t serial;
    pthread_t thread;
    struct rdi_observed *list;
    struct rdi_observe_conn conns[2 * RDI_OBSERVE_CONNS];
} g;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void wake_up(void) {
    uint64_t one = 1;
    ssize_t n = write(g.wake, &one, sizeof one);
    (void)n; // full: it is awake
}

// ---- The thread's work ---------------------------------------------------------------------------

static void write_dump(struct rdi_observed *o, const char *cause) {
    char path[RDI_OBSERVE_PATH + 160];
    struct rdi_text t = {0};
    uint64_t upto = atomic_load(&o->noticed);
    const struct rdi_env *env = &o->engine->env;
    pthread_mutex_unlock(&g.lock);
    rdi_observe_name(o, o->dump, "dump", path);
    rondo_status s = rdi_observe_text(o, cause, UINT64_MAX, &t);
    s = s == RONDO_OK ? rdi_observe_write(path, &t) : s;
    rdi_text_free(&t);
    rdi_log(env, s == RONDO_OK ? RONDO_LOG_INFO : RONDO_LOG_WARN, "rank %d: %s%s", o->rank,
            s == RONDO_OK ? "state written to " : rondo_last_error(), s == RONDO_OK ? path : "");
    pthread_mutex_lock(&g.lock);
    atomic_store(&o->written, upto);
    pthread_cond_broadcast(&g.cond);
}

static void write_dumps(void) {
    bool asked = rdi_observe_signalled();
    for (struct rdi_observed *o = g.list; o; o = o->next) {
        bool failed = atomic_load(&o->noticed) > atomic_load(&o->written);
        if (o->dump[0] && (asked || failed)) {
            write_dump(o, failed ? "failure" : "signal");
        }
    }
}

// Decides what there is to decide about this rank's communicators; moves no data.
static void take_news(void) {
    if (!rdi_observe_has_news()) {
        return;
    }
    for (struct rdi_observed *o = g.list; o; o = o->next) {
        if (!o->dump[0]) {
            continue;
        }
        pthread_mutex_unlock(&g.lock);
        uint64_t now = rdi_now(&o->engine->env);
        if (rdi_driver_lock_until(o->engine->driver, now + BORROW_NS)) {
            (void)rdi_fault_progress(o->engine, now);
            rdi_driver_unlock(o->engine->driver);
        }
        pthread_mutex_lock(&g.lock);
    }
}

static void let_go(void) {
    for (struct rdi_observed **at = &g.list; *at;) {
        struct rdi_observed *o = *at;
        if (!o->leaving) {
            at = &o->next;
            continue;
        }
        *at = o->next;
        if (o->view >= 0) {
            close(o->view);
        }
        if (o->metrics >= 0) {
            close(o->metrics);
        }
        if (o->metrics_path[0]) {
            (void)unlink(o->metrics_path);
        }
        o->gone = true; // and may be freed at once
        pthread_cond_broadcast(&g.cond);
    }
}

static struct rdi_observed *find(uint64_t serial) {
    struct rdi_observed *o = g.list;
    while (o && o->serial != serial) {
        o = o->next;
    }
    return o;
}

static void serve(struct rdi_observe_conn *c, short events) {
    if (events && c->out.len == 0) {
        rdi_observe_conn_read(c);
        struct rdi_observed *o = c->fd >= 0 ? find(c->serial) : NULL;
        if (o && !o->leaving && rdi_observe_asked(c)) {
            pthread_mutex_unlock(&g.lock);
            rdi_observe_answer(c, o);
            pthread_mutex_lock(&g.lock);
        }
    }
    if (c->fd >= 0 && c->out.len > 0) {
        rdi_observe_conn_write(c);
    }
    if (c->fd >= 0 && now_ns() >= c->deadline) {
        rdi_observe_conn_close(c);
    }
}

// ---- The thread ----------------------------------------------------------------------------------

// What it sleeps on: the wake-up, then the connections, then the listeners.
struct sleep {
    struct pollfd fds[FDS_MAX];
    struct rdi_observe_conn *conn[FDS_MAX];
    uint64_t serial[FDS_MAX]; // of listeners
    bool metrics[FDS_MAX];
    int n, timeout_ms;
};

static void add_listener(struct sleep *s, int fd, const struct rdi_observed *o, bool metrics) {
    if (fd >= 0 && s->n < FDS_MAX) {
        s->serial[s->n] = o->serial;
        s->metrics[s->n] = metrics;
        s->conn[s->n] = NULL;
        s->fds[s->n++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
}

static void prepare(struct sleep *s) {
    uint64_t now = now_ns(), until = UINT64_MAX;
    bool tracing = false;
    s->n = 1;
    s->fds[0] = (struct pollfd){.fd = g.wake, .events = POLLIN};
    for (int i = 0; i < 2 * RDI_OBSERVE_CONNS; i++) {
        struct rdi_observe_conn *c = &g.conns[i];
        if (c->fd >= 0) {
            s->conn[s->n] = c;
            s->fds[s->n++] = (struct pollfd){.fd = c->fd, .events = c->out.len ? POLLOUT : POLLIN};
            until = c->deadline < until ? c->deadline : until;
        }
    }
    for (const struct rdi_observed *o = g.list; o; o = o->next) {
        add_listener(s, o->view, o, false);
        add_listener(s, o->metrics, o, true);
        tracing |= o->trace != NULL;
    }
    s->timeout_ms = -1;
    if (until != UINT64_MAX) {
        s->timeout_ms = until > now ? (int)((until - now) / 1000000) + 1 : 0;
    }
    if (tracing && (s->timeout_ms < 0 || s->timeout_ms > TRACE_NAP_MS)) {
        s->timeout_ms = TRACE_NAP_MS;
    }
}

static void look(const struct sleep *s) {
    uint64_t count;
    if (s->fds[0].revents) {
        ssize_t n = read(g.wake, &count, sizeof count);
        (void)n;
    }
    for (int i = 1; i < s->n; i++) {
        struct rdi_observed *o = s->conn[i] ? NULL : find(s->serial[i]);
        if (s->conn[i]) {
            serve(s->conn[i], s->fds[i].revents);
        } else if (o && s->fds[i].revents) {
            rdi_observe_accept(g.conns, o, s->metrics[i], now_ns());
        }
    }
}

static void drain_traces(void) {
    for (struct rdi_observed *o = g.list; o; o = o->next) {
        if (o->trace) {
            o->draining = true;
            pthread_mutex_unlock(&g.lock);
            rdi_trace_file_drain(o->trace);
            pthread_mutex_lock(&g.lock);
            o->draining = false;
            pthread_cond_broadcast(&g.cond);
        }
    }
}

static void *thread_main(void *arg) {
    struct sleep *s = arg;
    pthread_mutex_lock(&g.lock);
    while (!g.stop) {
        let_go();
        take_news();
        write_dumps();
        drain_traces();
        prepare(s);
        pthread_mutex_unlock(&g.lock);
        int n = poll(s->fds, (nfds_t)s->n, s->timeout_ms);
        pthread_mutex_lock(&g.lock);
        if (n >= 0) {
            look(s);
        }
    }
    pthread_mutex_unlock(&g.lock);
    free(s);
    return NULL;
}

// ---- Coming and going ----------------------------------------------------------------------------

// In a forked child: what is inherited of the parent's is dropped.
static void begin_anew(void) {
    if (g.made && g.running) {
        close(g.wake);
        for (struct rdi_observed *o = g.list; o; o = o->next) {
            if (o->view >= 0) {
                close(o->view);
            }
            if (o->metrics >= 0) {
                close(o->metrics);
            }
        }
        for (int i = 0; i < 2 * RDI_OBSERVE_CONNS; i++) {
            if (g.conns[i].fd >= 0) {
                close(g.conns[i].fd);
            }
        }
    }
    memset(&g, 0, sizeof g);
    pthread_condattr_t attr;
    pthread_mutex_init(&g.lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g.cond, &attr);
    pthread_condattr_destroy(&attr);
    for (int i = 0; i < 2 * RDI_OBSERVE_CONNS; i++) {
        g.conns[i].fd = -1;
    }
    g.made = true;
    g.pid = (int)getpid();
}

static rondo_status start_thread(void) {
    struct sleep *s = malloc(sizeof *s);
    pthread_attr_t attr;
    g.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g.stop = false;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int err = !s           ? ENOMEM
              : g.wake < 0 ? errno
                           : rdi_thread_create(&g.thread, &attr, thread_main, s);
    pthread_attr_destroy(&attr);
    if (err) {
        free(s);
        if (g.wake >= 0) {
            close(g.wake);
        }
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot start the observer's thread");
    }
    rdi_observe_wake_by(g.wake);
    g.running = true;
    return RONDO_OK;
}

static void stop_thread(void) {
    pthread_mutex_lock(&g.lock);
    g.stop = true;
    wake_up();
    pthread_mutex_unlock(&g.lock);
    pthread_join(g.thread, NULL);
    for (int i = 0; i < 2 * RDI_OBSERVE_CONNS; i++) {
        rdi_observe_conn_close(&g.conns[i]);
    }
    rdi_observe_wake_off();
    close(g.wake);
    g.running = false;
}

static void notice(void *arg) {
    struct rdi_observed *o = arg;
    atomic_fetch_add(&o->noticed, 1);
    wake_up();
}

// The options that ask for something to be done: what cannot be done is an error.
static rondo_status open_parts(struct rdi_observed *o, struct rondo_comm *world) {
    const struct rdi_options *opt = &world->engine->options;
    const char *dump = opt->str[RDI_OPT_DUMP], *metrics = opt->str[RDI_OPT_METRICS];
    rondo_status s = dump[0] ? rdi_observe_prefix(dump, o->dump) : RONDO_OK;
    if (s == RONDO_OK && dump[0]) {
        char path[RDI_OBSERVE_PATH + 160];
        rdi_observe_name(o, o->dump, "dump", path);
        rdi_temp_sweep(path); // halves that killed processes left
    }
    if (s == RONDO_OK && metrics[0]) {
        s = rdi_observe_listen_metrics(o, metrics, world->local_size);
    }
    // The view asks nobody's leave, so it may fail in silence.
    if (s == RONDO_OK && opt->num[RDI_OPT_RECORD] > 0 &&
        rdi_observe_listen_view(o, &world->engine->env) != RONDO_OK) {
        rdi_log(&world->engine->env, RONDO_LOG_INFO, "%s", rondo_last_error());
    }
    return s;
}

static void close_parts(struct rdi_observed *o) {
    if (o->view >= 0) {
        close(o->view);
    }
    if (o->metrics >= 0) {
        close(o->metrics);
    }
    if (o->metrics_path[0]) {
        (void)unlink(o->metrics_path);
    }
    free(o);
}

static rondo_status join(struct rdi_observed *o) {
    if (o->joined) {
        return RONDO_OK;
    }
    if (!g.made || g.pid != (int)getpid()) {
        begin_anew();
    }
    rondo_status s = g.running ? RONDO_OK : start_thread();
    if (s != RONDO_OK) {
        return s;
    }
    struct rdi_engine *e = o->engine;
    pthread_mutex_lock(&g.lock);
    o->serial = ++g.serial;
    o->next = g.list;
    g.list = o;
    wake_up();
    pthread_mutex_unlock(&g.lock);
    if (o->dump[0]) {
        rdi_observe_signal_take();
        rdi_driver_lock(e->driver);
        e->recorder.notice_arg = o;
        e->recorder.notice = notice;
        rdi_driver_unlock(e->driver);
    }
    o->joined = true;
    return RONDO_OK;
}

static rondo_status join_locked(struct rdi_observed *o) {
    pthread_mutex_lock(&life);
    rondo_status s = join(o);
    pthread_mutex_unlock(&life);
    return s;
}

rondo_status rdi_observe_open(struct rondo_comm *world) {
    struct rdi_engine *e = world->engine;
    struct rdi_observed *o = calloc(1, sizeof *o);
    if (!o) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the observer");
    }
    o->engine = e;
    o->view = o->metrics = -1;
    rdi_observe_identify(o, world);
    rondo_status s = open_parts(o, world);
    bool wanted = o->dump[0] || o->metrics >= 0;
    if (s == RONDO_OK && (wanted || o->view >= 0)) {
        s = join_locked(o);
        if (s != RONDO_OK && !wanted) { // a program goes on though it cannot be looked at
            rdi_log(&e->env, RONDO_LOG_INFO, "%s", rondo_last_error());
            s = RONDO_OK;
        }
    }
    const char *trace = e->options.str[RDI_OPT_TRACE];
    if (s == RONDO_OK && trace[0]) {
        char prefix[RDI_OBSERVE_PATH], path[RDI_OBSERVE_PATH + 160];
        s = rdi_observe_prefix(trace, prefix);
        if (s == RONDO_OK) {
            rdi_observe_name(o, prefix, "trace", path);
            s = rdi_observe_trace_begin(o, path);
        }
    }
    e->observed = o;
    if (s != RONDO_OK) {
        rdi_observe_close(e);
    }
    return s;
}

void rdi_observe_close(struct rdi_engine *e) {
    struct rdi_observed *o = e->observed;
    if (!o) {
        return;
    }
    rdi_observe_settle(e);
    if (o->trace && rdi_observe_trace_end(o) != RONDO_OK) {
        rdi_log(&e->env, RONDO_LOG_WARN, "%s", rondo_last_error());
    }
    e->recorder.notice = NULL;
    e->observed = NULL;
    if (!o->joined) {
        close_parts(o);
        return;
    }
    pthread_mutex_lock(&life);
    pthread_mutex_lock(&g.lock);
    o->leaving = true;
    wake_up();
    while (!o->gone) {
        pthread_cond_wait(&g.cond, &g.lock);
    }
    bool last = g.list == NULL;
    pthread_mutex_unlock(&g.lock);
    if (last) {
        stop_thread();
    }
    pthread_mutex_unlock(&life);
    free(o);
}

void rdi_observe_settle(const struct rdi_engine *e) {
    struct rdi_observed *o = e->observed;
    if (!o || !o->dump[0] || atomic_load(&o->written) >= atomic_load(&o->noticed)) {
        return;
    }
    uint64_t until = now_ns() + SETTLE_NS;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_mutex_lock(&g.lock);
    while (atomic_load(&o->written) < atomic_load(&o->noticed) &&
           pthread_cond_timedwait(&g.cond, &g.lock, &t) == 0) {}
    pthread_mutex_unlock(&g.lock);
}

// ---- Traces --------------------------------------------------------------------------------------

rondo_status rdi_observe_trace_begin(struct rdi_observed *o, const char *path) {
    struct rdi_trace_file *f;
    pthread_mutex_lock(&life);
    rondo_status s = o->trace ? rdi_fail(RONDO_ERR_USAGE,
                                         "a trace of rank %d is being written already; stop it "
                                         "with rondo_trace_stop() first",
                                         o->rank)
                              : join(o);
    s = s == RONDO_OK ? rdi_trace_file_open(o, path, &f) : s;
    if (s == RONDO_OK) {
        pthread_mutex_lock(&g.lock);
        o->trace = f;
        wake_up();
        pthread_mutex_unlock(&g.lock);
        atomic_store(&atomic_load(&o->engine->recorder.trace)->on, 1);
    }
    pthread_mutex_unlock(&life);
    return s;
}

rondo_status rdi_observe_trace_end(struct rdi_observed *o) {
    pthread_mutex_lock(&life);
    rondo_status s = RONDO_OK;
    if (!o->trace) {
        s = rdi_fail(RONDO_ERR_USAGE, "no trace of rank %d is being written", o->rank);
    } else {
        atomic_store(&atomic_load(&o->engine->recorder.trace)->on, 0);
        pthread_mutex_lock(&g.lock);
        while (o->draining) {
            pthread_cond_wait(&g.cond, &g.lock);
        }
        struct rdi_trace_file *f = o->trace;
        o->trace = NULL;
        pthread_mutex_unlock(&g.lock);
        s = rdi_trace_file_close(f);
    }
    pthread_mutex_unlock(&life);
    return s;
}
