// SPDX-License-Identifier: MIT
// An Ethernet switch with faults for QEMU's "-netdev stream" over unix sockets.
//
//   roce-switch FOLDER PORTS [SEED]     listens at FOLDER/0 … FOLDER/(PORTS-1) and FOLDER/ctl
//   roce-switch --tsc                   prints the frequency of this processor's time stamp counter, kHz
//
//   QEMU 0 --- FOLDER/0 --+        +-- FOLDER/1 --- QEMU 1      a frame on a socket:
//                         | switch |                            4 bytes length (big-endian), frame
//              ctl -------+        +-- …
//
// It learns addresses as a real one does. It loses nothing by itself: a port whose reader is slow has a
// queue, and only beyond 32 MiB of it are frames dropped, and counted.
//
// Commands, one line each, answered by one line ("ok …" or "error …"); P is a port or "all":
//   cut P | heal P          nothing goes in or out, and no side notices by its link
//   loss P PPM              of the frames that leave by the port, in millionths
//   delay P MICROSECONDS    of the frames that leave by the port; they stay in order
//   part A B | join A B     nothing goes between these two
//   stat P                  up, in, out, lost on purpose, overflowed, bytes waiting
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <x86intrin.h>
#endif

#define PORTS_MAX 32
#define CONTROLS_MAX 8
#define STATIONS_MAX 1024
#define QUEUE_MAX (32u << 20)
#define RECEIVE_MAX (1u << 18)
#define PREFIX 4u // the length before a frame

struct frame {
    struct frame *next;
    uint64_t due; // ns; not sent before
    size_t len, sent;
    uint8_t bytes[]; // with its prefix
};

struct port {
    int listener, fd; // fd -1: nobody is connected
    uint8_t *received;
    size_t nreceived;
    struct frame *head, *tail;
    size_t queued;
    bool cut, parted[PORTS_MAX];
    uint32_t loss_ppm;
    uint64_t delay_ns;
    uint64_t in, out, lost, overflowed;
};

struct station {
    uint8_t mac[6];
    unsigned port;
};

struct control {
    int fd; // -1: free
    char line[256];
    size_t len;
};

static struct net {
    unsigned nports, nstations;
    struct port ports[PORTS_MAX];
    struct station stations[STATIONS_MAX];
    int listener;
    struct control controls[CONTROLS_MAX];
    uint64_t random;
} net;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// xorshift64*: a number below one million.
static uint32_t random_ppm(void) {
    net.random ^= net.random >> 12;
    net.random ^= net.random << 25;
    net.random ^= net.random >> 27;
    return (uint32_t)(((net.random * 2685821657736338717u) >> 33) % 1000000u);
}

// ---- Ports --------------------------------------------------------------------------------------

static void port_close(struct port *p) {
    if (p->fd >= 0) {
        close(p->fd);
        p->fd = -1;
    }
    while (p->head != NULL) {
        struct frame *f = p->head;
        p->head = f->next;
        free(f);
    }
    p->tail = NULL;
    p->queued = p->nreceived = 0;
}

// Bytes taken by the socket; 0 when it is full, -1 when the other side is gone.
static ssize_t port_write(const struct port *p, const uint8_t *bytes, size_t len) {
    ssize_t n = send(p->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)) {
        return 0;
    }
    return n;
}

static void port_flush(struct port *p, uint64_t now) {
    while (p->fd >= 0 && p->head != NULL && p->head->due <= now) {
        struct frame *f = p->head;
        ssize_t n = port_write(p, f->bytes + f->sent, f->len - f->sent);
        if (n < 0) {
            port_close(p);
            return;
        }
        f->sent += (size_t)n;
        if (f->sent < f->len) {
            return;
        }
        p->out++;
        p->queued -= f->len;
        p->head = f->next;
        if (p->head == NULL) {
            p->tail = NULL;
        }
        free(f);
    }
}

