// SPDX-License-Identifier: MIT
// Rank, size and store from fake environments of every launcher, right and wrong ones.
#include "transport/bootstrap/bootstrap.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- A fake environment: "NAME=value NAME=value" ------------------------------------------------

static char environment[32][2][128];

static char *fake_getenv(const char *name) {
    for (size_t i = 0; i < 32 && environment[i][0][0] != '\0'; i++) {
        if (strcmp(environment[i][0], name) == 0) {
            return environment[i][1];
        }
    }
    return NULL;
}

static void set_environment(const char *text) {
    memset(environment, 0, sizeof environment);
    for (size_t i = 0; *text != '\0'; i++) {
        size_t name = strcspn(text, "="), value = strcspn(text + name + 1, " ");
        memcpy(environment[i][0], text, name);
        memcpy(environment[i][1], text + name + 1, value);
        text += name + 1 + value;
        text += strspn(text, " ");
    }
}

static rondo_config config;
static struct rdi_launch l;

static int setup(void **state) {
    (void)state;
    config = (rondo_config)RONDO_CONFIG_INIT;
    set_environment("");
    return 0;
}

static void find(const char *text) {
    set_environment(text);
    memset(&l, 0x5a, sizeof l);
    rondo_status s = rdi_discover(&config, fake_getenv, &l);
    if (s != RONDO_OK) {
        fail_msg("%s: %s", text, rondo_last_error());
    }
}

static void refuse(const char *text, rondo_status status, const char *word1, const char *word2) {
    set_environment(text);
    memset(&l, 0x5a, sizeof l);
    assert_int_equal(rdi_discover(&config, fake_getenv, &l), status);
    if (strstr(rondo_last_error(), word1) == NULL || strstr(rondo_last_error(), word2) == NULL) {
        fail_msg("'%s' does not have '%s' and '%s'", rondo_last_error(), word1, word2);
    }
    assert_int_equal(l.rank, 0x5a5a5a5a); // untouched
}

static void expect(int rank, int size, int local_rank, bool single_host, const char *host,
                   int port) {
    assert_int_equal(l.rank, rank);
    assert_int_equal(l.size, size);
    assert_int_equal(l.local_rank, local_rank);
    assert_int_equal(l.single_host, single_host);
    assert_string_equal(l.host, host);
    assert_int_equal(l.port, port);
}

// ---- Launchers ----------------------------------------------------------------------------------

static void test_alone(void **state) {
    (void)state;
    find("");
    expect(0, 1, -1, true, "", 0);
    // The script of a Slurm batch job, and the shell of an allocation, are one process.
    find("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_ID=7 SLURM_LOCALID=0");
    expect(0, 1, -1, true, "", 0);
    find("PMIX_RANK=3"); // says nothing of the size
    expect(0, 1, -1, true, "", 0);
}

static void test_torchrun_names(void **state) {
    (void)state;
    const char *usual = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node7"
                        " MASTER_PORT=1234";
    find(usual);
    expect(5, 8, 1, false, "node7", 1234);
    assert_false(l.launcher_store);
    assert_string_equal(l.launcher, "rondo-run or torchrun");

    find("RANK=5 WORLD_SIZE=8 MASTER_ADDR=fd00::1");
    expect(5, 8, -1, false, "fd00::1", RDI_MASTER_PORT_DEFAULT);

    find("RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2");
    expect(1, 2, 1, true, "127.0.0.1", RDI_MASTER_PORT_DEFAULT);
    assert_true(l.loopback);

    find("RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=node7");
    expect(0, 1, 0, true, "", 0);

    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=5");
    expect(1, 2, -1, true, "localhost", 5);
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.3.0.1 MASTER_PORT=5");
    assert_true(l.single_host);
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=::1 MASTER_PORT=5");
    assert_true(l.single_host);
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=128.0.0.1 MASTER_PORT=5");
    assert_false(l.single_host);
    assert_false(l.loopback);
}

static void test_who_keeps_the_store(void **state) {
    (void)state;
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1234 RONDO_STORE=launcher");
    assert_true(l.launcher_store);
    assert_int_equal(l.port, 1234);
    // torchrun's agent has PyTorch's store at the port that it names.
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1234 TORCHELASTIC_USE_AGENT_STORE=True");
    assert_false(l.launcher_store);
    assert_int_equal(l.port, 1235);
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=65535 TORCHELASTIC_USE_AGENT_STORE=True");
    assert_int_equal(l.port, 65534);
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1234 TORCHELASTIC_USE_AGENT_STORE=False");
    assert_int_equal(l.port, 1234);
    // An address of one's own is not where the launcher's store is.
    config.master_port = 99;
    find("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1234 RONDO_STORE=launcher");
    assert_false(l.launcher_store);
    assert_int_equal(l.port, 99);
    refuse("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a RONDO_STORE=yes", RONDO_ERR_BOOTSTRAP, "RONDO_STORE",
           "'launcher'");
}

