// SPDX-License-Identifier: MIT
// Rank 0's part of an exchange: it welcomes the others, collects their records, says who is
// missing, and publishes the table or the failure.
//
// It waits for one rank after the other, for the lowest that is missing, since all have to come
// anyway; only now and then does it look at all of them, so that nobody who is there waits for a
// welcome, and one who has left is noticed, also one whose record is there already.
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/store_wire.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEWCOMER_MS 100 // time for a welcomed rank to answer, before its hello is read again
#define LOOK_AGAIN 256  // ranks whose record is there that one look takes in
#define FAILURE_CAP (RDI_TABLE_HEAD + RDI_ERROR_TEXT)

struct gathering {
    struct rdi_bootstrap *b;
    const struct rdi_exchange *x;
    uint64_t deadline, log_at, sweep_at;
    void **all;
    size_t *lens;
    bool *here;
    uint8_t (*nonces)[RDI_NONCE_BYTES]; // that were welcomed last
    int missing, next;                  // next: among those that are here, to look at
};

void rdi_list_missing(const bool *here, int n, char *buf, size_t cap) {
    size_t used = 0;
    int missing = 0;
    buf[0] = '\0';
    for (int r = 0; r < n; r++) {
        missing += !here[r];
    }
    for (int r = 0; r < n; r++) {
        if (here[r]) {
            continue;
        }
        int last = r;
        while (last + 1 < n && !here[last + 1]) {
            last++;
        }
        if (last == r + 1) {
            last = r; // two are shorter as two
        }
        if (cap - used < 64) {
            used += (size_t)snprintf(buf + used, cap - used, ", ...");
            break;
        }
        used += (size_t)snprintf(buf + used, cap - used, "%s%d", used > 0 ? ", " : "", r);
        if (last > r) {
            used += (size_t)snprintf(buf + used, cap - used, "-%d", last);
        }
        r = last;
    }
    snprintf(buf + used, cap - used, " (%d of %d)", missing, n);
}

// " 3 connections were refused, the last from ...": often why somebody is missing.
static void describe_strangers(const struct rdi_bootstrap *b, char *buf, size_t cap) {
    char last[320];
    uint64_t n = b->server != NULL ? rdi_store_server_strangers(b->server, last, sizeof last) : 0;
    buf[0] = '\0';
    if (n > 0) {
        snprintf(buf, cap, " %llu connection%s refused, the last from %s", (unsigned long long)n,
                 n == 1 ? " was" : "s were", last);
    }
}

static void log_missing(struct gathering *g) {
    char missing[256], strangers[420];
    rdi_list_missing(g->here, g->b->size, missing, sizeof missing);
    describe_strangers(g->b, strangers, sizeof strangers);
    rdi_log(&g->b->env, RONDO_LOG_INFO, "waiting for ranks %s at %s.%s", missing, g->b->where,
            strangers);
    g->log_at = rdi_after_ms(g->b, rdi_log_ms(g->b));
}

static rondo_status fail_missing(struct gathering *g) {
    char missing[256], strangers[420];
    rdi_list_missing(g->here, g->b->size, missing, sizeof missing);
    describe_strangers(g->b, strangers, sizeof strangers);
    int starved = g->b->server != NULL ? rdi_store_server_starved(g->b->server) : 0;
    if (starved != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, starved,
                              "rank 0 is waiting for ranks %s and cannot accept their connections",
                              missing);
    }
    return rdi_fail(
        RONDO_ERR_TIMEOUT,
        "rank 0 is waiting for ranks %s and gave up after %g s (option connect_timeout): did"
        " they start, and do their hosts reach %s?%s",
        missing, g->b->timeout_ms / 1000.0, g->b->where, strangers);
}

// Answers the hello of missing ranks, as far as they said one; waits `ms` for the first of them.
static rondo_status welcome_newcomers(struct gathering *g, int ms, bool sweep) {
    char key[RDI_KEY_CAP];
    for (int r = 1; r < g->b->size; r++) {
        if (g->here[r]) {
            continue;
        }
        void *nonce;
        size_t len;
        snprintf(key, sizeof key, "rondo/hello/%d", r);
        rondo_status s = rdi_get_key(g->b, key, ms, &nonce, &len);
        if (s == RONDO_ERR_TIMEOUT) {
            ms = 0;
            if (!sweep) {
                break;
            }
            continue;
        }
        if (s == RONDO_OK && len == RDI_NONCE_BYTES && memcmp(nonce, g->nonces[r], len) != 0) {
            memcpy(g->nonces[r], nonce, len);
            int used = snprintf(key, sizeof key, "rondo/welcome/");
            sodium_bin2hex(key + used, sizeof key - (size_t)used, nonce, len);
            s = rdi_set_key(g->b, key, g->b->welcome, g->b->welcome_len, ms);
        }
        free(nonce);
        if (s != RONDO_OK) {
            return s;
        }
    }
    return RONDO_OK;
}

static rondo_status take_record(struct gathering *g, int r, void *record, size_t len) {
    if (len > RDI_EXCHANGE_MAX) {
        free(record);
        return rdi_fail(RONDO_ERR_INVALID,
                        "rank %d gave a record of %zu bytes; at most %u are allowed", r, len,
                        RDI_EXCHANGE_MAX);
    }
    g->all[r] = record;
    g->lens[r] = len;
    g->here[r] = true;
    g->missing--;
    return g->x->check != NULL ? g->x->check(g->x->arg, r, record, len) : RONDO_OK;
}

