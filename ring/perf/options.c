// SPDX-License-Identifier: MIT
// rondo-perf's options: one table for parsing, checks and --help.
#include "ring/perf/perf.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { SIZE, INT, BOOL, FLAG, TYPE, OP, ROOT, TEXT, WIRE, MEM, FACTOR };

struct row {
    char short_name;
    const char *name, *value;
    enum kind kind;
    size_t at;
    long long min, max;
    const char *standard, *help;
};
#define NOT_GIVEN SIZE_MAX
#define STANDARD_BYTES ((size_t)32 << 20)
#define AT(f) offsetof(struct perf_options, f)

static const struct row table[] = {
    {'b', "minbytes", "SIZE", SIZE, AT(min_bytes), 0, 1LL << 40, "32M", "smallest size, in bytes"},
    {'e', "maxbytes", "SIZE", SIZE, AT(max_bytes), 0, 1LL << 40, "32M", "largest size"},
    {'i', "stepbytes", "SIZE", SIZE, AT(step_bytes), 1, 1LL << 40, "1M",
     "added to the size each time"},
    {'f', "stepfactor", "N", FACTOR, AT(step_factor), 2, 1024, "off",
     "multiplies the size each time"},
    {'n', "nranks", "N", INT, AT(ranks), 1, 16384, "2",
     "processes to start; under a launcher: joins its job"},
    {0, "iters", "N", INT, AT(iters), 1, 1000000, "20",
     "timed operations per size; put get pingpong: 1000 to 20"},
    {'w', "warmup_iters", "N", INT, AT(warmup), 0, 1000000, "5",
     "operations before them, not timed; put get pingpong: a tenth"},
    {'c', "check", "0|1", BOOL, AT(check), 0, 1, "1", "check every result"},
    {'o', "op", "OP", OP, AT(op), 0, 0, "sum", "sum prod min max avg all"},
    {'d', "datatype", "TYPE", TYPE, AT(type), 0, 0, "float",
     "float double half bfloat16 int8 uint8 int32 uint32 int64 uint64 f8e4m3 f8e5m2 all"},
    {'r', "root", "RANK", ROOT, AT(root), 0, 1023, "0", "root of broadcast and reduce, or all"},
    {0, "transport", "WIRE", WIRE, AT(transport), 0, 0, "auto", "auto shm tcp verbs"},
    {0, "options", "LIST", TEXT, AT(options), 0, 0, "",
     "options of the library, name=value,…; see rondo(7)"},
    {0, "percentiles", NULL, FLAG, AT(percentiles), 0, 0, "", "adds columns p50 and p99 (us)"},
    {0, "bidirectional", NULL, FLAG, AT(bidirectional), 0, 0, "",
     "put: both ranks of a pair send at once"},
    {0, "sleep", NULL, FLAG, AT(sleep), 0, 0, "",
     "put get pingpong: waits asleep and does not spin"},
    {0, "memory", "KIND", MEM, AT(use_malloc), 0, 0, "rondo", "rondo (rondo_mem_alloc) or malloc"},
    {0, "simulate", "FILE", TEXT, AT(simulate), 0, 0, "",
     "predicts for the cluster that this JSON file describes"},
    {0, "json", "FILE", TEXT, AT(json), 0, 0, "", "writes the results as JSON; - is stdout"},
    {0, "csv", "FILE", TEXT, AT(csv), 0, 0, "", "writes the results as CSV; - is stdout"},
    {0, "plot", "FILE", TEXT, AT(plot), 0, 0, "",
     "draws busbw and time against size as SVG; - is stdout"},
    {'T', "timeout", "SECONDS", INT, AT(timeout_s), 1, 86400, "600", "for each operation"},
    {0, "corrupt", "RANK", INT, AT(corrupt), 0, 1023, "off",
     "damages a result of this rank: tests the check"},
};
#define ROWS (sizeof table / sizeof *table)

int perf_fail(const char *fmt, ...) {
    // In one write, so that the words of several ranks do not mix.
    char text[1280];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fprintf(stderr, "rondo-perf: %s\n", text);
    return PERF_USAGE;
}

#define NAMES 160
static const char *tests(char names[NAMES]) {
    size_t n = 0;
    for (int i = 0; i < perf_ncolls && n < NAMES; i++) {
        n += (size_t)snprintf(names + n, NAMES - n, " %s", perf_colls[i].name);
    }
    return names;
}

