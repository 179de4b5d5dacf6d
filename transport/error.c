// SPDX-License-Identifier: MIT
// Status codes in words, the calling thread's last error, and the library's version.
//
// The text lives in a thread-local buffer of fixed size: an error can be told also when memory ran
// out, and a thread that ends leaves nothing behind. All functions here keep errno, so that a
// caller may look at it after the text was made.
#include "transport/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static _Thread_local char last_error[RDI_ERROR_TEXT];

static const struct {
    rondo_status status;
    const char *name, *text;
} statuses[] = {
    {RONDO_OK, "RONDO_OK", "success"},
    {RONDO_AGAIN, "RONDO_AGAIN", "in progress, or no resources now: call again"},
    {RONDO_RETRY_STEP, "RONDO_RETRY_STEP", "the group changed: repeat forward and backward"},
    {RONDO_END_OF_INPUT, "RONDO_END_OF_INPUT", "a rank has no more input, and all stop"},
    {RONDO_ERR_INVALID, "RONDO_ERR_INVALID",
     "an argument or option has a value that is not allowed"},
    {RONDO_ERR_USAGE, "RONDO_ERR_USAGE", "calls in a wrong order, or a handle that was closed"},
    {RONDO_ERR_NOMEM, "RONDO_ERR_NOMEM", "memory, locked memory or address space ran out"},
    {RONDO_ERR_SYSTEM, "RONDO_ERR_SYSTEM", "the operating system refused"},
    {RONDO_ERR_TIMEOUT, "RONDO_ERR_TIMEOUT", "a deadline passed"},
    {RONDO_ERR_PEER, "RONDO_ERR_PEER", "a peer process ended or closed its side"},
    {RONDO_ERR_PATH, "RONDO_ERR_PATH", "the path between two live ranks is lost"},
    {RONDO_ERR_MISMATCH, "RONDO_ERR_MISMATCH", "ranks called different collectives"},
    {RONDO_ERR_AUTH, "RONDO_ERR_AUTH", "somebody does not know this job's key"},
    {RONDO_ERR_VERSION, "RONDO_ERR_VERSION", "a peer speaks another version of the protocol"},
    {RONDO_ERR_ABORTED, "RONDO_ERR_ABORTED", "the communicator was aborted"},
    {RONDO_ERR_FORKED, "RONDO_ERR_FORKED", "called in a forked child on a handle of its parent"},
    {RONDO_ERR_PARTITIONED, "RONDO_ERR_PARTITIONED", "this side of a partition has no majority"},
    {RONDO_ERR_UNSUPPORTED, "RONDO_ERR_UNSUPPORTED",
     "not available in this build or on this machine"},
    {RONDO_ERR_BOOTSTRAP, "RONDO_ERR_BOOTSTRAP", "rank, size or the store could not be found"},
    {RONDO_ERR_INTERNAL, "RONDO_ERR_INTERNAL", "a bug in Rondo: please report the text"},
};

static size_t find_status(rondo_status s) {
    size_t count = sizeof statuses / sizeof statuses[0];
    size_t i = 0;
    while (i < count && statuses[i].status != s) {
        i++;
    }
    return i < count ? i : SIZE_MAX;
}

const char *rondo_status_name(rondo_status s) {
    size_t i = find_status(s);
    return i != SIZE_MAX ? statuses[i].name : "RONDO_STATUS_UNKNOWN";
}

const char *rondo_status_string(rondo_status s) {
    size_t i = find_status(s);
    return i != SIZE_MAX ? statuses[i].text : "not a status of this version of Rondo";
}

const char *rondo_last_error(void) { return last_error; }

void rdi_set_last_error(const char *text) {
    int saved = errno;
    // The text may be the buffer itself.
    char copy[RDI_ERROR_TEXT];
    snprintf(copy, sizeof copy, "%s", text ? text : "");
    memcpy(last_error, copy, sizeof copy);
    errno = saved;
}

// The arguments may point into last_error, so the new text is made aside.
static void format_text(char text[RDI_ERROR_TEXT], const char *fmt, va_list ap) {
    if (vsnprintf(text, RDI_ERROR_TEXT, fmt, ap) < 0) {
        snprintf(text, RDI_ERROR_TEXT, "(an error whose text could not be formatted: %s)", fmt);
    }
}

rondo_status rdi_fail(rondo_status s, const char *fmt, ...) {
    int saved = errno;
    char text[RDI_ERROR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    format_text(text, fmt, ap);
    va_end(ap);
    rdi_set_last_error(text);
    errno = saved;
    return s;
}

// ": Connection refused (ECONNREFUSED)"; with the remedy, where it is the same whatever was tried.
static void describe_errno(int err, char *tail, size_t cap) {
    char buffer[128];
    const char *what = strerror_r(err, buffer, sizeof buffer);
    const char *name = strerrorname_np(err);
    struct rlimit limit;
    if (err == EMFILE && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        snprintf(tail, cap,
                 ": %s (EMFILE; this process may have %llu): raise the limit (ulimit -n)", what,
                 (unsigned long long)limit.rlim_cur);
    } else if (err == ENFILE) {
        snprintf(tail, cap, ": %s (ENFILE): raise the sysctl fs.file-max", what);
    } else if (name != NULL) {
        snprintf(tail, cap, ": %s (%s)", what, name);
    } else {
        snprintf(tail, cap, ": %s", what);
    }
}

rondo_status rdi_fail_errno(rondo_status s, int err, const char *fmt, ...) {
    int saved = errno;
    char text[RDI_ERROR_TEXT];
    va_list ap;
    va_start(ap, fmt);
    format_text(text, fmt, ap);
    va_end(ap);

    char tail[256];
    describe_errno(err, tail, sizeof tail);
    // The cause is worth more than the end of a long text.
    size_t used = strlen(text), need = strlen(tail);
    if (used + need >= sizeof text) {
        used = sizeof text - 1 - need;
    }
    memcpy(text + used, tail, need + 1);
    rdi_set_last_error(text);
    errno = saved;
    return s;
}

rondo_status rdi_fail_prefix(rondo_status s, const char *fmt, ...) {
    int saved = errno;
    char prefix[RDI_ERROR_TEXT], text[2 * RDI_ERROR_TEXT + 2];
    va_list ap;
    va_start(ap, fmt);
    format_text(prefix, fmt, ap);
    va_end(ap);
    snprintf(text, sizeof text, "%s: %s", prefix, last_error);
    rdi_set_last_error(text);
    errno = saved;
    return s;
}

void rdi_printable(char *text, size_t cap) {
    text[cap - 1] = '\0';
    for (char *c = text; *c != '\0'; c++) {
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? ' ' : *c;
    }
}

const char *rondo_version(void) { return RDI_VERSION; }

int rondo_version_number(void) {
    const char *at = RDI_VERSION;
    int number = 0;
    for (int part = 0; part < 3; part++) {
        char *end;
        number = number * 100 + (int)strtol(at, &end, 10);
        at = *end == '.' ? end + 1 : end;
    }
    return number;
}
