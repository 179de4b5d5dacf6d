// SPDX-License-Identifier: MIT
// Rank 0 hands the others the job's key where the launcher offers nothing for that: it says a munge credential to
// whoever connects, and the ranks of its user can open it.
//
// The herald reads nothing, so nobody can make it do anything. What a rank hears may be anybody's: it counts only if
// munged says that this user made it, and if it is of this job; else the rank asks again until its deadline. Somebody
// who sits between can therefore keep ranks from meeting, but can neither join the job nor have them join another: what
// he replays has a key that he does not know.
#include "transport/bootstrap/munge.h"
#include "transport/bootstrap/store_listen.h"
#include "transport/thread.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u
#define ATTEMPT_MS 5000 // for one address
#define PAUSE_MIN_MS 10 // between attempts, doubling
#define PAUSE_MAX_MS 500
#define SHORT_MS 50 // of something that accept(2) needs
#define TEXT_MAX 2048

// ---- Rank 0 -------------------------------------------------------------------------------------

struct rdi_herald {
    struct rdi_listeners listeners;
    int stop;
    pthread_t thread;
    char text[RDI_MUNGE_CRED];
};

// The text fits into the buffer of a new socket, so it goes at once or not at all.
static bool say(const struct rdi_herald *h, int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS;
    }
    (void)!send(fd, h->text, strlen(h->text), MSG_NOSIGNAL);
    shutdown(fd, SHUT_RDWR);
    close(fd);
    return true;
}

static void *serve(void *arg) {
    struct rdi_herald *h = arg;
    struct pollfd p[RDI_STORE_LISTENERS + 1] = {{.fd = h->stop, .events = POLLIN}};
    size_t n = 1;
    for (; n <= h->listeners.count; n++) {
        p[n] = (struct pollfd){.fd = h->listeners.fd[n - 1], .events = POLLIN};
    }
    while (p[0].revents == 0) {
        int got = poll(p, n, -1);
        for (size_t i = 1; got > 0 && i < n && p[0].revents == 0; i++) {
            if (p[i].revents != 0 && !say(h, p[i].fd)) {
                struct pollfd stop = {.fd = h->stop, .events = POLLIN};
                poll(&stop, 1, SHORT_MS);
            }
        }
    }
    return NULL;
}

rondo_status rdi_herald_start(const char *addr, int port, int busy_ms, const char *text,
                              struct rdi_herald **out) {
    struct rdi_herald *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory to tell the job's key");
    }
    snprintf(h->text, sizeof h->text, "%s", text);
    rondo_status s = rdi_listen_soon(addr, port, busy_ms, &h->listeners);
    if (s != RONDO_OK) {
        free(h);
        return s;
    }
    h->stop = eventfd(0, EFD_CLOEXEC);
    int err = h->stop < 0 ? errno : rdi_thread_create(&h->thread, NULL, serve, h);
    if (err != 0) {
        s = rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot tell the other ranks the job's key");
        if (h->stop >= 0) {
            close(h->stop);
        }
        rdi_listen_close(&h->listeners);
        free(h);
        return s;
    }
    *out = h;
    return RONDO_OK;
}

int rdi_herald_port(const struct rdi_herald *h) { return h->listeners.port; }

void rdi_herald_stop(struct rdi_herald *h) {
    if (h != NULL) {
        uint64_t one = 1;
        (void)!write(h->stop, &one, sizeof one);
        pthread_join(h->thread, NULL);
        close(h->stop);
        rdi_listen_close(&h->listeners);
        free(h);
    }
}

// ---- The others ---------------------------------------------------------------------------------

struct asking {
    const struct rdi_env *env;
    uint64_t deadline;
    char why[256]; // of the last attempt
    char heard[RDI_MUNGE_CRED];
};

static void fails(struct asking *a, const char *what, int err) {
    char buffer[128];
    if (err == ETIMEDOUT && a->why[0] != '\0' && rdi_now(a->env) >= a->deadline) {
        return; // the time was up in the middle: what the attempt before found says more
    }
    snprintf(a->why, sizeof a->why, "%s%s%s", what, err != 0 ? ": " : "",
             err != 0 ? strerror_r(err, buffer, sizeof buffer) : "");
}

