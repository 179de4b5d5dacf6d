// SPDX-License-Identifier: MIT
// Hubs: nets that comms share, each with a lock, since NCCL calls for different comms from different threads
// and a net belongs to one thread at a time.
#include "transport/nccl/core.h"

#include "transport/bootstrap/bootstrap.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BUSY_COMMS 4        // so many links of a tcp net are read without asking epoll first
#define TCP_CHUNK (1 << 20) // messages land in place, so big ones cost no memory and spare frames
#define DIR_CHUNK 4096
#define DIR_SLOTS 2

static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct rdi_nccl_hub *hubs;
static struct rdi_nccl_keeper *keeper;

static bool is_server(const struct rdi_nccl_hub *h) {
    return h->is.role == RDI_NCCL_DIR_SERVER || h->is.role == RDI_NCCL_DATA_SERVER;
}

static bool is_directory(const struct rdi_nccl_hub *h) {
    return h->is.role == RDI_NCCL_DIR_SERVER || h->is.role == RDI_NCCL_DIR_CLIENT;
}

// ---- Upcalls, with the hub's lock ----------------------------------------------------------------

static rondo_status on_accept(void *self, struct rdi_link *link) {
    struct rdi_nccl_hub *h = self;
    if (!is_server(h)) {
        return rdi_fail(RONDO_ERR_USAGE, "%s %d only sends here", rdi_nccl_self_word(),
                        h->job.rank);
    }
    return rdi_nccl_listen_take(h, link);
}

static void *on_land(void *self, struct rdi_link *link, uint64_t tag, uint32_t len) {
    struct rdi_nccl_hub *h = self;
    // A link that NCCL has not accepted yet has no owner; what arrives waits in a slot.
    if (is_directory(h) || link->owner == NULL) {
        return NULL;
    }
    return rdi_nccl_recv_land(link->owner, tag, len);
}

static void on_ctrl(void *self, struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct rdi_nccl_hub *h = self;
    if (h->is.role == RDI_NCCL_DIR_CLIENT && link->owner != NULL) {
        rdi_nccl_connect_answer(link, type, msg, len);
    }
}

// ---- Opening and closing -------------------------------------------------------------------------

static void set_options(struct rdi_nccl_hub *h) {
    if (!is_directory(h)) {
        rdi_nccl_device_options(h->is.ops, h->is.dev, h->is.traffic_class, &h->options);
        if (h->is.ops == &rdi_tcp_ops && h->options.num[RDI_OPT_CHUNK] == 0) {
            h->options.num[RDI_OPT_CHUNK] = TCP_CHUNK;
        }
        return;
    }
    h->options = *rdi_nccl_options();
    h->options.num[RDI_OPT_TCP_SOCKETS] = 1;
    h->options.num[RDI_OPT_SLOTS] = DIR_SLOTS;
    h->options.num[RDI_OPT_CHUNK] = DIR_CHUNK;
}

static void hub_free(struct rdi_nccl_hub *h) {
    if (h->net != NULL) {
        h->net->ops->close(h->net);
    }
    pthread_mutex_destroy(&h->lock);
    rdi_job_clear(&h->job);
    explicit_bzero(h, sizeof *h);
    free(h);
}

static rondo_status hub_new(const struct rdi_nccl_hub_key *key, struct rdi_nccl_hub **out) {
    struct rdi_nccl_hub *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a %s net", key->ops->name);
    }
    pthread_mutex_init(&h->lock, NULL);
    h->is = *key;
    h->refs = 1;
    h->job =
        (struct rdi_job){.rank = rdi_nccl_self(), .size = INT_MAX, .local_rank = -1, .auth = true};
    rdi_host_find(&h->job);
    set_options(h);
    h->events =
        (struct rdi_net_events){.self = h, .accept = on_accept, .land = on_land, .ctrl = on_ctrl};
    struct rdi_net_params params = {
        .env = *rdi_nccl_env(), .options = &h->options, .job = &h->job, .events = &h->events};
    rondo_status s = rdi_job_key(&h->job, key->key);
    s = s == RONDO_OK ? key->ops->open(&params, &h->net) : s;
    if (s != RONDO_OK) {
        h->net = NULL;
        hub_free(h);
        return s;
    }
    *out = h;
    return RONDO_OK;
}

