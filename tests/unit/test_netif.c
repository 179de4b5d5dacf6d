// SPDX-License-Identifier: MIT
// Which interfaces are chosen on hosts that do not exist, and that this host can be asked.
#include "transport/netif.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- A host of the test's own -------------------------------------------------------------------

static struct rdi_netif_seen seen[32];
static size_t count;
static struct rdi_netif out[16];
static size_t n;

static int setup(void **state) {
    (void)state;
    memset(seen, 0, sizeof seen);
    count = n = 0;
    return 0;
}

static struct rdi_netif_seen *add(const char *name, const char *address, unsigned prefix) {
    struct rdi_netif_seen *s = &seen[count++];
    snprintf(s->at.name, sizeof s->at.name, "%s", name);
    s->at.family = strchr(address, ':') != NULL ? AF_INET6 : AF_INET;
    assert_int_equal(inet_pton(s->at.family, address, s->at.addr), 1);
    s->at.prefix = prefix;
    s->at.loopback = strcmp(name, "lo") == 0;
    // One index a name, in the order in which they come.
    s->index = (unsigned)count;
    for (size_t i = 0; i + 1 < count; i++) {
        if (strcmp(seen[i].at.name, name) == 0) {
            s->index = seen[i].index;
        }
    }
    s->up = s->carrier = true;
    return s;
}

static void usual_host(void) {
    add("lo", "127.0.0.1", 8);
    add("lo", "::1", 128);
    add("eth0", "10.1.2.3", 16);
    add("eth0", "fe80::1", 64);
    add("eth0", "fd00::3", 64);
    add("eth0", "fd00::4444", 64);
    add("docker0", "172.17.0.1", 16);
    add("eth1", "10.2.2.3", 16);
    add("br0", "192.168.7.1", 24)->private_bridge = true;
    add("eth2", "10.3.2.3", 16)->carrier = false;
    add("eth3", "169.254.1.1", 16);
    add("eth4", "10.4.0.1", 16)->up = false;
}

static rondo_status choose(const char *interface, const char *family) {
    n = 999;
    memset(out, 0, sizeof out);
    return rdi_netif_choose(seen, count, interface, family, out, 16, &n);
}

// "eth0 10.1.2.3 eth1 …": what was chosen.
static void expect(const char *wanted) {
    char got[2048] = "", address[64];
    for (size_t i = 0; i < n; i++) {
        inet_ntop(out[i].family, out[i].addr, address, sizeof address);
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%.31s %.63s", i > 0 ? " " : "",
                 out[i].name, address);
    }
    assert_string_equal(got, wanted);
}

static void refuse(const char *interface, const char *family, const char *word1,
                   const char *word2) {
    assert_int_equal(choose(interface, family), RONDO_ERR_INVALID);
    assert_int_equal(n, 999);
    if (strstr(rondo_last_error(), word1) == NULL || strstr(rondo_last_error(), word2) == NULL) {
        fail_msg("'%s' does not have '%s' and '%s'", rondo_last_error(), word1, word2);
    }
}

// ---- Tests --------------------------------------------------------------------------------------

static void test_defaults(void **state) {
    (void)state;
    usual_host();
    assert_int_equal(choose("", "auto"), RONDO_OK);
    expect("eth0 10.1.2.3 eth1 10.2.2.3 eth0 fd00::3 lo 127.0.0.1 lo ::1");
    assert_true(out[3].loopback);
    assert_int_equal(out[0].prefix, 16);
    assert_int_equal(choose("", "ipv4"), RONDO_OK);
    expect("eth0 10.1.2.3 eth1 10.2.2.3 lo 127.0.0.1");
    assert_int_equal(choose("", "ipv6"), RONDO_OK);
    expect("eth0 fd00::3 lo ::1");
}

static void test_names(void **state) {
    (void)state;
    usual_host();
    assert_int_equal(choose("eth1", "auto"), RONDO_OK);
    expect("eth1 10.2.2.3"); // nothing else, not even loopback
    assert_int_equal(choose("eth1+eth0", "auto"), RONDO_OK);
    expect(
        "eth1 10.2.2.3 eth0 10.1.2.3 eth0 fd00::3 eth0 fd00::4444"); // in the order that was said
    assert_int_equal(choose("docker0+br0+eth2", "auto"), RONDO_OK);
    expect("docker0 172.17.0.1 br0 192.168.7.1 eth2 10.3.2.3"); // what is named is wanted
    assert_int_equal(choose("eth3", "auto"), RONDO_OK);
    expect("eth3 169.254.1.1"); // link-local, since it has no other
    assert_int_equal(choose("lo", "ipv4"), RONDO_OK);
    expect("lo 127.0.0.1");
    assert_int_equal(choose("eth0+eth0", "ipv4"), RONDO_OK);
    expect("eth0 10.1.2.3");
}

