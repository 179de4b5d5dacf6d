// SPDX-License-Identifier: MIT
// The report for people: findings below their section's name, a verdict at the end.
#include "transport/doctor/doctor.h"

#include <ctype.h>
#include <string.h>

#define WIDTH 104

// Words from column `left` on, broken at spaces.
static void wrap(FILE *f, const char *text, int left, int at) {
    while (*text != '\0') {
        int n = (int)strcspn(text, " ");
        if (at > left && at + 1 + n > WIDTH) {
            fprintf(f, "\n%*s", left, "");
            at = left;
        } else if (at > left) {
            fputc(' ', f);
            at++;
        }
        fprintf(f, "%.*s", n, text);
        at += n;
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', f);
}

static void print_finding(FILE *f, const struct dr_finding *x, bool colour) {
    static const char *const colours[DR_LEVELS] = {"32", "36", "33", "1;31"};
    const char *level = dr_level_name(x->level);
    if (colour) {
        fprintf(f, "  \033[%sm%-7s\033[0m  ", colours[x->level], level);
    } else {
        fprintf(f, "  %-7s  ", level);
    }
    const char *what = x->what != NULL ? x->what : "(no memory for the text)";
    if (x->subject != NULL) {
        fprintf(f, "%s: ", x->subject);
        wrap(f, what, 11, 11);
    } else {
        wrap(f, what, 11, 11);
    }
    if (x->consequence != NULL) {
        fprintf(f, "%*smeans: ", 11, "");
        wrap(f, x->consequence, 18, 18);
    }
    if (x->remedy != NULL) {
        fprintf(f, "%*sremedy: ", 11, "");
        wrap(f, x->remedy, 19, 19);
    }
}

static void print_verdict(const struct doctor *d, FILE *f, bool colour) {
    size_t errors = d->count[DR_ERROR], warnings = d->count[DR_WARNING];
    const char *on = "", *off = colour ? "\033[0m" : "";
    if (colour) {
        on = errors > 0 ? "\033[1;31m" : warnings > 0 ? "\033[33m" : "\033[32m";
    }
    fprintf(f, "\n%sverdict: a job %s (%zu error%s, %zu warning%s)%s\n", on,
            errors > 0 ? "cannot run" : "can run", errors, errors == 1 ? "" : "s", warnings,
            warnings == 1 ? "" : "s", off);
}

void dr_report_text(const struct doctor *d, FILE *f, bool colour) {
    fprintf(f, "rondo-doctor %s on %s: what a job of %d rank%s, %d of them here, will meet\n",
            rondo_version(), d->host, d->ranks, d->ranks == 1 ? "" : "s", d->per_node);
    const char *section = "";
    for (size_t i = 0; i < d->n; i++) {
        const struct dr_finding *x = &d->findings[i];
        if (strcmp(section, x->check->section) != 0) {
            section = x->check->section;
            fprintf(f, "\n%s%s%s\n", colour ? "\033[1m" : "", section, colour ? "\033[0m" : "");
        }
        print_finding(f, x, colour);
    }
    print_verdict(d, f, colour);
}
