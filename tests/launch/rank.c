// SPDX-License-Identifier: MIT
// A rank for the launcher's tests: does what its arguments say, one after the other.
//   rank [R[/K]:]STEP...   a step with "R:" is for rank R only, with "R/K:" for its K-th restart (0: the first run)
// When all steps are done, it exits with 0.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int rank, restarts;
static pid_t last_child;

static void pause_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {}
}

static void write_all(int fd, const char *bytes, size_t n) {
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno != EINTR) {
            _exit(99);
        }
        bytes += done > 0 ? done : 0;
        n -= done > 0 ? (size_t)done : 0;
    }
}

static int signal_number(const char *name) {
    for (int s = 1; s < NSIG; s++) {
        const char *abbrev = sigabbrev_np(s);
        if (abbrev != NULL && strcmp(abbrev, name) == 0) {
            return s;
        }
    }
    _exit(98);
}

// ---- Steps --------------------------------------------------------------------------------------

static void do_exit(const char *code) { exit(atoi(code)); }
static void do_sleep(const char *ms) { pause_ms(atol(ms)); }
static void do_kill(const char *name) {
    // Whatever a sanitizer has set up.
    signal(signal_number(name), SIG_DFL);
    raise(signal_number(name));
}
static void do_ignore(const char *name) { signal(signal_number(name), SIG_IGN); }

// Text with \r, \n and \e, unbuffered.
static void print(int fd, const char *text) {
    for (; *text != '\0'; text++) {
        char c = *text;
        if (c == '\\') {
            c = *++text;
            c = (char)(c == 'r' ? '\r' : c == 'n' ? '\n' : c == 'e' ? 27 : c);
        }
        write_all(fd, &c, 1);
    }
}
static void do_print(const char *text) { print(STDOUT_FILENO, text); }
static void do_error(const char *text) { print(STDERR_FILENO, text); }

// Numbered lines of many lengths, each with its own check, in writes that do not respect their
// ends.
static void do_lines(const char *count) {
    static char buf[1 << 16];
    size_t used = 0, written = 0;
    for (int i = 0; i < atoi(count); i++) {
        int fill = (i * 7919 + rank * 31) % 300;
        used += (size_t)snprintf(buf + used, sizeof buf - used, "rank %d line %d %0*d end\n", rank,
                                 i, fill + 1, 7);
        if (used > sizeof buf - 1000) {
            size_t piece = 1 + (size_t)(i * 131 % 5000);
            for (written = 0; written < used; written += piece) {
                write_all(STDOUT_FILENO, buf + written,
                          piece < used - written ? piece : used - written);
            }
            used = 0;
        }
    }
    write_all(STDOUT_FILENO, buf, used);
}

// One line of N bytes.
static void do_long(const char *bytes) {
    size_t n = strtoul(bytes, NULL, 10);
    char *text = malloc(n + 1);
    memset(text, 'a' + rank, n);
    text[n] = '\n';
    write_all(STDOUT_FILENO, text, n + 1);
    free(text);
}

static void do_env(const char *name) {
    const char *value = getenv(name);
    printf("%s=%s\n", name, value != NULL ? value : "(unset)");
    fflush(stdout);
}

static void write_pid(const char *path, pid_t pid) {
    char temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *f = fopen(temporary, "w");
    fprintf(f, "%d\n", (int)pid);
    fclose(f);
    rename(temporary, path);
}
static void do_pidfile(const char *path) { write_pid(path, getpid()); }
// That of the last child.
static void do_child_pid(const char *path) { write_pid(path, last_child); }

static void do_await_file(const char *path) {
    struct stat st;
    while (stat(path, &st) != 0) {
        pause_ms(5);
    }
}

// Waits until the process named in a file has ended.
static void do_await_exit(const char *path) {
    int pid = 0;
    do_await_file(path);
    FILE *f = fopen(path, "r");
    if (fscanf(f, "%d", &pid) != 1) {
        _exit(97);
    }
    fclose(f);
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    if (p.fd >= 0) {
        poll(&p, 1, -1);
    }
}

// A child that cannot be asked to end: "group" in a process group of its own, "same" in ours.
static void do_child(const char *kind) {
    last_child = fork();
    if (last_child == 0) {
        if (strcmp(kind, "group") == 0) {
            setpgid(0, 0);
        }
        signal(SIGTERM, SIG_IGN);
        signal(SIGHUP, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        pause_ms(300000);
        _exit(0);
    }
}

// A child that leaves on SIGTERM, but takes its time, and says so in a file.
static void do_slow_child(const char *path) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    if (fork() == 0) {
        int sig;
        sigwait(&term, &sig);
        pause_ms(500);
        close(open(path, O_WRONLY | O_CREAT, 0666));
        _exit(0);
    }
    sigprocmask(SIG_UNBLOCK, &term, NULL);
}