static void help(void) {
    char names[NAMES];
    printf("usage: rondo-perf TEST [options]\n\ntests:%s\n\n"
           "options (default in brackets):\n",
           tests(names));
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *t = &table[i];
        char left[64];
        char sh[8] = "    ";
        if (t->short_name) {
            snprintf(sh, sizeof sh, "-%c, ", t->short_name);
        }
        snprintf(left, sizeof left, "%s--%s %s", sh, t->name, t->value ? t->value : "");
        printf("  %-28s %s%s%s%s\n", left, t->help, *t->standard ? " [" : "", t->standard,
               *t->standard ? "]" : "");
    }
    printf("  -h, --help                   this text\n      --version                version of "
           "Rondo\n\n"
           "example: rondo-perf all_reduce -b 8 -e 256M -f 2 -n 2\n");
}

// "64K", "1G", "12": sizes in units of 1024.
static bool parse_number(const char *s, bool suffix, long long *out) {
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (end == s || errno || v < 0) {
        return false;
    }
    int shift = 0;
    if (suffix && *end) {
        const char *units = "KMGT", *u = strchr(units, *end >= 'a' ? *end - 32 : *end);
        if (!u) {
            return false;
        }
        shift = 10 * (int)(u - units + 1);
        end++;
    }
    if (*end || v > (1LL << 62) >> shift) {
        return false;
    }
    *out = v << shift;
    return true;
}

static int find_name(const char *s, const char *(*name)(int)) {
    for (int i = 0; name(i); i++) {
        if (strcmp(s, name(i)) == 0) {
            return i;
        }
    }
    return strcmp(s, "all") == 0 ? PERF_ALL : -1;
}

static const char *type_name(int i) { return rondo_type_name((rondo_type)i); }

static const char *op_name(int i) { return rondo_op_name((rondo_op)i); }

static bool set(const struct row *t, const char *v, struct perf_options *o) {
    char *at = (char *)o + t->at;
    long long num = 0;
    switch (t->kind) {
    case TEXT:
        *(const char **)(void *)at = v;
        return *v != '\0';
    case WIRE:
        *(const char **)(void *)at = v;
        return strcmp(v, "auto") == 0 || strcmp(v, "shm") == 0 || strcmp(v, "tcp") == 0 ||
               strcmp(v, "verbs") == 0;
    case MEM:
        *(bool *)at = strcmp(v, "malloc") == 0;
        return strcmp(v, "malloc") == 0 || strcmp(v, "rondo") == 0;
    case FLAG:
        *(bool *)at = true;
        return true;
    case TYPE:
        *(int *)(void *)at = find_name(v, type_name);
        return *(int *)(void *)at != -1;
    case OP:
        *(int *)(void *)at = find_name(v, op_name);
        return *(int *)(void *)at != -1;
    case ROOT:
        if (strcmp(v, "all") == 0) {
            *(int *)(void *)at = PERF_ALL;
            return true;
        }
        break;
    default:
        break;
    }
    if (!parse_number(v, t->kind == SIZE, &num) || num < t->min || num > t->max) {
        return false;
    }
    if (t->kind == SIZE) {
        *(size_t *)(void *)at = (size_t)num;
    } else if (t->kind == BOOL) {
        *(bool *)at = num != 0;
    } else {
        *(int *)(void *)at = (int)num;
    }
    return true;
}

static int bad_value(const struct row *t, const char *v) {
    if (t->kind == INT || t->kind == FACTOR || t->kind == BOOL || t->kind == ROOT) {
        return perf_fail("--%s %s: allowed is a whole number from %lld to %lld%s", t->name, v,
                         t->min, t->max, t->kind == ROOT ? ", or all" : "");
    }
    if (t->kind == SIZE) {
        return perf_fail("--%s %s: allowed is a size such as 8, 64K, 1M, 2G (at most 1T)", t->name,
                         v);
    }
    return perf_fail("--%s %s: allowed is %s", t->name, v,
                     t->kind == TEXT ? "a value that is not empty" : t->help);
}

// Finds the option of one argument; *value is what follows "=" or the letter, if any.
static const struct row *find(const char *arg, const char **value) {
    *value = NULL;
    for (size_t i = 0; i < ROWS; i++) {
        size_t n = strlen(table[i].name);
        if (strncmp(arg, "--", 2) == 0 && strncmp(arg + 2, table[i].name, n) == 0 &&
            (arg[2 + n] == '\0' || arg[2 + n] == '=')) {
            *value = arg[2 + n] == '=' ? arg + 3 + n : NULL;
            return &table[i];
        }
        if (arg[1] == table[i].short_name && arg[1] && arg[1] != '-') {
            *value = arg[2] ? arg + 2 : NULL;
            return &table[i];
        }
    }
    return NULL;
}

