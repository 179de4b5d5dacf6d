// SPDX-License-Identifier: MIT
// What the signs of a picture mean: those that are in it.
#include "topo/show/draw.h"

#include <stdint.h>

#define MARGIN 20
#define ROW 22
#define SIGN 52 // room for a sign
#define SMALL 24

struct legend {
    struct td_picture *p;
    int box, x, y, right;
};

// Place for a sign and its words; the middle of the sign.
static struct td_point place(struct legend *l, int sign, const char *words) {
    int w = sign + td_width(words, SIZE_MAX, TD_SMALL, false) + 16;
    const struct td_box *b = td_at(l->p, l->box);
    if (l->x > b->x + 8 && l->x + w > l->right) {
        l->x = b->x + 8;
        l->y += ROW;
    }
    int x = l->x;
    td_write(l->p, l->box, x + sign - b->x, l->y + 14 - b->y, TD_SMALL, false, l->right - x - sign,
             words);
    l->x += w;
    return (struct td_point){x + sign / 2 - 4, l->y + 11};
}

static void sign_box(struct legend *l, enum td_kind kind, bool faint, const char *inside,
                     const char *words) {
    struct td_point at = place(l, kind == TD_CORE ? SMALL : SIGN, words);
    int w = kind == TD_CORE ? 11 : 40, h = kind == TD_CORE ? 11 : 16;
    int box = td_box(l->p, kind, l->box, at.x - w / 2, at.y - h / 2, w, h);
    td_at(l->p, box)->faint = faint;
    td_at(l->p, box)->dark = kind == TD_CORE && inside[0] != '\0';
    td_centre(l->p, box, 0, h / 2 + 3, 8, w, TD_WHITE, inside);
}

static void sign_line(struct legend *l, enum td_look look, bool arrow, const char *words) {
    struct td_point at = place(l, SIGN, words);
    struct td_line *line = td_line(l->p, look, TD_NO_RING, arrow);
    line->key = true;
    td_point(line, at.x - 20, at.y);
    td_point(line, at.x + 20, at.y);
}

static void sign_way(struct legend *l, bool rails) {
    struct td_point at =
        place(l, SIGN,
              rails ? "the way of a ring around a host's ranks, in at 1; above it its rail"
                    : "the way of the ring around the ranks");
    struct td_line *line = td_line(l->p, TD_WAY, 0, true);
    line->key = true;
    td_point(line, at.x - 12, at.y);
    td_point(line, at.x + 6, at.y);
    td_dot(l->p, at.x - 12, at.y, 6, 0, false, 1);
    td_dot(l->p, at.x + 12, at.y, 6, 0, true, 2);
}

static void sign_rail(struct legend *l) {
    struct td_point at = place(l, SIGN, "a rail and its number: its ring from host to host");
    struct td_line *line = td_line(l->p, TD_RAIL, 0, true);
    line->key = true;
    td_point(line, at.x - 12, at.y);
    td_point(line, at.x + 20, at.y);
    td_dot(l->p, at.x - 12, at.y, 8, 0, false, 0);
}

static bool has_box(const struct td_picture *p, enum td_kind kind, bool faint, bool dark) {
    for (size_t i = 0; i < p->nboxes; i++) {
        if (p->boxes[i].kind == kind && p->boxes[i].faint == faint && p->boxes[i].dark == dark) {
            return true;
        }
    }
    return false;
}

static bool has_line(const struct td_picture *p, enum td_look look) {
    for (size_t i = 0; i < p->nlines; i++) {
        if (p->lines[i].look == look) {
            return true;
        }
    }
    return false;
}

// Those that are in the picture.
static void distances(struct legend *l, const struct rdi_decision *d) {
    unsigned seen = 0;
    for (int i = 0; i < d->nranks; i++) {
        seen |= d->ranks[i].nrails > 0 ? 1U << d->ranks[i].rails[0].distance : 0;
    }
    for (rondo_topo_distance far = RONDO_TOPO_LOC; far <= RONDO_TOPO_SYS; far++) {
        if (seen >> far & 1) {
            const char *words = td_say(l->p, "between them: %s", rondo_topo_distance_text(far));
            struct td_point at = place(l, SIGN, words);
            const struct td_box *b = td_at(l->p, l->box);
            td_centre(l->p, l->box, at.x - 20 - b->x, at.y + 3 - b->y, 8, 40, TD_SOFT,
                      rondo_topo_distance_name(far));
        }
    }
}

int td_legend(struct td_picture *p, const struct rdi_decision *d, int y, int w) {
    bool use = has_line(p, TD_USE), use_far = has_line(p, TD_USE_FAR), way = has_line(p, TD_WAY);
    bool rail = has_line(p, TD_RAIL), busy = has_box(p, TD_CORE, false, true);
    bool idle = has_box(p, TD_NIC, true, false) || has_box(p, TD_GPU, true, false),
         kept = has_box(p, TD_CORE, true, false);
    bool cores = has_box(p, TD_CORE, false, false);
    struct legend l = {.p = p, .box = td_box(p, TD_KEY, 0, MARGIN, y, w - 2 * MARGIN, 0)};
    l.x = MARGIN + 8;
    l.y = y + 4;
    l.right = w - MARGIN - 8;
    sign_box(&l, TD_RANK, false, "rank 0", "a rank, and the CPU of its progress thread");
    if (cores) {
        sign_box(&l, TD_CORE, false, "", "a core");
    }
    if (busy) {
        sign_box(&l, TD_CORE, false, "3", "the core of rank 3's progress thread");
    }
    if (kept) {
        sign_box(&l, TD_CORE, true, "", "a core that may not be used");
    }
    if (idle) {
        sign_box(&l, TD_NIC, true, "", "not used");
    }
    if (use) {
        sign_line(&l, TD_USE, false, "a rank uses this NIC");
    }
    if (use_far) {
        sign_line(&l, TD_USE_FAR, false,
                  "a rank uses this NIC through host memory, without GPUDirect");
    }
    distances(&l, d);
    if (rail) {
        sign_rail(&l);
    }
    if (way) {
        sign_way(&l, d->nrails > 0);
    }
    int end = l.y + ROW + 4;
    td_at(p, l.box)->h = end - y;
    return end;
}
