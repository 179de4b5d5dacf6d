// SPDX-License-Identifier: MIT
// All hosts of a picture, in two columns: the rings go down the left one and up the right one, and so around.
//
//   a --+ +-- d
//   b --+ +-- c      a -> b -> c -> d -> a
#include "topo/internal.h"
#include "topo/show/decide.h"
#include "topo/show/draw.h"
#include "topo/show/show.h"

#include <stdlib.h>
#include <string.h>

#define MARGIN 20
#define HEAD 60
#define GAP 18
#define MOST_WHOLE 4   // hosts that are all drawn whole
#define MOST_SINGLE 32 // of more, those alike are told in one card
#define MOST_KINDS 16  // of more, the rest is told in one card
#define CARD_W 300
#define CHIP_W 140
#define CHIP_H 18
#define TRACK 8
#define MARK 8 // of a rail's number

// What is drawn for a host, or for several.
struct entry {
    int host;    // the first
    int like;    // the host whose whole picture tells about this one; -1: it is drawn whole
    int count;   // hosts that it stands for
    bool others; // of several kinds
    int w, x, y, h;
    struct port *ports; // by ring
};

struct port {
    int x, y;
};

struct sheet {
    struct td_picture *p;
    const struct rdi_decision *d;
    const size_t *same;
    struct entry *entries;
    int n, left; // entries; of them in the left column
    int *nic_box;
    int left_edge, right_edge; // of the space between the columns
    int left_tracks, middle_tracks;
};

// ---- Which hosts ---------------------------------------------------------------------------------

// The first host that is drawn in the same way.
static int kind_of(const struct sheet *s, int i) {
    int first = (int)s->same[i];
    const struct rdi_decided_host *a = &s->d->hosts[first], *b = &s->d->hosts[i];
    return first < i && a->nranks == b->nranks && a->nnics == b->nnics ? first : i;
}

static void add(struct sheet *s, int host, int like, int count) {
    struct entry e = {.host = host, .like = like, .count = count};
    e.w = like < 0 ? td_host_width(s->d, host) : CARD_W;
    s->entries[s->n++] = e;
}

// A kind: its first host, and one card for all others; how many there are.
static int add_kind(struct sheet *s, int kind) {
    int first = -1, count = 0;
    for (int i = kind + 1; i < s->d->nhosts; i++) {
        bool alike = kind_of(s, i) == kind;
        first = alike && first < 0 ? i : first;
        count += alike;
    }
    add(s, kind, -1, 1);
    if (count > 0) {
        add(s, first, kind, count);
    }
    return 1 + count;
}

