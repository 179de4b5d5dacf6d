// SPDX-License-Identifier: MIT
// What a peer can write into the memory that it shares, and what it can send on the link's socket.
#include "peer.h"

#include "transport/shm/shm.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct shm_link *shm(struct rdi_link *l) { return shm_link_of(l); }

// ---- Messages ------------------------------------------------------------------------------------

enum {
    SEQ_AHEAD,
    SEQ_HUGE,
    LEN_HUGE,
    LEN_INLINE,
    KIND,
    FLAGS,
    NO_BLOCK,
    BLOCK_HUGE,
    NO_SIGNATURE,
    WRONG_SIGNATURE,
    WRONG_TAG,
};
static void message(struct peer *p, unsigned variant) {
    struct shm_link *l = shm(p->out);
    uint64_t q = l->base.posted;
    struct shm_slot *slot = &l->region.slots[q % l->base.slots];
    uint64_t seq = q + 1, tag = 0;
    uint32_t len = 64, flags = SHM_IN_HEADER | SHM_HAS_SIG;
    memset(slot->body, 0xee, sizeof slot->body);
    peer_signature(p, variant != WRONG_TAG, slot->body);
    struct shm_reference ref = {.handle = 7};
    switch (variant) {
    case SEQ_AHEAD:
        seq++;
        break;
    case SEQ_HUGE:
        seq = UINT64_MAX;
        break;
    case LEN_HUGE:
        len = UINT32_MAX;
        flags = SHM_IN_DATA;
        break;
    case LEN_INLINE:
        len = SHM_INLINE + 1;
        break;
    case KIND:
        flags = SHM_WHERE;
        break;
    case FLAGS:
        flags = UINT32_MAX;
        break;
    case BLOCK_HUGE:
        ref.handle = UINT64_MAX;
        ref.offset = UINT64_MAX;
        // falls through
    case NO_BLOCK:
        flags = SHM_BY_REFERENCE;
        memcpy(slot->body, &ref, sizeof ref);
        break;
    case NO_SIGNATURE:
        flags = SHM_IN_HEADER;
        break;
    case WRONG_SIGNATURE:
        break;
    case WRONG_TAG:
        tag = UINT64_MAX;
        break;
    }
    shm_write(&slot->tag, tag);
    shm_write(&slot->len, len);
    shm_write(&slot->flags, flags);
    shm_store(&slot->seq, seq);
    shm_peer_wake(l->peer);
}

