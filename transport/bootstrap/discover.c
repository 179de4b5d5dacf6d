// SPDX-License-Identifier: MIT
// Rank, world size, local rank and where the store is: explicit configuration first, then the
// variables of launchers, field by field. One table, in this order:
//
// rondo-run and torchrun come first because they are what a user starts inside an allocation or
// under another launcher; Open MPI and Hydra come before Slurm because mpirun inside an allocation
// leaves Slurm's variables of its own daemons in place. Slurm is recognised by a variable of the
// step (srun), since the script of a batch job also has SLURM_PROCID and SLURM_NTASKS and yet runs
// once; Hydra by one that srun's PMI plugins do not set.
#include "transport/bootstrap/bootstrap.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_MAX (1 << 20)

static const struct launcher {
    const char *name, *detect;
    const char *rank, *size, *local_rank, *local_size;
    const char *nodes; // number of hosts
    const char
        *job_id; // equal on all ranks, differs between jobs: for a port that others do not use
} launchers[] = {
    {"rondo-run or torchrun", "RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", NULL,
     NULL},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", NULL, "PMIX_NAMESPACE"},
    {"Hydra", "MPI_LOCALRANKID", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", NULL,
     NULL},
    {"Slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", NULL,
     "SLURM_STEP_NUM_NODES", NULL},
};

static const char *variable(rdi_getenv get, const char *name) {
    const char *value = name != NULL ? get(name) : NULL;
    return value != NULL && value[0] != '\0' ? value : NULL;
}

static const struct launcher *find_launcher(rdi_getenv get) {
    for (size_t i = 0; i < sizeof launchers / sizeof launchers[0]; i++) {
        if (variable(get, launchers[i].detect) != NULL) {
            return &launchers[i];
        }
    }
    return NULL;
}

bool rdi_launcher_order(size_t i, const char **name, const char **detect) {
    if (i >= sizeof launchers / sizeof launchers[0]) {
        return false;
    }
    *name = launchers[i].name;
    *detect = launchers[i].detect;
    return true;
}

// A whole number of low..high; digits only.
static bool parse_int(const char *text, int low, int high, int *out) {
    long v = 0;
    size_t n = strlen(text);
    if (n == 0 || n > 9 || strspn(text, "0123456789") != n) {
        return false;
    }
    v = strtol(text, NULL, 10);
    *out = (int)v;
    return v >= low && v <= high;
}

static rondo_status read_int(rdi_getenv get, const char *name, int low, int high, int *out) {
    const char *text = variable(get, name);
    if (text == NULL) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "the environment variable %s is not set", name);
    }
    if (!parse_int(text, low, high, out)) {
        return rdi_fail(
            RONDO_ERR_BOOTSTRAP,
            "the environment variable %s is '%.40s'; it must be a whole number from %d to %d", name,
            text, low, high);
    }
    return RONDO_OK;
}

// ---- Rank and size ------------------------------------------------------------------------------

// What a field got, and from where.
struct found {
    int value;
    const char *name;
};

static rondo_status find_field(rdi_getenv get, int explicit_value, const char *field,
                               const char *name, int low, struct found *out) {
    *out = (struct found){.value = explicit_value, .name = field};
    if (explicit_value == -1) {
        out->name = name;
        return read_int(get, name, low, RANKS_MAX, &out->value);
    }
    if (explicit_value < low || explicit_value > RANKS_MAX) {
        return rdi_fail(RONDO_ERR_INVALID, "%s is %d; it can be %d..%d, or -1 to find it", field,
                        explicit_value, low, RANKS_MAX);
    }
    return RONDO_OK;
}

static rondo_status find_rank_and_size(const rondo_config *config, rdi_getenv get,
                                       const struct launcher *row, struct rdi_launch *out) {
    struct found rank, size;
    if (row == NULL && config->rank == -1 && config->world_size == -1) {
        out->rank = 0;
        out->size = 1;
        return RONDO_OK;
    }
    // With a rank but no launcher, the names that everybody knows are what is missing.
    const struct launcher *names = row != NULL ? row : &launchers[0];
    rondo_status s =
        find_field(get, config->world_size, "rondo_config.world_size", names->size, 1, &size);
    if (s == RONDO_OK) {
        s = find_field(get, config->rank, "rondo_config.rank", names->rank, 0, &rank);
    }
    if (s != RONDO_OK) {
        return s;
    }
    if (rank.value >= size.value) {
        return rdi_fail(
            RONDO_ERR_BOOTSTRAP,
            "%s is %d but %s is %d; ranks count from 0, so the rank must be below the size",
            rank.name, rank.value, size.name, size.value);
    }
    out->rank = rank.value;
    out->size = size.value;
    return RONDO_OK;
}

