// SPDX-License-Identifier: MIT
// The command line: one table, one row per option.
#include "ddp/run/run.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_MAX 4096
#define NODES_MAX 65536

enum type { FLAG, COUNT, INT, RANKS, RANGE, SECONDS, TEXT, FORMAT, VARIABLE, HELP, VERSION };

struct row {
    char letter;
    const char *name, *value; // value: how help calls it, NULL = the option has none
    enum type type;
    size_t offset;
    double low, high; // INT, SECONDS
    const char *help;
};
#define AT(member) offsetof(struct run_options, member)

static const struct row rows[] = {
    {'n', "nproc-per-node", "N", RANKS, AT(nproc), 1, RANKS_MAX,
     "ranks on this node; 'auto': one per usable core (default 1)"},
    {0, "elastic", "MIN:MAX", RANGE, AT(elastic_min), 1, NODES_MAX,
     "start MAX ranks, and go on while MIN of them are left"},
    {0, "max-restarts", "K", INT, AT(max_restarts), 0, 1000000,
     "with --elastic: start failed ranks again, K times in all (default 0)"},
    {0, "nnodes", "N", INT, AT(nnodes), 1, NODES_MAX,
     "nodes of the job; rondo-run is started once on each (default 1)"},
    {0, "node-rank", "R", INT, AT(node_rank), 0, NODES_MAX - 1,
     "this node, 0 to nnodes-1; needed with several nodes"},
    {0, "master-addr", "HOST", TEXT, AT(master_addr), 0, 0,
     "name or address of node 0; needed with several nodes"},
    {0, "master-port", "PORT", INT, AT(master_port), 1, 65535,
     "port of the store (default 29400; with one node any free one)"},
    {0, "connect-timeout", "SECONDS", SECONDS, AT(connect_timeout), 0.001, 604800,
     "how long to wait for the other nodes (default 300)"},
    {0, "timeout", "SECONDS", SECONDS, AT(timeout), 0.001, 31536000,
     "end the job after this time; exit code 124 (default: never)"},
    {0, "grace", "SECONDS", SECONDS, AT(grace), 0, 86400,
     "from SIGTERM to SIGKILL when a rank has failed (default 3)"},
    {'x', "env", "NAME=VALUE", VARIABLE, 0, 0, 0, "set a variable for the ranks; can be repeated"},
    {0, "log-dir", "DIR", TEXT, AT(log_dir), 0, 0,
     "write rank-R.out and rank-R.err there instead of lines with prefixes"},
    {0, "dump", "DIR", TEXT, AT(dump), 0, 0,
     "ranks write their state there when a communicator fails, and on SIGUSR1; for rondo-top"},
    {0, "trace", "DIR", TEXT, AT(trace), 0, 0,
     "ranks write their timelines there, for rondo-top --merge and ui.perfetto.dev"},
    {0, "no-prefix", NULL, FLAG, AT(no_prefix), 0, 0, "lines without the rank"},
    {0, "prefix-format", "TEXT", FORMAT, AT(prefix_format), 0, 0,
     "prefix of lines: %r rank, %l local rank, %n node, %h host, %% (default '[%r] ')"},
    {0, "stdin", NULL, FLAG, AT(stdin_to_rank0), 0, 0,
     "rank 0 reads standard input; otherwise it is empty for all"},
    {'v', "verbose", NULL, COUNT, AT(verbose), 0, 0, "say what is done"},
    {'h', "help", NULL, HELP, 0, 0, 0, "this text"},
    {0, "version", NULL, VERSION, 0, 0, 0, "the version"},
};
#define ROWS (sizeof rows / sizeof rows[0])

int run_usable_cores(void) {
    // The set may be larger than cpu_set_t; the kernel says EINVAL until it fits.
    for (int cpus = CPU_SETSIZE; cpus <= 1 << 20; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (set == NULL) {
            break;
        }
        size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        bool ok = sched_getaffinity(0, size, set) == 0;
        int count = ok ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (ok) {
            return count > 0 ? count : 1;
        }
    }
    return 1;
}

static void print_help(void) {
    printf(
        "usage: rondo-run [OPTION...] PROGRAM [ARGUMENT...]\n\n"
        "Starts PROGRAM as the ranks of one job. When a rank fails, the others are ended, unless "
        "the\njob is elastic.\n\n");
    for (size_t i = 0; i < ROWS; i++) {
        char left[64], letter[8] = "    ";
        if (rows[i].letter != 0) {
            snprintf(letter, sizeof letter, "-%c, ", rows[i].letter);
        }
        snprintf(left, sizeof left, "  %s--%s%s%s", letter, rows[i].name,
                 rows[i].value != NULL ? " " : "", rows[i].value != NULL ? rows[i].value : "");
        printf("%-33s %s\n", left, rows[i].help);
    }
    printf("\nThe exit code is 0, or that of the first rank to fail (128 + N when signal N killed "
           "it).\n"
           "See rondo-run(1).\n");
}

// ---- Values -------------------------------------------------------------------------------------

