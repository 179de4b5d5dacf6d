// SPDX-License-Identifier: MIT
// The usual stage: a net on each of two partners and links between them.
#include "transport/conform/check.h"

#include <string.h>

#define COMM 7

static bool is_up(struct cf *c, struct rdi_link *link, bool wanted) {
    if (!wanted) {
        return true;
    }
    if (link != NULL && link->state == RDI_LINK_FAILED) {
        cf_fail(c, "a link failed while it was being opened: %s", link->why);
    }
    // A quick partner may have sent all and said good-bye already.
    return link != NULL && (link->state == RDI_LINK_UP || link->state == RDI_LINK_CLOSED);
}

void cf_pair_links(struct cf_pair *p, struct cf *c, unsigned links, uint64_t comm) {
    bool mine = (links & (c->first ? CF_TO : CF_FRO)) != 0;
    bool theirs = (links & (c->first ? CF_FRO : CF_TO)) != 0;
    p->out = mine ? cf_connect(p->n, p->peer, c->peer, comm) : NULL;
    p->in = NULL;
    cf_await(c, "the links came up",
             is_up(c, p->out, mine) && is_up(c, p->in = cf_accepted(p->n, c->peer, comm), theirs));
}

void cf_pair_open(struct cf_pair *p, struct cf *c, const char *options, unsigned links) {
    p->n = cf_net_open(c, options);
    cf_meet(c, p->n);
    p->peer = &p->n->peers[c->peer];
    cf_pair_links(p, c, links, COMM);
    cf_step(c, "the links are up");
}

void cf_pair_close(struct cf_pair *p, struct cf *c) {
    uint64_t posted = p->out != NULL ? p->out->posted : 0, theirs;
    cf_exchange(c, &posted, sizeof posted);
    memcpy(&theirs, c->boxes[c->peer].bytes, sizeof theirs);
    cf_expect(c, p->in == NULL || p->in->arrived == theirs,
              "%llu messages arrived in the end of %llu that were sent",
              (unsigned long long)(p->in != NULL ? p->in->arrived : 0), (unsigned long long)theirs);
    if (p->out != NULL) {
        cf_close(p->n, p->out, true);
    }
    if (p->in != NULL) {
        cf_close(p->n, p->in, true);
    }
    cf_net_close(p->n);
}
