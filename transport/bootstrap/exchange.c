// SPDX-License-Identifier: MIT
// How ranks meet over nothing but set and get on a store, in O(n) requests for all of them
// together.
//
//   rank r                                             rank 0
//     set rondo/hello/<r> = nonce
//                                                        get rondo/hello/<r>
//                                                        set rondo/welcome/<nonce> = session
//     get rondo/welcome/<nonce>
//     set rondo/<session>/<exchange>/<r> = record
//                                                        get rondo/<session>/<exchange>/<r>
//                                                        set rondo/<session>/<exchange>/all = table
//     get rondo/<session>/<exchange>/all
//
// A store may have served a job before, so rondo/hello/<r> can be old. Rank 0 then welcomes a nonce
// that nobody waits for, and reads again until the record is there; every other key has something
// random in it that is new in each start of a job. When a rank is missing, the table says which, so
// all ranks give the same error. Rondo's own store knows who has come, and tells all that wait when one of them is lost
// or leaves (store_roll.c). In a caller's store a rank that leaves early puts its reason at rondo/<session>/left/<r>.
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/store_wire.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000u
#define GRACE_MS 5000 // rank 0's verdict may come this much after its deadline
#define LOG_MS 5000   // most between lines of the log
#define LEAVE_MS 2    // between looks
#define LATE_MS \
    500 // for those on their way, who else would look for the store until connect_timeout

// ---- The store ----------------------------------------------------------------------------------

uint64_t rdi_after_ms(const struct rdi_bootstrap *b, int ms) {
    return rdi_now(&b->env) + (uint64_t)ms * MS;
}

int rdi_ms_until(const struct rdi_bootstrap *b, uint64_t when) {
    uint64_t now = rdi_now(&b->env);
    return when > now ? (int)((when - now + MS - 1) / MS) : 0;
}

int rdi_sweep_ms(const struct rdi_bootstrap *b) {
    int ms = b->size < 800 ? 200 + b->size : 1000;
    return b->timeout_ms / 4 < ms ? b->timeout_ms / 4 : ms;
}

int rdi_log_ms(const struct rdi_bootstrap *b) {
    return b->timeout_ms / 3 < LOG_MS ? b->timeout_ms / 3 : LOG_MS;
}

// The caller's functions need not set the last error; ours do.
static rondo_status store_failed(const struct rdi_bootstrap *b, rondo_status s, const char *what,
                                 const char *key) {
    if (!b->callers) {
        return s;
    }
    s = s < 0 ? s : RONDO_ERR_INTERNAL;
    return rdi_fail(s, "the caller's store failed in %s('%s') on rank %d: %s (%s)", what, key,
                    b->rank, rondo_status_name(s), rondo_status_string(s));
}

rondo_status rdi_set_key(const struct rdi_bootstrap *b, const char *key, const void *value,
                         size_t len, int ms) {
    rondo_status s = b->ops->set(b->store, key, value, len, ms > RDI_SET_MS ? ms : RDI_SET_MS);
    return s == RONDO_OK ? s : store_failed(b, s, "set", key);
}

rondo_status rdi_get_key(const struct rdi_bootstrap *b, const char *key, int ms, void **value,
                         size_t *len) {
    *value = NULL;
    *len = 0;
    rondo_status s = b->ops->get(b->store, key, value, len, ms > b->peek_ms ? ms : b->peek_ms);
    if (s == RONDO_OK && *value == NULL && *len > 0) {
        s = RONDO_ERR_INTERNAL;
    }
    return s == RONDO_OK || s == RONDO_ERR_TIMEOUT ? s : store_failed(b, s, "get", key);
}

void rdi_session_key(const struct rdi_bootstrap *b, char key[RDI_KEY_CAP], const char *name,
                     const char *leaf) {
    snprintf(key, RDI_KEY_CAP, "rondo/%s/%.*s/%s", b->session, RDI_EXCHANGE_NAME_MAX, name, leaf);
}

void rdi_session_key_of(const struct rdi_bootstrap *b, char key[RDI_KEY_CAP], const char *name,
                        int rank) {
    char leaf[16];
    snprintf(leaf, sizeof leaf, "%d", rank);
    rdi_session_key(b, key, name, leaf);
}

void rdi_leave(struct rdi_bootstrap *b) {
    char key[RDI_KEY_CAP], text[RDI_ERROR_TEXT];
    snprintf(text, sizeof text, "%s", rondo_last_error());
    if (b->own != NULL) {
        rdi_store_leave(b->own, text);
    } else if (b->ops != NULL && b->session[0] != '\0') {
        rdi_session_key_of(b, key, "left", b->rank);
        // A byte in front, since a value of no bytes is beyond some stores.
        char value[RDI_ERROR_TEXT + 1];
        snprintf(value, sizeof value, ":%s", text);
        rdi_set_key(b, key, value, strlen(value), RDI_SET_MS);
    }
    rdi_set_last_error(text);
}

