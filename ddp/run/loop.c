// SPDX-License-Identifier: MIT
// Waits for whatever happens first: output, a signal, the end of a rank, news of another node, a
// deadline.
#include "ddp/run/run.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

// A node that is told of a failure ends its ranks in the time that is given to ours; the message
// and its answer take some more.
#define MESSAGES_NS 1000000000u

void run_say(struct run_job *job, int level, const char *fmt, ...) {
    char line[RUN_TEXT + 64];
    if (job->o->verbose < level) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    run_output_say(job->output, line);
}

// ---- The end ------------------------------------------------------------------------------------

static uint64_t grace_ns(const struct run_job *job) { return (uint64_t)(job->o->grace * 1e9); }

static void decide(struct run_job *job, int exit_code, const char *text, bool tell) {
    if (job->decided) {
        return;
    }
    uint64_t now = rdi_now(&job->env);
    job->decided = true;
    job->exit_code = exit_code;
    job->leave_at = now + grace_ns(job) + RDI_KILL_NS + MESSAGES_NS;
    snprintf(job->verdict, sizeof job->verdict, "%s", text);
    rdi_group_end(&job->group, now, grace_ns(job));
    run_say(job, 1, "%s; the others are ended", text);
    if (job->nodes != NULL && tell) {
        char host[RDI_HOST_MAX] = "", message[2 * RUN_TEXT];
        gethostname(host, sizeof host - 1);
        snprintf(message, sizeof message, "node %d (%s): %s", job->o->node_rank, host, text);
        run_nodes_fail(job->nodes, exit_code, message);
    }
}

void run_decide(struct run_job *job, int exit_code, const char *fmt, ...) {
    char text[RUN_TEXT];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    decide(job, exit_code, text, true);
}

void run_describe(const struct run_job *job, const struct rdi_exit *e, char text[RUN_TEXT]) {
    int sig = job->forwarded;
    char what[256], log[160] = "";
    rdi_exit_describe(e, what, sizeof what);
    if (job->o->log_dir != NULL) {
        snprintf(log, sizeof log, "; see %.100s/rank-%d.err", job->o->log_dir, e->rank);
    }
    const char *hint = "";
    if (e->signal == SIGKILL) {
        hint = "; if nobody sent it, the kernel did because memory ran out: see dmesg";
    } else if (e->signal == SIGBUS) {
        hint = "; often a full /dev/shm, or a file that became shorter while it was mapped";
    }
    snprintf(text, RUN_TEXT, "%s%s%s%s%s", what, sig != 0 ? ", after SIG" : "",
             sig != 0 ? sigabbrev_np(sig) : "", log, hint);
}

void run_decide_failed(struct run_job *job, const struct rdi_exit *e) {
    int code = rdi_exit_code(e), sig = job->forwarded;
    char text[RUN_TEXT];
    if (sig != 0 && code == 128 + sig) {
        run_decide(job, code, "stopped by SIG%s", sigabbrev_np(sig));
        return;
    }
    run_describe(job, e, text);
    run_decide(job, code, "%s", text);
}

static void decide_timeout(struct run_job *job) {
    char running[128] = "";
    int shown = 0;
    for (int i = 0; i < job->group.started; i++) {
        if (job->group.pidfds[i] >= 0 && shown++ < 16) {
            size_t used = strlen(running);
            snprintf(running + used, sizeof running - used, "%s%d", used > 0 ? ", " : "",
                     job->group.first_rank + i);
        }
    }
    run_decide(job, RUN_EXIT_TIMEOUT, "the job did not end within %g s; still running: rank %s%s",
               job->o->timeout, running, shown > 16 ? ", ..." : "");
}

// ---- Signals ------------------------------------------------------------------------------------

static bool asks_to_end(int sig) {
    return sig == SIGINT || sig == SIGTERM || sig == SIGHUP || sig == SIGQUIT;
}

// ^Z: the ranks are not in the terminal's process group, so they stop and go on with us.
static void stop_with_ranks(struct run_job *job) {
    rdi_group_signal(&job->group, SIGSTOP, true);
    raise(SIGSTOP);
    rdi_group_signal(&job->group, SIGCONT, true);
}

static void on_signal(struct run_job *job, int sig) {
    uint64_t now = rdi_now(&job->env);
    if (sig == SIGTSTP) {
        stop_with_ranks(job);
        return;
    }
    if (!asks_to_end(sig)) {
        // For the rank itself, not for helper processes that it may have and that do not expect it.
        rdi_group_signal(&job->group, sig, false);
        return;
    }
    if (job->group.state == RDI_GROUP_DONE) {
        // Nothing left but output that nobody reads, or other nodes.
        run_decide(job, 128 + sig, "stopped by SIG%s", sigabbrev_np(sig));
        job->hurry = true;
    } else if (sig == SIGINT && job->forwarded == SIGINT) {
        run_decide(job, 128 + sig, "killed by a second SIGINT");
        rdi_group_end(&job->group, now, 0);
    } else {
        run_say(job, 1, "SIG%s is passed on to the ranks", sigabbrev_np(sig));
        rdi_group_signal(&job->group, sig, true);
    }
    job->forwarded = sig;
}

