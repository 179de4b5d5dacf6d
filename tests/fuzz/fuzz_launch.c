// SPDX-License-Identifier: MIT
// What the launchers of a job's nodes read of each other in the store: introductions, the plan, letters, losses. A
// store of the target's gives them, as they should be or as the input has them.
//
//   input[0]  bits 0-1 node's rank, 2-3 nodes - 1, 4 elastic
//   input[1]  how often an answer is the input's own: one in so many, 0 never; then answers
#include "ddp/run/nodes.h"
#include "fuzz.h"
#include "transport/bootstrap/bootstrap.h"

#include <errno.h>

static struct input in;
static uint8_t own_every;
static unsigned answers;
static struct run_options options;
static struct run_nodes nodes;
static rdi_store_told told;
static uint64_t clock_ns;

static uint64_t now(void *self) {
    (void)self;
    return clock_ns += 1000000;
}

static void ones(void *self, void *buf, size_t n) {
    (void)self;
    memset(buf, 0x11, n);
}

// ---- The store -----------------------------------------------------------------------------------

static rondo_status fake_set(void *store, const char *key, const void *value, size_t len, int ms) {
    (void)store;
    MUST(strncmp(key, "launch/", 7) == 0 && ms > 0);
    free(own_copy(value, len));
    return RONDO_OK;
}

static void right_answer(const char *key, char text[256]) {
    const char *token = "1111111111111111";
    int n = 0;
    if (strncmp(key, "launch/node/", 12) == 0) {
        snprintf(text, 256, "%s %d 2 there %s", token, options.nnodes, options.elastic);
    } else if (strcmp(key, "launch/plan") == 0) {
        n = snprintf(text, 256, "ok rondo11");
        for (int node = 0; node < options.nnodes; node++) {
            n += snprintf(text + n, 256 - (size_t)n, " %s 2", token);
        }
    } else {
        snprintf(text, 256, "done");
    }
}

static rondo_status fake_get(void *store, const char *key, void **value, size_t *len, int ms) {
    char text[256];
    size_t n;
    (void)store;
    clock_ns += (uint64_t)ms * 1000000;
    right_answer(key, text);
    n = strlen(text);
    const uint8_t *bytes = (const uint8_t *)text;
    if (own_every > 0 && ++answers % own_every == 0) {
        uint8_t how = take_byte(&in);
        if (how >= 250) {
            return rdi_fail(how & 1 ? RONDO_ERR_TIMEOUT : RONDO_ERR_PEER, "the store failed");
        }
        bytes = take_bytes(&in, how, &n);
    }
    *value = own_copy(bytes, n);
    *len = n;
    return RONDO_OK;
}

const rondo_store_ops rdi_store_tcp_ops = {
    .size = sizeof rdi_store_tcp_ops, .set = fake_set, .get = fake_get};

rondo_status rdi_store_will(struct rdi_store *st, const char *key, const void *value, size_t len,
                            int timeout_ms) {
    return fake_set(st, key, value, len, timeout_ms);
}

rondo_status rdi_store_connect(const char *host, int port, const struct rdi_job *job,
                               int timeout_ms, struct rdi_store **out) {
    (void)host;
    (void)port;
    (void)job;
    (void)timeout_ms;
    (void)out;
    return RONDO_ERR_UNSUPPORTED;
}

void rdi_store_close(struct rdi_store *s) { MUST(s == NULL); }

void __wrap_rdi_store_server_tell(struct rdi_store_server *s, const char *prefix,
                                  rdi_store_told function, void *arg);
void __wrap_rdi_store_server_tell(struct rdi_store_server *s, const char *prefix,
                                  rdi_store_told function, void *arg) {
    MUST(s == NULL && strcmp(prefix, "launch/") == 0 && arg == &nodes);
    told = function;
}

// No descriptor, no name of a host, no file that grows: memory only.
ssize_t __wrap_write(int fd, const void *buf, size_t n);
ssize_t __wrap_write(int fd, const void *buf, size_t n) {
    MUST(fd == -5);
    free(own_copy(buf, n));
    return (ssize_t)n;
}
int __wrap_gethostname(char *name, size_t cap);
int __wrap_gethostname(char *name, size_t cap) {
    snprintf(name, cap, "here");
    return 0;
}

// ---- What is read --------------------------------------------------------------------------------

static void letters(void) {
    struct run_news news = {.kind = RUN_NEWS_FAIL, .code = 1};
    size_t n;
    const uint8_t *bytes = take_bytes(&in, take_byte(&in), &n);
    char *text = malloc(n + 1);
    MUST(text != NULL);
    memcpy(text, bytes, n);
    text[n] = '\0';
    (void)run_nodes_read_mail(text, &news);
    MUST(news.kind == RUN_NEWS_FAIL || news.kind == RUN_NEWS_DONE);
    MUST(memchr(news.text, '\0', sizeof news.text) != NULL);
    MUST(news.code >= 1 && news.code <= 255);
    free(text);
}

// What other launchers set, as the server tells it.
static void losses(void) {
    static const char *const keys[] = {"launch/lost/%d", "launch/end/%d", "launch/mail/%d", "%d"};
    char key[40], text[RUN_TEXT] = "", said[RUN_TEXT] = "";
    uint8_t what = take_byte(&in);
    size_t n;
    int code = 0;
    const uint8_t *bytes = take_bytes(&in, take_byte(&in), &n);
    snprintf(key, sizeof key, keys[what % 4], (what >> 2) - 4);
    void *copy = own_copy(bytes, n);
    told(&nodes, key, copy, n);
    free(copy);
    int lost = run_nodes_losses(&nodes, &code, text, said);
    MUST(lost >= 0 && lost <= nodes.world);
    MUST(is_clean(text) && is_clean(said) && code >= 0 && code <= 255);
}

static void check_plan(void) {
    int world = 0;
    MUST(memchr(nodes.run_id, '\0', sizeof nodes.run_id) != NULL);
    for (int node = 0; node < options.nnodes; node++) {
        MUST(nodes.ranks[node] > 0);
        MUST(node != options.node_rank || nodes.first_rank == world);
        world += nodes.ranks[node];
    }
    MUST(world == nodes.world && world <= 1 << 20);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct rdi_env env = {.now = now, .random = ones};
    in = (struct input){data, size};
    uint8_t how = take_byte(&in);
    own_every = take_byte(&in) % 5;
    answers = 0;
    clock_ns = 1000000;
    memset(&nodes, 0, sizeof nodes);
    options = (struct run_options){.nproc = 2, .nnodes = 1 + (how >> 2 & 3), .connect_timeout = 5};
    options.node_rank = (how & 3) % options.nnodes;
    options.elastic_max = how & 16 ? 2 * options.nnodes : 0;
    snprintf(options.elastic, sizeof options.elastic, "%d:%d", how & 16 ? 1 : 0,
             options.elastic_max);
    nodes.o = &options;
    nodes.event = -5;
    pthread_mutex_init(&nodes.lock, NULL);
    rdi_set_last_error("");
    MUST(run_losses_open(&nodes, NULL) == RONDO_OK);
    rondo_status s = run_nodes_meet(&nodes, &env);
    if (s == RONDO_OK) {
        check_plan();
        while (in.left > 0) {
            losses();
            letters();
        }
    } else {
        MUST(rondo_last_error()[0] != '\0' && is_clean(rondo_last_error()));
    }
    pthread_mutex_destroy(&nodes.lock);
    free(nodes.ranks);
    free(nodes.losses);
    return 0;
}
