// SPDX-License-Identifier: MIT
// From nothing to a job: place, key, store, the first meeting; and the way back.
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/munge.h"
#include "transport/bootstrap/point.h"
#include "transport/bootstrap/store_client.h"
#include "transport/bootstrap/store_wire.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000u
#define LINGER_MS 3000    // rank 0's patience with ranks that still read
#define FIRST_LOST_MS 200 // the store's answer is at hand, or the store is gone as well

// ---- The store ----------------------------------------------------------------------------------

static rondo_status connect_store(struct rdi_bootstrap *b, const struct rdi_launch *launch,
                                  const struct rdi_job *job, const char *key_source,
                                  uint64_t deadline) {
    const char *host = launch->host;
    if (b->rank == 0 && !launch->launcher_store) {
        if (b->server == NULL) {
            rondo_status s = rdi_serve(b, launch->loopback ? host : NULL, launch->port, job);
            if (s != RONDO_OK) {
                return s;
            }
        }
        host = launch->loopback ? host : "127.0.0.1";
    }
    uint64_t now = rdi_now(&b->env);
    int left = deadline > now ? (int)((deadline - now + MS - 1) / MS) : 0;
    // Whoever serves the store itself needs no sign of life from it.
    rondo_status s = rdi_store_connect_vigilant(
        host, launch->port, job, left, b->server != NULL ? 0 : b->grace_ms, b->silence_ms, &b->own);
    int starved = b->server != NULL ? rdi_store_server_starved(b->server) : 0;
    if (s == RONDO_ERR_TIMEOUT && starved != 0) {
        s = rdi_fail_errno(RONDO_ERR_SYSTEM, starved,
                           "rank 0 cannot accept connections to the store that it serves at %s",
                           b->where);
    } else if (s == RONDO_ERR_TIMEOUT && launch->host_from != NULL) {
        s = rdi_fail(s,
                     "%s (%s is the first of %s; where the other hosts know it by another name or"
                     " address, give all ranks that as MASTER_ADDR)",
                     rondo_last_error(), launch->host, launch->host_from);
    } else if (s == RONDO_ERR_AUTH) {
        s = rdi_fail(s, "%s (this rank's key: %s)", rondo_last_error(), key_source);
    }
    b->store = b->own;
    return s;
}

// Connects and gets on the roll. The port may still be that of a job just ending, whose ranks these were: its store
// says so, or just goes, and the new one comes.
static rondo_status come(struct rdi_bootstrap *b, const struct rdi_launch *launch,
                         const struct rdi_job *job, const char *key_source, uint64_t deadline) {
    char before[RDI_ERROR_TEXT] = "";
    for (;;) {
        rondo_status s = connect_store(b, launch, job, key_source, deadline);
        if (s != RONDO_OK) {
            return s == RONDO_ERR_TIMEOUT && before[0] != '\0'
                       ? rdi_fail(s, "%s; before that, %s", rondo_last_error(), before)
                       : s;
        }
        s = rdi_store_come(b->own, job);
        if (s == RONDO_OK || b->server != NULL || (s != RONDO_AGAIN && s != RONDO_ERR_PEER)) {
            return s;
        }
        if (rdi_now(&b->env) >= deadline) {
            return rdi_fail(RONDO_ERR_TIMEOUT, "rank %d waited %g s (option connect_timeout): %s",
                            b->rank, b->timeout_ms / 1000.0, rondo_last_error());
        }
        snprintf(before, sizeof before, "%s", rondo_last_error());
        rdi_store_close(b->own);
        b->own = NULL;
        b->store = NULL;
        struct timespec pause = {.tv_nsec = 20L * MS};
        nanosleep(&pause, NULL);
    }
}

// Connects and agrees on a session.
static rondo_status join(struct rdi_bootstrap *b, const struct rdi_launch *launch,
                         const struct rdi_job *job, const char *key_source, bool with_secret) {
    uint64_t deadline = rdi_now(&b->env) + (uint64_t)b->timeout_ms * MS;
    rondo_status s = b->callers ? RONDO_OK : come(b, launch, job, key_source, deadline);
    return s == RONDO_OK ? rdi_join(b, with_secret, deadline) : s;
}

// ---- The first meeting --------------------------------------------------------------------------