// A message whose header, signature and payload never stand still.
static void *flicker(void *arg) {
    struct shm_slot *slot = arg;
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 1;
    uint32_t x = 1;
    do {
        for (int i = 0; i < 1000; i++) {
            x = x * 1664525u + 1013904223u;
            shm_write(&slot->len, x >> 28 ? x % 2000 : UINT32_MAX);
            shm_write(&slot->flags, x >> 9 & 15);
            shm_write(&slot->tag, (uint64_t)x << 32 | x);
            slot->body[x % sizeof slot->body] = (uint8_t)(x >> 24);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec);
    return NULL;
}

static void restless(struct peer *p, unsigned variant) {
    struct shm_link *l = shm(p->out);
    struct shm_slot *slot = &l->region.slots[l->base.posted % l->base.slots];
    pthread_t thread;
    if (pthread_create(&thread, NULL, flicker, slot) != 0) {
        _exit(9);
    }
    message(p, variant);
    pthread_join(thread, NULL);
}

// ---- Counters and control messages ---------------------------------------------------------------

enum { RELEASED_AHEAD, RELEASED_HUGE, RELEASED_BACK };
static void release(struct peer *p, unsigned variant) {
    struct shm_link *l = shm(p->in);
    uint64_t released = l->base.released;
    released = variant == RELEASED_AHEAD  ? released + 1000
               : variant == RELEASED_HUGE ? UINT64_MAX
                                          : 0;
    shm_store(&l->mine->released, released);
    shm_peer_wake(l->peer);
}

enum { CTRL_LONG, CTRL_MANY, CTRL_TAKEN, CTRL_TYPE, CTRL_SIG };
static void control(struct peer *p, unsigned variant) {
    struct shm_link *l = shm(p->out);
    struct shm_ctrl *c = &l->ctrl_out[l->ctrl_posted % SHM_CTRL_RING];
    memset(c->bytes, 0xee, sizeof c->bytes);
    peer_signature(p, true, c->bytes);
    shm_write(&c->type, variant == CTRL_SIG ? (uint32_t)RDI_CTRL_SIG : 63u);
    shm_write(&c->len, variant == CTRL_LONG ? UINT32_MAX : RDI_SIG_BYTES);
    if (variant == CTRL_TAKEN) {
        shm_store(&l->mine->ctrl_taken, 1000);
    } else {
        l->ctrl_posted++;
        shm_store(&l->mine->ctrl_posted, variant == CTRL_MANY ? 1000 : l->ctrl_posted);
    }
    shm_peer_wake(l->peer);
}

static void good_bye(struct peer *p, unsigned variant) {
    struct shm_link *l = shm(p->out);
    shm_store(&l->mine->bye, variant);
    shm_peer_wake(l->peer);
}

// ---- Records -------------------------------------------------------------------------------------

static int memory(size_t bytes, int seals) {
    int fd = memfd_create("attack", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0 ||
        (seals != 0 && fcntl(fd, F_ADD_SEALS, seals) != 0)) {
        _exit(9);
    }
    return fd;
}

enum {
    GARBAGE,
    EMPTY,
    HUGE_PACKET,
    OFFER_UNSEALED,
    OFFER_SHORT,
    OFFER_LARGE,
    OFFER_HANDLE,
    OFFER_PIPE,
    OFFER_NOTHING,
    OFFER_MANY,
    TAKE_BACK,
    VERDICT,
    UNASKED,
};
static void record(struct peer *p, unsigned variant) {
    static uint8_t bytes[9000];
    struct shm_link *l = shm(p->out);
    struct shm_record rec = {.type = SHM_OFFER, .handle = 3, .value = 65536};
    const int sealed = F_SEAL_SHRINK | F_SEAL_GROW;
    int fds[SHM_FDS_MAX] = {-1, -1, -1}, ends[2];
    size_t n = 1;
    memset(bytes, 0xee, sizeof bytes);
    switch (variant) {
    case GARBAGE:
    case HUGE_PACKET:
        (void)send(l->fd, bytes, variant == GARBAGE ? 40 : sizeof bytes, MSG_NOSIGNAL);
        return;
    case EMPTY:
        (void)send(l->fd, bytes, 0, MSG_NOSIGNAL);
        return;
    case OFFER_UNSEALED:
        fds[0] = memory(65536, 0);
        break;
    case OFFER_SHORT:
        fds[0] = memory(4096, sealed);
        break;
    case OFFER_LARGE:
        rec.value = UINT64_MAX;
        fds[0] = memory(65536, sealed);
        break;
    case OFFER_HANDLE:
        rec.handle = UINT32_MAX;
        fds[0] = memory(65536, sealed);
        break;
    case OFFER_PIPE:
        if (pipe(ends) != 0) {
            _exit(9);
        }
        close(ends[0]);
        fds[0] = ends[1];
        break;
    case OFFER_NOTHING:
        n = 0;
        break;
    case OFFER_MANY:
        fds[0] = memory(65536, sealed);
        fds[1] = fds[2] = fds[0];
        n = 3;
        break;
    case TAKE_BACK:
        rec = (struct shm_record){SHM_TAKE_BACK, .handle = 99};
        n = 0;
        break;
    case VERDICT:
        rec = (struct shm_record){SHM_VERDICT, .value = 3};
        n = 0;
        break;
    case UNASKED: // to a sender that has offered nothing
        l = shm(p->in);
        rec = (struct shm_record){SHM_MAPPED, .handle = 1u << 20, .value = 1};
        n = 0;
        break;
    }
    (void)shm_packet_send(l->fd, bytes, shm_record_write(&rec, bytes), fds, n);
    if (fds[0] >= 0) {
        close(fds[0]);
    }
}

// Descriptors as many as the socket takes: rank 0 maps them and keeps none. Its answers are too much for the peer.
static void many_descriptors(struct peer *p, unsigned variant) {
    struct shm_link *l = shm(p->out);
    uint8_t bytes[SHM_RECORD_MAX];
    int fd = memory(65536, F_SEAL_SHRINK | F_SEAL_GROW);
    for (unsigned i = 0; i < variant; i++) {
        struct shm_record rec = {SHM_OFFER, .handle = i, .value = 65536};
        (void)shm_packet_send(l->fd, bytes, shm_record_write(&rec, bytes), &fd, 1);
    }
    close(fd);
}

// ---- A link besides ------------------------------------------------------------------------------

// Rank 0 is to wake us by writing into something that is no eventfd: a pipe without a reader would end it.
enum { WAKE_PIPE, WAKE_FILE, WAKE_EVENT };
static void wake_me(struct peer *p, unsigned variant) {
    struct shm_link *l = shm(p->out), *made;
    struct shm_net *net = l->net;
    const struct rdi_peer *victim = &p->rank->comm->engine->peers[0];
    struct rdi_link_id id = l->base.id;
    struct rdi_link *fresh = NULL;
    int ends[2];
    id.comm ^= 0x77;
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) {
        _exit(9);
    }
    int own = net->eventfd;
    net->eventfd = variant == WAKE_PIPE   ? ends[1]
                   : variant == WAKE_FILE ? memory(4096, 0)
                                          : eventfd(0, EFD_CLOEXEC); // which would block
    fcntl(net->eventfd, F_SETFL, variant == WAKE_EVENT ? 0 : O_NONBLOCK);
    close(ends[0]);
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    for (unsigned i = 0; i < RDI_MAX_NETS; i++) {
        struct shm_address a;
        if (shm_address_parse(victim->blob[i], victim->blob_len[i], &a)) {
            memcpy(blob, victim->blob[i], victim->blob_len[i]);
            len = victim->blob_len[i];
        }
    }
    // Rank 0 knows this process already, by its name; as another one it would be asked to wake us.
    net->address.name[0] ^= 0xff;
    if (net->base.ops->connect(&net->base, &id, blob, len, &fresh) != RONDO_OK) {
        _exit(9);
    }
    made = shm(fresh);
    for (int i = 0; i < 500 && fresh->state == RDI_LINK_CONNECTING; i++) {
        net->base.ops->progress(&net->base, false);
        usleep(2000);
    }
    if (made->phase == SHM_UP) {
        fprintf(stderr, "rank 0 has taken the descriptor\n");
        _exit(9);
    }
    net->address.name[0] ^= 0xff;
    fresh->ops->close_link(fresh, false);
    close(net->eventfd);
    net->eventfd = own;
}

