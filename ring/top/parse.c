// SPDX-License-Identifier: MIT
// A rank's state, from the text of a dump to structs.
#include "ring/top/top.h"

#include "ring/record/dump.h"
#include "transport/text.h"

#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

// ---- The job -------------------------------------------------------------------------------------

static void free_ops(struct top_op *ops, size_t n) {
    for (size_t i = 0; ops && i < n; i++) {
        free(ops[i].waits);
    }
    free(ops);
}

void top_rank_clear(struct top_rank *r) {
    for (size_t i = 0; i < r->ncomms; i++) {
        struct top_comm *c = &r->comms[i];
        free_ops(c->active, c->nactive);
        free_ops(c->recent, c->nrecent);
        free(c->edges);
        free(c->ranks);
        free(c->error);
    }
    free(r->comms);
    r->comms = NULL;
    r->ncomms = 0;
}

void top_job_free(struct top_job *job) {
    for (size_t i = 0; i < job->nranks; i++) {
        top_rank_clear(&job->ranks[i]);
    }
    free(job->ranks);
    memset(job, 0, sizeof *job);
}

struct top_rank *top_job_rank(struct top_job *job, int rank) {
    for (size_t i = 0; i < job->nranks; i++) {
        if (job->ranks[i].rank == rank) {
            return &job->ranks[i];
        }
    }
    return NULL;
}

struct top_rank *top_job_add(struct top_job *job, int rank) {
    struct top_rank *more = realloc(job->ranks, (job->nranks + 1) * sizeof *more);
    if (!more) {
        return NULL;
    }
    job->ranks = more;
    size_t at = job->nranks++;
    for (; at > 0 && more[at - 1].rank > rank; at--) {
        more[at] = more[at - 1];
    }
    more[at] = (struct top_rank){.rank = rank, .send_rate = -1, .receive_rate = -1};
    return &more[at];
}

int top_comm_world(const struct top_comm *c, int rank) {
    return rank < 0 || rank >= c->size ? -1 : c->ranks ? c->ranks[rank] : rank;
}

// ---- Values --------------------------------------------------------------------------------------

// Jansson's texts are UTF-8, and stay so where they are cut. U+0080 to U+009F are commands, too.
static void get_text(const json_t *o, const char *key, char *buf, size_t cap) {
    const char *s = json_string_value(json_object_get(o, key));
    size_t n = 0;
    for (size_t len; s && *s; s += len) {
        unsigned char c = (unsigned char)s[0];
        len = rdi_utf8_character((const unsigned char *)s);
        len = len > 0 ? len : 1;
        bool command = c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)s[1] < 0xa0);
        size_t room = command ? 1 : len;
        if (n + room >= cap) {
            break;
        }
        memcpy(buf + n, command ? "?" : s, room);
        n += room;
    }
    buf[n] = '\0';
}
#define TEXT(o, key, to) get_text(o, key, to, sizeof to)

static char *get_long_text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    size_t n = s ? strlen(s) + 1 : 1;
    char *buf = malloc(n);
    if (buf) {
        get_text(o, key, buf, n);
    }
    return buf;
}

static uint64_t get_u64(const json_t *o, const char *key) {
    json_int_t v = json_integer_value(json_object_get(o, key));
    return v > 0 ? (uint64_t)v : 0;
}

// -1: not there, or out of range.
static int get_int(const json_t *o, const char *key, int most) {
    const json_t *v = json_object_get(o, key);
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    return n < 0 || n > most ? -1 : (int)n;
}

static uint64_t get_hex(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? strtoull(s, NULL, 16) : 0;
}

// An array's elements, through a function each; false without memory.
static bool get_list(const json_t *o, const char *key, void *list, size_t *n, size_t size,
                     void (*one)(const json_t *o, void *to)) {
    const json_t *a = json_object_get(o, key);
    size_t count = json_array_size(a);
    char *items = calloc(count + 1, size);
    memcpy(list, &items, sizeof items);
    *n = 0;
    for (size_t i = 0; items && i < count; i++) {
        if (json_is_object(json_array_get(a, i))) {
            one(json_array_get(a, i), items + size * (*n)++);
        }
    }
    return items != NULL;
}

static void one_wait(const json_t *o, void *to) {
    struct top_wait *w = to;
    TEXT(o, "wait", w->wait);
    TEXT(o, "why", w->why);
    TEXT(o, "host", w->host);
    char direction[8];
    TEXT(o, "direction", direction);
    w->out = strcmp(direction, "to") == 0;
    w->for_peer = json_is_true(json_object_get(o, "for_peer"));
    w->rank = get_int(o, "rank", TOP_RANKS);
    w->pid = get_int(o, "pid", INT_MAX);
    w->done = get_u64(o, "done");
    w->total = get_u64(o, "total");
}

static void one_op(const json_t *o, void *to) {
    struct top_op *p = to;
    char state[TOP_WORD];
    TEXT(o, "op", p->op);
    TEXT(o, "type", p->type);
    TEXT(o, "redop", p->redop);
    TEXT(o, "algorithm", p->algorithm);
    TEXT(o, "state", state);
    p->active = strcmp(state, "started") == 0;
    p->p2p = strcmp(p->op, "send") == 0 || strcmp(p->op, "recv") == 0;
    p->number = get_u64(o, "number");
    p->seq = get_u64(o, "seq");
    p->count = get_u64(o, "count");
    p->bytes = get_u64(o, "bytes");
    p->submitted = get_u64(o, "submitted");
    p->finished = get_u64(o, "finished");
    (void)get_list(o, "waits", &p->waits, &p->nwaits, sizeof *p->waits, one_wait);
}

