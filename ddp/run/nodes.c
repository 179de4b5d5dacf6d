// SPDX-License-Identifier: MIT
// The launchers of a job's nodes: they meet, agree on rank numbers, and tell each other how it
// ends. The picture and the keys are in run.h.
#include "ddp/run/run.h"
#include "transport/bootstrap/bootstrap.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define RPC_MS 5000                   // for a call that does not wait for anybody
#define FOREVER_MS (24 * 3600 * 1000) // for one that waits for the end of a job; it is repeated
#define RANKS_MAX (1 << 20)
#define TOKEN 16 // characters that tell two launchers apart

struct run_nodes {
    const struct run_options *o;
    struct rdi_store *store; // of the main thread
    struct rdi_store *mail_store, *ends_store;
    pthread_t mail, ends;
    bool has_mail, has_ends; // threads
    int event;
    char token[TOKEN + 1], run_id[RDI_RUN_ID_CAP];
    int first_rank, world;

    pthread_mutex_t lock; // for what follows
    struct run_news news;
    bool told, all_ended, closing;
};

static rondo_status put_text(struct rdi_store *store, const char *name, int node,
                             const char *text) {
    char key[64];
    snprintf(key, sizeof key, node >= 0 ? "launch/%s/%d" : "launch/%s", name, node);
    return rdi_store_tcp_ops.set(store, key, text, strlen(text), RPC_MS);
}

// By the main thread.
static rondo_status set_text(struct run_nodes *nodes, const char *name, int node,
                             const char *text) {
    return put_text(nodes->store, name, node, text);
}

// *text is NUL-terminated and the caller's to free.
static rondo_status get_text(struct rdi_store *store, const char *name, int node, int timeout_ms,
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
        (*text)[len] = '\0';
    }
    free(value);
    return *text != NULL ? RONDO_OK
                         : rdi_fail(RONDO_ERR_NOMEM, "no memory for a launcher's message");
}

// ---- Meeting ------------------------------------------------------------------------------------

// What a launcher says of itself: "<token> <nodes> <ranks> <host>".
struct introduction {
    char token[TOKEN + 1];
    int nodes, ranks;
    char host[RDI_HOST_MAX];
};

static bool parse_introduction(const char *text, struct introduction *in) {
    return sscanf(text, "%16s %d %d %63s", in->token, &in->nodes, &in->ranks, in->host) == 4 &&
           strlen(in->token) == TOKEN && in->ranks >= 1 && in->ranks <= RANKS_MAX;
}

static void host_name(char host[RDI_HOST_MAX]) {
    if (gethostname(host, RDI_HOST_MAX - 1) != 0 || host[0] == '\0') {
        snprintf(host, RDI_HOST_MAX, "?");
    }
    host[RDI_HOST_MAX - 1] = '\0';
}

static rondo_status introduce(struct run_nodes *nodes) {
    char host[RDI_HOST_MAX] = "", text[RDI_HOST_MAX + 64];
    host_name(host);
    snprintf(text, sizeof text, "%s %d %d %s", nodes->token, nodes->o->nnodes, nodes->o->nproc,
             host);
    return set_text(nodes, "node", nodes->o->node_rank, text);
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
        rondo_status s = get_text(nodes->store, "node", node, ms, &text);
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
    return RONDO_OK;
}

