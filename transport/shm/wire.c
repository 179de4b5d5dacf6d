// SPDX-License-Identifier: MIT
// Encoding, parsing and passing packets. Numbers are little endian whatever the machine, because an address
// is read by ranks on other machines too.
#include "transport/shm/wire.h"
#include "transport/shm/layout.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// ---- Numbers -------------------------------------------------------------------------------------

struct writer {
    uint8_t *at;
};

static void put(struct writer *w, uint64_t v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        *w->at++ = (uint8_t)(v >> (8 * i));
    }
}

static void put_bytes(struct writer *w, const void *bytes, size_t n) {
    memcpy(w->at, bytes, n);
    w->at += n;
}

static void put_text(struct writer *w, const char *text) {
    put_bytes(w, text, strnlen(text, SHM_TEXT_MAX - 1));
}

// Reads past the end give zeros; `too_short` then tells.
struct reader {
    const uint8_t *at;
    size_t left;
    bool too_short;
};

static uint64_t get(struct reader *r, size_t n) {
    if (r->left < n) {
        r->too_short = true;
        return 0;
    }
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        v |= (uint64_t)r->at[i] << (8 * i);
    }
    r->at += n;
    r->left -= n;
    return v;
}

static void get_bytes(struct reader *r, void *out, size_t n) {
    if (r->left < n) {
        r->too_short = true;
        return;
    }
    memcpy(out, r->at, n);
    r->at += n;
    r->left -= n;
}

// The rest of the bytes as text that is fit for an error message.
static void get_text(struct reader *r, char text[SHM_TEXT_MAX]) {
    if (r->left >= SHM_TEXT_MAX) {
        r->too_short = true;
        return;
    }
    size_t n = r->left;
    for (size_t i = 0; i < n; i++) {
        text[i] = r->at[i] < 0x20 || r->at[i] == 0x7f ? ' ' : (char)r->at[i];
    }
    text[n] = '\0';
    r->left = 0;
}

static bool is_whole(const struct reader *r) { return !r->too_short && r->left == 0; }

static bool is_failure(int32_t status) {
    return status <= RONDO_ERR_INVALID && status >= RONDO_ERR_INTERNAL;
}

static bool is_geometry(uint32_t slots, uint32_t max_msg) {
    return slots >= 1 && slots <= SHM_SLOTS_MAX && max_msg >= 64 && max_msg <= SHM_MSG_MAX &&
           max_msg % 64 == 0;
}

// ---- Address -------------------------------------------------------------------------------------

static const uint8_t address_magic[4] = {'R', 'S', 'H', '1'};

size_t shm_address_write(const struct shm_address *a, uint8_t blob[RDI_BLOB_MAX]) {
    struct writer w = {blob};
    put_bytes(&w, address_magic, sizeof address_magic);
    put_bytes(&w, a->host_id, sizeof a->host_id);
    put_bytes(&w, a->name, sizeof a->name);
    put(&w, a->pid, 4);
    put(&w, a->uid, 4);
    put(&w, a->user_ns, 8);
    return (size_t)(w.at - blob);
}

bool shm_address_parse(const void *blob, size_t len, struct shm_address *out) {
    struct reader r = {blob, len, false};
    struct shm_address a;
    uint8_t magic[4] = {0};
    get_bytes(&r, magic, sizeof magic);
    get_bytes(&r, a.host_id, sizeof a.host_id);
    get_bytes(&r, a.name, sizeof a.name);
    a.pid = (uint32_t)get(&r, 4);
    a.uid = (uint32_t)get(&r, 4);
    a.user_ns = get(&r, 8);
    if (!is_whole(&r) || memcmp(magic, address_magic, sizeof magic) != 0) {
        return false;
    }
    *out = a;
    return true;
}

// ---- Handshake payloads --------------------------------------------------------------------------

size_t shm_hello_write(const struct shm_hello *h, uint8_t out[RDI_HS_PAYLOAD]) {
    struct writer w = {out};
    put(&w, h->id.comm, 8);
    put(&w, h->id.from, 4);
    put(&w, h->id.to, 4);
    put(&w, h->id.channel, 4);
    put(&w, h->slots, 4);
    put(&w, h->max_msg, 4);
    put(&w, h->pid, 4);
    put_bytes(&w, h->name, sizeof h->name);
    return (size_t)(w.at - out);
}

bool shm_hello_parse(const void *bytes, size_t n, struct shm_hello *out) {
    struct reader r = {bytes, n, false};
    struct shm_hello h;
    h.id.comm = get(&r, 8);
    h.id.from = (uint32_t)get(&r, 4);
    h.id.to = (uint32_t)get(&r, 4);
    h.id.channel = (uint32_t)get(&r, 4);
    h.slots = (uint32_t)get(&r, 4);
    h.max_msg = (uint32_t)get(&r, 4);
    h.pid = (uint32_t)get(&r, 4);
    get_bytes(&r, h.name, sizeof h.name);
    if (!is_whole(&r) || !is_geometry(h.slots, h.max_msg)) {
        return false;
    }
    *out = h;
    return true;
}

