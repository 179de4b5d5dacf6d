// SPDX-License-Identifier: MIT
// GPUs, NICs and ranks of a NUMA node, in two columns, below the bridges that they share.
#include "topo/internal.h"
#include "topo/show/draw.h"
#include "topo/show/show.h"

#include <stdlib.h>
#include <string.h>

#define GAP 4
#define OUTER 12 // from a column to the border of a host bridge
#define INNER 6  // of a switch
#define HEAD 15

typedef const rondo_topo_device_info *device;

static int number_of(const struct td_host *s, device d) {
    return (int)((const struct rdi_topo_device *)d - s->h->topo->devices);
}

// ---- Ranks ---------------------------------------------------------------------------------------

static const char *pill_words(struct td_host *s, const struct rdi_decided_rank *r, int rank) {
    struct rdi_text words = {0};
    bool elsewhere = r->gpu >= 0 && rondo_topo_device(s->h->topo, r->gpu)->numa != r->numa;
    rdi_text_add(&words, "rank %d", rank);
    if (elsewhere) {
        rdi_text_add(&words, ", NUMA %d", rondo_topo_numa(s->h->topo, r->numa)->os_index);
    }
    if (r->cpu >= 0) {
        rdi_text_add(&words, ", CPU %d", r->cpu);
    }
    return td_keep(s->p, &words);
}

static const char *rank_tip(struct td_host *s, const struct rdi_decided_rank *r) {
    struct rdi_text words = {0};
    rdi_text_add(&words, "%s%s\nmemory of NUMA node %d: %s\nthread: %s",
                 r->gpu < 0 ? "no GPU: " : "this GPU: ", r->gpu_why,
                 rondo_topo_numa(s->h->topo, r->numa)->os_index, r->numa_why, r->cpu_why);
    for (int i = 0; i < r->nrails; i++) {
        const struct rdi_decided_rail *rail = &r->rails[i];
        rdi_text_add(&words, "\n%s: %s", rondo_topo_device(s->h->topo, rail->nic)->name, rail->why);
        if (r->gpu >= 0) {
            rdi_text_add(&words, "\nGPUDirect %s: %s", rail->gpudirect ? "yes" : "no",
                         rail->gpudirect_why);
        }
    }
    return td_keep(s->p, &words);
}

// Ranks order[first] .. at the right of a box, below each other; w 0: each as wide as its words.
static int pills(struct td_host *s, int box, int zone, int first, int n, int y, int w) {
    int widest = 0, drawn = n > TD_MOST_PILLS ? 1 : n;
    for (int i = 0; i < n; i++) {
        int local = s->order[first + i], rank = s->h->ranks[local];
        const struct rdi_decided_rank *r = &s->d->ranks[rank];
        int at = y + (drawn > 1 ? i * (TD_PILL + 3) : 0);
        s->seats[local] = (struct td_seat){.box = box, .zone = zone, .y = at + TD_PILL / 2};
        if (i >= drawn) {
            continue;
        }
        const char *words = drawn < n ? td_say(s->p, "%d ranks, the first: %d", n, rank)
                                      : pill_words(s, r, rank);
        int own = w ? w : td_width(words, SIZE_MAX, TD_SMALL, false) + 12;
        int right = s->gpu + TD_GPU_W - (w ? 0 : 4);
        int pill = td_box(s->p, TD_RANK, w ? zone : box, right - own, at, own, TD_PILL);
        td_centre(s->p, pill, 4, TD_PILL - 5, TD_SMALL, own - 8, TD_WHITE, words);
        td_at(s->p, pill)->tip = rank_tip(s, r);
        widest = own > widest ? own : widest;
    }
    return widest;
}

// Ranks without a GPU whose memory is at this node; where they end.
static int plain_ranks(struct td_host *s, int numa, int zone, int y) {
    int none = rdi_decide_gpus(s->h->topo), first = -1, n = 0;
    for (int i = s->gpu_ranks[none]; i < s->gpu_ranks[none + 1]; i++) {
        if (s->d->ranks[s->h->ranks[s->order[i]]].numa == numa) {
            first = first < 0 ? i : first;
            n++; // td_host_draw() has put those of a node beside each other
        }
    }
    if (n == 0) {
        return y;
    }
    pills(s, -1, zone, first, n, y, TD_GPU_W);
    return y + (n > TD_MOST_PILLS ? 1 : n) * (TD_PILL + 3) + GAP;
}

