// SPDX-License-Identifier: MIT
// What is declared of libmunge is what its own header has. Nothing is run: it compiles or does not.
#include "transport/bootstrap/munge.h"

#include <munge.h>

#define SAME(what) _Static_assert(what, #what)

SAME(RDI_MUNGE_OPT_CIPHER == MUNGE_OPT_CIPHER_TYPE &&
     RDI_MUNGE_OPT_UID == MUNGE_OPT_UID_RESTRICTION);
SAME(RDI_MUNGE_AES256 == MUNGE_CIPHER_AES256);
SAME(RDI_MUNGE_EXPIRED == EMUNGE_CRED_EXPIRED && RDI_MUNGE_REWOUND == EMUNGE_CRED_REWOUND);
SAME(RDI_MUNGE_REPLAYED == EMUNGE_CRED_REPLAYED);
SAME(sizeof(munge_err_t) == sizeof(int) && sizeof(munge_ctx_t) == sizeof(void *));

// The functions' types.
static void compare_functions(void) {
    munge_err_t (*encode)(char **, munge_ctx_t, const void *, int) = munge_encode;
    munge_err_t (*decode)(const char *, munge_ctx_t, void **, int *, uid_t *, gid_t *) =
        munge_decode;
    const char *(*text)(munge_err_t) = munge_strerror;
    munge_ctx_t (*create)(void) = munge_ctx_create;
    void (*destroy)(munge_ctx_t) = munge_ctx_destroy;
    munge_err_t (*get)(munge_ctx_t, int, ...) = munge_ctx_get;
    munge_err_t (*set)(munge_ctx_t, int, ...) = munge_ctx_set;
    (void)encode, (void)decode, (void)text, (void)create, (void)destroy, (void)get, (void)set;
}

int main(void) {
    (void)compare_functions;
    return 0;
}
