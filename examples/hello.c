// SPDX-License-Identifier: MIT
// The smallest program: every rank gives a number, every rank gets the sum.
//     rondo-run -n 4 hello
#include <stdio.h>

#include <rondo/rondo.h>

int main(void) {
    rondo_comm *comm;
    if (rondo_init(NULL, &comm) != RONDO_OK) {
        fprintf(stderr, "hello: %s\n", rondo_last_error());
        return 1;
    }
    float mine = (float)rondo_comm_rank(comm), sum;
    if (rondo_all_reduce(&mine, &sum, 1, RONDO_F32, RONDO_SUM, comm) != RONDO_OK) {
        fprintf(stderr, "hello: %s\n", rondo_last_error());
        return 1;
    }
    printf("rank %d of %d: the sum of all ranks is %g\n", rondo_comm_rank(comm),
           rondo_comm_size(comm), sum);
    return rondo_comm_destroy(comm) == RONDO_OK ? 0 : 1;
}
