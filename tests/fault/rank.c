// SPDX-License-Identifier: MIT
// One rank of a job that tests/fault/run spoils: it works and checks, and when something fails it tells what it was
// told, shrinks the communicator and goes on with those who are left, until the supervisor says "s" (stop).
//
//   join ----> work ----> failed ----> shrink ----> work ...           events, one JSON object a line: say.h
//     |          |          |             |
//     v          v          v             v
//    error      stop       (--hold: waits for "g")    error            ----> destroy everything, count what is left
//
// Exit code: 0 it went its way, whatever failed; 4 a wrong result or a buffer that was written to; 2 usage.
#include "tests/fault/rank.h"
#include "tests/fault/area.h"

#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static bool enter_host(const struct wish *w) {
    int fd = w->netns ? open(w->netns, O_RDONLY | O_CLOEXEC) : -1;
    if (w->netns && (fd < 0 || setns(fd, CLONE_NEWNET) != 0)) {
        perror(w->netns);
        return false;
    }
    if (fd >= 0) {
        close(fd);
    }
    if (w->host && (unshare(CLONE_NEWUTS) != 0 || sethostname(w->host, strlen(w->host)) != 0)) {
        perror(w->host);
        return false;
    }
    return true;
}

// Who is in the communicator that was made out of the last one, as far as this rank can tell: when it lacks as many
// as the failure named, it lacks them.
static void guess_members(struct job *j, int size) {
    rondo_failure f = {.size = sizeof f};
    int n = 0;
    (void)rondo_comm_failure(j->comm, &f);
    for (int r = 0; r < j->n; r++) {
        bool lost = false;
        for (int i = 0; i < f.nfailed; i++) {
            lost |= f.failed[i] == r;
        }
        if (!lost) {
            j->members[n++] = j->members[r];
        }
    }
    for (int r = 0; n != size && r < size; r++) {
        j->members[r] = -1;
    }
    j->n = size;
}

// What they say themselves.
static rondo_status learn_members(struct job *j, uint64_t *t) {
    int32_t all[MAX_RANKS], mine = j->me;
    rondo_status s = rondo_all_gather(&mine, all, 1, RONDO_I32, j->comm);
    *t = now_ns();
    for (int r = 0; r < j->n && s == RONDO_OK; r++) {
        if (j->members[r] >= 0 && j->members[r] != all[r]) {
            wrong(j, "member %d is rank %d of the job, not %d", r, all[r], j->members[r]);
        }
        j->members[r] = all[r];
        if (r > 0 && all[r] <= all[r - 1]) {
            wrong(j, "the members are not in order: %d before %d", all[r - 1], all[r]);
        }
    }
    return s;
}

static bool shrink(struct job *j) {
    rondo_comm *smaller = NULL;
    for (uint64_t end = now_ns() + UINT64_C(30000000000);
         j->wish.hold && !j->go && now_ns() < end;) {
        listen_to(j, 100);
    }
    j->go = false;
    say("shrink");
    rondo_status s = rondo_comm_shrink(j->comm, &smaller);
    uint64_t t = now_ns();
    if (s != RONDO_OK) {
        struct line l;
        line_begin(&l, "unshrunk", t);
        line_int(&l, "generation", j->generation);
        line_text(&l, "status", rondo_status_name(s));
        line_text(&l, "text", rondo_last_error());
        line_end(&l);
        return false;
    }
    struct line l;
    line_begin(&l, "shrunk", t);
    line_int(&l, "generation", j->generation + 1);
    line_int(&l, "size", rondo_comm_size(smaller));
    line_end(&l);
    guess_members(j, rondo_comm_size(smaller));
    (void)rondo_comm_destroy(j->comm);
    j->comm = smaller;
    j->generation++;
    return true;
}

static void leave_child(void) {
    pid_t parent = getpid();
    if (fork() == 0) {
        while (getppid() == parent) {
            usleep(20000);
        }
        sleep(3);
        _exit(0);
    }
}

static void *aborter(void *arg) {
    const struct job *j = arg;
    usleep((useconds_t)(j->wish.abort_ms * 1000));
    say("abort");
    (void)rondo_comm_abort(j->comm, "the test wishes it");
    return NULL;
}

