// SPDX-License-Identifier: MIT
// MPI_Allreduce on MPI_IN_PLACE, float32 sum, for any MPI: built once with each one's compiler
// wrapper.
#include "loop.h"

#include <mpi.h>
#include <stdio.h>
#include <unistd.h>

static int all_reduce(void *state, float *buffer, size_t count) {
    (void)state;
    return MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD) !=
           MPI_SUCCESS;
}

int main(int argc, char **argv) {
    loop_peer peer = {.op = all_reduce};
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &peer.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &peer.size);
    int rc = loop_run(argc, argv, &peer);
    if (rc)
        MPI_Abort(MPI_COMM_WORLD, rc);
    MPI_Finalize();
    return 0;
}
