// SPDX-License-Identifier: MIT
// Folders that the command line names.
#include "ddp/run/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

rondo_status run_make_directory(const char *option, const char *path) {
    char part[4096];
    struct stat st;
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part) {
        return rdi_fail(RONDO_ERR_INVALID, "--%s: the name is longer than %zu bytes", option,
                        sizeof part);
    }
    for (char *c = part + 1;; c++) {
        if (*c == '/' || *c == '\0') {
            char was = *c;
            *c = '\0';
            if (mkdir(part, 0777) != 0 && errno != EEXIST) {
                return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "--%s: cannot make %s", option,
                                      part);
            }
            *c = was;
            if (was == '\0') {
                break;
            }
        }
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return rdi_fail(RONDO_ERR_INVALID, "--%s: %s is not a directory", option, path);
    }
    return RONDO_OK;
}

static rondo_status hand_on(const char *option, const char *path, const char *variable) {
    if (path == NULL) {
        return RONDO_OK;
    }
    rondo_status s = run_make_directory(option, path);
    if (s != RONDO_OK) {
        return s;
    }
    // A program may change its folder before it joins.
    char *whole = realpath(path, NULL);
    bool set = whole != NULL && setenv(variable, whole, 1) == 0;
    int err = errno;
    free(whole);
    return set ? RONDO_OK
               : rdi_fail_errno(RONDO_ERR_SYSTEM, err, "--%s: cannot use %s", option, path);
}

rondo_status run_folders(const struct run_options *o) {
    rondo_status s = hand_on("dump", o->dump, "RONDO_DUMP");
    return s == RONDO_OK ? hand_on("trace", o->trace, "RONDO_TRACE") : s;
}
