// SPDX-License-Identifier: MIT
// rondo-run: starts a program as the ranks of a job on this node, and ends them together.
//
// Order matters here: the guard is forked before threads exist; signals are taken before the
// store's thread starts, and let through again while the launchers meet, so that ^C ends a launcher
// that waits.
#include "ddp/run/run.h"
#include "transport/bootstrap/bootstrap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MASTER_PORT 29400 // torchrun's

static const int job_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP};

struct launch {
    struct run_options o;
    struct run_job job;
    struct run_program program;
    struct run_inherited was;
    struct rdi_job identity;
    int key_fd;
    struct rdi_store_server *server; // on node 0
    const char *host;                // of the store, for the ranks
    int port;
    struct rdi_place place; // of the rank that is being started
};

// A descriptor of ours in place of a closed 0, 1 or 2 would be mistaken for it.
static void open_standard_streams(void) {
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) < 0) {
            return;
        }
    }
}

static rondo_status watch(struct run_job *job, int fd, enum run_ev kind) {
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = run_ev_pack(kind, 0)};
    if (epoll_ctl(job->epfd, EPOLL_CTL_ADD, fd, &e) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot watch a descriptor");
    }
    return RONDO_OK;
}

// At once, since cleaning up may fail too.
static int complain(int exit_code) {
    fprintf(stderr, "rondo-run: %s\n", rondo_last_error());
    return exit_code;
}

// ---- Before the ranks ---------------------------------------------------------------------------

static rondo_status find_key(struct launch *l) {
    struct rdi_options options;
    rondo_status s = rdi_options_load(&options, NULL, getenv);
    if (s == RONDO_OK) {
        s = rdi_launch_key(&options, l->o.nnodes == 1, &l->identity, &l->key_fd);
    }
    l->identity.rank = -1;
    return s;
}

// On the store's thread.
static void log_store(void *arg, rondo_log_level level, const char *line) {
    (void)arg;
    if (level <= RONDO_LOG_WARN) {
        fprintf(stderr, "rondo-run: %s\n", line);
    }
}

static rondo_status serve_store(struct launch *l) {
    bool alone = l->o.nnodes == 1;
    l->host = alone ? "127.0.0.1" : l->o.master_addr;
    l->port = l->o.master_port >= 0 ? l->o.master_port : alone ? 0 : MASTER_PORT;
    if (l->o.node_rank > 0) {
        return RONDO_OK;
    }
    rondo_status s =
        rdi_store_server_start(alone ? "127.0.0.1" : NULL, l->port, &l->identity, &l->server);
    if (s == RONDO_OK) {
        struct rdi_env log;
        rdi_env_system(&log, log_store, NULL);
        rdi_store_server_log(l->server, &log);
        l->port = rdi_store_server_port(l->server);
    }
    return s;
}

static rondo_status meet_nodes(struct launch *l) {
    struct run_job *job = &l->job;
    if (l->o.nnodes == 1) {
        return RONDO_OK;
    }
    sigset_t taken;
    pthread_sigmask(SIG_SETMASK, &job->signals.saved, &taken);
    rondo_status s = run_nodes_open(&l->o, &l->identity, l->server != NULL ? "127.0.0.1" : l->host,
                                    l->port, &job->env, l->server, &job->nodes);
    pthread_sigmask(SIG_SETMASK, &taken, NULL);
    return s == RONDO_OK ? watch(job, run_nodes_fd(job->nodes), RUN_EV_NODES) : s;
}

// ---- The ranks ----------------------------------------------------------------------------------

static rondo_status open_input(struct launch *l, int *fd) {
    // One that is started again cannot know what its predecessor has read.
    if (l->place.rank == 0 && l->place.restart == 0 && l->o.stdin_to_rank0) {
        return run_input_open(&l->job.input, l->job.epfd, fd);
    }
    *fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return *fd >= 0 ? RONDO_OK : rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open /dev/null");
}

