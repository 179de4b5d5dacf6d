// SPDX-License-Identifier: MIT
// Decisions: small machines with a known answer, and what must hold of any, on machines made at random.
#include "topo/decide.h"
#include "topo/internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- Machines ------------------------------------------------------------------------------------

// What a device hangs at; a node of -1 is unknown.
struct place {
    int node, bridge, tier, leaf;
};

struct machine {
    struct rondo_topo topo;
    struct place at[64];
    char names[64][8];
};

static rondo_topo_distance between(const struct place *a, const struct place *b, bool same) {
    return same                                ? RONDO_TOPO_LOC
           : a->node < 0 || a->node != b->node ? RONDO_TOPO_SYS
           : a->bridge != b->bridge            ? RONDO_TOPO_NODE
           : a->tier != b->tier                ? RONDO_TOPO_PHB
           : a->leaf != b->leaf                ? RONDO_TOPO_PXB
                                               : RONDO_TOPO_PIX;
}

static void add_cpus(struct rdi_set *s, int first, int n) {
    for (int i = first; i < first + n; i++) {
        s->word[i / 32] |= 1U << (i % 32);
    }
}

// `cpus` processors on each node, all allowed.
static struct machine *make(int nodes, int cpus) {
    struct machine *m = calloc(1, sizeof *m);
    assert_non_null(m);
    struct rondo_topo *t = &m->topo;
    t->machine = (rondo_topo_machine_info){
        .size = sizeof t->machine, .host = "", .cpu = "", .numas = nodes, .pus = nodes * cpus};
    t->numas = calloc((size_t)nodes, sizeof *t->numas);
    assert_non_null(t->numas);
    for (int k = 0; k < nodes; k++) {
        t->numas[k].info = (rondo_topo_numa_info){.os_index = k, .allowed = 1, .pus = cpus};
        add_cpus(&t->numas[k].cpus, k * cpus, cpus);
        add_cpus(&t->cpus, k * cpus, cpus);
    }
    t->allowed = t->cpus;
    return m;
}

// GPUs first, then NICs.
static void add(struct machine *m, rondo_topo_kind kind, struct place at, double gbps) {
    struct rondo_topo *t = &m->topo;
    int i = t->machine.devices++;
    assert_true(i < 64);
    t->devices = realloc(t->devices, (size_t)(i + 1) * sizeof *t->devices);
    assert_non_null(t->devices);
    m->at[i] = at;
    snprintf(m->names[i], sizeof m->names[i], "%s%d", kind == RONDO_TOPO_GPU ? "GPU" : "NIC", i);
    memset(&t->devices[i], 0, sizeof t->devices[i]);
    t->devices[i].info = (rondo_topo_device_info){.kind = kind,
                                                  .name = m->names[i],
                                                  .pci = "",
                                                  .rdma = "mlx5",
                                                  .net = "ib",
                                                  .numa = at.node,
                                                  .link_gbps = gbps};
}

static const rondo_topo *finish(struct machine *m) {
    struct rondo_topo *t = &m->topo;
    int n = t->machine.devices, nodes = t->machine.numas;
    t->between = calloc((size_t)(n * n) + 1, 1);
    t->to_numa = calloc((size_t)(n * nodes) + 1, 1);
    assert_true(t->between && t->to_numa);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) {
            t->between[i * n + k] = (uint8_t)between(&m->at[i], &m->at[k], i == k);
        }
        for (int k = 0; k < nodes; k++) {
            t->to_numa[i * nodes + k] = m->at[i].node == k ? RONDO_TOPO_NODE : RONDO_TOPO_SYS;
        }
    }
    return t;
}

static void unmake(struct machine *m) {
    free(m->topo.numas);
    free(m->topo.devices);
    free(m->topo.between);
    free(m->topo.to_numa);
    free(m);
}

static struct rdi_decision *decide(const struct rdi_decide_host *hosts, int n) {
    struct rdi_decision *d;
    assert_int_equal(rdi_decide(hosts, n, &d), RONDO_OK);
    return d;
}

static struct rdi_decision *decide_one(const struct machine *m, int ranks) {
    struct rdi_decide_host h = {.name = "h", .topo = &m->topo, .ranks = ranks};
    return decide(&h, 1);
}

