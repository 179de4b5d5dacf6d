// SPDX-License-Identifier: MIT
// The job's key where nothing but munge is there to hand it over (munge.c, herald.c).
#ifndef RDI_BOOTSTRAP_MUNGE_H
#define RDI_BOOTSTRAP_MUNGE_H

#include "transport/bootstrap/bootstrap.h"

// Of libmunge's interface.
#define RDI_MUNGE_OPT_CIPHER 0
#define RDI_MUNGE_OPT_UID 9
#define RDI_MUNGE_AES256 5
#define RDI_MUNGE_EXPIRED 15
#define RDI_MUNGE_REWOUND 16
#define RDI_MUNGE_REPLAYED 17

#define RDI_MUNGE_CRED 4096 // a credential and its NUL

// A credential with this text, for this user only. RONDO_ERR_UNSUPPORTED: there is no munge, for a reason. May block for
// some seconds where munged does not answer.
rondo_status rdi_munge_seal(const char *text, char cred[RDI_MUNGE_CRED]);
// The text of a credential that this user had made. NULL, or why not; the text of a reason is munge's.
const char *rdi_munge_open(const char *cred, char *text, size_t cap);

// Says a text to everybody who connects, on a thread of its own, until it is stopped. `addr` NULL: all addresses.
// Waits so long for a port that is in use.
struct rdi_herald;
rondo_status rdi_herald_start(const char *addr, int port, int busy_ms, const char *text,
                              struct rdi_herald **out);
int rdi_herald_port(const struct rdi_herald *h);
void rdi_herald_stop(struct rdi_herald *h);

// Asks until a herald there says a credential of this user's whose text begins with `id` and a blank; what is behind it
// goes to `text`. `host` may be a name or an address.
struct rdi_herald_question {
    const char *host;
    int port;
    const char *id;
    int rank, timeout_ms; // for the error
};
rondo_status rdi_herald_ask(const struct rdi_herald_question *q, const struct rdi_env *env,
                            char *text, size_t cap);

#endif