// ---- The table -----------------------------------------------------------------------------------

static const struct attack attacks[] = {
    {"shm: message number ahead", message, SEQ_AHEAD, FAILS, "message number"},
    {"shm: message number 2^64-1", message, SEQ_HUGE, FAILS, "message number"},
    {"shm: message of 4 GiB", message, LEN_HUGE, FAILS, "length of a message"},
    {"shm: message longer than its header has room", message, LEN_INLINE, FAILS,
     "length of a message"},
    {"shm: message in no place", message, KIND, FAILS, "kind of message"},
    {"shm: all flags", message, FLAGS, FAILS, "kind of message"},
    {"shm: reference to no block", message, NO_BLOCK, FAILS, "reference to a block"},
    {"shm: reference beyond everything", message, BLOCK_HUGE, FAILS, "reference to a block"},
    {"shm: message without signature", message, NO_SIGNATURE, FAILS, "signature"},
    {"shm: signature of nonsense", message, WRONG_SIGNATURE, FAILS, "unknown"},
    {"shm: tag of nonsense", message, WRONG_TAG, FAILS, "does not continue"},
    {"shm: a message that changes while it is read", restless, WRONG_SIGNATURE, SURVIVES, NULL},
    {"shm: release of the future", release, RELEASED_AHEAD, FAILS, "released messages"},
    {"shm: release of 2^64-1", release, RELEASED_HUGE, FAILS, "released messages"},
    {"shm: release of the past", release, RELEASED_BACK, FAILS, "released messages"},
    {"shm: long control message", control, CTRL_LONG, FAILS, "control message"},
    {"shm: 1000 control messages", control, CTRL_MANY, FAILS, "control counter"},
    {"shm: control messages taken ahead", control, CTRL_TAKEN, FAILS, "control counter"},
    {"shm: unknown control message", control, CTRL_TYPE, GOES_ON, NULL},
    {"shm: control message with a nonsense signature", control, CTRL_SIG, FAILS, "unknown"},
    {"shm: good-bye of kind 99", good_bye, 99, FAILS, "good-bye"},
    {"shm: good-bye in the middle", good_bye, SHM_BYE_CLOSED, FAILS, "rank 1"},
    {"shm: random packet", record, GARBAGE, FAILS, "broke the protocol"},
    {"shm: empty packet", record, EMPTY, SURVIVES, NULL},
    {"shm: packet of 9000 bytes", record, HUGE_PACKET, FAILS, "rank 1"},
    {"shm: block that can shrink", record, OFFER_UNSEALED, FAILS, "not sealed"},
    {"shm: block that is shorter than it says", record, OFFER_SHORT, FAILS, "bytes instead of"},
    {"shm: block of 2^64-1 bytes", record, OFFER_LARGE, FAILS, "claims"},
    {"shm: block of handle 2^32-1", record, OFFER_HANDLE, FAILS, "broke the protocol"},
    {"shm: a pipe for a block", record, OFFER_PIPE, FAILS, "bytes instead of"},
    {"shm: block without a descriptor", record, OFFER_NOTHING, FAILS, "broke the protocol"},
    {"shm: block with three descriptors", record, OFFER_MANY, FAILS, "broke the protocol"},
    {"shm: return of no block", record, TAKE_BACK, FAILS, "broke the protocol"},
    {"shm: verdict in the middle", record, VERDICT, FAILS, "broke the protocol"},
    {"shm: answer to no offer", record, UNASKED, FAILS, "broke the protocol"},
    {"shm: 200 blocks", many_descriptors, 200, SURVIVES, NULL},
    {"shm: a pipe without reader for waking", wake_me, WAKE_PIPE, GOES_ON, NULL},
    {"shm: a file for waking", wake_me, WAKE_FILE, GOES_ON, NULL},
    {"shm: an eventfd that blocks for waking", wake_me, WAKE_EVENT, GOES_ON, NULL},
};

void peer_shm(const char *only) {
    peer_run(attacks, sizeof attacks / sizeof attacks[0], "transport=shm", only);
}
