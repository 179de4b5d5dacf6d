// SPDX-License-Identifier: MIT
// rondo-topo's command line.
#include "topo/decide.h"
#include "topo/show/show.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: rondo-topo [OPTION...]     NUMA nodes, NICs and GPUs, and how far they are from each "
    "other\n\n"
    "  without --load or --synthetic   this host, and what of it this process may use\n"
    "      --load FILE                 a host that was saved (hwloc's XML)\n"
    "      --load NAME=FILE            the same with a name; several are a cluster\n"
    "      --cluster FILE              hosts from a file: lines \"node[0-7] FILE\"\n"
    "      --synthetic DESCRIPTION     a machine without devices: \"pack:2 numa:2 core:8 pu:2\"\n"
    "      --this-cpuset               of a loaded host, what this process may use here\n"
    "      --save FILE                 write this or the loaded host, for --load and lstopo\n"
    "      --svg FILE                  draw the hosts, and what --decide says of them\n"
    "      --png FILE                  the same as PNG; needs Cairo\n"
    "      --decide                    which NIC, memory and processor each rank uses, and the "
    "rings\n"
    "      --ranks N                   for these: ranks on each host; without: one a GPU, or "
    "NUMA node\n"
    "      --json                      the same for programs\n"
    "  -h, --help                      this text\n"
    "      --version                   the version\n\n"
    "See rondo-topo(1).\n";

int ts_fail(int code, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fprintf(stderr, "rondo-topo: %s\n", text);
    return code;
}

bool ts_source_add(struct ts_options *o, const char *name, size_t name_len, const char *file) {
    struct ts_source *more = realloc(o->sources, (o->n + 1) * sizeof *more);
    if (!more) {
        return false;
    }
    o->sources = more;
    more[o->n] = (struct ts_source){.file = strdup(file)};
    memcpy(more[o->n].name, name, name_len < TS_NAME - 1 ? name_len : TS_NAME - 1);
    return more[o->n++].file != NULL;
}

void ts_options_free(struct ts_options *o) {
    for (size_t i = 0; i < o->n; i++) {
        free(o->sources[i].file);
    }
    free(o->sources);
    *o = (struct ts_options){0};
}

// "FILE" or "NAME=FILE"; a file with a '=' in its name can be given as ./FILE.
static int add_load(struct ts_options *o, const char *arg) {
    size_t name = strcspn(arg, "=/");
    const char *file = arg[name] == '=' ? arg + name + 1 : arg;
    name = arg[name] == '=' ? name : 0;
    if (*file == '\0' || (file != arg && name == 0) || name >= TS_NAME || o->n == TS_HOSTS) {
        return ts_fail(TS_EXIT_USAGE, "--load %.200s: allowed are FILE and NAME=FILE, %d at most",
                       arg, TS_HOSTS);
    }
    return ts_source_add(o, arg, name, file) ? -1 : ts_fail(TS_EXIT_ERROR, "out of memory");
}

static int set_ranks(struct ts_options *o, const char *arg) {
    char *end = NULL;
    errno = 0;
    long n = strtol(arg, &end, 10);
    if (errno || end == arg || *end != '\0' || n < 1 || n > RDI_DECIDE_LOCAL) {
        return ts_fail(TS_EXIT_USAGE, "--ranks %.40s: allowed is 1 to %d", arg, RDI_DECIDE_LOCAL);
    }
    o->ranks = (int)n;
    return -1;
}

// What excludes what.
static int check(const struct ts_options *o) {
    bool loaded = o->n > 0 || o->cluster;
    if (o->synthetic && loaded) {
        return ts_fail(TS_EXIT_USAGE, "--synthetic is a host of its own: leave out --load, or it");
    }
    if (o->this_cpuset && !loaded) {
        return ts_fail(
            TS_EXIT_USAGE,
            "--this-cpuset is for --load: of this host it is always told what this process "
            "may use, and of a synthetic one never");
    }
    if (o->ranks && !o->decide && !o->svg && !o->png) {
        return ts_fail(TS_EXIT_USAGE, "--ranks is for --decide, --svg and --png");
    }
    return -1;
}

