// SPDX-License-Identifier: MIT
// One host: packages and NUMA nodes below each other. From left to right, or mirrored:
//
//   | NUMA node, memory, cores | ways of the rings | GPUs, ranks | who uses which | NICs | --> network
#include "topo/internal.h"
#include "topo/show/decide.h"
#include "topo/show/draw.h"
#include "topo/show/show.h"

#include <stdlib.h>
#include <string.h>

#define HOST_PAD 8
#define PACKAGE_PAD 6
#define NUMA_PAD 6
#define BRIDGE_PAD 16
#define PAD (HOST_PAD + PACKAGE_PAD + NUMA_PAD)
#define GAP 6

// ---- Columns -------------------------------------------------------------------------------------

static int lanes_of(const struct rdi_decision *d, int i) {
    return td_ways_fit(d, &d->hosts[i]) ? d->nrings : 0;
}

int td_host_width(const struct rdi_decision *d, int i) {
    const struct rdi_decided_host *h = &d->hosts[i];
    int lanes = lanes_of(d, i) * TD_LANE;
    int nics = h->nnics > 0 ? td_channel_width(d, h) + TD_NIC_W : 0;
    return 2 * PAD + TD_PANEL_W + lanes + BRIDGE_PAD + TD_GPU_W + nics + BRIDGE_PAD;
}

static void set_columns(struct td_host *s, int i) {
    s->w = td_host_width(s->d, i);
    s->nlanes = lanes_of(s->d, i);
    s->channel_w = s->h->nnics > 0 ? td_channel_width(s->d, s->h) : 0;
    s->nic_w = s->h->nnics > 0 ? TD_NIC_W : 0;
    s->panel = s->x + PAD;
    s->lanes = s->panel + TD_PANEL_W;
    s->gpu = s->lanes + s->nlanes * TD_LANE + BRIDGE_PAD;
    s->channel = s->gpu + TD_GPU_W;
    s->nic = s->channel + s->channel_w;
    if (s->mirror) {
        int *left[] = {&s->panel, &s->lanes, &s->gpu, &s->channel, &s->nic};
        int width[] = {TD_PANEL_W, s->nlanes * TD_LANE, TD_GPU_W, s->channel_w, s->nic_w};
        for (int k = 0; k < 5; k++) {
            *left[k] = 2 * s->x + s->w - *left[k] - width[k];
        }
    }
}

// ---- Ranks ---------------------------------------------------------------------------------------

// Local ranks by their GPU, those without last and by their memory.
static bool sort_ranks(struct td_host *s) {
    int gpus = rdi_decide_gpus(s->h->topo), n = s->h->nranks, at = 0;
    s->seats = calloc((size_t)n, sizeof *s->seats);
    s->order = calloc((size_t)n, sizeof *s->order);
    s->gpu_ranks = calloc((size_t)gpus + 2, sizeof *s->gpu_ranks);
    if (!s->seats || !s->order || !s->gpu_ranks) {
        return false;
    }
    for (int g = 0; g < gpus; g++) {
        for (int i = 0; i < n; i++) {
            if (s->d->ranks[s->h->ranks[i]].gpu == g) {
                s->order[at++] = i;
            }
        }
        s->gpu_ranks[g + 1] = at;
    }
    for (int k = 0; k < s->h->topo->machine.numas && at < n; k++) {
        for (int i = 0; i < n; i++) {
            const struct rdi_decided_rank *r = &s->d->ranks[s->h->ranks[i]];
            if (r->gpu < 0 && r->numa == k) {
                s->order[at++] = i;
            }
        }
    }
    s->gpu_ranks[gpus + 1] = at;
    return true;
}

static bool find_threads(struct td_host *s) {
    s->busy = calloc((size_t)s->cpus.ncores + 1, sizeof *s->busy);
    for (int i = 0; s->busy && i < s->h->nranks; i++) {
        int cpu = s->d->ranks[s->h->ranks[i]].cpu, core = cpu < 0 ? -1 : s->cpus.core_of[cpu];
        if (core >= 0) {
            s->busy[core] = true;
        }
    }
    return s->busy != NULL;
}

// ---- NUMA nodes ----------------------------------------------------------------------------------

// "memory of ranks 0-3"
static const char *memory_of(struct td_host *s, int numa) {
    struct rdi_text words = {0};
    int n = 0, *here = calloc((size_t)s->h->nranks, sizeof *here);
    for (int i = 0; here && i < s->h->nranks; i++) {
        if (s->d->ranks[s->h->ranks[i]].numa == numa) {
            here[n++] = s->h->ranks[i];
        }
    }
    if (n > 0) {
        rdi_text_add(&words, "memory of ");
        ts_ranks(&words, here, n);
    }
    free(here);
    return td_keep(s->p, &words);
}

static int panel(struct td_host *s, int box, int y, bool bold, const char *words) {
    const struct td_box *b = td_at(s->p, box);
    if (words[0] != '\0') {
        y += bold ? 14 : 12;
        td_write(s->p, box, s->panel + 4 - b->x, y - b->y, bold ? TD_BODY : TD_SMALL, bold,
                 TD_PANEL_W - 8, words);
    }
    return y;
}

