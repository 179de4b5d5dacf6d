// SPDX-License-Identifier: MIT
// A trace on its way into a file.
#ifndef RDI_RECORD_OBSERVE_TRACE_H
#define RDI_RECORD_OBSERVE_TRACE_H

#include "ring/record/observe.h"
#include "ring/record/trace.h"

// More than that no viewer opens; what comes afterwards is dropped, and counted.
#define RDI_TRACE_FILE_MAX (UINT64_C(512) << 20)

struct rdi_trace_file;
rondo_status rdi_trace_file_open(const struct rdi_observed *o, const char *path,
                                 struct rdi_trace_file **out);
// Writes what is in the queue. An error ends the trace; it is told by rdi_trace_file_close().
void rdi_trace_file_drain(struct rdi_trace_file *f);
rondo_status rdi_trace_file_close(struct rdi_trace_file *f);

#endif
