// SPDX-License-Identifier: MIT
// Where ranks stand in the ring and who leads streams: by hand, and for saved machines as rdi_decide() has it.
#include "ring/layout.h"
#include "ring/place.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define MAX 256

static struct rdi_seat seats[MAX];
static int host[MAX];

static const struct rdi_seat *seat_of(const void *arg, int rank) {
    (void)arg;
    return &seats[rank];
}

static struct rdi_layout make(int size, int rank) {
    struct rdi_layout l;
    assert_int_equal(rdi_layout_make(&l, size, rank, host, seat_of, NULL), RONDO_OK);
    return l;
}

static void clear(void) {
    memset(seats, 0, sizeof seats);
    memset(host, 0, sizeof host);
}

// ---- By hand -------------------------------------------------------------------------------------

static void expect_order(const struct rdi_layout *l, const int *order) {
    for (int i = 0; i < l->size; i++) {
        assert_int_equal(rdi_layout_rank(l, i), order[i]);
    }
}

static void test_numbered(void **state) {
    (void)state;
    clear();
    for (int r = 0; r < 6; r++) {
        host[r] = r / 2 * 2;
    }
    struct rdi_layout l = make(6, 3);
    assert_null(l.order);
    assert_int_equal(l.hosts, 3);
    assert_int_equal(l.host, 1);
    assert_int_equal(l.pos, 3);
    assert_int_equal(l.nlocals, 2);
    assert_int_equal(l.locals[0], 2);
    assert_int_equal(l.locals[1], 3);
    assert_int_equal(l.max_local, 2);
    assert_int_equal(l.nstreams, 1);
    assert_int_equal(l.streams[0].weight, 1);
    for (int h = 0; h < 3; h++) {
        assert_int_equal(l.streams[0].leaders[h], 2 * h);
    }
    assert_int_equal(rdi_layout_next(&l, 1), 4);
    assert_int_equal(rdi_layout_next(&l, 5), 2);
    rdi_layout_free(&l);
}

// Ranks that were dealt out to hosts in turns: the ring crosses hosts as often as there are hosts.
static void test_dealt_out(void **state) {
    (void)state;
    clear();
    for (int r = 0; r < 6; r++) {
        host[r] = r % 2;
    }
    struct rdi_layout l = make(6, 2);
    expect_order(&l, (const int[]){0, 2, 4, 1, 3, 5});
    assert_int_equal(l.pos, 1);
    for (int r = 0; r < 6; r++) {
        assert_int_equal(rdi_layout_rank(&l, rdi_layout_pos(&l, r)), r);
    }
    assert_int_equal(l.streams[0].leaders[1], 1);
    rdi_layout_free(&l);
}

// Each rank a NIC of its own: a stream for each. One rank with both: one stream of two rails.
static void test_streams(void **state) {
    (void)state;
    clear();
    for (int r = 0; r < 4; r++) {
        host[r] = r / 2 * 2;
        seats[r] = (struct rdi_seat){.nics = 2, .uses = (uint16_t)(1 << r % 2), .to = {1, 1}};
    }
    struct rdi_layout l = make(4, 0);
    assert_int_equal(l.nstreams, 2);
    assert_int_equal(l.rails, 2);
    for (int s = 0; s < 2; s++) {
        assert_int_equal(l.streams[s].leaders[0], s);
        assert_int_equal(l.streams[s].leaders[1], 2 + s);
    }
    rdi_layout_free(&l);
    seats[1].uses = seats[3].uses = 0;
    seats[0].uses = seats[2].uses = 3;
    l = make(4, 0);
    assert_int_equal(l.nstreams, 1);
    assert_int_equal(l.rails, 2);
    assert_int_equal(l.streams[0].weight, 2);
    rdi_layout_free(&l);
    seats[2].uses = 1; // a host with one rail: so there is one
    l = make(4, 0);
    assert_int_equal(l.rails, 1);
    rdi_layout_free(&l);
    seats[2].nics = 0; // and one that sees none
    seats[2].uses = 0;
    l = make(4, 0);
    assert_int_equal(l.rails, 1);
    assert_int_equal(l.streams[0].leaders[1], 2);
    rdi_layout_free(&l);
}

static void test_hash(void **state) {
    (void)state;
    clear();
    struct rdi_layout a = make(4, 0), b = make(4, 3);
    assert_true(a.hash == b.hash); // the same on all ranks
    rdi_layout_free(&b);
    host[3] = 3;
    b = make(4, 0);
    assert_true(a.hash != b.hash);
    rdi_layout_free(&b);
    host[3] = 0;
    seats[0].chain = 9;
    b = make(4, 0);
    assert_true(a.hash != b.hash);
    rdi_layout_free(&b);
    rdi_layout_free(&a);
}

