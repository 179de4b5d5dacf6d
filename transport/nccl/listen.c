// SPDX-License-Identifier: MIT
// The receiving side of a connection: listen() and accept().
//
//   connector                    directory (tcp, this process)           data hub (tcp or verbs)
//     link, id = the listen's ---->  known? else refused
//     <------------- ANSWER: wire, address of the data hub
//     good-bye ------------------->
//     link, id = the listen's ------------------------------------------->  known? else refused
//                                                                     UP: accept() gives a comm
//
// Links of either kind prove the key of the handle before the transport tells of them.
#include "transport/nccl/core.h"

#include "transport/tcp/bytes.h"
#include "transport/tcp/hello.h"

#include <stdlib.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint8_t own_key[RDI_KEY_BYTES]; // of all that this process receives

static void make_key(void) {
    const struct rdi_env *env = rdi_nccl_env();
    env->random(env->self, own_key, sizeof own_key);
}

// ---- Incoming links, with the hub's lock ---------------------------------------------------------

static int kind_of(const struct rdi_nccl_hub *h) {
    return h->is.role == RDI_NCCL_DIR_SERVER ? RDI_NCCL_DIR : RDI_NCCL_DATA;
}

rondo_status rdi_nccl_listen_take(struct rdi_nccl_hub *h, struct rdi_link *link) {
    int kind = kind_of(h);
    struct rdi_nccl_listen *l = h->listens;
    while (l != NULL && l->id != link->id.comm) {
        l = l->next[kind];
    }
    if (l == NULL) {
        return rdi_fail(RONDO_ERR_PEER, "%s %d on host %s listens no more for this connection",
                        rdi_nccl_self_word(), h->job.rank, h->job.host);
    }
    struct rdi_nccl_incoming *in = calloc(1, sizeof *in);
    if (in == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a connection");
    }
    in->link = link;
    struct rdi_nccl_incoming **at = &l->incoming[kind];
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = in;
    return RONDO_OK;
}

// Takes it off its list; returns its link.
static struct rdi_link *take_off(struct rdi_nccl_incoming **at) {
    struct rdi_nccl_incoming *in = *at;
    struct rdi_link *link = in->link;
    *at = in->next;
    free(in);
    return link;
}

static void drop(struct rdi_nccl_incoming **at, bool bye) {
    struct rdi_link *link = take_off(at);
    link->ops->close_link(link, bye);
}

static bool is_over(const struct rdi_link *link) {
    return link->state == RDI_LINK_FAILED || link->state == RDI_LINK_CLOSED;
}

static void answer(struct rdi_nccl_listen *l) {
    for (struct rdi_nccl_incoming **at = &l->incoming[RDI_NCCL_DIR]; *at != NULL;) {
        struct rdi_nccl_incoming *in = *at;
        if (is_over(in->link)) {
            drop(at, false);
            continue;
        }
        if (in->link->state == RDI_LINK_UP && !in->told) {
            in->told = in->link->ops->ctrl(in->link, RDI_NCCL_ANSWER, l->answer, l->answer_len) ==
                       RONDO_OK;
        }
        at = &in->next;
    }
}

void rdi_nccl_listen_answer(struct rdi_nccl_hub *h) {
    for (struct rdi_nccl_listen *l = h->listens; l != NULL; l = l->next[RDI_NCCL_DIR]) {
        answer(l);
    }
}

// The first link that can be accepted; those that came to nothing are dropped.
static struct rdi_link *find_ready(struct rdi_nccl_listen *l) {
    for (struct rdi_nccl_incoming **at = &l->incoming[RDI_NCCL_DATA]; *at != NULL;) {
        struct rdi_link *link = (*at)->link;
        bool data = link->arrived > link->released;
        if (link->state == RDI_LINK_UP || (link->state == RDI_LINK_CLOSED && data)) {
            return take_off(at);
        }
        if (is_over(link)) {
            rdi_nccl_log(RDI_NCCL_LOG_INFO, "NET/" RDI_NCCL_NAME ": dropped before accept(): %s",
                         link->why[0] != '\0' ? link->why : "the sender closed the connection");
            drop(at, false);
            continue;
        }
        at = &(*at)->next;
    }
    return NULL;
}

