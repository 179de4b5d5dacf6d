// SPDX-License-Identifier: MIT
// The ranks of this host that can be asked: their abstract sockets are listed in /proc/net/unix, with job, rank
// and pid in the name. Names can be made by anybody, so whoever answers is looked at by the kernel's eyes: it has to
// be this user's (or we are root), and to have the pid that the name says.
#include "ring/record/observe.h"
#include "ring/top/top.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MS 1500
#define TEXT_MAX ((size_t)256 << 20)

// ---- Processes -----------------------------------------------------------------------------------

// State and parent from /proc/PID/stat; the name before them may hold anything.
static bool read_stat(pid_t pid, char *state, pid_t *parent) {
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f) {
        fclose(f);
    }
    line[n] = '\0';
    const char *end = strrchr(line, ')');
    int up;
    if (!end || sscanf(end + 1, " %c %d", state, &up) != 2) {
        return false;
    }
    *parent = (pid_t)up;
    return true;
}

char top_process_state(pid_t pid) {
    char state;
    pid_t parent;
    return read_stat(pid, &state, &parent) ? state : '\0';
}

static bool is_below(pid_t pid, pid_t above) {
    for (int depth = 0; depth < 64 && pid > 1; depth++) {
        char state;
        if (pid == above) {
            return true;
        }
        if (!read_stat(pid, &state, &pid)) {
            return false;
        }
    }
    return false;
}

// ---- The list ------------------------------------------------------------------------------------

// "rondo-top.<job>.<rank>.<pid>.<random>"
static bool read_name(const char *name, struct top_process *p) {
    char job[TOP_WORD];
    int rank, pid, used = 0;
    unsigned number;
    if (strncmp(name, RDI_VIEW_NAME, strlen(RDI_VIEW_NAME)) != 0 ||
        sscanf(name + strlen(RDI_VIEW_NAME), "%39[a-z0-9].%d.%d.%8x%n", job, &rank, &pid, &number,
               &used) != 4 ||
        name[strlen(RDI_VIEW_NAME) + (size_t)used] != '\0' || rank < 0 || rank > TOP_RANKS ||
        pid <= 0) {
        return false;
    }
    *p = (struct top_process){.rank = rank, .pid = (pid_t)pid};
    memcpy(p->job, job, sizeof p->job);
    p->name_len = strlen(name);
    if (p->name_len >= sizeof p->name) {
        return false;
    }
    memcpy(p->name, name, p->name_len + 1);
    return true;
}

static int by_rank(const void *a, const void *b) {
    const struct top_process *x = a, *y = b;
    int order = strcmp(x->job, y->job);
    return order ? order : x->rank != y->rank ? x->rank - y->rank : (int)(x->pid - y->pid);
}

// Another user's would not answer, and a process that is gone has left its socket to a child.
static bool is_ours(pid_t pid) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    return stat(path, &st) == 0 && (st.st_uid == geteuid() || geteuid() == 0);
}

bool top_list_read(struct top_list *list) {
    char line[512];
    FILE *f = fopen("/proc/net/unix", "re");
    *list = (struct top_list){0};
    while (f && fgets(line, sizeof line, f)) {
        unsigned long flags;
        int at = 0;
        struct top_process p;
        line[strcspn(line, "\n")] = '\0';
        // Num RefCount Protocol Flags Type St Inode Path; 0x10000: it listens
        if (sscanf(line, "%*s %*s %*s %lx %*s %*s %*s @%n", &flags, &at) != 1 || at == 0 ||
            !(flags & 0x10000) || !read_name(line + at, &p) || !is_ours(p.pid)) {
            continue;
        }
        struct top_process *more = realloc(list->items, (list->n + 1) * sizeof *more);
        if (!more) {
            break;
        }
        list->items = more;
        more[list->n++] = p;
    }
    if (f) {
        fclose(f);
    }
    if (list->n > 1) {
        qsort(list->items, list->n, sizeof *list->items, by_rank);
    }
    return f != NULL;
}

void top_list_free(struct top_list *list) {
    free(list->items);
    *list = (struct top_list){0};
}

static void keep_job(struct top_list *list, const char *name) {
    char job[TOP_WORD];
    size_t n = 0;
    snprintf(job, sizeof job, "%s", name);
    for (size_t i = 0; i < list->n; i++) {
        if (strcmp(list->items[i].job, job) == 0) {
            list->items[n++] = list->items[i];
        }
    }
    list->n = n;
}

static bool several(const struct top_list *list, const char *first) {
    for (size_t i = 0; i < list->n; i++) {
        if (strcmp(list->items[i].job, first) != 0) {
            return true;
        }
    }
    return false;
}

