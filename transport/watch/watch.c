// SPDX-License-Identifier: MIT
// The watch's life, and what others ask it.
#include "transport/watch/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEAT_MAX (250 * RDI_W_MS)
#define FAREWELL_NS (500 * RDI_W_MS)
#define BUSY_NS (50 * RDI_W_MS)

// ---- Life ----------------------------------------------------------------------------------------

static bool on_slots(void *self, struct rdi_link *link, struct rdi_device_slots *io) {
    (void)self;
    (void)link;
    (void)io;
    return false;
}

static void *on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    (void)self;
    (void)link;
    (void)tag;
    (void)len;
    return NULL;
}

static void set_times(struct rdi_watch *w) {
    w->timeout_ns = (uint64_t)w->options.num[RDI_OPT_PEER_TIMEOUT] * RDI_W_MS;
    w->grace_ns = (uint64_t)w->options.num[RDI_OPT_STOP_GRACE] * RDI_W_MS;
    w->beat_ns = w->timeout_ns / 6 < w->grace_ns / 4 ? w->timeout_ns / 6 : w->grace_ns / 4;
    w->beat_ns = w->beat_ns > BEAT_MAX ? BEAT_MAX : w->beat_ns;
    // Its links carry next to nothing, and are to be tried again for as long as the job lives.
    w->options.num[RDI_OPT_SLOTS] = 2;
    w->options.num[RDI_OPT_TCP_SOCKETS] = 1;
    w->options.num[RDI_OPT_CHUNK] = 4096;
    w->options.num[RDI_OPT_CONNECT_TIMEOUT] =
        w->options.num[RDI_OPT_PEER_TIMEOUT] < 5000 ? 5000 : w->options.num[RDI_OPT_PEER_TIMEOUT];
    w->options.num[RDI_OPT_PATH_GRACE] = w->options.num[RDI_OPT_CONNECT_TIMEOUT];
}

static void destroy(struct rdi_watch *w) {
    for (int i = 0; w->ranks && i < w->size; i++) {
        rdi_w_drop_out(&w->ranks[i]);
        free(w->ranks[i].record);
    }
    for (unsigned i = 0; i < RDI_WATCH_BALLOTS; i++) {
        free(w->ballots[i].members);
        free(w->ballots[i].votes);
    }
    for (unsigned i = 0; i < RDI_W_RESULTS; i++) {
        free(w->finals[i].live);
    }
    free(w->record);
    free(w->ranks);
    rdi_job_clear(&w->job);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

rondo_status rdi_watch_open(const struct rdi_env *env, const struct rdi_options *options,
                            const struct rdi_job *job, uint32_t incarnation,
                            const struct rdi_net_ops *ops, void *extra, void (*wake)(void *arg),
                            void *arg, struct rdi_watch **out) {
    if (job->size > RDI_WATCH_RANKS) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "a job of %d ranks is not watched: at most %d are",
                        job->size, RDI_WATCH_RANKS);
    }
    struct rdi_watch *w = calloc(1, sizeof *w);
    if (w) {
        w->ranks = calloc((size_t)job->size, sizeof *w->ranks);
    }
    if (!w || !w->ranks) {
        free(w);
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the watch of %d ranks", job->size);
    }
    pthread_mutex_init(&w->lock, NULL);
    w->env = *env;
    w->options = *options;
    rdi_job_copy(&w->job, job);
    w->rank = job->rank;
    w->size = job->size;
    w->mesh = RDI_W_MESH;
    w->incarnation = incarnation;
    w->wake = wake;
    w->wake_arg = arg;
    set_times(w);
    w->events = (struct rdi_net_events){
        .self = w, .accept = rdi_w_accept, .land = on_land, .ctrl = rdi_w_ctrl, .slots = on_slots};
    struct rdi_net_params params = {.env = *env,
                                    .options = &w->options,
                                    .job = &w->job,
                                    .events = &w->events,
                                    .extra = extra,
                                    .prompt = true,
                                    .narrow = true};
    rondo_status s = ops->open(&params, &w->net);
    size_t len = sizeof w->self.blob;
    if (s == RONDO_OK) {
        s = w->net->ops->address(w->net, w->self.blob, &len);
    }
    if (s != RONDO_OK) {
        if (w->net) {
            w->net->ops->close(w->net);
        }
        destroy(w);
        return s;
    }
    w->self.blob_len = (uint16_t)len;
    memcpy(w->self.host, job->host, sizeof w->self.host);
    memcpy(w->self.host_id, job->host_id, sizeof w->self.host_id);
    w->self.incarnation = incarnation;
    w->self.pid_space = rdi_w_pid_space();
    w->self.pid = rdi_w_pid();
    w->ranks[w->rank].peer = w->self;
    *out = w;
    return RONDO_OK;
}

