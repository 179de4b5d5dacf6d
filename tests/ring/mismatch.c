// SPDX-License-Identifier: MIT
// Ranks that call different operations all get RONDO_ERR_MISMATCH within 1 s, and it names two ranks that
// really differ: mismatch RANKS OPTIONS
#include "ring_test.h"

#include <time.h>

// The promise is 1 s; sanitizers make everything several times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIMIT 6.0
#else
#define LIMIT 1.0
#endif

enum kind { COUNT, TYPE, OP, ROOT, KIND, ZERO, BOTH_WAIT, SEND_RECV, KINDS };
static const char *const names[KINDS] = {"count 1 against 1 Mi",
                                         "type",
                                         "op",
                                         "root",
                                         "kind",
                                         "count 0 against 5",
                                         "each waits for another",
                                         "send against recv"};

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static rondo_status call(rondo_comm *c, enum kind k, int odd, float *a, float *b) {
    int me = rondo_comm_rank(c);
    const size_t large = 1 << 20;
    switch (k) {
    case COUNT:
        return rondo_all_reduce(a, b, odd ? 1 : large, RONDO_F32, RONDO_SUM, c);
    case TYPE:
        return rondo_all_reduce(a, b, 100, odd ? RONDO_I32 : RONDO_F32, RONDO_SUM, c);
    case OP:
        return rondo_all_reduce(a, b, large, RONDO_F32, odd ? RONDO_MAX : RONDO_SUM, c);
    case ROOT:
        return rondo_broadcast(a, b, 100, RONDO_F32, odd ? me : 0, c);
    case KIND:
        return odd ? rondo_all_gather(a, b, 10, RONDO_F32, c)
                   : rondo_reduce(a, b, 10, RONDO_F32, RONDO_SUM, 0, c);
    case ZERO:
        return rondo_all_reduce(a, b, odd ? 0 : 5, RONDO_F32, RONDO_SUM, c);
    case BOTH_WAIT:
        return rondo_broadcast(a, b, 10, RONDO_F32, odd ? 0 : rondo_comm_size(c) - 1, c);
    default:
        if (me == 0) {
            return rondo_send(a, odd ? 5 : 6, RONDO_F32, 1, c);
        }
        return me == 1 ? rondo_recv(b, odd ? 5 : 6, RONDO_F32, 0, c) : rondo_barrier(c);
    }
}

static int odd_rank(enum kind k, int n) { return k == BOTH_WAIT || k == SEND_RECV ? 0 : n / 2; }

static int body(rondo_comm *c, void *arg) {
    enum kind k = *(enum kind *)arg;
    int n = rondo_comm_size(c), me = rondo_comm_rank(c), odd = odd_rank(k, n);
    float *a = calloc(2 << 20, sizeof *a), *b = calloc(8 << 20, sizeof *b);
    OK(rondo_set_timeout(c, 20000));
    // A rank may still be in here when others meet the mismatch: then it gets that error here.
    rondo_status s = rondo_barrier(c);
    double t0 = seconds();
    s = s == RONDO_OK ? call(c, k, me == odd, a, b) : s;
    if (s == RONDO_OK) {
        // An operation of no bytes may be over at once; the next one meets the error.
        s = rondo_barrier(c);
    }
    double took = seconds() - t0;
    char want[2][32];
    snprintf(want[0], sizeof want[0], "rank %d ", odd);
    CHECK(s == RONDO_ERR_MISMATCH);
    CHECK(strstr(rondo_last_error(), want[0]) != NULL);
    int others = 0;
    for (int r = 0; r < n; r++) {
        snprintf(want[1], sizeof want[1], "rank %d ", r);
        others += r != odd && strstr(rondo_last_error(), want[1]) != NULL;
    }
    CHECK(others == 1);
    CHECK(took < LIMIT);
    CHECK(rondo_comm_error(c) == RONDO_ERR_MISMATCH);
    CHECK(rondo_barrier(c) == RONDO_ERR_MISMATCH);
    free(a);
    free(b);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: mismatch RANKS OPTIONS\n");
        return 2;
    }
    int rc = 0;
    for (int k = 0; k < KINDS; k++) {
        enum kind kind = (enum kind)k;
        if (rt_run(atoi(argv[1]), argv[2], body, &kind) != 0) {
            fprintf(stderr, "mismatch of %s was not handled\n", names[k]);
            rc = 1;
        }
    }
    return rc;
}
