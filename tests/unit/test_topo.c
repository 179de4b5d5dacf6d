// SPDX-License-Identifier: MIT
// Topologies: sets, the XML reader, distances on trees made here, sysfs of hosts that do not exist, and the API.
#include "topo/internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

// ---- Sets ----------------------------------------------------------------------------------------

static void expect_list(const char *text, const char *list, unsigned count) {
    struct rdi_set s;
    assert_true(rdi_set_read(&s, text));
    char *got = rdi_set_list(&s);
    assert_string_equal(got, list);
    assert_int_equal(rdi_set_count(&s), count);
    free(got);
}

static void reads_sets(void **state) {
    (void)state;
    expect_list("0x0", "", 0);
    expect_list("0x00000001", "0", 1);
    expect_list("0x0000000b", "0-1,3", 3);
    expect_list("0x00000303,0x03030000,,0x03030303",
                "0-1,8-9,16-17,24-25,80-81,88-89,96-97,104-105", 16);
    expect_list("0x00000001,0x80000000", "31-32", 2);
    char groups[RDI_SET_WORDS + 16] = "0x80000000"; // the last bit that there is
    memset(groups + 10, ',', RDI_SET_WORDS - 1);
    expect_list(groups, "8191", 1);
    groups[10 + RDI_SET_WORDS - 1] = ',';
    struct rdi_set s;
    assert_false(rdi_set_read(&s, groups));
    static const char *const wrong[] = {"",    "0x",     "0xf...f", "x",     "0x1,0x100000000",
                                        "1 2", "0x1 ,1", "-1",      "0x0x1", "0x1,0x"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_false(rdi_set_read(&s, wrong[i]));
    }
}

static void compares_sets(void **state) {
    (void)state;
    struct rdi_set a, b, none;
    assert_true(rdi_set_read(&a, "0x0000000c") && rdi_set_read(&b, "0x0000000f") &&
                rdi_set_read(&none, "0x0"));
    assert_true(rdi_set_within(&a, &b) && !rdi_set_within(&b, &a) && rdi_set_within(&a, &a));
    assert_false(rdi_set_within(&none, &b)); // nothing is nowhere
    assert_true(rdi_set_meet(&a, &b) && !rdi_set_meet(&a, &none));
    assert_int_equal(rdi_set_first(&a), 2);
    assert_int_equal(rdi_set_first(&none), -1);
    assert_false(rdi_set_has(&b, RDI_SET_BITS));
    rdi_set_keep(&b, &a);
    assert_true(rdi_set_equal(&a, &b));
}

// ---- XML -----------------------------------------------------------------------------------------

static void reads_xml(void **state) {
    (void)state;
    static const char text[] = "<?xml version=\"1.0\"?>\n<!DOCTYPE t SYSTEM \"x\">\n<!-- a > b -->"
                               "<t a = 'x&amp;&#228;&#x20AC;&lt;' b=\"'\">text<u/>\n"
                               "<v c='1'><w></w></v ></t>\n";
    struct rdi_xml x;
    char why[200];
    assert_true(rdi_xml_read(&x, text, sizeof text - 1, why, sizeof why));
    assert_int_equal(x.nelements, 4);
    assert_string_equal(rdi_xml_get(&x, 0, "a"), "x&\xc3\xa4\xe2\x82\xac<");
    assert_string_equal(rdi_xml_get(&x, 0, "b"), "'");
    assert_null(rdi_xml_get(&x, 0, "c"));
    assert_int_equal(x.elements[0].end, 4);
    assert_int_equal(x.elements[1].end, 2);
    assert_int_equal(x.elements[2].end, 4);
    assert_int_equal(x.elements[3].parent, 2);
    assert_int_equal(x.elements[2].line, 4);
    assert_string_equal(x.elements[3].name, "w");
    rdi_xml_free(&x);
}

// ---- Distances -----------------------------------------------------------------------------------