// ---- listen() ------------------------------------------------------------------------------------

static rondo_status open_hubs(struct rdi_nccl_listen *l, int traffic_class) {
    struct rdi_nccl_hub_key key = {.ops = &rdi_tcp_ops,
                                   .role = RDI_NCCL_DIR_SERVER,
                                   .dev = RDI_NCCL_ALL_RAILS,
                                   .traffic_class = RDI_NCCL_UNDEFINED};
    memcpy(key.key, own_key, sizeof key.key);
    rondo_status s = rdi_nccl_hub_ref(&key, &l->hub[RDI_NCCL_DIR]);
    if (s == RONDO_OK) {
        key.ops = rdi_nccl_device_ops();
        key.role = RDI_NCCL_DATA_SERVER;
        key.dev = l->dev;
        key.traffic_class = traffic_class;
        s = rdi_nccl_hub_ref(&key, &l->hub[RDI_NCCL_DATA]);
    }
    return s;
}

static rondo_status address_of(struct rdi_nccl_hub *h, uint8_t blob[RDI_BLOB_MAX], size_t *len) {
    pthread_mutex_lock(&h->lock);
    rondo_status s = h->net->ops->address(h->net, blob, len);
    pthread_mutex_unlock(&h->lock);
    return s;
}

static rondo_status make_answer(struct rdi_nccl_listen *l) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    rondo_status s = address_of(l->hub[RDI_NCCL_DATA], blob, &len);
    if (s != RONDO_OK) {
        return s;
    }
    struct rdi_cursor c = {.at = l->answer, .size = sizeof l->answer, .ok = true};
    bool verbs = l->hub[RDI_NCCL_DATA]->is.ops == &rdi_verbs_ops;
    rdi_cursor_put(&c, RDI_NCCL_WIRE_VERSION, 1);
    rdi_cursor_put(&c, verbs ? RDI_NCCL_WIRE_VERBS : RDI_NCCL_WIRE_TCP, 1);
    rdi_cursor_put(&c, (uint32_t)getpid(), 4);
    rdi_cursor_put_bytes(&c, blob, len);
    l->answer_len = c.used;
    return RONDO_OK;
}

static rondo_status make_handle(struct rdi_nccl_listen *l, void *handle) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    struct rdi_tcp_blob address;
    struct rdi_nccl_handle h = {.listen = l->id, .number = rdi_nccl_self()};
    memcpy(h.key, own_key, sizeof h.key);
    rondo_status s = address_of(l->hub[RDI_NCCL_DIR], blob, &len);
    if (s == RONDO_OK &&
        (!rdi_tcp_blob_read(&address, blob, len) || !rdi_nccl_handle_write(&h, &address, handle))) {
        s = rdi_fail(RONDO_ERR_INTERNAL, "an address does not fit into a handle");
    }
    return s;
}

static void link_in(struct rdi_nccl_listen *l, int kind) {
    struct rdi_nccl_hub *h = l->hub[kind];
    pthread_mutex_lock(&h->lock);
    l->next[kind] = h->listens;
    h->listens = l;
    pthread_mutex_unlock(&h->lock);
}

static void link_out(struct rdi_nccl_listen *l, int kind) {
    struct rdi_nccl_hub *h = l->hub[kind];
    pthread_mutex_lock(&h->lock);
    struct rdi_nccl_listen **at = &h->listens;
    while (*at != l) {
        at = &(*at)->next[kind];
    }
    *at = l->next[kind];
    while (l->incoming[kind] != NULL) {
        drop(&l->incoming[kind], true);
    }
    pthread_mutex_unlock(&h->lock);
}

