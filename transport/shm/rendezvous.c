// SPDX-License-Identifier: MIT
// How the two ends of a link find each other: dial, prove, pass descriptors (wire.h has the order).
//
// Who connects runs as our user (the kernel says so) and proves to know the job's key before anything that it
// says is looked at. The sender tries again until its deadline when a connection ends early, because its peer
// may be about to come; an end that was refused does not.
#include "transport/memfile.h"
#include "transport/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS 1000000ull
#define STRANGER_NS (10000 * MS) // for a connection to prove that it belongs to the job
#define GONE_NS (1000 * MS)      // of refused attempts, until the peer counts as gone
#define PACKETS_AT_ONCE 16
#define HALF_OPEN_MAX \
    256u // connections that have proved nothing; the oldest gives way to a new one

static uint64_t now_of(const struct shm_link *l) { return rdi_now(&l->net->base.params.env); }

// ---- Ending early --------------------------------------------------------------------------------

static bool has_proved(const struct shm_link *l) {
    return l->hs == NULL || l->hs->state == RDI_HS_NEED_REPLY || l->hs->state == RDI_HS_DONE ||
           l->refused;
}

// Receiver: the engine has not heard of this link, so there is nobody to tell but the log.
static void drop(struct shm_link *l, const char *why) {
    char who[48];
    snprintf(who, sizeof who, "process %d", (int)l->cred_pid);
    if (has_proved(l)) {
        rdi_log(&l->net->base.params.env, RONDO_LOG_WARN, "shm: dropped a connection of %s: %s",
                who, why);
    } else {
        rdi_net_stranger(&l->net->base, who, why);
    }
    shm_link_free(l);
}

// Whatever comes, only so many descriptors are spent on connections that may be nobody's.
static void make_room(struct shm_net *net) {
    struct shm_link *oldest = NULL;
    unsigned n = 0;
    for (size_t i = 0; i < net->n_links; i++) {
        struct shm_link *l = net->links[i];
        if (l != NULL && !l->base.sender && l->phase == SHM_SHAKE && !has_proved(l)) {
            oldest = oldest == NULL || l->deadline < oldest->deadline ? l : oldest;
            n++;
        }
    }
    if (n >= rdi_strangers_max(HALF_OPEN_MAX)) {
        drop(oldest, "too many connections at once");
    }
}

// Sender: back to the start, to try again.
static void disconnect(struct shm_link *l, const char *why) {
    snprintf(l->last_problem, sizeof l->last_problem, "%s", why);
    if (l->fd >= 0) {
        shm_unwatch(l->net, l->fd);
        close(l->fd);
        l->fd = -1;
    }
    if (l->peer != NULL) {
        shm_peer_put(l->net, l->peer);
        l->peer = NULL;
    }
    shm_link_drop_region(l);
    free(l->hs);
    l->hs = NULL;
    l->due = 0;
    l->next_try = now_of(l) + l->backoff;
    l->backoff = 2 * l->backoff < 50 * MS ? 2 * l->backoff : 50 * MS;
    shm_link_set_phase(l, SHM_TRY);
}

// The connection ended, without a word, before the link was UP.
static void end_early(struct shm_link *l, const char *why) {
    if (l->base.sender) {
        disconnect(l, why);
    } else {
        drop(l, why);
    }
}

// Receiver: tells the sender, which waits for the verdict, why there is no link. The reason is the last error.
static void refuse(struct shm_link *l, rondo_status s) {
    struct shm_record rec = {SHM_VERDICT, .value = (uint64_t) - (int64_t)s};
    snprintf(rec.text, sizeof rec.text, "%s", rondo_last_error());
    shm_link_send(l, &rec, NULL, 0);
    drop(l, rec.text);
}

// This end cannot go on, and trying again would not help. The reason is the last error.
static void give_up(struct shm_link *l, rondo_status s) {
    if (l->announced) {
        char peer[128];
        shm_link_fail(l, s, "rank %d has no shared memory with %s: %s",
                      l->net->base.params.job->rank, shm_link_peer(l, peer), rondo_last_error());
    } else if (l->phase == SHM_WAIT_BELL) {
        refuse(l, s);
    } else {
        drop(l, rondo_last_error());
    }
}

