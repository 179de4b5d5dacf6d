// SPDX-License-Identifier: MIT
// Rank 0 as the one that serves the store, and that tells the others where, through what their launcher offers (point.c).
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/point.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

rondo_status rdi_serve(struct rdi_bootstrap *b, const char *addr, int port,
                       const struct rdi_job *job) {
    struct rdi_store_limits limits = rdi_store_default_limits;
    limits.silence_ms = (int)b->silence_ms;
    limits.one_meeting = true;
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
    bool again = rdi_point_again(launch, p);
    int port = launch->port_given ? launch->port : again ? p->port : 0;
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

rondo_status rdi_meet_at_point(struct rdi_bootstrap *b, const struct rdi_options *options,
                               struct rdi_launch *launch, struct rdi_job *job,
                               bool key_from_rank0) {
    struct rdi_point p = {.port = 0};
    if (b->rank == 0) {
        prepare_point(b, options, launch, job, key_from_rank0, &p);
    }
    rondo_status s = rdi_point_share(launch, getenv, &b->env, b->timeout_ms, &p);
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
