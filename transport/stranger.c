// SPDX-License-Identifier: MIT
// Connections that do not belong to the job: counted, told of seldom, and never so many that they matter.
#include "transport/internal.h"

#include <sys/resource.h>

#define TELL_EVERY UINT64_C(1000000000)
#define SHARE 8 // of the process' descriptors, for each listener's strangers
#define LEAST 16

void rdi_net_stranger(struct rdi_net *net, const char *who, const char *why) {
    const struct rdi_env *env = &net->params.env;
    uint64_t now = rdi_now(env);
    net->strangers++;
    if (net->stranger_told_at != 0 && now - net->stranger_told_at < TELL_EVERY) {
        return;
    }
    rdi_log(
        env, RONDO_LOG_WARN,
        "%s: dropped a connection from %s that did not prove this job's key: %s (%llu since the "
        "last such line)",
        net->ops->name, who, why, (unsigned long long)(net->strangers - net->strangers_told));
    net->strangers_told = net->strangers;
    net->stranger_told_at = now;
}

void rdi_net_damaged(struct rdi_net *net, const char *who) {
    const struct rdi_env *env = &net->params.env;
    uint64_t now = rdi_now(env);
    net->damaged++;
    if (net->damage_told_at != 0 && now - net->damage_told_at < TELL_EVERY) {
        return;
    }
    rdi_log(env, RONDO_LOG_WARN,
            "%s: dropped a connection with %s: its data was changed on the way or came from "
            "somebody else (%llu since "
            "the last such line)",
            net->ops->name, who, (unsigned long long)(net->damaged - net->damage_told));
    net->damage_told = net->damaged;
    net->damage_told_at = now;
}

unsigned rdi_strangers_max(unsigned most) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur / SHARE >= most) {
        return most;
    }
    unsigned n = (unsigned)(limit.rlim_cur / SHARE);
    return n > LEAST ? n : most < LEAST ? most : LEAST;
}
