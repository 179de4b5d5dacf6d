// SPDX-License-Identifier: MIT
// attack_peer tcp|shm|verbs [PART OF A NAME]: the attacks of a peer with the key, see peer.h. Exit code 77: skipped.
#include "peer.h"

#include <stdio.h>

static const char *wire, *only;

static void test_peer(void **state) {
    (void)state;
    if (strcmp(wire, "tcp") == 0) {
        peer_tcp(only);
    } else if (strcmp(wire, "shm") == 0) {
        peer_shm(only);
    } else {
        peer_verbs(only);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_peer)};
    wire = argc > 1 ? argv[1] : "tcp";
    only = argc > 2 ? argv[2] : NULL;
    setvbuf(stdout, NULL, _IOLBF, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
