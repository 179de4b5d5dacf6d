// SPDX-License-Identifier: MIT
// PMI-1 as a client: lines over the descriptor that Hydra, Flux and srun --mpi=pmi2 give to their ranks (PMI_FD).
//
//   cmd=init pmi_version=1 pmi_subversion=1      cmd=response_to_init rc=0 ...
//   cmd=get_my_kvsname                           cmd=my_kvsname kvsname=K
//   cmd=put kvsname=K key=rondo value=V          cmd=put_result rc=0              rank 0 only
//   cmd=barrier_in                               cmd=barrier_out                  when all have said it
//   cmd=get kvsname=K key=rondo                  cmd=get_result rc=0 value=V
//   cmd=finalize                                 cmd=finalize_ack
//
// (https://flux-framework.readthedocs.io/projects/flux-rfc/en/latest/spec_13.html)
//
// A process has one such connection, and an MPI library needs it for itself: where one is loaded it is left alone.
#include "transport/bootstrap/point.h"

#include <ctype.h>
#include <errno.h>
#include <link.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MS 1000000u
#define LINE_MAX_BYTES 2048
#define KVSNAME_MAX 300
#define KEY "rondo-point"

// ---- What is there ------------------------------------------------------------------------------

static int is_mpi(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    const char *slash = strrchr(info->dlpi_name, '/');
    const char *name = slash != NULL ? slash + 1 : info->dlpi_name;
    bool *found = arg;
    *found = *found || strncmp(name, "libmpi", 6) == 0;
    return *found;
}

