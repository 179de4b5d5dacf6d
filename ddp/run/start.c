// SPDX-License-Identifier: MIT
// Finds the program and starts it as one rank.
#include "ddp/run/run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// ---- The program --------------------------------------------------------------------------------

// 0, or the errno that running it would give.
static int runnable(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0) {
        return errno;
    }
    if (S_ISDIR(st.st_mode)) {
        return EISDIR;
    }
    return access(path, X_OK) == 0 ? 0 : errno;
}

static rondo_status not_runnable(const char *name, int err, int *exit_code) {
    *exit_code = RUN_EXIT_NOT_RUNNABLE;
    return rdi_fail_errno(RONDO_ERR_INVALID, err, "cannot run %s", name);
}

rondo_status run_program_find(struct run_program *p, char **argv, int *exit_code) {
    const char *name = argv[0], *path = getenv("PATH");
    char *found = NULL;
    int err = ENOENT;
    *exit_code = RUN_EXIT_NOT_FOUND;
    p->argv = argv;
    if (strchr(name, '/') != NULL) {
        err = runnable(name);
        if (err != 0 && err != ENOENT && err != ENOTDIR) {
            return not_runnable(name, err, exit_code);
        }
        if (err != 0) {
            return rdi_fail(RONDO_ERR_INVALID, "there is no program %s", name);
        }
        found = strdup(name);
    }
    path = path != NULL ? path : "/usr/local/bin:/usr/bin:/bin";
    while (err != 0 && name[0] != '\0') {
        const char *colon = strchrnul(path, ':');
        int n = (int)(colon - path);
        // An empty entry is the current folder.
        if (asprintf(&found, "%.*s%s%s", n, path, n > 0 ? "/" : "./", name) < 0) {
            found = NULL;
            break;
        }
        int e = runnable(found);
        err = e == 0 ? 0 : e == EACCES ? EACCES : err;
        if (e != 0) {
            free(found);
            found = NULL;
        }
        if (*colon == '\0') {
            break;
        }
        path = colon + 1;
    }
    if (err == EACCES) {
        return not_runnable(name, err, exit_code);
    }
    if (err != 0) {
        struct stat st;
        return rdi_fail(RONDO_ERR_INVALID, "there is no program '%s' in PATH%s%s%s", name,
                        stat(name, &st) == 0 ? "; for the one in this folder write ./" : "",
                        stat(name, &st) == 0 ? name : "", "");
    }
    if (found == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the program's name");
    }
    p->path = found;
    return RONDO_OK;
}

// ---- This process -------------------------------------------------------------------------------

void run_prepare_self(struct run_inherited *was, int n) {
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, &was->pipe);
    // Two pipes and a pidfd a rank, and some of our own. If the hard limit is lower, the descriptor
    // that is one too many gives the error.
    rlim_t need = 64 + 4 * (rlim_t)n;
    if (getrlimit(RLIMIT_NOFILE, &was->files) == 0 && was->files.rlim_cur < need) {
        struct rlimit now = was->files;
        now.rlim_cur = need < now.rlim_max ? need : now.rlim_max;
        setrlimit(RLIMIT_NOFILE, &now);
    }
}

// ---- A rank -------------------------------------------------------------------------------------

// An environment being made: `environ` with some variables replaced. Strings are owned from `own`
// on.
struct variables {
    char **list;
    size_t n, own, cap;
};

static bool is_variable(const char *entry, const char *name) {
    size_t n = strlen(name);
    return strncmp(entry, name, n) == 0 && entry[n] == '=';
}

static int set_variable(void *arg, const char *name, const char *value) {
    struct variables *v = arg;
    for (size_t i = 0; i < v->own; i++) {
        if (is_variable(v->list[i], name)) {
            // The order of variables has no meaning.
            v->list[i] = v->list[--v->own];
            v->list[v->own] = v->list[--v->n];
            i--;
        }
    }
    if (value == NULL) {
        return 0;
    }
    if (v->n + 1 == v->cap || asprintf(&v->list[v->n], "%s=%s", name, value) < 0) {
        return -1;
    }
    v->n++;
    return 0;
}

#define RUN_VARIABLES 32 // more than rdi_place_env() sets
static rondo_status make_environment(struct variables *v, const struct rdi_place *place) {
    size_t n = 0;
    while (environ[n] != NULL) {
        n++;
    }
    *v = (struct variables){.n = n, .own = n, .cap = n + RUN_VARIABLES};
    v->list = calloc(v->cap, sizeof *v->list);
    if (v->list != NULL) {
        memcpy(v->list, environ, n * sizeof *v->list);
    }
    if (v->list == NULL || rdi_place_env(place, set_variable, v) != 0) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for the environment of rank %d", place->rank);
    }
    v->list[v->n] = NULL;
    return RONDO_OK;
}

static void free_environment(struct variables *v) {
    for (size_t i = v->own; v->list != NULL && i < v->n; i++) {
        free(v->list[i]);
    }
    free(v->list);
}

// The child's side. A thread of the store may exist in the parent, so only system calls are made
// here.
_Noreturn static void exec_rank(const struct run_start *s, const struct run_rank_io *io, char **env,
                                int report) {
    dup2(io->in, STDIN_FILENO);
    dup2(io->out, STDOUT_FILENO);
    dup2(io->err, STDERR_FILENO);
    sigaction(SIGPIPE, &s->was->pipe, NULL);
    setrlimit(RLIMIT_NOFILE, &s->was->files);
    execve(s->program->path, s->program->argv, env);
    int err = errno;
    ssize_t ignored = write(report, &err, sizeof err);
    (void)ignored;
    _exit(err == ENOENT ? RUN_EXIT_NOT_FOUND : RUN_EXIT_NOT_RUNNABLE);
}

// Waits until the child runs the program; the pipe closes by itself then.
static rondo_status read_report(const struct run_start *s, int fd, int *exit_code) {
    int err = 0;
    ssize_t n;
    do {
        n = read(fd, &err, sizeof err);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof err) {
        return RONDO_OK;
    }
    *exit_code = err == ENOENT ? RUN_EXIT_NOT_FOUND : RUN_EXIT_NOT_RUNNABLE;
    const char *cause = err == ENOENT    ? " (the interpreter in its first line is missing)"
                        : err == ENOEXEC ? " (a script needs a first line such as #!/bin/sh)"
                                         : "";
    return rdi_fail_errno(RONDO_ERR_INVALID, err, "cannot run %s%s", s->program->path, cause);
}

rondo_status run_start_rank(const struct run_start *s, const struct rdi_place *place,
                            const struct run_rank_io *io, pid_t *pid, int *exit_code) {
    struct variables env;
    int report[2];
    *exit_code = RUN_EXIT_ERROR;
    rondo_status status = make_environment(&env, place);
    if (status != RONDO_OK) {
        goto out_env;
    }
    if (pipe2(report, O_CLOEXEC) != 0) {
        status = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open a pipe");
        goto out_env;
    }
    status = place->restart == 0
                 ? rdi_group_fork(s->group, s->signals, pid)
                 : rdi_group_fork_again(s->group, s->signals, place->local_rank, pid);
    if (status == RONDO_OK && *pid == 0) {
        exec_rank(s, io, env.list, report[1]);
    }
    close(report[1]);
    if (status == RONDO_OK) {
        status = read_report(s, report[0], exit_code);
    }
    close(report[0]);
out_env:
    free_environment(&env);
    return status;
}