// A machine of four processors: two packages, a NUMA node each. `io` is below the first, `other` below the second,
// `top` at the machine.
static rondo_topo *machine(const char *io, const char *other, const char *top) {
    struct rdi_text t = {0};
    rondo_topo *topo = NULL;
    rdi_text_add(&t, "<topology version=\"2.0\"><object type=\"Machine\" cpuset=\"0xf\" "
                     "nodeset=\"0x3\">");
    for (int p = 0; p < 2; p++) {
        rdi_text_add(&t,
                     "<object type=\"Package\" os_index=\"%d\" cpuset=\"%s\">"
                     "<object type=\"NUMANode\" os_index=\"%d\" cpuset=\"%s\"/>",
                     p, p ? "0xc" : "0x3", p, p ? "0xc" : "0x3");
        for (int u = 2 * p; u < 2 * p + 2; u++) {
            rdi_text_add(&t, "<object type=\"PU\" os_index=\"%d\" cpuset=\"0x%d\"/>", u, 1 << u);
        }
        rdi_text_add(&t, "%s</object>", p ? other : io);
    }
    rdi_text_add(&t, "%s</object></topology>", top);
    rondo_status s = rondo_topo_parse(t.buf, t.len, "a test", &topo);
    if (s != RONDO_OK) {
        print_message("%s\n", rondo_last_error());
    }
    assert_int_equal(s, RONDO_OK);
    rdi_text_free(&t);
    return topo;
}

#define HOST(inside) "<object type=\"Bridge\" bridge_type=\"0-1\">" inside "</object>"
#define PORT(address, inside) \
    "<object type=\"Bridge\" pci_busid=\"" address "\">" inside "</object>"
#define NIC(address, name)                                                             \
    "<object type=\"PCIDev\" pci_busid=\"" address "\" pci_type=\"0200 [8086:1521]\">" \
    "<object type=\"OSDev\" osdev_type=\"2\" name=\"" name "\"/></object>"

static int find(const rondo_topo *t, const char *net) {
    for (int i = 0; i < rondo_topo_machine(t)->devices; i++) {
        if (strcmp(rondo_topo_device(t, i)->net, net) == 0) {
            return i;
        }
    }
    fail_msg("no NIC %s", net);
    return -1;
}

static void expect(const rondo_topo *t, const char *a, const char *b, const char *distance) {
    assert_string_equal(rondo_topo_distance_name(rondo_topo_between(t, find(t, a), find(t, b))),
                        distance);
    assert_string_equal(rondo_topo_distance_name(rondo_topo_between(t, find(t, b), find(t, a))),
                        distance);
}

static void measures_switches(void **state) {
    (void)state;
    rondo_topo *t = machine(
        HOST(PORT("0000:00:01.0",
                  PORT("0000:01:00.0", // a switch
                       PORT("0000:02:00.0", NIC("0000:03:00.0", "a") NIC("0000:03:00.1", "a1"))
                           PORT("0000:02:01.0", NIC("0000:04:00.0", "b"))
                               PORT("0000:02:02.0",
                                    PORT("0000:05:00.0", // a second one, below the first
                                         PORT("0000:06:00.0", NIC("0000:07:00.0", "c"))
                                             PORT("0000:06:01.0", NIC("0000:08:00.0", "d"))))))
                 PORT("0000:00:02.0", NIC("0000:09:00.0", "e")))
            HOST(PORT("0000:20:01.0", NIC("0000:21:00.0", "f"))),
        HOST(PORT("0000:40:01.0", NIC("0000:41:00.0", "g"))), "");
    expect(t, "a", "a", "LOC");
    expect(t, "a", "a1", "PIX");
    expect(t, "a", "b", "PIX");
    expect(t, "c", "d", "PIX");
    expect(t, "a", "c", "PXB");
    expect(t, "b", "d", "PXB");
    expect(t, "a", "e", "PHB");
    expect(t, "c", "e", "PHB");
    expect(t, "a", "f", "NODE");
    expect(t, "e", "f", "NODE");
    expect(t, "a", "g", "SYS");
    assert_int_equal(rondo_topo_to_numa(t, find(t, "a"), 0), RONDO_TOPO_NODE);
    assert_int_equal(rondo_topo_to_numa(t, find(t, "a"), 1), RONDO_TOPO_SYS);
    assert_int_equal(rondo_topo_device(t, find(t, "g"))->numa, 1);
    assert_string_equal(rondo_topo_device(t, find(t, "g"))->cpus, "2-3");
    assert_string_equal(rondo_topo_device(t, find(t, "e"))->bridges, "?/0000:00:02.0");
    rondo_topo_free(t);
}

// Devices of which it is not told where they are: what they share is still known, the rest is the worst.
static void measures_unknown_places(void **state) {
    (void)state;
    rondo_topo *t = machine(NIC("0000:00:03.0", "near"), "",
                            HOST(NIC("0000:00:01.0", "a") NIC("0000:00:02.0", "b")
                                     NIC("0000:00:02.1", "b1")) HOST(NIC("0001:00:01.0", "c")));
    expect(t, "a", "b", "PHB");
    expect(t, "b", "b1", "PIX"); // functions of one device
    expect(t, "a", "c", "SYS");
    expect(t, "a", "near", "SYS");
    assert_int_equal(rondo_topo_device(t, find(t, "a"))->numa, -1);
    assert_int_equal(rondo_topo_device(t, find(t, "near"))->numa, 0);
    rondo_topo_free(t);
}

