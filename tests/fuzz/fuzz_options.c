// SPDX-License-Identifier: MIT
// The reader of options: text of a configuration in the first line, NAME=value of the environment
// in the others. What is accepted is in the table's ranges; what is not is named in the error and
// changes nothing.
#include "fuzz.h"
#include "transport/internal.h"

#include <string.h>

static char text[4096];
static const char *lines[16];
static size_t line_count;

static char *get_line(const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i < line_count; i++) {
        if (strncmp(lines[i], name, n) == 0 && lines[i][n] == '=') {
            return (char *)(uintptr_t)lines[i] + n + 1;
        }
    }
    return NULL;
}

static void check(const struct rdi_options *o) {
    for (size_t i = 0; i < RDI_OPT_COUNT; i++) {
        const rondo_option_info *row = rondo_option(i);
        MUST(memchr(o->str[i], '\0', RDI_OPT_STRING_MAX) != NULL);
        MUST(o->num[i] >= 0);
        if (o->is_auto[i]) {
            MUST(o->num[i] == 0);
        }
        if (strcmp(row->type, "enum") == 0) {
            MUST(strstr(row->allowed, o->str[i]) != NULL && o->num[i] <= 3);
        }
        if (strcmp(row->type, "bool") == 0) {
            MUST(o->num[i] <= 1);
        }
    }
    MUST(o->num[RDI_OPT_TCP_SOCKETS] >= 1 && o->num[RDI_OPT_TCP_SOCKETS] <= 8);
    MUST(o->num[RDI_OPT_SLOTS] >= 2 && o->num[RDI_OPT_SLOTS] <= 64);
    MUST(o->num[RDI_OPT_CHUNK] % 64 == 0 && o->num[RDI_OPT_CHUNK] <= 4 << 20);
    MUST(o->num[RDI_OPT_CHUNK] == 0 || o->num[RDI_OPT_CHUNK] >= 4096);
    MUST(o->num[RDI_OPT_CONNECT_TIMEOUT] >= 1 && o->num[RDI_OPT_CONNECT_TIMEOUT] <= INT32_MAX);
    MUST(o->num[RDI_OPT_OP_TIMEOUT] >= 1 && o->num[RDI_OPT_OP_TIMEOUT] <= INT32_MAX);
    MUST(o->num[RDI_OPT_PATH_GRACE] <= INT32_MAX);
    MUST(o->num[RDI_OPT_SPIN] <= 1000000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t n = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, n);
    text[n] = '\0';
    line_count = 0;
    for (char *c = text; *c != '\0'; c++) {
        if (*c == '\n') {
            *c = '\0';
            if (line_count < sizeof lines / sizeof lines[0]) {
                lines[line_count++] = c + 1;
            }
        }
    }
    struct rdi_options o, before;
    memset(&before, 0x5a, sizeof before);
    o = before;
    rdi_set_last_error("");
    rondo_status s = rdi_options_load(&o, text, get_line);
    if (s == RONDO_OK) {
        check(&o);
    } else {
        MUST(s == RONDO_ERR_INVALID && rondo_last_error()[0] != '\0');
        MUST(memcmp(&o, &before, sizeof o) == 0);
    }
    return 0;
}
