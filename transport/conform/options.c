// SPDX-License-Identifier: MIT
// rondo-conform's options: one table for parsing, checks and --help.
#include "transport/conform/conform.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { INT, NUMBER, FLAG, TEXT, WORD };

struct row {
    char letter;
    const char *name, *value;
    enum kind kind;
    size_t at;
    int64_t low, high;
    const char *standard, *help;
};
#define AT(member) offsetof(struct cf_options, member)

static const struct row table[] = {
    {'t', "transport", "WIRE", WORD, AT(transport), 0, 0, "tcp", "shm, tcp or verbs"},
    {'d', "device", "NAMES", TEXT, AT(device), 0, 0, "",
     "RDMA devices to use, name or name:port, joined by '+'"},
    {0, "options", "LIST", TEXT, AT(options), 0, 0, "",
     "options of the library, name=value,...; see rondo(7)"},
    {'n', "ranks", "N", INT, AT(ranks), 2, 64, "2",
     "ranks to start on this host; under a launcher or with HOSTs: leave it out"},
    {0, "ssh", "COMMAND", TEXT, AT(ssh), 0, 0, "ssh -o BatchMode=yes", "how to reach a HOST"},
    {'l', "list", NULL, FLAG, AT(list), 0, 0, "", "lists the checks, with what each stands on"},
    {0, "only", "IDS", TEXT, AT(only), 0, 0, "",
     "only these checks: ids or patterns (message.*), joined by ','"},
    {0, "long", NULL, FLAG, AT(longer), 0, 0, "",
     "also the checks that take minutes, and ten times as much of others"},
    {0, "timeout", "SECONDS", INT, AT(timeout_s), 1, 86400, "each check's own",
     "after which a check counts as hung"},
    {0, "repeat", "N", INT, AT(repeat), 1, 1000000, "1", "runs all of it so often"},
    {0, "seed", "N", NUMBER, AT(seed), 0, INT64_MAX, "random", "of sizes, contents and moments"},
    {0, "break", "COMMAND", TEXT, AT(break_cmd), 0, 0, "",
     "shell command that cuts the path between rank 0 and 1, run by rank 0"},
    {0, "heal", "COMMAND", TEXT, AT(heal_cmd), 0, 0, "", "shell command that mends it again"},
    {0, "json", "FILE", TEXT, AT(json), 0, 0, "", "writes the results as JSON as well"},
    {0, "format", "FORMAT", WORD, AT(format), 0, 0, "auto",
     "human, tap or auto (human on a terminal)"},
};
#define ROWS (sizeof table / sizeof *table)

int cf_complain(const char *fmt, ...) {
    // In one write, so that the words of several ranks do not mix.
    char text[1280];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fprintf(stderr, "rondo-conform: %s\n", text);
    return CF_USAGE;
}

static void help(void) {
    printf("usage: rondo-conform [options] [HOST HOST...]\n\n"
           "Checks that a transport keeps its contract: between ranks on this host, on the HOSTs\n"
           "(reached by ssh, this program at the same path), or as a job of a launcher.\n\n"
           "options (default in brackets):\n");
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *t = &table[i];
        char left[64], letter[8] = "    ";
        if (t->letter) {
            snprintf(letter, sizeof letter, "-%c, ", t->letter);
        }
        snprintf(left, sizeof left, "%s--%s %s", letter, t->name, t->value ? t->value : "");
        printf("  %-27s %s%s%s%s\n", left, t->help, *t->standard ? " [" : "", t->standard,
               *t->standard ? "]" : "");
    }
    printf("  -h, --help                  this text\n"
           "      --version               version of Rondo\n\n"
           "exit code: 0 nothing failed, 1 something failed or nothing ran, 2 wrong usage\n"
           "example: rondo-conform --transport verbs --device mlx5_0 host1 host2\n");
}

static bool parse_number(const char *text, int64_t *out) {
    if (text[0] < '0' || text[0] > '9') {
        return false; // strtoll() skips space and takes a sign
    }
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return *end == '\0' && errno == 0;
}

static bool set_word(const struct row *t, const char *v, struct cf_options *o) {
    if (t->at == AT(format)) {
        o->format = strcmp(v, "human") == 0 ? CF_HUMAN : strcmp(v, "tap") == 0 ? CF_TAP : CF_AUTO;
        return o->format != CF_AUTO || strcmp(v, "auto") == 0;
    }
    o->transport = v;
    return strcmp(v, "shm") == 0 || strcmp(v, "tcp") == 0 || strcmp(v, "verbs") == 0;
}

