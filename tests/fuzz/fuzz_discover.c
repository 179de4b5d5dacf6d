// SPDX-License-Identifier: MIT
// Who this process is in the job, from a launcher's variables and the configuration.
// What is found is whole and in range; what is not, leaves nothing behind but an error with its text.
//
//   input[0..3]  the configuration's rank, world size, local rank, port: 0 = not given, else the number - 2
//   then lines   NAME=value of the environment; the first is for nobody
#include "fuzz.h"
#include "transport/bootstrap/bootstrap.h"

static const char *lines[24];
static size_t line_count;

static char *get_line(const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i < line_count; i++) {
        // Files are no part of it.
        if (strncmp(lines[i], name, n) == 0 && lines[i][n] == '=' &&
            strcmp(name, "PBS_NODEFILE") != 0) {
            return (char *)(uintptr_t)lines[i] + n + 1;
        }
    }
    return NULL;
}

static void split(char *text) {
    line_count = 0;
    for (char *c = text; *c != '\0'; c++) {
        if (*c == '\n') {
            *c = '\0';
            if (line_count < sizeof lines / sizeof lines[0]) {
                lines[line_count++] = c + 1;
            }
        }
    }
}

static int given(struct input *in) {
    uint8_t byte = take_byte(in);
    return byte == 0 ? -1 : byte - 2;
}

static void check(const struct rdi_launch *l) {
    MUST(l->size >= 1 && l->rank >= 0 && l->rank < l->size);
    MUST(l->local_rank >= -1 && l->local_rank < l->size);
    MUST(l->local_size >= 0 && l->local_size <= l->size);
    MUST(l->launcher != NULL && memchr(l->host, '\0', sizeof l->host) != NULL);
    if (l->size > 1) {
        MUST((l->host[0] != '\0' || l->offered != 0) && l->via == RDI_VIA_NONE && l->port >= 1 &&
             l->port <= 65535);
        MUST(!l->loopback || l->single_host);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in = {data, size};
    rondo_config config = RONDO_CONFIG_INIT;
    struct rdi_launch launch, before;
    config.rank = given(&in);
    config.world_size = given(&in);
    config.local_rank = given(&in);
    config.master_port = given(&in);
    char *text = take_text(&in);
    split(text);
    memset(&before, 0x5a, sizeof before);
    launch = before;
    rdi_set_last_error("");
    rondo_status s = rdi_discover(&config, get_line, &launch);
    if (s == RONDO_OK) {
        check(&launch);
    } else {
        MUST(s == RONDO_ERR_BOOTSTRAP || s == RONDO_ERR_INVALID);
        MUST(rondo_last_error()[0] != '\0' && memcmp(&launch, &before, sizeof launch) == 0);
    }
    free(text);
    return 0;
}