bool top_list_choose(struct top_list *list, const char *what, char *why, size_t cap) {
    char *end = NULL;
    long pid = what ? strtol(what, &end, 10) : 0;
    bool is_pid = what && *what && *end == '\0' && pid > 0;
    const char *job = NULL;
    for (size_t i = 0; i < list->n && !job; i++) {
        const struct top_process *p = &list->items[i];
        bool is_it = !what || strcmp(p->job, what) == 0 || (is_pid && is_below(p->pid, (pid_t)pid));
        job = is_it ? p->job : NULL;
    }
    if (!job && !what) {
        snprintf(why, cap, "no rank of a job runs on this host (in this network namespace)");
        return false;
    }
    if (!job) {
        snprintf(why, cap,
                 "neither a job nor a process with ranks on this host: %.60s. Without an argument "
                 "jobs are listed",
                 what);
        return false;
    }
    if (!what && several(list, job)) {
        snprintf(why, cap, "several jobs run here: name one, or the pid of one of its processes");
        return false;
    }
    keep_job(list, job);
    return true;
}

// ---- Asking --------------------------------------------------------------------------------------

struct question {
    int fd; // -1: over
    char *text;
    size_t len, cap;
    bool answered;
};

static bool is_trusted(int fd, const struct top_process *p) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
        return false;
    }
    // Another pid: of a container, or of a child that has inherited the socket of a rank that is gone.
    return (peer.uid == geteuid() || geteuid() == 0) && peer.pid == p->pid;
}

static int dial(const struct top_process *p, char letter) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path + 1, p->name, p->name_len);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + p->name_len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (connect(fd, (struct sockaddr *)&a, len) != 0 || !is_trusted(fd, p) ||
                    send(fd, &letter, 1, MSG_NOSIGNAL) != 1)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void hang_up(struct question *q) {
    close(q->fd);
    q->fd = -1;
}

static void listen_to(struct question *q) {
    if (q->cap - q->len < 65536) {
        size_t cap = q->cap ? 2 * q->cap : 1 << 17;
        char *more = cap <= TEXT_MAX ? realloc(q->text, cap) : NULL;
        if (!more) {
            hang_up(q);
            return;
        }
        q->text = more;
        q->cap = cap;
    }
    ssize_t n = recv(q->fd, q->text + q->len, q->cap - q->len, 0);
    if (n > 0) {
        q->len += (size_t)n;
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        q->answered = n == 0 && q->len > 0;
        hang_up(q);
    }
}

static long long now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void wait_for_answers(struct question *q, struct pollfd *fds, size_t n) {
    long long until = now_ms() + ANSWER_MS;
    for (;;) {
        nfds_t open = 0;
        for (size_t i = 0; i < n; i++) {
            fds[i] = (struct pollfd){.fd = q[i].fd, .events = POLLIN};
            open += q[i].fd >= 0;
        }
        long long left = until - now_ms();
        if (open == 0 || left <= 0) {
            break;
        }
        if (poll(fds, (nfds_t)n, (int)left) > 0) {
            for (size_t i = 0; i < n; i++) {
                if (q[i].fd >= 0 && fds[i].revents) {
                    listen_to(&q[i]);
                }
            }
        }
    }
}

// What can be said of one that did not answer.
static bool add_mute(struct top_job *job, const struct top_process *p, char state) {
    struct top_rank *r = top_job_rank(job, p->rank);
    if (!r) {
        r = top_job_add(job, p->rank);
    }
    if (r && !r->answered) {
        r->pid = (int)p->pid;
        r->local = true;
        r->state = state;
    }
    return r != NULL;
}

static bool hear(const struct top_process *p, const struct question *q, struct top_job *job,
                 bool (*each)(void *arg, const struct top_process *p, const char *text, size_t len),
                 void *arg, char *why, size_t cap) {
    char state = top_process_state(p->pid);
    if (!q->answered) {
        // The name of one that is gone lives on in a child of it.
        return state == '\0' || add_mute(job, p, state);
    }
    if (each && !each(arg, p, q->text, q->len)) {
        return false;
    }
    char wrong[200];
    if (!top_parse(job, q->text, q->len, wrong, sizeof wrong)) {
        snprintf(why, cap, "rank %d (pid %d) answered what cannot be read: %s", p->rank,
                 (int)p->pid, wrong);
        return false;
    }
    struct top_rank *r = top_job_rank(job, p->rank);
    if (r) {
        r->local = true;
        r->state = state;
    }
    return true;
}

bool top_ask(const struct top_list *list, char letter, struct top_job *job,
             bool (*each)(void *arg, const struct top_process *p, const char *text, size_t len),
             void *arg, char *why, size_t cap) {
    struct question *q = calloc(list->n + 1, sizeof *q);
    struct pollfd *fds = calloc(list->n + 1, sizeof *fds);
    bool ok = q && fds;
    snprintf(why, cap, "out of memory");
    for (size_t i = 0; ok && i < list->n; i++) {
        // Nobody waits for an answer of one that cannot give it.
        char state = top_process_state(list->items[i].pid);
        q[i].fd = strchr("TtZX", state) ? -1 : dial(&list->items[i], letter);
    }
    if (ok) {
        wait_for_answers(q, fds, list->n);
    }
    for (size_t i = 0; q && i < list->n; i++) {
        if (q[i].fd >= 0) {
            close(q[i].fd);
        }
        ok = ok && hear(&list->items[i], &q[i], job, each, arg, why, cap);
        free(q[i].text);
    }
    free(q);
    free(fds);
    return ok;
}
