// SPDX-License-Identifier: MIT
// What the files about the other nodes share: the store's texts, what was agreed, what was lost.
#ifndef RDI_DDP_RUN_NODES_H
#define RDI_DDP_RUN_NODES_H

#include "ddp/run/run.h"

#include <pthread.h>

#define RUN_RPC_MS 5000 // for a call that does not wait for anybody
#define RUN_TOKEN 16    // characters that tell two launchers apart

struct run_nodes {
    const struct run_options *o;
    struct rdi_store *store; // of the main thread
    struct rdi_store *mail_store, *ends_store;
    pthread_t mail, ends;
    bool has_mail, has_ends; // threads
    int event;
    char token[RUN_TOKEN + 1], run_id[RDI_RUN_ID_CAP];
    int first_rank, world;
    int *ranks; // by node

    pthread_mutex_t lock; // for what follows
    struct run_news news;
    enum run_ends all_ends;
    bool told, closing;
    struct run_losses { // elastic, node 0
        int ranks;      // of this node that are not started again
        bool ended, failed, gone, said;
        char text[RUN_TEXT]; // of a node that is gone: why
    } * losses;              // by node
    int loss_code;           // of the first loss; 0 = none yet
    char loss_text[RUN_TEXT];
};

// The value "launch/<name>/<node>", without the node if that is -1.
rondo_status run_nodes_put(struct rdi_store *store, const char *name, int node, const char *text);
// *text is NUL-terminated and the caller's to free.
rondo_status run_nodes_get(struct rdi_store *store, const char *name, int node, int timeout_ms,
                           char **text);
// By the main thread.
rondo_status run_nodes_set(struct run_nodes *nodes, const char *name, int node, const char *text);
void run_nodes_host(char host[RDI_HOST_MAX]);
// Makes run_nodes_fd() readable.
void run_nodes_wake(const struct run_nodes *nodes);
// Elastic, node 0: begins to count. `server` tells of what the other launchers set.
rondo_status run_losses_open(struct run_nodes *nodes, struct rdi_store_server *server);
// Elastic, the other nodes: should this launcher be killed, node 0 shall hear of it.
rondo_status run_losses_will(struct run_nodes *nodes);

// What a letter from another node says. Returns the number of a node that is gone, else 0.
int run_nodes_read_mail(const char *text, struct run_news *news);

// Introduces this launcher, and makes (node 0) or follows the plan.
rondo_status run_nodes_meet(struct run_nodes *nodes, const struct rdi_env *env);

#endif
