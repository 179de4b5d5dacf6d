// SPDX-License-Identifier: MIT
// Byte offsets beyond 4 GiB: large OPTIONS. The sender's buffer is one page of zeros mapped again and again
// with marks, so that only the receiver needs the memory.
#include "ring_test.h"

#include <stdint.h>
#include <sys/mman.h>

#define BYTES ((size_t)4 * 1024 * 1024 * 1024 + 4096 * 3 + 5)

static int body(rondo_comm *c, void *arg) {
    (void)arg;
    static const size_t marks[] = {
        0, 4095, (size_t)1 << 31, ((size_t)1 << 32) - 1, (size_t)1 << 32, BYTES - 1};
    int me = rondo_comm_rank(c);
    unsigned char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return 77;
    }
    for (size_t i = 0; me == 0 && i < sizeof marks / sizeof *marks; i++) {
        p[marks[i]] = (unsigned char)(i + 1);
    }
    // A count above 2^32 elements, received in place by broadcast (a chain for this size).
    OK(rondo_broadcast(p, p, BYTES, RONDO_U8, 0, c));
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        CHECK(p[marks[i]] == i + 1);
    }
    // And through a reduction: the marks stay, as everybody has the same bytes.
    OK(rondo_all_reduce(p, p, BYTES, RONDO_U8, RONDO_MAX, c));
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        CHECK(p[marks[i]] == i + 1);
    }
    munmap(p, BYTES);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: large OPTIONS\n");
        return 2;
    }
    return rt_run(2, argv[1], body, NULL);
}
