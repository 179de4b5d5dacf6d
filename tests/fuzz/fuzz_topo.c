// SPDX-License-Identifier: MIT
// A saved topology, or the description of a cluster: any text. What is accepted must be a machine; what is not must be
// told with a reason. hwloc never sees a file, so it is not in here.
//
//   input[0]  'c': a cluster file follows; else the input is a topology
#include "fuzz.h"
#include "topo/internal.h"
#include "topo/show/decide.h"
#include "topo/show/draw.h"
#include "topo/show/show.h"

static void check_machine(const rondo_topo *t) {
    const rondo_topo_machine_info *m = rondo_topo_machine(t);
    MUST(m->numas >= 1 && m->numas <= RDI_TOPO_NUMAS);
    MUST(m->devices >= 0 && m->devices <= RDI_TOPO_DEVICES);
    MUST(m->allowed_pus >= 1 && m->allowed_pus <= m->pus && m->pus <= RDI_SET_BITS);
    MUST(m->host && m->cpu && m->allowed_cpus[0] != '\0');
    for (int i = 0; i < m->numas; i++) {
        const rondo_topo_numa_info *n = rondo_topo_numa(t, i);
        MUST(n->os_index >= 0 && n->pus >= 0 && n->pus <= m->allowed_pus && n->cpus);
        MUST(i == 0 || n->os_index > rondo_topo_numa(t, i - 1)->os_index);
    }
}

static void check_device(const rondo_topo *t, int i) {
    const rondo_topo_device_info *d = rondo_topo_device(t, i);
    int n = rondo_topo_machine(t)->devices;
    MUST(d->numa >= -1 && d->numa < rondo_topo_machine(t)->numas);
    MUST(d->numa < 0 || rondo_topo_to_numa(t, i, d->numa) == RONDO_TOPO_NODE);
    MUST(d->kind == RONDO_TOPO_GPU || d->rdma[0] != '\0' || d->net[0] != '\0');
    MUST(d->link_gbps >= 0 && d->link_gbps <= 1e5 && d->pci_gbps >= 0 && d->pci_gbps < 1e6);
    MUST(d->name[0] != '\0' && d->pci && d->model && d->bridges && d->cpus && d->runtimes);
    for (int k = 0; k < n; k++) {
        rondo_topo_distance way = rondo_topo_between(t, i, k);
        MUST(way <= RONDO_TOPO_SYS && (way == RONDO_TOPO_LOC) == (i == k));
        MUST(way == rondo_topo_between(t, k, i));
    }
}

// What is printed is UTF-8, and controls no terminal.
static void check_printable(const char *text) {
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        size_t n = rdi_utf8_character(s);
        MUST(n > 0 && (*s >= 0x20 || *s == '\n') && *s != 0x7f && !(*s == 0xc2 && s[1] < 0xa0));
        s += n;
    }
}

static void check_text(const rondo_topo *t, void (*print)(struct rdi_text *, const rondo_topo *)) {
    struct rdi_text out = {0};
    print(&out, t);
    MUST(!out.failed);
    check_printable(out.buf);
    rdi_text_free(&out);
}

// Each box within its parent, each word within its box, and all of it as SVG.
static void check_picture(const struct rdi_decision *d, const size_t *same) {
    struct td_picture p;
    struct rdi_text out = {0};
    MUST(td_layout(&p, d, same));
    for (size_t i = 1; i < p.nboxes; i++) {
        const struct td_box *b = &p.boxes[i], *up = &p.boxes[b->parent];
        MUST(b->parent >= 0 && (size_t)b->parent < i && b->w > 0 && b->h > 0);
        MUST(b->x >= up->x && b->y >= up->y && b->x + b->w <= up->x + up->w);
        MUST(b->y + b->h <= up->y + up->h);
    }
    for (size_t i = 0; i < p.ntexts; i++) {
        const struct td_text *t = &p.texts[i];
        MUST(t->dx >= 0 && t->dx + t->width <= p.boxes[t->box].w);
        MUST(t->dy >= 0 && t->dy <= p.boxes[t->box].h);
    }
    td_svg(&out, &p);
    MUST(!out.failed);
    check_printable(out.buf);
    rdi_text_free(&out);
    td_free(&p);
}

