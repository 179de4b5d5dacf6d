// SPDX-License-Identifier: MIT
// Starts the ranks, here or on hosts, as a launcher does: they find rank, size, store and key in their
// environment. Rank 0 puts the results into the store that this process serves; here they are reported.
//
// Ranks on this host are forked before the store's thread exists; a pipe tells them its port.
#include "transport/conform/conform.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_MS 200 // between looks at the ranks while a result is awaited
#define RANKS_MAX 64
#define ARGUMENTS_MAX 32

extern char **environ;

struct launch {
    const struct cf_options *o;
    const struct cf_check *const *chosen;
    int nchosen, n, port;
    char master[256];
    struct rdi_job job;
    uint8_t secret[RDI_KEY_BYTES];
    char key_text[2 * RDI_KEY_BYTES + 1];
    struct rdi_store_server *server;
    struct rdi_store *store;
    pid_t pids[RANKS_MAX];
    int wires[RANKS_MAX]; // to the ranks: the port for one here, the key for one on a host
    int running, ended_badly;
    bool complete; // all results are there
    uint64_t seed;
};

static void set_number(const char *name, uint64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    setenv(name, text, 1);
}

// ---- Ranks on this host --------------------------------------------------------------------------

static int be_local_rank(struct launch *l, int rank, int wire) {
    uint16_t port;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // One line with the key, as for a rank on another host, then the port.
    if (read(wire, l->key_text, sizeof l->key_text) != (ssize_t)sizeof l->key_text ||
        read(wire, &port, sizeof port) != (ssize_t)sizeof port) {
        return CF_FAILED;
    }
    close(wire);
    set_number("RANK", (uint64_t)rank);
    set_number("LOCAL_RANK", (uint64_t)rank);
    set_number("WORLD_SIZE", (uint64_t)l->n);
    set_number("LOCAL_WORLD_SIZE", (uint64_t)l->n);
    set_number("MASTER_PORT", port);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    setenv(RDI_ENV_STORE, "launcher", 1);
    setenv(CF_ENV_REPORT, "store", 1);
    setenv(CF_ENV_KEY, l->key_text, 1);
    set_number(CF_ENV_SEED, l->seed);
    return cf_keep(l->o, l->chosen, l->nchosen);
}

static bool fork_rank(struct launch *l, int rank) {
    int wire[2];
    if (pipe2(wire, O_CLOEXEC) != 0) {
        (void)cf_complain("cannot start rank %d: %s", rank, strerror(errno));
        return false;
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < rank; i++) {
            close(l->wires[i]);
        }
        close(wire[1]);
        exit(be_local_rank(l, rank, wire[0]));
    }
    close(wire[0]);
    l->wires[rank] = wire[1];
    l->pids[rank] = pid;
    if (pid < 0) {
        (void)cf_complain("cannot start rank %d: %s", rank, strerror(errno));
        return false;
    }
    l->running++;
    return true;
}

static bool tell_local(struct launch *l) {
    uint16_t port = (uint16_t)l->port;
    for (int r = 0; r < l->n; r++) {
        if (write(l->wires[r], l->key_text, sizeof l->key_text) < 0 ||
            write(l->wires[r], &port, sizeof port) < 0) {
            return false;
        }
    }
    return true;
}

// ---- Ranks on hosts ------------------------------------------------------------------------------

// Appends a word, quoted for a shell.
static void add_word(char *line, size_t cap, const char *word) {
    size_t n = strlen(line);
    n += (size_t)snprintf(line + n, cap - n, "%s'", n > 0 ? " " : "");
    for (; *word != '\0' && n + 8 < cap; word++) {
        n += (size_t)snprintf(line + n, cap - n, *word == '\'' ? "'\\''" : "%c", *word);
    }
    if (n + 1 < cap) {
        snprintf(line + n, cap - n, "'");
    }
}

static void add_variable(char *line, size_t cap, const char *name, const char *value) {
    char word[1024];
    snprintf(word, sizeof word, "%s=%s", name, value);
    add_word(line, cap, word);
}

static bool is_forwarded(const char *variable) {
    return strncmp(variable, "RONDO_", 6) == 0 && strncmp(variable, RDI_ENV_KEY_FD, 12) != 0 &&
           strncmp(variable, RDI_ENV_STORE "=", strlen(RDI_ENV_STORE) + 1) != 0;
}