// What only collectives, or only some of the others, can do.
static int check_kind(struct perf_options *o) {
    enum perf_kind kind = perf_colls[o->coll].kind;
    const char *name = perf_colls[o->coll].name;
    if (kind == PERF_COLLECTIVE) {
        o->iters = o->iters > 0 ? o->iters : 20;
        o->warmup = o->warmup >= 0 ? o->warmup : 5;
    }
    if (o->sleep && kind == PERF_COLLECTIVE) {
        return perf_fail(
            "--sleep: allowed with put, get and pingpong; with %s use --options spin=0", name);
    }
    if (o->bidirectional && kind != PERF_PUT) {
        return perf_fail("--bidirectional: allowed with put, and %s was given", name);
    }
    if (o->percentiles && kind == PERF_PUT) {
        return perf_fail("--percentiles: put has many messages under way, so a single one has no "
                         "time of its own; pingpong shows what one takes");
    }
    return -1;
}

static int check_together(struct perf_options *o) {
    char names[NAMES];
    if (o->coll < 0) {
        return perf_fail("which test? Allowed is one of%s", tests(names));
    }
    int code = check_kind(o);
    if (code >= 0) {
        return code;
    }
    // Of two sizes of which one is given, the other must not stand in its way.
    if (o->max_bytes == NOT_GIVEN) {
        o->max_bytes = o->min_bytes != NOT_GIVEN && o->min_bytes > STANDARD_BYTES ? o->min_bytes
                                                                                  : STANDARD_BYTES;
    }
    if (o->min_bytes == NOT_GIVEN) {
        o->min_bytes = o->max_bytes < STANDARD_BYTES ? o->max_bytes : STANDARD_BYTES;
    }
    if (o->min_bytes > o->max_bytes) {
        return perf_fail("--minbytes %zu is above --maxbytes %zu", o->min_bytes, o->max_bytes);
    }
    if (o->step_factor && o->min_bytes == 0) {
        return perf_fail("--stepfactor needs a --minbytes above 0: 0 times anything stays 0");
    }
    int to_stdout = 0;
    const char *files[] = {o->json, o->csv, o->plot};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        to_stdout += files[i] && strcmp(files[i], "-") == 0;
    }
    if (to_stdout > 1) {
        return perf_fail("only one of --json, --csv and --plot can be -, which is stdout");
    }
    return -1;
}

static int set_test(struct perf_options *o, const char *name) {
    char names[NAMES];
    if (o->coll >= 0) {
        return perf_fail("\"%s\": allowed is one test, and %s was given", name,
                         perf_colls[o->coll].name);
    }
    for (int i = 0; i < perf_ncolls; i++) {
        if (strcmp(name, perf_colls[i].name) == 0) {
            o->coll = i;
            return -1;
        }
    }
    return perf_fail("\"%s\" is no test; allowed is one of%s", name, tests(names));
}

int perf_parse(int argc, char **argv, struct perf_options *o) {
    *o = (struct perf_options){.coll = -1,
                               .min_bytes = NOT_GIVEN,
                               .max_bytes = NOT_GIVEN,
                               .step_bytes = 1 << 20,
                               .warmup = PERF_NONE,
                               .check = true,
                               .op = RONDO_SUM,
                               .type = RONDO_F32,
                               .timeout_s = 600,
                               .corrupt = PERF_NONE,
                               .argc = argc,
                               .argv = argv};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v;
        if (strcmp(a, "-h") == 0 || strcmp(a, "--help") == 0) {
            help();
            return 0;
        }
        if (strcmp(a, "--version") == 0) {
            printf("rondo-perf %s\n", rondo_version());
            return 0;
        }
        if (a[0] != '-') {
            int code = set_test(o, a);
            if (code >= 0) {
                return code;
            }
            continue;
        }
        const struct row *t = find(a, &v);
        if (!t) {
            return perf_fail("there is no option \"%s\"; --help lists them", a);
        }
        if (t->kind == FLAG && v) {
            return perf_fail("--%s takes no value", t->name);
        }
        if (t->kind != FLAG && !v && ++i == argc) {
            return perf_fail("--%s needs a value: %s", t->name, t->value);
        }
        v = t->kind == FLAG ? "" : v ? v : argv[i];
        if (!set(t, v, o)) {
            return bad_value(t, v);
        }
    }
    return check_together(o);
}
