// SPDX-License-Identifier: MIT
// Packages, caches, processors and NUMA nodes.
#include "topo/internal.h"

#include <stdlib.h>
#include <string.h>

#define MAX_MEMORY (UINT64_C(1) << 56)

// The kernel's number of an object.
static bool os_index(struct rdi_topo_reader *r, uint32_t e, int *out) {
    uint64_t v;
    const char *text = rdi_xml_get(r->x, e, "os_index");
    if (!rdi_topo_number(text, RDI_SET_BITS - 1, NULL, &v)) {
        return rdi_topo_wrong(r, e, "a %s with os_index \"%.20s\"; allowed is 0 to %d",
                              rdi_xml_get(r->x, e, "type"), text ? text : "", RDI_SET_BITS - 1);
    }
    *out = (int)v;
    return true;
}

// ---- The machine ---------------------------------------------------------------------------------

// The element of the machine: the first object of all, which holds all others.
static bool find_machine(struct rdi_topo_reader *r, uint32_t *machine) {
    const struct rdi_xml *x = r->x;
    *machine = RDI_XML_NONE;
    for (uint32_t i = 1; i < x->elements[0].end; i = x->elements[i].end) {
        if (strcmp(x->elements[i].name, "object") != 0) {
            continue;
        }
        if (!rdi_topo_is(x, i, "Machine") || *machine != RDI_XML_NONE) {
            return rdi_topo_wrong(r, i, "an object beside the machine, or in place of it");
        }
        *machine = i;
    }
    return *machine != RDI_XML_NONE || rdi_topo_wrong(r, 0, "it has no machine");
}

// Processors that exist, and those that may be used.
static bool read_sets(struct rdi_topo_reader *r, uint32_t machine, const struct rdi_set *only) {
    struct rondo_topo *t = r->t;
    struct rdi_set complete;
    if (!rdi_topo_set(r, machine, "cpuset", &t->cpus) ||
        !rdi_topo_set(r, machine, "allowed_cpuset", &t->allowed) ||
        !rdi_topo_set(r, machine, "complete_cpuset", &complete)) {
        return false;
    }
    if (rdi_set_first(&t->cpus) < 0) {
        return rdi_topo_wrong(r, machine, "the machine has no processors (cpuset)");
    }
    if (!rdi_xml_get(r->x, machine, "allowed_cpuset")) {
        t->allowed = t->cpus;
    }
    rdi_set_keep(&t->allowed, &t->cpus);
    if (only) {
        rdi_set_keep(&t->allowed, only);
    }
    if (rdi_set_first(&t->allowed) < 0) {
        return rdi_topo_wrong(r, machine, "none of its processors may be used here");
    }
    unsigned all = rdi_set_count(&complete), here = rdi_set_count(&t->cpus);
    t->machine.pus = (int)(all > here ? all : here);
    t->machine.allowed_pus = (int)rdi_set_count(&t->allowed);
    return true;
}

static bool read_pu(struct rdi_topo_reader *r, uint32_t e, struct rdi_set *seen) {
    int index = 0;
    if (!os_index(r, e, &index)) {
        return false;
    }
    if (!rdi_set_has(&r->t->cpus, (unsigned)index)) {
        return rdi_topo_wrong(r, e, "processor %d is none of the machine's", index);
    }
    if (rdi_set_has(seen, (unsigned)index)) {
        return rdi_topo_wrong(r, e, "processor %d is there twice", index);
    }
    seen->word[index / 32] |= UINT32_C(1) << index % 32;
    return true;
}

static void read_cache(struct rdi_topo_reader *r, uint32_t e, int *count, uint64_t *bytes) {
    uint64_t v;
    if (rdi_topo_number(rdi_xml_get(r->x, e, "cache_size"), MAX_MEMORY, NULL, &v)) {
        *bytes = v;
    }
    ++*count;
}

static bool count_object(struct rdi_topo_reader *r, uint32_t e, struct rdi_set *seen) {
    rondo_topo_machine_info *m = &r->t->machine;
    if (rdi_topo_is(r->x, e, "PU")) {
        return read_pu(r, e, seen);
    }
    if (rdi_topo_is(r->x, e, "Package")) {
        if (m->packages == RDI_TOPO_PACKAGES) {
            return rdi_topo_wrong(r, e, "more than %d packages", RDI_TOPO_PACKAGES);
        }
        r->packages[m->packages] = e;
        if (m->packages++ == 0) {
            m->cpu = rdi_topo_string(r->t, rdi_topo_info(r->x, e, "CPUModel"));
        }
    } else if (rdi_topo_is(r->x, e, "L2Cache")) {
        read_cache(r, e, &m->l2_caches, &m->l2_bytes);
    } else if (rdi_topo_is(r->x, e, "L3Cache")) {
        read_cache(r, e, &m->l3_caches, &m->l3_bytes);
    } else {
        m->cores += rdi_topo_is(r->x, e, "Core");
    }
    return true;
}

// ---- NUMA nodes ----------------------------------------------------------------------------------

