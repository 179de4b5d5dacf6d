// SPDX-License-Identifier: MIT
// Ports, rails, registrations and events over the fake library, on the fabric that FAKE_VERBS_LINK names.
#include "transport/verbs/parts.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/rondo-rail-XXXXXX";
static const struct rdi_ibv *v;
static const char *fabric;
static struct rdi_verbs_port *all;
static size_t nall;

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

static struct rdi_options options(const char *text) {
    struct rdi_options o;
    assert_int_equal(rdi_options_load(&o, text, no_environment), RONDO_OK);
    return o;
}

static struct rdi_verbs_rail open_rail(unsigned port, const char *text) {
    struct rdi_verbs_rail r;
    struct rdi_options o = options(text);
    assert_int_equal(rdi_verbs_rail_open(&r, v, &all[port], &o), RONDO_OK);
    return r;
}

// What the fake library shall do wrong from now on.
static void set_faults(const char *text) {
    for (unsigned device = 0; device < 2; device++) {
        char path[100], done[100];
        snprintf(path, sizeof path, "%s/new", dir);
        snprintf(done, sizeof done, "%s/faults.1.fake%u", dir, device);
        FILE *f = fopen(path, "we");
        assert_non_null(f);
        fputs(text, f);
        fclose(f);
        assert_int_equal(rename(path, done), 0);
    }
}

// ---- Ports ---------------------------------------------------------------------------------------

static void test_ports(void **state) {
    (void)state;
    assert_int_equal(nall, 4);
    for (unsigned i = 0; i < 4; i++) {
        const struct rdi_verbs_port *p = &all[i];
        char name[16], text[48];
        snprintf(name, sizeof name, "fake%u", i / 2);
        assert_string_equal(p->device, name);
        assert_true(p->port == 1 + i % 2 && p->active && p->mbit_per_s == 100000);
        assert_int_equal(p->roce, strcmp(fabric, "roce") == 0);
        assert_int_equal(p->iwarp, strcmp(fabric, "iwarp") == 0);
        if (p->roce) {
            // The first of the table is the worst.
            assert_int_equal(p->ngids, 4);
            assert_true(p->gids[0].index == 3 && p->gids[3].index == 0);
            assert_int_equal(p->gids[0].type, RDI_GID_ROCE_V2);
            snprintf(name, sizeof name, "10.%u.%u.1", 76 + p->port, i / 2);
            assert_string_equal(rdi_verbs_gid_text(&p->gids[0], text, sizeof text), name);
        } else {
            assert_true(p->ngids > 0 && p->gids[0].type == RDI_GID_IB);
            assert_int_equal(p->lid != 0, strcmp(fabric, "ib") == 0);
        }
    }
    struct rdi_options o = options("device=fake1+fake0:2");
    unsigned chosen[RDI_VERBS_RAILS], n;
    assert_int_equal(rdi_verbs_choose_ports(all, nall, &o, NULL, chosen, &n), RONDO_OK);
    assert_true(n == 3 && chosen[0] == 1 && chosen[1] == 2 && chosen[2] == 3);
}

// Two processes of this host, with all four ports each.
static void test_pairs(void **state) {
    (void)state;
    struct rdi_verbs_address mine = {.nrails = 4}, theirs;
    uint8_t bytes[RDI_VERBS_ADDRESS_MAX];
    for (unsigned i = 0; i < 4; i++) {
        rdi_verbs_rail_tell(&all[i], &mine.rails[i]);
    }
    assert_true(rdi_verbs_address_read(&theirs, bytes, rdi_verbs_address_write(&mine, bytes)));
    struct rdi_verbs_pair pairs[RDI_VERBS_RAILS];
    char why[200];
    assert_int_equal(rdi_verbs_pairs(&mine, &theirs, pairs, why, sizeof why), 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(pairs[i].mine == i && pairs[i].theirs == i);
        assert_int_equal(pairs[i].grh, strcmp(fabric, "ib") != 0);
        assert_int_equal(pairs[i].immediates, strcmp(fabric, "iwarp") != 0);
    }
}

// ---- Rails ---------------------------------------------------------------------------------------

static void test_open(void **state) {
    (void)state;
    struct rdi_verbs_rail a = open_rail(0, ""), b = open_rail(3, "verbs_relaxed=no");
    assert_true(a.cq_size >= 16384 && a.relaxed && !b.relaxed && !a.fork_unsafe);
    struct ibv_async_event e;
    assert_int_not_equal(v->get_async_event(a.context, &e), 0); // returns at once
    struct ibv_cq *cq;
    void *self;
    assert_int_not_equal(v->get_cq_event(a.channel, &cq, &self), 0);
    rdi_verbs_rail_close(&a);
    rdi_verbs_rail_close(&b);
    set_faults("max_cqe=100");
    struct rdi_verbs_port *p;
    size_t n;
    assert_int_equal(rdi_verbs_ports(v, &p, &n), RONDO_OK);
    assert_int_equal(p[0].attr.max_cqe, 100);
    struct rdi_options o = options("");
    assert_int_equal(rdi_verbs_rail_open(&a, v, &p[0], &o), RONDO_OK);
    assert_int_equal(a.cq_size, 100);
    rdi_verbs_rail_close(&a);
    free(p);
    set_faults("");
}