static void test_wire(void **state) {
    (void)state;
    struct rdi_seat a = {.nics = 3, .uses = 5, .chain = 700, .to = {1, 2, 3}}, b;
    uint8_t bytes[RDI_SEAT_WIRE];
    rdi_seat_write(&a, bytes);
    rdi_seat_read(&b, bytes);
    assert_memory_equal(a.to, b.to, sizeof a.to);
    assert_true(b.nics == 3 && b.uses == 5 && b.chain == 700);
    bytes[0] = 2; // NIC 2 is used, and is none
    rdi_seat_read(&b, bytes);
    assert_int_equal(b.uses, 1);
    bytes[0] = RDI_SEAT_NICS + 1;
    rdi_seat_read(&b, bytes);
    assert_true(b.nics == 0 && b.uses == 0);
}

// ---- Saved machines ------------------------------------------------------------------------------

static void compare(const struct rdi_decision *d) {
    struct rdi_place place;
    clear();
    for (int r = 0; r < d->nranks; r++) {
        rdi_place_of(d, r, &place);
        seats[r] = place.seat;
        host[r] = d->hosts[d->ranks[r].host].ranks[0];
    }
    struct rdi_layout l = make(d->nranks, d->nranks - 1);
    assert_int_equal(l.rails, d->nrails);
    expect_order(&l, d->rings[0].order);
    if (l.max_local == 1) {
        assert_int_equal(l.nstreams, 0);
        rdi_layout_free(&l);
        return;
    }
    unsigned weights = 0;
    for (int s = 0; s < l.nstreams; s++) {
        unsigned rails = 0;
        for (int r = 0; r < d->nrings; r++) {
            bool same = true;
            for (int h = 0; h < d->nhosts; h++) {
                same = same && d->rings[r].legs[h].enter == l.streams[s].leaders[h];
            }
            rails += same;
        }
        assert_int_equal(rails, l.streams[s].weight);
        weights += rails;
    }
    assert_int_equal(weights, d->nrings);
    rdi_layout_free(&l);
}

// Three hosts of a kind, and two of this kind with one of the kind before.
static void test_saved(void **state) {
    (void)state;
    DIR *dir = opendir(FIXTURES);
    assert_non_null(dir);
    rondo_topo *before = NULL;
    int compared = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[512];
        rondo_topo *topo;
        rondo_topo_config config = RONDO_TOPO_CONFIG_INIT;
        snprintf(path, sizeof path, "%s/%s", FIXTURES, e->d_name);
        config.file = path;
        if (!strstr(e->d_name, ".xml") || rondo_topo_load(&config, &topo) != RONDO_OK) {
            continue;
        }
        for (int mixed = 0; mixed <= (before != NULL); mixed++) {
            const rondo_topo *t[3] = {topo, mixed ? before : topo, topo};
            struct rdi_decide_host hosts[3];
            struct rdi_decision *d;
            for (int h = 0; h < 3; h++) {
                hosts[h] = (struct rdi_decide_host){
                    .name = "a", .topo = t[h], .ranks = rdi_decide_default_ranks(t[h])};
            }
            assert_int_equal(rdi_decide(hosts, 3, &d), RONDO_OK);
            bool fits = d->nranks <= MAX;
            for (int h = 0; h < 3; h++) {
                fits = fits && d->hosts[h].nnics <= RDI_SEAT_NICS;
            }
            if (fits) {
                compare(d);
                compared++;
            }
            rdi_decision_free(d);
        }
        rondo_topo_free(before);
        before = topo;
    }
    rondo_topo_free(before);
    closedir(dir);
    assert_true(compared >= 15);
}

static rondo_topo *saved(const char *name) {
    char path[512];
    rondo_topo_config config = RONDO_TOPO_CONFIG_INIT;
    rondo_topo *topo = NULL;
    snprintf(path, sizeof path, "%s/%s.xml", FIXTURES, name);
    config.file = path;
    assert_int_equal(rondo_topo_load(&config, &topo), RONDO_OK);
    return topo;
}

