// SPDX-License-Identifier: MIT
// The launchers of a job's nodes tell each other how it ends. The picture and the keys are in
// run.h; how they meet is in meet.c.
#include "ddp/run/nodes.h"
#include "transport/bootstrap/bootstrap.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define FOREVER_MS (24 * 3600 * 1000) // for a call that waits for the end of a job; it is repeated

// ---- The store ----------------------------------------------------------------------------------

rondo_status run_nodes_put(struct rdi_store *store, const char *name, int node, const char *text) {
    char key[64];
    snprintf(key, sizeof key, node >= 0 ? "launch/%s/%d" : "launch/%s", name, node);
    return rdi_store_tcp_ops.set(store, key, text, strlen(text), RUN_RPC_MS);
}

rondo_status run_nodes_set(struct run_nodes *nodes, const char *name, int node, const char *text) {
    return run_nodes_put(nodes->store, name, node, text);
}

rondo_status run_nodes_get(struct rdi_store *store, const char *name, int node, int timeout_ms,
                           char **text) {
    char key[64];
    void *value;
    size_t len;
    snprintf(key, sizeof key, node >= 0 ? "launch/%s/%d" : "launch/%s", name, node);
    rondo_status s = rdi_store_tcp_ops.get(store, key, &value, &len, timeout_ms);
    if (s != RONDO_OK) {
        return s;
    }
    *text = malloc(len + 1);
    if (*text != NULL) {
        memcpy(*text, value, len);
        rdi_printable(*text, len + 1);
    }
    free(value);
    return *text != NULL ? RONDO_OK
                         : rdi_fail(RONDO_ERR_NOMEM, "no memory for a launcher's message");
}

void run_nodes_host(char host[RDI_HOST_MAX]) {
    if (gethostname(host, RDI_HOST_MAX - 1) != 0 || host[0] == '\0') {
        snprintf(host, RDI_HOST_MAX, "?");
    }
    host[RDI_HOST_MAX - 1] = '\0';
}

// ---- Waiting ------------------------------------------------------------------------------------

void run_nodes_wake(const struct run_nodes *nodes) {
    uint64_t one = 1;
    while (write(nodes->event, &one, sizeof one) < 0 && errno == EINTR) {}
}

static void put_news(struct run_nodes *nodes, const struct run_news *news) {
    pthread_mutex_lock(&nodes->lock);
    if (nodes->news.kind == RUN_NEWS_NONE) {
        nodes->news = *news;
    }
    pthread_mutex_unlock(&nodes->lock);
    run_nodes_wake(nodes);
}

static bool is_closing(struct run_nodes *nodes) {
    pthread_mutex_lock(&nodes->lock);
    bool closing = nodes->closing;
    pthread_mutex_unlock(&nodes->lock);
    return closing;
}

int run_nodes_read_mail(const char *text, struct run_news *news) {
    int skip = 0, gone = 0;
    if (strcmp(text, "done") == 0) {
        news->kind = RUN_NEWS_DONE;
    } else if (sscanf(text, "fail %9d %n", &news->code, &skip) == 1 && news->code > 0 &&
               news->code <= 255) {
        snprintf(news->text, sizeof news->text, "%s", text + skip);
    } else if (sscanf(text, "gone %9d %n", &gone, &skip) == 1) {
        news->code = RUN_EXIT_ERROR;
        snprintf(news->text, sizeof news->text, "%s", text + skip);
    } else {
        news->code = RUN_EXIT_ERROR;
        snprintf(news->text, sizeof news->text, "a message of another node is not understood");
    }
    return gone;
}

