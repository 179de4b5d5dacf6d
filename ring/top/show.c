// SPDX-License-Identifier: MIT
// The screen: a line a rank, and what follows from them.
#include "ring/top/top.h"

#include <stdlib.h>
#include <string.h>

static const char *amount(double bytes, const char *unit, char *buf, size_t cap) {
    static const char *const prefix[] = {"", "K", "M", "G", "T"};
    int i = 0;
    if (bytes < 0) {
        return "-";
    }
    while (bytes >= 1024 && i < 4) {
        bytes /= 1024;
        i++;
    }
    snprintf(buf, cap, bytes < 10 && i > 0 ? "%.1f%s%s" : "%.0f%s%s", bytes, prefix[i], unit);
    return buf;
}

static const char *duration(double s, char *buf, size_t cap) {
    snprintf(buf, cap,
             s < 1e-3   ? "%.0fus"
             : s < 1    ? "%.0fms"
             : s < 100  ? "%.1fs"
             : s < 6000 ? "%.0fm"
                        : "%.0fh",
             s < 1e-3   ? s * 1e6
             : s < 1    ? s * 1e3
             : s < 100  ? s
             : s < 6000 ? s / 60
                        : s / 3600);
    return buf;
}

// The wait for a peer, if there is one, else the first one.
static const struct top_wait *main_wait(const struct top_op *o) {
    const struct top_wait *w = o->nwaits ? &o->waits[0] : NULL;
    for (size_t i = 0; i < o->nwaits; i++) {
        if (o->waits[i].for_peer) {
            return &o->waits[i];
        }
    }
    return w;
}

static const struct top_op *last_op(const struct top_rank *r) {
    const struct top_op *last = NULL;
    for (size_t c = 0; c < r->ncomms; c++) {
        for (size_t i = 0; i < r->comms[c].nrecent; i++) {
            const struct top_op *o = &r->comms[c].recent[i];
            last = o->finished && (!last || o->finished > last->finished) ? o : last;
        }
    }
    return last;
}

static void what(const struct top_op *o, char *buf, size_t cap) {
    char bytes[32];
    snprintf(buf, cap, "%s %s %s%s%s %s", o->op, amount((double)o->bytes, "B", bytes, sizeof bytes),
             o->type, o->redop[0] ? " " : "", o->redop, o->algorithm);
}

static const char *state_of(const struct top_rank *r, const struct top_op *o) {
    bool stopped = r->state == 'T' || r->state == 't';
    if (!r->answered) {
        return stopped ? "stopped" : r->local ? "no answer" : "not seen";
    }
    for (size_t i = 0; i < r->ncomms; i++) {
        if (r->comms[i].failed_at) {
            return "failed";
        }
    }
    if (!o) {
        return "outside";
    }
    const struct top_wait *w = main_wait(o);
    return w && w->for_peer ? "waiting" : "working";
}

static void put_rank(char *line, size_t cap, const struct top_rank *r) {
    const struct top_comm *c = NULL;
    const struct top_op *o = top_current(r, &c), *last = last_op(r);
    char op[160] = "-", age[32] = "", wait[96] = "", out[32], in[32], number[24] = "";
    if (o) {
        const struct top_wait *w = main_wait(o);
        what(o, op, sizeof op);
        duration(top_age(r, c, o), age, sizeof age);
        snprintf(number, sizeof number, "%llu", (unsigned long long)o->seq);
        if (w && w->for_peer) {
            snprintf(wait, sizeof wait, "%s for rank %d", w->wait, w->rank);
        } else if (w) {
            snprintf(wait, sizeof wait, "%s", w->wait);
        }
    } else if (last) {
        what(last, op, sizeof op);
        snprintf(number, sizeof number, "%llu", (unsigned long long)last->seq);
        duration((double)(r->monotonic - last->finished) * 1e-9, age, sizeof age);
        snprintf(wait, sizeof wait, "(ended)");
    }
    snprintf(line, cap, "%5d %7d %-12.12s %-9s %8s %8s  %-40.40s %6s  %s", r->rank, r->pid, r->host,
             state_of(r, o), amount(r->send_rate, "B/s", out, sizeof out),
             amount(r->receive_rate, "B/s", in, sizeof in), op, number[0] ? number : "-", age);
    if (wait[0]) {
        size_t n = strlen(line);
        snprintf(line + n, cap - n, "%*s%s", (int)(strlen(age) < 7 ? 8 - strlen(age) : 1), "",
                 wait);
    }
}

