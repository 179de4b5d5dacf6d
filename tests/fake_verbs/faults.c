// SPDX-License-Identifier: MIT
// Faults: how they are told, and those that come by time.
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

void fv_faults_default(struct fv_faults *f) {
    *f = (struct fv_faults){.inline_max = 256,
                            .max_wr = 4096,
                            .max_cqe = 65536,
                            .event = -1,
                            .gone = -1,
                            .down_from = -1,
                            .down_to = -1,
                            .cut_from = -1,
                            .cut_to = -1};
}

struct value {
    const char *key;
    unsigned n; // how many numbers were given
    int64_t at[3];
};

static bool set_number(const struct value *v, const char *key, int64_t otherwise, unsigned *to) {
    if (strcmp(v->key, key) != 0)
        return false;
    *to = (unsigned)(v->n ? v->at[0] : otherwise);
    return true;
}

static bool set_time(struct fv_faults *f, const struct value *v) {
    int64_t from = v->n > 0 ? v->at[0] : 0, to = v->n > 1 ? v->at[1] : -1;
    if (strcmp(v->key, "gone") == 0) {
        f->gone = from;
    } else if (strcmp(v->key, "portdown") == 0) {
        f->down_from = from;
        f->down_to = to;
        f->down_port = v->n > 2 ? (unsigned)v->at[2] : 0;
    } else if (strcmp(v->key, "cut") == 0) {
        f->cut_from = from;
        f->cut_to = to;
    } else {
        return false;
    }
    return true;
}

static bool set(struct fv_faults *f, const struct value *v) {
    if (strcmp(v->key, "late") == 0) {
        f->late = !v->n || v->at[0];
    } else if (strcmp(v->key, "no_imm") == 0) {
        f->no_imm = !v->n || v->at[0];
    } else if (strcmp(v->key, "event") == 0 && v->n) {
        f->event = (int)v->at[0];
    } else {
        return set_time(f, v) || set_number(v, "delay", 200, &f->delay_us) ||
               set_number(v, "reorder", 10, &f->reorder) || set_number(v, "loss", 1, &f->loss) ||
               set_number(v, "rnr", 10, &f->rnr) || set_number(v, "inline", 0, &f->inline_max) ||
               set_number(v, "max_wr", 16, &f->max_wr) ||
               set_number(v, "max_cqe", 64, &f->max_cqe) ||
               set_number(v, "regfail", 1, &f->regfail);
    }
    return true;
}

static bool set_one(struct fv_faults *f, char *text, const char *device) {
    char *dot = strchr(text, '.');
    if (dot) {
        *dot = '\0';
        if (strcmp(text, device) != 0)
            return true; // another's
        text = dot + 1;
    }
    struct value v = {.key = text};
    char *at = strchr(text, '=');
    if (at) {
        *at++ = '\0';
        for (;;) {
            char *end;
            v.at[v.n] = strtoll(at, &end, 10);
            if (end == at || v.at[v.n++] < 0)
                return false;
            if (*end == '\0')
                break;
            if (*end != ':' || v.n == 3)
                return false;
            at = end + 1;
        }
    }
    return set(f, &v);
}

void fv_faults_parse(struct fv_faults *f, const char *text, const char *device) {
    fv_faults_default(f);
    char copy[512];
    if (!text || strlen(text) >= sizeof copy)
        return;
    strcpy(copy, text);
    char *save;
    for (char *one = strtok_r(copy, ", \n", &save); one; one = strtok_r(NULL, ", \n", &save))
        if (!set_one(f, one, device))
            fv_rule("FAULTS", "'%s' in \"%s\" is not known", one, text);
}

void fv_faults_set(struct fv_nic *nic, const struct fv_faults *f) {
    nic->faults = *f;
    nic->faults_since = fv_now();
    nic->registrations = 0;
    if (f->event >= 0)
        fv_event_port(nic, (enum ibv_event_type)f->event, 1);
}

static bool within(int64_t ms, int64_t from, int64_t to) {
    return from >= 0 && ms >= from && (to < 0 || ms < to);
}

static void remove_device(struct fv_nic *nic) {
    nic->gone = true;
    for (struct fv_qp *q = nic->qps; q; q = q->next)
        fv_qp_fail(q);
    fv_event_port(nic, IBV_EVENT_DEVICE_FATAL, 0);
}

uint64_t fv_faults_tick(struct fv_nic *nic, uint64_t now) {
    const struct fv_faults *f = &nic->faults;
    int64_t ms = (int64_t)((now - nic->faults_since) / 1000000u);
    nic->cut = within(ms, f->cut_from, f->cut_to);
    if (f->gone >= 0 && ms >= f->gone && !nic->gone)
        remove_device(nic);
    for (unsigned p = 1; p <= nic->device.config.ports; p++) {
        bool down = within(ms, f->down_from, f->down_to) &&
                    (f->down_port == 0 || f->down_port == p);
        if (down == nic->down[p] || nic->cut)
            continue;
        nic->down[p] = down;
        fv_event_port(nic, down ? IBV_EVENT_PORT_ERR : IBV_EVENT_PORT_ACTIVE, p);
    }
    uint64_t next = FV_NEVER;
    const int64_t times[] = {f->gone, f->down_from, f->down_to, f->cut_from, f->cut_to};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++)
        if (times[i] > ms)
            next = fv_min(next, nic->faults_since + (uint64_t)times[i] * 1000000u);
    return next;
}

// ---- The control file ----------------------------------------------------------------------------

static void file_name(const struct fv_nic *nic, char out[64]) {
    snprintf(out, 64, "faults.%u.%s", nic->device.config.host, nic->device.v.name);
}

static void load(struct fv_nic *nic) {
    char name[64], text[512];
    file_name(nic, name);
    int fd = openat(nic->dirfd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n < 0)
        return;
    text[n] = '\0';
    uint64_t seen = fv_sum(1, text, (size_t)n);
    if (nic->inotify_fd < 0 && seen == nic->faults_seen)
        return;
    nic->faults_seen = seen;
    struct fv_faults f;
    fv_faults_parse(&f, text, nic->device.v.name);
    fv_faults_set(nic, &f);
}

void fv_faults_watch(struct fv_nic *nic) {
    nic->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (nic->inotify_fd >= 0 && inotify_add_watch(nic->inotify_fd, nic->device.config.dir,
                                                  IN_CLOSE_WRITE | IN_MOVED_TO) < 0) {
        close(nic->inotify_fd);
        nic->inotify_fd = -1; // the NIC thread looks every 20 ms
    }
    load(nic);
}

void fv_faults_read_file(struct fv_nic *nic) {
    bool ours = nic->inotify_fd < 0;
    char name[64], events[4096];
    file_name(nic, name);
    ssize_t n;
    while (nic->inotify_fd >= 0 && (n = read(nic->inotify_fd, events, sizeof events)) > 0) {
        struct inotify_event e;
        for (char *at = events; at < events + n; at += sizeof e + e.len) {
            memcpy(&e, at, sizeof e);
            ours = ours || (e.len && strcmp(at + sizeof e, name) == 0);
        }
    }
    if (ours)
        load(nic);
}