static void choose(struct sheet *s) {
    int n = s->d->nhosts, kinds = 0, told = 0, other = -1;
    for (int i = 0; i < n; i++) {
        int kind = kind_of(s, i);
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

// ---- Cards ---------------------------------------------------------------------------------------

static bool stands_for(const struct sheet *s, const struct entry *e, int host) {
    return e->count == 1 ? host == e->host : host != e->like && kind_of(s, host) == e->like;
}

static const char *card_name(struct sheet *s, const struct entry *e) {
    struct rdi_text words = {0};
    const char **names = calloc((size_t)s->d->nhosts, sizeof *names);
    size_t n = 0;
    s->p->failed = s->p->failed || !names;
    for (int i = 0; names && i < s->d->nhosts && !e->others; i++) {
        if (stands_for(s, e, i)) {
            names[n++] = s->d->hosts[i].name;
        }
    }
    if (e->others) {
        rdi_text_add(&words, "%d hosts more, of other kinds", e->count);
    } else if (n > 0) {
        ts_fold(&words, names, n);
    }
    free(names);
    return td_keep(s->p, &words);
}

static const char *card_words(struct sheet *s, const struct entry *e) {
    const struct rdi_decided_host *h = &s->d->hosts[e->host];
    struct rdi_text words = {0};
    if (e->count > 1) {
        rdi_text_add(&words, "%d hosts", e->count);
    } else {
        ts_ranks(&words, h->ranks, h->nranks);
    }
    if (!e->others) {
        rdi_text_add(&words, ", %sas %s", e->count > 1 ? "each " : "", s->d->hosts[e->like].name);
    }
    return td_keep(s->p, &words);
}

static void draw_card(struct sheet *s, struct entry *e, bool mirror) {
    const struct rdi_decided_host *h = &s->d->hosts[e->host];
    int lines = s->d->nrails > 0 ? s->d->nrails * CHIP_H + 8 : 0;
    e->h = (lines > 52 ? lines : 52);
    int box = td_box(s->p, TD_CARD, 0, e->x, e->y, e->w, e->h);
    int text = mirror ? CHIP_W + 12 : 8, chip = mirror ? e->x : e->x + e->w - CHIP_W;
    td_write(s->p, box, text, 20, 12, true, e->w - CHIP_W - 20, card_name(s, e));
    td_write(s->p, box, text, 36, TD_SMALL, false, e->w - CHIP_W - 20, card_words(s, e));
    for (int r = 0; r < s->d->nrails; r++) {
        int nic = s->d->rings[r].legs[e->host].nic, y = e->y + 5 + r * CHIP_H;
        e->ports[r] = (struct port){mirror ? e->x : e->x + e->w, y + (CHIP_H - 2) / 2};
        if (nic < 0 || e->others) {
            continue;
        }
        const rondo_topo_device_info *info = rondo_topo_device(h->topo, nic);
        int b = td_box(s->p, TD_NIC, box, chip + (mirror ? 4 : -4), y, CHIP_W, CHIP_H - 2);
        td_write(s->p, b, mirror ? 12 : 6, 12, TD_SMALL, false, CHIP_W - 20,
                 td_say(s->p, "%s %s", info->name, info->rdma[0] ? info->rdma : info->net));
    }
}

// ---- Columns -------------------------------------------------------------------------------------

static void draw_whole(struct sheet *s, struct entry *e, bool mirror) {
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
        e->ports[r] = (struct port){mirror ? b->x : b->x + b->w, y};
    }
}

// Entries from..to-1; where the column ends. The left one is drawn downwards, the right one upwards.
static int draw_column(struct sheet *s, int from, int to, bool mirror) {
    int y = HEAD;
    for (int i = 0; i < to - from && !s->p->failed; i++) {
        struct entry *e = &s->entries[mirror ? to - 1 - i : from + i];
        e->x = mirror ? s->right_edge : s->left_edge - e->w;
        e->y = y;
        if (e->like < 0) {
            draw_whole(s, e, mirror);
        } else {
            draw_card(s, e, mirror);
        }
        y += e->h + GAP;
    }
    return y;
}

static int widest(const struct sheet *s, int from, int to) {
    int w = 0;
    for (int i = from; i < to; i++) {
        w = s->entries[i].w > w ? s->entries[i].w : w;
    }
    return w;
}

// All are drawn whole, are alike, and have one beside them: rails cross without a bend.
static bool straight(const struct sheet *s) {
    bool all = s->n % 2 == 0;
    for (int i = 0; i < s->n; i++) {
        all = all && s->entries[i].like < 0 &&
              kind_of(s, s->entries[i].host) == kind_of(s, s->entries[0].host);
    }
    return all;
}

static void set_columns(struct sheet *s) {
    int rails = s->n > 1 ? s->d->nrails : 0;
    s->left = (s->n + 1) / 2;
    s->left_edge = MARGIN + widest(s, 0, s->left);
    s->left_tracks = s->left > 1 ? rails : 0;
    int right_tracks = s->n - s->left > 1 ? rails : 0;
    s->middle_tracks = straight(s) ? 0 : 2 * rails;
    int between = 60 + (s->left_tracks + s->middle_tracks + right_tracks) * TRACK;
    s->right_edge = s->left_edge + (s->n == 1 ? 0 : between < 120 ? 120 : between);
}

// ---- Rings ---------------------------------------------------------------------------------------

// From a port to one of the next host: `down` of its middle at both ends, over the track at x.
static void hop(struct sheet *s, int ring, struct port a, bool a_left, int a_down, struct port b,
                bool b_left, int b_down, int x) {
    struct td_line *l = td_line(s->p, TD_RAIL, ring, true);
    l->group = ring + 1;
    int ya = a.y + a_down, yb = b.y + b_down;
    td_point(l, a.x, ya);
    if (a_left == b_left || ya != yb) {
        td_point(l, x, ya);
        td_point(l, x, yb);
    }
    td_point(l, b.x + (b_left ? MARK - 1 : 1 - MARK), yb);
}

static void draw_ring(struct sheet *s, int ring) {
    for (int i = 0; i < s->n; i++) {
        int k = (i + 1) % s->n;
        bool left = i < s->left, next_left = k < s->left;
        int track = s->left_edge + 26 + ring * TRACK;
        int middle = track + s->left_tracks * TRACK;
        if (!left && !next_left) {
            track = s->right_edge - 26 - ring * TRACK;
        } else if (left != next_left) {
            track = left ? middle : middle + s->middle_tracks / 2 * TRACK;
        }
        // In at the upper side and out at the lower one where the ring goes down, and the other way where it goes up.
        const int side = 5;
        hop(s, ring, s->entries[i].ports[ring], left, left ? side : -side,
            s->entries[k].ports[ring], next_left, next_left ? -side : side, track);
    }
    for (int i = 0; i < s->n; i++) {
        td_dot(s->p, s->entries[i].ports[ring].x, s->entries[i].ports[ring].y, MARK, ring, false,
               ring);
    }
}

// ---- All -----------------------------------------------------------------------------------------

static void title(struct sheet *s, int w) {
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

static void draw_all(struct sheet *s) {
    choose(s);
    set_columns(s);
    for (int i = 0; i < s->n; i++) {
        s->entries[i].ports = calloc((size_t)s->d->nrings, sizeof *s->entries[i].ports);
        s->p->failed = s->p->failed || !s->entries[i].ports;
    }
    td_box(s->p, TD_SHEET, -1, 0, 0, 0, 0);
    int w = s->right_edge + (s->n > 1 ? widest(s, s->left, s->n) : 0) + MARGIN;
    title(s, w);
    int end = draw_column(s, 0, s->left, false), right = draw_column(s, s->left, s->n, true);
    for (int r = 0; !s->p->failed && s->n > 1 && r < s->d->nrails; r++) {
        draw_ring(s, r);
    }
    end = td_legend(s->p, s->d, end > right ? end : right, w);
    td_at(s->p, 0)->w = w;
    td_at(s->p, 0)->h = end + MARGIN;
}

bool td_layout(struct td_picture *p, const struct rdi_decision *d, const size_t *same) {
    struct sheet s = {.p = p, .d = d, .same = same};
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
