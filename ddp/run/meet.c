// SPDX-License-Identifier: MIT
// The launchers of a job's nodes meet in the store of node 0 and agree on rank numbers: each
// introduces itself, node 0 waits for all and writes the plan, or why there is none.
#include "ddp/run/nodes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANKS_MAX (1 << 20)

// What a launcher says of itself: "<token> <nodes> <ranks> <host> <min>:<max>".
struct introduction {
    char token[RUN_TOKEN + 1];
    int nodes, ranks;
    char host[RDI_HOST_MAX], elastic[24];
};

static bool parse_introduction(const char *text, struct introduction *in) {
    return sscanf(text, "%16s %9d %9d %63s %23s", in->token, &in->nodes, &in->ranks, in->host,
                  in->elastic) == 5 &&
           strlen(in->token) == RUN_TOKEN && in->ranks >= 1 && in->ranks <= RANKS_MAX;
}

static rondo_status introduce(struct run_nodes *nodes) {
    char host[RDI_HOST_MAX] = "", text[RDI_HOST_MAX + 64];
    run_nodes_host(host);
    snprintf(text, sizeof text, "%s %d %d %s %s", nodes->token, nodes->o->nnodes, nodes->o->nproc,
             host, nodes->o->elastic);
    return run_nodes_set(nodes, "node", nodes->o->node_rank, text);
}

// Adds "5" or ", 5" to a list, which ends with "..." when it is full.
static void list_node(char *list, size_t cap, int node) {
    size_t used = strlen(list);
    if (used + 20 < cap) {
        snprintf(list + used, cap - used, "%s%d", used > 0 ? ", " : "", node);
    } else if (list[used - 1] != '.') {
        snprintf(list + used, cap - used, ", ...");
    }
}

// Node 0: waits for everybody, writes what will be the plan into `plan`; came[r] tells who is
// there.
static rondo_status collect(struct run_nodes *nodes, const struct rdi_env *env, FILE *plan,
                            bool *came) {
    const struct run_options *o = nodes->o;
    uint64_t deadline = rdi_now(env) + (uint64_t)(o->connect_timeout * 1e9);
    char missing[256] = "";
    int count = 0, world = 0;
    fprintf(plan, "ok %s", nodes->run_id);
    for (int node = 0; node < o->nnodes; node++) {
        uint64_t now = rdi_now(env);
        int ms = deadline > now ? (int)((deadline - now) / 1000000) : 0;
        char *text;
        rondo_status s = run_nodes_get(nodes->store, "node", node, ms, &text);
        if (s == RONDO_ERR_TIMEOUT) {
            list_node(missing, sizeof missing, node);
            continue;
        }
        if (s != RONDO_OK) {
            return s;
        }
        came[node] = true;
        count++;
        struct introduction in;
        bool ok = parse_introduction(text, &in);
        free(text);
        if (!ok) {
            return rdi_fail(RONDO_ERR_BOOTSTRAP,
                            "node %d introduces itself in a way that is not understood", node);
        }
        if (in.nodes != o->nnodes) {
            return rdi_fail(
                RONDO_ERR_INVALID,
                "node %d (%s) was started with --nnodes %d, node 0 with --nnodes %d; they "
                "must agree",
                node, in.host, in.nodes, o->nnodes);
        }
        if (strcmp(in.elastic, o->elastic) != 0) {
            return rdi_fail(RONDO_ERR_INVALID,
                            "node %d (%s) was started with --elastic %s, node 0 with --elastic %s "
                            "(0:0: without); they must agree",
                            node, in.host, in.elastic, o->elastic);
        }
        if (in.ranks > RANKS_MAX - world) {
            return rdi_fail(RONDO_ERR_INVALID, "the job has more than %d ranks", RANKS_MAX);
        }
        world += in.ranks;
        fprintf(plan, " %s %d", in.token, in.ranks);
    }
    if (count < o->nnodes) {
        return rdi_fail(
            RONDO_ERR_TIMEOUT,
            "after %g s only %d of %d nodes have come; missing: node rank %s. Is rondo-run "
            "started there, with --nnodes %d and the same --master-addr and --master-port?",
            o->connect_timeout, count, o->nnodes, missing, o->nnodes);
    }
    if (o->elastic_max > 0 && world != o->elastic_max) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "the nodes have %d ranks together, but --elastic %s says %d: -n gives the "
                        "number of ranks on each node",
                        world, o->elastic, o->elastic_max);
    }
    return RONDO_OK;
}

