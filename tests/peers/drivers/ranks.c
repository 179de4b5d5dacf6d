// SPDX-License-Identifier: MIT
// Ranks by fork(): what rondo-run and mpirun do for others, for the drivers that need no more.
#include "ranks.h"

#include "loop.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void end_all(const pid_t *children, int n) {
    for (int i = 0; i < n; i++) {
        if (children[i] > 0)
            kill(children[i], SIGKILL);
    }
}

// Waits for one child and strikes it off; -1 when none is left.
static int reap(pid_t *children, int n, int *status) {
    pid_t pid = wait(status);
    for (int i = 0; pid > 0 && i < n; i++) {
        if (children[i] == pid)
            children[i] = 0;
    }
    return pid > 0 ? 0 : -1;
}

int ranks_run(int argc, char **argv, int size,
              int (*run)(int argc, char **argv, int rank, int size)) {
    pid_t children[LOOP_MAX_RANKS];
    int rc = 0, status;
    if (size < 1 || size > LOOP_MAX_RANKS) {
        fprintf(stderr, "--ranks %d: 1 to %d are possible\n", size, LOOP_MAX_RANKS);
        return 1;
    }
    for (int rank = 0; rank < size; rank++) {
        children[rank] = fork();
        if (children[rank] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            int code = run(argc, argv, rank, size);
            // Not exit(): the destructors of a C++ library fail when a peer is gone before.
            fflush(NULL);
            _exit(code);
        }
        if (children[rank] < 0) {
            perror("fork");
            end_all(children, rank);
            return 1;
        }
    }
    while (reap(children, size, &status) == 0) {
        if (status != 0 && rc == 0) {
            rc = 1;
            end_all(children, size);
        }
    }
    return rc;
}

void ranks_pin(int n) {
    // Kept, because a bound thread and its children see no more than the one processor.
    static cpu_set_t allowed;
    static int known;
    cpu_set_t one;
    if (!known && (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) == 0))
        return;
    known = 1;
    n %= CPU_COUNT(&allowed);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || n-- > 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one);
        return;
    }
}