// ---- Progress -----------------------------------------------------------------------------------

static void read_news(struct run_job *job) {
    struct run_news news;
    run_nodes_read(job->nodes, &news);
    if (news.kind == RUN_NEWS_FAIL) {
        // Node 0 passes it on to the others.
        if (job->o->node_rank == 0) {
            run_nodes_fail(job->nodes, news.code, news.text);
        }
        decide(job, news.code, news.text, false);
    } else if (news.kind == RUN_NEWS_DONE) {
        job->hurry = true;
    } else if (news.kind == RUN_NEWS_ALONE && !job->alone) {
        job->alone = true;
        run_say(job, 0, "%s; the ranks of this node go on, but none can be started again",
                news.text);
    }
}

static void on_ranks_gone(struct run_job *job) {
    int local_rank;
    job->end_told = true;
    if (rdi_group_stuck(&job->group, &local_rank) > 0) {
        run_say(job, 0, "rank %d (pid %d) does not end even after SIGKILL: it waits in the kernel",
                job->group.first_rank + local_rank, (int)job->group.pids[local_rank]);
    }
    if (job->nodes != NULL && !job->alone) {
        run_nodes_end(job->nodes, !job->decided);
        if (!job->decided) {
            run_say(job, 1, "the ranks of this node have ended; waiting for the other nodes");
        }
    }
}

static void step(struct run_job *job, uint64_t now) {
    rdi_group_progress(&job->group, now);
    if (job->group.failed && !job->decided) {
        run_decide_failed(job, &job->group.first);
    }
    run_elastic_step(job, now);
    if (now >= job->timeout_at && job->group.state == RDI_GROUP_RUNNING) {
        decide_timeout(job);
    }
    if (job->group.state == RDI_GROUP_DONE && !job->end_told) {
        on_ranks_gone(job);
    }
}

// Whether the other nodes need us no more, nor we them.
static bool nodes_settled(struct run_job *job, uint64_t now) {
    if (job->nodes == NULL || job->hurry) {
        return true;
    }
    if (job->o->node_rank > 0) {
        return job->decided || job->alone;
    }
    enum run_ends ends = run_nodes_ends(job->nodes);
    if (job->decided) {
        return ends != RUN_ENDS_NOT_YET || now >= job->leave_at;
    }
    if (ends == RUN_ENDS_WELL) {
        run_nodes_done(job->nodes);
        return true;
    }
    return false;
}

static bool finished(struct run_job *job, uint64_t now) {
    if (job->group.state != RDI_GROUP_DONE) {
        return false;
    }
    bool written = run_output_drain(job->output);
    if (!nodes_settled(job, now)) {
        return false;
    }
    if (written && job->decided && !job->verdict_said) {
        // Last, so that it is not lost among what 64 ranks say when they are ended.
        job->verdict_said = true;
        run_output_say(job->output, job->verdict);
        written = run_output_drain(job->output);
    }
    return written || (job->hurry && job->decided);
}

static int sleep_ms(const struct run_job *job, uint64_t now) {
    uint64_t until = run_elastic_next(job);
    until = job->group.deadline < until ? job->group.deadline : until;
    if (job->group.state == RDI_GROUP_RUNNING && job->timeout_at < until) {
        until = job->timeout_at;
    }
    if (job->group.state == RDI_GROUP_DONE && job->decided && job->nodes != NULL &&
        job->o->node_rank == 0 && now < job->leave_at && job->leave_at < until) {
        until = job->leave_at;
    }
    if (until == UINT64_MAX) {
        return -1;
    }
    uint64_t ms = until > now ? (until - now + 999999) / 1000000 : 0;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

static void on_event(struct run_job *job, uint64_t id) {
    uint32_t kind = (uint32_t)(id >> 32), index = (uint32_t)id;
    int sig;
    switch ((enum run_ev)kind) {
    case RUN_EV_SIGNAL:
        while ((sig = rdi_signals_next(&job->signals)) != 0) {
            on_signal(job, sig);
        }
        break;
    case RUN_EV_STREAM:
    case RUN_EV_SINK:
        run_output_event(job->output, kind, index);
        break;
    case RUN_EV_INPUT:
        run_input_event(&job->input);
        break;
    case RUN_EV_NODES:
        read_news(job);
        break;
    case RUN_EV_GROUP:
        break; // step() looks
    }
}

int run_loop(struct run_job *job) {
    for (;;) {
        struct epoll_event events[64];
        uint64_t now = rdi_now(&job->env);
        step(job, now);
        if (finished(job, now)) {
            return job->exit_code;
        }
        int n = epoll_wait(job->epfd, events, 64, sleep_ms(job, now));
        for (int i = 0; i < n; i++) {
            on_event(job, events[i].data.u64);
        }
    }
}
