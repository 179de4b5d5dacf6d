// SPDX-License-Identifier: MIT
// A rail that dies under a link which has others.
//
// What is not acknowledged may only be late, so the kernel waits for all of path_grace before it gives a connection up,
// and alone nobody can know better. But a link over several interfaces can: when one of its connections has been
// repeated in vain again and again, while one by another interface has nothing to repeat, it is that rail. A peer that
// does not read is no reason: its kernel acknowledges, and answers when it is asked whether there is room again.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define LOOK_EVERY (250 * RDI_MS)
// In vain so often: after 1.4 s where the kernel begins to repeat after 0.2. The receiver, who cannot choose rails, leaves
// it to the sender first.
#define SENDER_TRIES 3
#define RECEIVER_TRIES 4

bool rdi_tcp_is_railed(const struct rdi_tcp_link *l) {
    for (unsigned i = 1; i < l->npaths; i++) {
        if (!rdi_tcp_same_ip(&l->paths[0]->local, &l->paths[i]->local)) {
            return true;
        }
    }
    return false;
}

// How often the kernel has repeated in vain what is first in line.
static unsigned tries(const struct rdi_tcp_path *p) {
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (p->stage != RDI_TCP_OPEN || p->said_bye ||
        getsockopt(p->fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) {
        return 0;
    }
    return info.tcpi_retransmits > info.tcpi_probes ? info.tcpi_retransmits : info.tcpi_probes;
}

static void look_at(struct rdi_tcp_link *l) {
    const struct rdi_tcp_path *silent = NULL;
    unsigned most = l->base.sender ? SENDER_TRIES : RECEIVER_TRIES;
    for (unsigned i = 0; i < l->npaths && silent == NULL; i++) {
        silent = tries(l->paths[i]) >= most ? l->paths[i] : NULL;
    }
    for (unsigned i = 0; i < l->npaths && silent != NULL; i++) {
        const struct rdi_tcp_path *p = l->paths[i];
        if (!rdi_tcp_same_ip(&p->local, &silent->local) && tries(p) == 0) {
            rdi_tcp_link_lost(l, silent, "silent, while another interface's connection is not",
                              ETIMEDOUT);
            return;
        }
    }
}

void rdi_tcp_stall_tick(struct rdi_tcp_net *n, uint64_t now) {
    if (n->railed == 0 || now < n->look_at) {
        return;
    }
    n->look_at = now + LOOK_EVERY;
    for (struct rdi_tcp_link *l = n->links; l != NULL; l = l->next) {
        if (l->railed && l->base.state == RDI_LINK_UP) {
            look_at(l);
        }
    }
}
