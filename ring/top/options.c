// SPDX-License-Identifier: MIT
// rondo-top's command line.
#include "ring/ring.h"
#include "ring/top/top.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
    "usage: rondo-top [OPTION...] [JOB|PID]       what the ranks of a job on this host do\n"
    "       rondo-top [OPTION...] DUMP...         what ranks did; files or folders\n"
    "       rondo-top --merge OUT TRACE...        traces of ranks into one\n\n"
    "  -1, --once          one screen; also when the output is no terminal\n"
    "  -d, --delay SECONDS between two screens (default 1)\n"
    "      --json          the same for programs\n"
    "      --dump DIR      write the whole state of each rank of the job on this host to DIR\n"
    "      --list          the jobs on this host; also without an argument, if there are several\n"
    "      --merge OUT     write the traces to OUT (- is standard output), for ui.perfetto.dev\n"
    "  -h, --help          this text\n"
    "      --version       the version\n\n"
    "PID is that of a rank, or of a process above it such as rondo-run. See rondo-top(1).\n";

int top_fail(int code, const char *fmt, ...) {
    char text[640];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fprintf(stderr, "rondo-top: %s\n", text);
    return code;
}

static bool is_there(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

int top_options_parse(struct top_options *o, int argc, char **argv) {
    enum { JSON = 256, DUMP, LIST, MERGE, VERSION };
    static const struct option table[] = {
        {"once", no_argument, NULL, '1'},
        {"delay", required_argument, NULL, 'd'},
        {"json", no_argument, NULL, JSON},
        {"dump", required_argument, NULL, DUMP},
        {"list", no_argument, NULL, LIST},
        {"merge", required_argument, NULL, MERGE},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
    char *end;
    optind = 0; // from the beginning, also in a process that has done this before
    *o = (struct top_options){.delay = 1};
    for (int c; (c = getopt_long(argc, argv, "1d:h", table, NULL)) >= 0;) {
        switch (c) {
        case '1':
            o->once = true;
            break;
        case 'd':
            o->delay = strtod(optarg, &end);
            if (*end != '\0' || !(o->delay >= 0.1 && o->delay <= 3600)) {
                return top_fail(TOP_EXIT_USAGE, "--delay %s: allowed are 0.1 to 3600 seconds",
                                optarg);
            }
            break;
        case JSON:
            o->json = true;
            break;
        case DUMP:
            o->dump = optarg;
            break;
        case LIST:
            o->list = true;
            break;
        case MERGE:
            o->merge = optarg;
            break;
        case 'h':
            fputs(help, stdout);
            return 0;
        case VERSION:
            printf("rondo-top %s\n", rondo_version());
            return 0;
        default:
            return TOP_EXIT_USAGE; // getopt has said why
        }
    }
    o->files = argv + optind;
    o->nfiles = (size_t)(argc - optind);
    if (o->merge && o->nfiles == 0) {
        return top_fail(TOP_EXIT_USAGE, "--merge needs the names of traces");
    }
    // A name with a '/' or one that is there is a file; job and pid have no such.
    bool is_file = o->nfiles > 1 ||
                   (o->nfiles == 1 && (strchr(o->files[0], '/') || is_there(o->files[0])));
    if (!o->merge && !is_file) {
        o->what = o->nfiles ? o->files[0] : NULL;
        o->nfiles = 0;
    }
    if (o->dump && o->nfiles) {
        return top_fail(TOP_EXIT_USAGE,
                        "--dump takes the state of a running job: name it or a pid");
    }
    return -1;
}
