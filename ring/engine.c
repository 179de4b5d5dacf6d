// SPDX-License-Identifier: MIT
// The engine: one per rank. Owns the nets and the communicators and moves them forward; knows no clock,
// thread or sleep of its own (driver.c and the simulator do), so that thousands can live in one process.
#include "ring/cuda/gpu.h"
#include "ring/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ORPHANS 8192

static struct rondo_comm *find_comm(struct rdi_engine *e, uint64_t id) {
    for (struct rondo_comm *c = e->comms; c; c = c->next) {
        if (c->id == id) {
            return c;
        }
    }
    return NULL;
}

// ---- Upcalls of the nets -------------------------------------------------------------------------

// A peer may open a link before this rank has created the communicator (it left a split earlier): such a
// link waits as an orphan and is adopted by rdi_comm_create().
static rondo_status on_accept(void *self, struct rdi_link *link) {
    struct rdi_engine *e = self;
    link->owner = NULL;
    if (link->id.to != (uint32_t)e->job.rank || link->id.from >= (uint32_t)e->job.size ||
        link->id.channel >= RDI_CHANNELS) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rank %d refuses a link that says it goes from rank %u to rank %u",
                        e->job.rank, link->id.from, link->id.to);
    }
    struct rondo_comm *c = find_comm(e, link->id.comm);
    if (c) {
        if (atomic_load(&c->status) != RONDO_OK) {
            return rdi_fail((rondo_status)atomic_load(&c->status), "%s", c->why);
        }
        (void)rdi_comm_adopt(c, link);
        return RONDO_OK;
    }
    bool over = false;
    for (unsigned i = 0; i < RDI_TOMBS && i < e->ntombs; i++) {
        const struct rdi_tomb *t = &e->tombs[i];
        if (t->id == link->id.comm && t->status != RONDO_OK) {
            return rdi_fail(t->status, "%s", t->why);
        }
        // Destroyed in good order: a good-bye is no failure to a peer that only wanted to leave a signature,
        // and an error to one that waits for data.
        over |= t->id == link->id.comm;
    }
    if (e->norphans == MAX_ORPHANS) {
        return rdi_fail(RONDO_ERR_USAGE,
                        "rank %d: too many links for communicators it has not created",
                        e->job.rank);
    }
    if (e->norphans == e->cap_orphans) {
        unsigned cap = e->cap_orphans ? 2 * e->cap_orphans : 16;
        struct rdi_orphan *more = realloc(e->orphans, cap * sizeof *more);
        if (!more) {
            return rdi_fail(RONDO_ERR_NOMEM, "out of memory for %u waiting links", cap);
        }
        e->orphans = more;
        e->cap_orphans = cap;
    }
    e->orphans[e->norphans++] = (struct rdi_orphan){.link = link, .over = over};
    return RONDO_OK;
}

static void *on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    (void)self;
    return link->owner ? rdi_edge_land(link->owner, tag, len) : NULL;
}

static void on_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct rdi_engine *e = self;
    struct rdi_edge *edge = link->owner;
    if (edge) {
        rdi_comm_ctrl(edge->comm, edge, type, msg, len);
        return;
    }
    for (unsigned i = 0; i < e->norphans; i++) {
        struct rdi_orphan *o = &e->orphans[i];
        // One early signature is enough to find a mismatch; an abort shows when the link ends.
        if (o->link == link && type == RDI_CTRL_SIG && len == sizeof o->sig && !o->has_sig) {
            memcpy(&o->sig, msg, sizeof o->sig);
            o->has_sig = true;
        }
    }
}

static bool on_slots(void *self, struct rdi_link *link, struct rdi_device_slots *io) {
    struct rondo_comm *c = find_comm(self, link->id.comm);
    return c && rdi_gpu_slots(c, link, io);
}

// ---- Life ----------------------------------------------------------------------------------------