static rondo_status wrong(const struct row *row, const char *value, const char *allowed) {
    return rdi_fail(RONDO_ERR_INVALID, "--%s=%s is not allowed; it can be %s", row->name, value,
                    allowed);
}

static rondo_status set_int(const struct row *row, const char *value, int *out) {
    char *end, allowed[64];
    errno = 0;
    long v = strtol(value, &end, 10);
    // strtol() skips space and takes a sign; a number here has neither.
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 || (double)v < row->low ||
        (double)v > row->high) {
        snprintf(allowed, sizeof allowed, "%s%.0f to %.0f",
                 row->type == RANKS ? "'auto' or a number from " : "a number from ", row->low,
                 row->high);
        return wrong(row, value, allowed);
    }
    *out = (int)v;
    return RONDO_OK;
}

// Sets two numbers that lie one after the other: MIN:MAX.
static rondo_status set_range(const struct row *row, const char *value, int out[2]) {
    char low[16];
    const char *colon = strchr(value, ':');
    size_t n = colon != NULL ? (size_t)(colon - value) : sizeof low;
    struct row number = *row;
    number.type = INT;
    if (n >= sizeof low) {
        return wrong(row, value, "MIN:MAX, two numbers of ranks");
    }
    memcpy(low, value, n);
    low[n] = '\0';
    rondo_status s = set_int(&number, low, &out[0]);
    s = s == RONDO_OK ? set_int(&number, colon + 1, &out[1]) : s;
    return s == RONDO_OK && out[0] > out[1] ? wrong(row, value, "MIN:MAX with MIN at most MAX") : s;
}

static rondo_status set_seconds(const struct row *row, const char *value, double *out) {
    char *end, allowed[64];
    double v = strtod(value, &end);
    if (strspn(value, "0123456789.") != strlen(value) || value[0] == '\0' || *end != '\0' ||
        !isfinite(v) || v < row->low || v > row->high) {
        snprintf(allowed, sizeof allowed, "seconds from %g to %.0f", row->low, row->high);
        return wrong(row, value, allowed);
    }
    *out = v;
    return RONDO_OK;
}

static rondo_status set_format(const struct row *row, const char *value, const char **out) {
    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '\n' || (*c == '%' && (*++c == '\0' || strchr("rlnh%", *c) == NULL))) {
            return wrong(row, value, "text without line ends, with %r, %l, %n, %h and %%");
        }
    }
    *out = value;
    return RONDO_OK;
}

static rondo_status set_variable(const struct row *row, char *value) {
    char *sign = strchr(value, '=');
    if (sign == NULL || sign == value) {
        return wrong(row, value, "NAME=VALUE");
    }
    *sign = '\0';
    int r = setenv(value, sign + 1, 1);
    *sign = '=';
    return r == 0 ? RONDO_OK : rdi_fail_errno(RONDO_ERR_NOMEM, errno, "cannot set %s", value);
}

static rondo_status set_value(struct run_options *o, const struct row *row, char *value) {
    void *at = (char *)o + row->offset;
    switch (row->type) {
    case FLAG:
        *(bool *)at = true;
        return RONDO_OK;
    case COUNT:
        ++*(int *)at;
        return RONDO_OK;
    case RANKS:
        if (strcmp(value, "auto") == 0) {
            *(int *)at = run_usable_cores();
            return RONDO_OK;
        }
        return set_int(row, value, at);
    case INT:
        return set_int(row, value, at);
    case RANGE:
        return set_range(row, value, at);
    case SECONDS:
        return set_seconds(row, value, at);
    case TEXT:
        if (value[0] == '\0') {
            return wrong(row, "", "any text that is not empty");
        }
        *(const char **)at = value;
        return RONDO_OK;
    case FORMAT:
        return set_format(row, value, at);
    case VARIABLE:
        return set_variable(row, value);
    case HELP:
    case VERSION:
        break;
    }
    return RONDO_OK;
}

// ---- Words --------------------------------------------------------------------------------------

// torchrun writes names with '_' as well.
static bool same_name(const char *word, size_t n, const char *name) {
    if (strlen(name) != n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (word[i] != name[i] && !(word[i] == '_' && name[i] == '-')) {
            return false;
        }
    }
    return true;
}

static const struct row *find_long(const char *word, size_t n) {
    for (size_t i = 0; i < ROWS; i++) {
        if (same_name(word, n, rows[i].name)) {
            return &rows[i];
        }
    }
    return NULL;
}

static const struct row *find_letter(char letter) {
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].letter == letter) {
            return &rows[i];
        }
    }
    return NULL;
}

struct words {
    int argc, at;
    char **argv;
};

static rondo_status apply(struct run_options *o, const struct row *row, char *value,
                          struct words *w, enum run_parse *result) {
    if (row->value == NULL && value != NULL) {
        return rdi_fail(RONDO_ERR_INVALID, "--%s takes no value", row->name);
    }
    if (row->value != NULL && value == NULL) {
        if (w->at >= w->argc) {
            return rdi_fail(RONDO_ERR_INVALID, "--%s needs a value: --%s %s", row->name, row->name,
                            row->value);
        }
        value = w->argv[w->at++];
    }
    if (row->type == HELP) {
        print_help();
        *result = RUN_PARSE_EXIT;
    } else if (row->type == VERSION) {
        printf("rondo-run %s\n", rondo_version());
        *result = RUN_PARSE_EXIT;
    }
    return set_value(o, row, value);
}

