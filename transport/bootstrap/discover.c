// SPDX-License-Identifier: MIT
// Rank, world size, local rank and local size: explicit configuration first, then the variables of launchers
// (launchers.c), field by field. Where the store is: where.c.
#include "transport/bootstrap/launchers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODEFILE_MAX (16 << 20) // bytes

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

rondo_status rdi_read_int(rdi_getenv get, const char *name, int low, int high, int *out) {
    const char *text = rdi_variable(get, name);
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

// ---- Lists of hosts ----------------------------------------------------------------------------

rondo_status rdi_with_remedy(const struct rdi_search *f, rondo_status s) {
    return f->row != NULL && f->row->remedy != NULL
               ? rdi_fail(s, "%s (%s: %s)", rondo_last_error(), f->row->name, f->row->remedy)
               : s;
}

// The file's text, from malloc. NULL: there is none, or it is none of PBS's.
static char *read_nodefile(const char *path) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool fits = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < NODEFILE_MAX;
    char *text = fits ? calloc(1, (size_t)st.st_size + 1) : NULL;
    ssize_t n = 0;
    for (off_t done = 0; text != NULL && done < st.st_size && n >= 0; done += n) {
        n = pread(fd, text + done, (size_t)(st.st_size - done), done);
        if (n == 0) {
            break;
        }
        if (n < 0 && errno == EINTR) {
            n = 0;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        free(text);
        text = NULL;
    }
    return text;
}

static void find_hosts(struct rdi_search *f) {
    const char *value = f->row != NULL ? rdi_variable(f->get, f->row->hosts) : NULL;
    if (value != NULL && f->row->form == RDI_HOSTS_LINES) {
        f->file = read_nodefile(value);
        value = f->file;
    }
    f->hosts = value;
}

// ---- Rank and size ------------------------------------------------------------------------------

// What a field got, and from where.
struct found {
    int value;
    const char *name;
};

static rondo_status check_field(int value, const char *field, int low) {
    return value >= low && value <= RDI_RANKS_MAX
               ? RONDO_OK
               : rdi_fail(RONDO_ERR_INVALID, "%s is %d; it can be %d..%d, or -1 to find it", field,
                          value, low, RDI_RANKS_MAX);
}

static rondo_status find_rank(const struct rdi_search *f, const struct rdi_launcher *names,
                              struct found *out) {
    *out = (struct found){f->config->rank, "rondo_config.rank"};
    if (out->value != -1) {
        return check_field(out->value, out->name, 0);
    }
    out->name = names->rank;
    rondo_status s = rdi_read_int(f->get, names->rank, names->first, RDI_RANKS_MAX, &out->value);
    out->value -= names->first;
    return s;
}

static rondo_status find_size(const struct rdi_search *f, const struct rdi_launcher *names,
                              struct found *out) {
    *out = (struct found){f->config->world_size, "rondo_config.world_size"};
    if (out->value != -1) {
        return check_field(out->value, out->name, 1);
    }
    out->name = names->size;
    if (f->hosts != NULL && names->form != RDI_HOSTS_LIST &&
        rdi_variable(f->get, names->size) == NULL) {
        size_t slots = 0;
        rondo_status s = rdi_hosts_count(names->form, f->hosts, &slots);
        out->name = names->hosts;
        out->value = (int)slots;
        return s == RONDO_OK ? s
                             : rdi_fail(RONDO_ERR_BOOTSTRAP, "the list of hosts of %s: %s",
                                        names->hosts, rondo_last_error());
    }
    rondo_status s = rdi_read_int(f->get, names->size != NULL ? names->size : names->hosts, 1,
                                  RDI_RANKS_MAX, &out->value);
    return s == RONDO_OK ? s : rdi_with_remedy(f, s);
}

static rondo_status find_rank_and_size(const struct rdi_search *f, struct rdi_launch *out) {
    struct found rank, size;
    if (f->row == NULL && f->config->rank == -1 && f->config->world_size == -1) {
        out->rank = 0;
        out->size = 1;
        return RONDO_OK;
    }
    // With a rank but no launcher, the names that everybody knows are what is missing.
    const struct rdi_launcher *names = f->row != NULL ? f->row : &rdi_launchers[0];
    rondo_status s = find_size(f, names, &size);
    if (s == RONDO_OK) {
        s = find_rank(f, names, &rank);
    }
    if (s != RONDO_OK) {
        return s;
    }
    if (rank.value >= size.value) {
        return rdi_fail(
            RONDO_ERR_BOOTSTRAP,
            "%s is %d but %s is %d; ranks count from %d, so the rank must be %s the size",
            rank.name, rank.value + names->first, size.name, size.value, names->first,
            names->first == 0 ? "below" : "at most");
    }
    out->rank = rank.value;
    out->size = size.value;
    return RONDO_OK;
}

// The launcher's local rank counts only if this process is the rank that the launcher means: a
// program may run several ranks as threads and give each its own.
static bool launcher_means_us(const struct rdi_search *f, const struct rdi_launch *out) {
    struct rdi_search launcher = *f;
    launcher.config = &(const rondo_config)RONDO_CONFIG_INIT;
    struct rdi_launch l = {.rank = -1};
    return f->row != NULL && find_rank_and_size(&launcher, &l) == RONDO_OK && l.rank == out->rank &&
           l.size == out->size;
}

// ---- Local rank and size ------------------------------------------------------------------------

// A number that may be missing, which is then left as it is.
static rondo_status read_optional(rdi_getenv get, const char *name, int low, int high, int *out) {
    return rdi_variable(get, name) != NULL ? rdi_read_int(get, name, low, high, out) : RONDO_OK;
}

// How many ranks are on this host, by Slurm's list. Something odd there is no reason to fail: it is not needed.
static void count_tasks(const struct rdi_search *f, struct rdi_launch *out) {
    int node = -1, tasks = 0;
    const char *list = rdi_variable(f->get, f->row->tasks);
    if (list != NULL && read_optional(f->get, f->row->node, 0, RDI_RANKS_MAX, &node) == RONDO_OK &&
        node >= 0 && rdi_tasks_on_node(list, (size_t)node, &tasks) == RONDO_OK && tasks > 0 &&
        tasks <= out->size) {
        out->local_size = tasks;
    }
}

static void count_slots(const struct rdi_search *f, struct rdi_launch *out) {
    size_t before, all;
    if (rdi_hosts_beside(f->row->form, f->hosts, (size_t)out->rank, &before, &all) == RONDO_OK &&
        all <= (size_t)out->size) {
        out->local_rank = (int)before;
        out->local_size = (int)all;
    }
}

static rondo_status ask_launcher(const struct rdi_search *f, struct rdi_launch *out, int *nodes) {
    const struct rdi_launcher *row = f->row;
    if (row->tasks != NULL) {
        count_tasks(f, out);
    } else if (f->hosts != NULL && row->form != RDI_HOSTS_LIST) {
        count_slots(f, out);
    }
    rondo_status s = read_optional(f->get, row->local_size, 1, out->size, &out->local_size);
    if (s == RONDO_OK) {
        s = read_optional(f->get, row->nodes, 1, RDI_RANKS_MAX, nodes);
    }
    return s == RONDO_OK && f->config->local_rank == -1
               ? read_optional(f->get, row->local_rank, 0, RDI_RANKS_MAX, &out->local_rank)
               : s;
}

static rondo_status find_local(const struct rdi_search *f, struct rdi_launch *out) {
    int nodes = 0;
    const bool ours = f->ours, given = f->config->local_rank != -1;
    out->local_rank = -1;
    rondo_status s = ours ? ask_launcher(f, out, &nodes) : RONDO_OK;
    if (s != RONDO_OK) {
        return s;
    }
    out->local_rank = given ? f->config->local_rank : out->local_rank;
    const char *name = given ? "rondo_config.local_rank" : ours ? f->row->local_rank : NULL;
    int below = out->local_size > 0 ? out->local_size : out->size;
    if (out->local_rank < -1 || out->local_rank >= below) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "%s is %d, but there are only %d ranks %s",
                        name != NULL ? name : "the local rank", out->local_rank, below,
                        out->local_size > 0 ? "on this host" : "in the job");
    }
    out->single_host = out->size == 1 || out->local_size == out->size || nodes == 1;
    return RONDO_OK;
}

