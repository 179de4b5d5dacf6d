// SPDX-License-Identifier: MIT
// See harness.h.
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void pause_for_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

// ---- Starting -----------------------------------------------------------------------------------

static void prepare(struct launched *l) {
    static int number;
    *l = (struct launched){.in = -1, .out = -1, .err = -1, .status = -1};
    snprintf(l->token, sizeof l->token, "test-%d-%d-%ld", (int)getpid(), number++,
             (long)time(NULL));
    l->text[0] = calloc(1, 1);
    l->text[1] = calloc(1, 1);
    l->begun = seconds_now();
}

// Its own process group, as a shell would give it; default signals, whatever the test's runner
// ignores.
_Noreturn static void become(const struct launched *l, const char *const *words) {
    static const char *const dirty[] = {"RANK",         "WORLD_SIZE",     "OMP_NUM_THREADS",
                                        "RONDO_KEY_FD", "RONDO_KEY_FILE", "RONDO_AUTH",
                                        "NO_COLOR"};
    const char *argv[64];
    size_t n = 0;
    // A test that is killed leaves nothing either: the launcher ends its ranks.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < sizeof dirty / sizeof dirty[0]; i++) {
        unsetenv(dirty[i]);
    }
    for (int s = 1; s < 32; s++) {
        signal(s, SIG_DFL);
    }
    close_range(3, ~0u, 0);
    setenv("RONDO_TEST_TOKEN", l->token, 1);
    if (strchr(words[0], '/') == NULL) {
        argv[n++] = RONDO_RUN;
    }
    while (*words != NULL && n < 63) {
        argv[n++] = *words++;
    }
    argv[n] = NULL;
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(95);
}

void launch(struct launched *l, const char *const *words, bool input) {
    int in[2] = {-1, -1}, out[2], err[2];
    prepare(l);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(err, O_CLOEXEC), 0);
    if (input) {
        assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    }
    l->pid = fork();
    assert_true(l->pid >= 0);
    if (l->pid == 0) {
        setpgid(0, 0);
        dup2(input ? in[0] : open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        become(l, words);
    }
    close(out[1]);
    close(err[1]);
    l->out = out[0];
    l->err = err[0];
    if (input) {
        close(in[0]);
        l->in = in[1];
    }
}

void launch_on_terminal(struct launched *l, const char *const *words) {
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    prepare(l);
    l->pid = forkpty(&l->out, NULL, NULL, &size);
    assert_true(l->pid >= 0);
    if (l->pid == 0) {
        setenv("TERM", "xterm", 1);
        become(l, words);
    }
    fcntl(l->out, F_SETFD, FD_CLOEXEC);
    l->in = l->out;
}

// ---- Reading ------------------------------------------------------------------------------------

static void append(struct launched *l, int which, const char *bytes, size_t n) {
    if (l->len[which] + n + 1 > l->cap[which]) {
        l->cap[which] = 2 * (l->len[which] + n + 1);
        l->text[which] = realloc(l->text[which], l->cap[which]);
        assert_non_null(l->text[which]);
    }
    memcpy(l->text[which] + l->len[which], bytes, n);
    l->len[which] += n;
    l->text[which][l->len[which]] = '\0';
}

// Reads once from what is open. False at the end of both, or when the deadline has passed.
static bool read_some(struct launched *l) {
    static char buf[1 << 16];
    struct pollfd p[2] = {{.fd = l->out, .events = POLLIN}, {.fd = l->err, .events = POLLIN}};
    double left = l->begun + LIMIT_S - seconds_now();
    if ((l->out < 0 && l->err < 0) || left <= 0 || poll(p, 2, (int)(left * 1000)) <= 0) {
        return false;
    }
    int *fds[2] = {&l->out, &l->err};
    for (int i = 0; i < 2; i++) {
        if (p[i].revents == 0) {
            continue;
        }
        ssize_t n = read(*fds[i], buf, sizeof buf);
        if (n > 0) {
            append(l, i, buf, (size_t)n);
        } else {
            // The other side of a terminal that was closed reads as EIO.
            if (*fds[i] == l->in) {
                l->in = -1;
            }
            close(*fds[i]);
            *fds[i] = -1;
        }
    }
    return true;
}

