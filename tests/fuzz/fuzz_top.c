// SPDX-License-Identifier: MIT
// What rondo-top reads: the state of ranks, from files or from processes that listen on a socket of that name. The
// table for people has no commands for their terminal, and the one for programs is JSON, whatever the ranks say.
//
// The input is the texts of up to three ranks, with a NUL between them.
#include "fuzz.h"
#include "ring/top/top.h"

#include <jansson.h>

#define RANKS 3

// What is written: one stream for all inputs, as a stream's own buffers take longer to make than to fill.
static char *text;
static size_t text_len, text_room;

static ssize_t keep(void *self, const char *bytes, size_t n) {
    (void)self;
    if (text_len + n + 1 > text_room) {
        text_room = 2 * (text_len + n + 1);
        text = realloc(text, text_room);
        MUST(text != NULL);
    }
    memcpy(text + text_len, bytes, n);
    text_len += n;
    text[text_len] = '\0';
    return (ssize_t)n;
}

static FILE *begin_text(void) {
    static FILE *f;
    if (f == NULL) {
        f = fopencookie(NULL, "w", (cookie_io_functions_t){.write = keep});
    }
    text_len = 0;
    MUST(f != NULL && keep(NULL, "", 0) == 0);
    return f;
}

// What jansson takes while it reads what the product wrote: gone at once when it has been looked at.
static _Alignas(16) uint8_t arena[1 << 20];
static size_t arena_used;

static void *arena_take(size_t n) {
    void *block = arena + arena_used;
    arena_used += (n + 15) / 16 * 16;
    return arena_used <= sizeof arena ? block : NULL;
}

static void arena_give(void *block) { (void)block; }

static void check_table(const struct top_job *job, const struct top_verdict *v, int width) {
    FILE *f = begin_text();
    top_show(f, job, v, width, false);
    MUST(fflush(f) == 0 && strlen(text) == text_len);
    for (char *c = text; *c != '\0'; c++) {
        MUST((unsigned char)c[0] != 0xc2 || (unsigned char)c[1] >= 0xa0);
        *c = *c == '\n' ? ' ' : *c;
    }
    MUST(is_clean(text));
}

static void check_json(const struct top_job *job, const struct top_verdict *v) {
    json_malloc_t take;
    json_free_t give;
    FILE *f = begin_text();
    MUST(top_report(f, job, v) && fflush(f) == 0);
    json_get_alloc_funcs(&take, &give);
    json_set_alloc_funcs(arena_take, arena_give);
    arena_used = 0;
    json_t *root = json_loadb(text, text_len, JSON_REJECT_DUPLICATES, NULL);
    MUST(json_array_size(json_object_get(root, "ranks")) == job->nranks);
    json_decref(root);
    json_set_alloc_funcs(take, give);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct top_job job = {.size = 0};
    struct top_verdict v;
    size_t at = 0;
    for (int i = 0; i < RANKS && at <= size; i++) {
        const uint8_t *end = at < size ? memchr(data + at, 0, size - at) : NULL;
        size_t n = end != NULL ? (size_t)(end - data) - at : size - at;
        char why[200] = "", *copy = own_copy(data + at, n);
        bool ok = top_parse(&job, copy, n, why, sizeof why);
        MUST(ok || (why[0] != '\0' && memchr(why, 0, sizeof why) != NULL));
        free(copy);
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