// The launcher's local rank counts only if this process is the rank that the launcher means: a
// program may run several ranks as threads and give each its own.
static bool launcher_means_us(rdi_getenv get, const struct launcher *row,
                              const struct rdi_launch *out) {
    const char *rank = variable(get, row->rank), *size = variable(get, row->size);
    int r, n;
    return rank != NULL && size != NULL && parse_int(rank, 0, RANKS_MAX, &r) &&
           parse_int(size, 1, RANKS_MAX, &n) && r == out->rank && n == out->size;
}

static rondo_status find_local(const rondo_config *config, rdi_getenv get,
                               const struct launcher *row, struct rdi_launch *out) {
    int local_size = 0, nodes = 0;
    out->local_rank = -1;
    const char *name = "rondo_config.local_rank";
    bool ours = row != NULL && launcher_means_us(get, row, out);
    if (ours && variable(get, row->local_size) != NULL) {
        rondo_status s = read_int(get, row->local_size, 1, out->size, &local_size);
        if (s != RONDO_OK) {
            return s;
        }
    }
    if (ours && variable(get, row->nodes) != NULL) {
        rondo_status s = read_int(get, row->nodes, 1, RANKS_MAX, &nodes);
        if (s != RONDO_OK) {
            return s;
        }
    }
    if (config->local_rank != -1) {
        out->local_rank = config->local_rank;
    } else if (ours && variable(get, row->local_rank) != NULL) {
        name = row->local_rank;
        rondo_status s = read_int(get, row->local_rank, 0, RANKS_MAX, &out->local_rank);
        if (s != RONDO_OK) {
            return s;
        }
    }
    int below = local_size > 0 ? local_size : out->size;
    if (out->local_rank < -1 || out->local_rank >= below) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "%s is %d, but there are only %d ranks %s", name,
                        out->local_rank, below, local_size > 0 ? "on this host" : "in the job");
    }
    out->single_host = out->size == 1 || local_size == out->size || nodes == 1;
    return RONDO_OK;
}

// ---- Where the store is -------------------------------------------------------------------------

// Only names and addresses that are loopback by what they are; no resolver is asked.
static bool is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    return strcmp(host, "localhost") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127) ||
           (inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6));
}

bool rdi_first_host(const char *list, char *out, size_t cap) {
    size_t prefix = strcspn(list, "[,");
    const char *digits = "";
    size_t digits_len = 0;
    if (list[prefix] == '[') {
        digits = list + prefix + 1;
        digits_len = strspn(digits, "0123456789");
        if (digits_len == 0 || strchr("-,]", digits[digits_len]) == NULL ||
            digits[digits_len] == '\0') {
            return false;
        }
    }
    if (prefix + digits_len == 0 || prefix + digits_len >= cap) {
        return false;
    }
    memcpy(out, list, prefix);
    memcpy(out + prefix, digits, digits_len);
    out[prefix + digits_len] = '\0';
    // "rack[1-2]node[3-4]": what follows the bracket of a name would have to be added to it.
    const char *close = digits_len > 0 ? strchr(digits, ']') : NULL;
    return digits_len == 0 || (close != NULL && (close[1] == '\0' || close[1] == ','));
}

