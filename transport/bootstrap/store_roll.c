// SPDX-License-Identifier: MIT
// The roll: which ranks have come to meet at this store, and live. Whoever is lost, or leaves, ends the meeting: all
// that wait for something, or would wait, are told who and why, at once and all the same.
//
//   COME ---> on the roll ---LEAVE----------------------------> has left
//               |  |  '------connection ends------------------> ended
//               |  '---------nothing acknowledged (kernel)----> silent
//               '------------acknowledged, no sign of life----> stopped
//
// A store that a launcher serves may see its ranks meet several times; whose name is on the roll already waits for
// the next one, which begins when they come that were on the last. Rank 0's own store serves one meeting.
#include "transport/bootstrap/store_server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROLLS_MAX 4
#define WORD(rank) ((size_t)(rank) / 64)
#define BIT(rank) (UINT64_C(1) << ((rank) % 64))

struct rdi_member {
    struct rdi_member *next, *previous;
    struct rdi_roll *roll;
    struct rdi_conn *conn;
    struct rdi_store_come who;
    unsigned quiet_ms; // since the last sign of life
};

struct rdi_roll {
    struct rdi_roll *next;
    struct rdi_member *members; // that are here
    uint64_t *came;             // also those that have gone
    size_t words;
    int size, ncame;
    struct rdi_value *loss; // NULL: nobody is lost
};

unsigned rdi_store_beat_ms(unsigned grace_ms) {
    unsigned ms = grace_ms / 8;
    return ms < 25 ? 25 : ms < 500 ? ms : 500;
}

// ---- Coming -------------------------------------------------------------------------------------

static bool has_come(const struct rdi_roll *roll, int rank) {
    return WORD(rank) < roll->words && (roll->came[WORD(rank)] & BIT(rank)) != 0;
}

static struct rdi_roll *new_roll(struct rdi_store_server *s) {
    struct rdi_roll **at = &s->rolls;
    int n = 0;
    for (; *at != NULL; at = &(*at)->next) {
        n++;
    }
    if (n < (s->limits.one_meeting ? 1 : ROLLS_MAX)) {
        *at = calloc(1, sizeof **at);
    }
    return *at;
}

static bool enter(struct rdi_store_server *s, struct rdi_roll *roll,
                  const struct rdi_store_come *who) {
    size_t words = WORD(who->size - 1) + 1;
    if (words > roll->words) {
        uint64_t *came = realloc(roll->came, words * sizeof *came);
        if (came == NULL) {
            return false;
        }
        memset(came + roll->words, 0, (words - roll->words) * sizeof *came);
        roll->came = came;
        roll->words = words;
    }
    roll->came[WORD(who->rank)] |= BIT(who->rank);
    roll->size = who->size > roll->size ? who->size : roll->size;
    roll->ncame++;
    atomic_store(&s->absent_now, (size_t)(roll->size - roll->ncame));
    return true;
}

static void link_member(struct rdi_store_server *s, struct rdi_roll *roll, struct rdi_conn *c,
                        struct rdi_member *m) {
    m->roll = roll;
    m->conn = c;
    m->next = roll->members;
    if (m->next != NULL) {
        m->next->previous = m;
    }
    roll->members = m;
    c->member = m;
    atomic_fetch_add(&s->members_now, 1);
    rdi_store_silence(c->fd, (int)m->who.silence_ms);
    unsigned beat = rdi_store_beat_ms(m->who.grace_ms);
    if (m->who.grace_ms > 0 && (s->tick_ms == 0 || beat < s->tick_ms)) {
        s->tick_ms = beat;
        s->tick_at = rdi_now(&s->env) + beat * (uint64_t)RDI_MS;
    }
}

static struct rdi_value *whose_store(const struct rdi_store_server *s) {
    struct rdi_value *v = rdi_value_new(RDI_STORE_HOST_BYTES);
    struct rdi_store_host h = {.pid = s->pid, .rank_0 = s->limits.one_meeting};
    if (v != NULL) {
        snprintf(h.host, sizeof h.host, "%s", s->job.host);
        rdi_store_encode_host(v->bytes, &h);
    }
    return v;
}

