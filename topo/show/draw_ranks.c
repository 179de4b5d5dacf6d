// SPDX-License-Identifier: MIT
// Within a host: which rank uses which NIC, and the way of each ring around the ranks.
#include "topo/internal.h"
#include "topo/show/draw.h"

#include <stdlib.h>

#define TRACK 8 // between lines that run beside each other
#define EDGE 6  // of a NIC, where no line ends
#define DOT 6

// ---- What fits -----------------------------------------------------------------------------------

// Ways are drawn where each rank has a place of its own, and the numbers can still be read.
bool td_ways_fit(const struct rdi_decision *d, const struct rdi_decided_host *h) {
    if (h->nranks < 2 || h->nranks > TD_MAX_WAYS || d->nrings > TD_MAX_LANES) {
        return false;
    }
    for (int i = 0; i < h->nranks; i++) {
        const struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        int beside = 0;
        for (int k = 0; k < h->nranks; k++) {
            const struct rdi_decided_rank *o = rdi_decide_rank(d, h, k);
            beside += o->gpu == r->gpu && (r->gpu >= 0 || o->numa == r->numa);
        }
        if (beside > TD_MOST_PILLS) {
            return false;
        }
    }
    return true;
}

// Tracks for NICs that are not simply beside the one GPU that uses them.
int td_channel_width(const struct rdi_decision *d, const struct rdi_decided_host *h) {
    int tracks = 0;
    for (int i = 0; i < h->nnics; i++) {
        tracks += h->nics[i].ranks > 1;
    }
    for (int i = 0; i < h->nranks; i++) {
        const struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        for (int k = 0; k < r->nrails; k++) {
            bool single = h->nics[r->rails[k].nic - h->nics[0].nic].ranks == 1;
            tracks += single &&
                      (r->nrails > 1 || r->rails[k].distance > RONDO_TOPO_PIX || r->gpu < 0);
        }
    }
    tracks = tracks > TD_MAX_LANES ? TD_MAX_LANES : tracks;
    return TD_LABEL + (tracks > 0 ? 10 + tracks * TRACK : 0);
}

// ---- Who uses which NIC --------------------------------------------------------------------------

// A NIC while the lines to it are laid.
struct target {
    const struct td_box *box;
    int low, high; // of lines that need a track
    int track;     // -1: none needed
};

static bool beside(const struct td_box *nic, int y) {
    return y >= nic->y + EDGE && y <= nic->y + nic->h - EDGE;
}

static int entry(const struct td_box *nic) { return nic->y + nic->h / 2 + 7; }

static void stretch(struct target *t, int y) {
    int end = entry(t->box), low = y < end ? y : end, high = y < end ? end : y;
    t->low = t->track < 0 || low < t->low ? low : t->low;
    t->high = t->track < 0 || high > t->high ? high : t->high;
    t->track = 0;
}

// From the top to the bottom those that lines come up to, then upwards those that lines come down to: so the lines of
// one rank to several NICs do not cross.
static int by_place(const void *a, const void *b) {
    const struct target *x = *(struct target *const *)a, *y = *(struct target *const *)b;
    bool x_down = x->low < entry(x->box), y_down = y->low < entry(y->box);
    if (x_down != y_down) {
        return x_down ? 1 : -1;
    }
    return x_down ? y->box->y - x->box->y : x->box->y - y->box->y;
}

// Each gets the first track that is free along it; in what is too narrow, some share the last.
static void give_tracks(const struct td_host *s, struct target *all, struct target **order) {
    int tracks = (s->channel_w - TD_LABEL - 10) / TRACK, n = 0;
    for (int i = 0; i < s->h->nnics; i++) {
        if (all[i].track >= 0) {
            order[n++] = &all[i];
        }
    }
    qsort(order, (size_t)n, sizeof(struct target *), by_place);
    for (int i = 0; i < n; i++) {
        bool taken[TD_MAX_LANES] = {false};
        for (int k = 0; k < i; k++) {
            if (order[k]->low <= order[i]->high + TRACK &&
                order[i]->low <= order[k]->high + TRACK) {
                taken[order[k]->track] = true;
            }
        }
        while (order[i]->track < tracks - 1 && taken[order[i]->track]) {
            order[i]->track++;
        }
    }
}

// Lines of one rank begin beside each other.
static int start(const struct td_host *s, int local, int k) {
    const struct rdi_decided_rank *r = rdi_decide_rank(s->d, s->h, local);
    int spread = r->nrails > 4 ? 2 : 4;
    int down = (2 * k - r->nrails + 1) * spread / 2;
    return s->seats[local].y + (down < -7 ? -7 : down > 7 ? 7 : down);
}

static struct td_line *draw_use(struct td_host *s, const struct target *t,
                                const struct rdi_decided_rank *r,
                                const struct rdi_decided_rail *rail, int y) {
    int from = s->mirror ? s->gpu : s->gpu + TD_GPU_W, to = s->mirror ? s->nic + TD_NIC_W : s->nic;
    int track = TD_LABEL + 8 + t->track * TRACK, most = s->channel_w - 3;
    track = track < most ? track : most; // beside the distances there is always room for one
    bool far = r->gpu >= 0 && !rail->gpudirect;
    struct td_line *l = td_line(s->p, far ? TD_USE_FAR : TD_USE, rail->rail, false);
    td_point(l, from, y);
    if (!beside(t->box, y)) {
        track = s->mirror ? from - track : from + track;
        td_point(l, track, y);
        td_point(l, track, entry(t->box));
        y = entry(t->box);
    }
    td_point(l, to, y);
    return l;
}