static void remote_command(const struct launch *l, int rank, const char *self, char *line,
                           size_t cap) {
    const struct cf_options *o = l->o;
    char text[32];
    line[0] = '\0';
    add_word(line, cap, "env");
    for (char **v = environ; *v != NULL; v++) {
        if (is_forwarded(*v)) {
            add_word(line, cap, *v);
        }
    }
    snprintf(text, sizeof text, "%d", rank);
    add_variable(line, cap, "RANK", text);
    snprintf(text, sizeof text, "%d", l->n);
    add_variable(line, cap, "WORLD_SIZE", text);
    add_variable(line, cap, "MASTER_ADDR", l->master);
    snprintf(text, sizeof text, "%d", l->port);
    add_variable(line, cap, "MASTER_PORT", text);
    add_variable(line, cap, RDI_ENV_STORE, "launcher");
    add_variable(line, cap, CF_ENV_REPORT, "store");
    add_variable(line, cap, CF_ENV_KEY, "stdin");
    snprintf(text, sizeof text, "%llu", (unsigned long long)l->seed);
    add_variable(line, cap, CF_ENV_SEED, text);
    add_word(line, cap, self);
    for (int i = 1; i < o->argc; i++) {
        bool is_host = false;
        for (unsigned h = 0; h < o->nhosts; h++) {
            is_host = is_host || o->hosts[h] == o->argv[i];
        }
        if (!is_host) {
            add_word(line, cap, o->argv[i]);
        }
    }
}

static bool run_ssh(struct launch *l, int rank, const char *self) {
    static char command[16384];
    char ssh[512], *words[ARGUMENTS_MAX + 3], *save = NULL;
    int n = 0, wire[2];
    snprintf(ssh, sizeof ssh, "%s", l->o->ssh != NULL ? l->o->ssh : "ssh -o BatchMode=yes");
    for (char *w = strtok_r(ssh, " ", &save); w != NULL && n < ARGUMENTS_MAX;
         w = strtok_r(NULL, " ", &save)) {
        words[n++] = w;
    }
    remote_command(l, rank, self, command, sizeof command);
    words[n] = (char *)(uintptr_t)l->o->hosts[rank];
    words[n + 1] = command;
    words[n + 2] = NULL;
    if (n == 0 || strlen(command) + 9 > sizeof command || pipe2(wire, O_CLOEXEC) != 0) {
        (void)cf_complain("cannot start rank %d on %s", rank, l->o->hosts[rank]);
        return false;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        dup2(wire[0], STDIN_FILENO);
        execvp(words[0], words);
        (void)cf_complain("cannot run \"%s\": %s; see --ssh", words[0], strerror(errno));
        _exit(CF_USAGE);
    }
    close(wire[0]);
    l->pids[rank] = pid;
    l->wires[rank] = wire[1]; // stays open: its end ends the rank
    l->running += pid > 0;
    size_t len = strlen(l->key_text);
    return pid > 0 && write(wire[1], l->key_text, len) == (ssize_t)len &&
           write(wire[1], "\n", 1) == 1;
}

// The address of ours that the first host would see.
static bool find_master(struct launch *l) {
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *list;
    const char *at = strrchr(l->o->hosts[l->n - 1], '@');
    const char *host = at != NULL ? at + 1 : l->o->hosts[l->n - 1];
    int err = getaddrinfo(host, "9", &hints, &list);
    if (err != 0) {
        (void)cf_complain("host %s: %s", host, gai_strerror(err));
        return false;
    }
    bool ok = false;
    for (struct addrinfo *a = list; a != NULL && !ok; a = a->ai_next) {
        struct sockaddr_storage own;
        socklen_t len = sizeof own;
        int fd = socket(a->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        ok = fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0 &&
             getsockname(fd, (struct sockaddr *)&own, &len) == 0 &&
             getnameinfo((struct sockaddr *)&own, len, l->master, sizeof l->master, NULL, 0,
                         NI_NUMERICHOST) == 0;
        if (fd >= 0) {
            close(fd);
        }
    }
    freeaddrinfo(list);
    if (!ok) {
        (void)cf_complain("host %s cannot be reached from here", host);
    }
    return ok;
}

static bool start_remote(struct launch *l) {
    char self[1024];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0 || !find_master(l)) {
        return false;
    }
    self[n] = '\0';
    for (int r = 0; r < l->n; r++) {
        if (!run_ssh(l, r, self)) {
            return false;
        }
    }
    return true;
}

// ---- Results -------------------------------------------------------------------------------------

// Whether all that were started are still there, or ended well.
static void reap(struct launch *l, bool block) {
    int status;
    pid_t pid;
    while (l->running > 0 && (pid = waitpid(-1, &status, block ? 0 : WNOHANG)) > 0) {
        for (int r = 0; r < l->n; r++) {
            if (l->pids[r] == pid) {
                l->pids[r] = 0;
                l->running--;
                bool well = WIFEXITED(status) && WEXITSTATUS(status) <= CF_FAILED;
                l->ended_badly = well ? l->ended_badly : r + 1;
            }
        }
    }
}

// A key that rank 0 sets; NULL: no rank will any more.
static void *await_key(struct launch *l, const char *key, size_t *len) {
    for (;;) {
        void *value;
        bool alone = l->running == 0 || l->ended_badly != 0;
        rondo_status s = rdi_store_tcp_ops.get(l->store, key, &value, len, PATIENCE_MS);
        if (s == RONDO_OK) {
            return value;
        }
        if (s != RONDO_ERR_TIMEOUT || alone) {
            return NULL;
        }
        reap(l, false);
    }
}

