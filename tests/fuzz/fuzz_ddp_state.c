// SPDX-License-Identifier: MIT
// How ranks agree before they train, and how a newcomer takes over a peer's state: options, counters and the order of
// buckets as another rank has sent them. The communicator is the target's. A state that is taken over has each parameter
// in one bucket; options that differ are named; what is not the newcomer's own memory stays as it is.
//
//   input[0]  bits 0-1 ranks - 1, 2-3 this rank, 4 it is fresh, 5 it holds the origin, 6 elastic
//   input[1]  bits 0-1 parameters - 1, 2 states
//   then      for each rank a byte: bit 0 its hello is the input's, 1 fresh, 2 origin;  what is received
#include "ddp/internal.h"
#include "fuzz.h"

#define RANKS 4
#define PARAMS 4
#define WORDS 19 // of a hello

static struct input in;
static int ranks, me;
static size_t requests, waited;

int __wrap_rondo_comm_size(const rondo_comm *comm);
int __wrap_rondo_comm_size(const rondo_comm *comm) {
    (void)comm;
    return ranks;
}
int __wrap_rondo_comm_rank(const rondo_comm *comm);
int __wrap_rondo_comm_rank(const rondo_comm *comm) {
    (void)comm;
    return me;
}

rondo_status __wrap_rondo_all_gather(const void *send, void *recv, size_t count, rondo_type type,
                                     rondo_comm *comm);
rondo_status __wrap_rondo_all_gather(const void *send, void *recv, size_t count, rondo_type type,
                                     rondo_comm *comm) {
    (void)comm;
    MUST(count == WORDS && type == RONDO_U64);
    uint64_t mine[WORDS];
    memcpy(mine, send, sizeof mine);
    for (int r = 0; r < ranks; r++) {
        uint64_t says[WORDS];
        memcpy(says, mine, sizeof says);
        uint8_t how = r == me ? 0 : take_byte(&in);
        says[0] = r == me ? mine[0] : how >> 1 & 1;
        says[1] = r == me ? mine[1] : how >> 2 & 1;
        if (how & 1) {
            says[take_byte(&in) % WORDS] = take_number(&in, 8);
        }
        memcpy((char *)recv + (size_t)r * sizeof says, says, sizeof says);
    }
    return RONDO_OK;
}

rondo_status __wrap_rondo_send_start(const void *buf, size_t count, rondo_type type, int peer,
                                     rondo_comm *comm, rondo_request **req);
rondo_status __wrap_rondo_send_start(const void *buf, size_t count, rondo_type type, int peer,
                                     rondo_comm *comm, rondo_request **req) {
    (void)comm;
    MUST(peer >= 0 && peer < ranks && peer != me && count > 0);
    free(own_copy(buf, count * rondo_type_size(type)));
    requests++;
    *req = (rondo_request *)(void *)&requests;
    return RONDO_OK;
}

// The order of parameters comes first, then how often each is marked; a byte of the input says whether it is right.
rondo_status __wrap_rondo_recv_start(void *buf, size_t count, rondo_type type, int peer,
                                     rondo_comm *comm, rondo_request **req);
rondo_status __wrap_rondo_recv_start(void *buf, size_t count, rondo_type type, int peer,
                                     rondo_comm *comm, rondo_request **req) {
    (void)comm;
    MUST(peer >= 0 && peer < ranks && peer != me && count > 0);
    memset(buf, 9, count * rondo_type_size(type));
    uint64_t *words = buf;
    for (size_t i = 0; type == RONDO_U64 && i < count; i++) {
        uint8_t says = take_byte(&in);
        words[i] = says < 0xf0 ? (says + i) % (count / 2) : take_number(&in, 8);
    }
    requests++;
    *req = (rondo_request *)(void *)&requests;
    return RONDO_OK;
}

rondo_status __wrap_rondo_wait_all(rondo_request **reqs, size_t n);
rondo_status __wrap_rondo_wait_all(rondo_request **reqs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        MUST(reqs[i] != NULL);
    }
    waited += n;
    return take_byte(&in) == 0xff ? rdi_fail(RONDO_ERR_PEER, "a rank is lost") : RONDO_OK;
}

rondo_status __wrap_rdi_ddp_broadcast(struct rondo_ddp *d, int root);
rondo_status __wrap_rdi_ddp_broadcast(struct rondo_ddp *d, int root) {
    MUST(d != NULL && root >= 0 && root < ranks);
    return RONDO_OK;
}