rondo_status rdi_engine_create(const struct rdi_env *env, const struct rdi_options *options,
                               const struct rdi_job *job, const struct rdi_net_ops *const *ops,
                               unsigned n, void *extra, const struct rdi_rails *rails,
                               struct rdi_engine **out) {
    struct rdi_engine *e = calloc(1, sizeof *e);
    struct rdi_peer *peers = calloc((size_t)job->size, sizeof *peers);
    if (!e || !peers) {
        free(e);
        free(peers);
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for a job of %d ranks", job->size);
    }
    e->env = *env;
    e->options = *options;
    rdi_job_copy(&e->job, job);
    e->peers = peers;
    e->all_watch = true;
    e->cpu = -1;
    e->events = (struct rdi_net_events){
        .self = e, .accept = on_accept, .land = on_land, .ctrl = on_ctrl, .slots = on_slots};
    struct rdi_net_params params = {.env = *env,
                                    .options = &e->options,
                                    .job = &e->job,
                                    .events = &e->events,
                                    .rails = rails,
                                    .extra = extra};
    rondo_status s = RONDO_OK;
    for (unsigned i = 0; i < n && i < RDI_MAX_NETS && s == RONDO_OK; i++) {
        s = ops[i]->open(&params, &e->nets[e->nnets]);
        if (s == RONDO_OK) {
            e->nnets++;
        } else if (s == RONDO_ERR_UNSUPPORTED) {
            rdi_log(env, RONDO_LOG_INFO, "transport %s is not used: %s", ops[i]->name,
                    rondo_last_error());
            s = RONDO_OK;
        }
    }
    if (s == RONDO_OK && e->nnets == 0 && n > 0) {
        s = rdi_fail_prefix(RONDO_ERR_UNSUPPORTED, "no transport works on this machine");
    }
    if (s != RONDO_OK) {
        rdi_engine_destroy(e);
        return s;
    }
    *out = e;
    return RONDO_OK;
}

// ---- The watch -----------------------------------------------------------------------------------

rondo_status rdi_engine_watch(struct rdi_engine *e, const struct rdi_net_ops *ops, void *extra,
                              void (*wake)(void *arg), void *arg) {
    rondo_status s = rdi_watch_open(&e->env, &e->options, &e->job, e->incarnation, ops, extra, wake,
                                    arg, &e->watch);
    if (s == RONDO_ERR_UNSUPPORTED) {
        rdi_log(&e->env, RONDO_LOG_WARN, "this rank's peers are not watched: %s",
                rondo_last_error());
        s = RONDO_OK;
    }
    return s;
}

rondo_status rdi_engine_watch_begin(struct rdi_engine *e, bool threaded) {
    if (e->watch && !e->all_watch) {
        rdi_log(&e->env, RONDO_LOG_WARN,
                "not all ranks can be watched: failures show at the data path only");
        rdi_watch_close(e->watch);
        e->watch = NULL;
    }
    return e->watch ? rdi_watch_begin(e->watch, threaded) : RONDO_OK;
}

static void free_peer(struct rdi_peer *p) {
    for (int i = 0; i < RDI_MAX_NETS; i++) {
        free(p->blob[i]);
    }
}

static void free_peers(struct rdi_engine *e) {
    // Of thousands of engines that are lent their peers each has a table that it never touched.
    for (int r = 0; e->peers_added && r < e->job.size && !e->peers_lent; r++) {
        free_peer(&e->peers[r]);
    }
    if (!e->peers_lent) {
        free(e->peers);
    }
}

void rdi_engine_destroy(struct rdi_engine *e) {
    if (e->watch) {
        rdi_watch_close(e->watch);
    }
    while (e->comms) {
        rdi_comm_free(e->comms, false);
    }
    for (unsigned i = 0; i < e->norphans; i++) {
        e->orphans[i].link->ops->close_link(e->orphans[i].link, false);
    }
    for (unsigned i = 0; i < e->nnets; i++) {
        e->nets[i]->ops->close(e->nets[i]);
    }
    rdi_recorder_free(&e->recorder);
    rdi_job_clear(&e->job);
    free(e->orphans);
    free_peers(e);
    free(e);
}

// ---- Records: what ranks tell each other before links exist --------------------------------------
//
//   magic u32 | pid u32 | flags u32 | host_id 16 | host 64 | seat | plan | nets u32 | { name 8, len u32, blob } … | watch