static bool same_key(const struct rdi_nccl_hub_key *a, const struct rdi_nccl_hub_key *b) {
    return a->ops == b->ops && a->role == b->role && a->dev == b->dev &&
           a->traffic_class == b->traffic_class && memcmp(a->key, b->key, sizeof a->key) == 0;
}

rondo_status rdi_nccl_hub_ref(const struct rdi_nccl_hub_key *key, struct rdi_nccl_hub **out) {
    rondo_status s = RONDO_OK;
    pthread_mutex_lock(&registry);
    struct rdi_nccl_hub *h = hubs;
    while (h != NULL && !same_key(&h->is, key)) {
        h = h->next;
    }
    if (h != NULL) {
        h->refs++;
    } else {
        s = hub_new(key, &h);
        if (s == RONDO_OK) {
            h->next = hubs;
            hubs = h;
            keeper = keeper != NULL ? keeper : rdi_nccl_keeper_start();
        }
    }
    pthread_mutex_unlock(&registry);
    if (s == RONDO_OK) {
        *out = h;
    }
    return s;
}

void rdi_nccl_hub_unref(struct rdi_nccl_hub *h) {
    struct rdi_nccl_keeper *idle = NULL;
    pthread_mutex_lock(&registry);
    bool last = --h->refs == 0;
    if (last) {
        struct rdi_nccl_hub **at = &hubs;
        while (*at != h) {
            at = &(*at)->next;
        }
        *at = h->next;
    }
    if (hubs == NULL) {
        idle = keeper;
        keeper = NULL;
    }
    pthread_mutex_unlock(&registry);
    // The keeper looks at hubs under the registry's lock only, so it has none in hand.
    if (idle != NULL) {
        rdi_nccl_keeper_stop(idle);
    }
    if (last) {
        hub_free(h);
    }
}

// ---- Progress ------------------------------------------------------------------------------------

void rdi_nccl_hub_turn(struct rdi_nccl_hub *h, bool messages) {
    h->turns++;
    // NCCL tests in a loop. Sparing system calls is worth it while the net knows which links to look at; to set
    // up new ones it must ask for all that there is.
    bool busy = messages && (h->is.ops == &rdi_verbs_ops || h->ncomms <= BUSY_COMMS);
    h->net->ops->progress(h->net, busy);
    if (h->is.role == RDI_NCCL_DIR_SERVER) {
        rdi_nccl_listen_answer(h);
    }
}

void rdi_nccl_hub_add_comm(struct rdi_nccl_hub *h, struct rdi_nccl_comm *c) {
    c->next = h->comms;
    h->comms = c;
    h->ncomms++;
}

void rdi_nccl_hub_remove_comm(struct rdi_nccl_hub *h, struct rdi_nccl_comm *c) {
    struct rdi_nccl_comm **at = &h->comms;
    while (*at != c) {
        at = &(*at)->next;
    }
    *at = c->next;
    h->ncomms--;
}

// Acknowledgements, handshakes and lost paths do not wait until NCCL has something to send again.
static void keep(struct rdi_nccl_hub *h) {
    if (h->turns == h->turns_seen) {
        h->net->ops->progress(h->net, false);
        if (h->is.role == RDI_NCCL_DIR_SERVER) {
            rdi_nccl_listen_answer(h);
        }
        for (struct rdi_nccl_comm *c = h->comms; c != NULL; c = c->next) {
            rdi_nccl_comm_pump(c);
        }
        // What was put off, such as credit, is said now.
        uint64_t timeout = UINT64_MAX;
        h->net->ops->arm(h->net, &timeout);
        h->net->ops->disarm(h->net);
    }
    h->turns_seen = h->turns;
}

void rdi_nccl_hubs_keep(void) {
    pthread_mutex_lock(&registry);
    for (struct rdi_nccl_hub *h = hubs; h != NULL; h = h->next) {
        // One that is locked is being looked after.
        if (pthread_mutex_trylock(&h->lock) == 0) {
            keep(h);
            pthread_mutex_unlock(&h->lock);
        }
    }
    pthread_mutex_unlock(&registry);
}