bool rdi_pmi_usable(rdi_getenv get, int *fd, const char **why) {
    const char *text = get("PMI_FD");
    bool mpi = false;
    struct stat st;
    if (text == NULL || strlen(text) - 1 > 8 || strspn(text, "0123456789") != strlen(text)) {
        *why = "PMI_FD is not the number of a descriptor";
        return false;
    }
    *fd = (int)strtol(text, NULL, 10);
    if (fstat(*fd, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        *why = "the descriptor that PMI_FD names is no open socket: a wrapper between launcher and"
               " program must not close it";
        return false;
    }
    dl_iterate_phdr(is_mpi, &mpi);
    *why = "PMI_FD belongs to the MPI library that this program uses";
    return !mpi;
}

// ---- Lines --------------------------------------------------------------------------------------

bool rdi_pmi_word(const char *line, const char *word, char *out, size_t cap) {
    size_t n = strlen(word);
    for (const char *at = line; *at != '\0';) {
        at += strspn(at, " \n");
        size_t len = strcspn(at, " \n");
        if (len > n && strncmp(at, word, n) == 0 && at[n] == '=') {
            len -= n + 1;
            if (len >= cap) {
                return false;
            }
            memcpy(out, at + n + 1, len);
            out[len] = '\0';
            return true;
        }
        at += len;
    }
    return false;
}

struct client {
    int fd, rank;
    const struct rdi_env *env;
    uint64_t deadline;
    char line[LINE_MAX_BYTES];
};

static rondo_status failed(const struct client *c, const char *doing, int err) {
    static const char text[] = "rank %d cannot meet the others by its launcher's PMI (PMI_FD=%d):"
                               " the connection ended while %s";
    return err != 0 ? rdi_fail_errno(RONDO_ERR_BOOTSTRAP, err, text, c->rank, c->fd, doing)
                    : rdi_fail(RONDO_ERR_BOOTSTRAP, text, c->rank, c->fd, doing);
}

static rondo_status wait_for(struct client *c, short events, const char *doing) {
    for (;;) {
        uint64_t now = rdi_now(c->env);
        uint64_t left = c->deadline > now ? (c->deadline - now + MS - 1) / MS : 0;
        struct pollfd p = {.fd = c->fd, .events = events};
        int n = poll(&p, 1, left < 60000 ? (int)left : 60000);
        if (n > 0) {
            return RONDO_OK;
        }
        if (n < 0 && errno != EINTR) {
            return failed(c, doing, errno);
        }
        if (n == 0 && left == 0) {
            return rdi_fail(RONDO_ERR_TIMEOUT,
                            "rank %d waited in vain for its launcher's PMI (PMI_FD=%d, option"
                            " connect_timeout) while %s",
                            c->rank, c->fd, doing);
        }
    }
}

static rondo_status say(struct client *c, const char *doing) {
    size_t n = strlen(c->line);
    for (size_t done = 0; done < n;) {
        ssize_t sent = send(c->fd, c->line + done, n - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            done += (size_t)sent;
        } else if (errno == EAGAIN) {
            rondo_status s = wait_for(c, POLLOUT, doing);
            if (s != RONDO_OK) {
                return s;
            }
        } else if (errno != EINTR) {
            return failed(c, doing, errno);
        }
    }
    return RONDO_OK;
}

// Byte by byte: nothing beyond the line is taken, as it may be somebody else's.
static rondo_status hear(struct client *c, const char *doing) {
    for (size_t n = 0; n < sizeof c->line - 1;) {
        ssize_t got = recv(c->fd, c->line + n, 1, MSG_DONTWAIT);
        if (got == 1) {
            n++;
            c->line[n] = '\0';
            if (c->line[n - 1] == '\n') {
                return RONDO_OK;
            }
        } else if (got < 0 && errno == EAGAIN) {
            rondo_status s = wait_for(c, POLLIN, doing);
            if (s != RONDO_OK) {
                return s;
            }
        } else if (got == 0 || errno != EINTR) {
            return failed(c, doing, got == 0 ? 0 : errno);
        }
    }
    return rdi_fail(RONDO_ERR_BOOTSTRAP,
                    "rank %d got an answer of more than %d bytes from its launcher's PMI while %s",
                    c->rank, LINE_MAX_BYTES - 1, doing);
}

// Sends the line and waits for the answer of this name.
static rondo_status ask(struct client *c, const char *answer, const char *doing) {
    char name[32] = "", rc[16] = "0";
    rondo_status s = say(c, doing);
    if (s == RONDO_OK) {
        s = hear(c, doing);
    }
    if (s != RONDO_OK) {
        return s;
    }
    (void)rdi_pmi_word(c->line, "rc", rc, sizeof rc);
    if (!rdi_pmi_word(c->line, "cmd", name, sizeof name) || strcmp(name, answer) != 0 ||
        strcmp(rc, "0") != 0) {
        // The line may have the key in it.
        rdi_printable(name, sizeof name);
        rdi_printable(rc, sizeof rc);
        return rdi_fail(RONDO_ERR_BOOTSTRAP,
                        "rank %d cannot meet the others by its launcher's PMI (PMI_FD=%d): the"
                        " answer is '%s' with code %s, not '%s', while %s",
                        c->rank, c->fd, name, rc, answer, doing);
    }
    return RONDO_OK;
}

// ---- All of it ----------------------------------------------------------------------------------

static rondo_status share(struct client *c, const char *mine, char *out, size_t cap) {
    char kvs[KVSNAME_MAX];
    snprintf(c->line, sizeof c->line, "cmd=init pmi_version=1 pmi_subversion=1\n");
    rondo_status s = ask(c, "response_to_init", "introducing itself");
    if (s != RONDO_OK) {
        return s;
    }
    snprintf(c->line, sizeof c->line, "cmd=get_my_kvsname\n");
    s = ask(c, "my_kvsname", "asking for the job's store");
    if (s == RONDO_OK && !rdi_pmi_word(c->line, "kvsname", kvs, sizeof kvs)) {
        s = rdi_fail(RONDO_ERR_BOOTSTRAP, "rank %d's launcher has no name for its PMI store",
                     c->rank);
    }
    if (s == RONDO_OK && mine != NULL) {
        snprintf(c->line, sizeof c->line, "cmd=put kvsname=%s key=" KEY " value=%s\n", kvs, mine);
        s = ask(c, "put_result", "telling the others where to meet");
    }
    if (s == RONDO_OK) {
        snprintf(c->line, sizeof c->line, "cmd=barrier_in\n");
        s = ask(c, "barrier_out", "waiting for the other ranks, which all have to come");
    }
    if (s == RONDO_OK) {
        snprintf(c->line, sizeof c->line, "cmd=get kvsname=%s key=" KEY "\n", kvs);
        s = ask(c, "get_result", "asking where to meet");
    }
    if (s == RONDO_OK && !rdi_pmi_word(c->line, "value", out, cap)) {
        s = rdi_fail(RONDO_ERR_BOOTSTRAP,
                     "rank %d was told nothing by rank 0 through the launcher's PMI", c->rank);
    }
    return s;
}

rondo_status rdi_pmi_share(int fd, int rank, const struct rdi_env *env, int timeout_ms,
                           const char *mine, char *out, size_t cap) {
    struct client c = {.fd = fd, .rank = rank, .env = env};
    c.deadline = rdi_now(env) + (uint64_t)timeout_ms * MS;
    rondo_status s = share(&c, mine, out, cap);
    if (s == RONDO_OK) {
        // Hydra takes a process that ends without this for one that crashed. Whatever it answers is fine.
        snprintf(c.line, sizeof c.line, "cmd=finalize\n");
        char keep[RDI_ERROR_TEXT];
        snprintf(keep, sizeof keep, "%s", rondo_last_error());
        if (say(&c, "taking leave") != RONDO_OK || hear(&c, "taking leave") != RONDO_OK) {
            rdi_set_last_error(keep);
        }
    }
    sodium_memzero(c.line, sizeof c.line);
    return s;
}