// Blocks of their own, for the sanitizers.
rondo_status __wrap_rondo_mem_alloc(size_t bytes, void **out);
rondo_status __wrap_rondo_mem_alloc(size_t bytes, void **out) {
    MUST(bytes < 1 << 16);
    *out = calloc(1, bytes > 0 ? bytes : 1);
    return *out != NULL ? RONDO_OK : RONDO_ERR_NOMEM;
}
rondo_status __wrap_rondo_mem_free(void *mem);
rondo_status __wrap_rondo_mem_free(void *mem) {
    free(mem);
    return RONDO_OK;
}

// ---- A ddp object --------------------------------------------------------------------------------

static void make(struct rondo_ddp *d, uint8_t first, uint8_t second) {
    static const rondo_type types[PARAMS] = {RONDO_F32, RONDO_F64, RONDO_BF16, RONDO_F32};
    *d = (struct rondo_ddp){.place = &rdi_place_host,
                            .nparams = 1 + (second & 3),
                            .first_bytes = 64,
                            .cap_bytes = 128,
                            .elastic = first >> 6 & 1,
                            .fresh = first >> 4 & 1,
                            .origin = first >> 5 & 1,
                            .nstates = second >> 2 & 1};
    d->params = calloc(d->nparams, sizeof *d->params);
    d->layout = calloc(d->nparams, sizeof *d->layout);
    d->order = calloc(d->nparams, sizeof *d->order);
    d->states = calloc(1, sizeof *d->states);
    d->used_map = calloc(d->nparams, 1);
    MUST(d->params && d->layout && d->order && d->states && d->used_map);
    for (size_t i = 0; i < d->nparams; i++) {
        size_t count = 3 + 7 * i, bytes = count * rondo_type_size(types[i]);
        d->params[i] = (struct rdi_param){
            .data = calloc(1, bytes), .count = count, .bytes = bytes, .type = types[i]};
        d->layout[i] = i;
        MUST(d->params[i].data != NULL);
    }
    if (d->nstates) {
        d->states[0] = (rondo_ddp_state){.data = calloc(1, 33), .bytes = 33};
    }
    MUST(rdi_bucket_assign(d->params, d->nparams, d->layout, d->first_bytes, d->cap_bytes,
                           &d->buckets, &d->nbuckets) == RONDO_OK);
    MUST(rdi_bucket_alloc(d, d->buckets, d->nbuckets) == RONDO_OK);
}

static void check(const struct rondo_ddp *d) {
    size_t params = 0;
    for (size_t b = 0; b < d->nbuckets; b++) {
        MUST(d->buckets[b].params > 0 && d->buckets[b].mem != NULL);
        params += d->buckets[b].params;
    }
    MUST(params == d->nparams);
    for (size_t i = 0; i < d->nparams; i++) {
        const struct rdi_param *p = &d->params[i];
        MUST(p->bucket < d->nbuckets && d->buckets[p->bucket].type == p->type);
        MUST(p->offset + p->bytes <= d->buckets[p->bucket].count * rondo_type_size(p->type));
        MUST(d->layout[i] < d->nparams);
        // Only a newcomer is written to.
        uint8_t byte = *(const uint8_t *)p->data;
        MUST(byte == 0 || (byte == 9 && d->fresh));
    }
}

static void end(struct rondo_ddp *d) {
    rdi_bucket_free(d, d->buckets, d->nbuckets);
    for (size_t i = 0; i < d->nparams; i++) {
        free(d->params[i].data);
    }
    free(d->states[0].data);
    free(d->states);
    free(d->params);
    free(d->layout);
    free(d->order);
    free(d->used_map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct rondo_ddp d;
    in = (struct input){.at = data, .left = size};
    uint8_t first = take_byte(&in);
    ranks = 1 + (first & 3);
    me = (first >> 2 & 3) % ranks;
    requests = waited = 0;
    make(&d, first, take_byte(&in));
    rondo_status s = rdi_ddp_hand_over(&d);
    MUST(s == RONDO_OK || rondo_last_error()[0] != '\0');
    MUST(waited == requests);
    MUST(!d.joined || (s == RONDO_OK && d.fresh));
    check(&d);
    end(&d);
    return 0;
}