static void port_queue(struct port *p, const uint8_t *bytes, size_t len, size_t sent,
                       uint64_t due) {
    struct frame *f = malloc(sizeof *f + len);
    if (f == NULL) {
        p->overflowed++;
        return;
    }
    *f = (struct frame){.due = due, .len = len, .sent = sent};
    memcpy(f->bytes, bytes, len);
    if (p->tail != NULL) {
        p->tail->next = f;
    } else {
        p->head = f;
    }
    p->tail = f;
    p->queued += len;
}

static void port_send(unsigned to, unsigned from, const uint8_t *bytes, size_t len) {
    struct port *p = &net.ports[to];
    if (p->fd < 0) {
        return;
    }
    if (p->cut || net.ports[from].cut || p->parted[from] ||
        (p->loss_ppm > 0 && random_ppm() < p->loss_ppm)) {
        p->lost++;
        return;
    }
    if (p->queued + len > QUEUE_MAX) {
        p->overflowed++;
        return;
    }
    size_t sent = 0;
    if (p->head == NULL && p->delay_ns == 0) {
        ssize_t n = port_write(p, bytes, len);
        if (n < 0) {
            port_close(p);
            return;
        }
        if ((size_t)n == len) {
            p->out++;
            return;
        }
        sent = (size_t)n;
    }
    port_queue(p, bytes, len, sent, p->delay_ns > 0 ? now_ns() + p->delay_ns : 0);
}

// ---- Forwarding ---------------------------------------------------------------------------------

static struct station *station_find(const uint8_t *mac) {
    for (unsigned i = 0; i < net.nstations; i++) {
        if (memcmp(net.stations[i].mac, mac, 6) == 0) {
            return &net.stations[i];
        }
    }
    return NULL;
}

static void forward(unsigned from, const uint8_t *bytes, size_t len) {
    const uint8_t *to_mac = bytes + PREFIX, *from_mac = to_mac + 6;
    net.ports[from].in++;
    if (len < PREFIX + 14) {
        return; // no Ethernet header
    }
    struct station *source = station_find(from_mac);
    if (source == NULL && net.nstations < STATIONS_MAX) {
        source = &net.stations[net.nstations++];
        memcpy(source->mac, from_mac, 6);
    }
    if (source != NULL) {
        source->port = from;
    }
    const struct station *target = (to_mac[0] & 1) == 0 ? station_find(to_mac) : NULL;
    if (target != NULL) {
        if (target->port != from) {
            port_send(target->port, from, bytes, len);
        }
        return;
    }
    for (unsigned i = 0; i < net.nports; i++) {
        if (i != from) {
            port_send(i, from, bytes, len);
        }
    }
}

static void port_read(unsigned i) {
    struct port *p = &net.ports[i];
    ssize_t n = recv(p->fd, p->received + p->nreceived, RECEIVE_MAX - p->nreceived, MSG_DONTWAIT);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            port_close(p);
        }
        return;
    }
    p->nreceived += (size_t)n;
    size_t at = 0;
    while (p->nreceived - at >= PREFIX) {
        uint32_t len;
        memcpy(&len, p->received + at, PREFIX);
        len = ntohl(len);
        if (len > RECEIVE_MAX - PREFIX) {
            port_close(p);
            return;
        }
        if (p->nreceived - at < PREFIX + len) {
            break;
        }
        forward(i, p->received + at, PREFIX + len);
        at += PREFIX + len;
    }
    memmove(p->received, p->received + at, p->nreceived - at);
    p->nreceived -= at;
}

// ---- Commands -----------------------------------------------------------------------------------

