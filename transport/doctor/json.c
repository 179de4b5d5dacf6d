// SPDX-License-Identifier: MIT
// The report for programs. Ids, sections and levels are stable; the words are not.
#include "transport/doctor/doctor.h"
#include "transport/text.h"

#include <string.h>

static void string(FILE *f, const char *key, const char *text) {
    fprintf(f, "\"%s\":", key);
    if (text == NULL) {
        fputs("null", f);
        return;
    }
    fputc('"', f);
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        size_t n = rdi_utf8_character(s);
        if (n == 0) {
            fputs("\\ufffd", f);
            n = 1;
        } else if (*s < 0x20 || *s == 0x7f) {
            fprintf(f, "\\u%04x", *s);
        } else {
            fputs(*s == '"' || *s == '\\' ? "\\" : "", f);
            fwrite(s, 1, n, f);
        }
        s += n;
    }
    fputc('"', f);
}

static void finding(FILE *f, const struct dr_finding *x) {
    fputc('{', f);
    string(f, "id", x->check->id);
    fputc(',', f);
    string(f, "section", x->check->section);
    fputc(',', f);
    string(f, "level", dr_level_name(x->level));
    fputc(',', f);
    string(f, "subject", x->subject);
    fputc(',', f);
    string(f, "what", x->what);
    fputc(',', f);
    string(f, "consequence", x->consequence);
    fputc(',', f);
    string(f, "remedy", x->remedy);
    fputc('}', f);
}

void dr_report_json(const struct doctor *d, FILE *f) {
    fputs("{\"format\":1,", f);
    string(f, "rondo_version", rondo_version());
    fputc(',', f);
    string(f, "host", d->host);
    fputc(',', f);
    string(f, "transport", d->options.str[RDI_OPT_TRANSPORT]);
    fprintf(f, ",\"ranks\":%d,\"ranks_per_node\":%d,\n\"findings\":[", d->ranks, d->per_node);
    for (size_t i = 0; i < d->n; i++) {
        fputs(i > 0 ? ",\n" : "\n", f);
        finding(f, &d->findings[i]);
    }
    fputs("],\n\"count\":{", f);
    for (int l = 0; l < DR_LEVELS; l++) {
        fprintf(f, "%s\"%s\":%zu", l > 0 ? "," : "", dr_level_name((enum dr_level)l), d->count[l]);
    }
    fprintf(f, "},\n\"can_run\":%s}\n", d->count[DR_ERROR] == 0 ? "true" : "false");
}
