// SPDX-License-Identifier: MIT
// rondo-perf TEST --simulate FILE: the table of predicted times by size and algorithm for a described cluster.
#include "ring/perf/cluster.h"
#include "ring/perf/perf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORK_MAX 5e7 // of one row: about a minute
#define FILE_MAX (1 << 20)

static const struct {
    const char *name;
    enum rdi_kind kind;
} kinds[] = {{"all_reduce", RDI_ALL_REDUCE}, {"reduce_scatter", RDI_REDUCE_SCATTER},
             {"all_gather", RDI_ALL_GATHER}, {"broadcast", RDI_BROADCAST},
             {"reduce", RDI_REDUCE},         {"all_to_all", RDI_ALL_TO_ALL}};

static int kind_of(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static bool read_file(const char *path, struct cluster *c) {
    char why[512], *text = malloc(FILE_MAX + 1);
    FILE *f = text ? fopen(path, "re") : NULL;
    size_t n = f ? fread(text, 1, FILE_MAX + 1, f) : 0;
    bool ok = false;
    if (!f || ferror(f)) {
        (void)perf_fail("--simulate: cannot read \"%s\": %s", path, strerror(errno));
    } else if (n > FILE_MAX) {
        (void)perf_fail("--simulate: \"%s\" has more than 1 MiB; a cluster needs a few lines",
                        path);
    } else if (!cluster_read(text, n, c, why, sizeof why)) {
        (void)perf_fail("--simulate: %s: %s", path, why);
    } else {
        ok = true;
    }
    if (f) {
        fclose(f);
    }
    free(text);
    return ok;
}

// ---- Output --------------------------------------------------------------------------------------

struct out {
    const struct perf_options *o;
    const struct cluster *c;
    int kind, ranks;
    FILE *text, *csv, *json;
    bool first, terminal;
    double began;
    uint64_t messages;
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_progress(void *arg, uint64_t events) {
    struct out *p = arg;
    if (p->terminal) {
        double took = now_s() - p->began;
        fprintf(stderr, "\r  %llu events, %.0f/s, %.0f s of about %.0f s ",
                (unsigned long long)events, (double)events / (took + 1e-9), took,
                took * 1.2 * (double)p->messages / ((double)events + 1));
    }
}

static FILE *open_out(const char *path, const char *what) {
    FILE *f = !path ? NULL : strcmp(path, "-") == 0 ? stdout : fopen(path, "we");
    if (path && !f) {
        (void)perf_fail("--%s: cannot write \"%s\": %s", what, path, strerror(errno));
    }
    return f;
}

static void begin(struct out *p) {
    const struct cluster *c = p->c;
    if (p->text) {
        fprintf(
            p->text,
            "# %s, predicted by simulation: %s: %d ranks on hosts of %d; %d x NIC %g GB/s, %g us; "
            "within a host %g GB/s, %g us; %d cores, %g us a message, %g GB/s; seed %llu\n"
            "# * what the plan chooses. busbw as in the measured tables. - : not simulated "
            "(messages)\n"
            "#%11s %7s %9s %12s %9s %9s %10s %10s %9s\n",
            kinds[p->kind].name, c->name[0] ? c->name : "a cluster", p->ranks, c->ranks_per_host,
            c->nics_per_host, c->nic_gbps, c->nic_us, c->inner_gbps, c->inner_us, c->cores_per_host,
            c->message_us, c->touch_gbps, (unsigned long long)c->seed, "bytes", "ranks",
            "algorithm", "time us", "algbw", "busbw", "messages", "events", "events/s");
    }
    if (p->csv) {
        fprintf(p->csv, "test,bytes,ranks,algorithm,chosen,time_us,algbw_gbps,busbw_gbps,messages,"
                        "events,events_per_s\n");
    }
    if (p->json) {
        fprintf(p->json,
                "{\"version\":\"%s\",\"test\":\"%s\",\"simulated\":true,\"ranks\":%d,\"cluster\":{"
                "\"hosts\":%d,\"ranks_per_host\":%d,\"cores_per_host\":%d,"
                "\"nics_per_host\":%d,\"nic_gbps\":%g,"
                "\"nic_us\":%g,\"inner_gbps\":%g,\"inner_us\":%g,\"touch_gbps\":%g,"
                "\"message_us\":%g,\"jitter_us\":%g,\"seed\":%llu},\"rows\":[",
                rondo_version(), kinds[p->kind].name, p->ranks, c->hosts, c->ranks_per_host,
                c->cores_per_host, c->nics_per_host, c->nic_gbps, c->nic_us, c->inner_gbps,
                c->inner_us, c->touch_gbps, c->message_us, c->jitter_us,
                (unsigned long long)c->seed);
    }
}

static double bus_factor(int kind, int n) {
    double f = (double)(n - 1) / n;
    enum rdi_kind k = kinds[kind].kind;
    return k == RDI_ALL_REDUCE ? 2 * f : k == RDI_BROADCAST || k == RDI_REDUCE ? 1 : f;
}

static void row(struct out *p, uint64_t bytes, enum cluster_way way, bool chosen,
                const struct cluster_result *r, double messages) {
    const char *name = cluster_way_name(way);
    if (!r) {
        if (p->text) {
            fprintf(p->text, "%12llu %7d %8s%s %12s %9s %9s %10.3g %10s %9s\n",
                    (unsigned long long)bytes, p->ranks, name, chosen ? "*" : " ", "-", "-", "-",
                    messages, "-", "-");
        }
        return;
    }
    double us = r->seconds * 1e6, algbw = us > 0 ? (double)bytes / us / 1e3 : 0;
    double busbw = algbw * bus_factor(p->kind, p->ranks);
    double rate = (double)r->events / (r->real_seconds + 1e-9);
    if (p->text) {
        fprintf(p->text, "%12llu %7d %8s%s %12.2f %9.3f %9.3f %10llu %10llu %9.0f\n",
                (unsigned long long)bytes, p->ranks, name, chosen ? "*" : " ", us, algbw, busbw,
                (unsigned long long)r->messages, (unsigned long long)r->events, rate);
        fflush(p->text);
    }
    if (p->csv) {
        fprintf(p->csv, "%s,%llu,%d,%s,%d,%.3f,%.6g,%.6g,%llu,%llu,%.0f\n", kinds[p->kind].name,
                (unsigned long long)bytes, p->ranks, name, chosen, us, algbw, busbw,
                (unsigned long long)r->messages, (unsigned long long)r->events, rate);
    }
    if (p->json) {
        fprintf(p->json,
                "%s\n{\"bytes\":%llu,\"algorithm\":\"%s\",\"chosen\":%s,\"time_us\":%.3f,"
                "\"algbw_gbps\":%.6g,\"busbw_gbps\":%.6g,\"messages\":%llu,\"events\":%llu,"
                "\"events_per_s\":%.0f,\"wrong\":%llu}",
                p->first ? "" : ",", (unsigned long long)bytes, name, chosen ? "true" : "false", us,
                algbw, busbw, (unsigned long long)r->messages, (unsigned long long)r->events, rate,
                (unsigned long long)r->wrong);
    }
    p->first = false;
}

// ---- The rows ------------------------------------------------------------------------------------

static int simulate_row(struct out *p, uint64_t bytes, enum cluster_way way, bool chosen) {
    struct cluster_job j = {.cluster = p->c,
                            .ranks = p->ranks,
                            .kind = kinds[p->kind].kind,
                            .way = way,
                            .bytes = bytes,
                            .progress = on_progress,
                            .arg = p};
    struct cluster_result r;
    double messages = cluster_messages(&j);
    // Where everybody talks to everybody each message costs a look at all of them.
    bool all = way == CLUSTER_DIRECT || way == CLUSTER_OWNER || way == CLUSTER_PAIRS;
    if (messages * (all ? 1 + p->ranks / 8.0 : 1) > WORK_MAX) {
        row(p, bytes, way, chosen, NULL, messages);
        return PERF_OK;
    }
    p->began = now_s();
    p->messages = (uint64_t)messages + 1;
    rondo_status s = cluster_run(&j, &r);
    if (p->terminal) {
        fprintf(stderr, "\r%70s\r", "");
    }
    if (s != RONDO_OK) {
        (void)perf_fail("simulating %s of %llu bytes by %s failed: %s", kinds[p->kind].name,
                        (unsigned long long)bytes, cluster_way_name(way), rondo_last_error());
        return PERF_FAILED;
    }
    row(p, bytes, way, chosen, &r, messages);
    return PERF_OK;
}

static int simulate_size(struct out *p, uint64_t bytes) {
    struct cluster_job j = {
        .cluster = p->c, .ranks = p->ranks, .kind = kinds[p->kind].kind, .bytes = bytes};
    struct rdi_plan plan;
    cluster_plan(&j, &plan);
    const char *chosen = rdi_algo_name(rdi_plan_choose(&plan, j.kind, bytes));
    int code = PERF_OK;
    for (int w = CLUSTER_PLAN + 1; w < CLUSTER_WAYS && code == PERF_OK; w++) {
        enum cluster_way way = (enum cluster_way)w;
        if (cluster_can(j.kind, way, p->ranks, p->c->ranks_per_host)) {
            code = simulate_row(p, bytes, way, strcmp(chosen, cluster_way_name(way)) == 0);
        }
    }
    return code;
}

int perf_simulate(const struct perf_options *o) {
    struct cluster c;
    struct out p = {.o = o, .c = &c, .first = true, .kind = kind_of(perf_colls[o->coll].name)};
    if (p.kind < 0) {
        return perf_fail("--simulate: allowed with all_reduce, reduce_scatter, all_gather, "
                         "broadcast, reduce and all_to_all, and %s was given",
                         perf_colls[o->coll].name);
    }
    if (!read_file(o->simulate, &c)) {
        return PERF_USAGE;
    }
    int most = c.hosts * c.ranks_per_host;
    p.ranks = o->ranks > 0 ? o->ranks : most;
    if (p.ranks > most || p.ranks < 2) {
        return perf_fail("--nranks %d: the cluster has places for 2 to %d ranks", p.ranks, most);
    }
    p.csv = open_out(o->csv, "csv");
    p.json = open_out(o->json, "json");
    if ((o->csv && !p.csv) || (o->json && !p.json)) {
        return PERF_USAGE;
    }
    p.text = p.csv == stdout || p.json == stdout ? NULL : stdout;
    p.terminal = isatty(STDERR_FILENO);
    begin(&p);
    int code = PERF_OK;
    for (size_t bytes = o->min_bytes; bytes <= o->max_bytes && code == PERF_OK;) {
        code = simulate_size(&p, bytes);
        size_t next = o->step_factor ? bytes * (size_t)o->step_factor : bytes + o->step_bytes;
        bytes = next > bytes ? next : SIZE_MAX;
    }
    if (p.json) {
        fprintf(p.json, "\n]}\n");
    }
    FILE *files[] = {p.text, p.csv, p.json};
    for (int i = 0; i < 3; i++) {
        if (files[i] && (files[i] == stdout ? fflush(files[i]) : fclose(files[i])) != 0) {
            code = perf_fail("cannot write the results: %s", strerror(errno));
        }
    }
    return code;
}
