// SPDX-License-Identifier: MIT
// Files of the recorder: their names, and how they are written so that a reader never sees half of one.
#include "ring/record/observe.h"
#include "transport/temp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

rondo_status rdi_observe_prefix(const char *value, char out[RDI_OBSERVE_PATH]) {
    char cwd[RDI_OBSERVE_PATH] = "";
    struct stat st;
    // The program may change its folder later.
    if (value[0] != '/' && !getcwd(cwd, sizeof cwd)) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot find the working folder of %s",
                              value);
    }
    int n = snprintf(out, RDI_OBSERVE_PATH, "%s%s%s", cwd, cwd[0] ? "/" : "", value);
    if (n < 0 || n >= RDI_OBSERVE_PATH - 1) {
        return rdi_fail(RONDO_ERR_INVALID, "the name %.80s... is too long", value);
    }
    if (stat(out, &st) == 0 && S_ISDIR(st.st_mode) && out[n - 1] != '/') {
        out[n] = '/';
        out[n + 1] = '\0';
    }
    char *slash = strrchr(out, '/'), kept = slash[1];
    slash[1] = '\0';
    bool usable = access(out, W_OK | X_OK) == 0;
    int err = errno;
    slash[1] = kept;
    return usable ? RONDO_OK
                  : rdi_fail_errno(RONDO_ERR_INVALID, err,
                                   "cannot write files %s*: make the folder first", out);
}

void rdi_observe_name(const struct rdi_observed *o, const char *prefix, const char *what,
                      char out[RDI_OBSERVE_PATH + 160]) {
    char host[RDI_HOST_MAX];
    memcpy(host, o->host, sizeof host);
    for (char *c = host; *c; c++) {
        bool plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                     (*c >= '0' && *c <= '9') || *c == '-' || *c == '_';
        *c = plain ? *c : '_';
    }
    snprintf(out, RDI_OBSERVE_PATH + 160, "%srondo-%s.%s.%d.%d.json", prefix, what, host, o->rank,
             o->pid);
}

rondo_status rdi_observe_write(const char *path, const struct rdi_text *t) {
    return rdi_temp_replace(path, t->buf, t->len, 0600);
}