static void *wait_for_mail(void *arg) {
    struct run_nodes *nodes = arg;
    struct run_news news = {.kind = RUN_NEWS_FAIL, .code = RUN_EXIT_ERROR};
    char *text;
    int gone = 0;
    rondo_status s;
    do {
        s = run_nodes_get(nodes->mail_store, "mail", nodes->o->node_rank, FOREVER_MS, &text);
    } while (s == RONDO_ERR_TIMEOUT);
    if (is_closing(nodes)) {
        if (s == RONDO_OK) {
            free(text);
        }
        return NULL;
    }
    if (s != RONDO_OK) {
        news.kind = nodes->o->elastic_max > 0 ? RUN_NEWS_ALONE : RUN_NEWS_FAIL;
        snprintf(news.text, sizeof news.text, "lost the launcher of node 0: %s",
                 rondo_last_error());
    } else {
        gone = run_nodes_read_mail(text, &news);
        free(text);
    }
    put_news(nodes, &news);
    if (gone > 0) {
        // It cannot say so itself any more.
        run_nodes_put(nodes->mail_store, "end", gone, "gone");
    }
    return NULL;
}

static void *wait_for_ends(void *arg) {
    struct run_nodes *nodes = arg;
    enum run_ends ends = RUN_ENDS_WELL;
    rondo_status s = RONDO_OK;
    for (int node = 1; node < nodes->o->nnodes && s == RONDO_OK; node++) {
        char *text;
        do {
            s = run_nodes_get(nodes->ends_store, "end", node, FOREVER_MS, &text);
        } while (s == RONDO_ERR_TIMEOUT);
        if (s == RONDO_OK) {
            ends = strcmp(text, "well") == 0 ? ends : RUN_ENDS_FAILED;
            free(text);
        }
    }
    if (s == RONDO_OK) {
        pthread_mutex_lock(&nodes->lock);
        nodes->all_ends = ends;
        pthread_mutex_unlock(&nodes->lock);
        run_nodes_wake(nodes);
    }
    return NULL;
}

// Should this launcher be killed, node 0 shall hear of it.
static rondo_status leave_will(struct run_nodes *nodes) {
    char host[RDI_HOST_MAX] = "", text[RDI_HOST_MAX + 128];
    if (nodes->o->node_rank == 0) {
        return RONDO_OK;
    }
    if (nodes->o->elastic_max > 0) {
        return run_losses_will(nodes);
    }
    run_nodes_host(host);
    snprintf(text, sizeof text,
             "gone %d the launcher of node %d (%s) ended without a word, or its host did",
             nodes->o->node_rank, nodes->o->node_rank, host);
    return rdi_store_will(nodes->store, "launch/mail/0", text, strlen(text), RUN_RPC_MS);
}

static rondo_status start_threads(struct run_nodes *nodes) {
    int err = pthread_create(&nodes->mail, NULL, wait_for_mail, nodes);
    nodes->has_mail = err == 0;
    if (err == 0 && nodes->o->node_rank == 0 && nodes->losses == NULL) {
        err = pthread_create(&nodes->ends, NULL, wait_for_ends, nodes);
        nodes->has_ends = err == 0;
    }
    return err == 0 ? RONDO_OK : rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot start a thread");
}

// ---- What the loop uses -------------------------------------------------------------------------

int run_nodes_first_rank(const struct run_nodes *nodes) { return nodes->first_rank; }
int run_nodes_world(const struct run_nodes *nodes) { return nodes->world; }
const char *run_nodes_run_id(const struct run_nodes *nodes) { return nodes->run_id; }
int run_nodes_fd(const struct run_nodes *nodes) { return nodes->event; }

void run_nodes_read(struct run_nodes *nodes, struct run_news *news) {
    uint64_t count;
    ssize_t ignored = read(nodes->event, &count, sizeof count);
    (void)ignored;
    pthread_mutex_lock(&nodes->lock);
    *news = nodes->news;
    pthread_mutex_unlock(&nodes->lock);
}

enum run_ends run_nodes_ends(struct run_nodes *nodes) {
    pthread_mutex_lock(&nodes->lock);
    enum run_ends ends = nodes->all_ends;
    pthread_mutex_unlock(&nodes->lock);
    return ends;
}

// A message that cannot be delivered is dropped: its receiver has lost the store too, and knows.
static void tell(struct run_nodes *nodes, const char *message) {
    const struct run_options *o = nodes->o;
    if (o->node_rank > 0) {
        run_nodes_set(nodes, "mail", 0, message);
        return;
    }
    for (int node = 1; node < o->nnodes; node++) {
        if (run_nodes_set(nodes, "mail", node, message) != RONDO_OK) {
            return;
        }
    }
}

