// SPDX-License-Identifier: MIT
// The rings between hosts: a line of each rail from host to host, on tracks in the space between the columns.
//
//   left tracks | middle tracks: to the right, to the left | right tracks
#include "topo/show/draw_sheet.h"

#include <limits.h>
#include <stdlib.h>

#define MARK 8   // the radius of a rail's number
#define SIDE 5   // from a port's middle to its lines
#define FIRST 26 // from a column to its first track
#define NEAR 4   // lines so near are taken for one
#define MOST_MOVE 18
#define MOST_RAILS 64 // of more, nobody sees which is which

static bool is_left(const struct td_sheet *s, int i) { return i < s->left; }

// In at the upper side and out at the lower one where the ring goes down, and the other way where it goes up.
static int out_of(const struct td_sheet *s, int i, int ring) {
    return s->entries[i].ports[ring].y + (is_left(s, i) ? SIDE : -SIDE);
}

static int into(const struct td_sheet *s, int i, int ring) {
    return s->entries[i].ports[ring].y + (is_left(s, i) ? -SIDE : SIDE);
}

// The right end of a hop between columns is lower than the left one, for most rails.
static bool falls(const struct td_sheet *s, int left, int right) {
    int64_t sum = 0;
    for (int r = 0; r < s->d->nrails; r++) {
        sum += s->entries[right].ports[r].y - s->entries[left].ports[r].y;
    }
    return sum > 0;
}

// Of the hop from entry i to k. Between columns the order is the one in which fewer lines cross.
static int track_of(const struct td_sheet *s, int i, int k, int ring) {
    int from_left = s->left_edge + FIRST;
    if (is_left(s, i) == is_left(s, k)) {
        return is_left(s, i) ? from_left + ring * TD_TRACK
                             : s->right_edge - FIRST - ring * TD_TRACK;
    }
    bool turned = is_left(s, i) ? falls(s, i, k) : falls(s, k, i);
    int set = s->left_tracks + (is_left(s, i) ? 0 : s->middle_tracks / 2);
    return from_left + (set + (turned ? s->d->nrails - 1 - ring : ring)) * TD_TRACK;
}

// ---- Places --------------------------------------------------------------------------------------

// A hop between the columns: heights at its ends, and where it goes from one to the other.
struct crossing {
    int left, right, track, ring;
};

static int list(const struct td_sheet *s, struct crossing *all) {
    int n = 0;
    for (int r = 0; r < s->d->nrails; r++) {
        int down = s->left - 1, up = s->n - 1;
        all[n++] = (struct crossing){out_of(s, down, r), into(s, s->left, r),
                                     track_of(s, down, s->left, r), r};
        all[n++] = (struct crossing){into(s, 0, r), out_of(s, up, r), track_of(s, up, 0, r), r};
    }
    return n;
}

// How many lines would hide others if the right ends were `down` lower.
static int hidden(const struct crossing *all, int n, int down) {
    int count = 0;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) {
            count += i != k && abs(all[i].left - all[k].right - down) < NEAR &&
                     all[i].track >= all[k].track;
        }
    }
    return count;
}

int td_rails_settle(struct td_sheet *s) {
    if (s->d->nrails > MOST_RAILS) {
        return 0;
    }
    struct crossing *all = calloc(2 * (size_t)s->d->nrails, sizeof *all);
    s->p->failed = s->p->failed || !all;
    int n = all ? list(s, all) : 0, best = 0, least = INT_MAX;
    for (int down = 0; down < MOST_MOVE; down++) {
        int count = hidden(all, n, down);
        best = count < least ? down : best;
        least = count < least ? count : least;
    }
    free(all);
    return best;
}

// ---- Lines ---------------------------------------------------------------------------------------

static void hop(struct td_sheet *s, int i, int k, int ring) {
    struct td_line *l = td_line(s->p, TD_RAIL, ring, true);
    l->group = ring + 1;
    int ya = out_of(s, i, ring), yb = into(s, k, ring), x = track_of(s, i, k, ring);
    td_point(l, s->entries[i].ports[ring].x, ya);
    if (is_left(s, i) == is_left(s, k) || ya != yb) {
        td_point(l, x, ya);
        td_point(l, x, yb);
    }
    td_point(l, s->entries[k].ports[ring].x + (is_left(s, k) ? MARK - 1 : 1 - MARK), yb);
}

void td_rails_draw(struct td_sheet *s) {
    for (int r = 0; r < s->d->nrails; r++) {
        for (int i = 0; i < s->n; i++) {
            hop(s, i, (i + 1) % s->n, r);
        }
        for (int i = 0; i < s->n; i++) {
            td_dot(s->p, s->entries[i].ports[r].x, s->entries[i].ports[r].y, MARK, r, false, r);
        }
    }
}
