// SPDX-License-Identifier: MIT
// A rail that dies under a link which has others.
//
// What is not acknowledged may only be late, so the kernel waits for all of path_grace before it gives a connection up,
// and with one way alone there is nothing better to do. A link that has others does not wait for so long: when the kernel
// has repeated itself in vain some times, and for a second, the path is LOST, and the others are tried. If a connection by
// another interface has nothing to repeat, and was answered while the silent one was not, it is the rail, which is left out
// then. One that had nothing to say proves nothing: all rails are tried again, and which one does not answer shows. Where
// all answer then, and the same one is silent again, it carries no more than a few bytes, and is left out after all. A
// peer that does not read is no reason: its kernel acknowledges, and answers when it is asked whether there is room again.
#include "transport/tcp/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#define LOOK_EVERY (250 * RDI_MS)
// In vain so often: after 1.4 s where the kernel begins to repeat after 0.2. The receiver, who cannot choose rails, leaves
// it to the sender first.
#define SENDER_TRIES 3
#define RECEIVER_TRIES 4
// ... and for so long, where the kernel repeats itself sooner: a short outage is no loss.
#define SILENT_AT_LEAST (1000 * RDI_MS)
#define AGAIN (30000 * RDI_MS)

void rdi_tcp_stall_begin(struct rdi_tcp_link *l) {
    l->railed = false;
    for (unsigned i = 1; i < l->npaths; i++) {
        l->railed = l->railed || !rdi_tcp_same_ip(&l->paths[0]->local, &l->paths[i]->local);
    }
    // A prompt net's connections end by themselves after as long a silence.
    l->stalls = !l->base.net->params.prompt && (l->railed || (l->base.sender && l->nroutes > 1));
}

// ---- The decision --------------------------------------------------------------------------------

// Whether `other` proves that not all ways to the peer are dead.
static bool is_proof(const struct rdi_tcp_signs *other, const struct rdi_tcp_signs *silent) {
    return other->known && other->tries == 0 &&
           (uint64_t)other->heard_ms * RDI_MS < silent->silent_for;
}

enum rdi_tcp_verdict rdi_tcp_stall_judge(const struct rdi_tcp_signs *s, unsigned count,
                                         unsigned most, unsigned *which) {
    unsigned k = 0;
    while (k < count && !(s[k].known && s[k].tries >= most && s[k].silent_for >= SILENT_AT_LEAST)) {
        k++;
    }
    if (k == count) {
        return RDI_TCP_LIVELY;
    }
    enum rdi_tcp_verdict verdict = RDI_TCP_ALL_MUTE;
    *which = k;
    for (unsigned i = 0; i < count; i++) {
        if (s[i].rail == s[k].rail) {
            continue;
        }
        if (is_proof(&s[i], &s[k])) {
            return RDI_TCP_RAIL_DEAD;
        }
        verdict = s[i].tries == 0 ? RDI_TCP_UNSURE : verdict;
    }
    return verdict;
}

// ---- Looking -------------------------------------------------------------------------------------

static struct rdi_tcp_signs look_at_path(struct rdi_tcp_path *p, uint64_t now) {
    struct rdi_tcp_signs s = {0};
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    if (p->stage == RDI_TCP_OPEN && !p->said_bye &&
        getsockopt(p->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0) {
        s.known = true;
        s.tries = info.tcpi_retransmits > info.tcpi_probes ? info.tcpi_retransmits
                                                           : info.tcpi_probes;
        s.heard_ms = info.tcpi_last_ack_recv;
    }
    if (s.tries == 0) {
        p->silent_since = 0;
    } else if (p->silent_since == 0) {
        p->silent_since = now;
    }
    s.silent_for = s.tries > 0 ? now - p->silent_since : 0;
    return s;
}

static unsigned rail_of(const struct rdi_tcp_link *l, unsigned path) {
    unsigned i = 0;
    while (!rdi_tcp_same_ip(&l->paths[i]->local, &l->paths[path]->local)) {
        i++;
    }
    return i;
}

static void look_at(struct rdi_tcp_link *l, uint64_t now) {
    struct rdi_tcp_signs s[RDI_TCP_PATHS];
    unsigned which = 0;
    for (unsigned i = 0; i < l->npaths; i++) {
        s[i] = look_at_path(l->paths[i], now);
        s[i].rail = rail_of(l, i);
    }
    switch (
        rdi_tcp_stall_judge(s, l->npaths, l->base.sender ? SENDER_TRIES : RECEIVER_TRIES, &which)) {
    case RDI_TCP_LIVELY:
        break;
    case RDI_TCP_RAIL_DEAD:
        rdi_tcp_link_lost(l, l->paths[which], "silent, while another interface's connection is not",
                          ETIMEDOUT);
        break;
    case RDI_TCP_UNSURE: {
        const struct sockaddr_storage *rail = &l->paths[which]->local;
        bool again = l->unsure_at != 0 && now < l->unsure_at + AGAIN &&
                     rdi_tcp_same_ip(&l->unsure, rail);
        l->unsure = *rail;
        l->unsure_at = now;
        rdi_tcp_link_lost(l, l->paths[which],
                          again ? "silent again" : "silent; now all ways are tried again",
                          again ? ETIMEDOUT : 0);
        break;
    }
    case RDI_TCP_ALL_MUTE:
        if (l->base.sender && l->others) {
            // No way is better than another where little is said.
            rdi_tcp_link_lost(l, l->paths[which], "silent; now other ways are tried as well",
                              l->base.net->params.narrow ? ETIMEDOUT : 0);
        }
        break;
    }
}

void rdi_tcp_stall_tick(struct rdi_tcp_net *n, uint64_t now) {
    if (n->stalls == 0 || now < n->look_at) {
        return;
    }
    n->look_at = now + LOOK_EVERY;
    for (struct rdi_tcp_link *l = n->links; l != NULL; l = l->next) {
        if (l->stalls && l->base.state == RDI_LINK_UP) {
            look_at(l, now);
        }
    }
}
