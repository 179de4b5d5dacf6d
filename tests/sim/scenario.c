// SPDX-License-Identifier: MIT
// From a seed to a scenario: sizes, plan, network, operations and faults.
#include "tests/sim/sim_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next(struct scenario *sc) {
    uint64_t z = sc->rng += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t below(struct scenario *sc, uint64_t n) { return n ? next(sc) % n : 0; }

bool chance(struct scenario *sc, unsigned percent) { return below(sc, 100) < percent; }

// Around equally often in each power of two.
static uint64_t spread(struct scenario *sc, uint64_t low, uint64_t high) {
    uint64_t top = low;
    while (top < high && chance(sc, 75)) {
        top *= 2;
    }
    top = top > high ? high : top;
    return low + below(sc, top - low + 1);
}

static unsigned pick(struct scenario *sc, const unsigned *list, unsigned n) {
    return list[below(sc, n)];
}
#define PICK(sc, ...)                         \
    pick(sc, (const unsigned[]){__VA_ARGS__}, \
         sizeof((const unsigned[]){__VA_ARGS__}) / sizeof(unsigned))

const char *fault_name(enum fault f) {
    static const char *const names[FAULT_COUNT] = {"none",     "path lost", "pause", "death",
                                                   "mismatch", "path cut",  "abort"};
    return names[f];
}

int rank_in(const struct group *g, int world_rank) {
    for (int i = 0; i < g->n; i++) {
        if (g->world[i] == world_rank) {
            return i;
        }
    }
    return -1;
}

const struct call *call_of(const struct op *op, int group_rank, struct call *buf) {
    if (op->call.kind == RDI_SEND) {
        *buf = group_rank == op->deviant ? op->other : op->call;
        buf->kind = group_rank == op->from ? RDI_SEND : RDI_RECV;
        buf->root = group_rank == op->from ? op->to : op->from;
        return group_rank == op->from || group_rank == op->to ? buf : NULL;
    }
    return group_rank == op->deviant ? &op->other : &op->call;
}

void call_print(const struct call *c, char *buf, size_t cap) {
    struct rdi_sig sig = {.count = c->count,
                          .root = (uint32_t)c->root,
                          .kind = (uint8_t)c->kind,
                          .type = (uint8_t)c->type,
                          .op = (uint8_t)c->op};
    rdi_op_describe(&sig, buf, cap);
}

// ---- The cluster ---------------------------------------------------------------------------------

static char *no_environment(const char *name) {
    (void)name;
    return NULL;
}

// NICs that agree with nothing: whatever ranks say of theirs, all have to draw the same rings from it.
static void make_seats(struct scenario *sc) {
    bool known = chance(sc, 60);
    for (int r = 0; known && r < sc->n; r++) {
        struct rdi_seat *s = &sc->seats[r];
        s->nics = (uint8_t)(1 + below(sc, 4));
        s->uses = (uint16_t)(1 + below(sc, (UINT64_C(1) << s->nics) - 1));
        s->chain = (uint16_t)below(sc, 8);
        for (unsigned i = 0; i < s->nics; i++) {
            s->to[i] = (uint8_t)below(sc, 6);
        }
    }
}

static void make_cluster(struct scenario *sc) {
    unsigned kind = (unsigned)below(sc, 100);
    sc->n = kind < 70   ? 1 + (int)below(sc, 5)
            : kind < 92 ? 6 + (int)below(sc, 4)
            : kind < 98 ? 16
                        : 33;
    int hosts = chance(sc, 30) ? 1 : chance(sc, 40) ? sc->n : 1 + (int)below(sc, (uint64_t)sc->n);
    for (int r = 0; r < sc->n; r++) {
        sc->hosts[r] = hosts == sc->n ? r : (int)below(sc, (uint64_t)hosts);
    }
    make_seats(sc);
    if (rdi_options_load(&sc->options, NULL, no_environment) != RONDO_OK) {
        give_up("options: %s", rondo_last_error());
    }
    bool large = chance(sc, 25);
    sc->options.num[RDI_OPT_CHUNK] = large ? 2304 + 64 * (int64_t)below(sc, 200)
                                           : 64 << below(sc, 7);
    sc->options.num[RDI_OPT_SLOTS] = 2 + (int64_t)below(sc, 7);
    sc->options.num[RDI_OPT_OP_TIMEOUT] = 20000;
    sc->options.num[RDI_OPT_CONNECT_TIMEOUT] = 5000;
    sc->options.num[RDI_OPT_PATH_GRACE] = 2000;
    sc->plan = (struct rdi_plan){.strict = chance(sc, 35),
                                 .algorithm = chance(sc, 55) ? 0 : 1 + (uint32_t)below(sc, 4),
                                 .direct_max = PICK(sc, 0, 64, 1024, 32768),
                                 .block = 64 * (large ? 16 + below(sc, 240) : spread(sc, 1, 64))};
}