// ---- The job's name -----------------------------------------------------------------------------

static uint64_t add_value(uint64_t hash, const char *value) {
    for (const char *c = value != NULL ? value : ""; *c != '\0'; c++) {
        hash = (hash ^ (uint8_t)*c) * UINT64_C(1099511628211); // FNV-1a
    }
    return (hash ^ '.') * UINT64_C(1099511628211);
}

static uint64_t find_id(const struct rdi_search *f) {
    const char *job = f->ours ? rdi_variable(f->get, f->row->job_id) : NULL;
    uint64_t hash = add_value(UINT64_C(14695981039346656037), job);
    hash = add_value(hash, job != NULL ? rdi_variable(f->get, f->row->step_id) : NULL);
    return job == NULL ? 0 : hash == 0 ? 1 : hash;
}

rondo_status rdi_discover(const rondo_config *config, rdi_getenv get, struct rdi_launch *out) {
    struct rdi_search f = {.config = config, .get = get, .row = rdi_launcher_find(get)};
    struct rdi_launch found = {.launcher = f.row != NULL ? f.row->name : "no launcher"};
    find_hosts(&f);
    rondo_status s = find_rank_and_size(&f, &found);
    if (s == RONDO_OK) {
        f.ours = launcher_means_us(&f, &found);
        found.id = find_id(&f);
        s = find_local(&f, &found);
    }
    if (s == RONDO_OK && found.size > 1 && config->store_ops == NULL) {
        s = rdi_find_store(&f, &found);
    }
    free(f.file);
    if (s == RONDO_OK) {
        *out = found;
    }
    return s;
}
