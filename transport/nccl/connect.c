// SPDX-License-Identifier: MIT
// The sending side of a connection. NCCL calls connect() with the same handle until it has a comm; what is under
// way meanwhile is an *attempt*, found again by a token in the handle (a token, since a handle comes from
// elsewhere and a pointer in it could be anything).
//
//   ASKING --answer: wire, address--> JOINING --link is UP--> comm
//      \---------- refused, unreachable, too late -------/---> error
#include "transport/nccl/core.h"

#include "transport/tcp/bytes.h"
#include "transport/tcp/hello.h"

#include <stdlib.h>
#include <string.h>

#define ABANDONED (30000 * RDI_MS) // without a call

struct attempt {
    struct attempt *next;
    uint64_t token, deadline, called;
    bool busy; // a thread is at work with it
    int dev, traffic_class;
    struct rdi_nccl_handle handle;
    struct rdi_tcp_blob directory;
    struct rdi_nccl_hub *hub; // directory's, then the data's
    struct rdi_link *link;
    bool joining;
    uint32_t pid; // the receiver's, from the answer
    size_t answer_len;
    uint8_t answer[RDI_CTRL_MAX];
};

static pthread_mutex_t mutex =
    PTHREAD_MUTEX_INITIALIZER; // of the list and `busy`; inside all other locks
static struct attempt *attempts;
static uint64_t last_token;

// ---- Attempts ------------------------------------------------------------------------------------

static void leave(struct attempt *a, bool bye) {
    if (a->link != NULL) {
        pthread_mutex_lock(&a->hub->lock);
        a->link->ops->close_link(a->link, bye);
        pthread_mutex_unlock(&a->hub->lock);
        a->link = NULL;
    }
    if (a->hub != NULL) {
        rdi_nccl_hub_unref(a->hub);
        a->hub = NULL;
    }
}

// Not on the list any more.
static void attempt_free(struct attempt *a) {
    leave(a, true);
    explicit_bzero(a, sizeof *a);
    free(a);
}

static void take_off(struct attempt *a) {
    pthread_mutex_lock(&mutex);
    struct attempt **at = &attempts;
    while (*at != a) {
        at = &(*at)->next;
    }
    *at = a->next;
    pthread_mutex_unlock(&mutex);
}

static struct attempt *find(uint64_t token) {
    pthread_mutex_lock(&mutex);
    struct attempt *a = attempts;
    while (a != NULL && (token == 0 || a->token != token || a->busy)) {
        a = a->next;
    }
    if (a != NULL) {
        a->busy = true;
    }
    pthread_mutex_unlock(&mutex);
    return a;
}

static void put_back(struct attempt *a) {
    uint64_t now = rdi_now(rdi_nccl_env());
    pthread_mutex_lock(&mutex);
    a->called = now;
    a->busy = false;
    pthread_mutex_unlock(&mutex);
}

void rdi_nccl_connect_sweep(bool all) {
    struct attempt *old = NULL;
    uint64_t now = rdi_now(rdi_nccl_env());
    pthread_mutex_lock(&mutex);
    for (struct attempt **at = &attempts; *at != NULL;) {
        struct attempt *a = *at;
        if (!a->busy && (all || now - a->called > ABANDONED)) {
            *at = a->next;
            a->next = old;
            old = a;
        } else {
            at = &a->next;
        }
    }
    pthread_mutex_unlock(&mutex);
    while (old != NULL) {
        struct attempt *a = old;
        old = a->next;
        attempt_free(a);
    }
}

// ---- Asking the directory ------------------------------------------------------------------------

static rondo_status open_link(struct attempt *a, const struct rdi_nccl_hub_key *key,
                              const void *blob, size_t len) {
    rondo_status s = rdi_nccl_hub_ref(key, &a->hub);
    if (s != RONDO_OK) {
        return s;
    }
    const struct rdi_env *env = rdi_nccl_env();
    struct rdi_link_id id = {.comm = a->handle.listen,
                             .from = (uint32_t)rdi_nccl_self(),
                             .to = (uint32_t)a->handle.number};
    // One process may open several links to one listen.
    env->random(env->self, &id.channel, sizeof id.channel);
    struct rdi_nccl_hub *h = a->hub;
    pthread_mutex_lock(&h->lock);
    s = h->net->ops->reach(h->net, blob, len);
    if (s == RONDO_OK) {
        s = h->net->ops->connect(h->net, &id, blob, len, &a->link);
    }
    if (s == RONDO_OK && !a->joining) {
        a->link->owner = a;
    }
    pthread_mutex_unlock(&h->lock);
    if (s != RONDO_OK) {
        a->link = NULL;
        leave(a, false);
    }
    return s;
}