static void draw_distance(struct td_host *s, const struct td_seat *seat,
                          const struct rdi_decided_rank *r) {
    int box = seat->box < 0 ? seat->zone : td_at(s->p, seat->box)->parent;
    const struct td_box *b = td_at(s->p, box);
    int x = s->mirror ? s->gpu - TD_LABEL + 4 : s->gpu + TD_GPU_W + 4;
    td_write(s->p, box, x - b->x, seat->y - (r->nrails > 1 ? 7 : 3) - b->y, 8, false, TD_LABEL - 4,
             rondo_topo_distance_name(r->rails[0].distance));
}

// All lines to a NIC together: where they meet is no crossing.
static void draw_nic_uses(struct td_host *s, struct target *all, int nic) {
    int last = -1;
    for (int i = 0; i < s->h->nranks; i++) {
        int y = s->seats[s->order[i]].y;
        const struct rdi_decided_rank *r = rdi_decide_rank(s->d, s->h, s->order[i]);
        for (int k = 0; k < r->nrails; k++) {
            if (r->rails[k].nic - s->h->nics[0].nic == nic && y != last) {
                draw_use(s, &all[nic], r, &r->rails[k], start(s, s->order[i], k))->group = nic + 1;
                last = y;
            }
        }
    }
}

static void draw_uses(struct td_host *s, struct target *all) {
    for (int i = 0; i < s->h->nnics; i++) {
        draw_nic_uses(s, all, i);
    }
    for (int i = 0, before = -1; i < s->h->nranks; i++) {
        const struct td_seat *seat = &s->seats[s->order[i]];
        const struct rdi_decided_rank *r = rdi_decide_rank(s->d, s->h, s->order[i]);
        if (r->nrails > 0 && seat->y != before) {
            draw_distance(s, seat, r);
        }
        before = seat->y;
    }
}

static void uses(struct td_host *s) {
    struct target *all = calloc((size_t)s->h->nnics, sizeof *all);
    struct target **order = calloc((size_t)s->h->nnics, sizeof(struct target *));
    s->p->failed = s->p->failed || !all || !order;
    for (int i = 0; all && i < s->h->nnics; i++) {
        all[i] = (struct target){.box = td_at(s->p, s->nic_box[i]), .track = -1};
    }
    for (int i = 0; all && i < s->h->nranks; i++) {
        const struct rdi_decided_rank *r = rdi_decide_rank(s->d, s->h, i);
        for (int k = 0; k < r->nrails; k++) {
            struct target *t = &all[r->rails[k].nic - s->h->nics[0].nic];
            if (!beside(t->box, start(s, i, k))) {
                stretch(t, start(s, i, k));
            }
        }
    }
    if (all && order) {
        give_tracks(s, all, order);
        draw_uses(s, all);
    }
    free(all);
    free((void *)order);
}

// ---- Ways of the rings ---------------------------------------------------------------------------

// Some rank between the two heights.
static bool between(const struct td_host *s, int a, int b) {
    for (int i = 0; i < s->h->nranks; i++) {
        int y = s->seats[i].y;
        if (y > (a < b ? a : b) && y < (a < b ? b : a)) {
            return true;
        }
    }
    return false;
}

static void draw_step(struct td_host *s, int ring, int x, int from, int to) {
    struct td_line *l = td_line(s->p, TD_WAY, ring, true);
    int down = to > from ? 1 : -1;
    if (!between(s, from, to)) {
        td_point(l, x, from + down * DOT);
        td_point(l, x, to - down * DOT);
        return;
    }
    int side = x + (s->mirror ? -TD_LANE / 2 : TD_LANE / 2), in = s->mirror ? -DOT : DOT;
    td_point(l, x, from);
    td_point(l, side, from);
    td_point(l, side, to);
    td_point(l, x + in, to);
}

// Where the host's ranks begin in the order of all rings.
static int offset(const struct td_host *s) {
    int n = 0;
    for (const struct rdi_decided_host *h = s->d->hosts; h < s->h; h++) {
        n += h->nranks;
    }
    return n;
}

static void draw_way(struct td_host *s, int ring, int at) {
    const int *order = s->d->rings[ring].order + at;
    int x = s->lanes + ring * TD_LANE + TD_LANE / 2, n = s->h->nranks, top = 0;
    for (int i = 0; i < n; i++) {
        int local = s->d->ranks[order[i]].local, y = s->seats[local].y;
        top = y < s->seats[top].y ? local : top;
        // On one host the ring closes within it.
        if (i + 1 < n || s->d->nhosts == 1) {
            draw_step(s, ring, x, y, s->seats[s->d->ranks[order[(i + 1) % n]].local].y);
        }
        td_dot(s->p, x, y, DOT, ring, i > 0, i + 1);
    }
    const struct td_seat *first = &s->seats[top];
    const struct td_box *zone = td_at(s->p, first->zone);
    if (s->d->nrings > 1) {
        td_centre(s->p, first->zone, x - 8 - zone->x, first->y - 8 - zone->y, 8, 16, TD_INK,
                  td_say(s->p, "%d", ring));
    }
}

static void ways(struct td_host *s) {
    int edge = s->mirror ? s->gpu + TD_GPU_W : s->gpu, at = offset(s);
    int from = s->mirror ? s->lanes + s->nlanes * TD_LANE : s->lanes;
    for (int i = 0; i < s->h->nranks; i++) {
        struct td_line *l = td_line(s->p, TD_GUIDE, TD_NO_RING, false);
        td_point(l, from, s->seats[i].y);
        td_point(l, edge, s->seats[i].y);
    }
    for (int ring = 0; ring < s->nlanes; ring++) {
        draw_way(s, ring, at);
    }
}

void td_ranks_draw(struct td_host *s) {
    if (!s->p->failed && s->nlanes > 0) {
        ways(s);
    }
    if (!s->p->failed && s->h->nnics > 0) {
        uses(s);
    }
}