static void give_up(struct launched *l, const char *why) {
    kill(l->pid, SIGKILL);
    print_error("%s\noutput so far: %s\nerrors so far: %s\n", why, l->text[0], l->text[1]);
    fail();
}

void await_text(struct launched *l, const char *text, int count) {
    while (count_text(l->text[0], text) + count_text(l->text[1], text) < count) {
        if (!read_some(l)) {
            give_up(l, text);
        }
    }
}

void read_slowly(struct launched *l, int times, long pause_ms) {
    for (int i = 0; i < times && read_some(l); i++) {
        pause_for_ms(pause_ms);
    }
}

void finish(struct launched *l) {
    while (read_some(l)) {}
    int status;
    pid_t done;
    while ((done = waitpid(l->pid, &status, WNOHANG)) == 0 && seconds_now() < l->begun + LIMIT_S) {
        pause_for_ms(5);
    }
    if (done != l->pid) {
        give_up(l, "the launcher did not end");
    }
    l->seconds = seconds_now() - l->begun;
    l->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void release(struct launched *l) {
    if (l->in >= 0 && l->in != l->out) {
        close(l->in);
    }
    if (l->out >= 0) {
        close(l->out);
    }
    if (l->err >= 0) {
        close(l->err);
    }
    free(l->text[0]);
    free(l->text[1]);
}

void run(struct launched *l, int code, const char *const *words) {
    launch(l, words, false);
    finish(l);
    if (l->status != code) {
        print_error("exit code %d, not %d\noutput: %s\nerrors: %s\n", l->status, code, l->text[0],
                    l->text[1]);
        fail();
    }
    assert_nothing_left(l);
}

// ---- Processes ----------------------------------------------------------------------------------

// A zombie has no environment left, so it is not counted.
static bool carries_token(const char *pid, const char *token) {
    char path[300], buf[1 << 16];
    snprintf(path, sizeof path, "/proc/%s/environ", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    size_t n = 0;
    ssize_t got;
    while (n < sizeof buf && (got = read(fd, buf + n, sizeof buf - n)) > 0) {
        n += (size_t)got;
    }
    close(fd);
    return memmem(buf, n, token, strlen(token)) != NULL;
}

static int count_processes(const char *token) {
    DIR *dir = opendir("/proc");
    struct dirent *e;
    int count = 0;
    assert_non_null(dir);
    while ((e = readdir(dir)) != NULL) {
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9') {
            count += carries_token(e->d_name, token);
        }
    }
    closedir(dir);
    return count;
}

void assert_nothing_left(const struct launched *l) {
    double until = seconds_now() + 2;
    int count;
    while ((count = count_processes(l->token)) > 0 && seconds_now() < until) {
        pause_for_ms(10);
    }
    assert_int_equal(count, 0);
}

// ---- Text and files -----------------------------------------------------------------------------

int count_text(const char *in, const char *text) {
    // Not strstr() or memmem(): with them a sanitizer looks at all of the text on each call.
    size_t n = strlen(text);
    int count = 0;
    while (*in != '\0') {
        bool found = *in == *text && strncmp(in, text, n) == 0;
        count += found;
        in += found ? n : 1;
    }
    return count;
}

void assert_contains(const char *in, const char *text) {
    if (strstr(in, text) == NULL) {
        print_error("not found: %s\nin: %s\n", text, in);
        fail();
    }
}

void make_folder(char path[64]) {
    snprintf(path, 64, "/tmp/rondo-launch-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

void remove_folder(const char *path) { nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

char *read_whole(const char *path) {
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char *text = NULL;
    size_t cap = 0;
    ssize_t n = getdelim(&text, &cap, '\0', f);
    fclose(f);
    if (n < 0) {
        free(text);
        text = calloc(1, 1);
    }
    return text;
}