void rdi_watch_self(struct rdi_watch *w, struct rdi_watch_peer *out) { *out = w->self; }

void rdi_watch_add(struct rdi_watch *w, int rank, const struct rdi_watch_peer *p) {
    pthread_mutex_lock(&w->lock);
    if (rank != w->rank) {
        w->ranks[rank].peer = *p;
        rdi_printable(w->ranks[rank].peer.host, RDI_HOST_MAX);
    }
    pthread_mutex_unlock(&w->lock);
}

rondo_status rdi_watch_begin(struct rdi_watch *w, bool threaded) {
    pthread_mutex_lock(&w->lock);
    w->began = w->ran_at = rdi_w_now(w);
    for (int i = 0; i < w->size; i++) {
        w->ranks[i].heard = w->began;
    }
    rdi_w_watch_choose(w);
    w->begun = true;
    pthread_mutex_unlock(&w->lock);
    return threaded ? rdi_w_thread_start(w) : RONDO_OK;
}

// Whether something waits to be said, to somebody who may still hear it.
static bool has_more_to_say(struct rdi_watch *w) {
    bool more = false;
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < w->size && !more; i++) {
        more = w->ranks[i].out && rdi_w_live(w, i) && w->ranks[i].cause == RDI_CAUSE_NONE;
    }
    pthread_mutex_unlock(&w->lock);
    return more;
}

// One that was given up and is back, but has not heard of it yet, must not take the job for ended in good order: it
// would go on by itself.
static bool says_goodbye(const struct rdi_watch *w, int rank) {
    const struct rdi_w_rank *r = &w->ranks[rank];
    return !w->outsider && r->failed_at <= r->joined_at;
}

void rdi_watch_close(struct rdi_watch *w) {
    // A verdict may be on its way to ranks whose link is only just being made.
    for (uint64_t until = rdi_w_now(w) + FAREWELL_NS;
         w->thread && rdi_w_now(w) < until && has_more_to_say(w);) {
        rdi_w_thread_pause();
    }
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    if (w->begun) {
        (void)rdi_w_links_progress(w, rdi_w_now(w)); // what waits to be said
    }
    for (int i = 0; i < w->size; i++) {
        rdi_w_unlink(w, i, says_goodbye(w, i));
    }
    pthread_mutex_unlock(&w->lock);
    rdi_w_thread_stop(w);
    for (int i = 0; i < w->size; i++) {
        rdi_w_unlink(w, i, says_goodbye(w, i)); // accepted meanwhile
    }
    w->net->ops->close(w->net);
    destroy(w);
}

// ---- Driving -------------------------------------------------------------------------------------

int rdi_watch_progress(struct rdi_watch *w) {
    pthread_mutex_lock(&w->lock);
    int moved = 0;
    if (!w->closing) {
        moved = w->net->ops->progress(w->net, false);
        uint64_t now = rdi_w_now(w);
        if (w->begun) {
            if (now > w->ran_at + rdi_w_lately(w)) {
                rdi_w_gap(w, now, now - w->ran_at);
            }
            w->ran_at = now;
            moved += rdi_w_links_progress(w, now);
            moved += rdi_w_member_progress(w, now);
            moved += rdi_w_agree_progress(w, now);
            moved += rdi_w_join_progress(w, now);
        }
    }
    bool wake = w->woken;
    w->woken = false;
    pthread_mutex_unlock(&w->lock);
    if (wake && w->wake) {
        w->wake(w->wake_arg);
    }
    return moved;
}

uint64_t rdi_watch_next(struct rdi_watch *w) {
    pthread_mutex_lock(&w->lock);
    uint64_t now = rdi_w_now(w), at = w->beat_at;
    bool busy = w->joining || w->proposing;
    for (unsigned i = 0; i < RDI_WATCH_BALLOTS && !busy; i++) {
        busy = w->ballots[i].open;
    }
    for (unsigned i = 0; i < RDI_W_VERDICTS && i < w->nverdicts && !busy; i++) {
        busy = !w->verdicts[i].decided;
    }
    for (int i = 0; i < w->size && !busy; i++) {
        const struct rdi_w_rank *r = &w->ranks[i];
        busy = r->cause != RDI_CAUSE_NONE || r->ready || r->out || r->doubt || r->beat_due ||
               (r->wanted && !r->link && !r->left);
    }
    at = busy && now + BUSY_NS < at ? now + BUSY_NS : at;
    pthread_mutex_unlock(&w->lock);
    return at;
}

