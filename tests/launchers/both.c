// SPDX-License-Identifier: MIT
// MPI and Rondo in one program, whichever begins first, and Rondo twice:  both mpi|rondo
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include <rondo/rondo.h>

static int add_by_rondo(void) {
    rondo_comm *comm;
    float sum = 1.0f;
    if (rondo_init(NULL, &comm) != RONDO_OK ||
        rondo_all_reduce(&sum, &sum, 1, RONDO_F32, RONDO_SUM, comm) != RONDO_OK) {
        fprintf(stderr, "%s\n", rondo_last_error());
        return 1;
    }
    printf("rondo: %g\n", (double)sum);
    return rondo_comm_destroy(comm) != RONDO_OK;
}

static int add_by_mpi(void) {
    float one = 1.0f, sum = 0.0f;
    int failed = MPI_Allreduce(&one, &sum, 1, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) != MPI_SUCCESS;
    printf("mpi: %g\n", (double)sum);
    return failed;
}

int main(int argc, char **argv) {
    int failed = 0, rondo_first = argc > 1 && strcmp(argv[1], "rondo") == 0;
    if (rondo_first) {
        failed |= add_by_rondo() || add_by_rondo();
    }
    MPI_Init(&argc, &argv);
    failed |= add_by_mpi();
    if (!rondo_first) {
        failed |= add_by_rondo() || add_by_rondo();
    }
    failed |= add_by_mpi();
    MPI_Finalize();
    return failed;
}
