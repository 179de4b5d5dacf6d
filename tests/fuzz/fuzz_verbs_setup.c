// SPDX-License-Identifier: MIT
// Set-up messages of verbs links, as a peer that proved the job's key may still send them wrong. What is
// accepted must be within the bounds that the rest of the code relies on, and encode to a message that reads
// the same.
//
// The first byte of an input is the message's type, counted from the first.
#include "fuzz.h"
#include "transport/verbs/wire.h"

#include <string.h>

static void check_queue_pairs(const struct rdi_verbs_msg *m) {
    MUST(m->mode <= RDI_VERBS_SEND && m->slots > 0 && m->slots <= 1024);
    MUST(m->max_msg > 0 && m->max_msg % 64 == 0 && m->max_msg <= 16u << 20);
    MUST(m->npairs > 0 && m->npairs <= RDI_VERBS_RAILS);
    MUST(m->nqps > 0 && m->nqps <= RDI_VERBS_LINK_QPS && m->nqps % m->npairs == 0);
    for (unsigned i = 0; i < m->npairs; i++) {
        MUST(m->pairs[i].from < RDI_VERBS_RAILS && m->pairs[i].to < RDI_VERBS_RAILS);
        MUST(m->pairs[i].mtu >= IBV_MTU_256 && m->pairs[i].mtu <= IBV_MTU_4096);
    }
    for (unsigned i = 0; i < m->nqps; i++) {
        MUST(m->qps[i].qpn <= 0xffffff && m->qps[i].psn <= 0xffffff);
    }
}

static bool take(struct rdi_verbs_msg *m, const uint8_t *data, size_t size) {
    return size > 0 && rdi_verbs_msg_read(m, RDI_VERBS_OFFER + data[0], data + 1, size - 1);
}

bool fuzz_accepts(const uint8_t *data, size_t size) {
    struct rdi_verbs_msg m;
    return take(&m, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct rdi_verbs_msg m, again;
    uint8_t out[RDI_CTRL_MAX];
    if (!take(&m, data, size)) {
        return 0;
    }
    MUST(memchr(m.text, 0, sizeof m.text) != NULL && memchr(m.host, 0, sizeof m.host) != NULL);
    if (m.type == RDI_VERBS_OFFER || m.type == RDI_VERBS_GRANT) {
        check_queue_pairs(&m);
    }
    MUST(m.type != RDI_VERBS_OFFER ||
         (m.address.nrails > 0 && m.address.nrails <= RDI_VERBS_RAILS));
    MUST(m.released <= m.arrived);
    MUST(m.type != RDI_VERBS_FAIL || m.status < 0);
    size_t len = rdi_verbs_msg_write(&m, out);
    MUST(len == size - 1 && rdi_verbs_msg_read(&again, m.type, out, len));
    MUST(memcmp(&m, &again, sizeof m) == 0);
    return 0;
}