// The others shall say the same; the store stays until they have read it.
static void refuse(struct run_nodes *nodes, const bool *came) {
    char reason[RUN_TEXT], *text;
    snprintf(reason, sizeof reason, "no %s", rondo_last_error());
    rondo_status s = set_text(nodes, "plan", -1, reason);
    for (int node = 1; node < nodes->o->nnodes && s == RONDO_OK; node++) {
        if (came[node]) {
            s = get_text(nodes->store, "end", node, RPC_MS / 5, &text);
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
        s = set_text(nodes, "plan", -1, plan);
    } else if (came != NULL) {
        refuse(nodes, came);
    }
    free(plan);
    free(came);
    return s;
}

static rondo_status follow_plan(struct run_nodes *nodes) {
    const struct run_options *o = nodes->o;
    char *text, *save = NULL;
    // Node 0 gives up after the same time; wait for it to say so.
    int ms = (int)(o->connect_timeout * 1000) + RPC_MS;
    rondo_status s = get_text(nodes->store, "plan", -1, ms, &text);
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
    for (int node = 0; ok && node < o->nnodes; node++) {
        const char *token = strtok_r(NULL, " ", &save), *ranks = strtok_r(NULL, " ", &save);
        ok = ranks != NULL;
        if (ok && node == o->node_rank) {
            nodes->first_rank = nodes->world;
            if (strcmp(token, nodes->token) != 0) {
                s = rdi_fail(
                    RONDO_ERR_INVALID,
                    "another rondo-run was started with --node-rank %d; each node needs its own",
                    node);
            }
        }
        nodes->world += ok ? atoi(ranks) : 0;
    }
    free(text);
    return ok ? s : rdi_fail(RONDO_ERR_BOOTSTRAP, "the plan of node 0 is not understood");
}

// ---- Waiting ------------------------------------------------------------------------------------

static void wake(const struct run_nodes *nodes) {
    uint64_t one = 1;
    while (write(nodes->event, &one, sizeof one) < 0 && errno == EINTR) {}
}

static void put_news(struct run_nodes *nodes, const struct run_news *news) {
    pthread_mutex_lock(&nodes->lock);
    if (nodes->news.kind == RUN_NEWS_NONE) {
        nodes->news = *news;
    }
    pthread_mutex_unlock(&nodes->lock);
    wake(nodes);
}

static bool is_closing(struct run_nodes *nodes) {
    pthread_mutex_lock(&nodes->lock);
    bool closing = nodes->closing;
    pthread_mutex_unlock(&nodes->lock);
    return closing;
}

// Returns the number of a node that is gone, else 0.
static int read_mail(const char *text, struct run_news *news) {
    int skip = 0, gone = 0;
    if (strcmp(text, "done") == 0) {
        news->kind = RUN_NEWS_DONE;
    } else if (sscanf(text, "fail %d %n", &news->code, &skip) == 1 && news->code > 0 &&
               news->code <= 255) {
        snprintf(news->text, sizeof news->text, "%s", text + skip);
    } else if (sscanf(text, "gone %d %n", &gone, &skip) == 1) {
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
        s = get_text(nodes->mail_store, "mail", nodes->o->node_rank, FOREVER_MS, &text);
    } while (s == RONDO_ERR_TIMEOUT);
    if (is_closing(nodes)) {
        if (s == RONDO_OK) {
            free(text);
        }
        return NULL;
    }
    if (s != RONDO_OK) {
        snprintf(news.text, sizeof news.text, "lost the launcher of node 0: %s",
                 rondo_last_error());
    } else {
        gone = read_mail(text, &news);
        free(text);
    }
    put_news(nodes, &news);
    if (gone > 0) {
        // It cannot say so itself any more. After the news, which must not come later than the end.
        put_text(nodes->mail_store, "end", gone, "gone");
    }
    return NULL;
}

static void *wait_for_ends(void *arg) {
    struct run_nodes *nodes = arg;
    rondo_status s = RONDO_OK;
    for (int node = 1; node < nodes->o->nnodes && s == RONDO_OK; node++) {
        char *text = NULL;
        do {
            s = get_text(nodes->ends_store, "end", node, FOREVER_MS, &text);
        } while (s == RONDO_ERR_TIMEOUT);
        free(text);
    }
    if (s == RONDO_OK) {
        pthread_mutex_lock(&nodes->lock);
        nodes->all_ended = true;
        pthread_mutex_unlock(&nodes->lock);
        wake(nodes);
    }
    return NULL;
}

// Should this launcher be killed, node 0 shall hear of it.
static rondo_status leave_will(struct run_nodes *nodes) {
    char host[RDI_HOST_MAX] = "", text[RDI_HOST_MAX + 128];
    if (nodes->o->node_rank == 0) {
        return RONDO_OK;
    }
    host_name(host);
    snprintf(text, sizeof text,
             "gone %d the launcher of node %d (%s) ended without a word, or its host did",
             nodes->o->node_rank, nodes->o->node_rank, host);
    return rdi_store_will(nodes->store, "launch/mail/0", text, strlen(text), RPC_MS);
}

static rondo_status start_threads(struct run_nodes *nodes) {
    int err = pthread_create(&nodes->mail, NULL, wait_for_mail, nodes);
    nodes->has_mail = err == 0;
    if (err == 0 && nodes->o->node_rank == 0) {
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

bool run_nodes_all_ended(struct run_nodes *nodes) {
    pthread_mutex_lock(&nodes->lock);
    bool all = nodes->all_ended;
    pthread_mutex_unlock(&nodes->lock);
    return all;
}

// A message that cannot be delivered is dropped: its receiver has lost the store too, and knows.
static void tell(struct run_nodes *nodes, const char *message) {
    const struct run_options *o = nodes->o;
    if (o->node_rank > 0) {
        set_text(nodes, "mail", 0, message);
        return;
    }
    for (int node = 1; node < o->nnodes; node++) {
        if (set_text(nodes, "mail", node, message) != RONDO_OK) {
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

void run_nodes_end(struct run_nodes *nodes) {
    set_text(nodes, "end", nodes->o->node_rank, "ended");
    rdi_store_will(nodes->store, "launch/mail/0", NULL, 0, RPC_MS);
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
        s = rdi_store_connect(host, port, job, RPC_MS, &nodes->mail_store);
    }
    if (s == RONDO_OK && nodes->o->node_rank == 0) {
        s = rdi_store_connect(host, port, job, RPC_MS, &nodes->ends_store);
    }
    return s == RONDO_OK ? s : rdi_fail_prefix(s, "node %d", nodes->o->node_rank);
}

static rondo_status meet(struct run_nodes *nodes, const struct rdi_env *env) {
    uint8_t random[TOKEN / 2];
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

rondo_status run_nodes_open(const struct run_options *o, const struct rdi_job *job,
                            const char *host, int port, const struct rdi_env *env,
                            struct run_nodes **out) {
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
    if (s == RONDO_OK) {
        s = meet(nodes, env);
        if (s == RONDO_OK) {
            s = leave_will(nodes);
        }
        if (s == RONDO_OK) {
            s = start_threads(nodes);
        }
        if (s != RONDO_OK) {
            char text[RDI_ERROR_TEXT];
            snprintf(text, sizeof text, "%s", rondo_last_error());
            run_nodes_end(nodes);
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
        set_text(nodes, "mail", nodes->o->node_rank, "closing");
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
    free(nodes);
}
