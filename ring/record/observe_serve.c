// SPDX-License-Identifier: MIT
// Connections to the observer. Nothing can be changed through them. rondo-top sends one letter and reads the
// state until the end; metrics are one request of HTTP/1.0. Who is slow is dropped at a deadline.
#include "ring/record/observe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_NS UINT64_C(2000000000)
#define ACCEPT_MOST 64 // in one turn
#define VIEW_RECENT 32 // operations of each communicator that rondo-top is shown

// ---- Coming --------------------------------------------------------------------------------------

// The same user, or root. What the kernel says, not what the other side does.
static bool may_look(int fd) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static struct rdi_observe_conn *free_place(struct rdi_observe_conn *conns, bool metrics) {
    for (int i = 0; i < RDI_OBSERVE_CONNS; i++) {
        struct rdi_observe_conn *c = &conns[i + (metrics ? RDI_OBSERVE_CONNS : 0)];
        if (c->fd < 0) {
            return c;
        }
    }
    return NULL;
}

static bool accept_one(struct rdi_observe_conn *conns, struct rdi_observed *o, bool metrics,
                       uint64_t now) {
    int fd = accept4(metrics ? o->metrics : o->view, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return false;
    }
    // A port on loopback has no owner to ask for: whoever is on this host may read counters there.
    bool unix_socket = !metrics || o->metrics_path[0];
    struct rdi_observe_conn *c = free_place(conns, metrics);
    if (!c || (unix_socket && !may_look(fd))) {
        close(fd);
        return true;
    }
    *c = (struct rdi_observe_conn){
        .fd = fd, .metrics = metrics, .serial = o->serial, .deadline = now + PATIENCE_NS};
    return true;
}

void rdi_observe_accept(struct rdi_observe_conn *conns, struct rdi_observed *o, bool metrics,
                        uint64_t now) {
    for (int i = 0; i < ACCEPT_MOST && accept_one(conns, o, metrics, now); i++) {}
}

void rdi_observe_conn_close(struct rdi_observe_conn *c) {
    if (c->fd >= 0) {
        close(c->fd);
        rdi_text_free(&c->out);
        c->fd = -1;
    }
}

void rdi_observe_conn_read(struct rdi_observe_conn *c) {
    ssize_t n = recv(c->fd, c->in + c->in_len, sizeof c->in - 1 - c->in_len, 0);
    if (n > 0) {
        c->in_len += (size_t)n;
        c->in[c->in_len] = '\0';
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        rdi_observe_conn_close(c);
    }
}

bool rdi_observe_asked(const struct rdi_observe_conn *c) {
    if (!c->metrics) {
        return c->in_len > 0;
    }
    return c->in_len >= sizeof c->in - 1 || strstr(c->in, "\r\n\r\n") || strstr(c->in, "\n\n");
}

// ---- Answering -----------------------------------------------------------------------------------

// Whether the request is for `path`, alone or with a query.
static bool is_for(const char *request, const char *path) {
    size_t n = strlen(path);
    return strncmp(request + 4, path, n) == 0 &&
           (request[4 + n] == ' ' || request[4 + n] == '?' || request[4 + n] == '\r');
}

static void http(struct rdi_observe_conn *c, struct rdi_observed *o) {
    struct rdi_text body = {0};
    const char *status = "200 OK";
    if (strncmp(c->in, "GET ", 4) != 0) {
        status = "405 Method Not Allowed";
        rdi_text_add(&body, "only GET is answered\n");
    } else if (!is_for(c->in, "/metrics") && !is_for(c->in, "/")) {
        status = "404 Not Found";
        rdi_text_add(&body, "there is only /metrics\n");
    } else if (rdi_observe_metrics(o, &body) != RONDO_OK) {
        status = "503 Service Unavailable";
        rdi_text_free(&body);
        rdi_text_add(&body, "out of memory\n");
    }
    rdi_text_add(&c->out,
                 "HTTP/1.0 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                 "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
                 status, body.len, body.buf ? body.buf : "");
    rdi_text_free(&body);
}

void rdi_observe_answer(struct rdi_observe_conn *c, struct rdi_observed *o) {
    if (c->metrics) {
        http(c, o);
    } else if (c->in[0] == 't' || c->in[0] == 'd') {
        uint64_t recent = c->in[0] == 'd' ? UINT64_MAX : VIEW_RECENT;
        (void)rdi_observe_text(o, c->in[0] == 'd' ? "call" : "view", recent, &c->out);
    }
    if (c->out.failed || c->out.len == 0) {
        rdi_observe_conn_close(c);
    }
}

void rdi_observe_conn_write(struct rdi_observe_conn *c) {
    ssize_t n = send(c->fd, c->out.buf + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
    if (n > 0) {
        c->sent += (size_t)n;
    }
    bool over = c->sent == c->out.len;
    if (over && c->metrics) {
        // What is left of the request is read, or closing would reset the connection under the answer.
        char rest[512];
        (void)shutdown(c->fd, SHUT_WR);
        ssize_t left = recv(c->fd, rest, sizeof rest, 0);
        (void)left;
    }
    if (over || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        rdi_observe_conn_close(c);
    }
}