// What ranks tell each other first: what they believe, and where they are.
struct card {
    uint8_t size[4]; // world size, in network byte order
    uint8_t host_id[16];
    char host[RDI_HOST_MAX];
};

static void fill_card(struct card *c, const struct rdi_job *job) {
    memset(c, 0, sizeof *c);
    for (int i = 0; i < 4; i++) {
        c->size[i] = (uint8_t)((uint32_t)job->size >> (24 - 8 * i));
    }
    memcpy(c->host_id, job->host_id, sizeof c->host_id);
    snprintf(c->host, sizeof c->host, "%s", job->host);
}

static rondo_status check_card(void *arg, int rank, const void *record, size_t len) {
    const struct rdi_job *job = arg;
    struct card c;
    if (len != sizeof c) {
        return rdi_fail(
            RONDO_ERR_VERSION,
            "rank %d is of another release of Rondo than rank 0: install the same on all hosts",
            rank);
    }
    memcpy(&c, record, sizeof c);
    rdi_printable(c.host, sizeof c.host);
    uint32_t size = 0;
    for (int i = 0; i < 4; i++) {
        size = size << 8 | c.size[i];
    }
    if (size != (uint32_t)job->size) {
        return rdi_fail(
            RONDO_ERR_BOOTSTRAP,
            "rank %d (host %s) was started with world size %u, but rank 0 (host %s) with %d", rank,
            c.host, size, job->host, job->size);
    }
    return RONDO_OK;
}

// All ranks are there and agree; a local rank that no launcher told is counted.
static rondo_status meet(struct rdi_bootstrap *b, struct rdi_job *job) {
    size_t n = (size_t)b->size;
    struct card mine;
    fill_card(&mine, job);
    void **all = calloc(n, sizeof *all);
    size_t *lens = calloc(n, sizeof *lens);
    rondo_status s = RONDO_ERR_NOMEM;
    if (all == NULL || lens == NULL) {
        rdi_fail(s, "no memory for %zu ranks", n);
    } else {
        struct rdi_exchange x = {.name = "open", .joining = true, .check = check_card, .arg = job};
        s = rdi_exchange(b, &x, &mine, sizeof mine, all, lens);
    }
    int below = 0, locals = 0;
    for (int r = 0; s == RONDO_OK && r < b->size; r++) {
        struct card c = {.size = {0}};
        memcpy(&c, all[r], lens[r] < sizeof c ? lens[r] : sizeof c);
        bool here = memcmp(c.host_id, job->host_id, sizeof c.host_id) == 0;
        below += here && r < b->rank;
        locals += here;
    }
    if (s == RONDO_OK) {
        job->local_rank = job->local_rank < 0 ? below : job->local_rank;
        job->local_size = locals;
    }
    for (size_t r = 0; r < n && all != NULL; r++) {
        free(all[r]);
    }
    free(lens);
    free(all);
    return s;
}

// ---- Open, exchange, close ----------------------------------------------------------------------

static rondo_status check_store_ops(const rondo_config *config) {
    const rondo_store_ops *ops = config->store_ops;
    if (ops != NULL && (ops->size < sizeof *ops || ops->set == NULL || ops->get == NULL)) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "rondo_config.store_ops lacks a function, or its size is not sizeof(rondo_store_ops)");
    }
    return RONDO_OK;
}

static rondo_status open_store(struct rdi_bootstrap *b, const rondo_config *config,
                               const struct rdi_launch *launch, struct rdi_job *job,
                               const char *key_source, bool key_from_store, bool again) {
    if (config->store_ops != NULL) {
        b->ops = config->store_ops;
        b->store = config->store;
        b->callers = true;
        b->peek_ms = 1; // 0 may mean "for ever" to it
        snprintf(b->where, sizeof b->where, "the caller's store");
    } else {
        b->ops = &rdi_store_tcp_ops;
        snprintf(b->host, sizeof b->host, "%s", launch->host);
        b->port = launch->port;
        snprintf(b->where, sizeof b->where, "%s, port %d", launch->host, launch->port);
        b->outlives = launch->launcher_store;
    }
    if (again) {
        return connect_store(b, launch, job, key_source,
                             rdi_now(&b->env) + (uint64_t)b->timeout_ms * MS);
    }
    rondo_status s = join(b, launch, job, key_source, key_from_store);
    if (s == RONDO_OK && key_from_store) {
        s = rdi_key_set(job, b->welcome + RDI_SESSION_BYTES, RDI_JOIN_SECRET);
    }
    if (s == RONDO_OK) {
        s = meet(b, job);
    }
    sodium_memzero(b->welcome, sizeof b->welcome);
    return s;
}

