// SPDX-License-Identifier: MIT
// Lost paths between two that live: the link goes on under a new epoch, and each message arrives exactly once.
#include "transport/conform/check.h"

#include <string.h>

// A link is reset although nothing was wrong: what was whole stays, the rest comes again.
void cf_check_path_reset(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, "slots=4,chunk=64K", CF_TO);
    for (uint32_t round = 1; round <= 10; round++) {
        if (c->first) {
            uint64_t posted = p.out->posted;
            rondo_status s = p.out->ops->reset(p.out, round * 3);
            cf_expect(c, s == RONDO_OK, "reset() to epoch %u says %s: %s", round * 3,
                      rondo_status_name(s), rondo_last_error());
            cf_expect(c, p.out->state == RDI_LINK_CONNECTING, "after reset() the state is %d",
                      p.out->state);
            cf_await(c, "the link was up again", p.out->state == RDI_LINK_UP);
            cf_expect(c, p.out->posted == posted && p.out->sent == posted,
                      "posted is %llu and sent %llu; the receiver had %llu messages",
                      (unsigned long long)p.out->posted, (unsigned long long)p.out->sent,
                      (unsigned long long)posted);
        } else {
            cf_await(c, "the link was up in the new epoch",
                     p.in->epoch == round * 3 && p.in->state == RDI_LINK_UP);
        }
        cf_sync(c);
        cf_pair_stream(&p, c, 20, cf_any_size, true);
        cf_expect(c, p.n->accepts <= 1, "the link was taken for a new one");
    }
    cf_pair_close(&p, c);
}

void cf_check_path_epoch(struct cf *c) {
    struct cf_pair p;
    cf_pair_open(&p, c, NULL, CF_TO);
    cf_pair_hello(&p, c);
    struct rdi_link *l = c->first ? p.out : p.in;
    if (!c->first) {
        rondo_status s = l->ops->reset(l, 5);
        cf_expect(c, s == RONDO_ERR_USAGE, "reset() by the receiver says %s", rondo_status_name(s));
    } else {
        rondo_status s = l->ops->reset(l, 0);
        cf_expect(c, s == RONDO_ERR_USAGE, "reset() to the same epoch says %s",
                  rondo_status_name(s));
    }
    cf_expect(c, l->epoch == 0 && l->state == RDI_LINK_UP, "a refused reset() changed the link");
    cf_pair_stream(&p, c, 20, cf_any_size, true);
    cf_pair_close(&p, c);
}

static bool move(struct cf *c, struct cf_flow *f, struct cf_flow *g) {
    cf_revive(c, f->link);
    cf_expect(c, f->link->state != RDI_LINK_FAILED, "the link failed: %s", f->link->why);
    cf_flow_move(f);
    cf_flow_move(g);
    return cf_flow_done(f) && cf_flow_done(g);
}

// The path is cut again and again during a flood.
void cf_check_path_cut(struct cf *c) {
    struct cf_pair p;
    struct cf_flow out, in;
    uint64_t count = 200 + cf_many(c, 400), next = 40;
    unsigned cuts = 0, wanted = cf_cut_lasts(c) ? 2 : 8;
    cf_pair_open(&p, c, "path_grace=20s,chunk=64K", CF_BOTH);
    cf_flow_begin(&out, c, p.out, count, cf_any_size);
    cf_flow_begin(&in, c, p.in, count, cf_any_size);
    // Freed as soon as it may be: what comes again must come from what is not sent.
    out.scribble = true;
    out.may_end = in.may_end = true;
    uint64_t end = cf_wait_begin(c, 0, "all messages came, though the path was cut");
    for (bool done = false; !done;
         cf_wait_turn(c, end, "all messages came, though the path was cut")) {
        bool more = c->first && cuts < wanted;
        // No further than to the next cut: a quick flood must not be over before the last one.
        in.count = more ? next : count;
        done = move(c, &out, &in) && !more;
        if (more && in.taken >= next && p.out->state == RDI_LINK_UP) {
            cuts++;
            next += count / (wanted + 1);
            cf_cut(c, cuts % 2 == 0 ? p.out : p.in, 300);
        }
    }
    cf_flow_end(&out);
    cf_flow_end(&in);
    cf_expect(c, p.n->accepts == 1, "a link that came back was taken for a new one");
    cf_pair_close(&p, c);
}

// The path stays cut: after path_grace the link fails, and the text blames the path, not the peer.
void cf_check_path_grace(struct cf *c) {
    struct cf_pair p;
    if (!cf_cut_lasts(c)) {
        cf_skip(c, "nothing here can keep the path cut; give --break and --heal");
    }
    cf_pair_open(&p, c, "path_grace=1s", CF_TO);
    cf_pair_hello(&p, c);
    cf_sync(c);
    struct rdi_link *l = c->first ? p.out : p.in;
    if (c->first) {
        cf_cut(c, l, 0);
        // Something on its way, so that the loss is noticed.
        static uint8_t bytes[64];
        cf_put(l, bytes, sizeof bytes, 1, RDI_PUT_ACK);
        cf_await_failed(c, l, RONDO_ERR_PATH, RONDO_ERR_PEER);
        cf_heal(c);
    }
    cf_sync(c);
    cf_close(p.n, l, false);
    cf_net_close(p.n);
}
