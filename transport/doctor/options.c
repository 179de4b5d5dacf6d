// SPDX-License-Identifier: MIT
// rondo-doctor's options: one table for parsing, checks and --help.
#include "transport/doctor/doctor.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { INT, TEXT, FLAG };

struct row {
    const char *name, *value; // no value: a flag
    enum kind kind;
    size_t at;
    long min, max;
    const char *standard, *help; // no help: not shown
};
#define AT(f) offsetof(struct dr_request, f)

static const struct row table[] = {
    {"ranks", "N", INT, AT(ranks), 1, 1 << 20, "what the launcher says, else 2",
     "ranks that the job will have"},
    {"ranks-per-node", "N", INT, AT(per_node), 1, 1 << 16, "all", "how many of them on this host"},
    {"transport", "WIRE", TEXT, AT(transport), 0, 0, "auto",
     "auto shm tcp verbs: what the job needs to have"},
    {"options", "LIST", TEXT, AT(options), 0, 0, "",
     "options of the library, name=value,...; see rondo(7)"},
    {"only", "LIST", TEXT, AT(only), 0, 0, "all", "sections or ids of checks, joined by ','"},
    {"list", NULL, FLAG, AT(list), 0, 0, "", "lists the checks"},
    {"json", "FILE", TEXT, AT(json), 0, 0, "", "writes the report as JSON; - is stdout"},
    {"peer", "HOST[:PORT]", TEXT, AT(peer), 0, 0, "",
     "tests the way to another host and back, where --listen waits"},
    {"listen", NULL, FLAG, AT(listen), 0, 0, "", "waits for another host's --peer"},
    {"port", "N", INT, AT(port), 1, 65535, "29510", "port of --listen and --peer"},
    {"timeout", "SECONDS", INT, AT(timeout_s), 1, 86400, "600; 5",
     "how long --listen waits; --peer for each answer"},
    // For tests: where /proc, /sys and /dev/shm are looked for.
    {"root", "DIR", TEXT, AT(root), 0, 0, "", NULL},
};
#define ROWS (sizeof table / sizeof *table)

int dr_fail(const char *fmt, ...) {
    fputs("rondo-doctor: ", stderr);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return DR_USAGE;
}

static void help(void) {
    printf("usage: rondo-doctor [options]\n"
           "       rondo-doctor --listen           on one host, and then\n"
           "       rondo-doctor --peer HOST        on another\n\n"
           "Tells what a job will meet on this host before it starts.\n\n"
           "options (default in brackets):\n");
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *t = &table[i];
        char left[64];
        if (t->help == NULL) {
            continue;
        }
        snprintf(left, sizeof left, "--%s %s", t->name, t->value != NULL ? t->value : "");
        printf("  %-22s %s%s%s%s\n", left, t->help, *t->standard ? " [" : "", t->standard,
               *t->standard ? "]" : "");
    }
    printf("  %-22s this text\n  %-22s version of Rondo\n\n"
           "exit code: 0 a job can run, 1 it cannot, 2 an option that cannot be\n",
           "-h, --help", "--version");
}

static const struct row *find(const char *arg, const char **value) {
    for (size_t i = 0; i < ROWS && strncmp(arg, "--", 2) == 0; i++) {
        size_t n = strlen(table[i].name);
        if (strncmp(arg + 2, table[i].name, n) == 0 && (arg[2 + n] == '\0' || arg[2 + n] == '=')) {
            *value = arg[2 + n] == '=' ? arg + 3 + n : NULL;
            return &table[i];
        }
    }
    return NULL;
}

static bool parse_int(const char *text, long min, long max, int *out) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    *out = (int)v;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && v >= min && v <= max;
}

static int set(const struct row *t, const char *v, struct dr_request *ask) {
    char *at = (char *)ask + t->at;
    if (t->kind == FLAG) {
        *(bool *)at = true;
        return v == NULL ? -1 : dr_fail("--%s takes no value", t->name);
    }
    if (v == NULL) {
        return dr_fail("--%s needs a value: %s", t->name, t->value);
    }
    if (t->kind == TEXT) {
        *(const char **)(void *)at = v;
        return v[0] != '\0' ? -1 : dr_fail("--%s needs a value that is not empty", t->name);
    }
    return parse_int(v, t->min, t->max, (int *)(void *)at)
               ? -1
               : dr_fail("--%s %s: allowed is a whole number from %ld to %ld", t->name, v, t->min,
                         t->max);
}

bool dr_split_peer(const char *text, char *host, size_t cap, int *port) {
    const char *end = text + strlen(text), *number = NULL;
    if (text[0] == '[') {
        text++;
        end = strchr(text, ']');
        if (end == NULL || (end[1] != '\0' && end[1] != ':')) {
            return false;
        }
        number = end[1] == ':' ? end + 2 : NULL;
    } else if (strchr(text, ':') != NULL && strchr(text, ':') == strrchr(text, ':')) {
        end = strchr(text, ':');
        number = end + 1;
    }
    size_t n = (size_t)(end - text);
    if (n == 0 || n >= cap) {
        return false;
    }
    memcpy(host, text, n);
    host[n] = '\0';
    return number == NULL || parse_int(number, 1, 65535, port);
}

// Whether an item of --only is a section or a check.
static bool known(const char *item, size_t n) {
    for (size_t i = 0; i < dr_ncheck; i++) {
        const struct dr_check *c = &dr_checks[i];
        if ((strlen(c->section) == n && memcmp(c->section, item, n) == 0) ||
            (strlen(c->id) == n && memcmp(c->id, item, n) == 0)) {
            return true;
        }
    }
    return n == 4 && memcmp(item, "peer", 4) == 0;
}

static int check_together(const struct dr_request *ask) {
    char host[256];
    int port;
    if (ask->peer != NULL && ask->listen) {
        return dr_fail("--listen on one host, --peer on the other: not both");
    }
    if (ask->peer != NULL && !dr_split_peer(ask->peer, host, sizeof host, &port)) {
        return dr_fail("--peer %s: allowed is HOST, HOST:PORT or [ADDRESS]:PORT", ask->peer);
    }
    if (ask->ranks > 0 && ask->per_node > ask->ranks) {
        return dr_fail("--ranks-per-node %d is above --ranks %d", ask->per_node, ask->ranks);
    }
    for (const char *item = ask->only; item != NULL;) {
        size_t n = strcspn(item, ",");
        if (!known(item, n)) {
            return dr_fail("--only %.*s: no section or check is called so; --list shows them",
                           (int)n, item);
        }
        item = item[n] == ',' ? item + n + 1 : NULL;
    }
    return -1;
}

int dr_parse(int argc, char **argv, struct dr_request *ask) {
    *ask = (struct dr_request){.ranks = 0};
    for (int i = 1; i < argc; i++) {
        const char *value;
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            help();
            return DR_CAN_RUN;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("rondo-doctor %s\n", rondo_version());
            return DR_CAN_RUN;
        }
        const struct row *t = find(argv[i], &value);
        if (t == NULL) {
            return dr_fail("there is no option \"%s\"; --help lists them", argv[i]);
        }
        if (t->kind != FLAG && value == NULL && i + 1 < argc) {
            value = argv[++i];
        }
        int code = set(t, value, ask);
        if (code >= 0) {
            return code;
        }
    }
    return check_together(ask);
}