static void close_io(const struct run_rank_io *io) {
    const int fds[] = {io->in, io->out, io->err};
    for (int i = 0; i < 3; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

static rondo_status start_one(struct launch *l, int *exit_code) {
    struct run_job *job = &l->job;
    const struct rdi_place *place = &l->place;
    struct run_rank_io io = {-1, -1, -1};
    struct run_start start = {&job->group, &job->signals, &l->program, &l->was};
    pid_t pid;
    *exit_code = RUN_EXIT_ERROR;
    rondo_status s = open_input(l, &io.in);
    if (s == RONDO_OK) {
        s = run_output_rank(job->output, place->local_rank, place->rank, place->node,
                            place->restart > 0, &io);
    }
    if (s == RONDO_OK) {
        s = run_start_rank(&start, place, &io, &pid, exit_code);
    }
    close_io(&io);
    if (s == RONDO_OK) {
        run_guard_add(&job->guard, place->local_rank, pid);
        run_say(job, 1, "rank %d is process %d", place->rank, (int)pid);
    }
    return s;
}

static rondo_status start_rank(void *arg, int local_rank, int restart, int *exit_code) {
    struct launch *l = arg;
    l->place.local_rank = local_rank;
    l->place.rank = l->job.group.first_rank + local_rank;
    l->place.restart = restart;
    return start_one(l, exit_code);
}

static void start_ranks(struct launch *l, const char *run_id) {
    struct run_job *job = &l->job;
    struct rdi_place *place = &l->place;
    *place = (struct rdi_place){.world = job->world,
                                .local_world = l->o.nproc,
                                .node = l->o.node_rank,
                                .nodes = l->o.nnodes,
                                .master_addr = l->host,
                                .master_port = l->port,
                                .run_id = run_id,
                                .key_fd = l->key_fd,
                                .one_thread = rdi_place_one_thread(l->o.nproc),
                                .max_restarts = l->o.max_restarts,
                                .elastic = l->o.elastic_max > 0 ? l->o.elastic : NULL};
    run_say(job, 1, "the store is at %s, port %d%s", l->host, l->port,
            place->one_thread ? "; OMP_NUM_THREADS=1, since it is not set" : "");
    for (int i = 0; i < l->o.nproc && !job->decided; i++) {
        int exit_code;
        if (start_rank(l, i, 0, &exit_code) != RONDO_OK) {
            char text[RDI_ERROR_TEXT];
            snprintf(text, sizeof text, "%s", rondo_last_error());
            run_decide(job, exit_code, "%.500s", text);
        }
    }
}

static rondo_status run_ranks(struct launch *l, int *exit_code) {
    struct run_job *job = &l->job;
    char own_id[RDI_RUN_ID_CAP];
    rdi_run_id(&job->env, own_id);
    int first_rank = job->nodes != NULL ? run_nodes_first_rank(job->nodes) : 0;
    job->world = job->nodes != NULL ? run_nodes_world(job->nodes) : l->o.nproc;
    const char *run_id = job->nodes != NULL ? run_nodes_run_id(job->nodes) : own_id;

    rondo_status s = rdi_group_open(&job->group, l->o.nproc, first_rank);
    if (s != RONDO_OK) {
        return s;
    }
    job->group.grace = (uint64_t)(l->o.grace * 1e9);
    s = watch(job, job->group.epfd, RUN_EV_GROUP);
    if (s == RONDO_OK) {
        s = run_elastic_open(job, l->server);
    }
    if (s == RONDO_OK) {
        job->start_rank = start_rank;
        job->start_arg = l;
        start_ranks(l, run_id);
        if (l->o.timeout > 0) {
            job->timeout_at = rdi_now(&job->env) + (uint64_t)(l->o.timeout * 1e9);
        }
        *exit_code = run_loop(job);
    }
    rdi_group_close(&job->group);
    return s;
}

// ---- In order -----------------------------------------------------------------------------------

static int run_job(struct launch *l) {
    struct run_job *job = &l->job;
    int exit_code = RUN_EXIT_ERROR;
    rondo_status s = run_guard_open(&job->guard, l->o.nproc);
    if (s == RONDO_OK) {
        s = rdi_signals_open(&job->signals, job_signals,
                             sizeof job_signals / sizeof job_signals[0]);
    }
    if (s == RONDO_OK) {
        s = watch(job, job->signals.fd, RUN_EV_SIGNAL);
    }
    if (s == RONDO_OK) {
        s = run_output_open(&l->o, l->o.nproc, job->epfd, &job->output);
    }
    if (s == RONDO_OK) {
        s = serve_store(l);
    }
    if (s == RONDO_OK) {
        s = meet_nodes(l);
    }
    if (s == RONDO_OK) {
        s = run_ranks(l, &exit_code);
    }
    if (s != RONDO_OK) {
        exit_code = complain(RUN_EXIT_ERROR);
    }
    rdi_store_server_stop(l->server);
    run_elastic_close(job);
    run_nodes_close(job->nodes);
    run_input_close(&job->input);
    run_output_close(job->output);
    run_guard_close(&job->guard);
    rdi_signals_close(&job->signals);
    return exit_code;
}

static int launch(struct launch *l) {
    struct run_job *job = &l->job;
    int exit_code;
    if (run_program_find(&l->program, l->o.program, &exit_code) != RONDO_OK) {
        return complain(exit_code);
    }
    rdi_env_system(&job->env, NULL, NULL);
    run_prepare_self(&l->was, l->o.nproc);
    job->o = &l->o;
    job->timeout_at = UINT64_MAX;
    job->signals.fd = job->guard.pipe = job->input.from = job->input.to = -1;
    job->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (job->epfd < 0) {
        rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open an epoll descriptor");
        exit_code = complain(RUN_EXIT_ERROR);
    } else if (run_folders(&l->o) != RONDO_OK || find_key(l) != RONDO_OK) {
        exit_code = complain(RUN_EXIT_ERROR);
    } else {
        exit_code = run_job(l);
    }
    if (l->key_fd >= 0) {
        close(l->key_fd);
    }
    rdi_job_clear(&l->identity);
    if (job->epfd >= 0) {
        close(job->epfd);
    }
    free(l->program.path);
    return exit_code;
}

int main(int argc, char **argv) {
    struct launch l;
    memset(&l, 0, sizeof l);
    l.key_fd = -1;
    open_standard_streams();
    rdi_set_last_error("");
    switch (run_options_parse(&l.o, argc, argv)) {
    case RUN_PARSE_EXIT:
        return fflush(stdout) == 0 ? 0 : RUN_EXIT_ERROR;
    case RUN_PARSE_ERROR:
        return complain(RUN_EXIT_USAGE);
    case RUN_PARSE_OK:
        break;
    }
    return launch(&l);
}
