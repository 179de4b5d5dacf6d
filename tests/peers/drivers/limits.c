// SPDX-License-Identifier: MIT
// Limits of the machine, measured in the same run as the peers: memory, loopback TCP, latency.
//   --what memory,streams,latency --repeats N --deadline SECONDS
#include "limits.h"

#include "loop.h"
#include "ranks.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t other;

double limits_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void limits_print(const char *name, const char *parameter, int processes, double *times_us, int n,
                  double work, const char *unit) {
    qsort(times_us, (size_t)n, sizeof *times_us, by_value);
    double best = times_us[0], median = times_us[n / 2];
    if (work > 0) {
        best = work / best;
        median = work / median;
    }
    printf("%s,%s,%d,%.3f,%.3f,%s\n", name, parameter, processes, best, median, unit);
    fflush(stdout);
}

void *limits_shared(unsigned long bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return p;
}

int limits_two(int together) {
    fflush(NULL);
    other = fork();
    if (other < 0) {
        perror("fork");
        exit(1);
    }
    if (other == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ranks_pin(together ? 0 : 1);
        return 1;
    }
    ranks_pin(0);
    return 0;
}

void limits_join(int me) {
    if (me == 1)
        _exit(0);
    waitpid(other, NULL, 0);
}

int main(int argc, char **argv) {
    const char *what = loop_argument(argc, argv, "--what", "memory,streams,latency");
    int repeats = atoi(loop_argument(argc, argv, "--repeats", "15"));
    alarm((unsigned)atoi(loop_argument(argc, argv, "--deadline", "120")));
    if (repeats < 1 || repeats > LIMITS_MAX_REPEATS) {
        fprintf(stderr, "--repeats: 1 to %d are possible\n", LIMITS_MAX_REPEATS);
        return 2;
    }
    // Each part binds its processes; in a child of its own, so that the next starts free.
    static const struct {
        const char *name;
        void (*run)(int repeats);
    } parts[] = {
        {"memory", limits_memory}, {"streams", limits_streams}, {"latency", limits_latency}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        int status = 0;
        if (!strstr(what, parts[i].name))
            continue;
        pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            parts[i].run(repeats);
            exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) < 0 || status) {
            fprintf(stderr, "%s: failed\n", parts[i].name);
            return 1;
        }
    }
    return 0;
}
