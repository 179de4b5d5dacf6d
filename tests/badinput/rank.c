// SPDX-License-Identifier: MIT
// One rank of a small job that the cases of ./run spoil: it reduces and checks until it shall stop,
// and says in one line how it ended, and when (CLOCK_MONOTONIC, which is the cases' clock too).
//
//   badinput_rank [--options TEXT] [--deny memfd|shm] [--count N] [--steps N | --seconds S] [--mem]
//                 [--until FILE] [--quit RANK] [PROGRAM ARGUMENT...]
//
// PROGRAM: runs it instead, with the same system calls denied.
//
// A rank that is all right also says how long its longest step took and how many strangers it met and connections it found damaged.
//
// Exit code: 0 all right, 3 the library returned an error, 4 a wrong result, 2 a wrong command line.
#include <rondo/rondo.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_USAGE = 2, EXIT_ERROR = 3, EXIT_WRONG = 4, QUIT_AT = 20 };

struct wish {
    const char *options, *deny;
    size_t count;
    long steps;        // 0: by time
    double seconds;    // rank 0 decides
    const char *until; // or as soon as there is such a file
    bool mem;          // memory that peers can map
    int quit;          // this rank leaves without a word after some steps; -1: none
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void log_line(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    fprintf(stderr, "log %d: %s\n", (int)level, line);
}

static int failed(int rank, rondo_status s) {
    fprintf(stderr, "rank %d failed at %.3f with %s: %s\n", rank, now(), rondo_status_name(s),
            rondo_last_error());
    return EXIT_ERROR;
}

// As a container's seccomp profile does it: memfd_create() and, with `files`, unnamed files are
// refused.
static bool deny(bool files) {
    const unsigned tmpfile = O_TMPFILE;
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, files ? tmpfile : 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, tmpfile, 2, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// Small whole numbers: the sum is exact in any order. Element 0 is rank 0's wish to stop.
static void fill(float *x, size_t count, int rank, long step, bool stop) {
    for (size_t i = 0; i < count; i++) {
        x[i] = (float)((long)(i % 13) + step % 7 + rank);
    }
    x[0] = stop ? 1 : 0;
}

static bool is_right(const float *x, size_t count, int ranks, long step) {
    for (size_t i = 1; i < count; i++) {
        if (x[i] != (float)(ranks * ((long)(i % 13) + step % 7) + ranks * (ranks - 1) / 2)) {
            fprintf(stderr, "wrong result in step %ld: element %zu is %g\n", step, i, (double)x[i]);
            return false;
        }
    }
    return x[0] == 0 || x[0] == 1;
}

static bool is_over(const struct wish *w, long step, double end) {
    return (w->until != NULL && access(w->until, F_OK) == 0) ||
           (w->steps > 0 ? step + 1 == w->steps : now() >= end);
}

static int reduce(rondo_comm *comm, const struct wish *w, float *x, float *sum) {
    int rank = rondo_comm_rank(comm), ranks = rondo_comm_size(comm);
    double end = now() + w->seconds, longest = 0;
    for (long step = 0;; step++) {
        double begin = now();
        bool stop = rank == 0 && is_over(w, step, end);
        fill(x, w->count, rank, step, stop);
        rondo_status s = rondo_all_reduce(x, sum, w->count, RONDO_F32, RONDO_SUM, comm);
        if (s != RONDO_OK) {
            return failed(rank, s);
        }
        if (!is_right(sum, w->count, ranks, step)) {
            return EXIT_WRONG;
        }
        if (step == QUIT_AT && rank == w->quit) {
            _exit(0);
        }
        longest = now() - begin > longest ? now() - begin : longest;
        if (sum[0] != 0) {
            rondo_comm_stats stats = {.size = sizeof stats};
            s = rondo_comm_get_stats(comm, &stats);
            printf("rank %d ok after %ld steps, longest %.3f s, %llu strangers, %llu damaged\n",
                   rank, step + 1, longest, (unsigned long long)stats.strangers,
                   (unsigned long long)stats.damaged);
            return s == RONDO_OK ? 0 : failed(rank, s);
        }
    }
}

static int run(const struct wish *w) {
    rondo_config config = RONDO_CONFIG_INIT;
    rondo_comm *comm = NULL;
    config.options = w->options;
    config.log = log_line;
    rondo_status s = rondo_init(&config, &comm);
    if (s != RONDO_OK) {
        const char *rank = getenv("RANK");
        return failed(rank != NULL ? atoi(rank) : -1, s);
    }
    int rank = rondo_comm_rank(comm), rc = EXIT_ERROR;
    printf("rank %d ready\n", rank);
    fflush(stdout);
    void *x = NULL, *sum = NULL;
    size_t bytes = w->count * sizeof(float);
    if (!w->mem) {
        x = malloc(bytes);
        sum = malloc(bytes);
    } else if ((s = rondo_mem_alloc(bytes, &x)) != RONDO_OK ||
               (s = rondo_mem_alloc(bytes, &sum)) != RONDO_OK) {
        rc = failed(rank, s);
    }
    if (x != NULL && sum != NULL) {
        rc = reduce(comm, w, x, sum);
    }
    s = rondo_comm_destroy(comm);
    if (s != RONDO_OK && rc == 0) {
        rc = failed(rank, s);
    }
    if (!w->mem) {
        free(x);
        free(sum);
    } else if ((rondo_mem_free(x) != RONDO_OK || rondo_mem_free(sum) != RONDO_OK) && rc == 0) {
        rc = failed(rank, RONDO_ERR_USAGE);
    }
    return rc;
}

int main(int argc, char **argv) {
    static const struct option rows[] = {{"options", required_argument, NULL, 'o'},
                                         {"deny", required_argument, NULL, 'd'},
                                         {"count", required_argument, NULL, 'c'},
                                         {"steps", required_argument, NULL, 'n'},
                                         {"seconds", required_argument, NULL, 's'},
                                         {"mem", no_argument, NULL, 'm'},
                                         {"quit", required_argument, NULL, 'q'},
                                         {"until", required_argument, NULL, 'u'},
                                         {NULL, 0, NULL, 0}};
    struct wish w = {.count = 1000, .steps = 10, .quit = -1};
    for (int c; (c = getopt_long(argc, argv, "+", rows, NULL)) != -1;) {
        switch (c) {
        case 'o':
            w.options = optarg;
            break;
        case 'd':
            w.deny = optarg;
            break;
        case 'c':
            w.count = strtoul(optarg, NULL, 10);
            break;
        case 'n':
            w.steps = atol(optarg);
            break;
        case 's':
            w.seconds = atof(optarg);
            w.steps = 0;
            break;
        case 'm':
            w.mem = true;
            break;
        case 'q':
            w.quit = atoi(optarg);
            break;
        case 'u':
            w.until = optarg;
            break;
        default:
            return EXIT_USAGE;
        }
    }
    if (w.count == 0 || (w.steps == 0 && w.seconds <= 0)) {
        fprintf(stderr, "--count and --steps or --seconds must be positive\n");
        return EXIT_USAGE;
    }
    if (w.deny != NULL && !deny(strcmp(w.deny, "shm") == 0)) {
        perror("cannot install a seccomp filter");
        return 77;
    }
    if (optind < argc) {
        execv(argv[optind], argv + optind);
        perror(argv[optind]);
        return EXIT_USAGE;
    }
    return run(&w);
}