#define RECORD_MAGIC 0x34444e52u
#define RECORD_SEAT (28 + RDI_HOST_MAX)
#define RECORD_FIXED (RECORD_SEAT + RDI_SEAT_WIRE) // up to the plan
#define RECORD_ENCRYPTS 1u
_Static_assert(RECORD_FIXED + sizeof(struct rdi_plan) + 4 + RDI_MAX_NETS * (12 + RDI_BLOB_MAX) +
                       sizeof(struct rdi_watch_peer) <=
                   RDI_RECORD_MAX,
               "the longest record fits");

static uint32_t record_flags(const struct rdi_engine *e) {
    return e->options.num[RDI_OPT_ENCRYPT] != 0 ? RECORD_ENCRYPTS : 0;
}

// Connections are refused between ranks that differ here, too; this way all ranks learn it at once.
static rondo_status check_flags(const struct rdi_engine *e, int rank, uint32_t flags) {
    uint32_t own = record_flags(e);
    if (flags == own) {
        return RONDO_OK;
    }
    if (flags > RECORD_ENCRYPTS) {
        return rdi_fail(RONDO_ERR_VERSION,
                        "rank %d wants what this version (%s) does not know (flags %#x); use one "
                        "version of Rondo on all hosts",
                        rank, rondo_version(), flags);
    }
    return rdi_fail(
        RONDO_ERR_INVALID,
        "rank %d on host %s has encrypt=%s, rank %d on host %s has encrypt=%s: give all "
        "ranks the same (RONDO_ENCRYPT)",
        e->job.rank, e->job.host, own != 0 ? "yes" : "no", rank, e->peers[rank].host,
        flags != 0 ? "yes" : "no");
}

size_t rdi_engine_record(struct rdi_engine *e, const struct rdi_plan *plan, void *buf) {
    char *p = buf;
    uint32_t word[3] = {RECORD_MAGIC, (uint32_t)e->peers[e->job.rank].pid, record_flags(e)};
    memcpy(p, word, 12);
    memcpy(p + 12, e->job.host_id, 16);
    memcpy(p + 28, e->job.host, RDI_HOST_MAX);
    rdi_seat_write(&e->seat, (uint8_t *)p + RECORD_SEAT);
    p += RECORD_FIXED;
    memcpy(p, plan, sizeof *plan);
    p += sizeof *plan;
    uint32_t nets = 0;
    char *count = p;
    p += 4;
    for (unsigned i = 0; i < e->nnets; i++) {
        uint8_t blob[RDI_BLOB_MAX];
        size_t len = sizeof blob;
        if (e->nets[i]->ops->address(e->nets[i], blob, &len) != RONDO_OK) {
            continue;
        }
        char name[8] = "";
        strncpy(name, e->nets[i]->ops->name, sizeof name - 1);
        uint32_t n = (uint32_t)len;
        memcpy(p, name, 8);
        memcpy(p + 8, &n, 4);
        memcpy(p + 12, blob, len);
        p += 12 + len;
        nets++;
    }
    memcpy(count, &nets, 4);
    struct rdi_watch_peer self = {.blob_len = 0};
    if (e->watch) {
        rdi_watch_self(e->watch, &self);
    }
    memcpy(p, &self, sizeof self);
    return (size_t)(p + sizeof self - (char *)buf);
}

