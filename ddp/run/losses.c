// SPDX-License-Identifier: MIT
// An elastic job of several nodes: node 0 counts the ranks that are gone for good, and the nodes
// that have ended or are gone themselves.
//
// What the other launchers set in the store is told by its server, which is in this process, on the
// server's thread: no thread has to wait for each of the nodes.
#include "ddp/run/nodes.h"
#include "transport/bootstrap/bootstrap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "<ranks> <code> <text>", or "gone <text>".
static void note_loss(struct run_nodes *nodes, int node, const char *text) {
    struct run_losses *l = &nodes->losses[node];
    int ranks, code, skip = 0;
    if (strncmp(text, "gone ", 5) == 0) {
        l->gone = true;
        l->ranks = nodes->ranks[node];
        snprintf(l->text, sizeof l->text, "%s", text + 5);
        text += 5;
        code = RUN_EXIT_ERROR;
    } else if (sscanf(text, "%9d %9d %n", &ranks, &code, &skip) == 2 && ranks >= 0 &&
               ranks <= nodes->ranks[node] && code > 0 && code <= 255) {
        l->ranks = ranks;
        text += skip;
    } else {
        return; // only a launcher with the job's key writes here
    }
    if (nodes->loss_code == 0) {
        nodes->loss_code = code;
        snprintf(nodes->loss_text, sizeof nodes->loss_text, "%s", text);
    }
}

static void note_ends(struct run_nodes *nodes) {
    bool failed = false;
    for (int node = 1; node < nodes->o->nnodes; node++) {
        const struct run_losses *l = &nodes->losses[node];
        if (!l->ended && !l->gone) {
            return;
        }
        failed = failed || l->failed;
    }
    nodes->all_ends = failed ? RUN_ENDS_FAILED : RUN_ENDS_WELL;
}

static void told(void *arg, const char *key, const void *value, size_t len) {
    struct run_nodes *nodes = arg;
    char what[8], text[2 * RUN_TEXT];
    int node;
    if (sscanf(key, "launch/%7[a-z]/%9d", what, &node) != 2 || node < 1 ||
        node >= nodes->o->nnodes) {
        return;
    }
    len = len < sizeof text ? len : sizeof text - 1;
    memcpy(text, value, len);
    rdi_printable(text, len + 1);
    pthread_mutex_lock(&nodes->lock);
    // Nobody has lost anything before the plan was made.
    if (nodes->ranks != NULL && strcmp(what, "lost") == 0) {
        note_loss(nodes, node, text);
    } else if (nodes->ranks != NULL && strcmp(what, "end") == 0) {
        nodes->losses[node].ended = true;
        nodes->losses[node].failed = strcmp(text, "well") != 0;
    }
    note_ends(nodes);
    pthread_mutex_unlock(&nodes->lock);
    run_nodes_wake(nodes);
}

rondo_status run_losses_open(struct run_nodes *nodes, struct rdi_store_server *server) {
    nodes->losses = calloc((size_t)nodes->o->nnodes, sizeof *nodes->losses);
    if (nodes->losses == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for %d nodes", nodes->o->nnodes);
    }
    rdi_store_server_tell(server, "launch/", told, nodes);
    return RONDO_OK;
}

rondo_status run_losses_will(struct run_nodes *nodes) {
    char key[32], host[RDI_HOST_MAX] = "", text[RDI_HOST_MAX + 128];
    run_nodes_host(host);
    snprintf(key, sizeof key, "launch/lost/%d", nodes->o->node_rank);
    snprintf(text, sizeof text,
             "gone the launcher of node %d (%s) ended without a word, or its host did",
             nodes->o->node_rank, host);
    return rdi_store_will(nodes->store, key, text, strlen(text), RUN_RPC_MS);
}

void run_nodes_lost(struct run_nodes *nodes, int ranks, int code, const char *text) {
    char message[RUN_TEXT + 32], host[RDI_HOST_MAX] = "";
    if (nodes->o->node_rank > 0) {
        run_nodes_host(host);
        snprintf(message, sizeof message, "%d %d node %d (%s): %.500s", ranks, code,
                 nodes->o->node_rank, host, text);
        // One that cannot be delivered is dropped: without node 0 nobody counts.
        run_nodes_set(nodes, "lost", nodes->o->node_rank, message);
    }
}

int run_nodes_admitted(struct run_nodes *nodes, int rank) {
    char key[64], text[16] = "";
    void *value;
    size_t len;
    snprintf(key, sizeof key, RDI_STORE_ADMITTED "%d", rank);
    if (rdi_store_tcp_ops.get(nodes->store, key, &value, &len, 0) == RONDO_OK) {
        memcpy(text, value, len < sizeof text ? len : sizeof text - 1);
        free(value);
    }
    return atoi(text);
}

int run_nodes_losses(struct run_nodes *nodes, int *code, char text[RUN_TEXT], char said[RUN_TEXT]) {
    int lost = 0;
    said[0] = '\0';
    pthread_mutex_lock(&nodes->lock);
    for (int node = 1; node < nodes->o->nnodes; node++) {
        struct run_losses *l = &nodes->losses[node];
        lost += l->ranks;
        if (l->gone && !l->said && said[0] == '\0') {
            l->said = true;
            snprintf(said, RUN_TEXT, "%.500s; its %d ranks are lost", l->text, l->ranks);
        }
    }
    if (nodes->loss_code != 0) {
        *code = nodes->loss_code;
        snprintf(text, RUN_TEXT, "%s", nodes->loss_text);
    }
    pthread_mutex_unlock(&nodes->lock);
    return lost;
}
