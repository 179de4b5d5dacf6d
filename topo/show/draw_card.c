// SPDX-License-Identifier: MIT
// A card: the name and the NICs of a host that is drawn whole elsewhere, or of all hosts of a kind but one.
#include "topo/internal.h"
#include "topo/show/decide.h"
#include "topo/show/draw_sheet.h"
#include "topo/show/show.h"

#include <stdlib.h>

#define CHIP_W 140
#define CHIP_H 18
#define LEAST_H 52

static bool stands_for(const struct td_sheet *s, const struct td_entry *e, int host) {
    return e->count == 1 ? host == e->host : host != e->like && td_kind_of(s, host) == e->like;
}

static const char *card_name(struct td_sheet *s, const struct td_entry *e) {
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

static const char *card_words(struct td_sheet *s, const struct td_entry *e) {
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

void td_card_draw(struct td_sheet *s, struct td_entry *e, bool mirror) {
    const struct rdi_decided_host *h = &s->d->hosts[e->host];
    int lines = s->d->nrails > 0 ? s->d->nrails * CHIP_H + 8 : 0;
    e->h = lines > LEAST_H ? lines : LEAST_H;
    int box = td_box(s->p, TD_CARD, 0, e->x, e->y, e->w, e->h);
    int text = mirror ? CHIP_W + 12 : 8, chip = mirror ? e->x : e->x + e->w - CHIP_W;
    td_write(s->p, box, text, 20, 12, true, e->w - CHIP_W - 20, card_name(s, e));
    td_write(s->p, box, text, 36, TD_SMALL, false, e->w - CHIP_W - 20, card_words(s, e));
    for (int r = 0; r < s->d->nrails; r++) {
        int nic = s->d->rings[r].legs[e->host].nic, y = e->y + 5 + r * CHIP_H;
        e->ports[r] = (struct td_port){mirror ? e->x : e->x + e->w, y + (CHIP_H - 2) / 2};
        if (nic < 0 || e->others) {
            continue;
        }
        const rondo_topo_device_info *info = rondo_topo_device(h->topo, nic);
        int b = td_box(s->p, TD_NIC, box, chip + (mirror ? 4 : -4), y, CHIP_W, CHIP_H - 2);
        td_write(s->p, b, mirror ? 12 : 6, 12, TD_SMALL, false, CHIP_W - 20,
                 td_say(s->p, "%s %s", info->name, info->rdma[0] ? info->rdma : info->net));
    }
}
