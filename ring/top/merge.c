// SPDX-License-Identifier: MIT
// Traces of several ranks in one file. Ranks of one machine share a clock. Those of others are shifted by the
// difference of the machines' wall clocks, so arrows between hosts are as good as their NTP.
//
// The files are read line by line, as the library writes an event a line: they may be large, and that of a process
// that was killed has no end.
#include "ring/top/top.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct merge {
    FILE *out;
    bool begun;
    char boot[64]; // of the first file
    double offset; // us, its wall clock minus its own
};

// The event of a line, NULL: none. False in *ok: something else.
static json_t *event_of(char *line, bool *ok) {
    size_t n = strlen(line);
    while (n > 0 && strchr("\n\r ,", line[n - 1])) {
        line[--n] = '\0';
    }
    while (*line == ' ' || *line == ',') {
        line++;
    }
    *ok = true;
    if (*line == '\0' || strcmp(line, "[") == 0 || strcmp(line, "]") == 0) {
        return NULL;
    }
    json_t *o = json_loads(line, 0, NULL);
    *ok = json_is_object(o);
    if (!*ok) {
        json_decref(o);
        o = NULL;
    }
    return o;
}

static void take_clock(struct merge *m, const json_t *e, double *shift) {
    const json_t *args = json_object_get(e, "args");
    const char *boot = json_string_value(json_object_get(args, "boot"));
    double offset = (double)json_integer_value(json_object_get(args, "unix_minus_monotonic_ns")) /
                    1e3;
    if (!boot) {
        return;
    }
    if (!m->boot[0]) {
        snprintf(m->boot, sizeof m->boot, "%.60s", boot);
        m->offset = offset;
    }
    *shift = strcmp(m->boot, boot) == 0 ? 0 : offset - m->offset;
}

static bool put_event(struct merge *m, json_t *e, double *shift) {
    const char *name = json_string_value(json_object_get(e, "name"));
    json_t *ts = json_object_get(e, "ts");
    if (name && strcmp(name, "rondo_clock") == 0) {
        take_clock(m, e, shift);
    } else if (ts && *shift != 0) {
        json_object_set_new(e, "ts", json_real(json_number_value(ts) + *shift));
    }
    bool ok = fputs(m->begun ? ",\n" : "[\n", m->out) >= 0 &&
              json_dumpf(e, m->out, JSON_COMPACT | JSON_REAL_PRECISION(16)) == 0;
    m->begun = true;
    return ok;
}

static bool add_file(struct merge *m, const char *path, char *why, size_t cap) {
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t room = 0, number = 0, events = 0;
    double shift = 0;
    bool ok = f != NULL;
    if (!ok) {
        snprintf(why, cap, "cannot read %.200s: %s", path, strerror(errno));
    }
    while (ok && getline(&line, &room, f) > 0) {
        bool is_event;
        json_t *e = event_of(line, &is_event);
        number++;
        if (e) {
            events++;
            ok = put_event(m, e, &shift);
            if (!ok) {
                snprintf(why, cap, "cannot write: %s", strerror(errno));
            }
            json_decref(e);
        } else if (!is_event && getc(f) != EOF) { // a last line may be cut
            snprintf(why, cap, "%.200s, line %zu: not an event of a trace by Rondo", path, number);
            ok = false;
        }
    }
    if (ok && events == 0) {
        snprintf(why, cap, "%.200s has no events", path);
        ok = false;
    }
    free(line);
    if (f) {
        fclose(f);
    }
    return ok;
}

bool top_merge(const char *out, char *const *files, size_t n, char *why, size_t cap) {
    bool to_stdout = strcmp(out, "-") == 0;
    struct merge m = {.out = to_stdout ? stdout : fopen(out, "we")};
    if (!m.out) {
        snprintf(why, cap, "cannot write %.200s: %s", out, strerror(errno));
        return false;
    }
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        ok = add_file(&m, files[i], why, cap);
    }
    if (ok && (fputs("\n]\n", m.out) < 0 || fflush(m.out) != 0)) {
        snprintf(why, cap, "cannot write %.200s: %s", out, strerror(errno));
        ok = false;
    }
    if (!to_stdout && fclose(m.out) != 0 && ok) {
        snprintf(why, cap, "cannot write %.200s: %s", out, strerror(errno));
        ok = false;
    }
    if (!ok && !to_stdout) {
        (void)unlink(out);
    }
    return ok;
}
