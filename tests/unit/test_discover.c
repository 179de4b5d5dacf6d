// SPDX-License-Identifier: MIT
// Rank, size and store from fake environments of every launcher, right and wrong ones.
#include "transport/bootstrap/bootstrap.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

// ---- A fake environment: "NAME=value NAME=value" ------------------------------------------------

static char environment[48][2][128];

static char *fake_getenv(const char *name) {
    for (size_t i = 0; i < 48 && environment[i][0][0] != '\0'; i++) {
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

// A value with blanks.
static void add_variable(const char *name, const char *value) {
    size_t i = 0;
    while (environment[i][0][0] != '\0') {
        i++;
    }
    snprintf(environment[i][0], sizeof environment[i][0], "%s", name);
    snprintf(environment[i][1], sizeof environment[i][1], "%s", value);
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

static void find_two(const char *text, const char *name, const char *value) {
    set_environment(text);
    add_variable(name, value);
    memset(&l, 0x5a, sizeof l);
    if (rdi_discover(&config, fake_getenv, &l) != RONDO_OK) {
        fail_msg("%s, %s=%s: %s", text, name, value, rondo_last_error());
    }
}

static void refuse_two(const char *text, const char *name, const char *value, const char *word1,
                       const char *word2) {
    set_environment(text);
    add_variable(name, value);
    assert_int_equal(rdi_discover(&config, fake_getenv, &l), RONDO_ERR_BOOTSTRAP);
    if (strstr(rondo_last_error(), word1) == NULL || strstr(rondo_last_error(), word2) == NULL) {
        fail_msg("'%s' does not have '%s' and '%s'", rondo_last_error(), word1, word2);
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

static void expect_local(int local_rank, int local_size) {
    assert_int_equal(l.local_rank, local_rank);
    assert_int_equal(l.local_size, local_size);
}

static void test_slurm_local_size(void **state) {
    (void)state;
    const char *uneven =
        "SLURM_PROCID=4 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=0 SLURM_STEP_NUM_NODES=4"
        " SLURM_STEP_NODELIST=r[1-2]n[3-4] SLURM_STEP_TASKS_PER_NODE=4,2,1(x2)"
        " SLURM_JOB_ID=1 SLURM_NODEID=";
    static const int sizes[] = {4, 2, 1, 1, 0}; // the last node is none
    for (int node = 0; node < 5; node++) {
        char text[512];
        snprintf(text, sizeof text, "%s%d", uneven, node);
        find(text);
        expect_local(0, sizes[node]);
        assert_string_equal(l.host, "r1n3");
        assert_string_equal(l.host_from, "SLURM_STEP_NODELIST");
    }
    // Not needed, and therefore no error.
    find("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=n[1-2] SLURM_NODEID=0"
         " SLURM_STEP_TASKS_PER_NODE=1(x");
    expect_local(-1, 0);
    refuse("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=2 SLURM_NODEID=0"
           " SLURM_STEP_TASKS_PER_NODE=2(x2) SLURM_STEP_NODELIST=n[1-2]",
           RONDO_ERR_BOOTSTRAP, "SLURM_LOCALID is 2", "2 ranks on this host");
    find("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_NODEID=0 SLURM_STEP_TASKS_PER_NODE=2"
         " SLURM_STEP_NODELIST=n1");
    assert_true(l.single_host);
}

static void test_flux(void **state) {
    (void)state;
    const char *task = "FLUX_TASK_RANK=3 FLUX_JOB_SIZE=4 FLUX_TASK_LOCAL_ID=1 FLUX_JOB_ID=f7mZ"
                       " FLUX_JOB_NNODES=2";
    char text[512];
    snprintf(text, sizeof text, "%s MASTER_ADDR=h", task);
    find(text);
    assert_in_range(l.port, 20000, 29999);
    expect(3, 4, 1, false, "h", l.port);
    refuse(task, RONDO_ERR_BOOTSTRAP, "MASTER_ADDR", "rondo-run");
    // Flux's own first program was started by Slurm.
    find(
        "FLUX_TASK_RANK=1 FLUX_JOB_SIZE=2 FLUX_JOB_NNODES=1 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=4");
    expect(1, 2, -1, true, "127.0.0.1", RDI_MASTER_PORT_DEFAULT);
    assert_string_equal(l.launcher, "Flux");
}

static void test_lsf(void **state) {
    (void)state;
    find("JSM_NAMESPACE_RANK=1 JSM_NAMESPACE_SIZE=2 JSM_NAMESPACE_LOCAL_RANK=1"
         " JSM_NAMESPACE_LOCAL_SIZE=2 LSB_JOBID=7");
    expect(1, 2, 1, true, "127.0.0.1", l.port);
    assert_string_equal(l.launcher, "jsrun");
    find_two("LSF_PM_TASKID=4 LSB_JOBID=9", "LSB_MCPU_HOSTS", "a 2 b 3");
    expect(3, 5, 1, false, "a", l.port);
    expect_local(1, 3);
    assert_string_equal(l.host_from, "LSB_MCPU_HOSTS");
    find_two("LSF_PM_TASKID=1", "LSB_MCPU_HOSTS", "a 2");
    expect(0, 2, 0, true, "127.0.0.1", RDI_MASTER_PORT_DEFAULT);
    refuse_two("LSF_PM_TASKID=0", "LSB_MCPU_HOSTS", "a 2", "LSF_PM_TASKID is '0'", "from 1");
    refuse_two("LSF_PM_TASKID=3", "LSB_MCPU_HOSTS", "a 2", "LSF_PM_TASKID is 3",
               "LSB_MCPU_HOSTS is 2");
    refuse_two("LSF_PM_TASKID=1", "LSB_MCPU_HOSTS", "a", "LSB_MCPU_HOSTS", "character 2");
}

static void test_pbs(void **state) {
    (void)state;
    char path[] = "/tmp/rondo-nodefile-XXXXXX", text[256];
    int fd = mkstemp(path);
    static const char nodes[] = "n1.lab\nn1.lab\nn2.lab\n";
    assert_int_equal(write(fd, nodes, sizeof nodes - 1), sizeof nodes - 1);
    close(fd);
    const char *task = "PBS_VNODENUM=2 PBS_TASKNUM=5 PBS_JOBID=12.server";
    snprintf(text, sizeof text, "%s PBS_NODEFILE=%s", task, path);
    find(text);
    expect(2, 3, 0, false, "n1.lab", l.port);
    expect_local(0, 1);
    assert_string_equal(l.launcher, "PBS's pbsdsh");
    remove(path);
    // On the other hosts there is no such file.
    refuse(text, RONDO_ERR_BOOTSTRAP, "PBS_NP is not set", "on the first host only");
    snprintf(text, sizeof text, "%s PBS_NODEFILE=/dev/zero", task);
    refuse(text, RONDO_ERR_BOOTSTRAP, "PBS_NP is not set", "mpirun");
    snprintf(text, sizeof text, "%s PBS_NODEFILE=%s PBS_NP=4", task, path);
    refuse(text, RONDO_ERR_BOOTSTRAP, "MASTER_ADDR", "mpirun");
    snprintf(text, sizeof text, "%s PBS_NP=4 MASTER_ADDR=n1", task);
    find(text);
    expect(2, 4, -1, false, "n1", l.port);
    // The job's script is one process.
    find("PBS_VNODENUM=0 PBS_TASKNUM=1 PBS_NP=4");
    expect(0, 1, -1, true, "", 0);
}

static void test_other_launchers(void **state) {
    (void)state;
    find("PALS_RANKID=1 PMI_RANK=1 PMI_SIZE=2 PALS_LOCAL_RANKID=1 PALS_LOCAL_SIZE=2 PALS_APID=u1");
    expect(1, 2, 1, true, "127.0.0.1", l.port);
    assert_string_equal(l.launcher, "PALS");
    find("PMI_RANK=1 PMI_SIZE=2 MASTER_ADDR=a");
    expect(1, 2, -1, false, "a", RDI_MASTER_PORT_DEFAULT);
    assert_string_equal(l.launcher, "PMI");
    find("PMI_RANK=1");
    assert_int_equal(l.size, 1);
}

static void test_pmix(void **state) {
    (void)state;
    find(
        "PMIX_RANK=1 PMIX_NAMESPACE=prterun-7@1 PMIX_JOB_SIZE=2 PMIX_LOCAL_RANK=1 PMIX_LOCAL_SIZE=2"
        " SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=4"); // prterun, started by srun
    expect(1, 2, 1, true, "127.0.0.1", l.port);
    assert_string_equal(l.launcher, "PMIx");
    assert_int_equal(l.offered, RDI_VIA_PMIX);
    refuse("PMIX_RANK=1 PMIX_NAMESPACE=prterun-7@1", RONDO_ERR_BOOTSTRAP, "PMIX_JOB_SIZE",
           "libpmix.so.2");
    find("PMIX_RANK=3 PMIX_NAMESPACE=slurm.pmix.12.0 SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4"
         " SLURM_STEP_NODELIST=n[1-2]"); // srun --mpi=pmix
    expect(3, 4, -1, false, "n1", RDI_MASTER_PORT_DEFAULT);
    assert_string_equal(l.launcher, "Slurm");
    assert_int_equal(l.offered, RDI_VIA_PMIX | RDI_VIA_MUNGE);
}

// Whoever is to be asked has to be known, and on one host nobody needs it.
static void test_munge(void **state) {
    (void)state;
    const char *step = "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2";
    char text[512];
    snprintf(text, sizeof text, "%s SLURM_STEP_NODELIST=n[1-2]", step);
    find(text);
    assert_int_equal(l.offered, RDI_VIA_MUNGE);
    assert_string_equal(l.host, "n1");
    snprintf(text, sizeof text, "%s SLURM_STEP_NODELIST=n[1-2] MASTER_ADDR=n1", step);
    find(text);
    assert_int_equal(l.offered, RDI_VIA_NONE);
    snprintf(text, sizeof text, "%s SLURM_STEP_NODELIST=n1 SLURM_STEP_NUM_NODES=1", step);
    find(text);
    assert_int_equal(l.offered, RDI_VIA_NONE);
    refuse(step, RONDO_ERR_BOOTSTRAP, "MASTER_ADDR", "--mpi=pmix");
}

// Only what the launcher that counts gives to this very rank, and only where nobody says the address.
static void test_offers(void **state) {
    (void)state;
    const char *hydra = "PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=1 PMI_FD=8";
    char text[512];
    find(hydra); // on two hosts, and no MASTER_ADDR
    expect(1, 2, 0, false, "", RDI_MASTER_PORT_DEFAULT);
    assert_int_equal(l.offered, RDI_VIA_PMI);
    assert_int_equal(l.via, RDI_VIA_NONE);
    assert_false(l.port_given);
    snprintf(text, sizeof text, "%s MASTER_PORT=1234", hydra);
    find(text);
    assert_true(l.port_given && l.offered == RDI_VIA_PMI);
    snprintf(text, sizeof text, "%s MASTER_ADDR=h", hydra);
    find(text);
    assert_int_equal(l.offered, RDI_VIA_NONE);
    config.rank = 0; // a thread, of which this process has several
    refuse(hydra, RONDO_ERR_BOOTSTRAP, "MASTER_ADDR", "rank 0 of 2");
    config.rank = -1;
    // torchrun as a rank of srun or mpirun.
    find("RANK=1 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 PMI_RANK=1 PMI_SIZE=2 PMI_FD=8 PMIX_RANK=1"
         " PMIX_NAMESPACE=x");
    assert_int_equal(l.offered, RDI_VIA_NONE);
    // mpirun inside of a rank of another launcher: PMI is not for us.
    find("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=2 PMIX_RANK=1"
         " PMIX_NAMESPACE=7 PMI_RANK=1 PMI_SIZE=2 PMI_FD=8");
    assert_int_equal(l.offered, RDI_VIA_PMIX);
    find("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2 PMI_RANK=1 PMI_SIZE=2 "
         "PMI_FD=8");
    expect(1, 2, -1, false, "", RDI_MASTER_PORT_DEFAULT);
    assert_int_equal(l.offered, RDI_VIA_PMI);
    find("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 PMI_RANK=0 PMI_SIZE=2 "
         "PMI_FD=8");
    assert_int_equal(l.offered, RDI_VIA_NONE); // another rank's
}

static void test_kubernetes(void **state) {
    (void)state;
    find("JOB_COMPLETION_INDEX=2 WORLD_SIZE=3 MASTER_ADDR=train-0.train MASTER_PORT=7777");
    expect(2, 3, -1, false, "train-0.train", 7777);
    assert_string_equal(l.launcher, "Kubernetes");
    refuse("JOB_COMPLETION_INDEX=2", RONDO_ERR_BOOTSTRAP, "WORLD_SIZE is not set",
           "an indexed Job has to set");
    refuse("JOB_COMPLETION_INDEX=2 WORLD_SIZE=3", RONDO_ERR_BOOTSTRAP, "MASTER_ADDR",
           "headless service (JOB-0.SERVICE)");
    find("JOB_COMPLETION_INDEX=2 RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=2"); // rondo-run in a pod
    expect(0, 2, -1, true, "127.0.0.1", RDI_MASTER_PORT_DEFAULT);
}

// Each launcher around each other: the order of the table, which is that of the man page.
static void test_order(void **state) {
    (void)state;
    static const char *const environments[] = {
        "RANK=0 WORLD_SIZE=2",
        "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2",
        "MPI_LOCALRANKID=0 PMI_RANK=0 PMI_SIZE=2",
        "FLUX_TASK_RANK=0 FLUX_JOB_SIZE=2",
        "JSM_NAMESPACE_RANK=0 JSM_NAMESPACE_SIZE=2",
        "PMIX_RANK=0 PMIX_NAMESPACE=prterun-7@1 PMIX_JOB_SIZE=2",
        "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2",
        "PALS_RANKID=0 PMI_SIZE=2",
        "PMI_RANK=0 PMI_SIZE=2",
        "LSF_PM_TASKID=1 LSB_MCPU_HOSTS=a",
        "PBS_VNODENUM=0 PBS_TASKNUM=2 PBS_NP=2",
        "JOB_COMPLETION_INDEX=0",
    };
    char text[2048] = "";
    const char *name;
    char why[160];
    size_t n = sizeof environments / sizeof environments[0];
    assert_false(rdi_launcher_tell(n, fake_getenv, &name, why, sizeof why));
    for (size_t i = n; i-- > 0;) {
        // The last is innermost only until the next comes.
        char more[2048];
        snprintf(more, sizeof more, "%s %s", environments[i], text);
        snprintf(text, sizeof text, "%s", more);
        set_environment(text);
        for (size_t k = 0; k < n; k++) {
            assert_true(rdi_launcher_tell(k, fake_getenv, &name, why, sizeof why));
            assert_int_equal(strstr(why, ": counts") != NULL, k == i);
            assert_int_equal(strstr(why, "is inside of it") != NULL, k > i);
            assert_int_equal(strstr(why, "not") != NULL && k < i, k < i);
        }
    }
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

// ---- The job's name ------------------------------------------------------------------------------

static uint64_t id_of(const char *text) {
    find(text);
    return l.id;
}

// Ranks of other jobs that have the same address and port, and the same user's key, are kept out by it.
static void test_id(void **state) {
    (void)state;
    const char *slurm =
        "SLURM_STEP_NUM_TASKS=2 SLURM_NODEID=0 SLURM_STEP_NODELIST=a,b SLURM_JOB_ID=";
    char text[3][200];
    snprintf(text[0], sizeof text[0], "%s7 SLURM_STEP_ID=1 SLURM_PROCID=0", slurm);
    snprintf(text[1], sizeof text[1], "%s7 SLURM_STEP_ID=1 SLURM_PROCID=1", slurm);
    uint64_t id = id_of(text[0]);
    assert_true(id != 0 && id == id_of(text[1]));
    snprintf(text[1], sizeof text[1], "%s7 SLURM_STEP_ID=2 SLURM_PROCID=0", slurm);
    snprintf(text[2], sizeof text[2], "%s71 SLURM_PROCID=0", slurm);
    assert_true(id != id_of(text[1]) && id != id_of(text[2]) && id_of(text[1]) != id_of(text[2]));
    // The elements of an array of LSF have one job id; namespaces are names.
    const char *lsf = "LSF_PM_TASKID=1 LSB_JOBID=7";
    const char *jsrun = "JSM_NAMESPACE_RANK=0 JSM_NAMESPACE_SIZE=2 LSB_JOBID=7 MASTER_ADDR=a";
    const struct {
        const char *text, *one, *other;
    } alike[] = {{lsf, "LSB_JOBINDEX=1", "LSB_JOBINDEX=2"},
                 {jsrun, "PMIX_NAMESPACE=3", "PMIX_NAMESPACE=4"},
                 {jsrun, "PMIX_NAMESPACE=jsm-x.1", "PMIX_NAMESPACE=jsm-x.2"}};
    for (size_t i = 0; i < sizeof alike / sizeof alike[0]; i++) {
        uint64_t ids[3];
        int ports[3];
        const char *const more[] = {"LSF_X=1", alike[i].one, alike[i].other};
        for (size_t k = 0; k < 3; k++) {
            snprintf(text[0], sizeof text[0], "%s %s", alike[i].text, more[k]);
            find_two(text[0], "LSB_MCPU_HOSTS", "a 2");
            ids[k] = l.id;
            ports[k] = l.port;
        }
        assert_true(ids[0] != 0 && ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
        assert_int_not_equal(ports[1], ports[2]);
    }
    // A rank that the launcher does not mean, and launchers that do not tell.
    config.rank = 1;
    assert_int_equal(id_of(text[0]), 0);
    config.rank = -1;
    assert_int_equal(id_of("RANK=1 WORLD_SIZE=2 MASTER_ADDR=a SLURM_JOB_ID=7"), 0);
    assert_int_equal(id_of(""), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_alone, setup),
        cmocka_unit_test_setup(test_torchrun_names, setup),
        cmocka_unit_test_setup(test_who_keeps_the_store, setup),
        cmocka_unit_test_setup(test_open_mpi, setup),
        cmocka_unit_test_setup(test_hydra, setup),
        cmocka_unit_test_setup(test_slurm, setup),
        cmocka_unit_test_setup(test_slurm_local_size, setup),
        cmocka_unit_test_setup(test_flux, setup),
        cmocka_unit_test_setup(test_lsf, setup),
        cmocka_unit_test_setup(test_pbs, setup),
        cmocka_unit_test_setup(test_other_launchers, setup),
        cmocka_unit_test_setup(test_pmix, setup),
        cmocka_unit_test_setup(test_munge, setup),
        cmocka_unit_test_setup(test_offers, setup),
        cmocka_unit_test_setup(test_kubernetes, setup),
        cmocka_unit_test_setup(test_order, setup),
        cmocka_unit_test_setup(test_explicit, setup),
        cmocka_unit_test_setup(test_wrong_configuration, setup),
        cmocka_unit_test_setup(test_wrong_environment, setup),
        cmocka_unit_test_setup(test_id, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