// On a DGX each GPU has a NIC behind the same switches; on the second machine the way is through the processor; the third
// is virtual and hides it.
static void test_way(void **state) {
    (void)state;
    static const char *const files[] = {"dgx_h100", "32em64t-2n8c2t-pci-wholeio", "cloud_vm"};
    for (int i = 0; i < 3; i++) {
        rondo_topo *topo = saved(files[i]);
        const struct rdi_decide_host h = {.name = "a", .topo = topo, .ranks = 2};
        struct rdi_decision *d;
        struct rdi_place place;
        assert_int_equal(rdi_decide(&h, 1, &d), RONDO_OK);
        rdi_place_of(d, 1, &place);
        assert_string_equal(place.way.pci, rondo_topo_device(topo, 1)->pci);
        assert_int_equal(d->ranks[1].rails[0].gpudirect, i == 0);
        assert_int_equal(strstr(place.way.against, "beyond PXB") != NULL, i == 1);
        rdi_decision_free(d);
        rondo_topo_free(topo);
    }
}

static const char *visible, *device_order;
static char *environment(const char *name) {
    return (char *)(uintptr_t)(strcmp(name, "CUDA_VISIBLE_DEVICES") == 0 ? visible
                               : strcmp(name, "CUDA_DEVICE_ORDER") == 0  ? device_order
                                                                         : NULL);
}

static void test_visible(void **state) {
    (void)state;
    static const struct {
        const char *visible;
        int local_rank, gpu;
    } cases[] = {{NULL, 0, RDI_DECIDE_ANY},
                 {"", 0, RDI_DECIDE_ANY},
                 {"3", 5, 3}, // as one that was given just its own
                 {"4,5,6,7", 1, 5},
                 {"0", 0, 0},
                 {"0", 1, RDI_DECIDE_ANY}, // its own, behind a device cgroup
                 {"4,5", 3, 5},
                 {"GPU-8932f937", 0, RDI_DECIDE_ANY},
                 {"0,x", 0, RDI_DECIDE_ANY},
                 {"8", 0, RDI_DECIDE_ANY},
                 {"-1", 0, RDI_DECIDE_ANY}};
    rondo_topo *topo = saved("dgx_h100");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        visible = cases[i].visible;
        assert_int_equal(rdi_place_gpu(environment, cases[i].local_rank, topo), cases[i].gpu);
    }
    rondo_topo_free(topo);
}

// A DGX whose first GPU is of another model, or no GPU of CUDA at all.
static rondo_topo *changed(const char *id) {
    char path[512], temp[] = "/tmp/rondo-layout-XXXXXX";
    rondo_topo_config config = RONDO_TOPO_CONFIG_INIT;
    rondo_topo *topo = NULL;
    snprintf(path, sizeof path, "%s/dgx_h100.xml", FIXTURES);
    FILE *f = fopen(path, "r");
    char *text = calloc(1, 1 << 20);
    assert_non_null(f);
    size_t n = fread(text, 1, (1 << 20) - 1, f);
    fclose(f);
    char *at = strstr(text, "[10de:2330]");
    assert_non_null(at);
    memcpy(at + 1, id, 9);
    int fd = mkstemp(temp);
    assert_int_equal(write(fd, text, n), n);
    close(fd);
    free(text);
    config.file = temp;
    assert_int_equal(rondo_topo_load(&config, &topo), RONDO_OK);
    unlink(temp);
    return topo;
}

// Where GPUs differ, CUDA counts the fastest first, unless it is told not to; and it counts its own only.
static void test_mixed_models(void **state) {
    (void)state;
    rondo_topo *topo = changed("10de:20b0");
    visible = "1";
    assert_int_equal(rdi_place_gpu(environment, 0, topo), RDI_DECIDE_ANY);
    device_order = "FASTEST_FIRST";
    assert_int_equal(rdi_place_gpu(environment, 0, topo), RDI_DECIDE_ANY);
    device_order = "PCI_BUS_ID";
    assert_int_equal(rdi_place_gpu(environment, 0, topo), 1);
    device_order = NULL;
    rondo_topo_free(topo);
    topo = changed("1002:74a1");
    assert_int_equal(rdi_place_gpu(environment, 0, topo), 2);
    visible = "7";
    assert_int_equal(rdi_place_gpu(environment, 0, topo), RDI_DECIDE_ANY);
    rondo_topo_free(topo);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbered),     cmocka_unit_test(test_dealt_out),
        cmocka_unit_test(test_streams),      cmocka_unit_test(test_hash),
        cmocka_unit_test(test_wire),         cmocka_unit_test(test_saved),
        cmocka_unit_test(test_way),          cmocka_unit_test(test_visible),
        cmocka_unit_test(test_mixed_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
