// SPDX-License-Identifier: MIT
// The public calls of the recorder.
#include "ring/record/observe.h"

static rondo_status check(const rondo_comm *comm, const char *name, bool has_path) {
    if (!comm || !has_path) {
        return rdi_fail(RONDO_ERR_INVALID, "%s: %s", name,
                        comm ? "the path is NULL or empty" : "the communicator is NULL");
    }
    rondo_status s = rdi_driver_check(comm->engine->driver);
    if (s == RONDO_OK && !comm->engine->observed) {
        s = rdi_fail(RONDO_ERR_INTERNAL, "%s: the engine has no observer", name);
    }
    return s;
}

rondo_status rondo_dump(rondo_comm *comm, const char *path) {
    rondo_status s = check(comm, "rondo_dump", path && path[0]);
    if (s == RONDO_OK) {
        struct rdi_text t = {0};
        s = rdi_observe_text(comm->engine->observed, "call", UINT64_MAX, &t);
        s = s == RONDO_OK ? rdi_observe_write(path, &t) : s;
        rdi_text_free(&t);
    }
    return s;
}

rondo_status rondo_trace_start(rondo_comm *comm, const char *path) {
    rondo_status s = check(comm, "rondo_trace_start", path && path[0]);
    return s == RONDO_OK ? rdi_observe_trace_begin(comm->engine->observed, path) : s;
}

rondo_status rondo_trace_stop(rondo_comm *comm) {
    rondo_status s = check(comm, "rondo_trace_stop", true);
    return s == RONDO_OK ? rdi_observe_trace_end(comm->engine->observed) : s;
}
