// SPDX-License-Identifier: MIT
// A rank that was started again finds the job that runs: not by meeting, which the others are long past, but by what
// each of them left with the store.
//
//   rank r, after the meeting          set rondo/member/<r> = start number, record
//   rank r, started again              set the same anew; get those of all others
//   rank r, when it is one of them     set rondo/admitted/<r> = start number
//
// A store that the launcher serves outlives ranks and belongs to one job, so the keys need no session.
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/store_wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RESTARTS_MAX 1000000

rondo_status rdi_bootstrap_restart_number(char *(*get)(const char *name), uint32_t *number) {
    const char *text = get(RDI_ENV_RESTART);
    char *end = NULL;
    *number = 0;
    if (text == NULL || *text == '\0') {
        return RONDO_OK;
    }
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || n < 0 || n > RESTARTS_MAX) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "%s is '%.40s'; it says how often this rank was started again: 0..%d",
                        RDI_ENV_RESTART, text, RESTARTS_MAX);
    }
    *number = (uint32_t)n;
    return RONDO_OK;
}

bool rdi_bootstrap_outlives(const struct rdi_bootstrap *b) { return b->outlives; }

static void member_key(char key[RDI_KEY_CAP], int rank) {
    snprintf(key, RDI_KEY_CAP, "rondo/member/%d", rank);
}

rondo_status rdi_bootstrap_publish(struct rdi_bootstrap *b, uint32_t number, const void *record,
                                   size_t len) {
    char key[RDI_KEY_CAP];
    uint8_t *value = len <= RDI_EXCHANGE_MAX ? malloc(4 + len) : NULL;
    if (value == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a record of %zu bytes", len);
    }
    for (int i = 0; i < 4; i++) {
        value[i] = (uint8_t)(number >> (24 - 8 * i));
    }
    memcpy(value + 4, record, len);
    member_key(key, b->rank);
    rondo_status s = rdi_set_key(b, key, value, 4 + len, b->timeout_ms);
    free(value);
    return s;
}

// For the launcher: from now on this process has a part in the job.
rondo_status rdi_bootstrap_admitted(struct rdi_bootstrap *b, uint32_t number) {
    char key[RDI_KEY_CAP], text[16];
    snprintf(key, sizeof key, RDI_STORE_ADMITTED "%d", b->rank);
    snprintf(text, sizeof text, "%u", number);
    return rdi_set_key(b, key, text, strlen(text), b->timeout_ms);
}

rondo_status rdi_bootstrap_member(struct rdi_bootstrap *b, int rank, uint32_t *number,
                                  void **record, size_t *len) {
    char key[RDI_KEY_CAP];
    void *value = NULL;
    size_t n = 0;
    member_key(key, rank);
    rondo_status s = rdi_get_key(b, key, 0, &value, &n);
    if (s == RONDO_ERR_TIMEOUT) {
        return RONDO_AGAIN;
    }
    if (s == RONDO_OK && n < 4) {
        s = rdi_fail(RONDO_ERR_VERSION,
                     "the store has a record of rank %d that this version cannot read", rank);
    }
    if (s != RONDO_OK) {
        free(value);
        return s;
    }
    const uint8_t *p = value;
    *number = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    memmove(value, p + 4, n - 4);
    *record = value;
    *len = n - 4;
    return RONDO_OK;
}