// Ranks of two jobs that have the same key may also have been given the same address and port.
static bool is_stranger(const struct rdi_store_server *s, const struct rdi_store_come *who) {
    return s->job.launch != 0 && who->launch != 0 && s->job.launch != who->launch;
}

// RONDO_AGAIN: its time has not come yet.
static rondo_status come(struct rdi_store_server *s, struct rdi_conn *c,
                         const struct rdi_store_come *who) {
    struct rdi_roll *roll = s->rolls;
    while (roll != NULL && has_come(roll, who->rank)) {
        for (const struct rdi_member *m = roll->next == NULL ? roll->members : NULL; m != NULL;
             m = m->next) {
            if (m->who.rank == who->rank) {
                return RONDO_AGAIN; // another process is that rank
            }
        }
        roll = roll->next;
    }
    roll = roll != NULL ? roll : new_roll(s);
    if (roll == NULL) {
        return RONDO_AGAIN;
    }
    struct rdi_member *m = calloc(1, sizeof *m);
    if (m == NULL || !enter(s, roll, who)) {
        free(m);
        return RONDO_ERR_NOMEM;
    }
    m->who = *who;
    link_member(s, roll, c, m);
    return RONDO_OK;
}

void rdi_roll_come(struct rdi_store_server *s, struct rdi_conn *c) {
    struct rdi_store_come who;
    if (rdi_store_decode_come(c->value->bytes, &who) != NULL || c->member != NULL) {
        rdi_conn_reply(s, c, RONDO_ERR_INVALID, NULL);
        return;
    }
    rondo_status status = is_stranger(s, &who) ? RONDO_ERR_MISMATCH : come(s, c, &who);
    struct rdi_value *v = status == RONDO_OK ? whose_store(s) : NULL;
    status = status == RONDO_OK && v == NULL ? RONDO_ERR_NOMEM : status;
    // There is no failure "come again".
    rdi_conn_reply(s, c, status == RONDO_AGAIN ? RONDO_ERR_BOOTSTRAP : status, v);
    rdi_value_unref(v);
}

// ---- Going --------------------------------------------------------------------------------------

// One that leaves because another one is lost names that one.
static bool names_another(const struct rdi_member *m, const char *reason) {
    int rank, end = 0;
    return sscanf(reason, "rank %d (host %n", &rank, &end) == 1 && end > 0 && rank != m->who.rank;
}

// The first loss is everybody's.
static void lost(struct rdi_store_server *s, struct rdi_member *m, const char *what,
                 const char *reason) {
    struct rdi_roll *roll = m->roll;
    char text[RDI_ERROR_TEXT];
    if (roll->loss != NULL || s->closing) {
        return;
    }
    if (names_another(m, reason)) {
        snprintf(text, sizeof text, "%s", reason);
    } else {
        snprintf(text, sizeof text,
                 "rank %d (host %s, pid %d) %s while the ranks were meeting%s%.500s", m->who.rank,
                 m->who.host, m->who.pid, what, reason[0] != '\0' ? ": " : "", reason);
    }
    size_t len = strlen(text);
    struct rdi_value *v = rdi_value_new(len);
    if (v == NULL) {
        return; // they wait until their deadline
    }
    memcpy(v->bytes, text, len);
    roll->loss = v;
    for (struct rdi_member *other = roll->members; other != NULL; other = other->next) {
        rdi_conn_stop_waiting(s, other->conn, v);
    }
}

static void forget_roll(struct rdi_store_server *s, struct rdi_roll *roll) {
    struct rdi_roll **at = &s->rolls;
    while (*at != roll) {
        at = &(*at)->next;
    }
    *at = roll->next;
    rdi_value_unref(roll->loss);
    free(roll->came);
    free(roll);
}

