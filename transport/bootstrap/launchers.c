// SPDX-License-Identifier: MIT
// Launchers, by the variables that they give to their ranks; the innermost first.
//
// What a user starts inside an allocation, or under another launcher, inherits the variables of what is around it, so
// order decides which launcher started this very process:
// - rondo-run and torchrun are started by everything else;
// - mpirun (Open MPI, Hydra) is started in the jobs of batch systems and leaves the variables of their steps in place;
// - Flux can be started by Slurm, jsrun or PMIx's prun, and takes their variables away only from its first program;
// - a PMIx launcher is known by its namespace; that of Slurm's own plugin belongs to Slurm's row;
// - Slurm is known by a variable of the step (srun): the script of a batch job also has SLURM_PROCID and SLURM_NTASKS,
//   and yet runs once. So it is with PBS, whose script is task 1;
// - Kubernetes is around everything that runs in a pod.
#include "transport/bootstrap/launchers.h"

#include <stdio.h>
#include <string.h>

const struct rdi_launcher rdi_launchers[] = {
    {.name = "rondo-run or torchrun",
     .detect = "RANK",
     .rank = "RANK",
     .size = "WORLD_SIZE",
     .local_rank = "LOCAL_RANK",
     .local_size = "LOCAL_WORLD_SIZE"},
    {.name = "Open MPI",
     .detect = "OMPI_COMM_WORLD_RANK",
     .offers = RDI_VIA_PMIX,
     .rank = "OMPI_COMM_WORLD_RANK",
     .size = "OMPI_COMM_WORLD_SIZE",
     .local_rank = "OMPI_COMM_WORLD_LOCAL_RANK",
     .local_size = "OMPI_COMM_WORLD_LOCAL_SIZE",
     .job_id = "PMIX_NAMESPACE"},
    {.name = "Hydra",
     .detect = "MPI_LOCALRANKID", // which srun's PMI plugins do not set
     .offers = RDI_VIA_PMIX | RDI_VIA_PMI,
     .rank = "PMI_RANK",
     .size = "PMI_SIZE",
     .local_rank = "MPI_LOCALRANKID",
     .local_size = "MPI_LOCALNRANKS"},
    {.name = "Flux",
     .detect = "FLUX_TASK_RANK",
     .offers = RDI_VIA_PMI,
     .rank = "FLUX_TASK_RANK",
     .size = "FLUX_JOB_SIZE",
     .local_rank = "FLUX_TASK_LOCAL_ID",
     .nodes = "FLUX_JOB_NNODES",
     .job_id = "FLUX_JOB_ID",
     .remedy =
         "flux run -opmi=simple, its default, lets ranks on several hosts meet by themselves"},
    {.name = "jsrun",
     .detect = "JSM_NAMESPACE_RANK",
     .offers = RDI_VIA_PMIX,
     .rank = "JSM_NAMESPACE_RANK",
     .size = "JSM_NAMESPACE_SIZE",
     .local_rank = "JSM_NAMESPACE_LOCAL_RANK",
     .local_size = "JSM_NAMESPACE_LOCAL_SIZE",
     .job_id = "LSB_JOBID", // that of all elements of an array
     .step_id = "PMIX_NAMESPACE"},
    {.name = "PMIx",
     .detect = "PMIX_RANK",
     .also = "PMIX_NAMESPACE",
     .except_for = "PMIX_NAMESPACE",
     .except = "slurm.pmix.*",
     .rank = "PMIX_RANK",
     .size = "PMIX_JOB_SIZE",
     .local_rank = "PMIX_LOCAL_RANK",
     .local_size = "PMIX_LOCAL_SIZE",
     .offers = RDI_VIA_PMIX,
     .job_id = "PMIX_NAMESPACE",
     .remedy = "all but the rank comes from the launcher's server, by libpmix.so.2 (Debian:"
               " libpmix2); else give all ranks RANK, WORLD_SIZE and MASTER_ADDR"},
    {.name = "Slurm",
     .detect = "SLURM_STEP_NUM_TASKS",
     .offers = RDI_VIA_PMIX | RDI_VIA_PMI | RDI_VIA_MUNGE,
     .rank = "SLURM_PROCID",
     .size = "SLURM_STEP_NUM_TASKS",
     .local_rank = "SLURM_LOCALID",
     .nodes = "SLURM_STEP_NUM_NODES",
     .tasks = "SLURM_STEP_TASKS_PER_NODE",
     .node = "SLURM_NODEID",
     .hosts = "SLURM_STEP_NODELIST",
     .form = RDI_HOSTS_LIST,
     .job_id = "SLURM_JOB_ID",
     .step_id = "SLURM_STEP_ID",
     .remedy = "with srun --mpi=pmix or --mpi=pmi2 rank 0 tells the others where it is"},
    {.name = "PALS",
     .detect = "PALS_RANKID",
     .offers = RDI_VIA_PMI,
     .rank = "PALS_RANKID",
     .size = "PMI_SIZE",
     .local_rank = "PALS_LOCAL_RANKID",
     .local_size = "PALS_LOCAL_SIZE",
     .job_id = "PALS_APID"},
    {.name = "PMI",
     .detect = "PMI_RANK",
     .also = "PMI_SIZE",
     .offers = RDI_VIA_PMI,
     .rank = "PMI_RANK",
     .size = "PMI_SIZE",
     .local_rank = "PMI_LOCAL_RANK",
     .local_size = "PMI_LOCAL_SIZE",
     .job_id = "PMI_JOBID"},
    {.name = "LSF's blaunch",
     .detect = "LSF_PM_TASKID",
     .also = "LSB_MCPU_HOSTS",
     .rank = "LSF_PM_TASKID",
     .first = 1,
     .hosts = "LSB_MCPU_HOSTS",
     .form = RDI_HOSTS_SLOTS,
     .job_id = "LSB_JOBID",
     .step_id = "LSB_JOBINDEX"},
    {.name = "PBS's pbsdsh",
     .detect = "PBS_VNODENUM",
     .also = "PBS_TASKNUM",
     .except_for = "PBS_TASKNUM",
     .except = "1",
     .rank = "PBS_VNODENUM",
     .size = "PBS_NP",
     .hosts = "PBS_NODEFILE",
     .form = RDI_HOSTS_LINES,
     .job_id = "PBS_JOBID",
     .remedy = "PBS_NODEFILE is on the first host only: start ranks on several hosts by mpirun, or"
               " give them PBS_NP and MASTER_ADDR"},
    {.name = "Kubernetes",
     .detect = "JOB_COMPLETION_INDEX",
     .rank = "JOB_COMPLETION_INDEX",
     .size = "WORLD_SIZE",
     .remedy = "an indexed Job has to set, in the env of its containers, WORLD_SIZE to its"
               " completions and MASTER_ADDR to its pod 0 by a headless service (JOB-0.SERVICE);"
               " WORLD_SIZE 1 where each pod is a job of its own"},
};
const size_t rdi_launcher_count = sizeof rdi_launchers / sizeof rdi_launchers[0];

