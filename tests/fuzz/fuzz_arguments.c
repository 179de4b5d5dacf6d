// SPDX-License-Identifier: MIT
// The command lines of rondo-run, rondo-perf, rondo-conform, rondo-doctor, rondo-top and rondo-topo. What is accepted must be
// what the commands can do, whatever the words were.
//
//   input[0]  which command; then its words, each with a NUL
#include "ddp/run/run.h"
#include "fuzz.h"
#include "ring/perf/perf.h"
#include "ring/top/top.h"
#include "topo/show/show.h"
#include "transport/conform/conform.h"
#include "transport/doctor/doctor.h"

#define WORDS 24

int __wrap_setenv(const char *name, const char *value, int overwrite);
int __wrap_setenv(const char *name, const char *value, int overwrite) {
    MUST(name[0] != '\0' && strchr(name, '=') == NULL && overwrite == 1 && value != NULL);
    return 0;
}

static void run(int argc, char **argv) {
    struct run_options o;
    if (run_options_parse(&o, argc, argv) != RUN_PARSE_OK) {
        return;
    }
    MUST(o.program > argv && o.program < argv + argc && o.program[0] != NULL);
    MUST(o.nproc >= 1 && o.nproc <= 65536 && o.nnodes >= 1);
    MUST(o.node_rank >= 0 && o.node_rank < o.nnodes && o.master_port <= 65535);
    MUST(o.timeout >= 0 && o.connect_timeout >= 0 && o.grace >= 0 && o.timeout < 1e12);
    MUST(o.elastic_min >= (o.elastic_max > 0) && o.elastic_min <= o.elastic_max &&
         o.max_restarts >= 0);
    MUST(memchr(o.elastic, 0, sizeof o.elastic) != NULL);
    MUST(o.nnodes == 1 || o.master_addr != NULL);
}

static void perf(int argc, char **argv) {
    struct perf_options o;
    if (perf_parse(argc, argv, &o) >= 0) {
        return;
    }
    MUST(o.coll >= 0 && o.coll < perf_ncolls && o.min_bytes <= o.max_bytes);
    MUST(o.max_bytes <= (size_t)1 << 40 && o.ranks >= 0 && o.timeout_s >= 0);
    MUST(o.step_factor > 0 ? o.min_bytes > 0 : o.step_factor == 0);
    MUST(o.type == PERF_ALL || (o.type >= 0 && o.type < RONDO_TYPE_COUNT));
    MUST(o.op == PERF_ALL || o.op == PERF_NONE || (o.op >= 0 && o.op < RONDO_OP_COUNT));
}

static void conform(int argc, char **argv) {
    struct cf_options o;
    if (cf_parse(argc, argv, &o) >= 0) {
        return;
    }
    MUST(o.nhosts <= CF_HOSTS && o.repeat >= 1 && o.timeout_s >= 0 && o.ranks >= 0);
    for (unsigned i = 0; i < o.nhosts; i++) {
        MUST(o.hosts[i] != NULL && o.hosts[i][0] != '\0');
    }
}

static void doctor(int argc, char **argv) {
    struct dr_request o;
    if (dr_parse(argc, argv, &o) >= 0) {
        return;
    }
    MUST(o.ranks >= 0 && o.ranks <= 1 << 20 && o.per_node >= 0 && o.per_node <= 1 << 16);
    MUST(o.port >= 0 && o.port <= 65535 && o.timeout_s >= 0 && o.timeout_s <= 86400);
}

static void top(int argc, char **argv) {
    struct top_options o;
    if (top_options_parse(&o, argc, argv) >= 0) {
        return;
    }
    MUST(o.delay >= 0.1 && o.delay <= 3600 && o.nfiles <= (size_t)argc);
    MUST(o.nfiles == 0 || o.what == NULL);
    MUST(!o.merge || o.nfiles > 0);
}

static void topo(int argc, char **argv) {
    struct ts_options o;
    if (ts_options_parse(&o, argc, argv) < 0) {
        MUST(o.n <= TS_HOSTS && !(o.synthetic && (o.n > 0 || o.cluster)));
        MUST(!o.this_cpuset || o.n > 0 || o.cluster);
        for (size_t i = 0; i < o.n; i++) {
            MUST(o.sources[i].file[0] != '\0' && memchr(o.sources[i].name, 0, TS_NAME) != NULL);
        }
    }
    ts_options_free(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static FILE *nowhere;
    struct input in = {.at = data, .left = size};
    uint8_t command = take_byte(&in);
    size_t rest = in.left, used = 0;
    char *text = take_text(&in), name[] = "command", *words[WORDS + 2] = {name};
    int n = 1;
    for (; n <= WORDS && used < rest; n++) {
        words[n] = text + used;
        used += strlen(words[n]) + 1;
    }
    // What a command says is nobody's.
    nowhere = nowhere != NULL ? nowhere : fopen("/dev/null", "we");
    FILE *out = stdout, *err = stderr;
    MUST(nowhere != NULL);
    stdout = stderr = nowhere;
    void (*const commands[])(int, char **) = {run, perf, conform, doctor, top, topo};
    commands[command % 6](n, words);
    stdout = out;
    stderr = err;
    free(text);
    return 0;
}