rondo_status rdi_engine_add_peer(struct rdi_engine *e, int rank, const void *record, size_t len,
                                 struct rdi_plan *plan) {
    const char *p = record, *end = p + len;
    const size_t head = RECORD_FIXED + sizeof(struct rdi_plan) + 4;
    uint32_t word[3], nets;
    if (len < head || (memcpy(word, p, 12), word[0]) != RECORD_MAGIC) {
        return rdi_fail(
            RONDO_ERR_VERSION,
            "rank %d sent a record that this version (%s) cannot read; use one version of Rondo "
            "on all hosts",
            rank, rondo_version());
    }
    struct rdi_peer *peer = &e->peers[rank];
    free_peer(peer);
    memset(peer, 0, sizeof *peer);
    e->peers_added = true;
    e->hosts_known = false;
    peer->net = 255;
    peer->pid = (int)word[1];
    memcpy(peer->host_id, p + 12, 16);
    memcpy(peer->host, p + 28, RDI_HOST_MAX);
    rdi_printable(peer->host, sizeof peer->host);
    rdi_seat_read(&peer->seat, (const uint8_t *)p + RECORD_SEAT);
    p += RECORD_FIXED;
    rondo_status s = check_flags(e, rank, word[2]);
    if (s != RONDO_OK) {
        return s;
    }
    if (plan) {
        memcpy(plan, p, sizeof *plan);
        if (!rdi_plan_valid(plan)) {
            return rdi_fail(RONDO_ERR_VERSION,
                            "rank %d's plan (algorithm %u, blocks of %llu bytes) is not one that "
                            "this version (%s) can follow; use one version of Rondo on all hosts",
                            rank, plan->algorithm, (unsigned long long)plan->block,
                            rondo_version());
        }
    }
    p += sizeof *plan;
    memcpy(&nets, p, 4);
    p += 4;
    for (uint32_t i = 0; i < nets; i++) {
        char name[8];
        uint32_t n;
        if (end - p < 12 || (memcpy(name, p, 8), memcpy(&n, p + 8, 4), name[7] != '\0') ||
            n > RDI_BLOB_MAX || (size_t)(end - p) < 12 + (size_t)n) {
            return rdi_fail(RONDO_ERR_INVALID, "rank %d sent a malformed address record", rank);
        }
        for (unsigned k = 0; k < e->nnets; k++) {
            if (strcmp(name, e->nets[k]->ops->name) == 0 && n > 0 && !peer->blob[k]) {
                peer->blob[k] = malloc(n);
                if (!peer->blob[k]) {
                    return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the address of rank %d",
                                    rank);
                }
                memcpy(peer->blob[k], p + 12, n);
                peer->blob_len[k] = (uint16_t)n;
            }
        }
        p += 12 + n;
    }
    struct rdi_watch_peer watch;
    if ((size_t)(end - p) < sizeof watch ||
        (memcpy(&watch, p, sizeof watch), watch.blob_len > RDI_BLOB_MAX)) {
        return rdi_fail(RONDO_ERR_INVALID, "rank %d sent a malformed address record", rank);
    }
    e->all_watch = e->all_watch && watch.blob_len > 0;
    if (e->watch) {
        rdi_watch_add(e->watch, rank, &watch);
    }
    return RONDO_OK;
}

struct on_host {
    uint8_t id[16];
    int rank;
};

static int by_host(const void *a, const void *b) {
    const struct on_host *x = a, *y = b;
    int c = memcmp(x->id, y->id, sizeof x->id);
    return c ? c : (x->rank > y->rank) - (x->rank < y->rank);
}

// Sorted, as there may be thousands.
bool rdi_engine_know_hosts(struct rdi_engine *e) {
    size_t n = (size_t)e->job.size;
    if (e->hosts_known) {
        return true;
    }
    struct on_host *list = malloc(n * sizeof *list);
    if (!list) {
        return false;
    }
    for (size_t r = 0; r < n; r++) {
        memcpy(list[r].id, e->peers[r].host_id, sizeof list[r].id);
        list[r].rank = (int)r;
    }
    qsort(list, n, sizeof *list, by_host);
    for (size_t i = 0, first = 0; i < n; i++) {
        first = memcmp(list[i].id, list[first].id, sizeof list[i].id) == 0 ? first : i;
        e->peers[list[i].rank].first = list[first].rank;
    }
    free(list);
    e->hosts_known = true;
    return true;
}

rondo_status rdi_engine_lend_peers(struct rdi_engine *from, struct rdi_engine *to) {
    if (!rdi_engine_know_hosts(from)) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory for the hosts of %d ranks", from->job.size);
    }
    free_peers(to);
    to->peers = from->peers;
    to->peers_lent = to->hosts_known = true;
    return RONDO_OK;
}