static void break_off(struct shm_link *l) {
    give_up(l, rdi_fail(RONDO_ERR_PEER,
                        "it broke the protocol; run the same release of Rondo on all ranks"));
}

// ---- Sending -------------------------------------------------------------------------------------

bool shm_link_send(struct shm_link *l, const struct shm_record *rec, const int *fds, size_t n_fds) {
    uint8_t bytes[SHM_RECORD_MAX];
    int err = shm_packet_send(l->fd, bytes, shm_record_write(rec, bytes), fds, n_fds);
    return err != EAGAIN && err != ENOBUFS && err != ENOMEM && err != ETOOMANYREFS;
}

static bool push_handshake(struct shm_link *l) {
    struct rdi_hs *hs = l->hs;
    if (hs->out_off < hs->out_len) {
        size_t n = hs->out_len - hs->out_off;
        int err = shm_packet_send(l->fd, hs->out + hs->out_off, n, NULL, 0);
        if (err != 0) {
            return false; // a hang-up is seen by receiving
        }
        rdi_hs_sent(hs, n);
    }
    return true;
}

static bool push_region(struct shm_link *l) {
    struct shm_record rec = {SHM_REGION, .value = l->region.bytes};
    int fds[3] = {l->region_fd, l->net->eventfd, l->net->bell_fd};
    if (!shm_link_send(l, &rec, fds, 3)) {
        return false;
    }
    close(l->region_fd);
    l->region_fd = -1;
    free(l->hs);
    l->hs = NULL;
    shm_link_set_phase(l, SHM_WAIT_BELL);
    return true;
}

static bool push_bell(struct shm_link *l) {
    struct shm_record rec = {SHM_BELL, .value = 0};
    int fds[2] = {l->net->eventfd, l->net->bell_fd};
    if (!shm_link_send(l, &rec, fds, 2)) {
        return false;
    }
    shm_link_set_phase(l, SHM_WAIT_VERDICT);
    return true;
}

static bool push_verdict(struct shm_link *l) {
    struct shm_record rec = {SHM_VERDICT, .value = RONDO_OK};
    return shm_link_send(l, &rec, NULL, 0);
}

void shm_link_push(struct shm_link *l) {
    static const struct {
        unsigned due;
        bool (*push)(struct shm_link *l);
    } steps[] = {
        {SHM_DUE_REGION, push_region}, {SHM_DUE_BELL, push_bell}, {SHM_DUE_VERDICT, push_verdict}};
    if (l->hs != NULL && !push_handshake(l)) {
        l->net->chores = true;
        return;
    }
    if (l->refused) {
        drop(l, "its link was refused");
        return;
    }
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if ((l->due & steps[i].due) == 0) {
            continue;
        }
        if (!steps[i].push(l)) {
            l->net->chores = true;
            return;
        }
        l->due &= ~steps[i].due;
    }
}

// ---- Receiver ------------------------------------------------------------------------------------

// Takes the geometry that both ends can and makes the link's memory.
static rondo_status admit(struct shm_link *l, const struct shm_hello *hello) {
    struct shm_net *net = l->net;
    const struct rdi_job *job = net->base.params.job;
    l->base.id = hello->id;
    l->peer_pid = hello->pid;
    memcpy(l->address.name, hello->name, sizeof hello->name);
    if (hello->id.to != (uint32_t)job->rank || hello->id.from >= (uint32_t)job->size) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "a link from rank %u to rank %u was opened to rank %d of %d; all ranks must "
            "have the same world size and different ranks",
            hello->id.from, hello->id.to, job->rank, job->size);
    }
    l->base.slots = hello->slots < net->slots ? hello->slots : net->slots;
    l->base.max_msg = hello->max_msg < net->max_msg ? hello->max_msg : net->max_msg;
    size_t bytes = shm_region_bytes(l->base.slots, l->base.max_msg);
    void *map;
    rondo_status s =
        rdi_memfile_create("a link's slots", bytes, RDI_MEMFILE_COMMON, &l->region_fd, &map);
    if (s != RONDO_OK) {
        return s;
    }
    s = shm_link_set_region(l, map);
    if (s != RONDO_OK) {
        rdi_memfile_unmap(map, bytes);
    }
    return s;
}