// ---- Questions -----------------------------------------------------------------------------------

uint64_t rdi_watch_news(const struct rdi_watch *w) { return atomic_load(&w->news); }

uint64_t rdi_watch_strangers(const struct rdi_watch *w) { return atomic_load(&w->net->strangers); }
uint64_t rdi_watch_damaged(const struct rdi_watch *w) { return atomic_load(&w->net->damaged); }

uint64_t rdi_watch_epoch(struct rdi_watch *w) {
    pthread_mutex_lock(&w->lock);
    uint64_t e = w->epoch;
    pthread_mutex_unlock(&w->lock);
    return e;
}

uint64_t rdi_watch_failed_at(struct rdi_watch *w, int rank) {
    pthread_mutex_lock(&w->lock);
    uint64_t e = w->ranks[rank].failed_at;
    pthread_mutex_unlock(&w->lock);
    return e;
}

uint64_t rdi_watch_joined_at(struct rdi_watch *w, int rank) {
    pthread_mutex_lock(&w->lock);
    uint64_t e = w->ranks[rank].joined_at;
    pthread_mutex_unlock(&w->lock);
    return e;
}

uint32_t rdi_watch_incarnation(struct rdi_watch *w, int rank) {
    pthread_mutex_lock(&w->lock);
    uint32_t i = w->ranks[rank].peer.incarnation;
    pthread_mutex_unlock(&w->lock);
    return i;
}

uint64_t rdi_watch_first_failure(struct rdi_watch *w, const int *ranks, int n, uint64_t birth) {
    uint64_t first = 0;
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < n; i++) {
        uint64_t e = w->ranks[ranks[i]].failed_at;
        first = e > birth && (first == 0 || e < first) ? e : first;
    }
    pthread_mutex_unlock(&w->lock);
    return first;
}

void rdi_watch_text(struct rdi_watch *w, int rank, char buf[RDI_WATCH_TEXT]) {
    pthread_mutex_lock(&w->lock);
    memcpy(buf, w->ranks[rank].verdict, RDI_WATCH_TEXT);
    pthread_mutex_unlock(&w->lock);
}

bool rdi_watch_heard(struct rdi_watch *w, int rank, uint64_t since) {
    pthread_mutex_lock(&w->lock);
    bool heard = w->ranks[rank].heard > since && w->ranks[rank].cause == RDI_CAUSE_NONE;
    pthread_mutex_unlock(&w->lock);
    return heard;
}

bool rdi_watch_vouched(struct rdi_watch *w, int rank, uint64_t since) {
    pthread_mutex_lock(&w->lock);
    const struct rdi_w_rank *r = &w->ranks[rank];
    bool vouched = r->lived_at > since && r->cause != RDI_CAUSE_DEAD;
    pthread_mutex_unlock(&w->lock);
    return vouched;
}

rondo_status rdi_watch_state(struct rdi_watch *w, char why[RDI_ERROR_TEXT]) {
    pthread_mutex_lock(&w->lock);
    rondo_status s = w->state;
    memcpy(why, w->why, RDI_ERROR_TEXT);
    pthread_mutex_unlock(&w->lock);
    return s;
}

void rdi_watch_trouble(struct rdi_watch *w, char buf[RDI_WATCH_TEXT]) {
    pthread_mutex_lock(&w->lock);
    memcpy(buf, w->trouble, RDI_WATCH_TEXT);
    pthread_mutex_unlock(&w->lock);
}

bool rdi_watch_has_left(struct rdi_watch *w, int rank) {
    pthread_mutex_lock(&w->lock);
    bool left = w->ranks[rank].left;
    pthread_mutex_unlock(&w->lock);
    return left;
}

void rdi_watch_hint(struct rdi_watch *w, int rank) {
    pthread_mutex_lock(&w->lock);
    struct rdi_w_rank *r = &w->ranks[rank];
    if (rank != w->rank && rdi_w_live(w, rank) && !r->link && !r->left) {
        r->wanted = true;
        r->doubt = true;
    }
    pthread_mutex_unlock(&w->lock);
    rdi_w_thread_wake(w);
}