// A sentence in lines of `width`, each after the first set in by `left`.
static void wrap(FILE *f, const char *first, int left, const char *text, int width) {
    int at = *first ? fprintf(f, "%s", first) : left; // empty: the caller has written so much
    for (const char *c = text; *c;) {
        int n = (int)strcspn(c, " ");
        if (at > left && at + 1 + n > width) {
            fprintf(f, "\n%*s", left, "");
            at = left;
        } else if (at > left) {
            fputc(' ', f);
            at++;
        }
        fprintf(f, "%.*s", n, c);
        at += n;
        c += n;
        c += strspn(c, " ");
    }
    fputc('\n', f);
}

static void put_failures(FILE *f, const struct top_job *job, int width) {
    // What the ranks say is the same on all of them, mostly: each text once.
    for (size_t i = 0; i < job->nranks; i++) {
        for (size_t c = 0; c < job->ranks[i].ncomms; c++) {
            const struct top_comm *m = &job->ranks[i].comms[c];
            bool told = !m->error || !m->error[0];
            for (size_t k = 0; k < i && !told; k++) {
                for (size_t d = 0; d < job->ranks[k].ncomms && !told; d++) {
                    const char *other = job->ranks[k].comms[d].error;
                    told = other && strcmp(other, m->error) == 0;
                }
            }
            if (!told) {
                char first[80];
                snprintf(first, sizeof first, "    rank %d: %s:", job->ranks[i].rank, m->status);
                wrap(f, first, 8, m->error, width);
            }
        }
    }
}

void top_show(FILE *f, const struct top_job *job, const struct top_verdict *v, int width,
              bool colour) {
    const char *on = colour ? "\033[1m" : "", *red = colour ? "\033[1;31m" : "",
               *off = colour ? "\033[0m" : "";
    size_t answered = 0;
    for (size_t i = 0; i < job->nranks; i++) {
        answered += job->ranks[i].answered;
    }
    fprintf(f, "job %s: %zu of %d ranks are seen here\n\n", job->name, answered, job->size);
    fprintf(f, "%s%5s %7s %-12s %-9s %8s %8s  %-40s %6s  %-7s %s%s\n", on, "RANK", "PID", "HOST",
            "STATE", "SENT", "GOT", "OPERATION", "NO.", "SINCE", "WAIT", off);
    for (size_t i = 0; i < job->nranks; i++) {
        char line[512];
        put_rank(line, sizeof line, &job->ranks[i]);
        bool marked = job->ranks[i].rank == v->culprit;
        fprintf(f, "%s%.*s%s\n", marked ? red : "", width, line, marked ? off : "");
    }
    fputc('\n', f);
    put_failures(f, job, width);
    if (v->reason != TOP_NOBODY_WAITS) {
        char age[32];
        fprintf(f, "%s==>%s ", red, off);
        wrap(f, "", 4, v->text, width);
        fprintf(f, "    (the longest wait: %s)\n", duration(v->seconds, age, sizeof age));
    } else {
        wrap(f, "    ", 4, v->text, width);
    }
    if (v->straggler >= 0) {
        char age[32], text[160];
        snprintf(text, sizeof text,
                 "rank %d came last to %zu of the last %zu collectives, %s after the median",
                 v->straggler, v->last, v->seen, duration(v->late, age, sizeof age));
        wrap(f, "    ", 4, text, width);
    }
}