// The package that a node lies in, or the only one whose processors it has.
static bool find_package(struct rdi_topo_reader *r, uint32_t e, const struct rdi_set *cpus,
                         int *package) {
    const struct rdi_xml *x = r->x;
    for (uint32_t up = x->elements[e].parent; up != RDI_XML_NONE; up = x->elements[up].parent) {
        if (rdi_topo_is(x, up, "Package") && rdi_xml_get(x, up, "os_index")) {
            return os_index(r, up, package);
        }
    }
    *package = -1;
    for (int i = 0, found = 0; i < r->t->machine.packages; i++) {
        struct rdi_set s;
        if (!rdi_topo_set(r, r->packages[i], "cpuset", &s)) {
            return false;
        }
        if (!rdi_set_meet(&s, cpus)) {
            continue;
        }
        if (++found > 1) {
            *package = -1;
            break;
        }
        if (rdi_xml_get(x, r->packages[i], "os_index") && !os_index(r, r->packages[i], package)) {
            return false;
        }
    }
    return true;
}

static bool read_numa(struct rdi_topo_reader *r, uint32_t e, const struct rdi_set *allowed) {
    struct rondo_topo *t = r->t;
    struct rdi_topo_numa *n = &t->numas[t->machine.numas];
    const char *memory = rdi_xml_get(r->x, e, "local_memory");
    *n = (struct rdi_topo_numa){.info = {.size = sizeof n->info}};
    if (!os_index(r, e, &n->info.os_index) || !rdi_topo_set(r, e, "cpuset", &n->cpus) ||
        !find_package(r, e, &n->cpus, &n->info.package)) {
        return false;
    }
    if (memory && !rdi_topo_number(memory, MAX_MEMORY, NULL, &n->info.memory)) {
        return rdi_topo_wrong(r, e, "NUMA node %d with local_memory \"%.24s\"", n->info.os_index,
                              memory);
    }
    for (int i = 0; i < t->machine.numas; i++) {
        if (t->numas[i].info.os_index == n->info.os_index) {
            return rdi_topo_wrong(r, e, "NUMA node %d is there twice", n->info.os_index);
        }
    }
    struct rdi_set usable = n->cpus;
    rdi_set_keep(&usable, &t->allowed);
    char *list = rdi_set_list(&usable);
    n->info.cpus = rdi_topo_string(t, list);
    t->nomem = t->nomem || !list;
    free(list);
    n->info.pus = (int)rdi_set_count(&usable);
    n->info.allowed = rdi_set_has(allowed, (unsigned)n->info.os_index);
    t->machine.numas++;
    return true;
}

static int by_index(const void *a, const void *b) {
    return ((const struct rdi_topo_numa *)a)->info.os_index -
           ((const struct rdi_topo_numa *)b)->info.os_index;
}

static bool read_numas(struct rdi_topo_reader *r, uint32_t machine, const struct rdi_set *only) {
    struct rondo_topo *t = r->t;
    struct rdi_set allowed;
    size_t n = 0;
    if (!rdi_topo_set(r, machine, "allowed_nodeset", &allowed) ||
        (!rdi_xml_get(r->x, machine, "allowed_nodeset") &&
         !rdi_topo_set(r, machine, "nodeset", &allowed))) {
        return false;
    }
    if (only) {
        rdi_set_keep(&allowed, only);
    }
    for (uint32_t i = machine; i < r->x->elements[machine].end; i++) {
        n += rdi_topo_is(r->x, i, "NUMANode");
    }
    if (n == 0 || n > RDI_TOPO_NUMAS) {
        return rdi_topo_wrong(r, machine, "%zu NUMA nodes; allowed is 1 to %d", n, RDI_TOPO_NUMAS);
    }
    t->numas = calloc(n, sizeof *t->numas);
    t->nomem = !t->numas;
    for (uint32_t i = machine; t->numas && i < r->x->elements[machine].end; i++) {
        if (rdi_topo_is(r->x, i, "NUMANode") && !read_numa(r, i, &allowed)) {
            return false;
        }
    }
    if (t->numas) {
        qsort(t->numas, (size_t)t->machine.numas, sizeof *t->numas, by_index);
    }
    return true;
}

// ---- All of it -----------------------------------------------------------------------------------

// hwloc 2 writes what belongs to the machine into its object, hwloc 3 beside it.
static const char *machine_word(struct rdi_topo_reader *r, uint32_t machine, const char *name) {
    const char *word = rdi_topo_info(r->x, machine, name);
    return rdi_topo_string(r->t, word ? word : rdi_topo_info(r->x, 0, name));
}

bool rdi_topo_read_machine(struct rdi_topo_reader *r, const struct rdi_set *only_cpus,
                           const struct rdi_set *only_nodes) {
    struct rondo_topo *t = r->t;
    struct rdi_set seen = {0};
    uint32_t machine;
    t->machine = (rondo_topo_machine_info){.size = sizeof t->machine, .cpu = ""};
    if (!find_machine(r, &machine) || !read_sets(r, machine, only_cpus)) {
        return false;
    }
    t->machine.host = machine_word(r, machine, "HostName");
    for (uint32_t i = machine; i < r->x->elements[machine].end; i++) {
        if (!count_object(r, i, &seen)) {
            return false;
        }
    }
    if (!rdi_set_equal(&seen, &t->cpus)) {
        return rdi_topo_wrong(r, machine,
                              "%u processors are described, and the machine has %u (cpuset)",
                              rdi_set_count(&seen), rdi_set_count(&t->cpus));
    }
    char *list = rdi_set_list(&t->allowed);
    t->machine.allowed_cpus = rdi_topo_string(t, list);
    t->nomem = t->nomem || !list;
    free(list);
    return read_numas(r, machine, only_nodes);
}
