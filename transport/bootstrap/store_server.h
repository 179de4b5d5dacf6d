// SPDX-License-Identifier: MIT
// What the parts of the store's server share: store_server.c is the thread, the listening
// sockets and the clock; store_conn.c is what happens on one connection, store_request.c does what a client asks
// for, store_roll.c knows who meets here. Used by the server's one thread, except where it says otherwise.
#ifndef RDI_BOOTSTRAP_STORE_SERVER_H
#define RDI_BOOTSTRAP_STORE_SERVER_H

#include "transport/bootstrap/bootstrap.h"
#include "transport/bootstrap/store_data.h"
#include "transport/bootstrap/store_listen.h"
#include "transport/bootstrap/store_wire.h"

#include <pthread.h>
#include <stdatomic.h>

#define RDI_MS 1000000u // nanoseconds

enum rdi_conn_state { CONN_HANDSHAKE, CONN_HEAD, CONN_BODY, CONN_WAIT, CONN_REPLY, CONN_DEAD };

struct rdi_conn {
    struct rdi_waiter waiter;         // first: the entry's ring leads back to the connection
    struct rdi_conn *next, *previous; // in the list of strangers or of clients, oldest first
    int fd;
    enum rdi_conn_state state;
    uint32_t events;   // what epoll watches for
    uint64_t deadline; // 0: none
    struct rdi_hs *hs; // until the peer has proved itself
    uint8_t head[RDI_STORE_REQUEST_HEAD];
    size_t got; // bytes of the head, or of key and value together
    struct rdi_store_request request;
    uint8_t key[RDI_STORE_KEY_MAX];
    struct rdi_value *value; // being received, or being sent
    struct rdi_value *will;  // to be set when the connection ends; NULL: none
    uint8_t *will_key;
    size_t will_key_len;
    struct rdi_member *member; // of a meeting; NULL: of none
    int broke;                 // errno of its end, 0 after an orderly one
    bool mute;                 // ended because its process gave no sign of life
    uint8_t reply[RDI_STORE_RESPONSE_HEAD];
    size_t sent;
};

struct rdi_conn_list {
    struct rdi_conn *first, *last;
    size_t count;
};

struct rdi_store_server {
    struct rdi_job job;
    struct rdi_env env;
    struct rdi_store_limits limits;
    struct rdi_listeners listeners;
    int epoll, stop;
    pthread_t thread;
    struct rdi_data data;
    struct rdi_conn_list strangers, clients, graveyard;
    uint64_t check_at;        // no deadline is earlier; UINT64_MAX: none
    uint64_t accept_again_at; // 0: accepting
    bool closing;
    int pid;
    struct rdi_roll *rolls; // oldest first
    uint64_t tick_at;       // when members are looked at; 0: never
    unsigned tick_ms;
    _Atomic size_t members_now, absent_now;
    pthread_mutex_t lock; // for the next five
    struct rdi_store_tell {
        const char *prefix; // of keys whose values are told of
        rdi_store_told told;
        void *arg;
    } tell[RDI_STORE_TOLD];
    int ntell;
    uint64_t strangers_dropped;
    char last_stranger[320];
    struct rdi_env log; // who is told of strangers
    uint64_t strangers_told, stranger_told_at;
    _Atomic size_t clients_now;
    atomic_int starved; // errno of the last accept, if this process lacked something for it
};

// Takes over an accepted socket; closes it where there is no room for it.
void rdi_conn_adopt(struct rdi_store_server *s, int fd);
// Does what can be done on a connection that epoll names.
void rdi_conn_serve(struct rdi_store_server *s, struct rdi_conn *c);
// Ends what has waited too long, and lowers s->check_at to the connection's deadline.
void rdi_conn_expire(struct rdi_store_server *s, struct rdi_conn *c, uint64_t now);
// Ends a connection. Its memory stays until rdi_conn_bury(), since a batch of events may name it.
void rdi_conn_drop(struct rdi_store_server *s, struct rdi_conn *c);
// Drops the oldest connection that has proved nothing for a while. False: there is none.
bool rdi_conn_drop_idle(struct rdi_store_server *s);
void rdi_conn_bury(struct rdi_store_server *s);
// Answers the request that was read. `value` may be NULL and is shared.
void rdi_conn_reply(struct rdi_store_server *s, struct rdi_conn *c, rondo_status status,
                    struct rdi_value *value);
// The request that was read needs no answer.
void rdi_conn_next(struct rdi_store_server *s, struct rdi_conn *c);
// Whoever waits for a key is told why it will not come.
void rdi_conn_stop_waiting(struct rdi_store_server *s, struct rdi_conn *c, struct rdi_value *why);
// A sign of life, unless an answer is on its way, which is one.
void rdi_conn_pulse(struct rdi_store_server *s, struct rdi_conn *c);

// From now on the connection has to go on within so many ms.
void rdi_conn_deadline(struct rdi_store_server *s, struct rdi_conn *c, uint64_t ms);

// A request has been read: does it, and begins its answer.
void rdi_request_handle(struct rdi_store_server *s, struct rdi_conn *c);
// The connection has ended: its will comes true.
void rdi_request_end(struct rdi_store_server *s, struct rdi_conn *c);

// A COME or LEAVE has been read: does it.
void rdi_roll_come(struct rdi_store_server *s, struct rdi_conn *c);
void rdi_roll_leave(struct rdi_store_server *s, struct rdi_conn *c);
void rdi_roll_heard(struct rdi_conn *c);
// The connection has ended.
void rdi_roll_gone(struct rdi_store_server *s, struct rdi_conn *c);
// Why nothing comes any more that is not there already; NULL: it may come.
struct rdi_value *rdi_roll_loss(const struct rdi_conn *c);
void rdi_roll_tick(struct rdi_store_server *s, uint64_t now);
void rdi_roll_close(struct rdi_store_server *s);

#endif