static rondo_status ask(struct attempt *a) {
    uint8_t blob[RDI_BLOB_MAX];
    struct rdi_nccl_hub_key key = {.ops = &rdi_tcp_ops,
                                   .role = RDI_NCCL_DIR_CLIENT,
                                   .dev = RDI_NCCL_ALL_RAILS,
                                   .traffic_class = RDI_NCCL_UNDEFINED};
    memcpy(key.key, a->handle.key, sizeof key.key);
    return open_link(a, &key, blob, rdi_tcp_blob_write(&a->directory, blob));
}

void rdi_nccl_connect_answer(struct rdi_link *link, unsigned type, const void *msg, size_t len) {
    struct attempt *a = link->owner;
    if (type == RDI_NCCL_ANSWER && len <= sizeof a->answer && a->answer_len == 0) {
        memcpy(a->answer, msg, len);
        a->answer_len = len;
    }
}

// ---- Joining -------------------------------------------------------------------------------------

static const struct rdi_net_ops *wire_of(uint64_t wire) {
    return wire == RDI_NCCL_WIRE_TCP     ? &rdi_tcp_ops
           : wire == RDI_NCCL_WIRE_VERBS ? &rdi_verbs_ops
                                         : NULL;
}

// Whether all rails lead where the device that NCCL chose does not.
static bool all_are_better(struct attempt *a, const struct rdi_nccl_hub_key *key, const void *peer,
                           size_t len) {
    struct rdi_nccl_hub_key all = *key;
    struct rdi_nccl_hub *h[2] = {NULL, NULL};
    all.dev = RDI_NCCL_ALL_RAILS;
    bool better = key->ops == &rdi_tcp_ops && rdi_nccl_hub_ref(key, &h[0]) == RONDO_OK &&
                  !rdi_nccl_rail_leads(h[0], peer, len) &&
                  rdi_nccl_hub_ref(&all, &h[1]) == RONDO_OK && rdi_nccl_rail_leads(h[1], peer, len);
    for (int i = 0; i < 2; i++) {
        if (h[i] != NULL) {
            rdi_nccl_hub_unref(h[i]);
        }
    }
    if (better) {
        rdi_nccl_log(RDI_NCCL_LOG_INFO,
                     "NET/" RDI_NCCL_NAME ": device %d (%s) has no subnet in common with the "
                     "peer's, so all devices serve this connection",
                     a->dev, rdi_nccl_device_name(a->dev));
    }
    return better;
}

static rondo_status join(struct attempt *a) {
    struct rdi_cursor c = {.at = a->answer, .size = a->answer_len, .ok = true};
    uint64_t version = rdi_cursor_get(&c, 1), wire = rdi_cursor_get(&c, 1);
    a->pid = (uint32_t)rdi_cursor_get(&c, 4);
    const struct rdi_net_ops *ops = wire_of(wire);
    if (!c.ok || version != RDI_NCCL_WIRE_VERSION || ops == NULL) {
        return rdi_fail(RONDO_ERR_VERSION,
                        "the directory of %s answers in a way that is not understood; install the "
                        "same release of Rondo on all hosts",
                        a->directory.host);
    }
    const char *wanted = rdi_nccl_options()->str[RDI_OPT_TRANSPORT];
    if (strcmp(wanted, "auto") != 0 && strcmp(wanted, ops->name) != 0) {
        return rdi_fail(RONDO_ERR_UNSUPPORTED,
                        "%s %d on host %s receives over %s, and this process is told to use %s "
                        "only: set RONDO_TRANSPORT to the same on all hosts",
                        rdi_nccl_self_word(), a->handle.number, a->directory.host, ops->name,
                        wanted);
    }
    leave(a, true);
    a->joining = true;
    struct rdi_nccl_hub_key key = {
        .ops = ops, .role = RDI_NCCL_DATA_CLIENT, .dev = a->dev, .traffic_class = a->traffic_class};
    memcpy(key.key, a->handle.key, sizeof key.key);
    const uint8_t *blob = a->answer + c.used;
    size_t len = a->answer_len - c.used;
    if (ops != rdi_nccl_device_ops() || all_are_better(a, &key, blob, len)) {
        key.dev = RDI_NCCL_ALL_RAILS;
    }
    rondo_status s = open_link(a, &key, blob, len);
    return s == RONDO_ERR_UNSUPPORTED && ops == &rdi_verbs_ops
               ? rdi_fail_prefix(s, "the receiver has RDMA; where not all hosts reach each other "
                                    "by it, set RONDO_TRANSPORT=tcp on all of them")
               : s;
}

// ---- connect() -----------------------------------------------------------------------------------

