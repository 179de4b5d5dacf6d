// SPDX-License-Identifier: MIT
// What a control message of the watch may look like. Pure; a fuzz target feeds it.
#include "transport/watch/wire.h"

#include <string.h>

_Static_assert(sizeof(union rdi_w_any) <= RDI_CTRL_MAX, "every message fits a control message");

size_t rdi_w_size(unsigned type) {
    switch ((enum rdi_watch_type)type) {
    case RDI_W_BEAT:
        return sizeof(struct rdi_w_beat);
    case RDI_W_SUSPECT:
        return sizeof(struct rdi_w_suspect);
    case RDI_W_PROPOSE:
    case RDI_W_PRIOR:
    case RDI_W_COMMIT:
        return sizeof(struct rdi_w_decision);
    case RDI_W_ACK:
        return sizeof(struct rdi_w_ack);
    case RDI_W_ALIVE:
        return sizeof(struct rdi_w_alive);
    case RDI_W_REPORT:
    case RDI_W_VERDICT:
        return sizeof(struct rdi_w_verdict);
    case RDI_W_VOTE:
    case RDI_W_QUERY:
        return sizeof(struct rdi_w_vote);
    case RDI_W_RESULT:
        return sizeof(struct rdi_w_result);
    case RDI_W_JOIN:
        return sizeof(struct rdi_w_join);
    case RDI_W_JOIN_ACK:
    case RDI_W_READY:
        return sizeof(struct rdi_w_live);
    case RDI_W_INVITE:
        return sizeof(struct rdi_watch_invite);
    case RDI_W_CUT:
        return sizeof(struct rdi_w_cut);
    case RDI_W_RELAY:
        return sizeof(struct rdi_w_relay);
    case RDI_W_TYPES:
        break;
    }
    return 0;
}

// No member beyond the job's ranks.
static bool fits(const uint64_t *set, int size) {
    uint64_t beyond = 0;
    for (int i = 0; i < RDI_WATCH_SET; i++) {
        int first = i * 64;
        if (size <= first) {
            beyond |= set[i];
        } else if (size < first + 64) {
            beyond |= set[i] >> (size - first);
        }
    }
    return beyond == 0;
}

static bool decision_ok(struct rdi_w_decision *d, int size) {
    rdi_printable(d->text, sizeof d->text);
    bool ok = fits(d->failed, size) && d->coordinator < (uint32_t)size && d->epoch > 0;
    for (int i = 0; i < RDI_W_JOINED; i++) {
        ok = ok && d->joined[i][0] <= (uint32_t)size;
    }
    return ok;
}

bool rdi_w_read(unsigned type, const void *msg, size_t len, int size, union rdi_w_any *out) {
    if (len == 0 || len != rdi_w_size(type) || size < 1 || size > RDI_WATCH_RANKS) {
        return false;
    }
    memcpy(out, msg, len);
    switch ((enum rdi_watch_type)type) {
    case RDI_W_SUSPECT:
        rdi_printable(out->suspect.text, sizeof out->suspect.text);
        return out->suspect.rank < (uint32_t)size && out->suspect.cause >= RDI_CAUSE_DEAD &&
               out->suspect.cause <= RDI_CAUSE_STOPPED;
    case RDI_W_PROPOSE:
    case RDI_W_PRIOR:
    case RDI_W_COMMIT:
        return decision_ok(&out->decision, size);
    case RDI_W_ALIVE:
        return out->alive.rank < (uint32_t)size && out->alive.via <= (uint32_t)size;
    case RDI_W_REPORT:
    case RDI_W_VERDICT:
        rdi_printable(out->verdict.text, sizeof out->verdict.text);
        return out->verdict.status < 0 && out->verdict.culprit <= (uint32_t)size;
    case RDI_W_RESULT:
        return fits(out->result.live, size);
    case RDI_W_JOIN:
        return out->join.incarnation > 0 && out->join.total <= RDI_WATCH_RECORD &&
               out->join.len <= RDI_W_PART && out->join.offset <= out->join.total &&
               out->join.len <= out->join.total - out->join.offset;
    case RDI_W_JOIN_ACK:
    case RDI_W_READY:
        return fits(out->live.live, size);
    case RDI_W_INVITE:
        return fits(out->invite.members, size) && out->invite.n <= (uint32_t)size &&
               out->invite.extra_len <= sizeof out->invite.extra;
    case RDI_W_RELAY:
        // What it carries is read by whom it is for.
        return out->relay.from < (uint32_t)size && out->relay.to < (uint32_t)size &&
               out->relay.type != RDI_W_RELAY && out->relay.len <= sizeof out->relay.bytes &&
               out->relay.len == rdi_w_size(out->relay.type);
    default:
        return true;
    }
}
