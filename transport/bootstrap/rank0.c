// SPDX-License-Identifier: MIT
// Rank 0 as the one that serves the store, and that tells the others where, through what their launcher offers (point.c).
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/munge.h"
#include "transport/bootstrap/point.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUSY_MS 2000 // longer than another job's ranks need to meet, as a rule

static int busy_ms(const struct rdi_bootstrap *b) {
    return b->timeout_ms / 2 < BUSY_MS ? b->timeout_ms / 2 : BUSY_MS;
}

rondo_status rdi_serve(struct rdi_bootstrap *b, const char *addr, int port,
                       const struct rdi_job *job) {
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.silence_ms = (int)b->silence_ms;
    limits.one_meeting = true;
    limits.busy_ms = busy_ms(b);
    rondo_status s = rdi_store_server_start_limited(addr, port, job, &limits, &b->server);
    if (s == RONDO_OK) {
        rdi_store_server_log(b->server, &b->env);
    }
    return s;
}

// Rank 0 serves the store before anybody knows where, with a key of its own if `make_key`.
static void prepare_point(struct rdi_bootstrap *b, const struct rdi_options *options,
                          const struct rdi_launch *launch, struct rdi_job *job, bool make_key,
                          struct rdi_point *p) {
    uint8_t secret[RDI_KEY_BYTES];
    bool again = launch->via != RDI_VIA_MUNGE && rdi_point_again(launch, p);
    // By munge the launch's port is where rank 0 can be asked.
    bool given = launch->port_given && launch->via != RDI_VIA_MUNGE;
    int port = given ? launch->port : again ? p->port : 0;
    if (again && p->has_key) {
        memcpy(secret, p->key, sizeof secret);
    } else {
        randombytes_buf(secret, sizeof secret);
    }
    rondo_status s = make_key ? rdi_key_set(job, secret, sizeof secret) : RONDO_OK;
    if (s == RONDO_OK) {
        s = rdi_serve(b, launch->single_host ? "127.0.0.1" : NULL, port, job);
    }
    rdi_point_make(options, launch, s == RONDO_OK ? rdi_store_server_port(b->server) : 0,
                   make_key ? secret : NULL, p);
    sodium_memzero(secret, sizeof secret);
}

// What all ranks of a job know, and those of no other.
static void name_job(const struct rdi_launch *launch, char *id, size_t cap) {
    snprintf(id, cap, "%016" PRIx64 "/%d", launch->id, launch->size);
}

static rondo_status tell_by_munge(struct rdi_bootstrap *b, const struct rdi_launch *launch,
                                  const char *id, const struct rdi_point *p) {
    char text[RDI_POINT_TEXT], whole[RDI_POINT_TEXT + 128], cred[RDI_MUNGE_CRED];
    if (p->port == 0) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "%s", p->reason);
    }
    rdi_point_encode(p, text);
    snprintf(whole, sizeof whole, "%s %s", id, text);
    rondo_status s = rdi_munge_seal(whole, cred);
    sodium_memzero(whole, sizeof whole);
    sodium_memzero(text, sizeof text);
    return s == RONDO_OK ? rdi_herald_start(launch->single_host ? "127.0.0.1" : NULL, launch->port,
                                            busy_ms(b), cred, &b->herald)
                         : s;
}

// Rank 0 tells its point until the ranks have met; the others ask it where the launch says.
static rondo_status share_by_munge(struct rdi_bootstrap *b, const struct rdi_launch *launch,
                                   struct rdi_point *p) {
    char id[128], text[RDI_POINT_TEXT];
    name_job(launch, id, sizeof id);
    if (b->rank == 0) {
        return tell_by_munge(b, launch, id, p);
    }
    const struct rdi_herald_question q = {launch->host, launch->port, id, b->rank, b->timeout_ms};
    rondo_status s = rdi_herald_ask(&q, &b->env, text, sizeof text);
    const char *wrong = s == RONDO_OK ? rdi_point_decode(text, p) : NULL;
    sodium_memzero(text, sizeof text);
    return wrong == NULL ? s
                         : rdi_fail(RONDO_ERR_VERSION,
                                    "rank %d does not understand what rank 0 says by munge (%s);"
                                    " are all ranks of the same release?",
                                    b->rank, wrong);
}

rondo_status rdi_meet_at_point(struct rdi_bootstrap *b, const struct rdi_options *options,
                               struct rdi_launch *launch, struct rdi_job *job,
                               bool key_from_rank0) {
    struct rdi_point p = {.port = 0};
    if (b->rank == 0) {
        prepare_point(b, options, launch, job, key_from_rank0, &p);
    }
    rondo_status s = launch->via == RDI_VIA_MUNGE
                         ? share_by_munge(b, launch, &p)
                         : rdi_point_share(launch, getenv, &b->env, b->timeout_ms, &p);
    if (s == RONDO_OK && key_from_rank0 && !p.has_key) {
        s = rdi_fail(RONDO_ERR_AUTH,
                     "rank %d has no key, and rank 0 has one that it does not tell (a key file, or"
                     " auth=none): give all ranks the same",
                     b->rank);
    } else if (s == RONDO_OK && key_from_rank0 && b->rank != 0) {
        s = rdi_key_set(job, p.key, sizeof p.key);
    }
    if (s == RONDO_OK) {
        snprintf(launch->host, sizeof launch->host, "%s", p.hosts);
        launch->port = p.port;
        launch->loopback = launch->single_host;
        launch->host_from = NULL;
        rdi_log(&b->env, RONDO_LOG_DEBUG, "rank 0 is at %s, port %d, as the launcher's %s tells",
                p.hosts, p.port, rdi_via_name(launch->via));
    }
    sodium_memzero(&p, sizeof p);
    return s;
}