// How rank 0 tells where it is; the log says what does not work of that which the launcher offers.
static rondo_status choose_way(const struct rdi_options *options, const struct rdi_env *env,
                               struct rdi_launch *launch) {
    char why[RDI_ERROR_TEXT];
    rondo_status s = rdi_point_choose(launch, getenv, (int)options->num[RDI_OPT_CONNECT_TIMEOUT],
                                      why, sizeof why);
    if (s == RONDO_OK && why[0] != '\0' && launch->via == RDI_VIA_NONE) {
        rdi_log(env, RONDO_LOG_INFO,
                "what %s offers for telling where rank 0 is does not work (%s): the store is at"
                " %s, port %d",
                launch->launcher, why, launch->host, launch->port);
    } else if (s == RONDO_OK && why[0] != '\0') {
        rdi_log(env, RONDO_LOG_INFO,
                "not all that %s offers for telling where rank 0 is works (%s): %s is used",
                launch->launcher, why, rdi_via_name(launch->via));
    }
    return s;
}

// The place in the job, and whether this start of the rank is one that can be.
static rondo_status find_place(const rondo_config *config, const struct rdi_options *options,
                               const struct rdi_env *env, struct rdi_launch *launch,
                               uint32_t *restarts) {
    rondo_status s = check_store_ops(config);
    if (s == RONDO_OK) {
        s = rdi_discover(config, rdi_pmix_getenv, launch);
    }
    if (s == RONDO_OK) {
        s = rdi_bootstrap_restart_number(getenv, restarts);
    }
    if (s == RONDO_OK && *restarts > 0 && (config->store_ops != NULL || !launch->launcher_store)) {
        s = rdi_fail(RONDO_ERR_UNSUPPORTED,
                     RDI_ENV_RESTART
                     " says that rank %d was started again; it can find its job only "
                     "through a store that the launcher serves (" RDI_ENV_STORE
                     "=launcher, as rondo-run --elastic does)",
                     launch->rank);
    }
    if (s == RONDO_OK) {
        rdi_key_spare_munge(config, options, getenv, launch);
        s = choose_way(options, env, launch);
    }
    return s;
}

static void set_up(struct rdi_bootstrap *b, const struct rdi_options *options,
                   const struct rdi_env *env, const struct rdi_job *job) {
    b->env = *env;
    b->rank = job->rank;
    b->size = job->size;
    b->timeout_ms = (int)options->num[RDI_OPT_CONNECT_TIMEOUT];
    b->grace_ms = (unsigned)options->num[RDI_OPT_STOP_GRACE];
    b->silence_ms = (unsigned)options->num[RDI_OPT_PEER_TIMEOUT];
}

// All that follows when place and key's source are known. `key_later`: the key is not there yet.
static rondo_status open_job(struct rdi_bootstrap *b, const rondo_config *config,
                             const struct rdi_options *options, struct rdi_launch *launch,
                             struct rdi_job *job, const char *key_source, bool key_later,
                             bool again) {
    rondo_status s = RONDO_OK;
    rdi_log(&b->env, RONDO_LOG_DEBUG, "rank %d of %d on %s (%s), store at %s:%d, key: %s", b->rank,
            b->size, job->host, launch->launcher, launch->host, launch->port, key_source);
    if (b->size == 1) {
        job->local_rank = 0;
        return RONDO_OK;
    }
    if (!job->auth && !key_later && b->rank == 0) {
        rdi_log(&b->env, RONDO_LOG_WARN,
                "this job has no key (%s): whoever reaches its ports can join", key_source);
    }
    if (launch->via != RDI_VIA_NONE) {
        s = rdi_meet_at_point(b, options, launch, job, key_later);
        key_later = false;
    }
    s = s == RONDO_OK ? open_store(b, config, launch, job, key_source, key_later, again) : s;
    rdi_herald_stop(b->herald); // all have met, or never will
    b->herald = NULL;
    return s;
}