void run_nodes_fail(struct run_nodes *nodes, int code, const char *text) {
    char message[RUN_TEXT + 16];
    if (!nodes->told) {
        nodes->told = true;
        snprintf(message, sizeof message, "fail %d %s", code, text);
        tell(nodes, message);
    }
}

void run_nodes_end(struct run_nodes *nodes, bool well) {
    run_nodes_set(nodes, "end", nodes->o->node_rank, well ? "well" : "failed");
    rdi_store_will(nodes->store, "launch/mail/0", NULL, 0, RUN_RPC_MS); // whatever its key was
}

void run_nodes_done(struct run_nodes *nodes) {
    if (!nodes->told) {
        nodes->told = true;
        tell(nodes, "done");
    }
}

// ---- Beginning and end --------------------------------------------------------------------------

static rondo_status connect_all(struct run_nodes *nodes, const struct rdi_job *job,
                                const char *host, int port) {
    int ms = (int)(nodes->o->connect_timeout * 1000);
    rondo_status s = rdi_store_connect(host, port, job, ms, &nodes->store);
    if (s == RONDO_OK) {
        s = rdi_store_connect(host, port, job, RUN_RPC_MS, &nodes->mail_store);
    }
    if (s == RONDO_OK && nodes->o->node_rank == 0) {
        s = rdi_store_connect(host, port, job, RUN_RPC_MS, &nodes->ends_store);
    }
    return s == RONDO_OK ? s : rdi_fail_prefix(s, "node %d", nodes->o->node_rank);
}

rondo_status run_nodes_open(const struct run_options *o, const struct rdi_job *job,
                            const char *host, int port, const struct rdi_env *env,
                            struct rdi_store_server *server, struct run_nodes **out) {
    struct run_nodes *nodes = calloc(1, sizeof *nodes);
    if (nodes == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory to meet the other nodes");
    }
    nodes->o = o;
    nodes->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&nodes->lock, NULL);
    rondo_status s = nodes->event >= 0
                         ? connect_all(nodes, job, host, port)
                         : rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot open an eventfd");
    if (s == RONDO_OK && server != NULL && o->elastic_max > 0) {
        s = run_losses_open(nodes, server);
    }
    if (s == RONDO_OK) {
        s = run_nodes_meet(nodes, env);
        if (s == RONDO_OK) {
            s = leave_will(nodes);
        }
        if (s == RONDO_OK) {
            s = start_threads(nodes);
        }
        if (s != RONDO_OK) {
            char text[RDI_ERROR_TEXT];
            snprintf(text, sizeof text, "%s", rondo_last_error());
            run_nodes_set(nodes, "bye", o->node_rank, "");
            rdi_set_last_error(text);
        }
    }
    if (s != RONDO_OK) {
        run_nodes_close(nodes);
        return s;
    }
    *out = nodes;
    return RONDO_OK;
}

static bool join(bool *has, pthread_t thread) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    if (*has && pthread_timedjoin_np(thread, NULL, &until) == 0) {
        *has = false;
    }
    return !*has;
}

void run_nodes_close(struct run_nodes *nodes) {
    if (nodes == NULL) {
        return;
    }
    pthread_mutex_lock(&nodes->lock);
    nodes->closing = true;
    pthread_mutex_unlock(&nodes->lock);
    if (nodes->has_mail) {
        // A letter to ourselves lets the thread return, if the server has not gone.
        run_nodes_set(nodes, "mail", nodes->o->node_rank, "closing");
    }
    bool mail = join(&nodes->has_mail, nodes->mail), ends = join(&nodes->has_ends, nodes->ends);
    if (!mail || !ends) {
        // Cut off from node 0 without a word from TCP; the process ends anyway.
        return;
    }
    rdi_store_close(nodes->store);
    rdi_store_close(nodes->mail_store);
    rdi_store_close(nodes->ends_store);
    if (nodes->event >= 0) {
        close(nodes->event);
    }
    pthread_mutex_destroy(&nodes->lock);
    free(nodes->ranks);
    free(nodes->losses);
    free(nodes);
}
