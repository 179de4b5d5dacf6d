// SPDX-License-Identifier: MIT
// What the files of the bootstrap share: the place in the job, the key's source, the store's
// limits.
#ifndef RDI_BOOTSTRAP_BOOTSTRAP_H
#define RDI_BOOTSTRAP_BOOTSTRAP_H

#include "transport/internal.h"

typedef char *(*rdi_getenv)(const char *name);

// ---- Place in the job ---------------------------------------------------------------------------

#define RDI_MASTER_PORT_DEFAULT 29500 // torchrun's

// What launchers offer to their ranks for telling each other something; bits.
// By munge only where a key is needed, and the first host is known.
enum rdi_via { RDI_VIA_NONE = 0, RDI_VIA_PMIX = 1, RDI_VIA_PMI = 2, RDI_VIA_MUNGE = 4 };

// What the configuration and the environment say. Everything is checked.
struct rdi_launch {
    int rank, size;
    int local_rank;   // -1: not told
    int local_size;   // 0: not told
    bool single_host; // all ranks share this host, as far as the launcher tells
    char host
        [256]; // where the store is, one or several names joined by ','; "" when size is 1, the caller brings a
    // store, or only rank 0 can tell (offered)
    const char
        *host_from; // the launcher's list of hosts whose first it is; NULL: the host is given
    int port;
    bool port_given; // by the configuration or MASTER_PORT
    unsigned
        offered; // by the launcher, where no address is given: rank 0 can tell the others where it is
    enum rdi_via via;     // what of it works (point.h); rdi_discover() leaves it at RDI_VIA_NONE
    bool loopback;        // host is one that only this host can reach
    bool launcher_store;  // the launcher serves it; otherwise rank 0 does
    uint64_t id;          // see rdi_job.launch
    const char *launcher; // whose variables were used, for messages
};
// Looks only at its arguments, at what `get` (getenv(3) or a test's own) gives, and at PBS's node file.
rondo_status rdi_discover(const rondo_config *config, rdi_getenv get, struct rdi_launch *out);

// Launcher number i of the order in which they are looked for, for people: its name, the variable by which it is
// known, whether it is there, counts, or why it does not; false after the last.
bool rdi_launcher_tell(size_t i, rdi_getenv get, const char **name, char *text, size_t cap);

// Fills job->host and job->host_id.
void rdi_host_find(struct rdi_job *job);

// ---- Key ----------------------------------------------------------------------------------------

#define RDI_KEY_SOURCE 320
// As rdi_key_find() for a place in the job that is known already; job->rank and job->size are set.
// `source` tells where the key came from, for messages. RONDO_AGAIN: it comes through the caller's
// store, or what the launcher offers, from rank 0, when the ranks join.
rondo_status rdi_key_find_for(const rondo_config *config, const struct rdi_options *options,
                              const struct rdi_launch *launch, rdi_getenv get, struct rdi_job *job,
                              char source[RDI_KEY_SOURCE]);
// The same, but makes no key file where there is none: that is an error then.
rondo_status rdi_key_look_for(const rondo_config *config, const struct rdi_options *options,
                              const struct rdi_launch *launch, rdi_getenv get, struct rdi_job *job,
                              char source[RDI_KEY_SOURCE]);
// Takes munge from what the launcher offers where this rank has a key, or needs none: the key is what it is for.
void rdi_key_spare_munge(const rondo_config *config, const struct rdi_options *options,
                         rdi_getenv get, struct rdi_launch *launch);
// Source number i of the order in which they are tried; NULL after the last.
const char *rdi_key_order(size_t i);

// ---- Store --------------------------------------------------------------------------------------

struct rdi_store_limits {
    size_t clients;   // connections in all
    size_t strangers; // of these, not yet authenticated; the oldest gives way to a new one
    int handshake_ms; // time to prove the key
    int stall_ms;     // time for a client to send, or take, the next bytes of a message
    size_t bytes;     // of all keys and values
    int silence_ms;   // time without an acknowledgement after which a client's host counts as gone
    bool one_meeting; // rank 0 serves it, for one meeting of its job; otherwise a launcher
    int busy_ms;      // time to wait for a port that another process has
};
extern const struct rdi_store_limits rdi_store_default_limits;

// Leaves a value with the server, which sets it when this client's connection ends, for whatever
// reason: so that others learn of a process that was killed. Replaces the last one; len 0 takes it
// back. len <= 4096.
rondo_status rdi_store_will(struct rdi_store *st, const char *key, const void *value, size_t len,
                            int timeout_ms);

// For both ends of a connection. A process that is stopped is no silence: its kernel answers.
void rdi_store_silence(int fd, int silence_ms);
// Whether the other host has acknowledged something, or all that was sent to it, since its process fell quiet.
bool rdi_store_acknowledged(int fd, unsigned quiet_ms);

// ---- Meeting, through a store of ours

// As rdi_store_connect(), of which `host` may be several names joined by ',', tried in turn; and gives up a server that is stopped for `grace_ms` (0: it may be) or whose host
// acknowledges nothing for `silence_ms`.
rondo_status rdi_store_connect_vigilant(const char *host, int port, const struct rdi_job *job,
                                        int timeout_ms, unsigned grace_ms, unsigned silence_ms,
                                        struct rdi_store **out);
// Has this rank, job->rank, put on the roll of those who meet. From now on both ends give signs of life, and a get
// that would wait fails with RONDO_ERR_PEER when somebody of the roll is lost or leaves: the error names the first.
// RONDO_AGAIN: this store serves another meeting at present, of which this rank was.
rondo_status rdi_store_come(struct rdi_store *st, const struct rdi_job *job);
// The others are told that this rank has left, and why.
void rdi_store_leave(struct rdi_store *st, const char *reason);
unsigned rdi_store_beat_ms(unsigned grace_ms); // between signs of life
// Ranks on a roll that are still here.
size_t rdi_store_server_members(struct rdi_store_server *s);
// Ranks that have not come yet to the meeting that began last; 0 before the first has come.
size_t rdi_store_server_absent(struct rdi_store_server *s);

// As rdi_store_server_start(), with limits.
rondo_status rdi_store_server_start_limited(const char *addr, int port, const struct rdi_job *job,
                                            const struct rdi_store_limits *limits,
                                            struct rdi_store_server **out);
// Tells of each value that is set under a key with this prefix, wills too, in order, on the server's
// thread, which it must not hold up. At most RDI_STORE_TOLD times; call it before anybody can set such a
// key. The string stays the caller's.
#define RDI_STORE_TOLD 2
typedef void (*rdi_store_told)(void *arg, const char *key, const void *value, size_t len);
void rdi_store_server_tell(struct rdi_store_server *s, const char *prefix, rdi_store_told told,
                           void *arg);
// Connections that were dropped because they did not prove the job's key; `last` receives the last
// one's address and what was wrong with it.
uint64_t rdi_store_server_strangers(struct rdi_store_server *s, char *last, size_t cap);
// Says so through env->log as well, once a second at most, on the server's thread.
void rdi_store_server_log(struct rdi_store_server *s, const struct rdi_env *env);
// 0, or the errno for which it cannot accept connections at present: EMFILE, ENOMEM ...
int rdi_store_server_starved(struct rdi_store_server *s);
// Clients that are connected now.
size_t rdi_store_server_clients(struct rdi_store_server *s);

#endif