static void test_subnets(void **state) {
    (void)state;
    usual_host();
    assert_int_equal(choose("10.0.0.0/8", "auto"), RONDO_OK);
    expect("eth0 10.1.2.3 eth1 10.2.2.3 eth2 10.3.2.3");
    assert_int_equal(choose("10.2.0.0/15", "auto"), RONDO_OK);
    expect("eth1 10.2.2.3 eth2 10.3.2.3");
    assert_int_equal(choose("10.1.2.3", "auto"), RONDO_OK);
    expect("eth0 10.1.2.3");
    assert_int_equal(choose("fd00::/8", "auto"), RONDO_OK);
    expect("eth0 fd00::3 eth0 fd00::4444");
    assert_int_equal(choose("fe80::/10", "auto"), RONDO_OK);
    expect("eth0 fe80::1");
    assert_int_equal(choose("0.0.0.0/0+eth0", "ipv6"), RONDO_ERR_INVALID);
    assert_int_equal(choose("10.2.0.0/16+fd00::3", "auto"), RONDO_OK);
    expect("eth1 10.2.2.3 eth0 fd00::3");
}

static void test_wrong_names(void **state) {
    (void)state;
    usual_host();
    refuse("eth7", "auto", "'eth7'", "eth0 10.1.2.3/16");
    refuse("eth7", "auto", "docker0 172.17.0.1/16", "lo 127.0.0.1/8");
    refuse("eth", "auto", "'eth'", "there are");
    refuse("eth0+", "auto", "''", "there are");
    refuse("eth4", "auto", "'eth4'", "eth4 10.4.0.1/16 (down)");
    refuse("eth1", "ipv6", "ipv6", "eth1 10.2.2.3/16");
    refuse("10.9.0.0/16", "auto", "'10.9.0.0/16'", "there are");
    refuse("10.0.0.0/33", "auto", "'10.0.0.0/33'", "there are");
    refuse("10.0.0.0/", "auto", "'10.0.0.0/'", "there are");
    refuse("10.0.0.0/x", "auto", "'10.0.0.0/x'", "there are");
    refuse("fd00::/129", "auto", "'fd00::/129'", "there are");
}

static void test_nothing_there(void **state) {
    (void)state;
    assert_int_equal(choose("", "auto"), RONDO_ERR_UNSUPPORTED);
    assert_non_null(strstr(rondo_last_error(), "none"));
    refuse("eth0", "auto", "'eth0'", "there are: none");
    add("lo", "127.0.0.1", 8);
    assert_int_equal(choose("", "auto"), RONDO_OK);
    expect("lo 127.0.0.1"); // enough for the ranks of one host
}

static void test_capacity(void **state) {
    (void)state;
    usual_host();
    assert_int_equal(rdi_netif_choose(seen, count, "", "auto", out, 2, &n), RONDO_OK);
    expect("eth0 10.1.2.3 eth1 10.2.2.3");
}

static void test_many(void **state) {
    (void)state;
    char name[32], address[32];
    for (int i = 0; i < 32; i++) {
        snprintf(name, sizeof name, "interface%d", i);
        snprintf(address, sizeof address, "10.200.100.%d", 100 + i);
        add(name, address, 24);
    }
    assert_int_equal(choose("eth0", "auto"), RONDO_ERR_INVALID); // the list is cut, not the error
    assert_non_null(strstr(rondo_last_error(), "..."));
}

static void test_this_host(void **state) {
    (void)state;
    struct rdi_options o;
    assert_int_equal(rdi_options_load(&o, "interface=lo,family=ipv4", getenv), RONDO_OK);
    if (rdi_netif_list(&o, out, 16, &n) != RONDO_OK) {
        print_message("no loopback interface that is up: %s\n", rondo_last_error());
        skip();
    }
    assert_int_equal(n, 1);
    assert_string_equal(out[0].name, "lo");
    assert_int_equal(out[0].addr[0], 127);
    assert_int_equal(out[0].prefix, 8);
    assert_true(out[0].loopback);

    assert_int_equal(rdi_options_load(&o, "", getenv), RONDO_OK);
    assert_int_equal(rdi_netif_list(&o, out, 16, &n), RONDO_OK);
    assert_true(n >= 1);
    assert_true(out[n - 1].loopback);
    assert_int_equal(rdi_options_load(&o, "interface=no-such-interface", getenv), RONDO_OK);
    assert_int_equal(rdi_netif_list(&o, out, 16, &n), RONDO_ERR_INVALID);
    assert_non_null(strstr(rondo_last_error(), "lo 127.0.0.1/8"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_defaults, setup),
        cmocka_unit_test_setup(test_names, setup),
        cmocka_unit_test_setup(test_subnets, setup),
        cmocka_unit_test_setup(test_wrong_names, setup),
        cmocka_unit_test_setup(test_nothing_there, setup),
        cmocka_unit_test_setup(test_capacity, setup),
        cmocka_unit_test_setup(test_many, setup),
        cmocka_unit_test_setup(test_this_host, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
