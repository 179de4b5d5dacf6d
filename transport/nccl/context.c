// SPDX-License-Identifier: MIT
// init() and finalize(), the options, NCCL's log, and the number by which this process goes in texts.
//
// NCCL up to version 10 of its interface calls init() once and never says that it is done: so nothing but
// memory lives from one call to the next. Sockets, devices and the keeper's thread belong to hubs, which end
// with the last comm.
#include "transport/bootstrap/bootstrap.h"
#include "transport/nccl/core.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; // of all below while it changes
static bool loaded;
static unsigned contexts; // made and not finalized
static bool for_good;     // a version that does not finalize was here
static struct rdi_options options;
static struct rdi_env env;
static int self;
static bool launched;
static _Atomic(rdi_nccl_log_fn) logger;

const struct rdi_options *rdi_nccl_options(void) { return &options; }
const struct rdi_env *rdi_nccl_env(void) { return &env; }
int rdi_nccl_self(void) { return self; }
const char *rdi_nccl_self_word(void) { return launched ? "rank" : "process"; }

// ---- Log -----------------------------------------------------------------------------------------

void rdi_nccl_log(int level, const char *fmt, ...) {
    rdi_nccl_log_fn log = atomic_load_explicit(&logger, memory_order_acquire);
    if (log == NULL) {
        return;
    }
    char line[1200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    unsigned long subsystems = level == RDI_NCCL_LOG_WARN ? ~0ul
                                                          : RDI_NCCL_SUB_INIT | RDI_NCCL_SUB_NET;
    log(level, subsystems, __func__, __LINE__, "%s", line);
}

// Rondo's own lines: a warning of Rondo's is about something that it copes with.
static void on_line(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    rdi_nccl_log(level == RONDO_LOG_ERROR   ? RDI_NCCL_LOG_WARN
                 : level == RONDO_LOG_DEBUG ? RDI_NCCL_LOG_TRACE
                                            : RDI_NCCL_LOG_INFO,
                 "NET/" RDI_NCCL_NAME ": %s", line);
}

int rdi_nccl_result(rondo_status s) {
    switch (s) {
    case RONDO_OK:
    case RONDO_AGAIN:
        return RDI_NCCL_SUCCESS;
    case RONDO_ERR_PEER:
    case RONDO_ERR_PATH:
    case RONDO_ERR_TIMEOUT:
    case RONDO_ERR_AUTH:
    case RONDO_ERR_VERSION:
    case RONDO_ERR_ABORTED:
        return RDI_NCCL_REMOTE;
    case RONDO_ERR_NOMEM:
    case RONDO_ERR_SYSTEM:
    case RONDO_ERR_UNSUPPORTED:
        return RDI_NCCL_SYSTEM;
    case RONDO_ERR_INVALID:
    case RONDO_ERR_MISMATCH:
        return RDI_NCCL_USAGE;
    default:
        return RDI_NCCL_INTERNAL;
    }
}

int rdi_nccl_report(rondo_status s, const char *what, const char *text) {
    rdi_nccl_log(RDI_NCCL_LOG_WARN, "NET/" RDI_NCCL_NAME ": %s: %s [%s]", what, text,
                 rondo_status_name(s));
    return rdi_nccl_result(s);
}

// ---- Begin and end -------------------------------------------------------------------------------

static void find_self(void) {
    rondo_config config = RONDO_CONFIG_INIT;
    struct rdi_launch launch;
    config.master_addr = "127.0.0.1"; // asks for the rank only, not for the way to the store
    config.master_port = 1;
    launched = rdi_discover(&config, getenv, &launch) == RONDO_OK && launch.size > 1;
    self = launched ? launch.rank : (int)getpid();
    if (!launched) {
        rdi_nccl_log(RDI_NCCL_LOG_INFO,
                     "NET/" RDI_NCCL_NAME ": no launcher tells ranks (RANK and WORLD_SIZE): where "
                     "lines of this plugin say rank, they mean a process id; this one is %d",
                     self);
    }
}

static rondo_status load(void) {
    rdi_env_system(&env, on_line, NULL);
    rondo_status s = rdi_options_load(&options, NULL, getenv);
    if (s != RONDO_OK) {
        return s;
    }
    find_self();
    s = rdi_nccl_devices_open();
    loaded = s == RONDO_OK;
    return s;
}

int rdi_nccl_init(struct rdi_nccl_context **context, int traffic_class, rdi_nccl_log_fn log) {
    struct rdi_nccl_context *c = context != NULL ? calloc(1, sizeof *c) : NULL;
    rondo_status s = context != NULL && c == NULL
                         ? rdi_fail(RONDO_ERR_NOMEM, "no memory for a context")
                         : RONDO_OK;
    pthread_mutex_lock(&mutex);
    atomic_store_explicit(&logger, log, memory_order_release);
    s = s == RONDO_OK && !loaded ? load() : s;
    if (s == RONDO_OK) {
        contexts += context != NULL;
        for_good = for_good || context == NULL;
    }
    pthread_mutex_unlock(&mutex);
    if (s != RONDO_OK) {
        free(c);
        return rdi_nccl_report(s, "cannot begin", rondo_last_error());
    }
    if (c != NULL) {
        c->traffic_class = traffic_class;
        *context = c;
    }
    return RDI_NCCL_SUCCESS;
}

int rdi_nccl_finalize(struct rdi_nccl_context *context) {
    free(context);
    pthread_mutex_lock(&mutex);
    contexts -= contexts > 0;
    if (contexts == 0 && !for_good) {
        rdi_nccl_connect_sweep(true);
        rdi_nccl_devices_close();
        loaded = false;
    }
    pthread_mutex_unlock(&mutex);
    return RDI_NCCL_SUCCESS;
}
