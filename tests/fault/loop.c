// SPDX-License-Identifier: MIT
// All_reduces whose every element is checked, one or several in flight, until something fails.
#include "tests/fault/area.h"
#include "tests/fault/rank.h"

#include <time.h>

enum { MAX_LANES = 4 };

struct lane {
    struct area *send, *recv;
    rondo_request *req;
    size_t count;
    uint64_t step;
};

int32_t value_of(uint64_t step, size_t i, int member) {
    return (int32_t)((uint32_t)step * 31u + (uint32_t)(i % 1009) * 7u + (uint32_t)member * 65537u);
}

int32_t sum_of(const struct job *j, uint64_t step, size_t i) {
    uint32_t sum = 0;
    for (int r = 0; r < j->n; r++) {
        sum += (uint32_t)value_of(step, i, j->members[r]);
    }
    return (int32_t)sum;
}

int32_t stop_wish(struct job *j) {
    listen_to(j, 0);
    return j->members[0] == j->me && j->stop;
}

void pause_at(const struct job *j, uint64_t step) {
    if (j->wish.pause_ms == 0 || j->generation > 0 || step != (uint64_t)j->wish.pause_step) {
        return;
    }
    struct timespec t = {.tv_sec = (time_t)(j->wish.pause_ms / 1000),
                         .tv_nsec = (long)(j->wish.pause_ms % 1000) * 1000000};
    say("pause");
    nanosleep(&t, NULL);
    say("resume");
}

static bool lane_open(struct job *j, struct lane *l, size_t count) {
    l->count = count;
    l->send = area_new(count, j->wish.shared);
    l->recv = area_new(count, j->wish.shared);
    if (!l->send || !l->recv) {
        wrong(j, "no memory for buffers: %s", rondo_last_error());
        return false;
    }
    return true;
}

static void lane_close(struct lane *l, bool keep) {
    if (keep) {
        area_freeze(l->send);
        area_freeze(l->recv);
    } else {
        area_free(l->send);
        area_free(l->recv);
    }
}

static rondo_status lane_start(struct job *j, struct lane *l, uint64_t step, int32_t stop,
                               size_t count) {
    l->step = step;
    l->count = count;
    for (size_t i = 1; i < count; i++) {
        l->send->x[i] = value_of(step, i, j->me);
    }
    l->send->x[0] = stop;
    return rondo_all_reduce_start(l->send->x, l->recv->x, count, RONDO_I32, RONDO_SUM, j->comm,
                                  &l->req);
}

static void lane_check(struct job *j, const struct lane *l) {
    const char *guard = area_guards(l->send);
    guard = guard ? guard : area_guards(l->recv);
    if (guard) {
        wrong(j, "step %llu: %s", (unsigned long long)l->step, guard);
    }
    int32_t sum[1009];
    for (size_t i = 0; i < 1009; i++) {
        sum[i] = sum_of(j, l->step, i);
    }
    for (size_t i = 1; i < l->count; i++) {
        if (l->recv->x[i] != sum[i % 1009]) {
            wrong(j, "step %llu, element %zu of %zu: %d, not %d", (unsigned long long)l->step, i,
                  l->count, l->recv->x[i], sum[i % 1009]);
            return;
        }
    }
    if (l->recv->x[0] != 0 && l->recv->x[0] != 1) {
        wrong(j, "step %llu: the wish to stop is %d", (unsigned long long)l->step, l->recv->x[0]);
    }
}

// Starts one operation on each lane, and waits for all.
static rondo_status round_of(struct job *j, struct lane *lanes, uint64_t step, int32_t stop) {
    rondo_request *reqs[MAX_LANES] = {NULL};
    rondo_status s = RONDO_OK;
    for (int k = 0; k < j->wish.async && s == RONDO_OK; k++) {
        size_t which = (size_t)(step + (uint64_t)k) % (size_t)j->wish.ncounts;
        s = lane_start(j, &lanes[k], step + (uint64_t)k, stop, j->wish.counts[which]);
        reqs[k] = s == RONDO_OK ? lanes[k].req : NULL;
    }
    rondo_status w = rondo_wait_all(reqs, (size_t)j->wish.async);
    return s != RONDO_OK ? s : w;
}

rondo_status work_loop(struct job *j, uint64_t *t, const char **call) {
    struct lane lanes[MAX_LANES] = {{.send = NULL}};
    rondo_status s = RONDO_OK;
    size_t largest = 0;
    bool ok = true, over = false;
    uint64_t step = 0;
    for (int i = 0; i < j->wish.ncounts; i++) {
        largest = j->wish.counts[i] > largest ? j->wish.counts[i] : largest;
    }
    for (int k = 0; k < j->wish.async; k++) {
        ok = ok && lane_open(j, &lanes[k], largest);
    }
    *call = "all_reduce";
    for (; ok && !over && s == RONDO_OK; step += (uint64_t)j->wish.async) {
        pause_at(j, step);
        s = round_of(j, lanes, step, stop_wish(j));
        *t = now_ns();
        for (int k = 0; k < j->wish.async && s == RONDO_OK; k++) {
            lane_check(j, &lanes[k]);
            over |= lanes[k].recv->x[0] != 0;
        }
        over |= j->is_wrong;
        if (step == 0 && s == RONDO_OK) {
            say_ready(j, "works", 0);
        }
    }
    if (s != RONDO_OK) {
        say_failed(j, s, *call, *t, step);
    }
    for (int k = 0; k < j->wish.async; k++) {
        lane_close(&lanes[k], s != RONDO_OK);
    }
    return s;
}
