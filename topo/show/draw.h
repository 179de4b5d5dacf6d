// SPDX-License-Identifier: MIT
// rondo-topo --svg, --png: pictures of hosts and of what is decided on them.
//
//   a decision --> draw_cluster.c: hosts in two columns; draw_card.c: those that are told in short;
//                  draw_rails.c: the rings between hosts
//                    --> draw_host.c: one host; draw_cpus.c: its cores; draw_devices.c: bridges, GPUs, NICs;
//                        draw_ranks.c: which rank uses which NIC, and the way of each ring through the host
//              --> a picture: boxes, texts and lines with their places --> draw_svg.c, draw_png.c
//
// The layout is pure: the same decision gives the same picture. It knows no font: it counts with the widest that is
// common, and what does not fit is cut.
#ifndef RDI_TOPO_SHOW_DRAW_H
#define RDI_TOPO_SHOW_DRAW_H

#include "topo/decide.h"
#include "transport/text.h"

#include <stdbool.h>

// ---- A picture -----------------------------------------------------------------------------------
// Everything in pixels; y grows downwards.

enum td_kind {
    TD_SHEET = 0, // the picture itself; the parent of all
    TD_HOST,
    TD_PACKAGE,
    TD_NUMA,
    TD_ELSEWHERE, // devices that are at no single NUMA node
    TD_CACHE,     // cores that share a level 3 cache, or else a package
    TD_CORE,
    TD_BRIDGE,
    TD_GPU,
    TD_NIC,
    TD_RANK,
    TD_CARD, // one of several hosts that are drawn once
    TD_KEY,  // the legend
    TD_KINDS
};

// Boxes lie wholly within their parents, and beside each other.
struct td_box {
    enum td_kind kind;
    int parent; // -1: the sheet
    int x, y, w, h;
    bool faint;      // not used, or not allowed
    bool dark;       // of a core: a progress thread runs here
    const char *tip; // more about it; NULL = nothing
};

struct td_text {
    int box;    // that it lies in
    int dx, dy; // from the box' corner to the left end of the base line
    int size, width;
    bool bold;
    unsigned colour;
    const char *words;
};

#define TD_POINTS 6
#define TD_NO_RING (-1)

enum td_look {
    TD_RAIL,    // between hosts
    TD_USE,     // a rank uses a NIC, with GPUDirect
    TD_USE_FAR, // the same, through host memory
    TD_WAY,     // within a host
    TD_GUIDE,
};

struct td_line {
    enum td_look look;
    int ring; // its colour; TD_NO_RING: grey
    bool arrow;
    bool key;  // in the legend
    int group; // lines of one that follow each other meet, and cross others; 0 = none
    int n;
    struct td_point {
        int x, y;
    } at[TD_POINTS];
};

// A number in a circle.
struct td_dot {
    int x, y, r, ring;
    bool hollow;
    int number;
};

struct td_picture {
    struct td_box *boxes;
    struct td_text *texts;
    struct td_line *lines;
    struct td_dot *dots;
    char **strings;
    size_t nboxes, ntexts, nlines, ndots, nstrings;
    size_t box_cap, text_cap, line_cap, dot_cap, string_cap;
    int nrings;
    bool failed; // memory ran out
};

// ---- Making one ----------------------------------------------------------------------------------

// same[i]: the first host that has the same parts as host i, its own number if none. False: out of memory.
bool td_layout(struct td_picture *p, const struct rdi_decision *d, const size_t *same);
void td_free(struct td_picture *p);

// ---- Writing it ----------------------------------------------------------------------------------

void td_svg(struct rdi_text *out, const struct td_picture *p);
// A new block of memory. False: `why` says why not.
bool td_png(const struct td_picture *p, unsigned char **bytes, size_t *len, char *why, size_t cap);

// What both draw alike.
struct td_paint {
    unsigned fill, stroke; // 0xRRGGBB
    bool filled, stroked, dashed;
    int round;
};
struct td_stroke {
    unsigned colour;
    double width, edge; // edge 0 = none; of a line below, wider than this one
    unsigned edge_colour;
    const char *dashes; // as SVG has them; NULL = none
};
struct td_paint td_paint_of(const struct td_box *b);
struct td_stroke td_stroke_of(const struct td_line *l);
unsigned td_arrow_colour(const struct td_line *l);
// The head of its arrow, and where the line itself ends.
void td_arrow(const struct td_line *l, struct td_point head[3], struct td_point *end);
// Lines from `first` to before the result are drawn together: the edges of all, then they themselves.
size_t td_group_end(const struct td_picture *p, size_t first);
int td_dot_size(const struct td_dot *d); // of its number
unsigned td_ring_colour(int ring);
unsigned td_ring_edge(int ring); // around it
unsigned td_ring_ink(int ring);  // for a number on it