// The connector has proved to know the key; its hello may be believed.
static void answer_hello(struct shm_link *l) {
    struct shm_net *net = l->net;
    struct shm_reply reply = {.pid = net->address.pid};
    struct shm_hello hello;
    memcpy(reply.name, net->address.name, sizeof reply.name);
    if (shm_hello_parse(l->hs->peer, l->hs->peer_len, &hello)) {
        reply.status = admit(l, &hello);
    } else {
        reply.status = rdi_fail(RONDO_ERR_VERSION,
                                "the greeting cannot be read; run the same release of Rondo "
                                "on all ranks");
    }
    if (reply.status == RONDO_OK) {
        reply.slots = l->base.slots;
        reply.max_msg = l->base.max_msg;
        l->due |= SHM_DUE_REGION;
    } else {
        snprintf(reply.text, sizeof reply.text, "%s", rondo_last_error());
        rdi_log(&net->base.params.env, RONDO_LOG_ERROR, "shm: refused a link: %s", reply.text);
        l->refused = true;
    }
    uint8_t bytes[RDI_HS_PAYLOAD];
    rdi_hs_reply(l->hs, bytes, shm_reply_write(&reply, bytes));
}

// The sender is ready, so the link is UP at this end; the engine decides whether it stays.
static void take_bell(struct shm_link *l, const int fds[2]) {
    const struct rdi_net_events *events = l->net->base.params.events;
    rondo_status s = shm_peer_get(l->net, l->address.name, l->cred_pid, fds, &l->peer);
    if (s == RONDO_OK) {
        shm_link_set_phase(l, SHM_UP);
        l->base.state = RDI_LINK_UP;
        l->announced = true;
        s = events->accept(events->self, &l->base);
        if (l->phase != SHM_UP) {
            return; // closed meanwhile
        }
    }
    if (s == RONDO_OK) {
        l->due |= SHM_DUE_VERDICT;
        shm_link_push(l);
        return;
    }
    refuse(l, s);
}

void shm_accept_all(struct shm_net *net) {
    for (int i = 0; i < PACKETS_AT_ONCE; i++) {
        int fd = accept4(net->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE) && net->spare >= 0) {
            // With the spare descriptor the connection gets as far as being told what is wrong here.
            close(net->spare);
            net->spare = -1;
            fd = accept4(net->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        }
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                // The listener stays readable: do not look at it for a while.
                shm_unwatch(net, net->listener);
                net->hear_at = rdi_now(&net->base.params.env) + 20 * MS;
            }
            return;
        }
        int32_t pid = 0;
        if (!shm_same_user(fd, &pid)) {
            rdi_net_stranger(&net->base, "another user", "only this job's own user may connect");
            close(fd);
            continue;
        }
        make_room(net);
        struct shm_link *l = shm_link_new(net, false);
        struct rdi_hs *hs = malloc(sizeof *hs);
        if (l == NULL || hs == NULL || shm_watch(net, fd, &l->source) != 0) {
            free(hs);
            close(fd);
            if (l != NULL) {
                shm_link_free(l);
            }
            continue;
        }
        l->fd = fd;
        l->cred_pid = pid;
        l->hs = hs;
        l->deadline = now_of(l) + (STRANGER_NS < net->connect_ns ? STRANGER_NS : net->connect_ns);
        rdi_hs_accept(hs, RDI_HS_SHM, net->base.params.job, &net->base.params.env);
    }
}

// ---- Sender --------------------------------------------------------------------------------------

rondo_status shm_connect(struct rdi_net *base, const struct rdi_link_id *id, const void *blob,
                         size_t len, struct rdi_link **out) {
    struct shm_net *net = shm_net_of(base);
    struct shm_address address;
    if (!shm_address_parse(blob, len, &address)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the address of rank %u is not one for shared memory (%zu bytes)", id->to,
                        len);
    }
    struct shm_link *l = shm_link_new(net, true);
    if (l == NULL) {
        return rdi_fail_resource(ENOMEM, "make a link to rank %u", id->to);
    }
    l->base.id = *id;
    l->base.slots = net->slots;
    l->base.max_msg = net->max_msg;
    l->address = address;
    l->peer_pid = address.pid;
    l->next_try = now_of(l);
    l->deadline = l->next_try + net->connect_ns;
    l->backoff = MS;
    *out = &l->base;
    return RONDO_OK;
}