// ---- Devices -------------------------------------------------------------------------------------

static int gpu_height(const struct td_host *s, int gpu) {
    int n = s->gpu_ranks[gpu + 1] - s->gpu_ranks[gpu];
    int h = 7 + (n > TD_MOST_PILLS ? 1 : n) * (TD_PILL + 3);
    return h > TD_DEVICE_H ? h : TD_DEVICE_H;
}

static void draw_gpu(struct td_host *s, device d, int parent, int zone, int y) {
    int i = number_of(s, d), n = s->gpu_ranks[i + 1] - s->gpu_ranks[i];
    int box = td_box(s->p, TD_GPU, parent, s->gpu, y, TD_GPU_W, gpu_height(s, i));
    struct rdi_text more = {0};
    rdi_text_add(&more, "%s", d->pci);
    if (d->memory > 0) {
        rdi_text_add(&more, "%s", d->pci[0] ? ", " : "");
        ts_size(&more, d->memory);
    }
    int pill = pills(s, box, zone, s->gpu_ranks[i], n, y + 5, 0);
    int beside = TD_GPU_W - 14 - pill, below = n > 1 && n <= TD_MOST_PILLS ? beside : TD_GPU_W - 12;
    td_write(s->p, box, 6, 15, TD_BODY, true, beside, d->name);
    td_write(s->p, box, 6, 29, TD_SMALL, false, below, d->model);
    td_write(s->p, box, 6, 41, TD_SMALL, false, below, td_keep(s->p, &more));
    td_at(s->p, box)->tip = td_say(s->p, "%s %s\n%s", d->name, d->pci, d->model);
    td_at(s->p, box)->faint = n == 0;
}

static void draw_nic(struct td_host *s, device d, int parent, int y) {
    int i = number_of(s, d) - rdi_decide_gpus(s->h->topo);
    const struct rdi_decided_nic *n = &s->h->nics[i];
    int box = td_box(s->p, TD_NIC, parent, s->nic, y, TD_NIC_W, TD_DEVICE_H);
    int room = TD_NIC_W - 22, dx = s->mirror ? 16 : 6; // the rail's number is at the outer border
    struct rdi_text link = {0};
    bool more = d->rdma[0] && d->net[0];
    rdi_text_add(&link, "%s", more ? d->net : "");
    if (d->link_gbps > 0) {
        rdi_text_add(&link, "%s%g Gbit/s", more ? ", " : "", d->link_gbps);
    }
    const char *words = td_keep(s->p, &link), *third = d->pci;
    if (n->ranks == 0) {
        // The reason in short; all of it is in the tip.
        third =
            td_say(s->p, "%s%.*s", n->fit ? "" : "left out: ", (int)strcspn(n->why, ",:"), n->why);
    }
    td_write(s->p, box, dx, 15, TD_BODY, true, room,
             td_say(s->p, "%s %s", d->name, d->rdma[0] ? d->rdma : d->net));
    td_write(s->p, box, dx, 29, TD_SMALL, false, room, words[0] ? words : d->model);
    td_write(s->p, box, dx, 41, TD_SMALL, false, room, third);
    td_at(s->p, box)->faint = n->ranks == 0;
    td_at(s->p, box)->tip =
        td_say(s->p, "%s %s\n%s\n%s\n%s", d->name, d->pci, d->model, words, n->why);
    s->nic_box[i] = box;
}

// ---- Bridges -------------------------------------------------------------------------------------

// Devices below one bridge, or at none: GPUs in one column, NICs in the other; where they end.
static int cells(struct td_host *s, const device *at, int n, int parent, int zone, int y) {
    int high[2] = {-GAP, -GAP};
    for (int i = 0; i < n; i++) {
        high[at[i]->kind] += GAP + (at[i]->kind == RONDO_TOPO_GPU
                                        ? gpu_height(s, number_of(s, at[i]))
                                        : TD_DEVICE_H);
    }
    int most = high[0] > high[1] ? high[0] : high[1];
    int next[2] = {y + (most - high[0]) / 2, y + (most - high[1]) / 2};
    for (int i = 0; i < n; i++) {
        int *here = &next[at[i]->kind];
        if (at[i]->kind == RONDO_TOPO_GPU) {
            draw_gpu(s, at[i], parent, zone, *here);
            *here += GAP + gpu_height(s, number_of(s, at[i]));
        } else {
            draw_nic(s, at[i], parent, *here);
            *here += GAP + TD_DEVICE_H;
        }
    }
    return y + most;
}

