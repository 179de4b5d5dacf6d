// SPDX-License-Identifier: MIT
#include "side.h"

#include "data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GUARD ((size_t)256) // before and behind every buffer; keeps the alignment
#define GARBAGE 0xa5
#define WARM 2

// One buffer with its guards: what the side works on, a copy on the host to fill and to look at, and how it was
// before the operation.
struct area {
    void *memory;
    unsigned char *host, *before;
    size_t bytes;
};

struct job {
    struct side *s;
    const struct side_options *o;
    struct plan plan;
    struct area send, recv;
    FILE *out;
};

bool side_parse(int argc, char **argv, struct side_options *o) {
    *o = (struct side_options){.rank = -1, .ranks = -1, .deadline = 300};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--plan") == 0) {
            o->plan = value;
        } else if (strcmp(name, "--out") == 0) {
            o->out = value;
        } else if (strcmp(name, "--device") == 0) {
            o->device = value;
        } else if (strcmp(name, "--library") == 0) {
            o->library = value;
        } else if (strcmp(name, "--id") == 0) {
            o->id = value;
        } else if (strcmp(name, "--rank") == 0) {
            o->rank = atoi(value);
        } else if (strcmp(name, "--ranks") == 0) {
            o->ranks = atoi(value);
        } else if (strcmp(name, "--deadline") == 0) {
            o->deadline = (unsigned)atoi(value);
        } else {
            fprintf(stderr, "unknown option %s\n", name);
            return false;
        }
    }
    if (argc % 2 == 0 || o->plan == NULL || o->out == NULL || o->deadline == 0) {
        fprintf(stderr, "usage: %s --plan FILE --out PREFIX [--deadline SECONDS] ...\n", argv[0]);
        return false;
    }
    alarm(o->deadline);
    return true;
}

// ---- Memory --------------------------------------------------------------------------------------

static bool area_alloc(struct side *s, size_t bytes, struct area *a) {
    bytes += 2 * GUARD;
    a->memory = s->alloc != NULL ? s->alloc(s, bytes) : malloc(bytes);
    a->host = malloc(bytes);
    a->before = malloc(bytes);
    return a->memory != NULL && a->host != NULL && a->before != NULL;
}

static void area_free(struct side *s, struct area *a) {
    if (s->release != NULL) {
        s->release(s, a->memory);
    } else {
        free(a->memory);
    }
    free(a->host);
    free(a->before);
}

static bool area_put(struct side *s, struct area *a) {
    memcpy(a->before, a->host, a->bytes + 2 * GUARD);
    if (s->put != NULL) {
        return s->put(s, a->memory, a->host, a->bytes + 2 * GUARD);
    }
    memcpy(a->memory, a->host, a->bytes + 2 * GUARD);
    return true;
}

static bool area_get(struct side *s, struct area *a) {
    if (s->get != NULL) {
        return s->get(s, a->host, a->memory, a->bytes + 2 * GUARD);
    }
    memcpy(a->host, a->memory, a->bytes + 2 * GUARD);
    return true;
}

// Bytes that changed outside [from, to) of the buffer.
static uint64_t area_stray(const struct area *a, size_t from, size_t to) {
    uint64_t n = 0;
    for (size_t i = 0; i < a->bytes + 2 * GUARD; i++) {
        n += (i < GUARD + from || i >= GUARD + to) && a->host[i] != a->before[i];
    }
    return n;
}

// ---- One case ------------------------------------------------------------------------------------

// Where a case's buffers lie: offsets into their areas. In place both are in `recv`.
struct layout {
    struct area *send_area, *recv_area;
    size_t send_at, recv_at, send_bytes, recv_bytes;
};

static struct layout place(struct job *j, const struct test_case *c) {
    const size_t block = c->count * number_format(c->type)->bytes;
    const size_t ranks = (size_t)j->s->ranks, rank = (size_t)j->s->rank;
    struct layout l = {.send_area = &j->send,
                       .recv_area = &j->recv,
                       .send_bytes = block * (case_sends_all(c) ? ranks : 1),
                       .recv_bytes = block * (case_receives_all(c) ? ranks : 1)};
    if (c->in_place) {
        l.send_area = &j->recv;
        l.send_at = case_receives_all(c) && !case_sends_all(c) ? rank * block : 0;
        l.recv_at = case_sends_all(c) && !case_receives_all(c) ? rank * block : 0;
    }
    const size_t larger = l.send_bytes > l.recv_bytes ? l.send_bytes : l.recv_bytes;
    l.send_area->bytes = l.send_bytes;
    l.recv_area->bytes = c->in_place ? larger : l.recv_bytes;
    return l;
}

static void *at(const struct area *a, size_t offset) {
    return (unsigned char *)a->memory + GUARD + offset;
}

static bool prepare(struct job *j, const struct test_case *c, const struct layout *l) {
    struct area *s = l->send_area, *r = l->recv_area;
    memset(s->host, GARBAGE, s->bytes + 2 * GUARD);
    memset(r->host, GARBAGE, r->bytes + 2 * GUARD);
    // Of a broadcast only the root's send buffer counts; the others keep garbage, in place too.
    if (c->coll != CASE_BROADCAST || j->s->rank == c->root) {
        data_fill(c, j->s->ranks, j->s->rank, l->send_bytes / number_format(c->type)->bytes,
                  s->host + GUARD + l->send_at);
    }
    return area_put(j->s, r) && (s == r || area_put(j->s, s));
}