static void test_open_mpi(void **state) {
    (void)state;
    find("OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_LOCAL_RANK=2"
         " OMPI_COMM_WORLD_LOCAL_SIZE=3 PMIX_NAMESPACE=1057095681 PMIX_RANK=2");
    assert_int_equal(l.rank, 2);
    assert_int_equal(l.size, 3);
    assert_int_equal(l.local_rank, 2);
    assert_true(l.single_host);
    assert_string_equal(l.host, "127.0.0.1");
    assert_in_range(l.port, 20000, 29999);
    int port = l.port;
    find("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_LOCAL_RANK=1"
         " OMPI_COMM_WORLD_LOCAL_SIZE=3 PMIX_NAMESPACE=1057095681");
    assert_int_equal(l.port, port); // the same for all ranks
    find("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_LOCAL_RANK=1"
         " OMPI_COMM_WORLD_LOCAL_SIZE=3 PMIX_NAMESPACE=1057095682");
    assert_int_not_equal(l.port, port); // and another job has another
    refuse("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_LOCAL_SIZE=2",
           RONDO_ERR_BOOTSTRAP, "MASTER_ADDR", "rondo-run");
    find("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_LOCAL_SIZE=2 MASTER_ADDR=h"
         " MASTER_PORT=77");
    expect(1, 3, -1, false, "h", 77);
}

static void test_hydra(void **state) {
    (void)state;
    find("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2 PMI_FD=8");
    expect(1, 2, 1, true, "127.0.0.1", RDI_MASTER_PORT_DEFAULT);
    assert_string_equal(l.launcher, "Hydra");
}

static void test_slurm(void **state) {
    (void)state;
    const char *step = "SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=8 SLURM_NTASKS=16 SLURM_LOCALID=1"
                       " SLURM_STEP_NUM_NODES=4 SLURM_JOB_ID=12 SLURM_STEP_ID=3"
                       " SLURM_STEP_NODELIST=node[07-12,20],login1";
    find(step);
    expect(3, 8, 1, false, "node07", 20000 + 12 * 7 + 3);
    // srun --mpi=pmi2 sets PMI_RANK as well, and mpirun inside an allocation leaves Slurm's.
    find("PMI_RANK=3 PMI_SIZE=8 SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=0"
         " SLURM_STEP_NUM_NODES=1 SLURM_JOB_ID=12");
    expect(3, 8, 0, true, "127.0.0.1", 20000 + 12 * 7);
    find("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 SLURM_PROCID=0"
         " SLURM_STEP_NUM_TASKS=1 SLURM_STEP_NUM_NODES=1");
    assert_int_equal(l.size, 2);
    find("RANK=1 WORLD_SIZE=4 MASTER_ADDR=x SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2");
    assert_int_equal(l.size, 4); // torchrun or rondo-run, started by srun
}

static void test_node_lists(void **state) {
    (void)state;
    static const struct {
        const char *list, *first;
    } good[] = {{"node3", "node3"},       {"node3,node4", "node3"},
                {"n[1-2]", "n1"},         {"n[001,003-007]", "n001"},
                {"a,b[1-2]", "a"},        {"n[9]", "n9"},
                {"10.0.0.1", "10.0.0.1"}, {"rack1-n[2-3],x", "rack1-n2"}};
    char host[64];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(rdi_first_host(good[i].list, host, sizeof host));
        assert_string_equal(host, good[i].first);
    }
    static const char *const bad[] = {"",    ",",    "n[",         "n[]", "n[x]",
                                      "n[1", "n[1-", "n[1-2]m[3]", "[,"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(rdi_first_host(bad[i], host, sizeof host));
    }
    assert_false(rdi_first_host("12345678", host, 8));
    assert_true(rdi_first_host("1234567", host, 8));
}

// ---- Explicit configuration ---------------------------------------------------------------------

static void test_explicit(void **state) {
    (void)state;
    config.rank = 2;
    config.world_size = 4;
    config.local_rank = 1;
    config.master_addr = "here";
    config.master_port = 4000;
    find("RANK=0 WORLD_SIZE=9 LOCAL_RANK=3 MASTER_ADDR=there MASTER_PORT=5000");
    expect(2, 4, 1, false, "here", 4000);

    config.local_rank = -1; // the launcher's is that of another rank
    find("RANK=0 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=4");
    expect(2, 4, -1, false, "here", 4000);
    find("RANK=2 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=4");
    expect(2, 4, 2, true, "here", 4000);

    config = (rondo_config)RONDO_CONFIG_INIT;
    config.rank = 1; // one from here, one from there
    find("WORLD_SIZE=3 MASTER_ADDR=x");
    expect(1, 3, -1, false, "x", RDI_MASTER_PORT_DEFAULT);
    static const rondo_store_ops ops = {.size = sizeof ops};
    config.store_ops = &ops; // no address is needed then
    find("WORLD_SIZE=3");
    expect(1, 3, -1, false, "", 0);
}

