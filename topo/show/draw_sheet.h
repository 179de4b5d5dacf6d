// SPDX-License-Identifier: MIT
// The hosts of a picture while they are laid out: for draw_cluster.c, draw_card.c and draw_rails.c.
#ifndef RDI_TOPO_SHOW_DRAW_SHEET_H
#define RDI_TOPO_SHOW_DRAW_SHEET_H

#include "topo/show/draw.h"

#define TD_CARD_W 300
#define TD_TRACK 8 // between rails that run beside each other

// Where a rail meets a host: the middle of its number.
struct td_port {
    int x, y;
};

// What is drawn for a host, or for several.
struct td_entry {
    int host;    // the first
    int like;    // the host whose whole picture tells about this one; -1: it is drawn whole
    int count;   // hosts that it stands for
    bool others; // of several kinds
    int w, x, y, h;
    struct td_port *ports; // by rail
};

// Entries follow each other as the rings do: down the left column, up the right one.
struct td_sheet {
    struct td_picture *p;
    const struct rdi_decision *d;
    const size_t *same;
    struct td_entry *entries;
    int n, left; // entries; of them in the left column
    int *nic_box;
    int left_edge, right_edge; // of the space between the columns
    int left_tracks, middle_tracks;
};

// The first host that is drawn in the same way as host i.
int td_kind_of(const struct td_sheet *s, int i);
void td_card_draw(struct td_sheet *s, struct td_entry *e, bool mirror);

// How far down the right column goes best, so that no line hides one from the left.
int td_rails_settle(struct td_sheet *s);
void td_rails_draw(struct td_sheet *s);

#endif
