// SPDX-License-Identifier: MIT
// All hosts of a picture, in two columns: the rings go down the left one and up the right one, and so around.
//
//   a --+ +-- d
//   b --+ +-- c      a -> b -> c -> d -> a
#include "topo/internal.h"
#include "topo/show/draw_sheet.h"

#include <stdlib.h>

#define MARGIN 20
#define HEAD 60
#define GAP 18
#define MOST_WHOLE 4   // hosts that are all drawn whole
#define MOST_SINGLE 32 // of more, those alike are told in one card
#define MOST_KINDS 16  // of more, the rest is told in one card

// ---- Which hosts ---------------------------------------------------------------------------------

int td_kind_of(const struct td_sheet *s, int i) {
    int first = (int)s->same[i];
    const struct rdi_decided_host *a = &s->d->hosts[first], *b = &s->d->hosts[i];
    return first < i && a->nranks == b->nranks && a->nnics == b->nnics ? first : i;
}

static void add(struct td_sheet *s, int host, int like, int count) {
    struct td_entry e = {.host = host, .like = like, .count = count};
    e.w = like < 0 ? td_host_width(s->d, host) : TD_CARD_W;
    s->entries[s->n++] = e;
}

// A kind: its first host, and one card for all others; how many there are.
static int add_kind(struct td_sheet *s, int kind) {
    int first = -1, count = 0;
    for (int i = kind + 1; i < s->d->nhosts; i++) {
        bool alike = td_kind_of(s, i) == kind;
        first = alike && first < 0 ? i : first;
        count += alike;
    }
    add(s, kind, -1, 1);
    if (count > 0) {
        add(s, first, kind, count);
    }
    return 1 + count;
}

static void choose(struct td_sheet *s) {
    int n = s->d->nhosts, kinds = 0, told = 0, other = -1;
    for (int i = 0; i < n; i++) {
        int kind = td_kind_of(s, i);
        if (n <= MOST_SINGLE) {
            add(s, i, n <= MOST_WHOLE || kind == i ? -1 : kind, 1);
        } else if (kind == i && kinds++ < MOST_KINDS) {
            told += add_kind(s, i);
        } else if (kind == i && other < 0) {
            other = i;
        }
    }
    if (other >= 0) {
        add(s, other, other, n - told);
        s->entries[s->n - 1].others = true;
    }
}

// ---- Columns -------------------------------------------------------------------------------------

static void draw_whole(struct td_sheet *s, struct td_entry *e, bool mirror) {
    const struct rdi_decided_host *h = &s->d->hosts[e->host];
    for (int i = 0; i < h->nnics; i++) {
        s->nic_box[i] = -1;
    }
    int box = td_host_draw(s->p, s->d, e->host, e->x, e->y, mirror, s->nic_box);
    e->h = td_at(s->p, box)->h;
    for (int r = 0; r < s->d->nrails; r++) {
        int nic = s->d->rings[r].legs[e->host].nic;
        const struct td_box *b = td_at(s->p, nic < 0 ? box : s->nic_box[nic - h->nics[0].nic]);
        int y = nic < 0 ? b->y + 24 + 20 * r : b->y + b->h / 2;
        e->ports[r] = (struct td_port){mirror ? b->x : b->x + b->w, y};
    }
}

// Entries from..to-1; where the column ends. The left one is drawn downwards, the right one upwards.
static int draw_column(struct td_sheet *s, int from, int to, bool mirror) {
    int y = HEAD;
    for (int i = 0; i < to - from && !s->p->failed; i++) {
        struct td_entry *e = &s->entries[mirror ? to - 1 - i : from + i];
        e->x = mirror ? s->right_edge : s->left_edge - e->w;
        e->y = y;
        if (e->like < 0) {
            draw_whole(s, e, mirror);
        } else {
            td_card_draw(s, e, mirror);
        }
        y += e->h + GAP;
    }
    return y;
}

// The right column, moved to where the rails from the left are seen best.
static int draw_right(struct td_sheet *s) {
    size_t box = s->p->nboxes, line = s->p->nlines, dot = s->p->ndots;
    int end = draw_column(s, s->left, s->n, true);
    int down = s->p->failed || s->middle_tracks == 0 ? 0 : td_rails_settle(s);
    for (size_t i = box; i < s->p->nboxes; i++) {
        s->p->boxes[i].y += down;
    }
    for (size_t i = line; i < s->p->nlines; i++) {
        for (int k = 0; k < s->p->lines[i].n; k++) {
            s->p->lines[i].at[k].y += down;
        }
    }
    for (size_t i = dot; i < s->p->ndots; i++) {
        s->p->dots[i].y += down;
    }
    for (int i = s->left; i < s->n; i++) {
        for (int r = 0; !s->p->failed && r < s->d->nrails; r++) {
            s->entries[i].ports[r].y += down;
        }
    }
    return end + down;
}