static rondo_status begin(int traffic_class, int dev, uint8_t *handle, struct attempt **out) {
    struct attempt *a = calloc(1, sizeof *a);
    if (a == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a connection");
    }
    if (!rdi_nccl_handle_read(&a->handle, &a->directory, handle)) {
        free(a);
        return rdi_fail(RONDO_ERR_INVALID,
                        "the peer's handle is not one of this plugin: it must be loaded, in the "
                        "same release, by all ranks (NCCL_NET_PLUGIN, NCCL_NET)");
    }
    uint64_t now = rdi_now(rdi_nccl_env());
    a->dev = dev;
    a->traffic_class = traffic_class;
    a->called = now;
    a->deadline = now + (uint64_t)rdi_nccl_options()->num[RDI_OPT_CONNECT_TIMEOUT] * RDI_MS;
    a->busy = true;
    rondo_status s = ask(a);
    if (s != RONDO_OK) {
        attempt_free(a);
        return s;
    }
    pthread_mutex_lock(&mutex);
    a->token = ++last_token;
    a->next = attempts;
    attempts = a;
    pthread_mutex_unlock(&mutex);
    rdi_nccl_handle_set_token(handle, a->token);
    *out = a;
    return RONDO_OK;
}

static rondo_status too_late(const struct attempt *a) {
    char state[400] = "";
    a->link->ops->describe(a->link, state, sizeof state);
    return rdi_fail(RONDO_ERR_TIMEOUT,
                    "no connection to %s %d on host %s within %lld ms (option "
                    "connect_timeout); %s: %s",
                    rdi_nccl_self_word(), a->handle.number, a->directory.host,
                    (long long)rdi_nccl_options()->num[RDI_OPT_CONNECT_TIMEOUT],
                    a->joining ? "the receiver was found" : "its directory did not answer",
                    a->link->why[0] != '\0' ? a->link->why : state);
}

// With the hub's lock. RONDO_AGAIN: nothing is decided yet.
static rondo_status look(struct attempt *a) {
    struct rdi_link *l = a->link;
    if (!a->joining && a->answer_len > 0) {
        return RONDO_OK;
    }
    switch (l->state) {
    case RDI_LINK_FAILED:
        return rdi_fail(l->status, "%s", l->why);
    case RDI_LINK_CLOSED:
        return rdi_fail(RONDO_ERR_PEER,
                        "%s %d on host %s closed the connection before it was accepted",
                        rdi_nccl_self_word(), a->handle.number, a->directory.host);
    case RDI_LINK_LOST:
        return l->ops->reset(l, l->epoch + 1) == RONDO_OK ? RONDO_AGAIN : RONDO_ERR_PATH;
    case RDI_LINK_UP:
        if (a->joining) {
            return RONDO_OK;
        }
        break;
    case RDI_LINK_CONNECTING:
        break;
    }
    return rdi_now(rdi_nccl_env()) < a->deadline ? RONDO_AGAIN : too_late(a);
}

static rondo_status advance(struct attempt *a, struct rdi_nccl_comm **out) {
    pthread_mutex_lock(&a->hub->lock);
    rdi_nccl_hub_turn(a->hub, false);
    rondo_status s = look(a);
    if (s == RONDO_OK && a->joining) {
        *out = rdi_nccl_comm_new(a->hub, a->link, a->dev);
        s = *out != NULL ? RONDO_OK : RONDO_ERR_NOMEM;
        if (s == RONDO_OK) {
            (*out)->peer_pid = a->pid;
        }
    }
    pthread_mutex_unlock(&a->hub->lock);
    if (s == RONDO_OK && a->joining) {
        a->hub = NULL; // both are the comm's
        a->link = NULL;
    } else if (s == RONDO_OK) {
        s = join(a);
        s = s == RONDO_OK ? RONDO_AGAIN : s;
    }
    return s;
}

int rdi_nccl_connect(int traffic_class, int dev, void *handle, struct rdi_nccl_comm **out) {
    struct attempt *a = find(rdi_nccl_handle_token(handle));
    rondo_status s = RONDO_OK;
    if (a == NULL) {
        rdi_nccl_connect_sweep(false);
        s = begin(traffic_class, dev, handle, &a);
        if (s != RONDO_OK) {
            return rdi_nccl_report(s, "cannot connect", rondo_last_error());
        }
    }
    s = advance(a, out);
    if (s == RONDO_AGAIN) {
        put_back(a);
        return RDI_NCCL_SUCCESS;
    }
    rdi_nccl_handle_set_token(handle, 0);
    take_off(a);
    int result = s == RONDO_OK ? RDI_NCCL_SUCCESS
                               : rdi_nccl_report(s, "cannot connect", rondo_last_error());
    attempt_free(a);
    return result;
}