// What rank 0 says before the first check: the ranks' hosts, one a line; or "!", an exit code and why not.
static bool await_begin(struct launch *l, struct cf_report *report, int *code) {
    size_t len = 0;
    char *text = await_key(l, "conform/begin", &len);
    bool ok = text != NULL && len > 0 && text[0] != '!';
    if (ok) {
        size_t at = 0;
        for (int r = 0; r < l->n && at < len; r++) {
            size_t end = at;
            while (end < len && text[end] != '\n') {
                end++;
            }
            snprintf(report->hosts[r], RDI_HOST_MAX, "%.*s", (int)(end - at), text + at);
            at = end + 1;
        }
    } else if (text != NULL && len > 2) {
        *code = text[1] == '2' ? CF_USAGE : CF_FAILED;
        (void)cf_complain("%.*s", (int)(len - 2), text + 2);
    } else {
        (void)cf_complain("the ranks did not come together; what they printed says why");
    }
    free(text);
    return ok;
}

static const char *await_results(struct launch *l, struct cf_report *report) {
    struct cf_outcome *ranks = calloc((size_t)l->n, sizeof *ranks);
    const char *why = ranks != NULL ? NULL : "no memory";
    int total = l->nchosen * l->o->repeat;
    for (int i = 0; i < total && why == NULL; i++) {
        char key[64];
        size_t len = 0;
        struct cf_result result = {
            .check = l->chosen[i % l->nchosen], .round = i / l->nchosen, .ranks = ranks};
        cf_report_next(report, result.check);
        snprintf(key, sizeof key, "conform/result/%d", i);
        void *bytes = await_key(l, key, &len);
        if (bytes == NULL || !cf_unpack(bytes, len, ranks, l->n)) {
            why = "a rank ended early; what it printed says why";
        } else {
            cf_judge(&result, l->n);
            cf_report_result(report, &result);
        }
        free(bytes);
    }
    free(ranks);
    return why;
}

static int report_all(struct launch *l) {
    char hosts[RANKS_MAX][RDI_HOST_MAX] = {{0}};
    struct cf_report report = {.options = l->o,
                               .chosen = l->chosen,
                               .nchosen = l->nchosen,
                               .nranks = l->n,
                               .hosts = hosts,
                               .seed = l->seed};
    int code = CF_FAILED;
    if (!await_begin(l, &report, &code)) {
        return code;
    }
    if (!cf_report_begin(&report)) {
        return CF_USAGE;
    }
    const char *why = await_results(l, &report);
    l->complete = why == NULL;
    return cf_report_end(&report, why);
}

// ---- In order ------------------------------------------------------------------------------------

static bool start(struct launch *l) {
    bool here = l->o->nhosts == 0;
    for (int r = 0; here && r < l->n; r++) {
        if (!fork_rank(l, r)) {
            return false;
        }
    }
    if (rdi_key_set(&l->job, l->secret, sizeof l->secret) != RONDO_OK ||
        rdi_store_server_start(here ? "127.0.0.1" : NULL, 0, &l->job, &l->server) != RONDO_OK) {
        (void)cf_complain("%s", rondo_last_error());
        return false;
    }
    l->port = rdi_store_server_port(l->server);
    if (rdi_store_connect("127.0.0.1", l->port, &l->job, 10000, &l->store) != RONDO_OK) {
        (void)cf_complain("%s", rondo_last_error());
        return false;
    }
    return here ? tell_local(l) : start_remote(l);
}

int cf_launch(const struct cf_options *o, const struct cf_check *const *chosen, int nchosen) {
    struct launch l = {.o = o, .chosen = chosen, .nchosen = nchosen, .job = {.rank = -1}};
    l.n = o->nhosts > 0 ? (int)o->nhosts : o->ranks > 0 ? o->ranks : 2;
    int code = CF_FAILED;
    struct rdi_env env;
    rdi_env_system(&env, NULL, NULL); // readies libsodium
    randombytes_buf(l.secret, sizeof l.secret);
    sodium_bin2hex(l.key_text, sizeof l.key_text, l.secret, sizeof l.secret);
    l.seed = o->seed;
    if (!o->has_seed) {
        l.seed = randombytes_random();
    }
    signal(SIGPIPE, SIG_IGN);
    if (start(&l)) {
        code = report_all(&l);
    }
    for (int r = 0; r < l.n; r++) {
        if (l.wires[r] > 0) {
            close(l.wires[r]);
        }
        if (!l.complete && l.pids[r] > 0) {
            kill(l.pids[r], SIGTERM);
        }
    }
    reap(&l, true);
    rdi_store_close(l.store);
    rdi_store_server_stop(l.server);
    rdi_job_clear(&l.job);
    sodium_memzero(&l, sizeof l);
    return code;
}