// Those that have come, not connections: a rank may be back already, for the next job on this port.
void rdi_await_leaving(struct rdi_bootstrap *b, uint64_t deadline) {
    const struct timespec pause = {.tv_nsec = (long)LEAVE_MS * MS};
    uint64_t late = rdi_after_ms(b, LATE_MS);
    for (;;) {
        uint64_t now = rdi_now(&b->env);
        bool here = rdi_store_server_members(b->server) > 0;
        bool comes = now < late && rdi_store_server_absent(b->server) > 0;
        if (now >= deadline || !(here || comes)) {
            return;
        }
        nanosleep(&pause, NULL);
    }
}

rondo_status rdi_check_left(const struct rdi_bootstrap *b, int rank) {
    char key[RDI_KEY_CAP];
    void *value;
    size_t len;
    if (!b->callers) {
        return RONDO_OK; // the store tells by itself
    }
    rdi_session_key_of(b, key, "left", rank);
    rondo_status s = rdi_get_key(b, key, 0, &value, &len);
    if (s == RONDO_ERR_TIMEOUT) {
        return RONDO_OK;
    }
    if (s == RONDO_OK) {
        char text[RDI_ERROR_TEXT] = "";
        if (len > 1 && len <= RDI_ERROR_TEXT) {
            memcpy(text, (const char *)value + 1, len - 1);
        }
        rdi_printable(text, sizeof text);
        // One that left because another one did names that one.
        bool of_another = strncmp(text, "rank ", 5) == 0 && strstr(text, " " RDI_LEFT) != NULL;
        s = of_another ? rdi_fail(RONDO_ERR_PEER, "%s", text)
                       : rdi_fail(RONDO_ERR_PEER, "rank %d " RDI_LEFT "%s%s", rank,
                                  text[0] != '\0' ? ": " : "", text);
    }
    free(value);
    return s;
}

// ---- The other ranks ----------------------------------------------------------------------------

// Waits for a key of rank 0's. RONDO_ERR_TIMEOUT has no text.
static rondo_status await(struct rdi_bootstrap *b, const char *key, const char *what,
                          uint64_t deadline, void **value, size_t *len) {
    uint64_t log_at = rdi_after_ms(b, rdi_log_ms(b));
    for (;;) {
        int left = rdi_ms_until(b, deadline), sweep = rdi_sweep_ms(b);
        rondo_status s = rdi_get_key(b, key, left < sweep ? left : sweep, value, len);
        if (s != RONDO_ERR_TIMEOUT || left == 0) {
            return s;
        }
        if (b->session[0] != '\0') {
            s = rdi_check_left(b, 0);
            if (s != RONDO_OK) {
                return s;
            }
        }
        if (rdi_ms_until(b, log_at) == 0) {
            rdi_log(&b->env, RONDO_LOG_INFO, "rank %d of %d waits at %s for rank 0 to %s", b->rank,
                    b->size, b->where, what);
            log_at = rdi_after_ms(b, rdi_log_ms(b));
        }
    }
}

// Copies of what a table has.
static rondo_status unpack(struct rdi_bootstrap *b, const struct rdi_exchange *x,
                           const uint8_t *table, size_t len, void **all, size_t *lens) {
    const uint8_t *at = NULL;
    const char *text = NULL;
    size_t text_len = 0;
    rondo_status failure = RONDO_OK;
    const char *wrong =
        rdi_table_decode(table, len, (size_t)b->size, lens, &at, &failure, &text, &text_len);
    if (wrong != NULL) {
        return rdi_fail(
            RONDO_ERR_VERSION,
            "rank %d does not understand what rank 0 published in '%s': %s; are all ranks of"
            " the same release and the same world size?",
            b->rank, x->name, wrong);
    }
    if (failure != RONDO_OK) {
        char copy[RDI_ERROR_TEXT] = "";
        memcpy(copy, text, text_len < sizeof copy ? text_len : sizeof copy - 1);
        rdi_printable(copy, sizeof copy);
        return copy[0] != '\0'
                   ? rdi_fail(failure, "%s", copy)
                   : rdi_fail(failure, "rank 0 published a failure in '%s', but no reason",
                              x->name);
    }
    for (int r = 0; r < b->size; r++) {
        all[r] = malloc(lens[r] > 0 ? lens[r] : 1);
        if (all[r] == NULL) {
            return rdi_fail(RONDO_ERR_NOMEM, "no memory for the records of %d ranks", b->size);
        }
        memcpy(all[r], at, lens[r]);
        at += lens[r];
    }
    return RONDO_OK;
}