static int widest(const struct td_sheet *s, int from, int to) {
    int w = 0;
    for (int i = from; i < to; i++) {
        w = s->entries[i].w > w ? s->entries[i].w : w;
    }
    return w;
}

// All are drawn whole, are alike, and have one beside them: rails cross without a bend.
static bool straight(const struct td_sheet *s) {
    bool all = s->n % 2 == 0;
    for (int i = 0; i < s->n; i++) {
        all = all && s->entries[i].like < 0 &&
              td_kind_of(s, s->entries[i].host) == td_kind_of(s, s->entries[0].host);
    }
    return all;
}

static void set_columns(struct td_sheet *s) {
    int rails = s->n > 1 ? s->d->nrails : 0;
    s->left = (s->n + 1) / 2;
    s->left_edge = MARGIN + widest(s, 0, s->left);
    s->left_tracks = s->left > 1 ? rails : 0;
    int right_tracks = s->n - s->left > 1 ? rails : 0;
    s->middle_tracks = straight(s) ? 0 : 2 * rails;
    int between = 60 + (s->left_tracks + s->middle_tracks + right_tracks) * TD_TRACK;
    s->right_edge = s->left_edge + (s->n == 1 ? 0 : between < 120 ? 120 : between);
}

// ---- All -----------------------------------------------------------------------------------------

static void title(struct td_sheet *s, int w) {
    const struct rdi_decision *d = s->d;
    struct rdi_text words = {0};
    rdi_text_add(&words, "%d host%s, %d rank%s", d->nhosts, d->nhosts == 1 ? "" : "s", d->nranks,
                 d->nranks == 1 ? "" : "s");
    if (d->nrails > 0) {
        rdi_text_add(&words, ", %d rail%s", d->nrails, d->nrails == 1 ? "" : "s");
    }
    td_write(s->p, 0, MARGIN, 28, 18, true, w - 2 * MARGIN, td_keep(s->p, &words));
    td_write(s->p, 0, MARGIN, 46, TD_BODY, false, w - 2 * MARGIN,
             td_say(s->p, "plan: %s: %s", rdi_decided_plan_name(d->plan), d->plan_why));
}

static void draw_all(struct td_sheet *s) {
    choose(s);
    set_columns(s);
    for (int i = 0; i < s->n; i++) {
        s->entries[i].ports = calloc((size_t)s->d->nrings, sizeof *s->entries[i].ports);
        s->p->failed = s->p->failed || !s->entries[i].ports;
    }
    td_box(s->p, TD_SHEET, -1, 0, 0, 0, 0);
    int w = s->right_edge + (s->n > 1 ? widest(s, s->left, s->n) : 0) + MARGIN;
    title(s, w);
    int end = draw_column(s, 0, s->left, false), right = draw_right(s);
    if (!s->p->failed && s->n > 1) {
        td_rails_draw(s);
    }
    end = td_legend(s->p, s->d, end > right ? end : right, w);
    td_at(s->p, 0)->w = w;
    td_at(s->p, 0)->h = end + MARGIN;
}

bool td_layout(struct td_picture *p, const struct rdi_decision *d, const size_t *same) {
    struct td_sheet s = {.p = p, .d = d, .same = same};
    *p = (struct td_picture){.nrings = d->nrings};
    // A kind has at most two entries, and there is one for the rest.
    s.entries = calloc((size_t)(d->nhosts > MOST_SINGLE ? 2 * MOST_KINDS + 1 : MOST_SINGLE),
                       sizeof *s.entries);
    s.nic_box = calloc(RDI_TOPO_DEVICES, sizeof *s.nic_box);
    p->failed = !s.entries || !s.nic_box;
    if (!p->failed) {
        draw_all(&s);
    }
    for (int i = 0; i < s.n; i++) {
        free(s.entries[i].ports);
    }
    free(s.entries);
    free(s.nic_box);
    if (p->failed) {
        td_free(p);
        return false;
    }
    return true;
}
