// SPDX-License-Identifier: MIT
// A failure releases every stream that waits, and says why: failure CASE RANKS OPTIONS
//
//   death      the last rank dies in the middle; the others' streams end, with RONDO_ERR_PEER
//   abort      the last rank aborts instead of taking part
//   late       the last rank never comes: the deadline ends it
//   fault      the last rank's device breaks: MOCK_CUDA_FAIL=kernel:... for it alone
//   mismatch   one rank calls another collective; another one host memory instead of device memory
#include "cuda_test.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT (1u << 20)

static const char *which;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct job {
    rondo_comm *c;
    int n, me;
    rdi_cu_stream s[2];
    struct ct_buf x;
};

static rondo_status reduce(const struct job *j, int stream) {
    void *p = (void *)(uintptr_t)j->x.p;
    return rondo_all_reduce_stream(p, p, COUNT, RONDO_F32, RONDO_SUM, j->c, j->s[stream]);
}

// What the last rank does while all others wait for it. Does not return in case death.
static int misbehave(struct job *j) {
    if (strcmp(which, "death") == 0) {
        usleep(200000);
        raise(SIGKILL);
    }
    if (strcmp(which, "fault") == 0) {
        // As others do: nothing is asked of CUDA, the communicator is destroyed. That tells the others.
        for (int k = 0; k < 6; k++) {
            (void)reduce(j, k % 2);
        }
        (void)cu->stream_sync(j->s[0]);
        double t0 = seconds();
        OK(rondo_comm_destroy(j->c));
        CHECK(seconds() - t0 < 15);
        _exit(0);
    }
    if (strcmp(which, "abort") == 0) {
        usleep(100000);
        OK(rondo_comm_abort(j->c, "enough"));
    } else if (strcmp(which, "mismatch") == 0) {
        float x = 0;
        (void)rondo_all_reduce(&x, &x, 1, RONDO_F32, RONDO_SUM, j->c);
    } else {
        usleep(1500000);
    }
    return 0;
}

static int released(struct job *j) {
    double t0 = seconds();
    for (int k = 0; k < 6; k++) {
        if (reduce(j, k % 2) != RONDO_OK) {
            break; // the failure may be known by now
        }
    }
    CU(cu->stream_sync(j->s[0]));
    CU(cu->stream_sync(j->s[1]));
    CHECK(seconds() - t0 < 20);
    rondo_status s = rondo_comm_error(j->c);
    const char *text = rondo_last_error();
    if (strcmp(which, "fault") == 0) {
        CHECK(s != RONDO_OK && strstr(text, "CUDA"));
        return 0;
    }
    if (strcmp(which, "death") == 0) {
        CHECK(s == RONDO_ERR_PEER);
    } else if (strcmp(which, "abort") == 0) {
        CHECK(s == RONDO_ERR_ABORTED && strstr(text, "enough"));
    } else if (strcmp(which, "late") == 0) {
        CHECK(s == RONDO_ERR_TIMEOUT && strstr(text, "On the device"));
    } else {
        CHECK(s == RONDO_ERR_MISMATCH && strstr(text, "on device memory"));
    }
    CHECK(reduce(j, 0) == s); // the next call tells, too
    return 0;
}

static int body(rondo_comm *c, void *arg) {
    int ordinal;
    struct rdi_cuda_device *d;
    struct job j = {.c = c, .n = rondo_comm_size(c), .me = rondo_comm_rank(c)};
    (void)arg;
    if (strcmp(which, "fault") == 0 && j.me == j.n - 1) {
        setenv("MOCK_CUDA_FAIL", "kernel:70:700", 1);
    }
    int rc = ct_begin(rondo_comm_local_rank(c), 8 * COUNT, &ordinal, &d);
    if (rc) {
        return rc;
    }
    OK(rondo_comm_attach(c, ordinal));
    RUN(ct_new(&j.x, COUNT * 4));
    CU(cu->set_async(j.x.p, 0, COUNT * 4, NULL));
    CU(cu->stream_sync(NULL));
    for (int k = 0; k < 2; k++) {
        CU(cu->stream_create(&j.s[k], RDI_CU_STREAM_NON_BLOCKING, 0));
    }
    OK(reduce(&j, 0));
    CU(cu->stream_sync(j.s[0]));
    if (strcmp(which, "late") == 0) {
        OK(rondo_set_timeout(c, 700));
    }
    if (j.me == j.n - 1) {
        RUN(misbehave(&j));
    } else {
        RUN(released(&j));
    }
    CU(cu->mem_free(ct_arena.p));
    rdi_cuda_leave(d);
    return 0;
}

// Like rt_run(), but the last rank may be killed.
int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: %s death|abort|late|fault|mismatch RANKS OPTIONS\n", argv[0]);
        return 2;
    }
    if (ct_skips()) {
        return 77;
    }
    which = argv[1];
    int ranks = atoi(argv[2]), rc = 0;
    if (strcmp(which, "death") != 0 && strcmp(which, "fault") != 0) {
        return rt_run(ranks, argv[3], body, NULL);
    }
    // The launcher would end the survivors when one dies, so they are started without it.
    int port = ct_free_port();
    pid_t pid[16];
    static const char key[] = "a key for the ranks of one test.";
    for (int r = 0; r < ranks; r++) {
        pid[r] = fork();
        if (pid[r] == 0) {
            rondo_config config = RONDO_CONFIG_INIT;
            rondo_comm *comm;
            config.rank = config.local_rank = r;
            config.world_size = ranks;
            config.master_addr = "127.0.0.1";
            config.master_port = port;
            config.key = key;
            config.key_len = sizeof key;
            config.options = argv[3];
            if (rondo_init(&config, &comm) != RONDO_OK) {
                fprintf(stderr, "rank %d: %s\n", r, rondo_last_error());
                _exit(1);
            }
            int result = body(comm, NULL);
            (void)rondo_comm_destroy(comm);
            _exit(result);
        }
    }
    for (int r = 0; r < ranks; r++) {
        int status = 0;
        waitpid(pid[r], &status, 0);
        bool killed = strcmp(which, "death") == 0 && r == ranks - 1;
        bool fine = killed ? WIFSIGNALED(status) : WIFEXITED(status) && !WEXITSTATUS(status);
        if (!fine) {
            fprintf(stderr, "rank %d ended with status %#x\n", r, (unsigned)status);
            rc = 1;
        }
    }
    return rc;
}