static void make_network(struct scenario *sc) {
    sc->net = (struct rdi_sim_config){.seed = next(sc),
                                      .nodes = sc->n,
                                      .latency_ns = spread(sc, 500, 100000),
                                      .bytes_per_s = spread(sc, 50000000, UINT64_C(20000000000)),
                                      .spike = PICK(sc, 0, 0, 10, 50),
                                      .spike_ns = spread(sc, 10 * US, 5 * MS),
                                      .detect_ns = spread(sc, 10 * US, 5 * MS),
                                      .uneven = chance(sc, 30),
                                      .again = PICK(sc, 0, 0, 50, 300),
                                      .land = PICK(sc, 0, 500, 1000),
                                      .late = PICK(sc, 0, 100, 500),
                                      .early = PICK(sc, 0, 500, 1000),
                                      .lazy = PICK(sc, 0, 500, 1000)};
    sc->net.jitter_ns = below(sc, 2 * sc->net.latency_ns);
    sc->max_delay = chance(sc, 30) ? 0 : spread(sc, 1 * US, 10 * MS);
}

// ---- Operations ----------------------------------------------------------------------------------

static size_t bytes_cap(struct scenario *sc, int n) {
    uint64_t chunk = (uint64_t)sc->options.num[RDI_OPT_CHUNK];
    // Messages end with a block, too.
    chunk = chunk < 4 * sc->plan.block ? chunk : 4 * sc->plan.block;
    return chunk * (n > 9 ? 1 + below(sc, 6) : 1 + below(sc, 60));
}

static size_t random_count(struct scenario *sc, const struct call *c, int n) {
    if (chance(sc, sc->small ? 50 : 8)) {
        return 0;
    }
    if (chance(sc, sc->small ? 95 : 12)) {
        return 1;
    }
    size_t cap = bytes_cap(sc, n) / rondo_type_size(c->type);
    bool blocks = c->kind == RDI_ALL_GATHER || c->kind == RDI_REDUCE_SCATTER ||
                  c->kind == RDI_ALL_TO_ALL;
    return 1 + below(sc, blocks ? cap / (size_t)n + 1 : cap);
}

static bool reduces(enum rdi_kind k) {
    return k == RDI_ALL_REDUCE || k == RDI_REDUCE_SCATTER || k == RDI_REDUCE;
}

static bool rooted(enum rdi_kind k) { return k == RDI_BROADCAST || k == RDI_REDUCE; }

static void make_call(struct scenario *sc, struct call *c, int n) {
    static const enum rdi_kind kinds[] = {
        RDI_ALL_REDUCE, RDI_ALL_REDUCE, RDI_ALL_REDUCE, RDI_REDUCE_SCATTER, RDI_ALL_GATHER,
        RDI_BROADCAST,  RDI_REDUCE,     RDI_ALL_TO_ALL, RDI_BARRIER,        RDI_SEND};
    c->kind = kinds[below(sc, sizeof kinds / sizeof *kinds)];
    if (c->kind == RDI_SEND && n == 1) {
        c->kind = RDI_BARRIER;
    }
    c->type = (rondo_type)below(sc, RONDO_TYPE_COUNT);
    c->op = reduces(c->kind) ? (rondo_op)below(sc, RONDO_OP_COUNT) : RONDO_SUM;
    c->root = rooted(c->kind) ? (int)below(sc, (uint64_t)n) : 0;
    c->count = random_count(sc, c, n);
    if (c->kind == RDI_BARRIER) {
        c->count = 0;
        c->type = RONDO_U8;
    }
}

static enum values choose_values(struct scenario *sc, const struct op *op) {
    const struct call *c = &op->call;
    bool floats = c->type <= RONDO_BF16 || c->type >= RONDO_F8E4M3;
    if (!floats || !reduces(c->kind) || c->op == RONDO_MIN || c->op == RONDO_MAX) {
        return WILD;
    }
    if (chance(sc, 50)) {
        return EXACT;
    }
    return sc->plan.strict ? WILD : AGREE;
}

