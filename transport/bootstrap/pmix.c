// SPDX-License-Identifier: MIT
// PMIx as a client, by libpmix.so.2 where there is one: what Open MPI's mpirun, PRRTE, jsrun and srun --mpi=pmix offer
// to their ranks.
//
// The library's calls block for as long as they like, so each runs on a thread of its own. One that does not come back
// in time keeps its thread and its memory, and the library is not called again in this process. The library counts who
// uses it, so that an MPI library beside us is not disturbed; it is never unloaded, as it has threads of its own.
#include "transport/bootstrap/pmix_abi.h"
#include "transport/bootstrap/point.h"
#include "transport/thread.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LIBRARY "libpmix.so.2"
#define KEY "rondo-point"
#define LEAVE_MS 5000
#define ASK_MS 10000    // for the server of this host to answer
#define NO_TEXT INT_MIN // a status beside the library's

// ---- The library --------------------------------------------------------------------------------

static const struct entry {
    const char *symbol;
    size_t at; // in struct rdi_pmix
} entries[] = {
    {"PMIx_Init", offsetof(struct rdi_pmix, init)},
    {"PMIx_Finalize", offsetof(struct rdi_pmix, finalize)},
    {"PMIx_Put", offsetof(struct rdi_pmix, put)},
    {"PMIx_Commit", offsetof(struct rdi_pmix, commit)},
    {"PMIx_Fence", offsetof(struct rdi_pmix, fence)},
    {"PMIx_Get", offsetof(struct rdi_pmix, get)},
    {"PMIx_Error_string", offsetof(struct rdi_pmix, error_string)},
};
_Static_assert(sizeof entries / sizeof entries[0] == sizeof(struct rdi_pmix) / sizeof(void *),
               "each member of the table has a symbol");

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; // for all that follows
static struct rdi_pmix pmix;
static struct rdi_pmix_proc self;
static bool loaded, begun, stuck;
static pid_t owner; // who began

static rondo_status load(void) {
    void *library = loaded ? NULL : dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (loaded) {
        return RONDO_OK;
    }
    if (library == NULL) {
        // dlerror() begins with the library's name.
        const char *text = dlerror();
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s (Debian: libpmix2)",
                        text != NULL ? text : LIBRARY " cannot be loaded");
    }
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        void *symbol = dlsym(library, entries[i].symbol);
        if (symbol == NULL) {
            return rdi_fail(RONDO_ERR_UNSUPPORTED, LIBRARY " has no function %s",
                            entries[i].symbol);
        }
        memcpy((char *)&pmix + entries[i].at, &symbol, sizeof symbol);
    }
    loaded = true;
    return RONDO_OK;
}

// ---- A call with a deadline ---------------------------------------------------------------------

struct call {
    void (*work)(struct call *c);
    pthread_mutex_t mutex;
    pthread_cond_t done_cond;
    bool done, abandoned;
    struct rdi_pmix pmix;
    struct rdi_pmix_proc self;
    const char *step; // that is under way, or failed
    int status;       // of the library
    bool has_text;
    char text[RDI_POINT_TEXT]; // in: rank 0's; out: what rank 0 said
    const char *attribute;     // of a number
    bool of_rank;
    uint32_t number;
};

static void destroy(struct call *c) {
    pthread_cond_destroy(&c->done_cond);
    pthread_mutex_destroy(&c->mutex);
    sodium_memzero(c, sizeof *c);
    free(c);
}

static struct call *make(void (*work)(struct call *c)) {
    struct call *c = calloc(1, sizeof *c);
    if (c != NULL) {
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_mutex_init(&c->mutex, NULL);
        pthread_cond_init(&c->done_cond, &monotonic);
        pthread_condattr_destroy(&monotonic);
        c->work = work;
        c->pmix = pmix;
        c->self = self;
        c->step = "PMIx";
    }
    return c;
}

static void *run(void *arg) {
    struct call *c = arg;
    c->work(c);
    pthread_mutex_lock(&c->mutex);
    c->done = true;
    bool mine = c->abandoned;
    pthread_cond_signal(&c->done_cond);
    pthread_mutex_unlock(&c->mutex);
    if (mine) {
        destroy(c);
    }
    return NULL;
}

