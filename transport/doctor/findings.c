// SPDX-License-Identifier: MIT
// What the checks found, in the order in which they ran.
#include "transport/doctor/doctor.h"

#include <stdlib.h>
#include <string.h>

const char *dr_level_name(enum dr_level level) {
    static const char *const names[DR_LEVELS] = {"ok", "info", "warning", "error"};
    return names[level];
}

static char *format(struct doctor *d, const char *fmt, va_list ap) {
    char *text;
    if (vasprintf(&text, fmt, ap) < 0) {
        d->no_memory = true;
        return NULL;
    }
    // A finding is one line, whatever a file or a peer put into it.
    for (char *c = text; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = ' ';
        }
    }
    return text;
}

void dr_add(struct doctor *d, enum dr_level level, const char *subject, const char *fmt, ...) {
    if (d->n == d->cap) {
        size_t cap = d->cap > 0 ? 2 * d->cap : 64;
        struct dr_finding *more = reallocarray(d->findings, cap, sizeof *more);
        if (more == NULL) {
            d->no_memory = true;
            return;
        }
        d->findings = more;
        d->cap = cap;
    }
    struct dr_finding *f = &d->findings[d->n++];
    *f = (struct dr_finding){.check = d->check, .level = level};
    d->count[level]++;
    va_list ap;
    va_start(ap, fmt);
    f->what = format(d, fmt, ap);
    va_end(ap);
    if (subject != NULL) {
        f->subject = strdup(subject);
        d->no_memory = d->no_memory || f->subject == NULL;
    }
}

void dr_means(struct doctor *d, const char *fmt, ...) {
    if (d->n > 0 && d->findings[d->n - 1].consequence == NULL) {
        va_list ap;
        va_start(ap, fmt);
        d->findings[d->n - 1].consequence = format(d, fmt, ap);
        va_end(ap);
    }
}

void dr_remedy(struct doctor *d, const char *fmt, ...) {
    if (d->n > 0 && d->findings[d->n - 1].remedy == NULL) {
        va_list ap;
        va_start(ap, fmt);
        d->findings[d->n - 1].remedy = format(d, fmt, ap);
        va_end(ap);
    }
}

void dr_free(struct doctor *d) {
    for (size_t i = 0; i < d->n; i++) {
        free(d->findings[i].subject);
        free(d->findings[i].what);
        free(d->findings[i].consequence);
        free(d->findings[i].remedy);
    }
    free(d->findings);
    free(d->options_error);
}

bool dr_insists(const struct doctor *d, const char *wire) {
    return strcmp(d->options.str[RDI_OPT_TRANSPORT], wire) == 0;
}

bool dr_wants(const struct doctor *d, const char *wire) {
    return dr_insists(d, wire) || dr_insists(d, "auto");
}