static void looks_out_of_range(void **state) {
    (void)state;
    rondo_topo *t = machine(NIC("0000:00:03.0", "a"), "", "");
    assert_null(rondo_topo_device(t, 1));
    assert_null(rondo_topo_device(t, -1));
    assert_null(rondo_topo_numa(t, 2));
    assert_null(rondo_topo_numa(t, -1));
    assert_int_equal(rondo_topo_between(t, 0, 1), RONDO_TOPO_SYS);
    assert_int_equal(rondo_topo_between(t, -1, 0), RONDO_TOPO_SYS);
    assert_int_equal(rondo_topo_to_numa(t, 0, 2), RONDO_TOPO_SYS);
    assert_int_equal(rondo_topo_to_numa(t, 1, 0), RONDO_TOPO_SYS);
    rondo_topo_free(t);
}

// ---- Virtual functions ---------------------------------------------------------------------------

#define NAMED(address, name, device, more)                                             \
    "<object type=\"PCIDev\" pci_busid=\"" address "\" pci_type=\"0200 [15b3:101e]\">" \
    "<info name=\"PCIDevice\" value=\"" device "\"/>" more                             \
    "<object type=\"OSDev\" osdev_type=\"2\" name=\"" name "\"/></object>"
#define PHYSFN(address) "<info name=\"RondoPhysfn\" value=\"" address "\"/>"

static void counts_virtual_functions(void **state) {
    (void)state;
    rondo_topo *t =
        machine(HOST(NAMED("0000:01:00.0", "p0", "Port", "") NAMED("0000:01:00.1", "p1", "Port", "")
                         NAMED("0000:01:00.2", "v0", "Any", PHYSFN("0000:01:00.1"))
                             NAMED("0000:01:01.3", "v1", "Virtual Function", "")),
                // The guest of a virtual machine has a virtual function and no port.
                HOST(NAMED("0000:02:00.2", "v2", "Virtual Function", "")), "");
    assert_int_equal(rondo_topo_machine(t)->devices, 3);
    assert_int_equal(rondo_topo_device(t, find(t, "p0"))->virtual_functions, 1);
    assert_int_equal(rondo_topo_device(t, find(t, "p1"))->virtual_functions, 1);
    assert_int_equal(rondo_topo_device(t, find(t, "v2"))->virtual_functions, 0);
    rondo_topo_free(t);
}

// ---- sysfs ---------------------------------------------------------------------------------------

static char root[256];

static void put(const char *path, const char *text) {
    char full[600], command[700];
    snprintf(full, sizeof full, "%s%s", root, path);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\"", full);
    assert_int_equal(system(command), 0);
    FILE *f = fopen(full, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static int make_root(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.200s/rondo-topo-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    char command[400];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command);
}

static void reads_sysfs(void **state) {
    (void)state;
    char text[64];
    put("/sys/class/net/eth0/speed", "100000\n");
    put("/sys/class/net/eth1/speed", "-1\n");
    assert_int_equal(rdi_topo_net_mbps(root, "eth0"), 100000);
    assert_int_equal(rdi_topo_net_mbps(root, "eth1"), 0);
    assert_int_equal(rdi_topo_net_mbps(root, "eth2"), 0);
    rdi_topo_rdma_over(root, "eth0", text, sizeof text);
    assert_string_equal(text, "");

    put("/sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n");
    put("/sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n");
    put("/sys/class/infiniband/mlx5_0/ports/2/state", "4: ACTIVE\n");
    put("/sys/class/infiniband/mlx5_0/ports/2/rate", "2.5 Gb/sec (1X SDR)\n");
    put("/sys/class/infiniband/mlx5_0/ports/2/gid_attrs/ndevs/1", "eth0\n");
    put("/sys/class/infiniband/rxe0/parent", "eth0\n");
    put("/sys/class/infiniband/rxe1/parent", "eth1\n");
    assert_int_equal(rdi_topo_rdma_mbps(root, "mlx5_0"), 2500);
    assert_int_equal(rdi_topo_rdma_mbps(root, "rxe0"), 0);
    rdi_topo_rdma_over(root, "eth0", text, sizeof text);
    assert_string_equal(text, "mlx5_0,rxe0");
    rdi_topo_rdma_over(root, "eth0", text, 8);
    assert_string_equal(text, "mlx5_0"); // whole names only

    put("/sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n");
    char link[600];
    snprintf(link, sizeof link, "%s/sys/bus/pci/devices/0000:01:00.0/physfn", root);
    assert_int_equal(symlink("../0000:01:00.7", link), 0);
    rdi_topo_physfn(root, "0000:01:00.0", text, sizeof text);
    assert_string_equal(text, "0000:01:00.7");
    rdi_topo_physfn(root, "0000:01:00.7", text, sizeof text);
    assert_string_equal(text, "");
}

