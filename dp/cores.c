// SPDX-License-Identifier: MIT
// Which processors are whose, and whether devices are alike.
#include "topo/cores.h"
#include "dp/internal.h"
#include "topo/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Lists of processors -------------------------------------------------------------------------

static bool number(const char **at, unsigned *out) {
    unsigned v = 0;
    const char *p = *at;
    while (*p >= '0' && *p <= '9' && v < RDI_SET_BITS) {
        v = 10 * v + (unsigned)(*p++ - '0');
    }
    bool ok = p != *at && v < RDI_SET_BITS;
    *at = p;
    *out = v;
    return ok;
}

bool rdi_dp_read_cpus(const char *text, struct rdi_set *out, char why[80]) {
    const char *p = text;
    memset(out, 0, sizeof *out);
    do {
        unsigned a, b;
        const char *item = p;
        bool ok = number(&p, &a);
        b = a;
        if (ok && *p == '-') {
            p++;
            ok = number(&p, &b) && b >= a;
        }
        if (!ok || (*p != ',' && *p != '\0')) {
            snprintf(why, 80, "\"%.20s\" is no processor from 0 to %d and no range of them", item,
                     RDI_SET_BITS - 1);
            return false;
        }
        for (unsigned bit = a; bit <= b; bit++) {
            out->word[bit / 32] |= 1U << bit % 32;
        }
    } while (*p++ == ',');
    return true;
}

// ---- Dealing out ---------------------------------------------------------------------------------

static void add(struct rdi_set *to, const struct rdi_set *what) {
    for (size_t i = 0; i < RDI_SET_WORDS; i++) {
        to->word[i] |= what->word[i];
    }
}

void rdi_dp_deal(const struct rdi_set *cores, int ncores, int devices, struct rdi_set *out) {
    memset(out, 0, (size_t)devices * sizeof *out);
    for (int k = 0; k < devices; k++) {
        uint64_t first = 0, count = (uint64_t)ncores;
        if (devices <= ncores) {
            (void)rondo_dp_scatter((uint64_t)ncores, k, devices, &first, &count);
        }
        for (uint64_t i = first; i < first + count; i++) {
            add(&out[k], &cores[i]);
        }
    }
}

static rondo_status read_lists(struct rondo_dp *dp, const char *const *cpus,
                               const struct rdi_set *allowed) {
    for (int k = 0; k < dp->devices; k++) {
        struct rdi_set *set = &dp->device[k].cpus;
        char why[80] = "the list is NULL";
        if (!cpus[k] || !rdi_dp_read_cpus(cpus[k], set, why)) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "options.cpus[%d], the processors of device %d: %s; an example is "
                            "\"0-3,8\"",
                            k, k, why);
        }
        if (!rdi_set_within(set, allowed)) {
            char *list = rdi_set_list(allowed);
            rondo_status s =
                rdi_fail(RONDO_ERR_INVALID,
                         "options.cpus[%d], the processors of device %d: \"%.60s\" is not within "
                         "what this process may use, %.200s",
                         k, k, cpus[k], list ? list : "?");
            free(list);
            return s;
        }
    }
    return RONDO_OK;
}

// ---- Figures -------------------------------------------------------------------------------------

// Of each NUMA node's memory a device has the part that its processors are of the node's.
static uint64_t memory_near(const rondo_topo *topo, const struct rdi_set *cpus) {
    double sum = 0;
    for (int i = 0; topo && i < topo->machine.numas; i++) {
        const struct rdi_topo_numa *n = &topo->numas[i];
        struct rdi_set here = n->cpus, mine;
        rdi_set_keep(&here, &topo->allowed);
        mine = here;
        rdi_set_keep(&mine, cpus);
        if (rdi_set_first(&here) >= 0) {
            sum += (double)n->info.memory * rdi_set_count(&mine) / rdi_set_count(&here);
        }
    }
    return (uint64_t)sum;
}

static rondo_status describe(struct rdi_dp_device *k, const rondo_topo *topo,
                             const struct rdi_set *cores, int ncores) {
    char *list = rdi_set_list(&k->cpus);
    if (!list) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the name of device %d", k->index);
    }
    snprintf(k->name, sizeof k->name, "processors %.140s", list);
    free(list);
    k->core_word = "cores";
    for (int i = 0; i < ncores; i++) {
        k->cores += rdi_set_meet(&cores[i], &k->cpus);
    }
    k->memory = memory_near(topo, &k->cpus);
    return RONDO_OK;
}

rondo_status rdi_dp_find_cores(struct rondo_dp *dp, const char *const *cpus) {
    struct rdi_set *cores = NULL, *sets = calloc((size_t)dp->devices, sizeof *sets);
    struct rdi_set allowed = {0};
    int ncores = 0;
    rondo_topo *topo = NULL;
    rondo_status s = sets ? rdi_topo_cores(NULL, &cores, &ncores)
                          : rdi_fail(RONDO_ERR_NOMEM, "out of memory for sets of processors");
    for (int i = 0; i < ncores; i++) {
        add(&allowed, &cores[i]);
    }
    // Only the warning needs it.
    if (s == RONDO_OK && rondo_topo_load(NULL, &topo) != RONDO_OK) {
        rdi_log(&dp->env, RONDO_LOG_INFO, "the devices' memory is not compared: %s",
                rondo_last_error());
    }
    if (s == RONDO_OK && cpus) {
        s = read_lists(dp, cpus, &allowed);
    } else if (s == RONDO_OK) {
        rdi_dp_deal(cores, ncores, dp->devices, sets);
        for (int k = 0; k < dp->devices; k++) {
            dp->device[k].cpus = sets[k];
        }
        if (dp->devices > ncores) {
            rdi_log(&dp->env, RONDO_LOG_INFO, "DP: %d devices share %d cores", dp->devices, ncores);
        }
    }
    for (int k = 0; s == RONDO_OK && k < dp->devices; k++) {
        s = describe(&dp->device[k], topo, cores, ncores);
    }
    rondo_topo_free(topo);
    free(cores);
    free(sets);
    return s;
}

// ---- Alike? --------------------------------------------------------------------------------------

#define LEAST 0.75 // of the largest, below which a device holds up the others

static double figure(const struct rdi_dp_device *d, bool memory) {
    return memory ? (double)d->memory / 1073741824.0 : d->cores;
}

bool rdi_dp_unlike(const struct rdi_dp_device *d, int n, char *line, size_t cap) {
    for (int memory = 1; memory >= 0; memory--) {
        int least = 0, most = 0;
        for (int i = 1; i < n; i++) {
            least = figure(&d[i], memory) < figure(&d[least], memory) ? i : least;
            most = figure(&d[i], memory) > figure(&d[most], memory) ? i : most;
        }
        double a = figure(&d[least], memory), b = figure(&d[most], memory);
        if (a > 0 && a < LEAST * b) {
            snprintf(line, cap,
                     "DP: device %d (%s) has %.*f %s, device %d (%s) has %.*f: less than 75 %%. "
                     "Every step lasts as long as the slowest device needs; make the devices "
                     "alike, or leave device %d out",
                     least, d[least].name, memory, a, memory ? "GiB of memory" : d[least].core_word,
                     most, d[most].name, memory, b, least);
            return true;
        }
    }
    return false;
}