// ---- Known answers -------------------------------------------------------------------------------

// Nothing is known of where devices are: all are as near.
static void spreads_what_is_equally_near(void **state) {
    (void)state;
    struct place nowhere = {.node = -1};
    static const int cases[][3] = {// ranks, NICs, that each rank has at least
                                   {8, 8, 1}, {4, 2, 1}, {7, 3, 1},
                                   {2, 8, 4}, {3, 8, 2}, {1, 5, 5}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        int ranks = cases[c][0], nics = cases[c][1];
        struct machine *m = make(2, 32);
        for (int i = 0; i < ranks; i++) {
            add(m, RONDO_TOPO_GPU, nowhere, 0);
        }
        for (int i = 0; i < nics; i++) {
            add(m, RONDO_TOPO_NIC, nowhere, 100);
        }
        finish(m);
        struct rdi_decision *d = decide_one(m, ranks);
        for (int i = 0; i < nics; i++) {
            int n = d->hosts[0].nics[i].ranks;
            assert_true(n == (ranks > nics ? ranks / nics : 1) || n == ranks / nics + 1);
        }
        for (int i = 0; i < ranks; i++) {
            assert_in_range(d->ranks[i].nrails, cases[c][2],
                            cases[c][2] + (nics > ranks && nics % ranks));
            assert_false(d->ranks[i].rails[0].gpudirect); // SYS
        }
        rdi_decision_free(d);
        unmake(m);
    }
}

// Rank 0 could use both and is asked first; rank 1 is near one of them alone.
static void makes_room_for_who_has_no_choice(void **state) {
    (void)state;
    struct machine *m = make(2, 8);
    add(m, RONDO_TOPO_NIC, (struct place){.node = 0}, 100);
    add(m, RONDO_TOPO_NIC, (struct place){.node = 0}, 100);
    finish(m);
    m->topo.to_numa[1] = RONDO_TOPO_NODE; // the first NIC is at node 1, too
    struct rdi_decision *d = decide_one(m, 2);
    assert_int_equal(d->ranks[0].numa, 0);
    assert_int_equal(d->ranks[0].rails[0].nic, 1);
    assert_int_equal(d->ranks[1].rails[0].nic, 0);
    assert_int_equal(d->ranks[0].nrails, 1);
    rdi_decision_free(d);
    unmake(m);
}

static void leaves_out_what_is_slow_or_down(void **state) {
    (void)state;
    struct machine *m = make(1, 8);
    struct place here = {0};
    static const double speeds[] = {200, 0, 49, 50, 200};
    static const bool fit[] = {true, false, false, true, false};
    for (size_t i = 0; i < 5; i++) {
        add(m, RONDO_TOPO_NIC, here, speeds[i]);
    }
    m->topo.devices[4].info.rdma = "";
    finish(m);
    struct rdi_decision *d = decide_one(m, 1);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(d->hosts[0].nics[i].fit, fit[i]);
        assert_true(d->hosts[0].nics[i].why[0]);
    }
    assert_int_equal(d->ranks[0].nrails, 2);
    rdi_decision_free(d);
    for (size_t i = 0; i < 5; i++) { // nothing is known of any: none is left out for that
        m->topo.devices[i].info.link_gbps = 0;
    }
    d = decide_one(m, 1);
    assert_int_equal(d->ranks[0].nrails, 4);
    rdi_decision_free(d);
    unmake(m);
}

// GPUs in an order in which neighbours in number are far from each other.
static void chains_by_distance(void **state) {
    (void)state;
    struct machine *m = make(2, 32);
    for (int i = 0; i < 6; i++) {
        add(m, RONDO_TOPO_GPU, (struct place){.node = i % 2, .leaf = i / 4}, 0);
    }
    finish(m);
    struct rdi_decision *d = decide_one(m, 6);
    static const int want[] = {0, 2, 4, 1, 3, 5};
    assert_memory_equal(d->hosts[0].chain, want, sizeof want);
    assert_int_equal(d->plan, RDI_DECIDED_MEMORY);
    assert_true(d->nrails == 0 && d->nrings == 1);
    assert_int_equal(rdi_decision_host_bytes(d, 1000), 0);
    rdi_decision_free(d);
    unmake(m);
}

