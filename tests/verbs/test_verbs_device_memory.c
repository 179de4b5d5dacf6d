// SPDX-License-Identifier: MIT
// Whether device memory can be used: by DMA-BUF, by nvidia-peermem, or not, and then why.
#include "verbs_gpu.h"

#include "transport/mem.h"

#include <errno.h>
#include <sys/stat.h>

#define LO "interface=lo"

static int (*peer_memory)(const void *addr, size_t length, int fd, uint64_t offset);

// A folder in which nvidia-peermem is loaded, or is not.
static char root[96];
static void make_root(bool loaded) {
    static const char *const parts[] = {"", "/sys", "/sys/module", "/sys/module/nvidia_peermem"};
    char path[160];
    snprintf(root, sizeof root, "%s/root%d", fake_dir, loaded);
    for (size_t i = 0; i < (loaded ? sizeof parts / sizeof *parts : 1); i++) {
        snprintf(path, sizeof path, "%s%s", root, parts[i]);
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
    }
    if (loaded) {
        snprintf(path, sizeof path, "%s/sys/module/nvidia_peermem/version", root);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fputs("580.1\n", f);
        fclose(f);
    }
    rdi_verbs_test_root(root);
}

static int clean(void **state) {
    (void)state;
    unsetenv("FAKE_VERBS_DMABUF");
    make_root(false);
    return 0;
}

static void expect_unsupported(struct rdi_net *net, const struct gpu *g, const char *const *words) {
    assert_int_equal(net->ops->device_memory(net, g->at, g->bytes), RONDO_ERR_UNSUPPORTED);
    for (; *words != NULL; words++) {
        if (strstr(rondo_last_error(), *words) == NULL) {
            fail_msg("no '%s' in: %s", *words, rondo_last_error());
        }
    }
    assert_non_null(strstr(rondo_last_error(), "staged through host memory"));
}

// ---- What can be told of -------------------------------------------------------------------------

static void test_table(void **state) {
    (void)state;
    struct gpu g;
    struct rdi_mem_device m;
    gpu_make(&g, 65536);
    assert_int_equal(rdi_mem_register_device(NULL, 10, -1, 0), RONDO_ERR_INVALID);
    assert_int_equal(rdi_mem_register_device(g.at, 0, -1, 0), RONDO_ERR_INVALID);
    assert_int_equal(rdi_mem_register_device(g.at, SIZE_MAX, -1, 0), RONDO_ERR_INVALID);
    assert_int_equal(rdi_mem_register_device(g.at, 10, 999999, 0), RONDO_ERR_INVALID);
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_ERR_USAGE);

    assert_int_equal(rdi_mem_register_device(g.at, 8192, g.fd, 0), RONDO_OK);
    assert_int_equal(rdi_mem_find_device(g.at + 100, 8092, &m), RONDO_OK);
    assert_ptr_equal(m.start, g.at);
    assert_int_equal(m.bytes, 8192);
    assert_true(m.fd >= 0 && m.fd != g.fd);
    struct stat theirs, ours;
    assert_int_equal(fstat(m.fd, &theirs) | fstat(g.fd, &ours), 0);
    assert_int_equal(theirs.st_ino, ours.st_ino);
    close(m.fd);
    uint64_t id = m.id, frees = rdi_mem_frees();
    assert_true(rdi_mem_alive(id));
    assert_int_equal(rdi_mem_find_device(g.at + 100, 8093, &m), RONDO_ERR_INVALID);

    // It is not host memory: nothing else finds it.
    void *start;
    size_t bytes;
    assert_false(rdi_mem_region(g.at, 10, &start, &bytes, &id));
    assert_int_equal(rondo_mem_unregister(g.at), RONDO_ERR_USAGE);

    assert_int_equal(rdi_mem_register_device(g.at, 8192, g.fd, 0), RONDO_OK); // counts
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    assert_true(rdi_mem_frees() == frees && rdi_mem_alive(m.id));
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    assert_true(rdi_mem_frees() == frees + 1);
    assert_int_equal(rdi_mem_find_device(g.at, 1, &m), RONDO_ERR_INVALID);
    gpu_free(&g);
}

// ---- DMA-BUF -------------------------------------------------------------------------------------

static void test_dmabuf(void **state) {
    (void)state;
    struct pair p;
    struct gpu g;
    verbs_open(&p, LO, LO);
    struct rdi_net *net = p.side[0].net;
    assert_true(net->attr.device);
    gpu_make(&g, 1 << 20);
    assert_int_equal(net->ops->device_memory(net, g.at, g.bytes), RONDO_ERR_INVALID);
    long regions = fake_count("regions");
    gpu_register(&g);
    assert_int_equal(net->ops->device_memory(net, g.at, g.bytes), RONDO_OK);
    assert_int_equal(fake_count("regions"), regions + 2); // one on each of two rails
    assert_int_equal(net->ops->device_memory(net, g.at + 4096, 4096), RONDO_OK);
    assert_int_equal(fake_count("regions"), regions + 2); // it was there
    assert_int_equal(net->ops->device_memory(net, g.at + 1, g.bytes), RONDO_ERR_INVALID);
    // Devices let go of it as soon as the net moves.
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    net->ops->progress(net, false);
    assert_int_equal(fake_count("regions"), regions);
    gpu_free(&g);
    pair_close(&p);
}