static volatile sig_atomic_t caught[NSIG];
static void on_signal(int sig) { caught[sig]++; }

// Says "ready", then the names of signals as they come; ends after SIGUSR2.
static void do_signals(const char *unused) {
    static const int list[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
    (void)unused;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        signal(list[i], on_signal);
    }
    print(STDOUT_FILENO, "ready\n");
    while (caught[SIGUSR2] == 0) {
        pause_ms(5);
        for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
            while (caught[list[i]] > 0) {
                char line[64];
                caught[list[i]]--;
                snprintf(line, sizeof line, "got %s\n", sigabbrev_np(list[i]));
                print(STDOUT_FILENO, line);
                if (list[i] == SIGUSR2) {
                    return;
                }
            }
        }
    }
}

// What standard input, output and errors are.
static void do_streams(const char *unused) {
    char line[128], byte;
    (void)unused;
    snprintf(line, sizeof line, "stdin %s, terminal %d %d %d\n",
             read(STDIN_FILENO, &byte, 1) == 0 ? "empty" : "not empty", isatty(0), isatty(1),
             isatty(2));
    print(STDOUT_FILENO, line);
}

static void do_cat(const char *unused) {
    char buf[4096];
    ssize_t n;
    (void)unused;
    while ((n = read(STDIN_FILENO, buf, sizeof buf)) > 0) {
        write_all(STDOUT_FILENO, buf, (size_t)n);
    }
}

static void do_no_core(const char *unused) {
    struct rlimit none = {0, 0};
    (void)unused;
    setrlimit(RLIMIT_CORE, &none);
}

// Open descriptors above 2, and signals that are blocked or ignored: what should not be inherited.
static void do_inherited(const char *unused) {
    sigset_t blocked;
    struct rlimit files;
    char line[128];
    int fds = 0, masked = 0, ignored = 0;
    (void)unused;
    for (int fd = 3; fd < 256; fd++) {
        fds += fcntl(fd, F_GETFD) >= 0;
    }
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int s = 1; s < 32; s++) {
        struct sigaction a;
        masked += sigismember(&blocked, s) == 1;
        ignored += sigaction(s, NULL, &a) == 0 && a.sa_handler == SIG_IGN;
    }
    getrlimit(RLIMIT_NOFILE, &files);
    snprintf(line, sizeof line, "fds %d masked %d ignored %d files %ld leader %d\n", fds, masked,
             ignored, (long)files.rlim_cur, getsid(0) == getpid() && getpgrp() == getpid());
    print(STDOUT_FILENO, line);
}

static const struct {
    const char *name;
    void (*run)(const char *arg);
} steps[] = {
    {"exit", do_exit},
    {"sleep", do_sleep},
    {"kill", do_kill},
    {"ignore", do_ignore},
    {"print", do_print},
    {"error", do_error},
    {"lines", do_lines},
    {"long", do_long},
    {"env", do_env},
    {"pidfile", do_pidfile},
    {"await-file", do_await_file},
    {"await-exit", do_await_exit},
    {"child", do_child},
    {"child-pid", do_child_pid},
    {"slow-child", do_slow_child},
    {"signals", do_signals},
    {"streams", do_streams},
    {"cat", do_cat},
    {"no-core", do_no_core},
    {"inherited", do_inherited},
};

static bool run_step(const char *step) {
    size_t n = strcspn(step, "=");
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (strlen(steps[i].name) == n && memcmp(steps[i].name, step, n) == 0) {
            steps[i].run(step[n] == '=' ? step + n + 1 : "");
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv) {
    const char *text = getenv("RANK"), *again = getenv("RONDO_RESTART");
    rank = text != NULL ? atoi(text) : 0;
    restarts = again != NULL ? atoi(again) : 0;
    for (int i = 1; i < argc; i++) {
        char *end;
        long only = strtol(argv[i], &end, 10);
        long which = restarts;
        if (end != argv[i] && *end == '/') {
            which = strtol(end + 1, &end, 10);
        }
        bool filtered = end != argv[i] && *end == ':';
        if (filtered && (only != rank || which != restarts)) {
            continue;
        }
        if (!run_step(filtered ? end + 1 : argv[i])) {
            fprintf(stderr, "rank: unknown step %s\n", argv[i]);
            return 96;
        }
    }
    return 0;
}