static void keeps_to_what_is_given(void **state) {
    (void)state;
    struct machine *m = make(2, 8);
    add(m, RONDO_TOPO_GPU, (struct place){.node = 0}, 0);
    add(m, RONDO_TOPO_GPU, (struct place){.node = 1}, 0);
    m->topo.devices[1].info.pci = "0000:3B:00.0";
    finish(m);
    assert_int_equal(rdi_decide_gpu_at(&m->topo, "0000:3b:00.0"), 1);
    assert_int_equal(rdi_decide_gpu_at(&m->topo, ""), -1);
    struct rdi_set bound = {{0}}, one = {{0}};
    add_cpus(&bound, 6, 8); // two processors of node 0, six of node 1
    add_cpus(&one, 0, 1);
    struct rdi_decide_place places[] = {{.rank = 2, .gpu = 1, .cpus = &one},
                                        {.rank = 0, .gpu = RDI_DECIDE_NONE, .cpus = &bound},
                                        {.rank = 1, .gpu = RDI_DECIDE_NONE, .cpus = &one}};
    struct rdi_decide_host h = {.name = "h", .topo = &m->topo, .ranks = 3, .places = places};
    struct rdi_decision *d = decide(&h, 1);
    assert_true(d->ranks[2].gpu == 1 && d->ranks[2].numa == 1 && d->ranks[2].cpu == -1);
    assert_true(d->ranks[0].gpu == -1 && d->ranks[0].numa == 1 && d->ranks[0].cpu == 13);
    assert_true(d->ranks[1].numa == 0 && d->ranks[1].cpu == -1); // its own thread needs that one
    rdi_decision_free(d);
    places[1].rank = 2;
    assert_int_equal(rdi_decide(&h, 1, &d), RONDO_ERR_INVALID);
    places[1].rank = 3;
    assert_int_equal(rdi_decide(&h, 1, &d), RONDO_ERR_INVALID);
    places[1].rank = 0;
    places[1].gpu = 2;
    assert_int_equal(rdi_decide(&h, 1, &d), RONDO_ERR_INVALID);
    assert_null(d);
    h.ranks = 0;
    assert_int_equal(rdi_decide(&h, 1, &d), RONDO_ERR_INVALID);
    unmake(m);
}

static void bounds_what_crosses(void **state) {
    (void)state;
    struct machine *m = make(1, 8);
    add(m, RONDO_TOPO_NIC, (struct place){0}, 100);
    add(m, RONDO_TOPO_NIC, (struct place){0}, 100);
    finish(m);
    struct rdi_decide_host h[4];
    for (int i = 0; i < 4; i++) {
        h[i] = (struct rdi_decide_host){.name = "h", .topo = &m->topo, .ranks = 1};
    }
    struct rdi_decision *d = decide(h, 4);
    assert_true(d->plan == RDI_DECIDED_FLAT && d->nrails == 2);
    assert_int_equal(rdi_decision_host_bytes(d, 4000), 6000);
    assert_int_equal(rdi_decision_rail_bytes(d, 4000), 3000);
    assert_int_equal(rdi_decision_host_bytes(d, 5), 8); // 7.5
    assert_true(rdi_decision_host_bytes(d, (uint64_t)1 << 62) == (uint64_t)3 << 61);
    rdi_decision_free(d);
    h[2].ranks = 2;
    d = decide(h, 4);
    assert_int_equal(d->plan, RDI_DECIDED_NODE_FIRST);
    rdi_decision_free(d);
    unmake(m);
}

// ---- Any machine ---------------------------------------------------------------------------------

static uint32_t seed;

static int below(int n) {
    seed = seed * 1664525 + 1013904223;
    return (int)((seed >> 16) % (uint32_t)n);
}

static struct place anywhere(int nodes) {
    return (struct place){.node = below(8) ? below(nodes) : -1,
                          .bridge = below(2),
                          .tier = below(2),
                          .leaf = below(2)};
}