static rondo_status parse_word(struct run_options *o, struct words *w, enum run_parse *result) {
    char *word = w->argv[w->at++];
    if (word[1] == '-') {
        char *sign = strchr(word, '=');
        size_t n = sign != NULL ? (size_t)(sign - word) - 2 : strlen(word) - 2;
        const struct row *row = find_long(word + 2, n);
        if (row == NULL) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "there is no option %.*s; 'rondo-run --help' lists them", (int)n + 2,
                            word);
        }
        return apply(o, row, sign != NULL ? sign + 1 : NULL, w, result);
    }
    // -n4, -n 4, -v, -vn4
    for (char *c = word + 1; *c != '\0' && *result == RUN_PARSE_OK; c++) {
        const struct row *row = find_letter(*c);
        if (row == NULL) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "there is no option -%c; 'rondo-run --help' lists them", *c);
        }
        bool attached = row->value != NULL && c[1] != '\0';
        rondo_status s = apply(o, row, attached ? c + 1 : NULL, w, result);
        if (s != RONDO_OK || row->value != NULL) {
            return s;
        }
    }
    return RONDO_OK;
}

static rondo_status check_elastic(struct run_options *o) {
    if (o->max_restarts > 0 && o->elastic_max == 0) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "--max-restarts needs --elastic MIN:MAX, the number of ranks that the job "
                        "may shrink to and that it starts with");
    }
    if (o->elastic_max > 0 && o->nnodes == 1) {
        if (o->nproc > 0 && o->nproc != o->elastic_max) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "--elastic %d:%d starts %d ranks, -n says %d: leave out -n",
                            o->elastic_min, o->elastic_max, o->elastic_max, o->nproc);
        }
        if (o->elastic_max > RANKS_MAX) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "--elastic %d:%d: one node can have %d ranks at most", o->elastic_min,
                            o->elastic_max, RANKS_MAX);
        }
        o->nproc = o->elastic_max;
    }
    snprintf(o->elastic, sizeof o->elastic, "%d:%d", o->elastic_min, o->elastic_max);
    return RONDO_OK;
}

static rondo_status check_together(struct run_options *o) {
    if (check_elastic(o) != RONDO_OK) {
        return RONDO_ERR_INVALID;
    }
    o->nproc = o->nproc > 0 ? o->nproc : 1;
    if (o->nnodes > 1 && o->node_rank < 0) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "--nnodes=%d needs --node-rank: 0 to %d, a different one on each node",
                        o->nnodes, o->nnodes - 1);
    }
    if (o->nnodes > 1 && o->master_addr == NULL) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "--nnodes=%d needs --master-addr: the name or address of node 0, the same "
                        "on each node",
                        o->nnodes);
    }
    if (o->nnodes == 1 && o->node_rank > 0) {
        return rdi_fail(RONDO_ERR_INVALID, "--node-rank=%d needs --nnodes, the number of nodes",
                        o->node_rank);
    }
    if (o->node_rank >= o->nnodes) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "--node-rank=%d is not allowed with --nnodes=%d; it can be 0 to %d",
                        o->node_rank, o->nnodes, o->nnodes - 1);
    }
    if (o->log_dir != NULL && (o->prefix_format != NULL || o->no_prefix)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "--log-dir writes files without prefixes: leave out --%s",
                        o->no_prefix ? "no-prefix" : "prefix-format");
    }
    if (o->no_prefix && o->prefix_format != NULL) {
        return rdi_fail(RONDO_ERR_INVALID, "--no-prefix and --prefix-format exclude each other");
    }
    if (o->program[0] == NULL) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "which program? usage: rondo-run [OPTION...] PROGRAM [ARGUMENT...]");
    }
    o->node_rank = o->node_rank < 0 ? 0 : o->node_rank;
    return RONDO_OK;
}

enum run_parse run_options_parse(struct run_options *o, int argc, char **argv) {
    *o = (struct run_options){.nnodes = 1,
                              .node_rank = -1,
                              .master_port = -1,
                              .connect_timeout = 300,
                              .grace = (double)RDI_GRACE_NS / 1e9};
    struct words w = {.argc = argc, .at = 1, .argv = argv};
    enum run_parse result = RUN_PARSE_OK;
    // Options end where the program begins: what follows is the program's own.
    while (w.at < argc && argv[w.at][0] == '-' && argv[w.at][1] != '\0') {
        if (strcmp(argv[w.at], "--") == 0) {
            w.at++;
            break;
        }
        if (parse_word(o, &w, &result) != RONDO_OK) {
            return RUN_PARSE_ERROR;
        }
        if (result != RUN_PARSE_OK) {
            return result;
        }
    }
    o->program = argv + w.at;
    return check_together(o) == RONDO_OK ? RUN_PARSE_OK : RUN_PARSE_ERROR;
}