int ts_options_parse(struct ts_options *o, int argc, char **argv) {
    enum { CLUSTER = 256, CPUSET, DECIDE, JSON, LOAD, PNG, RANKS, SAVE, SVG, SYNTHETIC, VERSION };
    static const struct option table[] = {
        {"cluster", required_argument, NULL, CLUSTER},
        {"decide", no_argument, NULL, DECIDE},
        {"help", no_argument, NULL, 'h'},
        {"json", no_argument, NULL, JSON},
        {"load", required_argument, NULL, LOAD},
        {"png", required_argument, NULL, PNG},
        {"ranks", required_argument, NULL, RANKS},
        {"save", required_argument, NULL, SAVE},
        {"svg", required_argument, NULL, SVG},
        {"synthetic", required_argument, NULL, SYNTHETIC},
        {"this-cpuset", no_argument, NULL, CPUSET},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
    int code = -1;
    optind = 0; // from the beginning, also in a process that has done this before
    *o = (struct ts_options){0};
    for (int c; code < 0 && (c = getopt_long(argc, argv, "h", table, NULL)) >= 0;) {
        switch (c) {
        case CLUSTER:
            o->cluster = optarg;
            break;
        case CPUSET:
            o->this_cpuset = true;
            break;
        case DECIDE:
            o->decide = true;
            break;
        case JSON:
            o->json = true;
            break;
        case LOAD:
            code = add_load(o, optarg);
            break;
        case PNG:
            o->png = optarg;
            break;
        case RANKS:
            code = set_ranks(o, optarg);
            break;
        case SAVE:
            o->save = optarg;
            break;
        case SVG:
            o->svg = optarg;
            break;
        case SYNTHETIC:
            o->synthetic = optarg;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        case VERSION:
            printf("rondo-topo %s\n", rondo_version());
            return 0;
        default:
            return TS_EXIT_USAGE; // getopt has said why
        }
    }
    if (code < 0 && optind < argc) {
        return ts_fail(TS_EXIT_USAGE, "%.200s: not an option; a saved host is --load %.200s",
                       argv[optind], argv[optind]);
    }
    return code < 0 ? check(o) : code;
}

// ---- Files ---------------------------------------------------------------------------------------

// The hosts of the cluster file.
static int add_cluster(struct ts_options *o, const char *path) {
    static char text[1 << 20]; // no description of a cluster is larger
    char why[300];
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    bool bad = !f || ferror(f);
    int err = errno;
    if (f) {
        fclose(f);
    }
    if (bad || n == sizeof text) {
        return ts_fail(TS_EXIT_ERROR, "cannot read the cluster %.200s: %s", path,
                       bad ? strerror(err) : "it is larger than 1 MiB");
    }
    return ts_cluster_read(o, path, text, n, why, sizeof why)
               ? -1
               : ts_fail(TS_EXIT_ERROR, "%.200s: %s", path, why);
}

int ts_options_complete(struct ts_options *o) {
    int code = o->cluster ? add_cluster(o, o->cluster) : -1;
    if (code >= 0) {
        return code;
    }
    if (o->save && o->n > 1) {
        return ts_fail(TS_EXIT_USAGE, "--save writes one host, and %zu are loaded", o->n);
    }
    for (size_t i = 0; o->n > 1 && i < o->n; i++) {
        if (o->sources[i].name[0] == '\0') {
            return ts_fail(TS_EXIT_USAGE,
                           "several hosts need names: --load NAME=%.200s in place of --load %.200s",
                           o->sources[i].file, o->sources[i].file);
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(o->sources[i].name, o->sources[k].name) == 0) {
                return ts_fail(TS_EXIT_USAGE, "two hosts are named %s", o->sources[i].name);
            }
        }
    }
    return -1;
}