static void test_wrong_configuration(void **state) {
    (void)state;
    config.rank = 4;
    config.world_size = 4;
    refuse("", RONDO_ERR_BOOTSTRAP, "rondo_config.rank is 4", "rondo_config.world_size is 4");
    config.rank = -2;
    refuse("", RONDO_ERR_INVALID, "rondo_config.rank is -2", "-1 to find it");
    config.rank = 0;
    config.world_size = 0;
    refuse("", RONDO_ERR_INVALID, "rondo_config.world_size is 0", "1..");
    config.world_size = -1;
    refuse("", RONDO_ERR_BOOTSTRAP, "WORLD_SIZE", "not set");
    config.world_size = 2;
    refuse("", RONDO_ERR_BOOTSTRAP, "MASTER_ADDR", "MASTER_PORT");
    config.master_addr = "";
    refuse("", RONDO_ERR_BOOTSTRAP, "rondo_config.master_addr", "empty");
    config.master_addr = "x";
    config.master_port = 65536;
    refuse("", RONDO_ERR_INVALID, "rondo_config.master_port is 65536", "1..65535");
    config.master_port = 1;
    config.local_rank = 2;
    refuse("", RONDO_ERR_BOOTSTRAP, "rondo_config.local_rank is 2", "2 ranks");
}

static void test_wrong_environment(void **state) {
    (void)state;
    refuse("RANK=2 WORLD_SIZE=2 MASTER_ADDR=x", RONDO_ERR_BOOTSTRAP, "RANK is 2",
           "WORLD_SIZE is 2");
    refuse("RANK=x WORLD_SIZE=2", RONDO_ERR_BOOTSTRAP, "RANK is 'x'", "whole number");
    refuse("RANK=-1 WORLD_SIZE=2", RONDO_ERR_BOOTSTRAP, "RANK is '-1'", "from 0");
    refuse("RANK=1.0 WORLD_SIZE=2", RONDO_ERR_BOOTSTRAP, "RANK is '1.0'", "whole number");
    refuse("RANK=0 WORLD_SIZE=99999999999999999999", RONDO_ERR_BOOTSTRAP, "WORLD_SIZE is '9999",
           "whole number");
    refuse("RANK=0 WORLD_SIZE=0", RONDO_ERR_BOOTSTRAP, "WORLD_SIZE is '0'", "from 1");
    refuse("RANK=0", RONDO_ERR_BOOTSTRAP, "WORLD_SIZE", "not set");
    refuse("WORLD_SIZE=3", RONDO_ERR_BOOTSTRAP, "RANK", "not set");
    refuse("RANK=0 WORLD_SIZE=2 MASTER_ADDR=x MASTER_PORT=0", RONDO_ERR_BOOTSTRAP,
           "MASTER_PORT is '0'", "65535");
    refuse("RANK=0 WORLD_SIZE=2 MASTER_ADDR=x MASTER_PORT=http", RONDO_ERR_BOOTSTRAP,
           "MASTER_PORT is 'http'", "65535");
    refuse("RANK=1 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=x", RONDO_ERR_BOOTSTRAP,
           "LOCAL_RANK is 2", "2 ranks on this host");
    refuse("RANK=1 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=5 MASTER_ADDR=x", RONDO_ERR_BOOTSTRAP,
           "LOCAL_WORLD_SIZE is '5'", "from 1 to 4");
    refuse("OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=3", RONDO_ERR_BOOTSTRAP,
           "OMPI_COMM_WORLD_RANK is 3", "OMPI_COMM_WORLD_SIZE is 3");
    refuse("SLURM_PROCID=one SLURM_STEP_NUM_TASKS=2", RONDO_ERR_BOOTSTRAP, "SLURM_PROCID is 'one'",
           "whole number");
    refuse("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=n[", RONDO_ERR_BOOTSTRAP,
           "MASTER_ADDR", "rank 1 of 2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_alone, setup),
        cmocka_unit_test_setup(test_torchrun_names, setup),
        cmocka_unit_test_setup(test_who_keeps_the_store, setup),
        cmocka_unit_test_setup(test_open_mpi, setup),
        cmocka_unit_test_setup(test_hydra, setup),
        cmocka_unit_test_setup(test_slurm, setup),
        cmocka_unit_test_setup(test_node_lists, setup),
        cmocka_unit_test_setup(test_explicit, setup),
        cmocka_unit_test_setup(test_wrong_configuration, setup),
        cmocka_unit_test_setup(test_wrong_environment, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