size_t shm_reply_write(const struct shm_reply *p, uint8_t out[RDI_HS_PAYLOAD]) {
    struct writer w = {out};
    put(&w, (uint32_t)p->status, 4);
    put(&w, p->slots, 4);
    put(&w, p->max_msg, 4);
    put(&w, p->pid, 4);
    put_bytes(&w, p->name, sizeof p->name);
    put_text(&w, p->text);
    return (size_t)(w.at - out);
}

bool shm_reply_parse(const void *bytes, size_t n, struct shm_reply *out) {
    struct reader r = {bytes, n, false};
    struct shm_reply p;
    int32_t status = (int32_t)(uint32_t)get(&r, 4);
    p.slots = (uint32_t)get(&r, 4);
    p.max_msg = (uint32_t)get(&r, 4);
    p.pid = (uint32_t)get(&r, 4);
    get_bytes(&r, p.name, sizeof p.name);
    get_text(&r, p.text);
    if (!is_whole(&r) ||
        (status == RONDO_OK ? !is_geometry(p.slots, p.max_msg) : !is_failure(status))) {
        return false;
    }
    p.status = (rondo_status)status;
    *out = p;
    return true;
}

// ---- Records -------------------------------------------------------------------------------------

size_t shm_record_write(const struct shm_record *rec, uint8_t out[SHM_RECORD_MAX]) {
    struct writer w = {out};
    put(&w, (uint32_t)rec->type, 4);
    put(&w, rec->handle, 4);
    put(&w, rec->value, 8);
    if (rec->type == SHM_VERDICT) {
        put_text(&w, rec->text);
    }
    return (size_t)(w.at - out);
}

static size_t fds_of(uint64_t type) {
    switch (type) {
    case SHM_REGION:
        return 3;
    case SHM_BELL:
        return 2;
    case SHM_OFFER:
        return 1;
    default:
        return 0;
    }
}

bool shm_record_parse(const void *bytes, size_t n, size_t n_fds, struct shm_record *out) {
    struct reader r = {bytes, n, false};
    uint64_t type = get(&r, 4);
    struct shm_record rec = {.handle = (uint32_t)get(&r, 4)};
    rec.value = get(&r, 8);
    if (type == SHM_VERDICT) {
        get_text(&r, rec.text);
        if (rec.value > -(int64_t)RONDO_ERR_INTERNAL) {
            return false;
        }
    }
    if (!is_whole(&r) || type < SHM_REGION || type > SHM_TAKE_BACK || n_fds != fds_of(type) ||
        (type == SHM_MAPPED && rec.value > 1)) {
        return false;
    }
    rec.type = (enum shm_record_type)type;
    *out = rec;
    return true;
}

// ---- Packets -------------------------------------------------------------------------------------

int shm_packet_send(int fd, const void *bytes, size_t n, const int *fds, size_t n_fds) {
    union {
        char room[CMSG_SPACE(sizeof(int) * SHM_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {(void *)(uintptr_t)bytes, n};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (n_fds > 0) {
        memset(&control, 0, sizeof control);
        m.msg_control = control.room;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    ssize_t sent;
    do {
        sent = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0 ? 0 : errno;
}

// Moves the descriptors of a received packet to fds. Alignment leaves the kernel room for one more.
static void take_fds(struct msghdr *m, int fds[SHM_FDS_MAX], size_t *n_fds) {
    *n_fds = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int one;
            memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof one);
            if (*n_fds < SHM_FDS_MAX) {
                fds[(*n_fds)++] = one;
            } else {
                close(one);
            }
        }
    }
}

int shm_packet_receive(int fd, void *bytes, size_t cap, size_t *n, int fds[SHM_FDS_MAX],
                       size_t *n_fds) {
    union {
        char room[CMSG_SPACE(sizeof(int) * SHM_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {bytes, cap};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.room,
                       .msg_controllen = sizeof control.room};
    ssize_t got;
    do {
        got = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return errno == ECONNRESET ? EPIPE : errno;
    }
    take_fds(&m, fds, n_fds);
    int err = 0;
    if ((m.msg_flags & MSG_CTRUNC) != 0) {
        // The kernel passes as many as there is room for, in the buffer and in our table.
        err = *n_fds == SHM_FDS_MAX ? EMSGSIZE : EMFILE;
    } else if ((m.msg_flags & MSG_TRUNC) != 0) {
        err = EMSGSIZE;
    } else if (got == 0) {
        err = EPIPE;
    }
    while (err != 0 && *n_fds > 0) {
        close(fds[--*n_fds]);
    }
    *n = (size_t)got;
    return err;
}