static void one_edge(const json_t *o, void *to) {
    struct top_edge *e = to;
    char direction[8];
    TEXT(o, "direction", direction);
    TEXT(o, "channel", e->channel);
    TEXT(o, "wire", e->wire);
    TEXT(o, "state", e->state);
    e->out = strcmp(direction, "to") == 0;
    e->rank = get_int(o, "rank", TOP_RANKS);
    e->credit = get_u64(o, "credit");
    e->ready = get_u64(o, "ready");
    e->posted = get_u64(o, "posted");
    e->sent = get_u64(o, "sent");
    e->arrived = get_u64(o, "arrived");
    e->released = get_u64(o, "released");
}

static int *get_ranks(const json_t *o, int size) {
    const json_t *a = json_object_get(o, "ranks");
    int *ranks = json_is_array(a) ? malloc((size_t)size * sizeof *ranks) : NULL;
    for (int i = 0; ranks && i < size; i++) {
        const json_t *v = json_array_get(a, (size_t)i);
        json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
        ranks[i] = n < 0 || n > TOP_RANKS ? -1 : (int)n;
    }
    return ranks;
}

static void one_comm(const json_t *o, void *to) {
    struct top_comm *c = to;
    c->id = get_hex(o, "id");
    c->rank = get_int(o, "rank", TOP_RANKS);
    c->size = get_int(o, "size", TOP_RANKS);
    c->size = c->size < 0 ? 0 : c->size;
    c->ranks = get_ranks(o, c->size);
    c->calls = get_u64(o, "calls");
    c->failed_at = get_u64(o, "at");
    TEXT(o, "status", c->status);
    c->error = get_long_text(o, "error");
    c->bytes_sent = get_u64(o, "bytes_sent");
    c->bytes_received = get_u64(o, "bytes_received");
    (void)get_list(o, "active", &c->active, &c->nactive, sizeof *c->active, one_op);
    (void)get_list(o, "recent", &c->recent, &c->nrecent, sizeof *c->recent, one_op);
    (void)get_list(o, "edges", &c->edges, &c->nedges, sizeof *c->edges, one_edge);
}

// ---- A rank --------------------------------------------------------------------------------------

// How a communicator stood when it failed tells more than what is left of it; its history is in the latter.
static bool use_failures(const json_t *o, struct top_rank *r) {
    struct top_comm *failed;
    size_t n;
    if (!get_list(o, "failures", &failed, &n, sizeof *failed, one_comm)) {
        return false;
    }
    struct top_comm *all = realloc(r->comms, (r->ncomms + n + 1) * sizeof *all);
    r->comms = all ? all : r->comms;
    for (size_t i = 0; all && i < n; i++) {
        struct top_comm *c = NULL;
        for (size_t k = 0; k < r->ncomms && !c; k++) {
            c = all[k].id == failed[i].id ? &all[k] : NULL;
        }
        if (!c) {
            all[r->ncomms++] = failed[i];
            continue;
        }
        struct top_comm was = *c;
        *c = failed[i];
        free_ops(c->recent, c->nrecent);
        c->recent = was.recent;
        c->nrecent = was.nrecent;
        free_ops(was.active, was.nactive);
        free(was.edges);
        free(was.ranks);
        free(was.error);
    }
    free(failed);
    return all != NULL;
}

static bool read_rank(struct top_job *job, const json_t *o, struct top_rank *r) {
    TEXT(o, "host", r->host);
    TEXT(o, "boot", r->boot);
    TEXT(o, "program", r->program);
    TEXT(o, "cause", r->cause);
    r->pid = get_int(o, "pid", INT_MAX);
    r->whole = json_is_true(json_object_get(o, "whole"));
    r->monotonic = get_u64(o, "monotonic_ns");
    r->unix_ns = get_u64(o, "unix_ns");
    r->answered = true;
    if (!job->name[0]) {
        TEXT(o, "job", job->name);
        job->size = get_int(o, "size", TOP_RANKS);
    }
    return get_list(o, "communicators", &r->comms, &r->ncomms, sizeof *r->comms, one_comm) &&
           use_failures(o, r);
}

bool top_parse(struct top_job *job, const char *text, size_t len, char *why, size_t cap) {
    json_error_t error;
    char format[TOP_WORD] = "", name[TOP_WORD];
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (!o) {
        snprintf(why, cap, "line %d, column %d: %.120s", error.line, error.column, error.text);
        return false;
    }
    TEXT(o, "format", format);
    TEXT(o, "job", name);
    int rank = get_int(o, "rank", TOP_RANKS);
    const char *wrong = NULL;
    if (strcmp(format, RDI_DUMP_FORMAT) != 0) {
        wrong = "it is no dump of this version (format \"" RDI_DUMP_FORMAT "\")";
    } else if (rank < 0 || !name[0]) {
        wrong = "it names no rank and job";
    } else if (job->name[0] && strcmp(job->name, name) != 0) {
        wrong = "it is another job's";
    }
    struct top_rank *r = wrong ? NULL : top_job_rank(job, rank);
    if (!wrong && !r) {
        r = top_job_add(job, rank);
    }
    bool ok = r != NULL;
    if (ok) {
        // Of two dumps of a rank the later one counts.
        if (!r->answered || get_u64(o, "unix_ns") >= r->unix_ns) {
            top_rank_clear(r);
            ok = read_rank(job, o, r);
        }
    }
    if (!ok) {
        snprintf(why, cap, "%s", wrong ? wrong : "out of memory");
    }
    json_decref(o);
    return ok;
}