static void test_memory(void **state) {
    (void)state;
    struct rdi_verbs_rail r = open_rail(0, "");
    struct rdi_verbs_mr *held;
    struct ibv_mr *own;
    static char memory[1000];
    int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    assert_int_equal(rdi_verbs_reg(&r, memory, sizeof memory, access, &own), RONDO_OK);
    assert_true(own->addr == memory && own->length == sizeof memory);
    assert_int_equal(v->dereg_mr(own), 0);
    void *block;
    assert_int_equal(rondo_mem_alloc(100000, &block), RONDO_OK);
    struct ibv_mr *mr = rdi_verbs_mr_get(&r, (char *)block + 5, 50000, &held);
    assert_non_null(mr);
    rdi_verbs_mr_put(&r, held);
    assert_ptr_equal(rdi_verbs_mr_get(&r, block, 1, &held), mr);
    rdi_verbs_mr_put(&r, held);
    assert_int_equal(rondo_mem_free(block), RONDO_OK);
    rdi_verbs_mr_sweep(&r);
    assert_null(rdi_verbs_mr_get(&r, memory, 10, &held));
    rdi_verbs_rail_close(&r);
}

static void test_register_fails(void **state) {
    (void)state;
    set_faults("regfail=1");
    struct rdi_verbs_rail r = open_rail(0, "");
    struct ibv_mr *mr;
    char memory[100];
    assert_int_equal(rdi_verbs_reg(&r, memory, 100, 0, &mr), RONDO_ERR_NOMEM);
    assert_non_null(strstr(rondo_last_error(), "fake0:1"));
    set_faults("");
    rdi_verbs_rail_close(&r);
}

static void test_dmabuf(void **state) {
    (void)state;
    struct rdi_verbs_rail r = open_rail(1, "");
    assert_true(rdi_verbs_has_dmabuf(v, r.pd));
    int fd = memfd_create("device memory", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, 16384), 0);
    struct ibv_mr *mr;
    assert_int_equal(rdi_verbs_reg_dmabuf(&r, fd, 4096 + 64, 1000, 64, IBV_ACCESS_LOCAL_WRITE, &mr),
                     RONDO_OK);
    assert_int_equal(v->dereg_mr(mr), 0);
    close(fd);
    assert_int_equal(rdi_verbs_reg_dmabuf(&r, fd, 0, 10, 0, 0, &mr), RONDO_ERR_SYSTEM);
    rdi_verbs_rail_close(&r);
}

// ---- Events --------------------------------------------------------------------------------------

// Waits until something was read; false after 20 s.
static bool wait_for_event(struct rdi_verbs_rail *r, bool *fatal, char *why, size_t cap) {
    const struct rdi_env env = {.log = NULL};
    struct pollfd p = {.fd = r->context->async_fd, .events = POLLIN};
    return poll(&p, 1, 20000) == 1 &&
           rdi_verbs_rail_async(r, &env, fatal, why, cap, NULL, NULL) > 0;
}

static void test_port_down(void **state) {
    (void)state;
    struct rdi_verbs_rail one = open_rail(0, ""), two = open_rail(1, "");
    char why[200];
    bool fatal;
    set_faults("portdown=10:300:2");
    while (!two.down) {
        assert_true(wait_for_event(&two, &fatal, why, sizeof why));
        assert_false(fatal);
    }
    assert_true(wait_for_event(&one, &fatal, why, sizeof why)); // the same device, another port
    assert_false(one.down);
    while (two.down) {
        assert_true(wait_for_event(&two, &fatal, why, sizeof why));
    }
    set_faults("");
    rdi_verbs_rail_close(&one);
    rdi_verbs_rail_close(&two);
}

static void test_gone(void **state) {
    (void)state;
    struct rdi_verbs_rail r = open_rail(2, "");
    char why[200] = "";
    bool fatal = false;
    set_faults("fake1.gone=10");
    while (!fatal) {
        assert_true(wait_for_event(&r, &fatal, why, sizeof why));
    }
    assert_non_null(strstr(why, "fake1"));
    rdi_verbs_rail_close(&r);
    set_faults("");
}

// ---- Set-up --------------------------------------------------------------------------------------

static int set_up(void **state) {
    (void)state;
    char why[200] = "";
    // So that a refused registration is not tried again with a higher limit.
    struct rlimit l;
    getrlimit(RLIMIT_MEMLOCK, &l);
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_MEMLOCK, &l);
    if (mkdtemp(dir) == NULL || setenv("FAKE_VERBS_DIR", dir, 1) != 0) {
        return -1;
    }
    v = rdi_ibv_load(why, sizeof why);
    if (v == NULL || rdi_verbs_ports(v, &all, &nall) != RONDO_OK) {
        print_error("%s%s\n", why, v != NULL ? rondo_last_error() : "");
        return -1;
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(all);
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

int main(void) {
    fabric = getenv("FAKE_VERBS_LINK");
    if (fabric == NULL) {
        printf(
            "skipped: FAKE_VERBS_LINK is not set; ctest sets it, and where the fake library is\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ports),          cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_open),           cmocka_unit_test(test_memory),
        cmocka_unit_test(test_register_fails), cmocka_unit_test(test_dmabuf),
        cmocka_unit_test(test_port_down),      cmocka_unit_test(test_gone),
    };
    return cmocka_run_group_tests_name(fabric, tests, set_up, tear_down);
}
