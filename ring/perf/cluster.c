// SPDX-License-Identifier: MIT
// The description of a cluster: one JSON object, every key of it checked.
#include "ring/perf/cluster.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct key {
    const char *name;
    enum { WHOLE, NUMBER, NAME } kind;
    size_t at;
    double min, max, standard; // standard < 0: the key has to be there
};
#define AT(f) offsetof(struct cluster, f)
static const struct key keys[] = {
    {"name", NAME, AT(name), 0, 0, 0},
    {"hosts", WHOLE, AT(hosts), 1, CLUSTER_RANKS, -1},
    {"ranks_per_host", WHOLE, AT(ranks_per_host), 1, 256, -1},
    {"cores_per_host", WHOLE, AT(cores_per_host), 1, 256, 64},
    {"nics_per_host", WHOLE, AT(nics_per_host), 1, 16, 1},
    {"nic_gbps", NUMBER, AT(nic_gbps), 0.001, 10000, -1},
    {"nic_us", NUMBER, AT(nic_us), 0.01, 1e6, -1},
    {"inner_gbps", NUMBER, AT(inner_gbps), 0.001, 100000, -1},
    {"inner_us", NUMBER, AT(inner_us), 0.001, 1e6, -1},
    {"touch_gbps", NUMBER, AT(touch_gbps), 0.001, 100000, 10},
    {"message_us", NUMBER, AT(message_us), 0, 1e6, 0.5},
    {"switch_us", NUMBER, AT(switch_us), 0, 1e6, 2},
    {"jitter_us", NUMBER, AT(jitter_us), 0, 1e6, 0},
    {"seed", WHOLE, AT(seed), 0, 9007199254740992.0, 1},
};
#define KEYS (sizeof keys / sizeof *keys)

static bool fits(const struct key *k, const json_t *v) {
    if (k->kind == NAME) {
        return json_is_string(v) &&
               strlen(json_string_value(v)) < sizeof((struct cluster *)0)->name;
    }
    double n = json_number_value(v);
    return (k->kind == WHOLE ? json_is_integer(v) : json_is_number(v)) && n >= k->min &&
           n <= k->max;
}

static void set(const struct key *k, const json_t *v, struct cluster *out) {
    char *at = (char *)out + k->at;
    double n = v ? json_number_value(v) : k->standard;
    if (k->kind == NAME) {
        snprintf(at, sizeof out->name, "%s", v ? json_string_value(v) : "");
    } else if (k->kind == NUMBER) {
        memcpy(at, &n, sizeof n);
    } else if (k->at == AT(seed)) {
        out->seed = (uint64_t)n;
    } else {
        int whole = (int)n;
        memcpy(at, &whole, sizeof whole);
    }
}

// The line on which a key first stands, as people look for it.
static int line_of(const char *text, size_t len, const char *key) {
    size_t n = strlen(key);
    int line = 1;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '"' && i + n + 1 < len && memcmp(text + i + 1, key, n) == 0 &&
            text[i + n + 1] == '"') {
            return line;
        }
        line += text[i] == '\n';
    }
    return 1;
}

static void list_keys(char *buf, size_t cap) {
    size_t n = 0;
    for (size_t i = 0; i < KEYS && n < cap; i++) {
        int got = snprintf(buf + n, cap - n, "%s%s", i ? ", " : "", keys[i].name);
        n += got > 0 ? (size_t)got : 0;
    }
}

static bool check(const json_t *root, const char *text, size_t len, struct cluster *out, char *why,
                  size_t cap) {
    char names[256];
    for (size_t i = 0; i < KEYS; i++) {
        const struct key *k = &keys[i];
        const json_t *v = json_object_get(root, k->name);
        if (!v && k->standard < 0) {
            snprintf(why, cap, "the key \"%s\" is missing: a %s from %g to %g", k->name,
                     k->kind == WHOLE ? "whole number" : "number", k->min, k->max);
            return false;
        }
        if (v && !fits(k, v)) {
            snprintf(why, cap, "line %d: \"%s\": allowed is %s", line_of(text, len, k->name),
                     k->name, k->kind == NAME ? "a text of up to 63 bytes" : "");
            size_t n = strlen(why);
            if (k->kind != NAME) {
                snprintf(why + n, cap - n, "a %s from %g to %g",
                         k->kind == WHOLE ? "whole number" : "number", k->min, k->max);
            }
            return false;
        }
        set(k, v, out);
    }
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)root, name, v) {
        size_t i = 0;
        while (i < KEYS && strcmp(keys[i].name, name) != 0) {
            i++;
        }
        if (i == KEYS) {
            list_keys(names, sizeof names);
            snprintf(why, cap, "line %d: there is no key \"%.40s\"; allowed are %s",
                     line_of(text, len, name), name, names);
            return false;
        }
    }
    if ((int64_t)out->hosts * out->ranks_per_host > CLUSTER_RANKS) {
        snprintf(why, cap, "line %d: \"hosts\": %d hosts of %d ranks are %lld ranks; at most %d",
                 line_of(text, len, "hosts"), out->hosts, out->ranks_per_host,
                 (long long)out->hosts * out->ranks_per_host, CLUSTER_RANKS);
        return false;
    }
    return true;
}

bool cluster_read(const char *text, size_t len, struct cluster *out, char *why, size_t cap) {
    json_error_t e;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
    if (!root) {
        snprintf(why, cap, "line %d, column %d: %s", e.line, e.column, e.text);
        return false;
    }
    memset(out, 0, sizeof *out);
    bool ok = json_is_object(root);
    if (!ok) {
        snprintf(why, cap, "line 1: a cluster is described by one object, { ... }");
    }
    ok = ok && check(root, text, len, out, why, cap);
    json_decref(root);
    return ok;
}
