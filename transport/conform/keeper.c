// SPDX-License-Identifier: MIT
// A rank's keeper: joins the job, has one check after another run in a child, and tells the others how each went.
// It is the one process that must not fail, so it has no net; its children are forked by their parent (parent.c).
//
//   keeper of rank 0                        keeper of rank 1
//     parent --> child <------> child <-- parent    nets, links; they meet through the store
//     outcome  <--------------------> outcome       exchanged through the store when both have ended
#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/exchange.h"
#include "transport/bootstrap/point.h"
#include "transport/conform/check.h"

#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEET_MS (4 * 3600 * 1000) // all children end before, by their deadlines

// ---- The job -------------------------------------------------------------------------------------

struct keeper {
    const struct cf_options *o;
    const struct cf_check *const *chosen;
    int nchosen;
    struct rdi_env env;
    struct rdi_options options;
    struct rdi_bootstrap *b;
    struct cf_place place;
    struct cf_parent parent;
    struct cf_outcome *ranks;
    void **all;
    size_t *lens;
    struct rdi_store *reports; // to our own launcher, on rank 0
    struct cf_report report;   // on rank 0 of another's
    char key[2 * RDI_KEY_BYTES + 1];
};

static rondo_status exchange(struct keeper *k, const char *name, const void *mine, size_t len) {
    for (int r = 0; r < k->place.job.size; r++) {
        free(k->all[r]);
        k->all[r] = NULL;
    }
    return rdi_bootstrap_exchange(k->b, name, mine, len, k->all, k->lens);
}

// The launcher's key, which nobody else shall find in our environment.
static rondo_status read_key(struct keeper *k, rondo_config *config,
                             uint8_t secret[RDI_KEY_BYTES]) {
    const char *where = getenv(CF_ENV_KEY);
    size_t n = 0;
    if (where == NULL) {
        return RONDO_OK;
    }
    if (strcmp(where, "stdin") == 0) {
        ssize_t got = 1;
        while (n + 1 < sizeof k->key &&
               (got = read(STDIN_FILENO, k->key + n, sizeof k->key - 1 - n)) > 0) {
            n += (size_t)got;
        }
    } else {
        snprintf(k->key, sizeof k->key, "%s", where);
    }
    unsetenv(CF_ENV_KEY);
    size_t len = 0;
    if (sodium_hex2bin(secret, RDI_KEY_BYTES, k->key, (size_t)2 * RDI_KEY_BYTES, NULL, &len,
                       NULL) != 0 ||
        len != RDI_KEY_BYTES) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "the launcher's key did not arrive");
    }
    config->key = secret;
    config->key_len = RDI_KEY_BYTES;
    return RONDO_OK;
}

static void take_seed(struct keeper *k) {
    const char *given = getenv(CF_ENV_SEED);
    k->place.seed = k->o->seed;
    if (given != NULL) {
        k->place.seed = strtoull(given, NULL, 10);
    } else if (!k->o->has_seed) {
        k->place.seed = randombytes_random();
    }
}

// Rank 0's session name and seed become everybody's; everybody's host becomes known.
static rondo_status meet(struct keeper *k) {
    struct {
        char session[33], host[RDI_HOST_MAX], seed[24];
    } card = {{0}, {0}, {0}};
    uint8_t random[16];
    struct cf_place *p = &k->place;
    take_seed(k);
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(card.session, sizeof card.session, random, sizeof random);
    snprintf(card.host, sizeof card.host, "%s", p->job.host);
    snprintf(card.seed, sizeof card.seed, "%llu", (unsigned long long)p->seed);
    rondo_status s = exchange(k, "conform", &card, sizeof card);
    for (int r = 0; s == RONDO_OK && r < p->job.size; r++) {
        if (k->lens[r] != sizeof card) {
            return rdi_fail(RONDO_ERR_VERSION, "rank %d is of another release of Rondo", r);
        }
        memcpy(&card, k->all[r], sizeof card);
        card.session[32] = card.host[RDI_HOST_MAX - 1] = card.seed[23] = '\0';
        snprintf(p->hosts[r], RDI_HOST_MAX, "%s", card.host);
        if (r == 0) {
            snprintf(p->session, sizeof p->session, "%s", card.session);
            p->seed = strtoull(card.seed, NULL, 10);
        }
    }
    return s;
}