static bool wait_for(const struct asking *a, int fd, short events, uint64_t until) {
    until = until < a->deadline ? until : a->deadline;
    for (;;) {
        uint64_t now = rdi_now(a->env);
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, until > now ? (int)((until - now + MS - 1) / MS) : 0);
        if (n != 0 && !(n < 0 && errno == EINTR)) {
            return n > 0;
        }
        if (n == 0) {
            return false;
        }
    }
}

// Everything up to the end, of which there is not much.
static bool hear(struct asking *a, int fd, uint64_t until) {
    size_t n = 0;
    while (n < sizeof a->heard - 1) {
        ssize_t got = recv(fd, a->heard + n, sizeof a->heard - 1 - n, 0);
        if (got == 0) {
            a->heard[n] = '\0';
            return true;
        }
        if (got > 0) {
            n += (size_t)got;
        } else if (errno != EINTR &&
                   !((errno == EAGAIN || errno == EWOULDBLOCK) && wait_for(a, fd, POLLIN, until))) {
            fails(a, "the connection broke", errno == EAGAIN ? ETIMEDOUT : errno);
            return false;
        }
    }
    fails(a, "something else answers there", 0);
    return false;
}

static bool ask_address(struct asking *a, const struct addrinfo *at) {
    uint64_t until = rdi_now(a->env) + (uint64_t)ATTEMPT_MS * MS;
    int err = 0, fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t len = sizeof err;
    bool ok = false;
    if (fd < 0) {
        fails(a, "no socket", errno);
        return false;
    }
    if (connect(fd, at->ai_addr, at->ai_addrlen) != 0 && errno != EINPROGRESS && errno != EINTR) {
        fails(a, "no connection", errno);
    } else if (!wait_for(a, fd, POLLOUT, until)) {
        fails(a, "no connection", ETIMEDOUT);
    } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0 || err != 0) {
        fails(a, "no connection", err != 0 ? err : errno);
    } else {
        ok = hear(a, fd, until);
    }
    close(fd);
    return ok;
}

// Whether what was heard is for us.
static bool understand(struct asking *a, const char *id, char *text, size_t cap) {
    char all[TEXT_MAX];
    size_t n = strlen(id);
    const char *wrong = rdi_munge_open(a->heard, all, sizeof all);
    bool ok = wrong == NULL && strncmp(all, id, n) == 0 && all[n] == ' ' &&
              strlen(all + n + 1) < cap;
    if (wrong != NULL) {
        snprintf(a->why, sizeof a->why, "munge does not accept what is said there: %s", wrong);
    } else if (!ok) {
        fails(a, "another job of yours answers there", 0);
    } else {
        snprintf(text, cap, "%s", all + n + 1);
    }
    sodium_memzero(all, sizeof all);
    return ok;
}

static bool ask_once(struct asking *a, const struct rdi_herald_question *q, char *text,
                     size_t cap) {
    char service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list;
    snprintf(service, sizeof service, "%d", q->port);
    int err = getaddrinfo(q->host, service, &hints, &list);
    if (err != 0) {
        snprintf(a->why, sizeof a->why, "the name cannot be resolved: %s", gai_strerror(err));
        return false;
    }
    bool ok = false;
    for (const struct addrinfo *at = list; at != NULL && !ok; at = at->ai_next) {
        ok = ask_address(a, at) && understand(a, q->id, text, cap);
    }
    freeaddrinfo(list);
    return ok;
}

rondo_status rdi_herald_ask(const struct rdi_herald_question *q, const struct rdi_env *env,
                            char *text, size_t cap) {
    struct asking a = {.env = env};
    a.deadline = rdi_now(env) + (uint64_t)q->timeout_ms * MS;
    long pause = PAUSE_MIN_MS;
    while (!ask_once(&a, q, text, cap)) {
        if (rdi_now(env) + (uint64_t)pause * MS >= a.deadline) {
            return rdi_fail(
                RONDO_ERR_TIMEOUT,
                "rank %d could not get the job's key from rank 0 at %s, port %d, by munge within"
                " %g s (%s): did rank 0 start there? Else give all ranks its address as"
                " MASTER_ADDR, or the same secret file as RONDO_KEY_FILE",
                q->rank, q->host, q->port, q->timeout_ms / 1000.0, a.why);
        }
        nanosleep(&(struct timespec){.tv_nsec = pause * (long)MS}, NULL);
        pause = 2 * pause < PAUSE_MAX_MS ? 2 * pause : PAUSE_MAX_MS;
    }
    return RONDO_OK;
}