// Takes the records that are there; waits `ms` for the first that is not.
static rondo_status take_records(struct gathering *g, int ms, bool sweep) {
    char key[RDI_KEY_CAP];
    rondo_status s = RONDO_OK;
    for (int r = 1; r < g->b->size && s == RONDO_OK; r++) {
        if (g->here[r]) {
            continue;
        }
        void *record;
        size_t len;
        rdi_session_key_of(g->b, key, g->x->name, r);
        s = rdi_get_key(g->b, key, ms, &record, &len);
        if (s == RONDO_OK) {
            s = take_record(g, r, record, len);
        } else if (s == RONDO_ERR_TIMEOUT) {
            s = RONDO_OK;
            ms = 0;
            if (!sweep) {
                break;
            }
            s = rdi_check_left(g->b, r);
        }
    }
    return s;
}

// Whoever gave its record and left since would be missed only when all are here.
static rondo_status look_at_those_here(struct gathering *g) {
    rondo_status s = RONDO_OK;
    for (int i = 0; i < LOOK_AGAIN && i < g->b->size && s == RONDO_OK; i++) {
        int r = g->next++ % g->b->size;
        s = r > 0 && g->here[r] ? rdi_check_left(g->b, r) : RONDO_OK;
    }
    return s;
}

static rondo_status gather(struct gathering *g) {
    struct rdi_bootstrap *b = g->b;
    int sweep_ms = rdi_sweep_ms(b);
    g->sweep_at = rdi_after_ms(b, sweep_ms);
    rondo_status s = RONDO_OK;
    while (s == RONDO_OK && g->missing > 0) {
        bool late = rdi_ms_until(b, g->deadline) == 0;
        bool sweep = late || rdi_ms_until(b, g->sweep_at) == 0;
        int wait = sweep ? 0
                         : rdi_ms_until(b, g->sweep_at < g->deadline ? g->sweep_at : g->deadline);
        if (g->x->joining) {
            s = welcome_newcomers(g, wait, sweep);
            wait = wait < NEWCOMER_MS ? wait : NEWCOMER_MS;
        }
        if (s == RONDO_OK) {
            s = take_records(g, wait, sweep);
        }
        if (s == RONDO_OK && sweep && g->missing > 0) {
            s = look_at_those_here(g);
        }
        if (s == RONDO_OK && late && g->missing > 0) {
            s = fail_missing(g);
        }
        if (sweep) {
            g->sweep_at = rdi_after_ms(b, sweep_ms);
        }
        if (s == RONDO_OK && g->missing > 0 && rdi_ms_until(b, g->log_at) == 0) {
            log_missing(g);
        }
    }
    return s;
}

// The table, or why there is none.
static rondo_status publish(struct gathering *g, rondo_status verdict) {
    struct rdi_bootstrap *b = g->b;
    char key[RDI_KEY_CAP];
    rdi_session_key(b, key, g->x->name, "all");
    if (verdict != RONDO_OK) {
        uint8_t failure[FAILURE_CAP];
        char text[RDI_ERROR_TEXT];
        snprintf(text, sizeof text, "%s", rondo_last_error());
        size_t len = rdi_table_encode_failure(failure, sizeof failure, verdict, text);
        rdi_set_key(b, key, failure, len, RDI_SET_MS); // where it does not help, nothing is worse
        rdi_set_last_error(text);
        return verdict;
    }
    size_t len = rdi_table_size(g->lens, (size_t)b->size);
    if (len > RDI_STORE_VALUE_MAX) {
        return rdi_fail(
            RONDO_ERR_BOOTSTRAP,
            "the records of %d ranks have %zu bytes; a store keeps at most %u in one value",
            b->size, len, RDI_STORE_VALUE_MAX);
    }
    uint8_t *table = malloc(len);
    if (table == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the records of %d ranks", b->size);
    }
    rdi_table_encode(table, g->all, g->lens, (size_t)b->size);
    rondo_status s = rdi_set_key(b, key, table, len, b->timeout_ms);
    free(table);
    return s;
}

rondo_status rdi_lead(struct rdi_bootstrap *b, const struct rdi_exchange *x, const void *mine,
                      size_t len, void **all, size_t *lens) {
    size_t n = (size_t)b->size;
    struct gathering g = {.b = b, .x = x, .all = all, .lens = lens, .missing = b->size};
    g.deadline = rdi_after_ms(b, b->timeout_ms);
    g.log_at = rdi_after_ms(b, rdi_log_ms(b));
    g.here = calloc(n, sizeof *g.here);
    g.nonces = calloc(n, sizeof *g.nonces);
    void *copy = malloc(len > 0 ? len : 1);
    rondo_status s = RONDO_OK;
    if (g.here == NULL || g.nonces == NULL || copy == NULL) {
        free(copy);
        s = rdi_fail(RONDO_ERR_NOMEM, "no memory for the records of %zu ranks", n);
    } else {
        if (len > 0) {
            memcpy(copy, mine, len);
        }
        s = take_record(&g, 0, copy, len);
    }
    if (s == RONDO_OK) {
        s = gather(&g);
    }
    s = publish(&g, s);
    free(g.nonces);
    free(g.here);
    return s;
}