static rondo_status join(struct keeper *k) {
    rondo_config config = RONDO_CONFIG_INIT;
    uint8_t secret[RDI_KEY_BYTES];
    struct rdi_launch launch;
    struct cf_place *p = &k->place;
    rondo_status s = read_key(k, &config, secret);
    s = s == RONDO_OK ? cf_load_options(k->o, NULL, &k->options) : s;
    s = s == RONDO_OK ? rdi_discover(&config, rdi_pmix_getenv, &launch) : s;
    if (s == RONDO_OK && launch.size < 2) {
        s = rdi_fail(RONDO_ERR_USAGE, "a job of one rank: there is nobody to connect to; start two "
                                      "or more");
    }
    s = s == RONDO_OK ? rdi_bootstrap_open(&config, &k->options, &k->env, &p->job, &k->b) : s;
    sodium_memzero(secret, sizeof secret);
    sodium_memzero(k->key, sizeof k->key);
    if (s != RONDO_OK) {
        return s;
    }
    k->b->timeout_ms = MEET_MS;
    size_t n = (size_t)p->job.size;
    k->all = calloc(n, sizeof *k->all);
    k->lens = calloc(n, sizeof *k->lens);
    k->ranks = calloc(n, sizeof *k->ranks);
    p->hosts = calloc(n, sizeof *p->hosts);
    if (k->all == NULL || k->lens == NULL || k->ranks == NULL || p->hosts == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for %zu ranks", n);
    }
    p->options = k->o;
    p->port = k->b->port;
    bool serves = p->job.rank == 0 && !launch.launcher_store && !launch.loopback;
    snprintf(p->host, sizeof p->host, "%s", serves ? "127.0.0.1" : k->b->host);
    rondo_status met = meet(k);
    return met == RONDO_OK ? cf_parent_brief(&k->parent, p) : met;
}

// ---- Reports, on rank 0 --------------------------------------------------------------------------

static rondo_status tell_launcher(struct keeper *k, const char *key, const void *value,
                                  size_t len) {
    return rdi_store_tcp_ops.set(k->reports, key, value, len, 10000);
}

// To the launcher if it is ours, else we report ourselves. RONDO_ERR_INVALID: the report cannot be written.
static rondo_status begin_report(struct keeper *k) {
    const char *how = getenv(CF_ENV_REPORT);
    int n = k->place.job.size;
    if (how == NULL || strcmp(how, "store") != 0) {
        k->report = (struct cf_report){.options = k->o,
                                       .chosen = k->chosen,
                                       .nchosen = k->nchosen,
                                       .nranks = n,
                                       .hosts = k->place.hosts,
                                       .seed = k->place.seed};
        return cf_report_begin(&k->report)
                   ? RONDO_OK
                   : rdi_fail(RONDO_ERR_INVALID, "the report cannot be written");
    }
    rondo_status s =
        rdi_store_connect(k->place.host, k->place.port, &k->place.job, 10000, &k->reports);
    size_t cap = (size_t)n * (RDI_HOST_MAX + 1) + 1, used = 0;
    char *text = calloc(1, cap);
    for (int r = 0; r < n && text != NULL; r++) {
        used += (size_t)snprintf(text + used, cap - used, "%s\n", k->place.hosts[r]);
    }
    s = s == RONDO_OK && text != NULL ? tell_launcher(k, "conform/begin", text, used) : s;
    free(text);
    return s;
}

static rondo_status report_result(struct keeper *k, int seq, const struct cf_check *check,
                                  int round) {
    int n = k->place.job.size;
    if (k->reports == NULL) {
        struct cf_result result = {.check = check, .round = round, .ranks = k->ranks};
        cf_judge(&result, n);
        cf_report_result(&k->report, &result);
        return RONDO_OK;
    }
    char key[64];
    size_t len;
    char *bytes = cf_pack(k->ranks, n, &len);
    snprintf(key, sizeof key, "conform/result/%d", seq);
    rondo_status s = bytes != NULL ? tell_launcher(k, key, bytes, len)
                                   : rdi_fail(RONDO_ERR_NOMEM, "no memory for a result");
    free(bytes);
    return s;
}

// ---- Checks --------------------------------------------------------------------------------------

// Runs a check on this rank, and learns how it went on the others.
static rondo_status run_check(struct keeper *k, const struct cf_check *check, int seq, int round) {
    struct cf_outcome own;
    char name[48];
    size_t len;
    rondo_status s = cf_parent_run(&k->parent, check, seq, round, &own);
    if (s != RONDO_OK) {
        return s;
    }
    char *bytes = cf_pack(&own, 1, &len);
    if (bytes == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for an outcome");
    }
    snprintf(name, sizeof name, "check%d", seq);
    s = exchange(k, name, bytes, len);
    free(bytes);
    for (int r = 0; s == RONDO_OK && r < k->place.job.size; r++) {
        if (!cf_unpack(k->all[r], k->lens[r], &k->ranks[r], 1)) {
            s = rdi_fail(RONDO_ERR_VERSION, "rank %d is of another release of Rondo", r);
        }
    }
    return s;
}