rondo_status rdi_engine_route(struct rdi_engine *e, int world_rank, struct rdi_net **net) {
    struct rdi_peer *p = &e->peers[world_rank];
    char why[512] = "";
    size_t at = 0;
    for (unsigned i = 0; p->net == 255 && i < e->nnets; i++) {
        rondo_status s = RONDO_ERR_UNSUPPORTED;
        if (p->blob_len[i] == 0) {
            s = rdi_fail(s, "the peer does not offer it");
        } else {
            s = e->nets[i]->ops->reach(e->nets[i], p->blob[i], p->blob_len[i]);
        }
        if (s == RONDO_OK) {
            p->net = (uint8_t)i;
        } else if (at < sizeof why) {
            int n = snprintf(why + at, sizeof why - at, "%s%s: %s", at ? "; " : "",
                             e->nets[i]->ops->name, rondo_last_error());
            at += n > 0 ? (size_t)n : 0;
        }
    }
    if (p->net == 255) {
        return rdi_fail(RONDO_ERR_PATH,
                        "no transport reaches rank %d on host %s from rank %d on host %s (%s)",
                        world_rank, p->host, e->job.rank, e->job.host, why);
    }
    *net = e->nets[p->net];
    return RONDO_OK;
}

// ---- Progress ------------------------------------------------------------------------------------

void rdi_engine_push(struct rdi_engine *e, struct rondo_request *r) {
    atomic_fetch_add(&e->active, 1);
    struct rondo_request *top = atomic_load_explicit(&e->inbox, memory_order_relaxed);
    do {
        r->next = top;
    } while (!atomic_compare_exchange_weak(&e->inbox, &top, r));
}

static int drain_inbox(struct rdi_engine *e) {
    if (!atomic_load_explicit(&e->inbox, memory_order_relaxed)) {
        return 0;
    }
    // The stack holds the newest first; turn it round.
    struct rondo_request *list = atomic_exchange(&e->inbox, NULL), *fifo = NULL;
    int n = 0;
    while (list) {
        struct rondo_request *next = list->next;
        list->next = fifo;
        fifo = list;
        list = next;
        n++;
    }
    while (fifo) {
        struct rondo_request *next = fifo->next;
        rdi_op_submit(fifo);
        fifo = next;
    }
    return n;
}

static void close_over(struct rdi_engine *e) {
    for (unsigned i = 0; i < e->norphans;) {
        struct rdi_orphan *o = &e->orphans[i];
        if (o->over) {
            o->link->ops->close_link(o->link, true);
            *o = e->orphans[--e->norphans];
        } else {
            i++;
        }
    }
}

int rdi_engine_progress(struct rdi_engine *e, bool busy) {
    int moved = drain_inbox(e);
    for (unsigned i = 0; i < e->nnets; i++) {
        moved += e->nets[i]->ops->progress(e->nets[i], busy);
    }
    close_over(e);
    uint64_t now = e->recorder.now = rdi_now(&e->env);
    moved += rdi_fault_progress(e, now);
    for (struct rondo_comm *c = e->comms; c; c = c->next) {
        moved += rdi_comm_progress(c, now, false);
    }
    return moved;
}

uint64_t rdi_engine_next_deadline(const struct rdi_engine *e) {
    uint64_t t = rdi_fault_next(e);
    for (const struct rondo_comm *c = e->comms; c; c = c->next) {
        if (atomic_load_explicit(&c->status, memory_order_relaxed) != RONDO_OK) {
            // Its operations end with the drain, whatever their own deadlines are.
            t = !c->drained && c->drain_until < t ? c->drain_until : t;
            continue;
        }
        if (c->accused.stage != RDI_NOT_ACCUSED) {
            continue; // stands still; rdi_fault_next() knows until when
        }
        for (const struct rondo_request *r = c->head; r; r = r->next) {
            t = r->deadline < t ? r->deadline : t;
            t = r->warn_at < t ? r->warn_at : t;
        }
    }
    return t;
}

bool rdi_engine_device_busy(const struct rdi_engine *e) {
    for (const struct rondo_comm *c = e->comms; c; c = c->next) {
        // Of a failed communicator's operations the device goes through what is left.
        bool failed = c->gpu && atomic_load_explicit(&c->status, memory_order_relaxed) != RONDO_OK;
        for (const struct rondo_request *r = c->gpu ? c->head : NULL; r; r = r->next) {
            if (r->gpu && (failed || rdi_gpu_busy(r))) {
                return true;
            }
        }
    }
    return false;
}
