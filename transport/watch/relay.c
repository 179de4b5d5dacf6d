// SPDX-License-Identifier: MIT
// Relays: two ranks that both live but have lost the path between them talk through a third one.
//
//   rank a --- x --- rank b          a suspects b; c, asked, hears it:   c --ALIVE b via c--> a    (member.c)
//      \            /                from then on                        a --RELAY--> c --RELAY--> b
//       +-- rank c -+                b answers the same way, through c, until it hears a itself again
//
// So a lost path between two of many hosts neither looks like a death nor keeps any vote or verdict waiting.
#include "transport/watch/core.h"

#include <string.h>

_Static_assert(sizeof((struct rdi_w_relay *)0)->bytes >= sizeof(struct rdi_w_decision) &&
                   sizeof((struct rdi_w_relay *)0)->bytes >= sizeof(struct rdi_watch_invite) &&
                   sizeof((struct rdi_w_relay *)0)->bytes >= sizeof(struct rdi_w_verdict),
               "the longest messages fit a relay");

bool rdi_w_hears(const struct rdi_watch *w, int rank) {
    const struct rdi_w_rank *r = &w->ranks[rank];
    return rdi_w_linked(w, rank) && rdi_w_now(w) < r->heard + rdi_w_lately(w);
}

void rdi_w_lives_behind(struct rdi_watch *w, int rank, int via) {
    struct rdi_w_rank *r = &w->ranks[rank];
    r->via = via >= 0 && via != w->rank ? via + 1 : r->via;
    r->alive_until = rdi_w_now(w) + rdi_w_lately(w);
    // Who says so heard it lately, or was told so lately by one who had.
    uint64_t ago = 2 * rdi_w_lately(w);
    r->lived_at = rdi_w_now(w) > ago ? rdi_w_now(w) - ago : 0;
    if (r->cause != RDI_CAUSE_DEAD) {
        rdi_w_clear(w, rank);
    }
}

bool rdi_w_relay(struct rdi_watch *w, int to, unsigned type, const void *msg, size_t len) {
    struct rdi_w_rank *r = &w->ranks[to];
    int via = r->via - 1;
    struct rdi_w_relay m = {.from = (uint32_t)w->rank, .to = (uint32_t)to, .type = type};
    if (via < 0 || type == RDI_W_RELAY || len > sizeof m.bytes || rdi_w_hears(w, to)) {
        return false;
    }
    if (!rdi_w_live(w, via) || !rdi_w_hears(w, via)) {
        r->via = 0;
        return false;
    }
    m.len = (uint32_t)len;
    memcpy(m.bytes, msg, len);
    rdi_w_send(w, via, RDI_W_RELAY, &m, sizeof m);
    return true;
}

void rdi_w_on_relay(struct rdi_watch *w, int from, const struct rdi_w_relay *m) {
    int to = (int)m->to, origin = (int)m->from;
    union rdi_w_any inner;
    if (to != w->rank) {
        // One step only: who cannot pass it on drops it, and what matters is said again.
        if (origin == from && rdi_w_live(w, to) && rdi_w_hears(w, to)) {
            rdi_w_send(w, to, RDI_W_RELAY, m, sizeof *m);
        }
        return;
    }
    if (origin == w->rank || !rdi_w_live(w, origin) ||
        !rdi_w_read(m->type, m->bytes, m->len, w->size, &inner)) {
        return;
    }
    if (!rdi_w_hears(w, origin)) {
        rdi_w_lives_behind(w, origin, from);
    }
    rdi_w_receive(w, origin, m->type, &inner);
}