static void unlink_member(struct rdi_store_server *s, struct rdi_member *m) {
    struct rdi_roll *roll = m->roll;
    *(m->previous != NULL ? &m->previous->next : &roll->members) = m->next;
    if (m->next != NULL) {
        m->next->previous = m->previous;
    }
    m->conn->member = NULL;
    free(m);
    atomic_fetch_sub(&s->members_now, 1);
    // That of rank 0's own store stays: it tells the next job's ranks that they are too early.
    if (roll->members == NULL && (!s->limits.one_meeting || s->closing)) {
        forget_roll(s, roll);
    }
    if (atomic_load(&s->members_now) == 0) {
        s->tick_at = 0;
        s->tick_ms = 0;
    }
}

void rdi_roll_leave(struct rdi_store_server *s, struct rdi_conn *c) {
    struct rdi_member *m = c->member;
    char reason[RDI_ERROR_TEXT + 1] = "";
    if (m != NULL) {
        memcpy(reason, c->value->bytes, c->value->len);
        rdi_printable(reason, sizeof reason);
        lost(s, m, "left", reason);
        unlink_member(s, m);
    }
    rdi_conn_next(s, c);
}

void rdi_roll_gone(struct rdi_store_server *s, struct rdi_conn *c) {
    struct rdi_member *m = c->member;
    char what[160];
    if (m == NULL) {
        return;
    }
    if (c->mute) {
        snprintf(
            what, sizeof what,
            "stopped (its host answers, its process gave no sign of life for stop_grace, %g s)",
            m->who.grace_ms / 1000.0);
    } else if (c->broke == ETIMEDOUT || c->broke == EHOSTUNREACH || c->broke == ENETUNREACH) {
        snprintf(what, sizeof what,
                 "fell silent (its host acknowledged nothing for peer_timeout, %g s)",
                 m->who.silence_ms / 1000.0);
    } else {
        snprintf(what, sizeof what, "ended without a word");
    }
    lost(s, m, what, "");
    unlink_member(s, m);
}

void rdi_roll_close(struct rdi_store_server *s) {
    while (s->rolls != NULL) {
        forget_roll(s, s->rolls);
    }
}

struct rdi_value *rdi_roll_loss(const struct rdi_conn *c) {
    return c->member != NULL ? c->member->roll->loss : NULL;
}

// ---- Signs of life ------------------------------------------------------------------------------

void rdi_roll_heard(struct rdi_conn *c) {
    if (c->member != NULL) {
        c->member->quiet_ms = 0;
    }
}

// An acknowledgement may be late by as much as a delayed one, and pulses leave one after the other, so that there may
// always be one that is not acknowledged yet.
bool rdi_store_acknowledged(int fd, unsigned quiet_ms) {
    struct tcp_info info = {.tcpi_unacked = 0};
    socklen_t len = sizeof info;
    unsigned margin = quiet_ms / 2 < 250 ? quiet_ms / 2 : 250;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 || info.tcpi_unacked == 0 ||
           info.tcpi_last_ack_recv < quiet_ms - margin;
}

// Time is counted in ticks, so that a server that was stopped itself does not take that for others' silence.
void rdi_roll_tick(struct rdi_store_server *s, uint64_t now) {
    if (s->tick_at == 0 || now < s->tick_at) {
        return;
    }
    s->tick_at = now + s->tick_ms * (uint64_t)RDI_MS;
    for (struct rdi_roll *roll = s->rolls; roll != NULL; roll = roll->next) {
        for (struct rdi_member *m = roll->members; m != NULL; m = m->next) {
            if (m->who.grace_ms == 0 || m->conn->state == CONN_DEAD) {
                continue;
            }
            m->quiet_ms += s->tick_ms;
            if (m->quiet_ms >= m->who.grace_ms &&
                rdi_store_acknowledged(m->conn->fd, m->quiet_ms)) {
                m->conn->mute = true;
                rdi_conn_drop(s, m->conn); // its memory, and the member, stay until it is buried
            } else {
                rdi_conn_pulse(s, m->conn);
            }
        }
    }
}

size_t rdi_store_server_members(struct rdi_store_server *s) { return atomic_load(&s->members_now); }

size_t rdi_store_server_absent(struct rdi_store_server *s) { return atomic_load(&s->absent_now); }
