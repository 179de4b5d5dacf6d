// SPDX-License-Identifier: MIT
// What all sides do alike: read the plan, make the data, run each case once on fresh buffers and keep the result,
// then time it. A side brings its collectives and, for device memory, its memory.
#ifndef NCCL_TEST_SIDE_H
#define NCCL_TEST_SIDE_H

#include "cases.h"
#include "results.h"

#include <stddef.h>

struct side {
    char version[48];
    int rank, ranks;
    // Runs a case to its end. Anything but RESULT_OK comes with a text.
    enum result_status (*run)(struct side *s, const struct test_case *c, const void *send,
                              void *recv, char *why, size_t cap);
    bool (*barrier)(struct side *s);
    // Whether a time of this case says anything about this side.
    bool (*timed)(const struct side *s, const struct test_case *c);
    // Memory that collectives work on; NULL: host memory. `put` and `get` copy from and to the host.
    void *(*alloc)(struct side *s, size_t bytes);
    void (*release)(struct side *s, void *p);
    bool (*put)(struct side *s, void *to, const void *from, size_t bytes);
    bool (*get)(struct side *s, void *to, const void *from, size_t bytes);
    void *state;
};

struct side_options {
    const char *plan, *out; // out: the file is OUT.RANK
    const char *device;     // NULL: host memory; a number, or "rank"
    const char *library, *id;
    int rank, ranks;   // -1: from the launcher
    unsigned deadline; // seconds until the process ends itself
};
// --plan FILE --out PREFIX --deadline SECONDS --device N|rank --library FILE --id FILE --rank R --ranks N. False
// after a message. Starts the clock of the deadline.
bool side_parse(int argc, char **argv, struct side_options *o);
// Exit code.
int side_run(struct side *s, const struct side_options *o);

#endif