static bool parse_number(const char *text, unsigned long long below, unsigned long long *out) {
    char *end;
    if (text == NULL || text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0' && *out < below;
}

static bool apply(const char *verb, struct port *p, unsigned long long value) {
    if (strcmp(verb, "cut") == 0) {
        p->cut = true;
    } else if (strcmp(verb, "heal") == 0) {
        p->cut = false;
    } else if (strcmp(verb, "loss") == 0) {
        p->loss_ppm = (uint32_t)value;
    } else if (strcmp(verb, "delay") == 0) {
        p->delay_ns = value * 1000u;
    } else {
        return false;
    }
    return true;
}

static void answer_stat(const struct port *p, char *out, size_t cap) {
    snprintf(out, cap, "ok up=%d in=%llu out=%llu lost=%llu overflowed=%llu queued=%zu\n",
             p->fd >= 0, (unsigned long long)p->in, (unsigned long long)p->out,
             (unsigned long long)p->lost, (unsigned long long)p->overflowed, p->queued);
}

static void command(char *line, char *out, size_t cap) {
    char *save = NULL;
    const char *verb = strtok_r(line, " ", &save), *first = strtok_r(NULL, " ", &save);
    const char *second = strtok_r(NULL, " ", &save);
    unsigned long long a = 0, b = 0;
    bool all = first != NULL && strcmp(first, "all") == 0;
    snprintf(out, cap, "ok\n");
    if (verb == NULL || (!all && !parse_number(first, net.nports, &a))) {
        snprintf(out, cap, "error: a command and a port below %u are wanted\n", net.nports);
        return;
    }
    if (strcmp(verb, "part") == 0 || strcmp(verb, "join") == 0) {
        if (all || !parse_number(second, net.nports, &b)) {
            snprintf(out, cap, "error: two ports below %u are wanted\n", net.nports);
            return;
        }
        net.ports[a].parted[b] = net.ports[b].parted[a] = verb[0] == 'p';
        return;
    }
    if (strcmp(verb, "stat") == 0 && !all) {
        answer_stat(&net.ports[a], out, cap);
        return;
    }
    bool wants_value = strcmp(verb, "loss") == 0 || strcmp(verb, "delay") == 0;
    if (wants_value && !parse_number(second, 1000u * 1000u * 1000u, &b)) {
        snprintf(out, cap, "error: %s wants a number\n", verb);
        return;
    }
    for (unsigned i = all ? 0 : (unsigned)a; i < (all ? net.nports : (unsigned)a + 1); i++) {
        if (!apply(verb, &net.ports[i], b)) {
            snprintf(out, cap, "error: there is no such command\n");
        }
    }
}

static void control_read(struct control *c) {
    ssize_t n = recv(c->fd, c->line + c->len, sizeof c->line - 1 - c->len, MSG_DONTWAIT);
    if (n <= 0 || c->len + (size_t)n == sizeof c->line - 1) {
        close(c->fd);
        c->fd = -1;
        return;
    }
    c->len += (size_t)n;
    char *end;
    while ((end = memchr(c->line, '\n', c->len)) != NULL) {
        char out[256];
        *end = '\0';
        size_t used = (size_t)(end + 1 - c->line);
        command(c->line, out, sizeof out);
        if (send(c->fd, out, strlen(out), MSG_NOSIGNAL) < 0) {
            close(c->fd);
            c->fd = -1;
            return;
        }
        memmove(c->line, end + 1, c->len - used);
        c->len -= used;
    }
}

static void control_accept(void) {
    int fd = accept4(net.listener, NULL, NULL, SOCK_CLOEXEC);
    for (unsigned i = 0; fd >= 0 && i < CONTROLS_MAX; i++) {
        if (net.controls[i].fd < 0) {
            net.controls[i] = (struct control){.fd = fd};
            return;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

// ---- The loop -----------------------------------------------------------------------------------

static void port_accept(struct port *p) {
    int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        return;
    }
    port_close(p); // a machine that started anew
    p->fd = fd;
    int bytes = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static int listen_at(const char *folder, const char *name) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int n = snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", folder, name);
    if (n < 0 || (size_t)n >= sizeof at.sun_path) {
        fprintf(stderr, "%s/%s is too long for a unix socket\n", folder, name);
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 4) != 0) {
        fprintf(stderr, "cannot listen at %s: %s\n", at.sun_path, strerror(errno));
        return -1;
    }
    return fd;
}

static bool start(const char *folder, unsigned nports) {
    net.nports = nports;
    net.listener = listen_at(folder, "ctl");
    for (unsigned i = 0; i < CONTROLS_MAX; i++) {
        net.controls[i].fd = -1;
    }
    for (unsigned i = 0; i < nports; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", i);
        net.ports[i].fd = -1;
        net.ports[i].listener = listen_at(folder, name);
        net.ports[i].received = malloc(RECEIVE_MAX);
        if (net.ports[i].listener < 0 || net.ports[i].received == NULL) {
            return false;
        }
    }
    return net.listener >= 0;
}

// What to wait for; the answer is how long, in ms.
static int fill(struct pollfd *fds) {
    uint64_t now = now_ns(), until = UINT64_MAX;
    *fds++ = (struct pollfd){.fd = net.listener, .events = POLLIN};
    for (unsigned i = 0; i < CONTROLS_MAX; i++) {
        *fds++ = (struct pollfd){.fd = net.controls[i].fd, .events = POLLIN};
    }
    for (unsigned i = 0; i < net.nports; i++) {
        const struct port *p = &net.ports[i];
        short events = POLLIN;
        if (p->head != NULL && p->head->due <= now) {
            events |= POLLOUT;
        } else if (p->head != NULL && p->head->due < until) {
            until = p->head->due;
        }
        *fds++ = (struct pollfd){.fd = p->listener, .events = POLLIN};
        *fds++ = (struct pollfd){.fd = p->fd, .events = events};
    }
    return until == UINT64_MAX ? -1 : (int)((until - now) / 1000000u) + 1;
}

static void serve(void) {
    struct pollfd fds[1 + CONTROLS_MAX + 2 * PORTS_MAX];
    for (;;) {
        int timeout = fill(fds);
        if (poll(fds, 1 + CONTROLS_MAX + 2 * net.nports, timeout) < 0 && errno != EINTR) {
            return;
        }
        for (unsigned i = 0; i < CONTROLS_MAX; i++) {
            if (net.controls[i].fd >= 0 && fds[1 + i].revents != 0) {
                control_read(&net.controls[i]);
            }
        }
        if (fds[0].revents != 0) {
            control_accept();
        }
        for (unsigned i = 0; i < net.nports; i++) {
            const struct pollfd *at = &fds[1 + CONTROLS_MAX + 2 * i];
            port_flush(&net.ports[i], now_ns());
            // What poll() said about a descriptor holds only while it is still that one.
            if (at[1].fd >= 0 && at[1].fd == net.ports[i].fd &&
                (at[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
                port_read(i);
            }
            if (at[0].revents != 0) {
                port_accept(&net.ports[i]);
            }
        }
    }
}

static int print_tsc(void) {
#ifdef __x86_64__
    struct timespec a, b, nap = {.tv_nsec = 200000000};
    clock_gettime(CLOCK_MONOTONIC_RAW, &a);
    uint64_t from = __rdtsc();
    nanosleep(&nap, NULL);
    clock_gettime(CLOCK_MONOTONIC_RAW, &b);
    uint64_t to = __rdtsc();
    double ms = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6;
    printf("%.0f\n", (double)(to - from) / ms);
    return 0;
#else
    fprintf(stderr, "this processor has no time stamp counter\n");
    return 1;
#endif
}

int main(int argc, char **argv) {
    unsigned long long nports = 0, seed = 1;
    if (argc == 2 && strcmp(argv[1], "--tsc") == 0) {
        return print_tsc();
    }
    if (argc < 3 || argc > 4 || !parse_number(argv[2], PORTS_MAX + 1, &nports) || nports == 0 ||
        (argc == 4 && !parse_number(argv[3], UINT64_MAX, &seed))) {
        fprintf(stderr, "usage: roce-switch FOLDER PORTS(1..%d) [SEED] | --tsc\n", PORTS_MAX);
        return 2;
    }
    net.random = seed * 0x9e3779b97f4a7c15u + 1;
    if (!start(argv[1], (unsigned)nports)) {
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    serve();
    return 1;
}