// Until all stop or nothing works any more.
static void live(struct job *j) {
    pthread_t thread;
    bool aborts = j->wish.abort_ms > 0 && pthread_create(&thread, NULL, aborter, j) == 0;
    for (bool on = true; on && !j->is_wrong;) {
        const char *call = "all_gather";
        uint64_t t = 0;
        rondo_status s = learn_members(j, &t);
        if (s != RONDO_OK) {
            say_failed(j, s, call, t, 0);
        } else {
            say_ready(j, "ready", t);
            s = j->wish.ddp ? work_train(j, &t, &call) : work_loop(j, &t, &call);
        }
        if (aborts) {
            aborts = false;
            pthread_join(thread, NULL);
        }
        // An elastic ddp object has shrunk as long as it could.
        on = s != RONDO_OK && !j->wish.elastic && shrink(j);
    }
}

static bool join(struct job *j) {
    rondo_config config = RONDO_CONFIG_INIT;
    config.options = j->wish.options;
    config.log = log_line;
    usleep((useconds_t)(j->wish.join_after_ms * 1000));
    say("join");
    rondo_status s = rondo_init(&config, &j->comm);
    uint64_t t = now_ns();
    if (s != RONDO_OK) {
        j->comm = NULL;
        say_failed(j, s, "init", t, 0);
    }
    return s == RONDO_OK;
}

static bool read_wish(struct wish *w, int argc, char **argv) {
    static const struct option rows[] = {{"netns", required_argument, NULL, 'n'},
                                         {"host", required_argument, NULL, 'h'},
                                         {"options", required_argument, NULL, 'o'},
                                         {"ddp", no_argument, NULL, 'd'},
                                         {"elastic", no_argument, NULL, 'e'},
                                         {"shared", no_argument, NULL, 's'},
                                         {"hold", no_argument, NULL, 'w'},
                                         {"async", required_argument, NULL, 'a'},
                                         {"count", required_argument, NULL, 'c'},
                                         {"join-after", required_argument, NULL, 'j'},
                                         {"pause-step", required_argument, NULL, 'p'},
                                         {"pause", required_argument, NULL, 'P'},
                                         {"abort", required_argument, NULL, 'A'},
                                         {"fork", no_argument, NULL, 'f'},
                                         {NULL, 0, NULL, 0}};
    *w = (struct wish){.async = 1};
    for (int c; (c = getopt_long(argc, argv, "", rows, NULL)) != -1;) {
        unsigned long n = optarg ? strtoul(optarg, NULL, 10) : 0;
        switch (c) {
        case 'n':
            w->netns = optarg;
            break;
        case 'h':
            w->host = optarg;
            break;
        case 'o':
            w->options = optarg;
            break;
        case 'd':
            w->ddp = true;
            break;
        case 'e':
            w->elastic = true;
            break;
        case 's':
            w->shared = true;
            break;
        case 'w':
            w->hold = true;
            break;
        case 'f':
            w->forks = true;
            break;
        case 'a':
            w->async = (int)n;
            break;
        case 'c':
            if (w->ncounts == MAX_COUNTS) {
                return false;
            }
            w->counts[w->ncounts++] = n;
            break;
        case 'j':
            w->join_after_ms = n;
            break;
        case 'p':
            w->pause_step = (int)n;
            break;
        case 'P':
            w->pause_ms = n;
            break;
        case 'A':
            w->abort_ms = n;
            break;
        default:
            return false;
        }
    }
    for (int i = 0; i < w->ncounts; i++) {
        if (w->counts[i] == 0) {
            return false;
        }
    }
    return optind == argc && w->ncounts > 0 && w->async >= 1 && w->async <= 4;
}

int main(int argc, char **argv) {
    struct job j = {.generation = 0};
    const char *rank = getenv("RANK");
    if (!read_wish(&j.wish, argc, argv) || !rank) {
        fprintf(stderr, "fault_rank: started by tests/fault/run, see its README.md\n");
        return EXIT_USAGE;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!enter_host(&j.wish)) {
        return EXIT_USAGE;
    }
    j.me = atoi(rank);
    say_open("begin");
    if (join(&j)) {
        if (j.wish.forks) {
            leave_child();
        }
        j.n = rondo_comm_size(j.comm);
        for (int r = 0; r < j.n && r < MAX_RANKS; r++) {
            j.members[r] = r;
        }
        live(&j);
        (void)rondo_comm_destroy(j.comm);
    }
    if (area_frozen_check() > 0) {
        j.is_wrong = true;
    }
    say_open("end");
    return j.is_wrong ? EXIT_WRONG : 0;
}
