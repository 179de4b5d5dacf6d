// SPDX-License-Identifier: MIT
// rondo-topo: what its files share.
#ifndef RDI_TOPO_SHOW_H
#define RDI_TOPO_SHOW_H

#include "topo/topo.h"
#include "transport/text.h"

#include <stdbool.h>

#define TS_EXIT_ERROR 1
#define TS_EXIT_USAGE 2
#define TS_HOSTS 4096
#define TS_NAME 128

// A host of a cluster, or the only one.
struct ts_source {
    char name[TS_NAME]; // "" = not given
    char *file;
};

struct ts_options {
    struct ts_source *sources; // none: this host, or `synthetic`
    size_t n;
    const char *save, *synthetic, *cluster, *svg, *png;
    bool json, this_cpuset, decide;
    int ranks; // on each host; 0 = not given
};

// -1: go on; else the status to exit with. ts_options_free() in any case.
int ts_options_parse(struct ts_options *o, int argc, char **argv);
// Reads the cluster file, if there is one, and looks whether the hosts fit together. As ts_options_parse().
int ts_options_complete(struct ts_options *o);
void ts_options_free(struct ts_options *o);

// Prints "rondo-topo: ..." to stderr; returns code.
int ts_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// cluster.c: the hosts of a cluster file are added to o->sources. `path` is what file names in it are relative to.
// False: `why` says what is wrong.
bool ts_cluster_read(struct ts_options *o, const char *path, const char *text, size_t len,
                     char *why, size_t cap);
bool ts_source_add(struct ts_options *o, const char *name, size_t name_len, const char *file);

// text.c, json.c: one host, without its name.
void ts_text(struct rdi_text *out, const rondo_topo *t);
void ts_legend(struct rdi_text *out);
void ts_json(struct rdi_text *out, const rondo_topo *t);

// draw.c: writes the pictures that o names; same[i]: the first host of which the same is said as of host i. -1, or the
// status to exit with.
struct rdi_decision;
int ts_draw(const struct ts_options *o, const struct rdi_decision *d, const size_t *same);

// "1 MiB", "503.5 GiB"
void ts_size(struct rdi_text *out, uint64_t bytes);
// The devices at a NUMA node (-1: at no single one), those with bridges in common beside each other; *n of them in a
// new array, NULL when memory ran out.
const rondo_topo_device_info **ts_devices_at(const rondo_topo *t, int numa, int *n);
// Of a device's bridges, the length of the host bridge, and of all without the last, which is the device's own port.
size_t ts_way_root(const char *way);
size_t ts_way_shared(const char *way);

// Names of hosts in few words: "node[0-3,7], login".
void ts_fold(struct rdi_text *out, const char *const *names, size_t n);

#endif