// Whatever the machine is, each rank of a job on two of it has a place, and each ring each rank.
static void check_decision(const rondo_topo *t) {
    struct rdi_decide_host hosts[2] = {{.name = "a", .topo = t, .ranks = 3},
                                       {.name = "b", .topo = t, .ranks = 1}};
    struct rdi_decision *d = NULL;
    MUST(rdi_decide(hosts, 2, &d) == RONDO_OK && d->nranks == 4);
    MUST(d->nrails >= 1 && d->nrings == d->nrails);
    for (int i = 0; i < d->nranks; i++) {
        const struct rdi_decided_rank *r = &d->ranks[i];
        MUST(r->gpu >= -1 && r->gpu < rondo_topo_machine(t)->devices);
        MUST(r->numa >= 0 && r->numa < rondo_topo_machine(t)->numas);
        MUST(r->cpu >= -1 && r->cpu < RDI_SET_BITS);
        for (int k = 0; k < r->nrails; k++) {
            MUST(rondo_topo_device(t, r->rails[k].nic)->kind == RONDO_TOPO_NIC);
        }
    }
    for (int i = 0; i < d->nrings; i++) {
        unsigned seen = 0;
        for (int k = 0; k < d->nranks; k++) {
            seen |= 1U << d->rings[i].order[k];
        }
        MUST(seen == 15);
    }
    void (*const prints[])(struct rdi_text *, const struct rdi_decision *) = {ts_decide_text,
                                                                              ts_decide_json};
    for (size_t i = 0; i < 2; i++) {
        struct rdi_text out = {0};
        prints[i](&out, d);
        MUST(!out.failed);
        check_printable(out.buf);
        rdi_text_free(&out);
    }
    check_picture(d, (const size_t[]){0, 1});
    rdi_decision_free(d);
}

// Hosts that are told in short; ranks that are drawn as one.
static void check_many(const rondo_topo *t, int hosts, int ranks) {
    static const size_t same[5] = {0};
    struct rdi_decide_host in[5];
    struct rdi_decision *d = NULL;
    for (int i = 0; i < hosts; i++) {
        in[i] = (struct rdi_decide_host){.name = "a", .topo = t, .ranks = ranks};
    }
    MUST(rdi_decide(in, hosts, &d) == RONDO_OK);
    check_picture(d, same);
    rdi_decision_free(d);
}

static void topology(const char *text, size_t size) {
    rondo_topo *t = NULL;
    if (rondo_topo_parse(text, size, "it", &t) != RONDO_OK) {
        const char *why = strstr(rondo_last_error(), "it is no topology that can be used: ");
        MUST(t == NULL && why && why[36] != '\0');
        check_printable(why);
        return;
    }
    check_machine(t);
    for (int i = 0; i < rondo_topo_machine(t)->devices; i++) {
        check_device(t, i);
    }
    check_text(t, ts_text);
    check_text(t, ts_json);
    check_decision(t);
    check_many(t, 5, 1);
    check_many(t, 1, 17);
    rondo_topo_free(t);
}

static void cluster(const char *text, size_t size) {
    struct ts_options o = {0};
    char why[300] = "";
    const char *names[64];
    if (!ts_cluster_read(&o, "folder/cluster", text, size, why, sizeof why)) {
        MUST(why[0] != '\0' && memchr(why, 0, sizeof why) != NULL);
    } else {
        MUST(o.n >= 1 && o.n <= TS_HOSTS);
        for (size_t i = 0; i < o.n && i < 64; i++) {
            MUST(o.sources[i].file[0] != '\0' && o.sources[i].name[0] != '\0');
            MUST(memchr(o.sources[i].name, 0, TS_NAME) != NULL);
            names[i] = o.sources[i].name;
            check_printable(names[i]);
            check_printable(o.sources[i].file);
        }
        struct rdi_text out = {0};
        ts_fold(&out, names, o.n < 64 ? o.n : 64);
        MUST(out.len > 0);
        rdi_text_free(&out);
    }
    ts_options_free(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = own_copy(data, size); // without a NUL
    if (size > 0 && text[0] == 'c') {
        cluster(text + 1, size - 1);
    } else {
        topology(text, size);
    }
    free(text);
    return 0;
}
