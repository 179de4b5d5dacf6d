// SPDX-License-Identifier: MIT
// The order of the ring and the streams, from the seats of all ranks.
#include "ring/layout.h"

#include "transport/internal.h"

#include <stdlib.h>
#include <string.h>

#define NO_NIC (-1)

// ---- Seats ---------------------------------------------------------------------------------------

void rdi_seat_write(const struct rdi_seat *s, uint8_t out[RDI_SEAT_WIRE]) {
    out[0] = s->nics;
    memcpy(out + 1, &s->uses, 2);
    memcpy(out + 3, &s->chain, 2);
    memcpy(out + 5, s->to, RDI_SEAT_NICS);
}

void rdi_seat_read(struct rdi_seat *s, const uint8_t in[RDI_SEAT_WIRE]) {
    s->nics = in[0] <= RDI_SEAT_NICS ? in[0] : 0;
    memcpy(&s->uses, in + 1, 2);
    memcpy(&s->chain, in + 3, 2);
    memcpy(s->to, in + 5, RDI_SEAT_NICS);
    s->uses &= (uint16_t)((UINT32_C(1) << s->nics) - 1);
}

// ---- While it is made ----------------------------------------------------------------------------

struct member {
    int host, rank; // host: its lowest rank
    const struct rdi_seat *seat;
};

struct maker {
    struct rdi_layout *l;
    struct member *by; // all ranks: hosts after each other, each in the order of its chain
    int *first;        // [hosts + 1]: index into `by`
};

static int compare(const void *a, const void *b) {
    const struct member *x = a, *y = b;
    if (x->host != y->host) {
        return x->host < y->host ? -1 : 1;
    }
    if (x->seat->chain != y->seat->chain) {
        return x->seat->chain < y->seat->chain ? -1 : 1;
    }
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static unsigned used_nics(const struct maker *m, int host) {
    unsigned bits = 0;
    for (int i = m->first[host]; i < m->first[host + 1]; i++) {
        bits |= m->by[i].seat->uses;
    }
    return bits;
}

// As many rails as the host with the fewest NICs has, one where none is known. A host with more spreads those it uses
// over all of its own.
static int count_rails(const struct maker *m) {
    int fewest = RDI_SEAT_NICS;
    for (int h = 0; h < m->l->hosts; h++) {
        int used = __builtin_popcount(used_nics(m, h));
        fewest = used < fewest ? used : fewest;
    }
    return fewest > 0 ? fewest : 1;
}

static int nic_of_rail(const struct maker *m, int host, int rail, int rails) {
    unsigned bits = used_nics(m, host);
    int used = __builtin_popcount(bits), at = rail * used / rails;
    for (int nic = 0; nic < RDI_SEAT_NICS; nic++) {
        if (bits >> nic & 1 && at-- == 0) {
            return nic;
        }
    }
    return NO_NIC;
}

static int distance(const struct member *b, int nic) {
    return nic == NO_NIC ? 0 : nic < b->seat->nics ? b->seat->to[nic] : UINT8_MAX;
}

// Place in the host's chain of the nearest of the ranks that use the NIC, and of those the first.
static int gate(const struct maker *m, int host, int nic) {
    int best = -1;
    for (int i = m->first[host]; nic != NO_NIC && i < m->first[host + 1]; i++) {
        bool uses = m->by[i].seat->uses >> nic & 1;
        if (uses && (best < 0 || distance(&m->by[i], nic) < distance(&m->by[best], nic))) {
            best = i;
        }
    }
    return best < 0 ? 0 : best - m->first[host];
}

// ---- The ring ------------------------------------------------------------------------------------

// From the gate of rail 0 around the chain, in the direction that ends nearer to its NIC.
static void pass_host(const struct maker *m, int host, int nic, int *order) {
    const struct member *chain = m->by + m->first[host];
    int n = m->first[host + 1] - m->first[host], first = gate(m, host, nic);
    bool reverse = distance(&chain[(first + 1) % n], nic) <
                   distance(&chain[(first + n - 1) % n], nic);
    for (int i = 0; i < n; i++) {
        order[i] = chain[reverse ? (first + n - i) % n : (first + i) % n].rank;
    }
}

static rondo_status make_order(const struct maker *m, int rank) {
    struct rdi_layout *l = m->l;
    int rails = count_rails(m);
    bool numbered = true;
    l->order = malloc((size_t)l->size * sizeof *l->order);
    if (!l->order) {
        return RONDO_ERR_NOMEM;
    }
    for (int h = 0; h < l->hosts; h++) {
        pass_host(m, h, nic_of_rail(m, h, 0, rails), l->order + m->first[h]);
    }
    for (int i = 0; i < l->size; i++) {
        numbered = numbered && l->order[i] == i;
        l->pos = l->order[i] == rank ? i : l->pos;
    }
    if (numbered) {
        free(l->order); // with thousands of ranks in one process it counts
        l->order = NULL;
    }
    return RONDO_OK;
}

// ---- Streams -------------------------------------------------------------------------------------

// Adds a rail with these leaders; takes `leaders`.
static void add_rail(struct rdi_layout *l, int *leaders) {
    for (int i = 0; i < l->nstreams; i++) {
        if (memcmp(l->streams[i].leaders, leaders, (size_t)l->hosts * sizeof *leaders) == 0) {
            l->streams[i].weight++;
            free(leaders);
            return;
        }
    }
    l->streams[l->nstreams++] = (struct rdi_stream){.weight = 1, .leaders = leaders};
}

static rondo_status make_streams(const struct maker *m) {
    struct rdi_layout *l = m->l;
    l->rails = count_rails(m);
    if (l->hosts == 1 || l->max_local == 1) {
        return RONDO_OK; // nobody leads
    }
    l->streams = calloc((size_t)l->rails, sizeof *l->streams);
    for (int r = 0; l->streams && r < l->rails; r++) {
        int *leaders = malloc((size_t)l->hosts * sizeof *leaders);
        if (!leaders) {
            return RONDO_ERR_NOMEM;
        }
        for (int h = 0; h < l->hosts; h++) {
            leaders[h] = m->by[m->first[h] + gate(m, h, nic_of_rail(m, h, r, l->rails))].rank;
        }
        add_rail(l, leaders);
    }
    return l->streams ? RONDO_OK : RONDO_ERR_NOMEM;
}

// ---- All -----------------------------------------------------------------------------------------

static rondo_status sort(struct maker *m, const int *host,
                         const struct rdi_seat *(*seat)(const void *arg, int rank),
                         const void *arg) {
    size_t n = (size_t)m->l->size;
    m->by = malloc(n * sizeof *m->by);
    m->first = malloc((n + 1) * sizeof *m->first);
    if (!m->by || !m->first) {
        return RONDO_ERR_NOMEM;
    }
    bool sorted = true;
    for (size_t r = 0; r < n; r++) {
        m->by[r] = (struct member){.host = host[r], .rank = (int)r, .seat = seat(arg, (int)r)};
        sorted = sorted && (r == 0 || compare(&m->by[r - 1], &m->by[r]) < 0);
    }
    if (!sorted) {
        qsort(m->by, n, sizeof *m->by, compare);
    }
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || m->by[i].host != m->by[i - 1].host) {
            m->first[m->l->hosts++] = (int)i;
        }
    }
    m->first[m->l->hosts] = (int)n;
    return RONDO_OK;
}