static void start_handshake(struct shm_link *l) {
    struct shm_net *net = l->net;
    struct shm_hello hello = {
        .id = l->base.id, .slots = net->slots, .max_msg = net->max_msg, .pid = net->address.pid};
    memcpy(hello.name, net->address.name, sizeof hello.name);
    uint8_t bytes[RDI_HS_PAYLOAD];
    size_t n = shm_hello_write(&hello, bytes);
    rdi_hs_connect(l->hs, RDI_HS_SHM, net->base.params.job, &net->base.params.env, bytes, n);
    shm_link_set_phase(l, SHM_SHAKE);
    shm_link_push(l);
}

// Nobody has listened there for a while. A rank that is alive does, since before it told its address.
static bool is_gone(struct shm_link *l) {
    uint64_t now = now_of(l);
    l->refused_since = l->refused_since != 0 ? l->refused_since : now;
    return now - l->refused_since >= GONE_NS;
}

static void try_connect(struct shm_link *l) {
    l->fd = shm_dial(&l->address);
    if (l->fd < 0) {
        if (errno == ECONNREFUSED && is_gone(l)) {
            give_up(l, rdi_fail(RONDO_ERR_PEER, "it has ended, as nobody listens on its socket any "
                                                "more; its own output may tell why"));
        } else if (errno == ECONNREFUSED || errno == EAGAIN || errno == EINTR ||
                   errno == ECONNRESET) {
            disconnect(l, errno == EAGAIN ? "its queue of connections is full"
                                          : "nobody listens there: it has ended");
        } else {
            give_up(l, rdi_fail_resource(errno, "connect to its socket"));
        }
        return;
    }
    l->refused_since = 0;
    if (!shm_same_user(l->fd, &l->cred_pid)) {
        close(l->fd);
        l->fd = -1;
        give_up(l,
                rdi_fail(RONDO_ERR_AUTH, "its socket belongs to another user; run all ranks of a "
                                         "host as one user, or set RONDO_TRANSPORT=tcp"));
        return;
    }
    l->hs = malloc(sizeof *l->hs);
    int err = l->hs != NULL ? shm_watch(l->net, l->fd, &l->source) : ENOMEM;
    if (err != 0) {
        give_up(l, rdi_fail_resource(err, "watch a connection"));
        return;
    }
    start_handshake(l);
}

static void take_reply(struct shm_link *l) {
    struct shm_reply reply;
    char peer[128];
    bool readable = shm_reply_parse(l->hs->peer, l->hs->peer_len, &reply);
    free(l->hs);
    l->hs = NULL;
    if (!readable || reply.slots > l->net->slots || reply.max_msg > l->net->max_msg ||
        memcmp(reply.name, l->address.name, sizeof reply.name) != 0) {
        break_off(l);
        return;
    }
    l->peer_pid = reply.pid;
    if (reply.status != RONDO_OK) {
        shm_link_fail(l, reply.status, "%s refused the link: %s", shm_link_peer(l, peer),
                      reply.text);
        return;
    }
    l->base.slots = reply.slots;
    l->base.max_msg = reply.max_msg;
    shm_link_set_phase(l, SHM_WAIT_REGION);
}

static void take_region(struct shm_link *l, const int fds[3]) {
    size_t bytes = shm_region_bytes(l->base.slots, l->base.max_msg);
    void *map;
    rondo_status s = rdi_memfile_map("a link's slots", fds[0], bytes, RDI_MEMFILE_COMMON, &map);
    close(fds[0]);
    if (s == RONDO_OK && (s = shm_link_set_region(l, map)) != RONDO_OK) {
        rdi_memfile_unmap(map, bytes);
    }
    if (s != RONDO_OK) {
        close(fds[1]);
        close(fds[2]);
    } else {
        s = shm_peer_get(l->net, l->address.name, l->cred_pid, fds + 1, &l->peer);
    }
    if (s != RONDO_OK) {
        give_up(l, s);
        return;
    }
    l->due |= SHM_DUE_BELL;
    shm_link_push(l);
}

