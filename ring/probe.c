// SPDX-License-Identifier: MIT
// What has been sent here and not been asked for. The engine notes it for each rank when it meets such a message; a call of
// recv takes the note back. Any thread may read the notes while another one drives.
#include "ring/internal.h"

#include <stdlib.h>

// In the engine.
void rdi_comm_note_sent(struct rondo_comm *c, int peer, bool waits) {
    _Atomic uint8_t *sent = atomic_load(&c->sent);
    if (!sent) {
        if (!waits || atomic_load(&c->status) != RONDO_OK) {
            return;
        }
        sent = calloc((size_t)c->size, sizeof *sent);
        if (!sent) {
            rdi_comm_fail(c, RONDO_ERR_NOMEM, "out of memory for what %d ranks send", c->size);
            return;
        }
        atomic_store(&c->sent, sent);
    }
    if (waits && !atomic_load_explicit(&sent[peer], memory_order_relaxed)) {
        // Threads that are parked look again when this grows.
        atomic_fetch_add(&c->engine->completions, 1);
    }
    atomic_store(&sent[peer], waits);
}

struct probe {
    struct rondo_comm *comm;
    int peer;
};

// A rank whose send waits here; -1 if none.
static int sender(const struct probe *p) {
    _Atomic uint8_t *sent = atomic_load(&p->comm->sent);
    int first = p->peer < 0 ? 0 : p->peer, end = p->peer < 0 ? p->comm->size : p->peer + 1;
    for (int r = first; sent && r < end; r++) {
        if (atomic_load(&sent[r])) {
            return r;
        }
    }
    return -1;
}

static bool is_over(const void *arg) {
    const struct probe *p = arg;
    // A recv that the engine has not met yet may be for what the notes tell of.
    bool settled = atomic_load(&p->comm->engine->inbox) == NULL;
    return (settled && sender(p) >= 0) || atomic_load(&p->comm->status) != RONDO_OK;
}

rondo_status rondo_probe(rondo_comm *comm, int peer, int timeout_ms, int *from) {
    if (!comm || !from) {
        return rdi_fail(RONDO_ERR_INVALID, "rondo_probe: %s is NULL",
                        comm ? "the pointer to the rank" : "the communicator");
    }
    if (peer < -1 || peer >= comm->size || peer == comm->rank || timeout_ms < 0) {
        return rdi_fail(
            RONDO_ERR_INVALID,
            "rondo_probe: rank %d and %d ms: the rank must be another one in 0 .. %d, or -1 for "
            "any, and the time not negative",
            peer, timeout_ms, comm->size - 1);
    }
    struct rdi_driver *d = comm->engine->driver;
    rondo_status s = rdi_driver_check(d);
    if (s != RONDO_OK) {
        return s;
    }
    struct probe p = {comm, peer};
    if (!is_over(&p)) {
        (void)rdi_driver_poll(d);
    }
    (void)rdi_driver_wait(d, is_over, &p,
                          rdi_now(&comm->engine->env) + (uint64_t)timeout_ms * UINT64_C(1000000));
    int r = sender(&p);
    s = rondo_comm_error(comm);
    if (s == RONDO_OK && r >= 0) {
        *from = r;
    }
    return s == RONDO_OK && r < 0 ? RONDO_AGAIN : s;
}
