// SPDX-License-Identifier: MIT
// What NCCL relies on without a header of ours: sizes and places of the interface, the symbols, and that the
// plugin's file exports nothing else.
#include "tests/nccl_net/proxy.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- Layout: numbers as NCCL 2.30's headers give them on a 64-bit machine ------------------------

static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(sizeof(struct rdi_nccl_props_v8), 64);
    assert_int_equal(sizeof(struct rdi_nccl_props_v9), 104);
    assert_int_equal(sizeof(struct rdi_nccl_props_v11), 112);
    assert_int_equal(sizeof(struct rdi_nccl_props_v12), 128);
    assert_int_equal(sizeof(struct rdi_nccl_net_v8), 19 * 8);
    assert_int_equal(sizeof(struct rdi_nccl_net_v9), 20 * 8);
    assert_int_equal(sizeof(struct rdi_nccl_net_v10), 20 * 8);
    assert_int_equal(sizeof(struct rdi_nccl_net_v11), 22 * 8);
    assert_int_equal(sizeof(struct rdi_nccl_net_v12), 22 * 8);
}

static void test_places(void **state) {
    (void)state;
    assert_int_equal(offsetof(struct rdi_nccl_props_v8, guid), 16);
    assert_int_equal(offsetof(struct rdi_nccl_props_v8, ptr_support), 24);
    assert_int_equal(offsetof(struct rdi_nccl_props_v8, speed), 32);
    assert_int_equal(offsetof(struct rdi_nccl_props_v8, latency), 40);
    assert_int_equal(offsetof(struct rdi_nccl_props_v8, max_recvs), 48);
    assert_int_equal(offsetof(struct rdi_nccl_props_v9, force_flush), 32);
    assert_int_equal(offsetof(struct rdi_nccl_props_v9, latency), 44);
    assert_int_equal(offsetof(struct rdi_nccl_props_v9, fused), 64);
    assert_int_equal(offsetof(struct rdi_nccl_props_v9, max_coll), 96);
    assert_int_equal(offsetof(struct rdi_nccl_props_v11, max_multi_request), 104);
    assert_int_equal(offsetof(struct rdi_nccl_props_v12, max_p2p), 104);
    assert_int_equal(offsetof(struct rdi_nccl_props_v12, max_multi_request), 120);
    assert_int_equal(offsetof(struct rdi_nccl_props_v12, rail), 124);
    assert_int_equal(offsetof(struct rdi_nccl_props_v12, plane), 126);
    assert_int_equal(offsetof(struct rdi_nccl_net_v8, listen), 4 * 8);
    assert_int_equal(offsetof(struct rdi_nccl_net_v8, isend), 10 * 8);
    assert_int_equal(offsetof(struct rdi_nccl_net_v8, irecv_consumed), 18 * 8);
    assert_int_equal(offsetof(struct rdi_nccl_net_v10, test), 13 * 8);
    assert_int_equal(offsetof(struct rdi_nccl_net_v11, make_vdevice), 19 * 8);
    assert_int_equal(offsetof(struct rdi_nccl_net_v12, finalize), 20 * 8);
    assert_int_equal(offsetof(struct rdi_nccl_net_v12, set_net_attr), 21 * 8);
}

// ---- The file ------------------------------------------------------------------------------------

struct file {
    const uint8_t *at;
    size_t bytes;
};

static const ElfW(Shdr) * section(const struct file *f, unsigned i) {
    const ElfW(Ehdr) *e = (const void *)f->at;
    return (const void *)(f->at + e->e_shoff + i * sizeof(ElfW(Shdr)));
}

static unsigned check_symbols(const struct file *f, const ElfW(Shdr) * table) {
    const char *names = (const char *)f->at + section(f, table->sh_link)->sh_offset;
    const ElfW(Sym) *at = (const void *)(f->at + table->sh_offset);
    unsigned found = 0;
    for (size_t i = 0; i < table->sh_size / sizeof *at; i++) {
        if (at[i].st_shndx == SHN_UNDEF || ELF64_ST_BIND(at[i].st_info) == STB_LOCAL) {
            continue;
        }
        const char *name = names + at[i].st_name;
        int version = 0, end = 0;
        if (sscanf(name, "ncclNetPlugin_v%d%n", &version, &end) != 1 || name[end] != '\0' ||
            version < 8 || version > 12) {
            fail_msg("the plugin exports %s", name);
        }
        found++;
    }
    return found;
}

static void test_exports(void **state) {
    (void)state;
    struct stat st;
    int fd = open(px_path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    struct file f = {.bytes = (size_t)st.st_size};
    f.at = mmap(NULL, f.bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    assert_ptr_not_equal(f.at, MAP_FAILED);
    unsigned found = 0;
    for (unsigned i = 0; i < ((const ElfW(Ehdr) *)(const void *)f.at)->e_shnum; i++) {
        if (section(&f, i)->sh_type == SHT_DYNSYM) {
            found += check_symbols(&f, section(&f, i));
        }
    }
    assert_int_equal(found, 5);
    munmap((void *)(uintptr_t)f.at, f.bytes);
}

static void test_tables(void **state) {
    (void)state;
    void *lib = dlopen(px_path, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(lib);
    for (int v = 8; v <= 12; v++) {
        char symbol[40];
        snprintf(symbol, sizeof symbol, "ncclNetPlugin_v%d", v);
        const void *const *words = dlsym(lib, symbol);
        assert_non_null(words);
        assert_string_equal(words[0], "Rondo");
        // All that NCCL calls without looking: from init() to closeListen().
        for (unsigned i = 1; i <= 16; i++) {
            assert_non_null(words[i]);
        }
        if (v >= 11) {
            assert_non_null(words[20]); // finalize()
        }
    }
    dlclose(lib);
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0) {
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_exports),
        cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
