// SPDX-License-Identifier: MIT
// A program outside the tree: it sees the installed headers and library only, and takes every layer
// once: two ranks are spawned, join a job and add up a vector.
#include <rondo/rondo.h>
#include <stdio.h>
#include <string.h>

enum { RANKS = 2, COUNT = 100000 };

static int work(int rank, int world, void *arg) {
    static float x[COUNT];
    rondo_comm *comm = NULL;
    int i;
    (void)arg;
    for (i = 0; i < COUNT; i++) {
        x[i] = (float)(i + rank);
    }
    if (world != RANKS || rondo_init(NULL, &comm) != RONDO_OK ||
        rondo_all_reduce(x, x, COUNT, RONDO_F32, RONDO_SUM, comm) != RONDO_OK ||
        rondo_comm_destroy(comm) != RONDO_OK) {
        fprintf(stderr, "rank %d of %d: %s\n", rank, world, rondo_last_error());
        return 1;
    }
    for (i = 0; i < COUNT; i++) {
        if (x[i] != (float)(2 * i + 1)) {
            fprintf(stderr, "rank %d: element %d is %g, not %d\n", rank, i, x[i], 2 * i + 1);
            return 1;
        }
    }
    return 0;
}

int main(void) {
    if (strcmp(rondo_status_string(RONDO_ERR_TIMEOUT), rondo_status_string(RONDO_OK)) == 0) {
        fprintf(stderr, "two statuses have the same text\n");
        return 1;
    }
    if (rondo_spawn(work, RANKS, NULL) != RONDO_OK) {
        fprintf(stderr, "%s\n", rondo_last_error());
        return 1;
    }
    printf("rondo %s\n", rondo_version());
    return 0;
}
