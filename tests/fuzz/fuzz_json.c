// SPDX-License-Identifier: MIT
// The library's JSON (dumps, traces) and the reports of rondo-doctor and rondo-perf, with names and texts of any
// bytes: what is written is always JSON, and a text that is UTF-8 reads back as it was.
//
// The input is a list of steps, each a byte and its arguments; texts are a length and as many bytes.
#include "fuzz.h"
#include "ring/perf/perf.h"
#include "transport/doctor/doctor.h"
#include "transport/text.h"

#include <jansson.h>

#define DEPTH 16
#define STEPS 100

static json_t *must_read(const char *text, size_t n) {
    json_t *root = json_loadb(text, n, JSON_ALLOW_NUL, NULL);
    MUST(root != NULL);
    return root;
}

static char *take_word(struct input *in) {
    size_t n;
    const uint8_t *at = take_bytes(in, take_byte(in), &n);
    char *word = malloc(n + 1);
    MUST(word != NULL);
    memcpy(word, at, n);
    word[n] = '\0';
    return word;
}

static bool is_utf8(const char *s) {
    for (size_t n; *s != '\0'; s += n) {
        n = rdi_utf8_character((const unsigned char *)s);
        if (n == 0) {
            return false;
        }
    }
    return true;
}

// ---- The library's -------------------------------------------------------------------------------

static void put(struct rdi_text *t, uint8_t step, const char *key, struct input *in) {
    uint64_t v = take_number(in, 8);
    switch (step & 7) {
    case 0:
        rdi_json_u64(t, key, v);
        break;
    case 1:
        rdi_json_int(t, key, (int64_t)v);
        break;
    case 2:
        rdi_json_bool(t, key, v & 1);
        break;
    case 3:
        rdi_json_hex(t, key, v);
        break;
    case 4:
        rdi_json_string(t, key, NULL);
        break;
    default:
        rdi_json_line(t);
        break;
    }
}

static void write_document(struct input *in) {
    struct rdi_text t = {.buf = NULL};
    char open[DEPTH];
    int depth = 0;
    rdi_json_begin(&t, NULL, open[depth++] = '{');
    for (int i = 0; i < STEPS && in->left > 0; i++) {
        uint8_t step = take_byte(in);
        char name[8];
        snprintf(name, sizeof name, "k%d", i);
        const char *key = open[depth - 1] == '{' ? name : NULL;
        if (step >= 0xe0 && depth < DEPTH) {
            rdi_json_begin(&t, key, open[depth++] = step & 1 ? '[' : '{');
        } else if (step >= 0xc0 && depth > 1) {
            depth--;
            rdi_json_end(&t, open[depth] == '{' ? '}' : ']');
        } else if (step >= 0x80) {
            char *word = take_word(in);
            rdi_json_string(&t, key, word);
            free(word);
        } else {
            put(&t, step, key, in);
        }
    }
    while (depth > 0) {
        depth--;
        rdi_json_end(&t, open[depth] == '{' ? '}' : ']');
    }
    MUST(!t.failed && strlen(t.buf) == t.len);
    json_decref(must_read(t.buf, t.len));
    rdi_text_free(&t);
}

static void write_string(struct input *in) {
    struct rdi_text t = {.buf = NULL};
    char *word = take_word(in);
    rdi_json_begin(&t, NULL, '{');
    rdi_json_string(&t, "k", word);
    rdi_json_end(&t, '}');
    json_t *root = must_read(t.buf, t.len);
    const char *read = json_string_value(json_object_get(root, "k"));
    MUST(read != NULL && (!is_utf8(word) || strcmp(read, word) == 0));
    json_decref(root);
    rdi_text_free(&t);
    free(word);
}

// ---- The commands' -------------------------------------------------------------------------------

static void write_doctor(struct input *in) {
    static const struct dr_check check = {.id = "id", .section = "section"};
    struct doctor d = {.ranks = 2};
    char *words[3] = {take_word(in), take_word(in), take_word(in)}, *text = NULL;
    size_t n = 0;
    d.check = &check;
    snprintf(d.host, sizeof d.host, "%s", words[0]);
    dr_add(&d, (enum dr_level)(take_byte(in) % DR_LEVELS), words[0], "%s", words[1]);
    dr_means(&d, "%s", words[2]);
    dr_remedy(&d, "%s", words[0]);
    FILE *f = open_memstream(&text, &n);
    MUST(f != NULL);
    dr_report_json(&d, f);
    MUST(fclose(f) == 0);
    json_decref(must_read(text, n));
    dr_free(&d);
    free(text);
    for (int i = 0; i < 3; i++) {
        free(words[i]);
    }
}

static void write_perf(struct input *in) {
    char *words[3] = {take_word(in), take_word(in), take_word(in)}, *text = NULL;
    size_t n = 0;
    struct perf_options o = {.coll = 0, .type = RONDO_F32, .argc = 3, .argv = words};
    struct perf_report r = {.options = &o, .coll = &perf_colls[0], .ranks = 1};
    struct perf_device device;
    memset(&device, 0, sizeof device);
    snprintf(device.host, sizeof device.host, "%s", words[1]);
    snprintf(device.name, sizeof device.name, "%s", words[2]);
    snprintf(r.plan, sizeof r.plan, "%s", words[1]);
    r.json = open_memstream(&text, &n);
    MUST(r.json != NULL);
    perf_json_begin(&r, &device);
    perf_json_end(&r, (int64_t)take_number(in, 8), words[0]);
    MUST(fclose(r.json) == 0);
    json_decref(must_read(text, n));
    free(text);
    for (int i = 0; i < 3; i++) {
        free(words[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {.at = data, .left = size};
    switch (take_byte(&in) & 3) {
    case 0:
        write_document(&in);
        break;
    case 1:
        write_string(&in);
        break;
    case 2:
        write_doctor(&in);
        break;
    default:
        write_perf(&in);
        break;
    }
    return 0;
}
