// SPDX-License-Identifier: MIT
// How ranks meet, over a store that answers as it should or as the input has it: hellos, welcomes, cards, records,
// tables, reasons of those who left. The store is "the caller's own", the clock the target's, so that every wait is
// over at once; each must end in time, with all records or an error and nothing else.
//
//   input[0]  bits 0-1 rank, 2-3 ranks - 1, 4 the key is the caller's
//   input[1]  how often an answer is the input's own: one in so many, 0 never; then answers
#include "fuzz.h"
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/store_wire.h"

#define MS UINT64_C(1000000)

static struct input in;
static uint8_t own_every;
static unsigned answers;
static uint64_t clock_ns;
static int ranks;

static uint64_t now(void *self) {
    (void)self;
    return clock_ns += MS;
}

static void ones(void *self, void *buf, size_t n) {
    (void)self;
    memset(buf, 0x11, n);
}

static void check_line(void *self, rondo_log_level level, const char *line) {
    (void)self;
    (void)level;
    MUST(is_clean(line));
}

void __wrap_rdi_host_find(struct rdi_job *job);
void __wrap_rdi_host_find(struct rdi_job *job) {
    snprintf(job->host, sizeof job->host, "here");
    memset(job->host_id, 'h', sizeof job->host_id);
}

// ---- The store -----------------------------------------------------------------------------------

static rondo_status fake_set(void *store, const char *key, const void *value, size_t len, int ms) {
    MUST(store == &in && strncmp(key, "rondo/", 6) == 0 && strlen(key) < RDI_KEY_CAP && ms > 0);
    MUST(rdi_store_check_key(key, strlen(key)) == NULL && len <= RDI_STORE_VALUE_MAX);
    free(own_copy(value, len));
    return own_every > 0 && (answers & 31) == 31 ? RONDO_ERR_NOMEM : RONDO_OK;
}

// As fill_card() in bootstrap.c writes it.
static size_t card(uint8_t out[84]) {
    memset(out, 0, 84);
    out[3] = (uint8_t)ranks;
    memset(out + 4, 'h', 16);
    memcpy(out + 20, "there", 5);
    return 84;
}

static size_t table(uint8_t *out, bool cards) {
    uint8_t one[84];
    void *records[4] = {one, one, one, one};
    size_t lens[4], n = (size_t)ranks;
    for (size_t i = 0; i < 4; i++) {
        lens[i] = cards ? card(one) : 7;
    }
    rdi_table_encode(out, records, lens, n);
    return rdi_table_size(lens, n);
}

static size_t right_answer(const char *key, uint8_t *out) {
    const char *leaf = strrchr(key, '/') + 1;
    if (strncmp(key, "rondo/hello/", 12) == 0) {
        memset(out, 0x22, RDI_NONCE_BYTES);
        return RDI_NONCE_BYTES;
    }
    if (strncmp(key, "rondo/welcome/", 14) == 0) {
        memset(out, 0x33, RDI_SESSION_BYTES + RDI_JOIN_SECRET);
        return RDI_SESSION_BYTES + RDI_JOIN_SECRET;
    }
    if (strncmp(key, "rondo/member/", 13) == 0) {
        memcpy(out, "\0\0\0\1record", 10);
        return 10;
    }
    bool cards = strstr(key, "/open/") != NULL;
    if (strcmp(leaf, "all") == 0) {
        return table(out, cards);
    }
    return cards ? card(out) : 7;
}

static rondo_status fake_get(void *store, const char *key, void **value, size_t *len, int ms) {
    uint8_t own[1024];
    size_t n;
    MUST(store == &in && ms > 0);
    bool left = strstr(key, "/left/") != NULL;
    bool wild = own_every > 0 && ++answers % own_every == 0;
    uint8_t how = wild ? take_byte(&in) : 0;
    // Those who are at work have not left.
    if ((left && !wild) || (wild && how >= 240)) {
        clock_ns += (uint64_t)ms * MS;
        return how & 1 ? RONDO_ERR_PEER : RONDO_ERR_TIMEOUT;
    }
    memset(own, 'r', sizeof own);
    n = right_answer(key, own);
    const uint8_t *bytes = own;
    if (wild && how & 1) {
        bytes = take_bytes(&in, take_number(&in, 2) % 1024, &n);
    } else if (wild) {
        for (unsigned times = how >> 1 & 3; times > 0; times--) {
            uint8_t at = take_byte(&in);
            own[at % (n > 0 ? n : 1)] ^= take_byte(&in);
        }
        n = how & 16 ? n - 1 : how & 32 ? n + 1 : n;
    }
    *value = own_copy(bytes, n);
    *len = n;
    return RONDO_OK;
}

// ---- The whole -----------------------------------------------------------------------------------

static void exchange(struct rdi_bootstrap *b) {
    void *all[4] = {NULL};
    size_t lens[4] = {0};
    rdi_set_last_error("");
    rondo_status s = rdi_bootstrap_exchange(b, "world", "mine", 4, all, lens);
    for (int r = 0; r < ranks; r++) {
        MUST((s == RONDO_OK) == (all[r] != NULL));
        if (all[r] != NULL) {
            MUST(lens[r] <= RDI_EXCHANGE_MAX);
            free(own_copy(all[r], lens[r]));
        }
        free(all[r]);
    }
    MUST(s == RONDO_OK || (rondo_last_error()[0] != '\0' && is_clean(rondo_last_error())));
    uint32_t number;
    void *record = NULL;
    size_t len = 0;
    for (int r = 0; r < ranks; r++) {
        if (ranks > 1 && rdi_bootstrap_member(b, r, &number, &record, &len) == RONDO_OK) {
            free(own_copy(record, len));
            free(record);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const rondo_store_ops ops = {.size = sizeof ops, .set = fake_set, .get = fake_get};
    static struct rdi_options options;
    const struct rdi_env env = {.now = now, .random = ones, .log = check_line};
    rondo_config config = RONDO_CONFIG_INIT;
    struct rdi_job job;
    struct rdi_bootstrap *b = NULL;
    in = (struct input){data, size};
    uint8_t how = take_byte(&in);
    own_every = take_byte(&in) % 7;
    answers = 0;
    clock_ns = MS;
    ranks = 1 + (how >> 2 & 3);
    options.num[RDI_OPT_CONNECT_TIMEOUT] = 3000;
    config.rank = (how & 3) % ranks;
    config.world_size = ranks;
    config.local_rank = -1;
    config.store_ops = &ops;
    config.store = &in;
    config.key = how & 16 ? "sixteen bytes and more" : NULL;
    config.key_len = how & 16 ? 22 : 0;
    rdi_set_last_error("");
    rondo_status s = rdi_bootstrap_open(&config, &options, &env, &job, &b);
    if (s == RONDO_OK) {
        MUST(job.rank == config.rank && job.size == ranks && job.auth);
        MUST(job.local_rank >= 0 && job.local_rank < ranks);
        exchange(b);
        rdi_bootstrap_close(b);
        rdi_job_clear(&job);
    } else {
        MUST(rondo_last_error()[0] != '\0' && is_clean(rondo_last_error()));
    }
    // Patience, some waits for those who left, and a moment each: far from for ever.
    MUST(clock_ns < 600 * 1000 * MS);
    return 0;
}