static rondo_status find_host(const rondo_config *config, rdi_getenv get,
                              const struct launcher *row, struct rdi_launch *out) {
    const char *host = config->master_addr, *name = "rondo_config.master_addr";
    if (host == NULL) {
        name = "MASTER_ADDR";
        host = variable(get, name);
    }
    char first[sizeof out->host];
    const char *nodes = variable(get, "SLURM_STEP_NODELIST");
    if (host == NULL && out->single_host) {
        host = "127.0.0.1";
    } else if (host == NULL && row != NULL && strcmp(row->name, "Slurm") == 0 && nodes != NULL &&
               rdi_first_host(nodes, first, sizeof first)) {
        host = first;
    }
    if (host == NULL) {
        return rdi_fail(
            RONDO_ERR_BOOTSTRAP,
            "rank %d of %d does not know where rank 0 is: set the environment variable"
            " MASTER_ADDR to the host of rank 0 and MASTER_PORT to a free port there, or"
            " start the program with rondo-run",
            out->rank, out->size);
    }
    if (host[0] == '\0' || strlen(host) >= sizeof out->host) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "%s is %s; it must be a host name or an address", name,
                        host[0] == '\0' ? "empty" : "too long");
    }
    snprintf(out->host, sizeof out->host, "%s", host);
    out->loopback = is_loopback(host);
    out->single_host = out->single_host || out->loopback;
    return RONDO_OK;
}

// A port that follows from the job's id, so that jobs on one host do not meet; 0 if there is none.
static int port_of_job(rdi_getenv get, const struct launcher *row) {
    const char *job = variable(get, row->job_id);
    uint32_t hash = 2166136261u;
    if (strcmp(row->name, "Slurm") == 0) {
        const char *id = variable(get, "SLURM_JOB_ID"), *step = variable(get, "SLURM_STEP_ID");
        return id == NULL ? 0
                          : 20000 + (int)((strtoul(id, NULL, 10) * 7 +
                                           (step != NULL ? strtoul(step, NULL, 10) : 0)) %
                                          10000);
    }
    if (job == NULL) {
        return 0;
    }
    for (; *job != '\0'; job++) {
        hash = (hash ^ (uint8_t)*job) * 16777619u;
    }
    return 20000 + (int)(hash % 10000);
}

static rondo_status find_port(const rondo_config *config, rdi_getenv get,
                              const struct launcher *row, struct rdi_launch *out) {
    if (config->master_port != -1) {
        if (config->master_port < 1 || config->master_port > 65535) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "rondo_config.master_port is %d; it can be 1..65535, or -1 to find it",
                            config->master_port);
        }
        out->port = config->master_port;
        return RONDO_OK;
    }
    if (variable(get, "MASTER_PORT") == NULL) {
        int port = row != NULL ? port_of_job(get, row) : 0;
        out->port = port > 0 ? port : RDI_MASTER_PORT_DEFAULT;
        return RONDO_OK;
    }
    rondo_status s = read_int(get, "MASTER_PORT", 1, 65535, &out->port);
    const char *agent = variable(get, "TORCHELASTIC_USE_AGENT_STORE");
    if (s == RONDO_OK && agent != NULL && strcmp(agent, "True") == 0 && !out->launcher_store) {
        // torchrun's agent keeps PyTorch's own store at that port, so ours is beside it.
        out->port += out->port < 65535 ? 1 : -1;
    }
    return s;
}

rondo_status rdi_discover(const rondo_config *config, rdi_getenv get, struct rdi_launch *out) {
    struct rdi_launch found = {.rank = 0};
    const struct launcher *row = find_launcher(get);
    if (row == NULL && variable(get, "WORLD_SIZE") != NULL) {
        row = &launchers[0]; // its rank is missing, or given by the configuration
    }
    found.launcher = row != NULL ? row->name : "no launcher";
    rondo_status s = find_rank_and_size(config, get, row, &found);
    if (s == RONDO_OK) {
        s = find_local(config, get, row, &found);
    }
    if (s != RONDO_OK) {
        return s;
    }
    if (found.size > 1 && config->store_ops == NULL) {
        const char *store = variable(get, RDI_ENV_STORE);
        if (store != NULL && strcmp(store, "launcher") != 0) {
            return rdi_fail(RONDO_ERR_BOOTSTRAP,
                            "the environment variable " RDI_ENV_STORE
                            " is '%.40s'; it can be 'launcher'"
                            " (who serves the store then) or unset",
                            store);
        }
        found.launcher_store = store != NULL && config->master_addr == NULL &&
                               config->master_port == -1;
        s = find_host(config, get, row, &found);
        if (s == RONDO_OK) {
            s = find_port(config, get, row, &found);
        }
        if (s != RONDO_OK) {
            return s;
        }
    }
    *out = found;
    return RONDO_OK;
}
