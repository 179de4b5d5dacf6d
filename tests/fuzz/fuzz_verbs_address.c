// SPDX-License-Identifier: MIT
// A peer's RDMA ports, as they come from the store. What is accepted must be within the bounds that the rest
// of the code relies on, encode to the same bytes, and give the same pairs at both ends.
#include "fuzz.h"
#include "transport/verbs/device.h"

#include <string.h>

static void check_rail(const struct rdi_verbs_rail_info *r) {
    char text[48];
    MUST(memchr(r->device, 0, sizeof r->device) != NULL && r->device[0] != '\0');
    MUST(r->port > 0 && r->link_layer <= 2 && r->mtu >= IBV_MTU_256 && r->mtu <= IBV_MTU_4096);
    MUST(r->ngids <= 2);
    for (unsigned i = 0; i < r->ngids; i++) {
        const struct rdi_verbs_gid *g = &r->gids[i];
        MUST(g->prefix <= 128 && (g->type != RDI_GID_IB) == (r->link_layer == 1));
        MUST(rdi_verbs_gid_rank(g, NULL) > 0);
        MUST(rdi_verbs_gid_text(g, text, sizeof text)[0] != '\0');
    }
}

static void check_pairs(const struct rdi_verbs_address *a, const struct rdi_verbs_address *b) {
    struct rdi_verbs_pair p[RDI_VERBS_RAILS], q[RDI_VERBS_RAILS];
    char why[300];
    unsigned n = rdi_verbs_pairs(a, b, p, why, sizeof why);
    MUST(n <= a->nrails && n <= b->nrails && rdi_verbs_pairs(b, a, q, why, sizeof why) == n);
    for (unsigned i = 0; i < n; i++) {
        MUST(p[i].mine == q[i].theirs && p[i].theirs == q[i].mine && p[i].grh == q[i].grh);
        MUST(p[i].mine < a->nrails && p[i].theirs < b->nrails);
        MUST(p[i].tier == q[i].tier && p[i].tier <= 4 && (i == 0 || p[i].tier <= p[i - 1].tier));
        MUST(!p[i].grh || (p[i].my_gid < a->rails[p[i].mine].ngids &&
                           p[i].their_gid < b->rails[p[i].theirs].ngids));
    }
}

bool fuzz_accepts(const uint8_t *data, size_t size) {
    struct rdi_verbs_address a;
    return rdi_verbs_address_read(&a, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct rdi_verbs_address a, b;
    uint8_t out[RDI_VERBS_ADDRESS_MAX];
    if (!rdi_verbs_address_read(&a, data, size)) {
        return 0;
    }
    MUST(a.nrails >= 1 && a.nrails <= RDI_VERBS_RAILS);
    for (unsigned i = 0; i < a.nrails; i++) {
        check_rail(&a.rails[i]);
    }
    // Text may have been cleaned, so what is written is compared with what it gives in turn.
    MUST(rdi_verbs_address_write(&a, out) == size);
    MUST(rdi_verbs_address_read(&b, out, size));
    MUST(memcmp(&a, &b, sizeof a) == 0);
    check_pairs(&a, &b);
    b.rails[0] = b.rails[b.nrails - 1];
    b.rails[0].gids[0].raw[15] ^= 1;
    check_pairs(&a, &b);
    return 0;
}