// The others shall say the same; the store stays until they have read it.
static void refuse(struct run_nodes *nodes, const bool *came) {
    char reason[RUN_TEXT], *text;
    snprintf(reason, sizeof reason, "no %s", rondo_last_error());
    rondo_status s = run_nodes_set(nodes, "plan", -1, reason);
    for (int node = 1; node < nodes->o->nnodes && s == RONDO_OK; node++) {
        if (came[node]) {
            s = run_nodes_get(nodes->store, "bye", node, RUN_RPC_MS / 5, &text);
            if (s == RONDO_OK) {
                free(text);
            }
        }
    }
    rdi_set_last_error(reason + 3);
}

static rondo_status make_plan(struct run_nodes *nodes, const struct rdi_env *env) {
    char *plan = NULL;
    size_t len;
    bool *came = calloc((size_t)nodes->o->nnodes, sizeof *came);
    FILE *f = open_memstream(&plan, &len);
    rondo_status s = RONDO_OK;
    if (came == NULL || f == NULL) {
        s = rdi_fail(RONDO_ERR_NOMEM, "no memory for the plan of the job");
    } else {
        s = collect(nodes, env, f, came);
    }
    if (f != NULL && fclose(f) != 0 && s == RONDO_OK) {
        s = rdi_fail(RONDO_ERR_NOMEM, "no memory for the plan of the job");
    }
    if (s == RONDO_OK) {
        s = run_nodes_set(nodes, "plan", -1, plan);
    } else if (came != NULL) {
        refuse(nodes, came);
    }
    free(plan);
    free(came);
    return s;
}

// 0: not a number of ranks.
static int parse_ranks(const char *text) {
    char *end;
    long v = strtol(text, &end, 10);
    return *end == '\0' && v >= 1 && v <= RANKS_MAX ? (int)v : 0;
}

static rondo_status follow_plan(struct run_nodes *nodes) {
    const struct run_options *o = nodes->o;
    char *text, *save = NULL;
    // Node 0 gives up after the same time; wait for it to say so.
    int ms = (int)(o->connect_timeout * 1000) + RUN_RPC_MS;
    rondo_status s = run_nodes_get(nodes->store, "plan", -1, ms, &text);
    if (s != RONDO_OK) {
        return s;
    }
    if (strncmp(text, "no ", 3) == 0) {
        s = rdi_fail(RONDO_ERR_BOOTSTRAP, "node 0 says: %s", text + 3);
        free(text);
        return s;
    }
    const char *word = strtok_r(text, " ", &save), *id = strtok_r(NULL, " ", &save);
    bool ok = word != NULL && strcmp(word, "ok") == 0 && id != NULL;
    snprintf(nodes->run_id, sizeof nodes->run_id, "%s", ok ? id : "");
    nodes->ranks = calloc((size_t)o->nnodes, sizeof *nodes->ranks);
    if (nodes->ranks == NULL) {
        free(text);
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for %d nodes", o->nnodes);
    }
    for (int node = 0; ok && node < o->nnodes; node++) {
        const char *token = strtok_r(NULL, " ", &save), *ranks = strtok_r(NULL, " ", &save);
        int count = ranks != NULL ? parse_ranks(ranks) : 0;
        ok = count > 0 && count <= RANKS_MAX - nodes->world;
        if (ok && node == o->node_rank) {
            nodes->first_rank = nodes->world;
            if (strcmp(token, nodes->token) != 0) {
                s = rdi_fail(
                    RONDO_ERR_INVALID,
                    "another rondo-run was started with --node-rank %d; each node needs its own",
                    node);
            }
        }
        nodes->world += ok ? count : 0;
        nodes->ranks[node] = ok ? count : 0;
    }
    free(text);
    return ok ? s : rdi_fail(RONDO_ERR_BOOTSTRAP, "the plan of node 0 is not understood");
}

rondo_status run_nodes_meet(struct run_nodes *nodes, const struct rdi_env *env) {
    uint8_t random[RUN_TOKEN / 2];
    env->random(env->self, random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++) {
        snprintf(nodes->token + 2 * i, 3, "%02x", random[i]);
    }
    rdi_run_id(env, nodes->run_id);
    rondo_status s = introduce(nodes);
    if (s == RONDO_OK && nodes->o->node_rank == 0) {
        s = make_plan(nodes, env);
    }
    return s == RONDO_OK ? follow_plan(nodes) : s;
}
