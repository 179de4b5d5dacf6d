// SPDX-License-Identifier: MIT
// The point where ranks meet, as rank 0 tells it to the others through what their launcher offers: PMIx or PMI-1.
#ifndef RDI_BOOTSTRAP_POINT_H
#define RDI_BOOTSTRAP_POINT_H

#include "transport/bootstrap/bootstrap.h"

#define RDI_POINT_HOSTS 256
#define RDI_POINT_REASON 200
#define RDI_POINT_TEXT 960 // less than a line of PMI may have (1024), with what is around it

// What rank 0 says.
struct rdi_point {
    int port;                      // 0: rank 0 failed
    bool has_key;                  // and the key
    uint8_t key[RDI_KEY_BYTES];    // secret bytes that the job's key is made of
    char hosts[RDI_POINT_HOSTS];   // addresses joined by ','
    char reason[RDI_POINT_REASON]; // why rank 0 failed
};
// "rondo1/<port>/<key or ->/<addresses or ->/<reason in hex or ->": nothing but what a value of PMI may have.
void rdi_point_encode(const struct rdi_point *p, char text[RDI_POINT_TEXT]);
// What is wrong with the text; NULL: nothing.
const char *rdi_point_decode(const char *text, struct rdi_point *p);

// Sets launch->via to what works of that which the launcher offers, if it offers anything; `why` tells why something does
// not. An error where there is no other way to rank 0.
rondo_status rdi_point_choose(struct rdi_launch *launch, rdi_getenv get, int timeout_ms, char *why,
                              size_t cap);
const char *rdi_via_name(enum rdi_via via);

// The point of the last start of this process' job: a launcher lets its ranks exchange something once. False: none.
bool rdi_point_again(const struct rdi_launch *launch, struct rdi_point *p);
// Rank 0's point: it serves the store at `port` (0: it failed, with the last error), and its secret, or NULL. One with a
// reason and without a port where it has no addresses to tell, too.
void rdi_point_make(const struct rdi_options *options, const struct rdi_launch *launch, int port,
                    const uint8_t *key, struct rdi_point *p);
// Rank 0 gives its point, all get it. All ranks have to call it, and wait for each other.
rondo_status rdi_point_share(const struct rdi_launch *launch, rdi_getenv get,
                             const struct rdi_env *env, int timeout_ms, struct rdi_point *p);

// ---- PMI-1, over a descriptor -------------------------------------------------------------------

// The value of a word in a line "cmd=name word=value ...", without the line's end. False: it is not there, or too long.
bool rdi_pmi_word(const char *line, const char *word, char *out, size_t cap);
// Whether PMI_FD names a socket that this process may use; else why not.
bool rdi_pmi_usable(rdi_getenv get, int *fd, const char **why);
// Rank 0's text, `mine`, for all; the others give NULL. All ranks have to call it; it can be done once in a process.
rondo_status rdi_pmi_share(int fd, int rank, const struct rdi_env *env, int timeout_ms,
                           const char *mine, char *out, size_t cap);

// ---- PMIx, by libpmix ----------------------------------------------------------------------------

// Loads the library and connects to the launcher's server, until the process ends, unless that is done.
// RONDO_ERR_UNSUPPORTED: this does not work here, for a reason.
rondo_status rdi_pmix_begin(int timeout_ms);
// As rdi_pmi_share(), after rdi_pmix_begin().
rondo_status rdi_pmix_share(int rank, int timeout_ms, const char *mine, char *out, size_t cap);
// A number that the launcher knows of the job; false: it does not. After rdi_pmix_begin().
bool rdi_pmix_number(const char *attribute, bool of_rank, int timeout_ms, int *out);
// getenv(3), and what the launcher's server knows of the job: PMIX_JOB_SIZE, PMIX_LOCAL_SIZE, PMIX_LOCAL_RANK, which are
// no variables of the environment by themselves. The text is the thread's.
char *rdi_pmix_getenv(const char *name);

#endif
