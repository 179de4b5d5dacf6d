// SPDX-License-Identifier: MIT
// A libmunge.so.2 without a daemon. A credential is "MUNGE:<uid>:<restriction>:<cipher>:<text in hex>:", and as open as
// that. MOCK_MUNGE_UID is who has it made; MOCK_MUNGE_STATUS is what opening it says besides.
#include "transport/bootstrap/munge.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define SNAFU 1
#define SOCKET 6
#define INVALID 14
#define UNAUTHORIZED 18

struct munge_ctx {
    int cipher;
    uid_t only;
};

EXPORT int munge_encode(char **cred, struct munge_ctx *c, const void *text, int len);
EXPORT int munge_decode(const char *cred, struct munge_ctx *c, void **text, int *len, uid_t *uid,
                        gid_t *gid);
EXPORT const char *munge_strerror(int error);
EXPORT struct munge_ctx *munge_ctx_create(void);
EXPORT void munge_ctx_destroy(struct munge_ctx *c);
EXPORT int munge_ctx_set(struct munge_ctx *c, int option, ...);
EXPORT int munge_ctx_get(struct munge_ctx *c, int option, ...);

static long number(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? atol(value) : otherwise;
}

int munge_encode(char **cred, struct munge_ctx *c, const void *text, int len) {
    if (number("MOCK_MUNGE_DEAD", 0) != 0) {
        return SOCKET;
    }
    char *out = malloc((size_t)len * 2 + 100);
    int n = sprintf(out, "MUNGE:%ld:%ld:%d:", number("MOCK_MUNGE_UID", geteuid()), (long)c->only,
                    c->cipher);
    for (int i = 0; i < len; i++) {
        n += sprintf(out + n, "%02x", ((const unsigned char *)text)[i]);
    }
    sprintf(out + n, ":");
    *cred = out;
    return 0;
}

int munge_decode(const char *cred, struct munge_ctx *c, void **text, int *len, uid_t *uid,
                 gid_t *gid) {
    long by, only;
    int at = 0, status = (int)number("MOCK_MUNGE_STATUS", 0);
    *text = NULL;
    *len = 0;
    if (sscanf(cred, "MUNGE:%ld:%ld:%d:%n", &by, &only, &c->cipher, &at) != 3 || at == 0 ||
        cred[strlen(cred) - 1] != ':') {
        return INVALID;
    }
    c->only = (uid_t)only;
    if (c->only != (uid_t)-1 && c->only != geteuid()) {
        return UNAUTHORIZED;
    }
    int n = (int)(strlen(cred + at) - 1) / 2;
    char *out = calloc(1, (size_t)n + 1);
    for (int i = 0; i < n; i++) {
        unsigned byte;
        sscanf(cred + at + 2 * i, "%2x", &byte);
        out[i] = (char)byte;
    }
    *text = out;
    *len = n;
    *uid = (uid_t)by;
    *gid = 0;
    return status;
}

const char *munge_strerror(int error) {
    return error == UNAUTHORIZED ? "MOCK-UNAUTHORIZED"
           : error == SOCKET     ? "MOCK-SOCKET"
                                 : "MOCK-INVALID";
}

struct munge_ctx *munge_ctx_create(void) {
    struct munge_ctx *c = calloc(1, sizeof *c);
    c->only = (uid_t)-1;
    return c;
}

void munge_ctx_destroy(struct munge_ctx *c) { free(c); }

int munge_ctx_set(struct munge_ctx *c, int option, ...) {
    va_list ap;
    va_start(ap, option);
    int status = 0;
    if (option == RDI_MUNGE_OPT_CIPHER) {
        c->cipher = va_arg(ap, int);
    } else if (option == RDI_MUNGE_OPT_UID) {
        c->only = va_arg(ap, uid_t);
    } else {
        status = SNAFU;
    }
    va_end(ap);
    return status;
}

int munge_ctx_get(struct munge_ctx *c, int option, ...) {
    va_list ap;
    va_start(ap, option);
    int status = 0;
    if (option == RDI_MUNGE_OPT_CIPHER) {
        *va_arg(ap, int *) = c->cipher;
    } else if (option == RDI_MUNGE_OPT_UID) {
        *va_arg(ap, uid_t *) = c->only;
    } else {
        status = SNAFU;
    }
    va_end(ap);
    return status;
}