static void open_only(struct cf *c) {
    struct cf_net *n = cf_net_prepare(c, NULL);
    rondo_status s = cf_net_start(n);
    if (s != RONDO_OK) {
        cf_fail(c, "%c%s", s == RONDO_ERR_INVALID ? '2' : '1', rondo_last_error());
    }
    cf_net_close(n);
}

// Whether there is such a transport at all on every rank. The text begins with an exit code.
static rondo_status run_preflight(struct keeper *k, char text[CF_TEXT]) {
    static const struct cf_check check = {.id = "open",
                                          .title = "",
                                          .rule = "",
                                          .run = open_only,
                                          .needs = CF_ALL | CF_OWN_TIME,
                                          .seconds = 20};
    rondo_status s = run_check(k, &check, -1, 0);
    text[0] = '\0';
    for (int r = 0; s == RONDO_OK && r < k->place.job.size && text[0] == '\0'; r++) {
        const struct cf_outcome *o = &k->ranks[r];
        if (o->verdict == CF_FAIL) {
            bool said = o->text[0] == '1' || o->text[0] == '2';
            snprintf(text, CF_TEXT, "%crank %d (host %s) has no %s transport: %.2000s",
                     said ? o->text[0] : '1', r, k->place.hosts[r], k->o->transport,
                     o->text + said);
        }
    }
    return s;
}

static int end_early(struct keeper *k, const char *text) {
    if (k->place.job.rank == 0 && k->reports != NULL) {
        char all[CF_TEXT + 1];
        snprintf(all, sizeof all, "!%s", text);
        tell_launcher(k, "conform/begin", all, strlen(all));
    } else if (k->place.job.rank == 0) {
        (void)cf_complain("%s", text + 1);
    }
    return text[0] == '2' ? CF_USAGE : CF_FAILED;
}

static int run_checks(struct keeper *k) {
    bool first = k->place.job.rank == 0;
    int total = k->nchosen * k->o->repeat;
    rondo_status s = RONDO_OK;
    for (int i = 0; i < total && s == RONDO_OK; i++) {
        const struct cf_check *check = k->chosen[i % k->nchosen];
        if (first && k->reports == NULL) {
            cf_report_next(&k->report, check);
        }
        s = run_check(k, check, i, i / k->nchosen);
        if (s == RONDO_OK && first) {
            s = report_result(k, i, check, i / k->nchosen);
        }
    }
    const char *why = s == RONDO_OK ? NULL : rondo_last_error();
    if (why != NULL) {
        (void)cf_complain("rank %d: %s", k->place.job.rank, why);
    }
    if (first && k->reports == NULL) {
        return cf_report_end(&k->report, why);
    }
    return why == NULL ? CF_OK : CF_FAILED;
}

static int run(struct keeper *k) {
    char text[CF_TEXT];
    const char *how = getenv(CF_ENV_REPORT);
    bool ours = how != NULL && strcmp(how, "store") == 0;
    rondo_status s = run_preflight(k, text);
    if (s == RONDO_OK && k->place.job.rank == 0 && text[0] != '\0' && ours) {
        s = rdi_store_connect(k->place.host, k->place.port, &k->place.job, 10000, &k->reports);
    }
    if (s == RONDO_OK && text[0] != '\0') {
        return end_early(k, text);
    }
    if (s == RONDO_OK && k->place.job.rank == 0) {
        s = begin_report(k);
    }
    if (s != RONDO_OK) {
        (void)cf_complain("rank %d: %s", k->place.job.rank, rondo_last_error());
        return CF_FAILED;
    }
    return run_checks(k);
}

int cf_keep(const struct cf_options *o, const struct cf_check *const *chosen, int nchosen) {
    struct keeper k = {.o = o, .chosen = chosen, .nchosen = nchosen};
    int code = CF_FAILED;
    rdi_env_system(&k.env, NULL, NULL);
    signal(SIGPIPE, SIG_IGN);
    rondo_status s = cf_parent_start(&k.parent);
    s = s == RONDO_OK ? join(&k) : s;
    if (s == RONDO_OK) {
        code = run(&k);
    } else {
        (void)cf_complain("%s", rondo_last_error());
        code = s == RONDO_ERR_INVALID || s == RONDO_ERR_USAGE ? CF_USAGE : CF_FAILED;
    }
    cf_parent_end(&k.parent);
    rdi_store_close(k.reports);
    rdi_bootstrap_close(k.b);
    rdi_job_clear(&k.place.job);
    for (int r = 0; k.all != NULL && r < k.place.job.size; r++) {
        free(k.all[r]);
    }
    free(k.all);
    free(k.lens);
    free(k.ranks);
    free(k.place.hosts);
    return code;
}