// Colours at random: an all_gather on the parent, then each rank makes its own communicator.
static void make_split(struct scenario *sc, struct op *op) {
    const struct group *parent = &sc->groups[op->group];
    op->split = true;
    op->call = (struct call){.kind = RDI_ALL_GATHER, .count = 2, .type = RONDO_I64};
    op->values = WILD;
    int colors = 1 + (int)below(sc, 3), first = sc->ngroups;
    if (first + colors > MAX_GROUPS) {
        colors = MAX_GROUPS - first;
    }
    for (int g = first; g < first + colors; g++) {
        sc->groups[g] = (struct group){.id = next(sc)};
    }
    sc->ngroups += colors;
    bool backwards = chance(sc, 50);
    for (int i = 0; i < parent->n; i++) {
        int r = backwards ? parent->n - 1 - i : i;
        op->groups[r] = chance(sc, 10) ? -1 : first + (int)below(sc, (uint64_t)colors);
        if (op->groups[r] >= 0) {
            struct group *g = &sc->groups[op->groups[r]];
            g->world[g->n++] = parent->world[r];
        }
    }
}

static void make_op(struct scenario *sc, int index) {
    struct op *op = &sc->ops[index];
    do {
        op->group = chance(sc, 60) ? 0 : (int)below(sc, (uint64_t)sc->ngroups);
    } while (sc->groups[op->group].n == 0);
    int n = sc->groups[op->group].n;
    op->deviant = op->repeats = -1;
    op->wait = chance(sc, sc->small ? 3 : 40);
    if (chance(sc, 8) && sc->ngroups < MAX_GROUPS) {
        make_split(sc, op);
        return;
    }
    make_call(sc, &op->call, n);
    op->in_place = op->call.kind != RDI_ALL_TO_ALL && op->call.kind != RDI_SEND && chance(sc, 40);
    if (op->call.kind == RDI_SEND) {
        op->from = (int)below(sc, (uint64_t)n);
        op->to = (op->from + 1 + (int)below(sc, (uint64_t)n - 1)) % n;
    }
    op->values = choose_values(sc, op);
    const struct op *before = &sc->ops[index ? index - 1 : 0];
    if (index && op->values == AGREE && before->values == AGREE && before->repeats < 0 &&
        chance(sc, 50)) {
        // Again, at another time and in another place: the same bits.
        op->group = before->group;
        op->call = before->call;
        op->repeats = index - 1;
    }
}

static void greet(struct scenario *sc, int group) {
    if (sc->greets && sc->groups[group].n > 0 && sc->nops < MAX_OPS) {
        sc->ops[sc->nops++] = (struct op){.group = group,
                                          .call = {.kind = RDI_BARRIER, .type = RONDO_U8},
                                          .values = WILD,
                                          .repeats = -1,
                                          .deviant = -1};
    }
}

static void make_ops(struct scenario *sc, int wanted) {
    greet(sc, 0);
    for (int made = 0; made < wanted && sc->nops < MAX_OPS - MAX_GROUPS; made++) {
        int known = sc->ngroups;
        make_op(sc, sc->nops++);
        for (int g = known; g < sc->ngroups; g++) {
            greet(sc, g);
        }
    }
}

// ---- Faults --------------------------------------------------------------------------------------

// Makes one rank call something else than the others.
static bool deviate(struct scenario *sc, struct op *op) {
    int n = sc->groups[op->group].n;
    if (n < 2 || op->split) {
        return false;
    }
    struct call c = op->call;
    switch (below(sc, 5)) {
    case 0:
        c.count = chance(sc, 30)   ? 0
                  : chance(sc, 50) ? c.count + 1 + below(sc, 5)
                                   : random_count(sc, &c, n);
        break;
    case 1:
        c.type = (rondo_type)below(sc, RONDO_TYPE_COUNT);
        break;
    case 2:
        c.op = reduces(c.kind) ? (rondo_op)below(sc, RONDO_OP_COUNT) : c.op;
        break;
    case 3:
        c.root = rooted(c.kind) ? (int)below(sc, (uint64_t)n) : c.root;
        break;
    default:
        if (c.kind != RDI_SEND) {
            make_call(sc, &c, n);
            c.kind = c.kind == RDI_SEND ? RDI_ALL_TO_ALL : c.kind;
        }
        break;
    }
    if (c.kind == RDI_BARRIER) {
        c = (struct call){.kind = RDI_BARRIER, .type = RONDO_U8};
    }
    if (c.kind == op->call.kind && c.count == op->call.count && c.type == op->call.type &&
        c.op == op->call.op && c.root == op->call.root) {
        return false;
    }
    op->other = c;
    op->deviant = (int)below(sc, (uint64_t)n);
    if (op->call.kind == RDI_SEND) {
        op->deviant = chance(sc, 50) ? op->from : op->to;
    }
    return true;
}