// But for RONDO_OK, the call is not this caller's any more; after RONDO_ERR_TIMEOUT none may follow.
static rondo_status finish(struct call *c, int timeout_ms) {
    pthread_t thread;
    struct timespec until;
    int err = c != NULL ? rdi_thread_create(&thread, NULL, run, c) : ENOMEM;
    if (err != 0) {
        if (c != NULL) {
            destroy(c);
        }
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "no thread for PMIx");
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&c->mutex);
    while (!c->done && err != ETIMEDOUT) {
        err = pthread_cond_timedwait(&c->done_cond, &c->mutex, &until);
    }
    bool done = c->done;
    c->abandoned = !done;
    pthread_mutex_unlock(&c->mutex);
    if (done) {
        pthread_join(thread, NULL);
        return RONDO_OK;
    }
    pthread_detach(thread);
    stuck = true;
    return RONDO_ERR_TIMEOUT;
}

static rondo_status check_stuck(void) {
    return stuck ? rdi_fail(RONDO_ERR_UNSUPPORTED,
                            "an earlier call of PMIx in this process did not come back")
                 : RONDO_OK;
}

// ---- The calls ----------------------------------------------------------------------------------

static void call_init(struct call *c) { c->status = c->pmix.init(&c->self, NULL, 0); }

static void call_finalize(struct call *c) { c->status = c->pmix.finalize(NULL, 0); }

// Whether the step has worked so far.
static bool does(struct call *c, const char *step, int status) {
    c->step = step;
    c->status = status;
    return status == RDI_PMIX_SUCCESS;
}

static void call_share(struct call *c) {
    struct rdi_pmix_proc all = c->self, zero = c->self;
    struct rdi_pmix_info collect = {.value = {.type = RDI_PMIX_BOOL}};
    struct rdi_pmix_value put = {.type = RDI_PMIX_STRING}, *got = NULL;
    all.rank = RDI_PMIX_RANK_WILDCARD;
    zero.rank = 0;
    snprintf(collect.key, sizeof collect.key, RDI_PMIX_COLLECT_DATA);
    collect.value.data.flag = true;
    put.data.string = c->text;
    c->step = "PMIx_Fence";
    if ((c->has_text && (!does(c, "PMIx_Put", c->pmix.put(RDI_PMIX_GLOBAL, KEY, &put)) ||
                         !does(c, "PMIx_Commit", c->pmix.commit()))) ||
        !does(c, "PMIx_Fence", c->pmix.fence(&all, 1, &collect, 1)) ||
        !does(c, "PMIx_Get", c->pmix.get(&zero, KEY, NULL, 0, &got))) {
        return;
    }
    bool is_text = got != NULL && got->type == RDI_PMIX_STRING && got->data.string != NULL;
    c->status = is_text && strlen(got->data.string) < sizeof c->text ? RDI_PMIX_SUCCESS : NO_TEXT;
    if (c->status == RDI_PMIX_SUCCESS) {
        snprintf(c->text, sizeof c->text, "%s", got->data.string);
    }
    if (is_text) {
        sodium_memzero(got->data.string, strlen(got->data.string));
        free(got->data.string);
    }
    free(got);
}

static void call_number(struct call *c) {
    struct rdi_pmix_proc proc = c->self;
    struct rdi_pmix_value *got = NULL;
    proc.rank = c->of_rank ? proc.rank : RDI_PMIX_RANK_WILDCARD;
    c->status = c->pmix.get(&proc, c->attribute, NULL, 0, &got);
    if (c->status == RDI_PMIX_SUCCESS && got != NULL) {
        c->status = got->type == RDI_PMIX_UINT32 || got->type == RDI_PMIX_UINT16 ? 0 : NO_TEXT;
        c->number = got->type == RDI_PMIX_UINT32 ? got->data.uint32 : got->data.uint16;
        free(got);
    }
}

// At the end of the process. A library that was left cannot be entered again in the same process, and an MPI library may
// want to later; and a process that ends without having left is one that crashed, for the launcher.
static void leave(void) {
    // Not in a child of this process, nor while a call is under way.
    if (getpid() != owner || pthread_mutex_trylock(&mutex) != 0) {
        return;
    }
    struct call *c = begun && !stuck ? make(call_finalize) : NULL;
    begun = false;
    if (c != NULL && finish(c, LEAVE_MS) == RONDO_OK) {
        destroy(c);
    }
    pthread_mutex_unlock(&mutex);
}

