// SPDX-License-Identifier: MIT
// What comes through a launcher's store: the text of rank 0, and the lines of PMI-1. A text that is understood is one
// that rank 0 could have written; one that is not leaves nothing behind.
//
//   input[0]  0: the text    1: a line, after a byte with the room for a word
#include "fuzz.h"
#include "transport/bootstrap/point.h"

static void check_text(const char *text) {
    static const struct rdi_point nothing;
    struct rdi_point p, q;
    memset(&p, 0x5a, sizeof p);
    if (rdi_point_decode(text, &p) != NULL) {
        MUST(memcmp(&p, &nothing, sizeof p) == 0);
        return;
    }
    char again[RDI_POINT_TEXT];
    MUST(p.port >= 0 && p.port <= 65535 && (p.port == 0) == (p.hosts[0] == '\0'));
    MUST(memchr(p.hosts, '\0', sizeof p.hosts) != NULL);
    MUST(memchr(p.reason, '\0', sizeof p.reason) != NULL);
    rdi_point_encode(&p, again);
    MUST(rdi_point_decode(again, &q) == NULL);
    MUST(p.port == q.port && p.has_key == q.has_key && strcmp(p.hosts, q.hosts) == 0 &&
         strcmp(p.reason, q.reason) == 0 && memcmp(p.key, q.key, sizeof p.key) == 0);
}

static void check_line(const char *line, size_t cap) {
    static const char *const words[] = {"cmd", "rc", "value", "kvsname"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        char *out = malloc(cap);
        MUST(out != NULL);
        if (rdi_pmi_word(line, words[i], out, cap)) {
            MUST(strlen(out) < cap && strcspn(out, " \n") == strlen(out));
        }
        free(out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    bool line = take_byte(&in) % 2 == 1;
    size_t cap = line ? (size_t)take_byte(&in) + 1 : 0;
    char *text = take_text(&in);
    if (line) {
        check_line(text, cap);
    } else {
        check_text(text);
    }
    free(text);
    return 0;
}
