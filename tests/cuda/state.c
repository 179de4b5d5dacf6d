// SPDX-License-Identifier: MIT
// What the library says where there is no driver, no device, or no kernel: state EXPECTED-TEXT
//
// One line from rondo_cuda_state(), the same words from a call that needs a device, and everything else works.
#include "tests/ring/ring_test.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s EXPECTED-TEXT\n", argv[0]);
        return 2;
    }
    rondo_config config = RONDO_CONFIG_INIT;
    rondo_comm *comm = NULL;
    config.rank = config.local_rank = 0;
    config.world_size = 1;
    OK(rondo_init(&config, &comm));
    float x = 3, y = 0;
    OK(rondo_all_reduce(&x, &y, 1, RONDO_F32, RONDO_SUM, comm)); // before the driver is looked for
    const char *state = rondo_cuda_state();
    printf("%s\n", state);
    CHECK(strstr(state, argv[1]) && !strchr(state, '\n'));
    rondo_status s = rondo_comm_attach(comm, 0);
    if (strncmp(state, "CUDA", 4) == 0 && s == RONDO_OK) {
        OK(rondo_comm_destroy(comm));
        return 0;
    }
    CHECK(s == RONDO_ERR_UNSUPPORTED || s == RONDO_ERR_SYSTEM);
    CHECK(strncmp(state, "CUDA ", 5) == 0 || strstr(rondo_last_error(), argv[1]));
    CHECK(rondo_all_reduce_stream(&x, &y, 1, RONDO_F32, RONDO_SUM, comm, NULL) < 0);
    y = 0;
    OK(rondo_all_reduce(&x, &y, 1, RONDO_F32, RONDO_SUM, comm));
    CHECK(y == 3);
    OK(rondo_comm_destroy(comm));
    return 0;
}
