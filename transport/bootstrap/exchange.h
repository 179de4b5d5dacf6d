// SPDX-License-Identifier: MIT
// The connection of one rank to the job's store, and what the ranks do with it.
#ifndef RDI_BOOTSTRAP_EXCHANGE_H
#define RDI_BOOTSTRAP_EXCHANGE_H

#include "transport/bootstrap/bootstrap.h"

#define RDI_SESSION_BYTES 16
#define RDI_JOIN_SECRET 32
#define RDI_EXCHANGE_NAME_MAX 128
// What all stores say of a rank that left; its reason follows, if it gave one.
#define RDI_LEFT "left while the ranks were meeting"

struct rdi_bootstrap {
    struct rdi_env env;
    int rank, size;
    int timeout_ms;             // option connect_timeout
    unsigned grace_ms;          // option stop_grace
    unsigned silence_ms;        // option peer_timeout
    const rondo_store_ops *ops; // NULL: a job of one rank
    void *store;
    bool callers;   // it is the caller's own
    bool outlives;  // the launcher serves it: it is there as long as the job
    int peek_ms;    // the timeout that the store understands as "do not wait"
    char host[256]; // of the store; "": the caller's
    int port;
    char where[320];                 // the store, for messages
    struct rdi_store *own;           // the connection, unless the store is the caller's
    struct rdi_store_server *server; // where this rank serves it
    struct rdi_herald *herald;       // tells where and with which key, until the ranks have met
    char session[2 * RDI_SESSION_BYTES + 1]; // prefix of the keys of this start of the job
    uint8_t welcome[RDI_SESSION_BYTES + RDI_JOIN_SECRET]; // what rank 0 tells newcomers
    size_t welcome_len;
};

// Serves the store of the job on this rank, at `addr` (NULL: all addresses) and `port` (0: any).
rondo_status rdi_serve(struct rdi_bootstrap *b, const char *addr, int port,
                       const struct rdi_job *job);
// Where launch->via is something: fills the launch's host and port with what rank 0 tells, and the job's key, if it
// comes from there. Rank 0 serves the store from now on.
rondo_status rdi_meet_at_point(struct rdi_bootstrap *b, const struct rdi_options *options,
                               struct rdi_launch *launch, struct rdi_job *job, bool key_from_rank0);

// Agrees on a session, which tells this start of the job from those before it on the same store:
// rank 0 makes one, the others wait for it. With `with_secret` a secret comes along, in the last
// bytes of b->welcome.
rondo_status rdi_join(struct rdi_bootstrap *b, bool with_secret, uint64_t deadline);

// Looks at a record, on rank 0, before the others get it. A failure reaches all ranks.
typedef rondo_status (*rdi_exchange_check)(void *arg, int rank, const void *record, size_t len);

struct rdi_exchange {
    const char *name;
    bool joining;             // rank 0 welcomes the others meanwhile
    rdi_exchange_check check; // may be NULL
    void *arg;
};
// As rdi_bootstrap_exchange(), which has checked the name and the length.
rondo_status rdi_exchange(struct rdi_bootstrap *b, const struct rdi_exchange *x, const void *mine,
                          size_t len, void **all, size_t *lens);

// Tells the others that this rank leaves, with the thread's last error, so that nobody waits for it
// in vain. Keeps the last error.
void rdi_leave(struct rdi_bootstrap *b);

// Where this rank serves the store: waits until the others have left, and a moment for those that have not come yet, at
// most until `deadline`.
void rdi_await_leaving(struct rdi_bootstrap *b, uint64_t deadline);

// ---- Between exchange.c and gather.c ------------------------------------------------------------

#define RDI_KEY_CAP 256 // a key and its NUL
#define RDI_NONCE_BYTES 16
#define RDI_SET_MS 5000 // least patience with a set

// Time between looks at everything that may have happened meanwhile, which cost a request a rank.
int rdi_sweep_ms(const struct rdi_bootstrap *b);
// Between lines that say who is missing.
int rdi_log_ms(const struct rdi_bootstrap *b);
uint64_t rdi_after_ms(const struct rdi_bootstrap *b, int ms);
int rdi_ms_until(const struct rdi_bootstrap *b, uint64_t when);

// The store's functions. RONDO_ERR_TIMEOUT of a get is a normal answer and has no text.
rondo_status rdi_set_key(const struct rdi_bootstrap *b, const char *key, const void *value,
                         size_t len, int ms);
rondo_status rdi_get_key(const struct rdi_bootstrap *b, const char *key, int ms, void **value,
                         size_t *len);
// rondo/<session>/<name>/<leaf>, where the leaf may be a rank.
void rdi_session_key(const struct rdi_bootstrap *b, char key[RDI_KEY_CAP], const char *name,
                     const char *leaf);
void rdi_session_key_of(const struct rdi_bootstrap *b, char key[RDI_KEY_CAP], const char *name,
                        int rank);
// Whether a rank has left, where the caller's store is to tell; the error then has its reason.
rondo_status rdi_check_left(const struct rdi_bootstrap *b, int rank);

// Rank 0's part of an exchange.
rondo_status rdi_lead(struct rdi_bootstrap *b, const struct rdi_exchange *x, const void *mine,
                      size_t len, void **all, size_t *lens);
// "5, 9, 12-15 (6 of 16)": the ranks that are not here.
void rdi_list_missing(const bool *here, int n, char *buf, size_t cap);

#endif