static rondo_status follow(struct rdi_bootstrap *b, const struct rdi_exchange *x, const void *mine,
                           size_t len, void **all, size_t *lens) {
    char key[RDI_KEY_CAP];
    void *table = NULL;
    size_t table_len = 0;
    rdi_session_key_of(b, key, x->name, b->rank);
    rondo_status s = rdi_set_key(b, key, mine, len, b->timeout_ms);
    if (s != RONDO_OK) {
        return s;
    }
    rdi_session_key(b, key, x->name, "all");
    s = await(b, key, "collect what all ranks say", rdi_after_ms(b, b->timeout_ms + GRACE_MS),
              &table, &table_len);
    if (s == RONDO_ERR_TIMEOUT) {
        return rdi_fail(s,
                        "rank %d of %d waited %g s at %s for rank 0 to collect '%s' (option"
                        " connect_timeout): rank 0 is stuck or has ended",
                        b->rank, b->size, (b->timeout_ms + GRACE_MS) / 1000.0, b->where, x->name);
    }
    if (s == RONDO_OK) {
        s = unpack(b, x, table, table_len, all, lens);
    }
    free(table);
    return s;
}

// ---- Both ---------------------------------------------------------------------------------------

rondo_status rdi_join(struct rdi_bootstrap *b, bool with_secret, uint64_t deadline) {
    size_t want = RDI_SESSION_BYTES + (with_secret ? RDI_JOIN_SECRET : 0);
    if (b->rank == 0) {
        b->env.random(b->env.self, b->welcome, want);
        b->welcome_len = want;
        sodium_bin2hex(b->session, sizeof b->session, b->welcome, RDI_SESSION_BYTES);
        return RONDO_OK;
    }
    uint8_t nonce[RDI_NONCE_BYTES];
    char key[RDI_KEY_CAP];
    void *value = NULL;
    size_t len = 0;
    b->env.random(b->env.self, nonce, sizeof nonce);
    snprintf(key, sizeof key, "rondo/hello/%d", b->rank);
    rondo_status s = rdi_set_key(b, key, nonce, sizeof nonce, b->timeout_ms);
    if (s != RONDO_OK) {
        return s;
    }
    int used = snprintf(key, sizeof key, "rondo/welcome/");
    sodium_bin2hex(key + used, sizeof key - (size_t)used, nonce, sizeof nonce);
    s = await(b, key, "begin", deadline, &value, &len);
    if (s == RONDO_ERR_TIMEOUT) {
        return rdi_fail(
            s,
            "rank %d of %d waited %g s at %s for rank 0, which did not answer (option"
            " connect_timeout): did rank 0 start, with the same world size, and is no other"
            " process rank %d too?",
            b->rank, b->size, b->timeout_ms / 1000.0, b->where, b->rank);
    }
    if (s == RONDO_OK && len != want) {
        s = rdi_fail(
            RONDO_ERR_AUTH,
            "rank %d and rank 0 were not given the job's key in the same way: give all ranks the"
            " same, or none",
            b->rank);
    } else if (s == RONDO_OK) {
        memcpy(b->welcome, value, len);
        sodium_bin2hex(b->session, sizeof b->session, b->welcome, RDI_SESSION_BYTES);
    }
    if (value != NULL) {
        sodium_memzero(value, len);
        free(value);
    }
    return s;
}

rondo_status rdi_exchange(struct rdi_bootstrap *b, const struct rdi_exchange *x, const void *mine,
                          size_t len, void **all, size_t *lens) {
    // Outputs are set only after success.
    size_t n = (size_t)b->size;
    void **records = calloc(n, sizeof *records);
    size_t *record_lens = calloc(n, sizeof *record_lens);
    rondo_status s;
    if (records == NULL || record_lens == NULL) {
        s = rdi_fail(RONDO_ERR_NOMEM, "no memory for the records of %zu ranks", n);
    } else if (b->rank == 0) {
        s = rdi_lead(b, x, mine, len, records, record_lens);
    } else {
        s = follow(b, x, mine, len, records, record_lens);
    }
    for (size_t r = 0; r < n && records != NULL; r++) {
        if (s == RONDO_OK) {
            all[r] = records[r];
            lens[r] = record_lens[r];
        } else {
            free(records[r]);
        }
    }
    free(record_lens);
    free(records);
    return s;
}
