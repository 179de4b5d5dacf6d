// SPDX-License-Identifier: MIT
// Traces that rondo-top --merge puts together: files of any bytes. What comes out is JSON.
//
// The input is the files, with a byte 0xff between them.
#include "fuzz.h"
#include "ring/top/top.h"

#include <jansson.h>

#define FILES 3

static const uint8_t *files[FILES];
static size_t sizes[FILES];

// "0", "1", "2": the input's.
FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode) {
    if (path[0] < '0' || path[0] >= '0' + FILES || path[1] != '\0') {
        return __real_fopen(path, mode);
    }
    int i = path[0] - '0';
    return sizes[i] > 0 ? fmemopen((void *)(uintptr_t)files[i], sizes[i], "r")
                        : fmemopen(NULL, 1, "r");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char names[FILES][2] = {"0", "1", "2"}, *paths[FILES], why[512] = "", *text = NULL;
    size_t at = 0, count = 0, n = 0;
    for (; count < FILES && at <= size; count++) {
        const uint8_t *end = at < size ? memchr(data + at, 0xff, size - at) : NULL;
        files[count] = data + at;
        sizes[count] = end != NULL ? (size_t)(end - data) - at : size - at;
        paths[count] = names[count];
        at += sizes[count] + 1;
    }
    FILE *out = stdout, *to = open_memstream(&text, &n);
    MUST(to != NULL);
    stdout = to;
    bool ok = top_merge("-", paths, count, why, sizeof why);
    stdout = out;
    MUST(fclose(to) == 0 && (ok || why[0] != '\0'));
    if (ok) {
        json_t *root = json_loadb(text, n, 0, NULL);
        MUST(json_is_array(root) && json_array_size(root) > 0);
        json_decref(root);
    }
    free(text);
    return 0;
}
