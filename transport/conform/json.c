// SPDX-License-Identifier: MIT
// The results as one JSON document, written as they come.
#include "transport/conform/conform.h"

#include <stdio.h>

static void print_string(FILE *f, const char *text) {
    fputc('"', f);
    for (; *text != '\0'; text++) {
        unsigned char b = (unsigned char)*text;
        if (b == '"' || b == '\\') {
            fprintf(f, "\\%c", b);
        } else if (b < 0x20 || b >= 0x7f) {
            fprintf(f, "\\u%04x", b);
        } else {
            fputc(b, f);
        }
    }
    fputc('"', f);
}

static void print_member(FILE *f, const char *name, const char *value) {
    fprintf(f, "\"%s\": ", name);
    print_string(f, value);
}

void cf_json_begin(struct cf_report *r) {
    FILE *f = r->json;
    const struct cf_options *o = r->options;
    fprintf(f, "{\"program\": \"rondo-conform\", ");
    print_member(f, "version", rondo_version());
    fprintf(f, ",\n \"arguments\": [");
    for (int i = 1; i < o->argc; i++) {
        fprintf(f, "%s", i > 1 ? ", " : "");
        print_string(f, o->argv[i]);
    }
    fprintf(f, "],\n ");
    print_member(f, "transport", o->transport);
    fprintf(f, ", \"seed\": %llu, \"hosts\": [", (unsigned long long)r->seed);
    for (int i = 0; i < r->nranks; i++) {
        fprintf(f, "%s", i > 0 ? ", " : "");
        print_string(f, r->hosts[i]);
    }
    fprintf(f, "],\n \"checks\": [");
}

void cf_json_result(struct cf_report *r, const struct cf_result *result) {
    static const char *const words[] = {"pass", "fail", "skip", "absent"};
    FILE *f = r->json;
    fprintf(f, "%s\n  {", r->seq > 1 ? "," : "");
    print_member(f, "id", result->check->id);
    fprintf(f, ", ");
    print_member(f, "title", result->check->title);
    fprintf(f, ", ");
    print_member(f, "rule", result->check->rule);
    fprintf(f, ",\n   \"round\": %d, ", result->round);
    print_member(f, "result", words[result->verdict]);
    fprintf(f, ", \"seconds\": %.6f, \"ranks\": [", result->seconds);
    for (int i = 0; i < r->nranks; i++) {
        const struct cf_outcome *o = &result->ranks[i];
        fprintf(f, "%s{", i > 0 ? ", " : "");
        print_member(f, "result", words[o->verdict]);
        fprintf(f, ", \"seconds\": %.6f, ", o->seconds);
        print_member(f, "text", o->text);
        fprintf(f, "}");
    }
    fprintf(f, "]}");
    fflush(f); // whatever happens next
}

bool cf_json_end(struct cf_report *r, const char *why) {
    FILE *f = r->json;
    fprintf(f, "],\n \"passed\": %d, \"failed\": %d, \"skipped\": %d", r->passed, r->failed,
            r->skipped);
    if (why != NULL) {
        fprintf(f, ",\n ");
        print_member(f, "ended_early", why);
    }
    fprintf(f, "}\n");
    bool ok = !ferror(f);
    r->json = NULL;
    return fclose(f) == 0 && ok;
}