// ---- Within draw_*.c -----------------------------------------------------------------------------

#define TD_INK 0x222222U
#define TD_SOFT 0x555555U
#define TD_WHITE 0xffffffU
#define TD_SMALL 9
#define TD_BODY 11

int td_box(struct td_picture *p, enum td_kind kind, int parent, int x, int y, int w, int h);
// Never NULL: where memory ran out, a box that belongs to nobody.
struct td_box *td_at(struct td_picture *p, int box);
// Words in a box, cut to `room` pixels, with '?' for what is no text; the width that they take.
int td_write(struct td_picture *p, int box, int dx, int dy, int size, bool bold, int room,
             const char *words);
// The same in the middle of `room` pixels that begin at dx, in a colour.
void td_centre(struct td_picture *p, int box, int dx, int dy, int size, int room, unsigned colour,
               const char *words);
struct td_line *td_line(struct td_picture *p, enum td_look look, int ring, bool arrow);
void td_point(struct td_line *l, int x, int y);
void td_dot(struct td_picture *p, int x, int y, int r, int ring, bool hollow, int number);
// A text that lives as long as the picture, with '?' for what is none; "" when memory ran out.
const char *td_say(struct td_picture *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
const char *td_keep(struct td_picture *p, struct rdi_text *words); // frees it
int td_width(const char *words, size_t len, int size, bool bold);

// Cores, in the order of NUMA nodes and of what they share.
struct td_core {
    int first; // processor
    int pus, numa, group;
    bool allowed;
};
struct td_group {
    int numa, first, cores;
    uint64_t cache; // bytes of the level 3 cache that they share; 0 = unknown or none
};
struct td_cpus {
    struct td_core *cores;
    struct td_group *groups;
    int ncores, ngroups, ncpus;
    int *core_of; // processor, below ncpus --> core; -1 = none
};
bool td_cpus_read(struct td_cpus *c, const rondo_topo *t);
void td_cpus_free(struct td_cpus *c);

// Where a rank is drawn. Where there are too many, some have the same place.
struct td_seat {
    int box;  // the GPU's, or its own
    int zone; // the NUMA node's box, or what stands for it
    int y;    // of lines to it
};

// A host while it is laid out.
struct td_host {
    struct td_picture *p;
    const struct rdi_decision *d;
    const struct rdi_decided_host *h;
    bool mirror; // the NICs are at the left
    int x, y, w, box;
    // Columns.
    int panel, lanes, gpu, channel, nic;
    int nlanes, channel_w, nic_w; // 0 lanes: the ways of the rings are not drawn
    struct td_cpus cpus;
    bool *busy;             // cores with progress threads
    struct td_seat *seats;  // by local rank
    int *nic_box;           // by NIC, from the first NIC on
    int *gpu_ranks, *order; // ranks of GPU g: order[gpu_ranks[g]] .. ; those without at the end
};

#define TD_PANEL_W 176
#define TD_GPU_W 180
#define TD_NIC_W 144
#define TD_DEVICE_H 46
#define TD_LANE 18
#define TD_MAX_LANES 16
#define TD_MAX_WAYS 64 // ranks of a host
#define TD_PILL 16
#define TD_MOST_PILLS 16 // ranks in one place; more are drawn as one
#define TD_LABEL 34      // for a distance beside a GPU

// Draws host i at x, y; its box. td_host_width() is the width that it takes.
int td_host_width(const struct rdi_decision *d, int i);
int td_host_draw(struct td_picture *p, const struct rdi_decision *d, int i, int x, int y,
                 bool mirror, int *nic_box);
// The cores of a NUMA node below y in its panel; where they end.
int td_cpus_draw(struct td_host *s, int numa, int box, int y);
// Devices and ranks of a NUMA node (-1: of none) from y on; where they end.
int td_devices_draw(struct td_host *s, int numa, int zone, int y);
void td_ranks_draw(struct td_host *s);
int td_channel_width(const struct rdi_decision *d, const struct rdi_decided_host *h);
bool td_ways_fit(const struct rdi_decision *d, const struct rdi_decided_host *h);
// The legend from y on, as wide as the sheet; where it ends.
int td_legend(struct td_picture *p, const struct rdi_decision *d, int y, int w);

#endif