static void reads_names(void **state) {
    (void)state;
    char file[400], vendor[40], device[40];
    put("/pci.ids", "# a comment\n\n1000  First\n\t0001  Not this\n15b3  Mellanox  Technologies\n"
                    "# another\n\t0001  One\n\t\t0002 0003  Below one\n\t0002  Two [2]\n"
                    "1af4  Red Hat, Inc.\n\t0003  Three\nC 15  A class\n");
    snprintf(file, sizeof file, "%s/pci.ids", root);
    assert_true(rdi_topo_pci_names(file, 0x15b3, 2, vendor, device, sizeof vendor));
    assert_string_equal(vendor, "Mellanox  Technologies");
    assert_string_equal(device, "Two [2]");
    assert_true(
        rdi_topo_pci_names(file, 0x15b3, 3, vendor, device, sizeof vendor)); // the next one's
    assert_string_equal(device, "");
    assert_false(rdi_topo_pci_names(file, 0x15, 3, vendor, device, sizeof vendor));
    assert_string_equal(vendor, "");
    assert_false(rdi_topo_pci_names("/nonexistent", 0x15b3, 3, vendor, device, sizeof vendor));
}

// ---- The API -------------------------------------------------------------------------------------

static void refuses_arguments(void **state) {
    (void)state;
    rondo_topo *t = NULL;
    rondo_topo_config c = RONDO_TOPO_CONFIG_INIT;
    assert_int_equal(rondo_topo_load(&c, NULL), RONDO_ERR_INVALID);
    c.file = "a";
    c.synthetic = "pu:1";
    assert_int_equal(rondo_topo_load(&c, &t), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "give one"));
    c = (rondo_topo_config){.size = 4};
    assert_int_equal(rondo_topo_load(&c, &t), RONDO_ERR_INVALID);
    c = (rondo_topo_config)RONDO_TOPO_CONFIG_INIT;
    c.this_cpuset = 1;
    assert_int_equal(rondo_topo_load(&c, &t), RONDO_ERR_INVALID);
    assert_int_equal(rondo_topo_parse(NULL, 0, NULL, &t), RONDO_ERR_INVALID);
    assert_int_equal(rondo_topo_save(NULL, "x"), RONDO_ERR_INVALID);
    assert_int_equal(rondo_topo_parse("<a/>", 4, "mine", &t), RONDO_ERR_INVALID);
    assert_non_null(
        strstr(rondo_last_error(), "mine is no topology that can be used: line 1: <a>"));
    assert_null(t);
    rondo_topo_free(NULL);
}

static void loads_descriptions(void **state) {
    (void)state;
    rondo_topo *t;
    rondo_topo_config c = RONDO_TOPO_CONFIG_INIT;
    c.synthetic = "pack:2 numa:2 core:4 pu:2";
    assert_int_equal(rondo_topo_load(&c, &t), RONDO_OK);
    const rondo_topo_machine_info *m = rondo_topo_machine(t);
    assert_int_equal(m->packages, 2);
    assert_int_equal(m->cores, 16);
    assert_int_equal(m->pus, 32);
    assert_int_equal(m->allowed_pus, 32);
    assert_int_equal(m->numas, 4);
    assert_int_equal(m->devices, 0);
    assert_int_equal(rondo_topo_numa(t, 3)->package, 1);
    assert_string_equal(rondo_topo_numa(t, 3)->cpus, "24-31");
    rondo_topo_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_sets),
        cmocka_unit_test(compares_sets),
        cmocka_unit_test(reads_xml),
        cmocka_unit_test(measures_switches),
        cmocka_unit_test(measures_unknown_places),
        cmocka_unit_test(looks_out_of_range),
        cmocka_unit_test(counts_virtual_functions),
        cmocka_unit_test_setup_teardown(reads_sysfs, make_root, remove_root),
        cmocka_unit_test_setup_teardown(reads_names, make_root, remove_root),
        cmocka_unit_test(refuses_arguments),
        cmocka_unit_test(loads_descriptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