static int ascending(const void *a, const void *b) {
    const int *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static rondo_status find_locals(const struct maker *m, const int *host, int rank) {
    struct rdi_layout *l = m->l;
    for (int h = 0; h < l->hosts; h++) {
        int n = m->first[h + 1] - m->first[h];
        l->max_local = (uint32_t)n > l->max_local ? (uint32_t)n : l->max_local;
        if (m->by[m->first[h]].host == host[rank]) {
            l->host = h;
            l->nlocals = n;
        }
    }
    l->locals = malloc((size_t)l->nlocals * sizeof *l->locals);
    if (!l->locals) {
        return RONDO_ERR_NOMEM;
    }
    for (int i = 0; i < l->nlocals; i++) {
        l->locals[i] = m->by[m->first[l->host] + i].rank;
    }
    qsort(l->locals, (size_t)l->nlocals, sizeof *l->locals, ascending);
    return RONDO_OK;
}

// FNV-1a over numbers, as of the plan.
static void mix(struct rdi_layout *l, uint64_t v) {
    l->hash = (l->hash ^ v) * UINT64_C(0x100000001b3);
}

static void hash(const struct maker *m) {
    struct rdi_layout *l = m->l;
    l->hash = UINT64_C(0xcbf29ce484222325);
    for (int h = 0; h <= l->hosts; h++) {
        mix(l, (uint64_t)m->first[h]);
    }
    for (int i = 0; l->order && i < l->size; i++) {
        mix(l, (uint64_t)l->order[i]);
    }
    for (int s = 0; s < l->nstreams; s++) {
        mix(l, l->streams[s].weight);
        for (int h = 0; h < l->hosts; h++) {
            mix(l, (uint64_t)l->streams[s].leaders[h]);
        }
    }
}

rondo_status rdi_layout_make(struct rdi_layout *l, int size, int rank, const int *host,
                             const struct rdi_seat *(*seat)(const void *arg, int rank),
                             const void *arg) {
    struct maker m = {.l = l};
    *l = (struct rdi_layout){.size = size, .pos = rank};
    rondo_status s = sort(&m, host, seat, arg);
    s = s == RONDO_OK ? find_locals(&m, host, rank) : s;
    s = s == RONDO_OK ? make_order(&m, rank) : s;
    s = s == RONDO_OK ? make_streams(&m) : s;
    if (s == RONDO_OK) {
        hash(&m);
    } else {
        rdi_layout_free(l);
        rdi_fail(s, "out of memory for the layout of %d ranks", size);
    }
    free(m.by);
    free(m.first);
    return s;
}

void rdi_layout_free(struct rdi_layout *l) {
    for (int s = 0; s < l->nstreams; s++) {
        free(l->streams[s].leaders);
    }
    free(l->streams);
    free(l->locals);
    free(l->order);
    *l = (struct rdi_layout){.size = 0};
}