static bool set(const struct row *t, const char *v, struct cf_options *o) {
    char *at = (char *)o + t->at;
    int64_t number = 0;
    switch (t->kind) {
    case WORD:
        return set_word(t, v, o);
    case TEXT:
        *(const char **)(void *)at = v;
        return *v != '\0';
    case FLAG:
        *(bool *)at = true;
        return true;
    case INT:
    case NUMBER:
        break;
    }
    if (!parse_number(v, &number) || number < t->low || number > t->high) {
        return false;
    }
    if (t->kind == INT) {
        *(int *)(void *)at = (int)number;
    } else {
        o->seed = (uint64_t)number;
        o->has_seed = true;
    }
    return true;
}

static int bad_value(const struct row *t, const char *v) {
    if (t->kind == INT) {
        return cf_complain("--%s %s: allowed is a whole number from %lld to %lld", t->name, v,
                           (long long)t->low, (long long)t->high);
    }
    return cf_complain("--%s %s: allowed is %s", t->name, v,
                       t->kind == TEXT     ? "a value that is not empty"
                       : t->kind == NUMBER ? "a whole number of at most 63 bits"
                                           : t->help);
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
        if (arg[1] != '\0' && arg[1] == table[i].letter) {
            *value = arg[2] ? arg + 2 : NULL;
            return &table[i];
        }
    }
    return NULL;
}

static int set_host(struct cf_options *o, const char *name) {
    if (o->nhosts == CF_HOSTS) {
        return cf_complain("at most %d hosts are allowed", CF_HOSTS);
    }
    if (name[0] == '\0' || strpbrk(name, " '\"\\$`;&|<>") != NULL) {
        return cf_complain("\"%s\" is no name of a host", name);
    }
    o->hosts[o->nhosts++] = name;
    return -1;
}

static int check_together(const struct cf_options *o) {
    struct rdi_options options;
    if (o->nhosts == 1) {
        return cf_complain("one host was given: name two or more (a host may be named twice), or "
                           "none to check this one");
    }
    if (o->nhosts > 0 && o->ranks > 0) {
        return cf_complain("--ranks and hosts were given: there is one rank for each name of a "
                           "host; name a host several times for more");
    }
    if ((o->break_cmd == NULL) != (o->heal_cmd == NULL)) {
        return cf_complain("--break and --heal belong together; give both");
    }
    if (o->device != NULL && strcmp(o->transport, "verbs") != 0) {
        return cf_complain("--device %s: transport %s has no devices; add --transport verbs",
                           o->device, o->transport);
    }
    if (cf_load_options(o, NULL, &options) != RONDO_OK) {
        return cf_complain("%s", rondo_last_error());
    }
    return -1;
}

rondo_status cf_load_options(const struct cf_options *o, const char *more,
                             struct rdi_options *out) {
    char text[2048];
    // What a check needs comes last: the later value of an option counts.
    int n = snprintf(text, sizeof text, "transport=%s%s%s%s%s%s%s", o->transport,
                     o->device != NULL ? ",device=" : "", o->device != NULL ? o->device : "",
                     o->options != NULL ? "," : "", o->options != NULL ? o->options : "",
                     more != NULL ? "," : "", more != NULL ? more : "");
    if (n < 0 || (size_t)n >= sizeof text) {
        return rdi_fail(RONDO_ERR_INVALID, "the options are longer than %zu bytes", sizeof text);
    }
    return rdi_options_load(out, text, getenv);
}

// One option, and its value if that is the next argument. -1 or an exit code.
static int take_option(struct cf_options *o, int *i) {
    const char *a = o->argv[*i], *v;
    const struct row *t = find(a, &v);
    if (t == NULL) {
        return cf_complain("there is no option \"%s\"; --help lists them", a);
    }
    if (t->kind == FLAG && v != NULL) {
        return cf_complain("--%s takes no value", t->name);
    }
    if (t->kind != FLAG && v == NULL && ++*i == o->argc) {
        return cf_complain("--%s needs a value: %s", t->name, t->value);
    }
    v = t->kind == FLAG ? "" : v != NULL ? v : o->argv[*i];
    return set(t, v, o) ? -1 : bad_value(t, v);
}

int cf_parse(int argc, char **argv, struct cf_options *o) {
    *o = (struct cf_options){.transport = "tcp", .repeat = 1, .argc = argc, .argv = argv};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "-h") == 0 || strcmp(a, "--help") == 0) {
            help();
            return 0;
        }
        if (strcmp(a, "--version") == 0) {
            printf("rondo-conform %s\n", rondo_version());
            return 0;
        }
        int code = a[0] != '-' ? set_host(o, a) : take_option(o, &i);
        if (code >= 0) {
            return code;
        }
    }
    return check_together(o);
}