static void take_verdict(struct shm_link *l, const struct shm_record *rec) {
    if (rec->value != 0) {
        char peer[128];
        shm_link_fail(l, (rondo_status) - (int)rec->value, "%s refused the link: %s",
                      shm_link_peer(l, peer), rec->text);
        return;
    }
    shm_link_set_phase(l, SHM_UP);
    l->base.state = RDI_LINK_UP;
}

// ---- Both ----------------------------------------------------------------------------------------

static void shake(struct shm_link *l, const uint8_t *bytes, size_t n) {
    size_t used;
    rdi_hs_input(l->hs, bytes, n, &used);
    if (l->hs->state == RDI_HS_FAILED) {
        push_handshake(l); // it may tell the peer why
        give_up(l, rdi_fail(l->hs->error, "%s", l->hs->why));
        return;
    }
    if (used != n) {
        break_off(l);
        return;
    }
    if (l->hs->state == RDI_HS_NEED_REPLY) {
        answer_hello(l);
    }
    if (l->base.sender && l->hs->state == RDI_HS_DONE) {
        take_reply(l);
    } else {
        shm_link_push(l);
    }
}

static void close_all(const int *fds, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

// Descriptors are taken by the record that they belong to, or closed.
static void take_record(struct shm_link *l, const struct shm_record *rec, const int *fds,
                        size_t n_fds) {
    if (l->phase == SHM_WAIT_REGION && rec->type == SHM_REGION) {
        take_region(l, fds);
    } else if (l->phase == SHM_WAIT_BELL && rec->type == SHM_BELL) {
        take_bell(l, fds);
    } else if (l->phase == SHM_WAIT_VERDICT && rec->type == SHM_VERDICT) {
        take_verdict(l, rec);
    } else {
        if (l->phase != SHM_UP || !shm_block_record(l, rec, fds)) {
            break_off(l);
        }
        close_all(fds, n_fds);
    }
}

static void take_packet(struct shm_link *l, const uint8_t *bytes, size_t n, const int *fds,
                        size_t n_fds) {
    struct shm_record rec;
    if (l->phase == SHM_SHAKE && n_fds == 0) {
        shake(l, bytes, n);
    } else if (l->phase != SHM_SHAKE && shm_record_parse(bytes, n, n_fds, &rec)) {
        take_record(l, &rec, fds, n_fds);
    } else {
        close_all(fds, n_fds);
        break_off(l);
    }
}

int shm_link_input(struct shm_link *l) {
    uint8_t bytes[RDI_HS_BUFFER];
    int fds[SHM_FDS_MAX];
    size_t n, n_fds;
    for (int i = 0; i < PACKETS_AT_ONCE; i++) {
        enum shm_phase before = l->phase;
        if (before == SHM_OVER || before == SHM_TRY) {
            return i;
        }
        int err = shm_packet_receive(l->fd, bytes, sizeof bytes, &n, fds, &n_fds);
        if (err == EAGAIN) {
            return i;
        }
        if (err == EMFILE && before == SHM_UP) {
            // An offered block for which there is no descriptor: it is refused, and its payload copied.
            fds[0] = -1;
            n_fds = 1;
            err = 0;
        }
        if (err == 0) {
            take_packet(l, bytes, n, fds, n_fds);
        } else if (before == SHM_UP) {
            shm_link_hang_up(l);
        } else if (err == EPIPE) {
            end_early(l, "it ended the connection");
        } else {
            give_up(l, rdi_fail_resource(err, "receive its shared memory"));
        }
    }
    return PACKETS_AT_ONCE;
}

int shm_link_timer(struct shm_link *l, uint64_t now) {
    if (now >= l->deadline) {
        if (l->base.sender) {
            char peer[128];
            shm_link_fail(l, RONDO_ERR_TIMEOUT,
                          "%s did not answer on its shared-memory socket in time (%s); look at its "
                          "output, or raise RONDO_CONNECT_TIMEOUT",
                          shm_link_peer(l, peer),
                          l->last_problem[0] != '\0' ? l->last_problem : "it is busy or stopped");
        } else {
            drop(l, "it did not finish its greeting in time");
        }
        return 1;
    }
    if (l->phase == SHM_TRY && now >= l->next_try) {
        try_connect(l);
        return 1;
    }
    return 0;
}