rondo_status rdi_bootstrap_open(const rondo_config *config, const struct rdi_options *options,
                                const struct rdi_env *env, struct rdi_job *job,
                                struct rdi_bootstrap **out) {
    const rondo_config unset = RONDO_CONFIG_INIT;
    config = config != NULL ? config : &unset;
    struct rdi_launch launch;
    struct rdi_job found = {.rank = 0};
    char key_source[RDI_KEY_SOURCE];
    uint32_t restarts = 0;
    struct rdi_bootstrap *b = NULL;
    rondo_status s = find_place(config, options, env, &launch, &restarts);
    if (s == RONDO_OK) {
        found.rank = launch.rank;
        found.launch = launch.id;
        found.size = launch.size;
        found.local_rank = launch.local_rank;
        found.local_size = launch.local_size;
        rdi_host_find(&found);
        s = rdi_key_find_for(config, options, &launch, getenv, &found, key_source);
    }
    bool key_later = s == RONDO_AGAIN;
    if (s == RONDO_OK || key_later) {
        b = calloc(1, sizeof *b);
        s = b != NULL ? RONDO_OK : rdi_fail(RONDO_ERR_NOMEM, "no memory for the bootstrap");
    }
    if (s == RONDO_OK) {
        set_up(b, options, env, &found);
        s = open_job(b, config, options, &launch, &found, key_source, key_later, restarts > 0);
    }
    if (s == RONDO_OK) {
        *job = found; // and the share in its key
        *out = b;
    } else {
        rdi_bootstrap_close(b);
        rdi_job_clear(&found);
    }
    return s;
}

rondo_status rdi_bootstrap_exchange(struct rdi_bootstrap *b, const char *name, const void *mine,
                                    size_t len, void **all, size_t *lens) {
    size_t name_len = strlen(name);
    if (name_len == 0 || name_len > RDI_EXCHANGE_NAME_MAX || len > RDI_EXCHANGE_MAX) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "exchange '%.40s' with a record of %zu bytes; names can have 1..%d bytes and"
            " records at most %u",
            name, len, RDI_EXCHANGE_NAME_MAX, RDI_EXCHANGE_MAX);
    }
    if (b->ops != NULL) {
        struct rdi_exchange x = {.name = name};
        return rdi_exchange(b, &x, mine, len, all, lens);
    }
    void *copy = malloc(len > 0 ? len : 1);
    if (copy == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a record of %zu bytes", len);
    }
    if (len > 0) {
        memcpy(copy, mine, len);
    }
    all[0] = copy;
    lens[0] = len;
    return RONDO_OK;
}

// Ranks that gave up because of a loss end, too, and to who sees that from elsewhere they may all look lost: the store
// has seen who was the first.
rondo_status rdi_bootstrap_first_lost(struct rdi_bootstrap *b, char text[RDI_ERROR_TEXT]) {
    bool answered = false;
    void *value = NULL;
    size_t len;
    text[0] = '\0';
    if (b->own == NULL) {
        return RONDO_AGAIN;
    }
    rondo_status s = rdi_store_ask(b->own, RDI_STORE_GET, "rondo/lost", NULL, 0, 0,
                                   rdi_after_ms(b, FIRST_LOST_MS), "asking who was lost first",
                                   &answered, &value, &len);
    if (answered && s == RONDO_ERR_PEER && len > 0) {
        snprintf(text, RDI_ERROR_TEXT, "%s", (const char *)value);
        rdi_printable(text, RDI_ERROR_TEXT);
        // Who left without a reason was through, and may have been just a little faster than this rank.
        size_t n = strlen(text), bare = strlen(" " RDI_LEFT);
        if (n >= bare && strcmp(text + n - bare, " " RDI_LEFT) == 0) {
            text[0] = '\0';
        }
    }
    free(value);
    return text[0] != '\0' ? RONDO_OK : RONDO_AGAIN;
}

static void close_within(struct rdi_bootstrap *b, int ms) {
    if (b == NULL) {
        return;
    }
    rdi_leave(b);
    if (b->server != NULL) {
        rdi_await_leaving(b, rdi_now(&b->env) + (uint64_t)ms * MS);
        rdi_store_server_stop(b->server);
    }
    rdi_store_close(b->own);
    free(b);
}

void rdi_bootstrap_close(struct rdi_bootstrap *b) { close_within(b, LINGER_MS); }

void rdi_bootstrap_drop(struct rdi_bootstrap *b) { close_within(b, 0); }
