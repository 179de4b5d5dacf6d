// SPDX-License-Identifier: MIT
// Cores of a host and what they share, out of its XML: the tables of topo.h count them only.
#include "topo/internal.h"
#include "topo/show/draw.h"
#include "topo/show/show.h"

#include <stdlib.h>
#include <string.h>

#define SQUARE 13
#define GAP 2
#define MOST_SQUARES 64 // in one group; more are told in words
#define MOST_GROUPS 48  // of one NUMA node, likewise

// ---- Reading -------------------------------------------------------------------------------------

// The NUMA node that a processor is drawn in: the first, as memory without processors has those of another.
static int node_of(const rondo_topo *t, unsigned pu) {
    for (int i = 0; i < t->machine.numas; i++) {
        if (rdi_set_has(&t->numas[i].cpus, pu)) {
            return i;
        }
    }
    return -1;
}

static uint32_t above(const struct rdi_xml *x, uint32_t e, const char *type) {
    while ((e = x->elements[e].parent) != RDI_XML_NONE && !rdi_topo_is(x, e, type)) {}
    return e;
}

// While the elements are gone through.
struct walk {
    const rondo_topo *t;
    const struct rdi_xml *x;
    uint32_t core, shared; // elements of the last processor
};

static int group_for(struct td_cpus *c, const struct walk *w, uint32_t shared, int numa,
                     bool again) {
    // Processors of a group follow each other, but for wrong files.
    if (again && c->ngroups > 0 && c->groups[c->ngroups - 1].numa == numa) {
        return c->ngroups - 1;
    }
    struct td_group *g = &c->groups[c->ngroups];
    *g = (struct td_group){.numa = numa, .first = c->ncores};
    uint64_t bytes;
    if (shared != RDI_XML_NONE && rdi_topo_is(w->x, shared, "L3Cache") &&
        rdi_topo_number(rdi_xml_get(w->x, shared, "cache_size"), UINT64_C(1) << 56, NULL, &bytes)) {
        g->cache = bytes;
    }
    return c->ngroups++;
}

static void add_pu(struct td_cpus *c, struct walk *w, uint32_t e) {
    uint64_t pu;
    if (!rdi_topo_number(rdi_xml_get(w->x, e, "os_index"), (uint64_t)c->ncpus - 1, NULL, &pu)) {
        return;
    }
    uint32_t core = above(w->x, e, "Core"), shared = above(w->x, e, "L3Cache");
    shared = shared == RDI_XML_NONE ? above(w->x, e, "Package") : shared;
    core = core == RDI_XML_NONE ? e : core;
    bool allowed = rdi_set_has(&w->t->allowed, (unsigned)pu);
    if (c->ncores == 0 || core != w->core) {
        int numa = node_of(w->t, (unsigned)pu);
        int group = group_for(c, w, shared, numa, c->ngroups > 0 && shared == w->shared);
        c->groups[group].cores++;
        c->cores[c->ncores++] = (struct td_core){.first = (int)pu, .numa = numa, .group = group};
    }
    c->cores[c->ncores - 1].pus++;
    c->cores[c->ncores - 1].allowed = c->cores[c->ncores - 1].allowed || allowed;
    c->core_of[pu] = c->ncores - 1;
    w->core = core;
    w->shared = shared;
}

// More than all numbers of processors.
static int above_all(const struct rdi_set *s) {
    int words = RDI_SET_WORDS;
    while (words > 0 && s->word[words - 1] == 0) {
        words--;
    }
    return 32 * words;
}

bool td_cpus_read(struct td_cpus *c, const rondo_topo *t) {
    struct rdi_xml x;
    char why[200];
    int most = (int)rdi_set_count(&t->cpus); // none is there twice
    *c = (struct td_cpus){.ncpus = above_all(&t->cpus)};
    c->cores = calloc((size_t)most, sizeof *c->cores);
    c->groups = calloc((size_t)most, sizeof *c->groups);
    c->core_of = malloc((size_t)c->ncpus * sizeof *c->core_of);
    // The text was read before: only memory can fail now.
    if (!c->cores || !c->groups || !c->core_of ||
        !rdi_xml_read(&x, t->text, t->len, why, sizeof why)) {
        return false;
    }
    memset(c->core_of, 0xff, (size_t)c->ncpus * sizeof *c->core_of);
    struct walk w = {.t = t, .x = &x};
    for (uint32_t i = 1; i < x.nelements; i++) {
        if (rdi_topo_is(&x, i, "PU") && c->ncores < most) {
            add_pu(c, &w, i);
        }
    }
    rdi_xml_free(&x);
    return true;
}

void td_cpus_free(struct td_cpus *c) {
    free(c->cores);
    free(c->groups);
    free(c->core_of);
    *c = (struct td_cpus){0};
}