static struct machine *make_any(void) {
    int nodes = 1 + below(4), gpus = below(3) ? below(9) : 0, nics = below(9);
    struct machine *m = make(nodes, 1 + below(24));
    for (int i = 0; i < gpus; i++) {
        add(m, RONDO_TOPO_GPU, anywhere(nodes), 0);
    }
    for (int i = 0; i < nics; i++) {
        static const double speeds[] = {100, 100, 200, 400, 10, 0};
        add(m, RONDO_TOPO_NIC, anywhere(nodes), speeds[below(6)]);
        m->topo.devices[gpus + i].info.rdma = below(8) ? "mlx5" : "";
    }
    for (int k = 0; k < nodes; k++) { // some may not be used, but never the first
        m->topo.numas[k].info.allowed = k == 0 || below(5) > 0;
    }
    finish(m);
    return m;
}

// Distance to the nearest NIC that is fit.
static int nearest(const struct rdi_decided_host *h, const struct rdi_decided_rank *r) {
    int best = RONDO_TOPO_SYS + 1;
    for (int i = 0; i < h->nnics; i++) {
        int to = (int)rdi_decide_to_nic(h->topo, r, h->nics[i].nic);
        best = h->nics[i].fit && to < best ? to : best;
    }
    return best;
}

static void check_rails(const struct rdi_decision *d, const struct rdi_decided_host *h,
                        const struct rdi_decided_rank *r, int *users) {
    int best = nearest(h, r);
    assert_true((r->nrails > 0) == (best <= RONDO_TOPO_SYS));
    for (int i = 0; i < r->nrails; i++) {
        const struct rdi_decided_rail *rail = &r->rails[i];
        const struct rdi_decided_nic *n = &h->nics[rail->nic - h->nics[0].nic];
        bool rdma = rondo_topo_device(h->topo, rail->nic)->rdma[0] != '\0';
        assert_true(n->fit && n->nic == rail->nic && n->rail == rail->rail);
        assert_int_equal(rail->distance, best);
        assert_int_equal(rail->distance, rdi_decide_to_nic(h->topo, r, rail->nic));
        assert_int_equal(rail->gpudirect, r->gpu >= 0 && rdma && best <= (int)RONDO_TOPO_PXB);
        assert_true(rail->why[0] && rail->gpudirect_why[0] && rail->rail < d->nrails);
        users[n - h->nics]++;
        for (int k = 0; k < i; k++) {
            assert_int_not_equal(r->rails[k].nic, rail->nic);
        }
        // As near, and two less use it: it should have gone there.
        for (int k = 0; k < h->nnics; k++) {
            assert_false(h->nics[k].fit && h->nics[k].ranks + 1 < n->ranks &&
                         (int)rdi_decide_to_nic(h->topo, r, h->nics[k].nic) == best);
        }
    }
}

static void check_host(const struct rdi_decision *d, const struct rdi_decided_host *h) {
    struct rdi_set taken = {{0}};
    int users[64] = {0};
    for (int i = 0; i < h->nranks; i++) {
        const struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        assert_true(&d->hosts[r->host] == h && r->local == i);
        assert_true(r->gpu < rdi_decide_gpus(h->topo) && r->numa >= 0 &&
                    r->numa < h->topo->machine.numas);
        assert_true(rondo_topo_numa(h->topo, r->numa)->allowed);
        assert_true(r->gpu_why[0] && r->numa_why[0] && r->cpu_why[0]);
        if (r->cpu >= 0) {
            assert_true(rdi_set_has(&h->topo->numas[r->numa].cpus, (unsigned)r->cpu));
            assert_false(rdi_set_has(&taken, (unsigned)r->cpu));
            add_cpus(&taken, r->cpu, 1);
        }
        check_rails(d, h, r, users);
    }
    int rails = 0;
    for (int i = 0; i < h->nnics; i++) {
        assert_int_equal(users[i], h->nics[i].ranks);
        assert_true(h->nics[i].why[0]);
        rails += h->nics[i].rail >= 0;
    }
    assert_true(rails == d->nrails || (rails == 0 && d->nrails <= 1));
}

static int nearest_user(const struct rdi_decision *d, const struct rdi_decided_host *h, int nic) {
    int best = RONDO_TOPO_SYS + 1;
    for (int i = 0; i < h->nranks; i++) {
        const struct rdi_decided_rank *r = rdi_decide_rank(d, h, i);
        for (int k = 0; k < r->nrails; k++) {
            int to = (int)r->rails[k].distance;
            best = r->rails[k].nic == nic && to < best ? to : best;
        }
    }
    return best;
}

