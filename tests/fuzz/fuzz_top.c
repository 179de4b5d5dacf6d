// SPDX-License-Identifier: MIT
// What rondo-top reads: the state of ranks, from files or from processes that listen on a socket of that name. The
// table for people has no commands for their terminal, and the one for programs is JSON, whatever the ranks say.
//
// The input is the texts of up to three ranks, with a NUL between them.
#include "fuzz.h"
#include "ring/top/top.h"

#include <jansson.h>

#define RANKS 3

static void check_table(const struct top_job *job, const struct top_verdict *v, int width) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(f != NULL);
    top_show(f, job, v, width, false);
    MUST(fclose(f) == 0 && strlen(text) == n);
    for (char *c = text; *c != '\0'; c++) {
        MUST((unsigned char)c[0] != 0xc2 || (unsigned char)c[1] >= 0xa0);
        *c = *c == '\n' ? ' ' : *c;
    }
    MUST(is_clean(text));
    free(text);
}

static void check_json(const struct top_job *job, const struct top_verdict *v) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    MUST(f != NULL && top_report(f, job, v));
    MUST(fclose(f) == 0);
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    MUST(json_array_size(json_object_get(root, "ranks")) == job->nranks);
    json_decref(root);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct top_job job = {.size = 0};
    struct top_verdict v;
    size_t at = 0;
    for (int i = 0; i < RANKS && at <= size; i++) {
        const uint8_t *end = at < size ? memchr(data + at, 0, size - at) : NULL;
        size_t n = end != NULL ? (size_t)(end - data) - at : size - at;
        char why[200] = "", *text = own_copy(data + at, n);
        bool ok = top_parse(&job, text, n, why, sizeof why);
        MUST(ok || (why[0] != '\0' && memchr(why, 0, sizeof why) != NULL));
        free(text);
        at += n + 1;
    }
    if (job.nranks > 0) {
        MUST(job.size <= TOP_RANKS);
        for (int i = 0; i < 2; i++) {
            top_analyse(&job, i == 0, &v);
            check_table(&job, &v, i == 0 ? 200 : 40);
            check_json(&job, &v);
        }
    }
    top_job_free(&job);
    return 0;
}