rondo_status rdi_pmix_begin(int timeout_ms) {
    pthread_mutex_lock(&mutex);
    rondo_status s = check_stuck();
    if (s == RONDO_OK && !begun) {
        s = load();
        struct call *c = s == RONDO_OK ? make(call_init) : NULL;
        s = s == RONDO_OK ? finish(c, timeout_ms) : s;
        if (s == RONDO_ERR_TIMEOUT) {
            s = rdi_fail(RONDO_ERR_UNSUPPORTED, "PMIx_Init did not come back within %g s",
                         timeout_ms / 1000.0);
        } else if (s == RONDO_OK) {
            begun = c->status == RDI_PMIX_SUCCESS;
            self = c->self;
            if (begun) {
                owner = getpid();
                atexit(leave);
            }
            s = begun ? RONDO_OK
                      : rdi_fail(RONDO_ERR_UNSUPPORTED, "PMIx_Init: %s",
                                 c->pmix.error_string(c->status));
            destroy(c);
        }
    }
    pthread_mutex_unlock(&mutex);
    return s;
}

rondo_status rdi_pmix_share(int rank, int timeout_ms, const char *mine, char *out, size_t cap) {
    pthread_mutex_lock(&mutex);
    rondo_status s = check_stuck();
    struct call *c = s == RONDO_OK ? make(call_share) : NULL;
    if (c != NULL && mine != NULL) {
        c->has_text = true;
        snprintf(c->text, sizeof c->text, "%s", mine);
    }
    s = s == RONDO_OK ? finish(c, timeout_ms) : s;
    if (s == RONDO_ERR_TIMEOUT) {
        s = rdi_fail(s,
                     "rank %d waited %g s (option connect_timeout) in its launcher's PMIx for the"
                     " other ranks: all of them have to start and call rondo_init()",
                     rank, timeout_ms / 1000.0);
    } else if (s == RONDO_OK) {
        if (c->status != RDI_PMIX_SUCCESS || strlen(c->text) >= cap) {
            s = rdi_fail(RONDO_ERR_BOOTSTRAP,
                         "rank %d cannot meet the others by its launcher's PMIx: %s: %s; with"
                         " MASTER_ADDR set on all ranks PMIx is not used",
                         rank, c->step,
                         c->status == NO_TEXT ? "rank 0 gave no text"
                                              : c->pmix.error_string(c->status));
        } else {
            snprintf(out, cap, "%s", c->text);
        }
        destroy(c);
    }
    pthread_mutex_unlock(&mutex);
    return s;
}

bool rdi_pmix_number(const char *attribute, bool of_rank, int timeout_ms, int *out) {
    pthread_mutex_lock(&mutex);
    bool ok = false;
    struct call *c = begun && !stuck ? make(call_number) : NULL;
    if (c != NULL) {
        c->attribute = attribute;
        c->of_rank = of_rank;
        if (finish(c, timeout_ms) == RONDO_OK) {
            ok = c->status == RDI_PMIX_SUCCESS && c->number <= INT32_MAX;
            *out = ok ? (int)c->number : *out;
            destroy(c);
        }
    }
    pthread_mutex_unlock(&mutex);
    return ok;
}

char *rdi_pmix_getenv(const char *name) {
    static const struct {
        const char *name, *attribute;
        bool of_rank;
    } known[] = {
        {"PMIX_JOB_SIZE", RDI_PMIX_JOB_SIZE, false},
        {"PMIX_LOCAL_SIZE", RDI_PMIX_LOCAL_SIZE, false},
        {"PMIX_LOCAL_RANK", RDI_PMIX_LOCAL_RANK, true},
    };
    static _Thread_local char texts[sizeof known / sizeof known[0]][16];
    char *value = getenv(name);
    for (size_t i = 0; i < sizeof known / sizeof known[0] && value == NULL; i++) {
        int number;
        if (strcmp(name, known[i].name) == 0 && getenv("PMIX_NAMESPACE") != NULL &&
            rdi_pmix_begin(ASK_MS) == RONDO_OK &&
            rdi_pmix_number(known[i].attribute, known[i].of_rank, ASK_MS, &number)) {
            snprintf(texts[i], sizeof texts[i], "%d", number);
            value = texts[i];
        }
    }
    return value;
}