static void make_faults(struct scenario *sc) {
    unsigned kind = (unsigned)below(sc, 100);
    sc->fault = kind < 45   ? FAULT_NONE
                : kind < 65 ? FAULT_PATH
                : kind < 72 ? FAULT_PAUSE
                : kind < 80 ? FAULT_DEATH
                : kind < 94 ? FAULT_MISMATCH
                : kind < 97 ? FAULT_CUT
                            : FAULT_ABORT;
    if (sc->n == 1) {
        sc->fault = FAULT_NONE;
    }
    sc->fault_chance = (unsigned)spread(sc, 20, 2000);
    sc->fault_step = spread(sc, 1, 20000);
    sc->victim = (int)below(sc, (uint64_t)sc->n);
    sc->mismatch_op = -1;
    if (sc->fault == FAULT_MISMATCH) {
        for (int tries = 0; tries < 20 && sc->mismatch_op < 0; tries++) {
            int k = (int)below(sc, (uint64_t)sc->nops);
            sc->mismatch_op = deviate(sc, &sc->ops[k]) ? k : -1;
        }
        if (sc->mismatch_op < 0) {
            sc->fault = FAULT_NONE;
        }
    }
    sc->net.mismatch = sc->fault == FAULT_MISMATCH;
}

void scenario_make(struct scenario *sc, uint64_t seed) {
    bool verbose = sc->verbose;
    memset(sc, 0, sizeof *sc);
    sc->seed = seed;
    sc->rng = seed * UINT64_C(0xd1342543de82ef95) + 1;
    sc->verbose = verbose;
    make_cluster(sc);
    make_network(sc);
    sc->ngroups = 1;
    sc->groups[0] = (struct group){.id = next(sc), .n = sc->n};
    for (int r = 0; r < sc->n; r++) {
        sc->groups[0].world[r] = r;
    }
    int wanted = 1 + (int)below(sc, sc->n > 9 ? 6 : 12);
    sc->small = sc->n <= 4 && chance(sc, 5);
    if (sc->small) {
        wanted = MAX_OPS / 2 + (int)below(sc, MAX_OPS / 2);
    }
    sc->greets = chance(sc, 60);
    // Who has never met its neighbour could not tell a process that has ended well from one that never came.
    sc->exits = sc->greets && chance(sc, 50);
    make_ops(sc, wanted);
    make_faults(sc);
}

void scenario_free(struct scenario *sc) {
    for (int i = 0; i < sc->nops; i++) {
        struct op *op = &sc->ops[i];
        for (int r = 0; r < MAX_RANKS; r++) {
            free(op->input[r]);
            free(op->part[r].memory[0]);
            free(op->part[r].memory[1]);
        }
        free(op->expect);
        free(op->agreed);
    }
}

void scenario_print(const struct scenario *sc) {
    char what[256];
    printf("seed %llu: %d ranks, fault: %s; chunk %lld, slots %lld, block %llu, direct_max %llu, "
           "algorithm %u%s\n",
           (unsigned long long)sc->seed, sc->n, fault_name(sc->fault),
           (long long)sc->options.num[RDI_OPT_CHUNK], (long long)sc->options.num[RDI_OPT_SLOTS],
           (unsigned long long)sc->plan.block, (unsigned long long)sc->plan.direct_max,
           sc->plan.algorithm, sc->plan.strict ? ", strict" : "");
    for (int i = 0; i < sc->nops; i++) {
        const struct op *op = &sc->ops[i];
        call_print(&op->call, what, sizeof what);
        printf("  op %d on communicator %d (%d ranks): %s%s%s%s", i, op->group,
               sc->groups[op->group].n, what, op->in_place ? ", in place" : "",
               op->split ? ", split" : "", op->wait ? ", after a wait" : "");
        if (op->call.kind == RDI_SEND) {
            printf(", %d -> %d", op->from, op->to);
        }
        if (op->deviant >= 0) {
            call_print(&op->other, what, sizeof what);
            printf("; rank %d calls %s", op->deviant, what);
        }
        printf("\n");
    }
}
