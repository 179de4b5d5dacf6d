// SPDX-License-Identifier: MIT
// The events of a simulation in order of time; those of the same time in the order in which they came.
//
// Most events are some fixed time away, so those of one length of travel come in order of time by themselves: each
// goes to the end of a lane, which costs nothing, and the first one of all is the first of some lane. What comes out
// of order on all lanes goes to a heap.
#include "transport/sim/world.h"

#include <stdlib.h>
#include <string.h>

static bool sooner(const struct sim_event *a, const struct sim_event *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static bool out_of_memory(struct rdi_sim *s) {
    s->config.broken(s->config.arg, "memory", "the simulation is out of memory");
    return false;
}

// ---- Lanes ---------------------------------------------------------------------------------------

static struct sim_event *lane_at(const struct sim_lane *l, size_t i) {
    return &l->ring[(l->head + i) & (l->cap - 1)];
}

static bool lane_push(struct rdi_sim *s, struct sim_lane *l, const struct sim_event *e) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        struct sim_event *ring = malloc(cap * sizeof *ring);
        if (!ring) {
            return out_of_memory(s);
        }
        for (size_t i = 0; i < l->n; i++) {
            ring[i] = *lane_at(l, i);
        }
        free(l->ring);
        l->ring = ring;
        l->cap = cap;
        l->head = 0;
    }
    l->last_at = e->at;
    *lane_at(l, l->n++) = *e;
    return true;
}

// The lane whose newest event is nearest before that time, so that the others stay open for earlier ones.
static struct sim_lane *lane_for(struct sim_events *q, uint64_t at) {
    struct sim_lane *best = NULL, *empty = NULL;
    for (int i = 0; i < SIM_LANES; i++) {
        struct sim_lane *l = &q->lane[i];
        if (!l->n) {
            empty = empty ? empty : l;
        } else if (l->last_at <= at && (!best || l->last_at > best->last_at)) {
            best = l;
        }
    }
    return best ? best : empty;
}

// ---- Heap ----------------------------------------------------------------------------------------

static bool heap_push(struct rdi_sim *s, const struct sim_event *e) {
    struct sim_events *q = &s->events;
    if (q->nheap == q->cap_heap) {
        size_t cap = q->cap_heap ? 2 * q->cap_heap : 256;
        struct sim_event *more = realloc(q->heap, cap * sizeof *more);
        if (!more) {
            return out_of_memory(s);
        }
        q->heap = more;
        q->cap_heap = cap;
    }
    size_t i = q->nheap++;
    for (; i > 0 && sooner(e, &q->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        q->heap[i] = q->heap[(i - 1) / 2];
    }
    q->heap[i] = *e;
    return true;
}

static struct sim_event heap_pop(struct sim_events *q) {
    struct sim_event first = q->heap[0], last = q->heap[--q->nheap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < q->nheap && sooner(&q->heap[child + 1], &q->heap[child])) {
            child++;
        }
        if (child >= q->nheap || !sooner(&q->heap[child], &last)) {
            break;
        }
        q->heap[i] = q->heap[child];
        i = child;
    }
    q->heap[i] = last;
    return first;
}

// ---- All of them ---------------------------------------------------------------------------------

static void find_first(struct sim_events *q) {
    q->first = q->nheap ? &q->heap[0] : NULL;
    q->first_lane = -1;
    for (int i = 0; i < SIM_LANES; i++) {
        const struct sim_lane *l = &q->lane[i];
        if (l->n && (!q->first || sooner(lane_at(l, 0), q->first))) {
            q->first = lane_at(l, 0);
            q->first_lane = i;
        }
    }
}

void sim_schedule(struct rdi_sim *s, struct sim_event e) {
    struct sim_events *q = &s->events;
    e.order = q->order++;
    e.at = e.at < s->now ? s->now : e.at;
    if (e.kind != SIM_POKE) {
        e.wire->refs++;
    }
    struct sim_lane *l = lane_for(q, e.at);
    const struct sim_event *ring = l ? l->ring : q->heap;
    bool first = !q->first || sooner(&e, q->first);
    if (l ? lane_push(s, l, &e) : heap_push(s, &e)) {
        // Where the first one lies may have moved, too.
        if (first || !l || ring != l->ring) {
            find_first(q);
        }
    }
}

struct sim_event sim_take_event(struct rdi_sim *s) {
    struct sim_events *q = &s->events;
    struct sim_event e;
    if (q->first_lane < 0) {
        e = heap_pop(q);
    } else {
        struct sim_lane *l = &q->lane[q->first_lane];
        e = *lane_at(l, 0);
        l->head = (l->head + 1) & (l->cap - 1);
        l->n--;
    }
    find_first(q);
    return e;
}

struct sim_wire *sim_wire_ahead(const struct rdi_sim *s, size_t events) {
    const struct sim_lane *l = s->events.first_lane < 0 ? NULL
                                                        : &s->events.lane[s->events.first_lane];
    if (!l || l->n <= events || lane_at(l, events)->kind == SIM_POKE) {
        return NULL;
    }
    return lane_at(l, events)->wire;
}

void sim_events_free(struct rdi_sim *s) {
    while (s->events.first) {
        struct sim_event e = sim_take_event(s);
        sim_event_drop(&e);
        if (e.kind != SIM_POKE) {
            sim_wire_unref(e.wire);
        }
    }
    for (int i = 0; i < SIM_LANES; i++) {
        free(s->events.lane[i].ring);
    }
    free(s->events.heap);
}
