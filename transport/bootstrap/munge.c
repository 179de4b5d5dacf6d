// SPDX-License-Identifier: MIT
// munge as a client, by libmunge.so.2 where there is one, as on every host of a Slurm cluster.
//
// A credential is text that munged makes and opens: it tells which user had it made, on a host that has the cluster's
// munge key, and carries a text of ours, encrypted. It is made for this user only, so munged opens it for nobody else
// (but root); it may be shown to everybody. What it cannot tell is when it was made for the first time, as all ranks of a
// host open the same one: who opens it must know by its text whether it is of this job.
//
// What is declared here is the interface of libmunge.so.2 (munge.h, munge(7)); tests/launchers/munge_abi.c compares it.
#include "transport/bootstrap/munge.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define LIBRARY "libmunge.so.2"

static struct {
    int (*encode)(char **cred, void *context, const void *text, int len);
    int (*decode)(const char *cred, void *context, void **text, int *len, uid_t *uid, gid_t *gid);
    const char *(*strerror)(int error);
    void *(*ctx_create)(void);
    void (*ctx_destroy)(void *context);
    int (*ctx_set)(void *context, int option, ...);
    int (*ctx_get)(void *context, int option, ...);
} munge;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char reason[256]; // why it cannot be used; "": it can

static void load(void) {
    static const struct {
        const char *symbol;
        void *at;
    } entries[] = {
        {"munge_encode", &munge.encode},           {"munge_decode", &munge.decode},
        {"munge_strerror", &munge.strerror},       {"munge_ctx_create", &munge.ctx_create},
        {"munge_ctx_destroy", &munge.ctx_destroy}, {"munge_ctx_set", &munge.ctx_set},
        {"munge_ctx_get", &munge.ctx_get},
    };
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        // dlerror() begins with the library's name.
        const char *text = dlerror();
        snprintf(reason, sizeof reason, "%s", text != NULL ? text : LIBRARY " cannot be loaded");
        return;
    }
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        void *symbol = dlsym(library, entries[i].symbol);
        if (symbol == NULL) {
            snprintf(reason, sizeof reason, LIBRARY " has no function %s", entries[i].symbol);
            return;
        }
        memcpy(entries[i].at, &symbol, sizeof symbol);
    }
}

rondo_status rdi_munge_seal(const char *text, char cred[RDI_MUNGE_CRED]) {
    pthread_once(&once, load);
    if (reason[0] != '\0') {
        return rdi_fail(RONDO_ERR_UNSUPPORTED, "%s", reason);
    }
    void *context = munge.ctx_create();
    char *made = NULL;
    if (context == NULL) {
        return rdi_fail(RONDO_ERR_NOMEM, "no memory for a munge credential");
    }
    // Whatever the daemon's default is, the text is not to be read by others.
    int error = munge.ctx_set(context, RDI_MUNGE_OPT_CIPHER, RDI_MUNGE_AES256);
    if (error == 0) {
        error = munge.ctx_set(context, RDI_MUNGE_OPT_UID, geteuid());
    }
    if (error == 0) {
        error = munge.encode(&made, context, text, (int)strlen(text));
    }
    munge.ctx_destroy(context);
    rondo_status s = RONDO_OK;
    if (error != 0 || made == NULL || strlen(made) >= RDI_MUNGE_CRED) {
        s = rdi_fail(RONDO_ERR_UNSUPPORTED, "munge makes no credential: %s",
                     error != 0 ? munge.strerror(error) : "it is too long");
    } else {
        snprintf(cred, RDI_MUNGE_CRED, "%s", made);
    }
    free(made);
    return s;
}

// Whether it was encrypted, and made for this user alone.
static bool is_closed(void *context) {
    int cipher = 0;
    uid_t only = (uid_t)-1;
    return munge.ctx_get(context, RDI_MUNGE_OPT_CIPHER, &cipher) == 0 &&
           munge.ctx_get(context, RDI_MUNGE_OPT_UID, &only) == 0 && cipher == RDI_MUNGE_AES256 &&
           only == geteuid();
}

const char *rdi_munge_open(const char *cred, char *text, size_t cap) {
    pthread_once(&once, load);
    void *context = reason[0] == '\0' ? munge.ctx_create() : NULL, *got = NULL;
    const char *wrong = NULL;
    int len = 0;
    uid_t uid = (uid_t)-1;
    gid_t gid;
    if (context == NULL) {
        return reason[0] != '\0' ? reason : "no memory";
    }
    int error = munge.decode(cred, context, &got, &len, &uid, &gid);
    // Another rank of this host has opened it before, or the hosts' clocks differ.
    if (error != 0 && error != RDI_MUNGE_REPLAYED && error != RDI_MUNGE_EXPIRED &&
        error != RDI_MUNGE_REWOUND) {
        wrong = munge.strerror(error);
    } else if (uid != geteuid() || !is_closed(context)) {
        wrong = "the credential is not of this user, for this user";
    } else if (got == NULL || len < 0 || (size_t)len >= cap || memchr(got, '\0', (size_t)len)) {
        wrong = "the credential has no text";
    } else {
        memcpy(text, got, (size_t)len);
        text[len] = '\0';
    }
    if (got != NULL && len > 0) {
        sodium_memzero(got, (size_t)len);
    }
    free(got);
    munge.ctx_destroy(context);
    return wrong;
}