const char *rdi_variable(rdi_getenv get, const char *name) {
    const char *value = name != NULL ? get(name) : NULL;
    return value != NULL && value[0] != '\0' ? value : NULL;
}

// `pattern` may end with '*'.
static bool matches(const char *value, const char *pattern) {
    size_t n = strcspn(pattern, "*");
    return strncmp(value, pattern, n) == 0 && (pattern[n] == '*' || value[n] == '\0');
}

static bool is_set(rdi_getenv get, const struct rdi_launcher *row) {
    const char *except = rdi_variable(get, row->except_for);
    return rdi_variable(get, row->detect) != NULL &&
           (row->also == NULL || rdi_variable(get, row->also) != NULL) &&
           (except == NULL || !matches(except, row->except));
}

const struct rdi_launcher *rdi_launcher_find(rdi_getenv get) {
    for (size_t i = 0; i < rdi_launcher_count; i++) {
        if (is_set(get, &rdi_launchers[i])) {
            return &rdi_launchers[i];
        }
    }
    // Of those that everybody knows the rank is missing, or given by the configuration.
    return rdi_variable(get, rdi_launchers[0].size) != NULL ? &rdi_launchers[0] : NULL;
}

bool rdi_launcher_tell(size_t i, rdi_getenv get, const char **name, char *text, size_t cap) {
    if (i >= rdi_launcher_count) {
        return false;
    }
    const struct rdi_launcher *row = &rdi_launchers[i], *counts = rdi_launcher_find(get);
    *name = row->name;
    if (row == counts) {
        snprintf(text, cap, "%s is set: counts",
                 rdi_variable(get, row->detect) != NULL ? row->detect : row->size);
    } else if (is_set(get, row)) {
        snprintf(text, cap, "%s is set, but %s is inside of it", row->detect, counts->name);
    } else if (rdi_variable(get, row->detect) == NULL) {
        snprintf(text, cap, "%s is not set", row->detect);
    } else if (row->also != NULL && rdi_variable(get, row->also) == NULL) {
        snprintf(text, cap, "%s is set, but %s is not", row->detect, row->also);
    } else {
        snprintf(text, cap, "%s is set, but %s is %s", row->detect, row->except_for, row->except);
    }
    return true;
}