static uint64_t count_stray(struct job *j, const struct test_case *c, const struct layout *l) {
    size_t from = l->recv_at, to = l->recv_at + l->recv_bytes;
    if (!case_has_result(c, j->s->rank)) {
        to = from;
    }
    if (c->in_place && c->coll == CASE_REDUCE_SCATTER) {
        from = 0; // the other blocks are nobody's any more
        to = l->send_bytes;
    }
    uint64_t n = area_stray(l->recv_area, from, to);
    if (!c->in_place) {
        n += area_stray(l->send_area, 0, 0);
    }
    return n;
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The median of `repeat` operations, each of which starts from a barrier.
static enum result_status time_case(struct job *j, const struct test_case *c,
                                    const struct layout *l, struct result_record *r) {
    double *times = calloc((size_t)c->repeat, sizeof *times);
    enum result_status status = times != NULL ? RESULT_OK : RESULT_FAILED;
    for (int i = -WARM; i < c->repeat && status == RESULT_OK; i++) {
        if (!j->s->barrier(j->s)) {
            status = RESULT_FAILED;
            break;
        }
        const double begin = now_us();
        status = j->s->run(j->s, c, at(l->send_area, l->send_at), at(l->recv_area, l->recv_at),
                           r->text, sizeof r->text);
        if (i >= 0) {
            times[i] = now_us() - begin;
        }
    }
    if (status == RESULT_OK) {
        qsort(times, (size_t)c->repeat, sizeof *times, by_value);
        r->us = times[c->repeat / 2];
    }
    free(times);
    return status;
}

// False when the side cannot go on.
static bool run_case(struct job *j, const struct test_case *c) {
    struct side *s = j->s;
    struct result_record r = {.index = c->index};
    const struct layout l = place(j, c);
    enum result_status status = RESULT_FAILED;
    if (prepare(j, c, &l)) {
        status = s->run(s, c, at(l.send_area, l.send_at), at(l.recv_area, l.recv_at), r.text,
                        sizeof r.text);
    }
    if (status == RESULT_OK &&
        (!area_get(s, l.recv_area) || (!c->in_place && !area_get(s, l.send_area)))) {
        status = RESULT_FAILED;
    }
    const bool complete = status == RESULT_OK;
    if (complete) {
        r.stray = count_stray(j, c, &l);
        r.bytes = case_has_result(c, s->rank) ? l.recv_bytes : 0;
        if (c->repeat > 0 && (s->timed == NULL || s->timed(s, c))) {
            status = time_case(j, c, &l, &r);
        }
    }
    r.status = (int32_t)status;
    if (status == RESULT_FAILED) {
        r.bytes = 0;
        fprintf(stderr, "rank %d, case %u: %s\n", s->rank, c->index, r.text);
    }
    const unsigned char *result = l.recv_area->host + GUARD + l.recv_at;
    return fwrite(&r, sizeof r, 1, j->out) == 1 &&
           (r.bytes == 0 || fwrite(result, (size_t)r.bytes, 1, j->out) == 1) &&
           status != RESULT_FAILED;
}

// ---- All cases -----------------------------------------------------------------------------------

static size_t largest(const struct plan *plan) {
    size_t most = 0;
    for (unsigned i = 0; i < plan->cases; i++) {
        const struct test_case *c = &plan->list[i];
        const bool all = case_sends_all(c) || case_receives_all(c);
        const size_t bytes = c->count * number_format(c->type)->bytes *
                             (all ? (size_t)plan->ranks : 1);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static bool open_results(struct job *j) {
    char path[4096];
    snprintf(path, sizeof path, "%s.%d", j->o->out, j->s->rank);
    j->out = fopen(path, "wb");
    if (j->out == NULL) {
        perror(path);
        return false;
    }
    struct result_head head = {.rank = (uint32_t)j->s->rank,
                               .ranks = (uint32_t)j->s->ranks,
                               .cases = j->plan.cases,
                               .plan = j->plan.hash};
    memcpy(head.magic, RESULT_MAGIC, sizeof head.magic);
    memcpy(head.version, j->s->version, sizeof head.version);
    return fwrite(&head, sizeof head, 1, j->out) == 1;
}

int side_run(struct side *s, const struct side_options *o) {
    struct job j = {.s = s, .o = o};
    if (!plan_read(o->plan, &j.plan)) {
        return 1;
    }
    bool good = j.plan.ranks == s->ranks;
    if (!good) {
        fprintf(stderr, "the plan is for %d ranks and not for %d\n", j.plan.ranks, s->ranks);
    }
    const size_t bytes = largest(&j.plan);
    good = good && area_alloc(s, bytes, &j.send) && area_alloc(s, bytes, &j.recv) &&
           open_results(&j);
    for (unsigned i = 0; i < j.plan.cases && good; i++) {
        good = run_case(&j, &j.plan.list[i]);
    }
    if (j.out != NULL && fclose(j.out) != 0) {
        perror(o->out);
        good = false;
    }
    area_free(s, &j.send);
    area_free(s, &j.recv);
    plan_free(&j.plan);
    return good ? 0 : 1;
}
