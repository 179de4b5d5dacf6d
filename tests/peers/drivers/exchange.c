// SPDX-License-Identifier: MIT
// The limit of an all-reduce over loopback TCP, in the same loop as the peers: every rank sends to
// the next one what a ring all-reduce must send, 2(n-1)/n of the buffer, and receives as much from
// the one before, both at once and with nothing else to do. No sum is formed. With two ranks that
// is S bytes each way.
//   --ranks N --chunk BYTES [--sleep yes]
#include "loop.h"
#include "ranks.h"
#include "sockets.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct ring {
    int rank;
    int size;
    sockets_flow flow;
    float *received;
    size_t capacity;
} ring;

static int in_of[LOOP_MAX_RANKS], out_of[LOOP_MAX_RANKS]; // made before the ranks are forked

static int prepare(void *state, float *buffer, size_t count) {
    ring *r = state;
    size_t bytes = count * sizeof(float);
    size_t share = (count * 2 * (size_t)(r->size - 1) / (size_t)r->size) * sizeof(float);
    if (r->received)
        munmap(r->received, r->capacity);
    r->capacity = bytes;
    r->received = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (r->received == MAP_FAILED) {
        r->received = NULL;
        return -1;
    }
    r->flow.send_from = (const char *)buffer;
    r->flow.receive_to = (char *)r->received;
    r->flow.send_size = r->flow.receive_size = bytes;
    r->flow.send_bytes = r->flow.receive_bytes = share;
    return 0;
}

static int exchange(void *state, float *buffer, size_t count) {
    (void)buffer;
    (void)count;
    return sockets_flow_run(&((ring *)state)->flow);
}

static size_t wrong(void *state, const float *buffer, size_t count, uint32_t round, size_t stride) {
    const ring *r = state;
    int from = (r->rank + r->size - 1) % r->size;
    size_t bad = 0, arrived = r->flow.receive_bytes / sizeof(float);
    (void)buffer;
    for (size_t i = 0; i < count && i < arrived; i += stride)
        bad += r->received[i] != loop_value(from, round, i);
    return bad;
}

static int run_rank(int argc, char **argv, int rank, int size) {
    ring r = {.rank = rank, .size = size};
    for (int i = 0; i < size; i++) {
        if (i != rank) {
            close(in_of[i]);
            close(out_of[i]);
        }
    }
    r.flow.in = in_of[rank];
    r.flow.out = out_of[rank];
    if (size <= (int)sysconf(_SC_NPROCESSORS_ONLN))
        ranks_pin(rank);
    r.flow.sleep = loop_argument(argc, argv, "--sleep", NULL) != NULL;
    r.flow.chunk = strtoull(loop_argument(argc, argv, "--chunk", "262144"), NULL, 10);
    loop_peer peer = {.rank = rank,
                      .size = size,
                      .state = &r,
                      .prepare = prepare,
                      .op = exchange,
                      .wrong = wrong};
    return loop_run(argc, argv, &peer);
}

int main(int argc, char **argv) {
    int size = atoi(loop_argument(argc, argv, "--ranks", "2"));
    for (int i = 0; i < size && i < LOOP_MAX_RANKS; i++)
        sockets_pair(&out_of[i], &in_of[(i + 1) % size]);
    return ranks_run(argc, argv, size, run_rank);
}