static int draw_numa(struct td_host *s, int k, int parent, int y) {
    const rondo_topo_numa_info *n = rondo_topo_numa(s->h->topo, k);
    int x = s->x + HOST_PAD + PACKAGE_PAD, w = s->w - 2 * (HOST_PAD + PACKAGE_PAD);
    int box = td_box(s->p, TD_NUMA, parent, x, y, w, 0);
    struct rdi_text head = {0};
    rdi_text_add(&head, "NUMA node %d", n->os_index);
    if (n->memory > 0) {
        rdi_text_add(&head, ", ");
        ts_size(&head, n->memory);
    }
    int left = panel(s, box, y + 2, true, td_keep(s->p, &head));
    left = panel(s, box, left, false,
                 n->pus > 0 ? td_say(s->p, "CPUs %s", n->cpus) : "no CPU that may be used");
    const char *memory = n->allowed ? memory_of(s, k) : "memory may not be used";
    left = panel(s, box, left, false, memory);
    left = td_cpus_draw(s, k, box, left + 5);
    int right = td_devices_draw(s, k, box, y + NUMA_PAD + 2);
    int end = (left > right - 4 ? left : right - 4) + NUMA_PAD;
    td_at(s->p, box)->h = end - y;
    td_at(s->p, box)->faint = !n->allowed;
    td_at(s->p, box)->tip =
        td_say(s->p, "NUMA node %d, processors %s\n%s", n->os_index, n->cpus, memory);
    return end;
}

// Node k and those after it that are of the same package; where they end.
static int draw_package(struct td_host *s, int k, bool *done, int y) {
    int package = rondo_topo_numa(s->h->topo, k)->package, numas = s->h->topo->machine.numas;
    if (package < 0) {
        done[k] = true;
        return draw_numa(s, k, s->box, y);
    }
    int box = td_box(s->p, TD_PACKAGE, s->box, s->x + HOST_PAD, y, s->w - 2 * HOST_PAD, 0);
    int end = panel(s, box, y, false, td_say(s->p, "package %d", package)) + 5;
    for (int i = k; i < numas; i++) {
        if (!done[i] && rondo_topo_numa(s->h->topo, i)->package == package) {
            done[i] = true;
            end = draw_numa(s, i, box, end) + GAP;
        }
    }
    td_at(s->p, box)->h = end - y;
    return end;
}

static int draw_numas(struct td_host *s, int y) {
    int numas = s->h->topo->machine.numas;
    bool *done = calloc((size_t)numas, sizeof *done);
    s->p->failed = s->p->failed || !done;
    for (int k = 0; done && k < numas; k++) {
        if (!done[k]) {
            y = draw_package(s, k, done, y) + GAP;
        }
    }
    free(done);
    return y;
}

static int draw_elsewhere(struct td_host *s, int y) {
    bool some = false;
    for (int i = 0; i < s->h->topo->machine.devices; i++) {
        some = some || s->h->topo->devices[i].info.numa < 0;
    }
    if (!some) {
        return y;
    }
    int x = s->x + HOST_PAD + PACKAGE_PAD, w = s->w - 2 * (HOST_PAD + PACKAGE_PAD);
    int box = td_box(s->p, TD_ELSEWHERE, s->box, x, y, w, 0);
    int left = panel(s, box, y + 2, true, "at no single NUMA node");
    int right = td_devices_draw(s, -1, box, y + NUMA_PAD + 2) - 4;
    int end = (left > right ? left : right) + NUMA_PAD;
    td_at(s->p, box)->h = end - y;
    return end + GAP;
}

// ---- All -----------------------------------------------------------------------------------------

static int head(struct td_host *s) {
    const rondo_topo_machine_info *m = rondo_topo_machine(s->h->topo);
    struct rdi_text words = {0};
    rdi_text_add(&words, "%s: ", s->h->name);
    ts_ranks(&words, s->h->ranks, s->h->nranks);
    td_write(s->p, s->box, HOST_PAD + 4, 20, 14, true, s->w - 2 * HOST_PAD - 8,
             td_keep(s->p, &words));
    td_write(s->p, s->box, HOST_PAD + 4, 35, TD_BODY, false, s->w - 2 * HOST_PAD - 8,
             td_say(s->p, "%s%s%d package%s, %d core%s, %d processor%s", m->cpu,
                    m->cpu[0] ? ", " : "", m->packages, m->packages == 1 ? "" : "s", m->cores,
                    m->cores == 1 ? "" : "s", m->pus, m->pus == 1 ? "" : "s"));
    return s->y + 44;
}

int td_host_draw(struct td_picture *p, const struct rdi_decision *d, int i, int x, int y,
                 bool mirror, int *nic_box) {
    struct td_host s = {.p = p, .d = d, .h = &d->hosts[i], .x = x, .y = y, .mirror = mirror};
    s.nic_box = nic_box;
    set_columns(&s, i);
    if (!td_cpus_read(&s.cpus, s.h->topo) || !sort_ranks(&s) || !find_threads(&s)) {
        p->failed = true;
    } else {
        s.box = td_box(p, TD_HOST, 0, x, y, s.w, 0);
        int end = draw_elsewhere(&s, draw_numas(&s, head(&s)));
        td_at(p, s.box)->h = end - GAP + HOST_PAD - y;
        td_ranks_draw(&s);
    }
    td_cpus_free(&s.cpus);
    free(s.busy);
    free(s.seats);
    free(s.order);
    free(s.gpu_ranks);
    return p->failed ? -1 : s.box;
}