// Each rank once; hosts after each other; in and out of a host where the ring's own rail is.
static void check_ring(const struct rdi_decision *d, int number) {
    const struct rdi_decided_ring *ring = &d->rings[number];
    bool *seen = calloc((size_t)d->nranks, sizeof *seen);
    assert_non_null(seen);
    for (int i = 0, at = 0; i < d->nhosts; i++) {
        const struct rdi_decided_host *h = &d->hosts[i];
        const struct rdi_decided_leg *leg = &ring->legs[i];
        assert_int_equal(leg->enter, ring->order[at]);
        assert_int_equal(leg->leave, ring->order[at + h->nranks - 1]);
        assert_true(leg->why[0]);
        for (int k = 0; k < h->nranks; k++, at++) {
            assert_int_equal(d->ranks[ring->order[at]].host, i);
            assert_false(seen[ring->order[at]]);
            seen[ring->order[at]] = true;
        }
        if (leg->nic >= 0) {
            assert_int_equal(rdi_decide_to_nic(h->topo, &d->ranks[leg->enter], leg->nic),
                             nearest_user(d, h, leg->nic));
        }
        bool uses = leg->nic < 0;
        for (int k = 0; k < d->ranks[leg->enter].nrails; k++) {
            const struct rdi_decided_rail *rail = &d->ranks[leg->enter].rails[k];
            uses = uses || (rail->nic == leg->nic && rail->rail == number);
        }
        assert_true(uses);
    }
    free(seen);
}

static void check_same(const struct rdi_decision *a, const struct rdi_decision *b) {
    assert_true(a->plan == b->plan && a->nrails == b->nrails && a->nrings == b->nrings);
    for (int i = 0; i < a->nranks; i++) {
        assert_true(a->ranks[i].gpu == b->ranks[i].gpu && a->ranks[i].cpu == b->ranks[i].cpu &&
                    a->ranks[i].numa == b->ranks[i].numa &&
                    a->ranks[i].nrails == b->ranks[i].nrails);
        assert_true(!a->ranks[i].nrails || a->ranks[i].rails[0].nic == b->ranks[i].rails[0].nic);
    }
    for (int r = 0; r < a->nrings; r++) {
        assert_memory_equal(a->rings[r].order, b->rings[r].order,
                            (size_t)a->nranks * sizeof *a->rings[r].order);
    }
}

// Ranks go round the hosts, as some launchers number them.
static void number_round(struct rdi_decide_host *hosts, int n,
                         struct rdi_decide_place (*places)[16]) {
    for (int local = 0, rank = 0; local < 16; local++) {
        for (int i = 0; i < n; i++) {
            places[i][local] = (struct rdi_decide_place){.rank = rank, .gpu = RDI_DECIDE_ANY};
            rank += local < hosts[i].ranks;
            hosts[i].places = places[i];
        }
    }
}

static void holds_on_any_machine(void **state) {
    (void)state;
    seed = 20261127;
    for (int round = 0; round < 2000; round++) {
        struct machine *m[5];
        struct rdi_decide_host hosts[5];
        struct rdi_decide_place places[5][16];
        int n = 1 + below(5);
        for (int i = 0; i < n; i++) {
            m[i] = make_any();
            hosts[i] = (struct rdi_decide_host){
                .name = "h", .topo = &m[i]->topo, .ranks = 1 + below(below(2) ? 16 : 1 + below(4))};
        }
        if (below(2)) {
            number_round(hosts, n, places);
        }
        struct rdi_decision *d = decide(hosts, n), *again = decide(hosts, n);
        for (int i = 0; i < n; i++) {
            check_host(d, &d->hosts[i]);
        }
        for (int r = 0; r < d->nrings; r++) {
            check_ring(d, r);
        }
        check_same(d, again);
        rdi_decision_free(d);
        rdi_decision_free(again);
        for (int i = 0; i < n; i++) {
            unmake(m[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spreads_what_is_equally_near),
        cmocka_unit_test(makes_room_for_who_has_no_choice),
        cmocka_unit_test(leaves_out_what_is_slow_or_down),
        cmocka_unit_test(chains_by_distance),
        cmocka_unit_test(keeps_to_what_is_given),
        cmocka_unit_test(bounds_what_crosses),
        cmocka_unit_test(holds_on_any_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