static int open_bridge(struct td_host *s, int parent, int y, int pad, const char *words,
                       const char *tip) {
    int left = s->gpu, right = s->gpu + TD_GPU_W;
    if (s->nic_w > 0) {
        left = s->nic < left ? s->nic : left;
        right = s->nic + TD_NIC_W > right ? s->nic + TD_NIC_W : right;
    }
    int box = td_box(s->p, TD_BRIDGE, parent, left - pad, y, right - left + 2 * pad, 0);
    td_at(s->p, box)->tip = tip;
    td_write(s->p, box, s->gpu - left + pad, 11, TD_SMALL, false, TD_GPU_W, words);
    return box;
}

static int close_box(struct td_host *s, int box, int end) {
    td_at(s->p, box)->h = end - td_at(s->p, box)->y;
    return end + GAP;
}

static const char *last_part(const char *way, size_t len) {
    size_t from = len;
    while (from > 0 && way[from - 1] != '/') {
        from--;
    }
    return way + from;
}

// Devices at[0] .. below one switch; `alone`: the box stands for the host bridge, too.
static int draw_switch(struct td_host *s, const device *at, int n, int parent, int zone, int y,
                       bool alone) {
    const char *way = at[0]->bridges;
    size_t root = ts_way_root(way), shared = ts_way_shared(way);
    const char *name = last_part(way, shared);
    int len = (int)(way + shared - name);
    const char *words = td_say(s->p, "switch %.*s", len, name);
    if (alone) {
        // The domain is said once.
        int same = len > 5 && root > 5 && strncmp(way, name, 5) == 0 ? 5 : 0;
        words = td_say(s->p, "bridge %.*s, switch %.*s", (int)root, way, len - same, name + same);
    }
    const char *tip = td_say(s->p, "bridges %.*s", (int)shared, way);
    int box = open_bridge(s, parent, y, INNER, words, tip);
    return close_box(s, box, cells(s, at, n, box, zone, y + HEAD) + INNER);
}

// How many from at[0] on have the same beginning of their way.
static int run(const device *at, int n, size_t (*length)(const char *)) {
    const char *way = at[0]->bridges;
    size_t len = length(way);
    int i = 1;
    while (i < n && length(at[i]->bridges) == len && strncmp(at[i]->bridges, way, len) == 0) {
        i++;
    }
    return i;
}

static int draw_root(struct td_host *s, const device *at, int n, int zone, int y) {
    if (at[0]->bridges[0] == '\0') {
        return cells(s, at, n, zone, zone, y) + GAP;
    }
    int first = run(at, n, ts_way_shared);
    if (first == n && ts_way_shared(at[0]->bridges) > 0) {
        return draw_switch(s, at, n, zone, zone, y, true);
    }
    const char *words =
        td_say(s->p, "host bridge %.*s", (int)ts_way_root(at[0]->bridges), at[0]->bridges);
    int box = open_bridge(s, zone, y, OUTER, words, words), end = y + HEAD;
    for (int i = 0, k; i < n; i += k) {
        k = run(at + i, n - i, ts_way_shared);
        end = ts_way_shared(at[i]->bridges) > 0 ? draw_switch(s, at + i, k, box, zone, end, false)
                                                : cells(s, at + i, k, box, zone, end) + GAP;
    }
    return close_box(s, box, end - GAP + INNER);
}

int td_devices_draw(struct td_host *s, int numa, int zone, int y) {
    int n;
    const device *at = ts_devices_at(s->h->topo, numa, &n);
    s->p->failed = s->p->failed || !at;
    y = numa >= 0 ? plain_ranks(s, numa, zone, y) : y;
    for (int i = 0, k; at && i < n; i += k) {
        k = run(at + i, n - i, ts_way_root);
        y = draw_root(s, at + i, k, zone, y);
    }
    free((void *)at);
    return y;
}