static void test_no_dmabuf(void **state) {
    (void)state;
    static const char *const words[] = {"fake0:1", "takes no DMA-BUF", "peermem is not loaded",
                                        "EOPNOTSUPP", NULL};
    struct pair p;
    struct gpu g;
    setenv("FAKE_VERBS_DMABUF", "0", 1);
    verbs_open(&p, LO, LO);
    assert_false(p.side[0].net->attr.device);
    gpu_make(&g, 8192);
    gpu_register(&g);
    expect_unsupported(p.side[0].net, &g, words);
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    gpu_free(&g);
    pair_close(&p);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const memlock[] = {"fake0:1", "ENOMEM", "8192 bytes of device memory", NULL};
    static const char *const apart[] = {"fake0:1", "EINVAL", NULL};
    struct pair p;
    struct gpu g;
    verbs_open(&p, LO, LO);
    gpu_make(&g, 8192);
    gpu_register(&g);
    fake_control("1/fake0", "regfail=1");
    expect_unsupported(p.side[0].net, &g, memlock);
    fake_control("1/fake0", "");
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    // Where in the DMA-BUF it is and its address do not fit.
    assert_int_equal(rdi_mem_register_device(g.at, 4096, g.fd, 8), RONDO_OK);
    expect_unsupported(p.side[0].net, &(struct gpu){.at = g.at, .bytes = 4096}, apart);
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    gpu_free(&g);
    pair_close(&p);
}

static void test_mode_send(void **state) {
    (void)state;
    static const char *const words[] = {"fake0:1", "verbs_mode=send", NULL};
    struct pair p;
    struct gpu g;
    verbs_open(&p, LO ",verbs_mode=send", LO ",verbs_mode=send");
    assert_false(p.side[0].net->attr.device);
    gpu_make(&g, 8192);
    gpu_register(&g);
    expect_unsupported(p.side[0].net, &g, words);
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    gpu_free(&g);
    pair_close(&p);
}

// ---- nvidia-peermem ------------------------------------------------------------------------------

// Data from device memory to device memory, found by addresses.
static void run_peermem(bool dmabuf) {
    struct pair p;
    struct gpu from, to;
    make_root(true);
    setenv("FAKE_VERBS_DMABUF", dmabuf ? "1" : "0", 1);
    verbs_open(&p, LO, LO);
    assert_true(p.side[0].net->attr.device);
    gpu_make(&from, 1 << 20);
    gpu_make(&to, 64 << 20);
    for (int i = 0; i < 2; i++) {
        const struct gpu *g = i == 0 ? &from : &to;
        struct rdi_net *net = p.side[i].net;
        assert_int_equal(peer_memory(g->at, g->bytes, g->fd, 0), 0);
        // Where the driver has DMA-BUF but the ports have not, a descriptor is of no use, and no harm.
        assert_int_equal(rdi_mem_register_device(g->at, g->bytes, dmabuf ? -1 : g->fd, 0),
                         RONDO_OK);
        assert_int_equal(net->ops->device_memory(net, g->at, g->bytes), RONDO_OK);
    }
    gpu_answer = (struct gpu_answer){.yes = true, .slots.ptr = to.at};
    gpu_connect(&p);
    pair_fill(from.view, 3, 100001);
    struct rdi_put put = {.data = from.at, .len = 100001, .flags = RDI_PUT_DEVICE | RDI_PUT_ACK};
    assert_int_equal(p.link->ops->put(p.link, &put), RONDO_OK);
    pair_drive_until(&p, p.link->sent == 1 && p.side[1].accepted->arrived == 1);
    assert_true(pair_matches(to.view, 3, 100001));
    pair_close(&p);
    assert_int_equal(rdi_mem_unregister_device(from.at), RONDO_OK);
    assert_int_equal(rdi_mem_unregister_device(to.at), RONDO_OK);
    assert_int_equal(peer_memory(NULL, 0, -1, 0), 0);
    gpu_free(&from);
    gpu_free(&to);
}

static void test_peermem(void **state) {
    (void)state;
    run_peermem(false);
    run_peermem(true);
}

static void test_no_peermem(void **state) {
    (void)state;
    static const char *const words[] = {"fake0:1", "gave no DMA-BUF", "modprobe nvidia-peermem",
                                        NULL};
    struct pair p;
    struct gpu g;
    verbs_open(&p, LO, LO);
    gpu_make(&g, 8192);
    assert_int_equal(rdi_mem_register_device(g.at, g.bytes, -1, 0), RONDO_OK);
    expect_unsupported(p.side[0].net, &g, words); // and it is not tried: that would break a rule
    assert_int_equal(rdi_mem_unregister_device(g.at), RONDO_OK);
    gpu_free(&g);
    pair_close(&p);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, clean, clean)
    const struct CMUnitTest tests[] = {
        TEST(test_table),     TEST(test_dmabuf),  TEST(test_no_dmabuf),  TEST(test_refusals),
        TEST(test_mode_send), TEST(test_peermem), TEST(test_no_peermem),
    };
    if (fake_prepare("2") != 0 || setenv("FAKE_VERBS_LEAKS", "1", 1) != 0) {
        return 1;
    }
    void *lib = dlopen("libibverbs.so.1", RTLD_NOW);
    void *symbol = lib != NULL ? dlsym(lib, "fake_verbs_peer_memory") : NULL;
    if (symbol == NULL) {
        fprintf(stderr, "the fake library is not on LD_LIBRARY_PATH\n");
        return 1;
    }
    memcpy(&peer_memory, &symbol, sizeof symbol);
    return cmocka_run_group_tests_name("verbs_device_memory", tests, NULL, fake_dir_remove);
}