static void free_listen(struct rdi_nccl_listen *l) {
    for (int kind = 0; kind < RDI_NCCL_KINDS; kind++) {
        if (l->hub[kind] != NULL) {
            rdi_nccl_hub_unref(l->hub[kind]);
        }
    }
    free(l);
}

int rdi_nccl_listen(int traffic_class, int dev, void *handle, struct rdi_nccl_listen **out) {
    pthread_once(&once, make_key);
    struct rdi_nccl_listen *l = calloc(1, sizeof *l);
    if (l == NULL || dev < 0 || dev >= rdi_nccl_device_count()) {
        free(l);
        rdi_fail(l == NULL ? RONDO_ERR_NOMEM : RONDO_ERR_USAGE, "no memory, or no device %d", dev);
        return rdi_nccl_report(RONDO_ERR_USAGE, "listen()", rondo_last_error());
    }
    const struct rdi_env *env = rdi_nccl_env();
    env->random(env->self, &l->id, sizeof l->id);
    l->dev = dev;
    rondo_status s = open_hubs(l, traffic_class);
    s = s == RONDO_OK ? make_answer(l) : s;
    s = s == RONDO_OK ? make_handle(l, handle) : s;
    if (s != RONDO_OK) {
        free_listen(l);
        return rdi_nccl_report(s, "cannot listen", rondo_last_error());
    }
    link_in(l, RDI_NCCL_DIR);
    link_in(l, RDI_NCCL_DATA);
    *out = l;
    return RDI_NCCL_SUCCESS;
}

int rdi_nccl_close_listen(struct rdi_nccl_listen *l) {
    link_out(l, RDI_NCCL_DIR);
    link_out(l, RDI_NCCL_DATA);
    free_listen(l);
    return RDI_NCCL_SUCCESS;
}

// ---- accept() ------------------------------------------------------------------------------------

static int check_deadline(struct rdi_nccl_listen *l) {
    uint64_t now = rdi_now(rdi_nccl_env());
    uint64_t patience = (uint64_t)rdi_nccl_options()->num[RDI_OPT_CONNECT_TIMEOUT];
    if (l->deadline == 0) {
        l->deadline = now + patience * RDI_MS;
    }
    if (now < l->deadline) {
        return RDI_NCCL_SUCCESS;
    }
    rdi_fail(RONDO_ERR_TIMEOUT,
             "nobody connected to device %d (%s) of %s %d within %llu ms: see what the peer "
             "says, and whether its host can reach this one (option connect_timeout)",
             l->dev, rdi_nccl_device_name(l->dev), rdi_nccl_self_word(), rdi_nccl_self(),
             (unsigned long long)patience);
    return rdi_nccl_report(RONDO_ERR_TIMEOUT, "accept()", rondo_last_error());
}

int rdi_nccl_accept(struct rdi_nccl_listen *l, struct rdi_nccl_comm **out) {
    struct rdi_nccl_hub *dir = l->hub[RDI_NCCL_DIR], *h = l->hub[RDI_NCCL_DATA], *again;
    pthread_mutex_lock(&dir->lock);
    rdi_nccl_hub_turn(dir, false);
    pthread_mutex_unlock(&dir->lock);
    pthread_mutex_lock(&h->lock);
    rdi_nccl_hub_turn(h, false);
    struct rdi_link *link = find_ready(l);
    pthread_mutex_unlock(&h->lock);
    if (link == NULL) {
        return check_deadline(l);
    }
    // Of the comm's own: the hub is there, as the listen has it.
    rondo_status s = rdi_nccl_hub_ref(&h->is, &again);
    if (s == RONDO_OK) {
        pthread_mutex_lock(&h->lock);
        *out = rdi_nccl_comm_new(h, link, l->dev);
        pthread_mutex_unlock(&h->lock);
        if (*out == NULL) {
            rdi_nccl_hub_unref(h);
            s = RONDO_ERR_NOMEM;
        }
    }
    l->deadline = 0;
    return s == RONDO_OK ? RDI_NCCL_SUCCESS : rdi_nccl_report(s, "accept()", rondo_last_error());
}