// ---- Drawing -------------------------------------------------------------------------------------

// Progress threads that are bound to a core: their number, and the first one's rank.
static int threads(const struct td_host *s, int core, int *rank) {
    int n = 0;
    for (int i = s->h->nranks; i-- > 0;) {
        int cpu = s->d->ranks[s->h->ranks[i]].cpu;
        if (cpu >= 0 && s->cpus.core_of[cpu] == core) {
            *rank = s->h->ranks[i];
            n++;
        }
    }
    return n;
}

static void draw_core(struct td_host *s, int core, int group, int x, int y) {
    const struct td_core *c = &s->cpus.cores[core];
    int side = SQUARE - GAP, box = td_box(s->p, TD_CORE, group, x, y, side, side), rank = -1;
    int n = s->busy[core] ? threads(s, core, &rank) : 0;
    td_at(s->p, box)->faint = !c->allowed;
    td_at(s->p, box)->dark = n > 0;
    if (n > 0) {
        const char *number = td_say(s->p, "%d%s", rank, n > 1 ? "+" : "");
        size_t digits = strlen(number);
        td_centre(s->p, box, 0, side - 3,
                  digits < 2   ? 8
                  : digits < 3 ? 7
                               : 5,
                  side, TD_WHITE, number);
        td_at(s->p, box)->tip =
            td_say(s->p, "progress thread of rank %d%s", rank, n > 1 ? " and of others" : "");
    }
}

static const char *group_words(struct td_host *s, const struct td_group *g) {
    struct rdi_text words = {0};
    rdi_text_add(&words, "%d core%s", g->cores, g->cores == 1 ? "" : "s");
    if (g->cache) {
        rdi_text_add(&words, ", L3 ");
        ts_size(&words, g->cache);
    }
    return td_keep(s->p, &words);
}

struct size {
    int w, h, columns;
};

static struct size size_of(const struct td_group *g, int room) {
    struct size z = {.w = room, .h = 20};
    if (g->cores > MOST_SQUARES) {
        return z;
    }
    int most = (room - 8 + GAP) / SQUARE;
    z.columns = g->cores <= 4 ? g->cores : g->cores <= 8 ? (g->cores + 1) / 2 : most;
    int rows = (g->cores + z.columns - 1) / z.columns;
    z.w = z.columns * SQUARE - GAP + 8;
    z.h = rows * SQUARE - GAP + 8;
    return z;
}

static void draw_group(struct td_host *s, const struct td_group *g, struct size z, int parent,
                       int x, int y) {
    int box = td_box(s->p, TD_CACHE, parent, x, y, z.w, z.h);
    td_at(s->p, box)->tip = group_words(s, g);
    if (z.columns == 0) {
        td_write(s->p, box, 5, 13, TD_SMALL, false, z.w - 8, td_at(s->p, box)->tip);
        return;
    }
    // Cores of a group follow each other.
    for (int i = 0; i < g->cores; i++) {
        draw_core(s, g->first + i, box, x + 4 + i % z.columns * SQUARE,
                  y + 4 + i / z.columns * SQUARE);
    }
}

// All groups of the node in one, where there are too many.
static int draw_sum(struct td_host *s, int numa, int parent, int x, int y, int room) {
    struct td_group sum = {.numa = numa};
    int groups = 0;
    for (int i = 0; i < s->cpus.ngroups; i++) {
        bool here = s->cpus.groups[i].numa == numa;
        groups += here;
        sum.cores += here ? s->cpus.groups[i].cores : 0;
    }
    int box = td_box(s->p, TD_CACHE, parent, x, y, room, 20);
    td_write(s->p, box, 5, 13, TD_SMALL, false, room - 8,
             td_say(s->p, "%d cores in %d groups", sum.cores, groups));
    return y + 20;
}

int td_cpus_draw(struct td_host *s, int numa, int parent, int y) {
    int left = s->panel + 4, room = TD_PANEL_W - 8, x = left, row = 0, count = 0;
    for (int i = 0; i < s->cpus.ngroups; i++) {
        count += s->cpus.groups[i].numa == numa;
    }
    if (count > MOST_GROUPS) {
        return draw_sum(s, numa, parent, left, y, room);
    }
    for (int i = 0; i < s->cpus.ngroups; i++) {
        const struct td_group *g = &s->cpus.groups[i];
        if (g->numa != numa) {
            continue;
        }
        struct size z = size_of(g, room);
        if (x + z.w > left + room) {
            x = left;
            y += row + 4;
            row = 0;
        }
        draw_group(s, g, z, parent, x, y);
        x += z.w + 4;
        row = z.h > row ? z.h : row;
    }
    return y + row;
}
