// SPDX-License-Identifier: MIT
// The keeper's view of a checked process: starts it, hears its verdict, stops it when it asks for that, ends it
// when its time is over, and puts into words how it ended.
#include "transport/conform/check.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OVERTIME_MS 3000 // for a child to say itself that its time is over
#define NAP_MS 20

static const char verdicts[] = "PFSA"; // in the order of enum cf_verdict

struct child {
    pid_t pid;
    int wire, errors; // errors: where its standard error goes
    struct cf_note *note;
    bool told, ended;
    int status;
};

unsigned cf_deadline(const struct cf_place *place, const struct cf_check *check) {
    unsigned own = check->seconds * (CF_SANITIZED ? 3 : 1);
    own *= place->options->longer && (check->needs & CF_LONGER) == 0 ? 10 : 1;
    unsigned wish = (unsigned)place->options->timeout_s; // 0: none
    bool fixed = (check->needs & CF_OWN_TIME) != 0 && wish < own;
    return wish == 0 || fixed ? own : wish;
}

// Appends what the child printed, its end if it is long.
static void add_errors(const struct child *ch, char *text, size_t cap) {
    char tail[1200];
    off_t size = lseek(ch->errors, 0, SEEK_END);
    off_t from = size > (off_t)sizeof tail - 1 ? size - (off_t)sizeof tail + 1 : 0;
    ssize_t n = pread(ch->errors, tail, sizeof tail - 1, from);
    size_t used = strlen(text);
    if (n > 0 && used + 16 < cap) {
        tail[n] = '\0';
        snprintf(text + used, cap - used, "\nit printed: %s%s", from > 0 ? "..." : "", tail);
    }
}

static void stop_for_a_while(const struct child *ch, unsigned ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    kill(ch->pid, SIGSTOP);
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {}
    atomic_fetch_add(&ch->note->stops, 1);
    kill(ch->pid, SIGCONT);
}

// Reads what the child says: a verdict and a text, or a wish to be stopped. False: it says no more.
static bool hear(struct child *ch, struct cf_outcome *out) {
    static char message[CF_TEXT + 1];
    ssize_t n = recv(ch->wire, message, sizeof message - 1, MSG_DONTWAIT);
    if (n <= 0) {
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    }
    message[n] = '\0';
    if (message[0] == 'W') {
        stop_for_a_while(ch, (unsigned)strtoul(message + 1, NULL, 10));
    } else if (strchr(verdicts, message[0]) != NULL) {
        ch->told = true;
        out->verdict = (enum cf_verdict)(strchr(verdicts, message[0]) - verdicts);
        snprintf(out->text, sizeof out->text, "%s", message + 1);
    }
    return true;
}

static void judge_end(struct child *ch, struct cf_outcome *out) {
    bool by_itself = atomic_load(&ch->note->deadly) != 0;
    char how[200] = "";
    if (WIFSIGNALED(ch->status)) {
        int sig = WTERMSIG(ch->status);
        if (by_itself && sig == SIGKILL) {
            out->verdict = CF_PASS;
            return;
        }
        snprintf(how, sizeof how, "the process was ended by signal %d (%s)", sig, strsignal(sig));
    } else if (WEXITSTATUS(ch->status) != 0) {
        snprintf(how, sizeof how, "the process ended with code %d%s", WEXITSTATUS(ch->status),
                 ch->told && out->verdict == CF_PASS ? " after the check had passed" : "");
    } else if (!ch->told) {
        snprintf(how, sizeof how, "the process ended without a word");
    }
    if (how[0] != '\0' && !(ch->told && out->verdict == CF_FAIL)) {
        out->verdict = CF_FAIL;
        snprintf(out->text, sizeof out->text, "%s while: %s", how, ch->note->step);
    }
    if (out->verdict == CF_FAIL) {
        add_errors(ch, out->text, sizeof out->text);
    }
}

static void judge_hang(const struct cf_place *place, const struct cf_check *check, struct child *ch,
                       struct cf_outcome *out) {
    out->verdict = CF_FAIL;
    snprintf(out->text, sizeof out->text, "it hung: not over after %u s, and ended; it was: %s%s%s",
             cf_deadline(place, check), ch->note->step, ch->note->links[0] != '\0' ? "\n" : "",
             ch->note->links);
    add_errors(ch, out->text, sizeof out->text);
}

static void watch_child(const struct cf_place *place, const struct cf_check *check,
                        struct child *ch, struct cf_outcome *out) {
    struct rdi_env env;
    rdi_env_system(&env, NULL, NULL);
    uint64_t end = rdi_now(&env) + cf_deadline(place, check) * CF_SECOND + OVERTIME_MS * CF_MS;
    bool open = true;
    while (!ch->ended) {
        struct pollfd p = {.fd = open ? ch->wire : -1, .events = POLLIN};
        poll(&p, 1, NAP_MS);
        if (open && p.revents != 0) {
            open = hear(ch, out);
        }
        if (waitpid(ch->pid, &ch->status, WNOHANG) == ch->pid) {
            ch->ended = true;
        } else if (rdi_now(&env) > end) {
            kill(ch->pid, SIGKILL);
            waitpid(ch->pid, &ch->status, 0);
            judge_hang(place, check, ch, out);
            return;
        }
    }
    while (hear(ch, out) && !ch->told) { // what it said last
        struct pollfd p = {.fd = ch->wire, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0) {
            break;
        }
    }
    judge_end(ch, out);
}

static bool prepare(struct child *ch, int wire[2]) {
    ch->note =
        mmap(NULL, sizeof *ch->note, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ch->errors = memfd_create("rondo-conform", MFD_CLOEXEC);
    return ch->note != MAP_FAILED && ch->errors >= 0 &&
           socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, wire) == 0;
}

void cf_run_child(const struct cf_place *place, const struct cf_check *check, int seq, int round,
                  struct cf_outcome *out) {
    struct child ch = {.errors = -1};
    struct rdi_env env;
    int wire[2] = {-1, -1};
    rdi_env_system(&env, NULL, NULL);
    uint64_t start = rdi_now(&env);
    *out = (struct cf_outcome){.verdict = CF_FAIL};
    fflush(NULL);
    pid_t pid = prepare(&ch, wire) ? fork() : -1;
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ch.errors, STDERR_FILENO);
        close(ch.errors);
        close(wire[0]);
        cf_child_main(place, check, seq, round, ch.note, wire[1]);
    }
    if (pid > 0) {
        ch.pid = pid;
        ch.wire = wire[0];
        close(wire[1]);
        wire[1] = -1;
        watch_child(place, check, &ch, out);
    } else {
        snprintf(out->text, sizeof out->text, "no process for the check: %s", strerror(errno));
    }
    for (int i = 0; i < 2; i++) {
        if (wire[i] >= 0) {
            close(wire[i]);
        }
    }
    if (ch.errors >= 0) {
        close(ch.errors);
    }
    if (ch.note != NULL && ch.note != MAP_FAILED) {
        munmap(ch.note, sizeof *ch.note);
    }
    out->seconds = (double)(rdi_now(&env) - start) / 1e9;
}
