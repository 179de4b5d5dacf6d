// SPDX-License-Identifier: MIT
// A rail that dies under a link which has others.
//
// What is not acknowledged may only be late, so the kernel waits for all of path_grace before it gives a connection up,
// and with one way alone there is nothing better to do. A link that has others does not wait for so long: when the kernel
// has repeated itself in vain some times, the path is LOST, and the others are tried. If a connection by another
// interface has nothing to repeat meanwhile, it is the rail, which is left out then. A peer that does not read is no
// reason: its kernel acknowledges, and answers when it is asked whether there is room again.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define LOOK_EVERY (250 * RDI_MS)
// In vain so often: after 1.4 s where the kernel begins to repeat after 0.2. The receiver, who cannot choose rails, leaves
// it to the sender first.
#define SENDER_TRIES 3
#define RECEIVER_TRIES 4

void rdi_tcp_stall_begin(struct rdi_tcp_link *l) {
    l->railed = false;
    for (unsigned i = 1; i < l->npaths; i++) {
        l->railed = l->railed || !rdi_tcp_same_ip(&l->paths[0]->local, &l->paths[i]->local);
    }
    l->stalls = l->railed || (l->base.sender && l->nroutes > 1);
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
    if (silent != NULL && l->base.sender && l->others) {
        // No way is better than another where little is said.
        rdi_tcp_link_lost(l, silent, "silent; now other ways are tried as well",
                          l->base.net->params.narrow ? ETIMEDOUT : 0);
    }
}

void rdi_tcp_stall_tick(struct rdi_tcp_net *n, uint64_t now) {
    if (n->stalls == 0 || now < n->look_at) {
        return;
    }
    n->look_at = now + LOOK_EVERY;
    for (struct rdi_tcp_link *l = n->links; l != NULL; l = l->next) {
        if (l->stalls && l->base.state == RDI_LINK_UP) {
            look_at(l);
        }
    }
}
