// SPDX-License-Identifier: MIT
// rondo-topo: see rondo-topo(1).
#include "topo/show/decide.h"
#include "topo/show/show.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct host {
    const char *name; // in a cluster
    rondo_topo *topo; // NULL: of the same file as an earlier one
    char *text;       // what is said of it
    size_t same;      // the first host of which the same is said; its own number if none
};

// ---- Loading -------------------------------------------------------------------------------------

static rondo_status load(const struct ts_options *o, const char *file, rondo_topo **topo) {
    rondo_topo_config c = RONDO_TOPO_CONFIG_INIT;
    c.file = file;
    c.synthetic = o->synthetic;
    c.this_cpuset = o->this_cpuset;
    return rondo_topo_load(&c, topo);
}

static char *describe(const struct ts_options *o, const rondo_topo *t) {
    struct rdi_text text = {0};
    if (o->json) {
        ts_json(&text, t);
    } else {
        ts_text(&text, t);
    }
    if (text.failed) {
        rdi_text_free(&text);
    }
    return text.buf;
}

// The text of a host of a cluster has not its own name in it: nodes that differ in nothing else are the same.
static const char *without_name(const char *text, bool json) {
    const char *end = json ? strchr(text, ',') : NULL;
    return end ? end : text;
}

static int load_one(const struct ts_options *o, struct host *hosts, size_t i) {
    const char *file = o->n ? o->sources[i].file : NULL;
    struct host *h = &hosts[i];
    h->name = o->n ? o->sources[i].name : "";
    h->same = i;
    for (size_t k = 0; k < i; k++) {
        if (file && strcmp(o->sources[k].file, file) == 0) {
            h->same = hosts[k].same;
            return -1;
        }
    }
    if (load(o, file, &h->topo) != RONDO_OK) {
        return ts_fail(TS_EXIT_ERROR, "%s%s%s", h->name, h->name[0] ? ": " : "",
                       rondo_last_error());
    }
    h->text = describe(o, h->topo);
    if (!h->text) {
        return ts_fail(TS_EXIT_ERROR, "out of memory");
    }
    for (size_t k = 0; k < i; k++) {
        if (hosts[k].text &&
            strcmp(without_name(hosts[k].text, o->json), without_name(h->text, o->json)) == 0) {
            h->same = hosts[k].same;
            break;
        }
    }
    return -1;
}

// ---- Printing ------------------------------------------------------------------------------------

// The hosts of which the same is said as of `first`, without itself unless `all`.
static size_t group(const struct host *hosts, size_t n, size_t first, bool all,
                    const char **names) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (hosts[i].same == first && (all || i != first)) {
            names[count++] = hosts[i].name;
        }
    }
    return count;
}

static void print_text(struct rdi_text *out, const struct host *hosts, size_t n,
                       const char **names) {
    bool legend = false;
    if (n > 1) {
        size_t kinds = 0;
        for (size_t i = 0; i < n; i++) {
            kinds += hosts[i].same == i;
        }
        rdi_text_add(out, "cluster of %zu hosts, %zu kind%s\n\n", n, kinds, kinds == 1 ? "" : "s");
    }
    for (size_t i = 0; i < n; i++) {
        if (hosts[i].same != i) {
            continue;
        }
        const char *own = rondo_topo_machine(hosts[i].topo)->host;
        const char *name = hosts[i].name[0] ? hosts[i].name : own;
        rdi_text_add(out, "%s%s: %s", i ? "\n" : "", name[0] ? name : "host", hosts[i].text);
        size_t count = group(hosts, n, i, false, names);
        if (count > 0) {
            rdi_text_add(out, "\n");
            ts_fold(out, names, count);
            rdi_text_add(out, ": the same as %s\n", hosts[i].name);
        }
        legend = legend || rondo_topo_machine(hosts[i].topo)->devices > 0;
    }
    if (legend) {
        ts_legend(out);
    }
}

static void print_json(struct rdi_text *out, const struct host *hosts, size_t n,
                       const char **names) {
    rdi_json_begin(out, NULL, '{');
    rdi_json_string(out, "format", "rondo-topo 1");
    rdi_json_begin(out, "hosts", '[');
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        if (hosts[i].same != i) {
            continue;
        }
        rdi_text_add(out, "%s\n{", first ? "" : ",");
        first = false;
        size_t count = group(hosts, n, i, true, names);
        rdi_json_begin(out, "names", '[');
        for (size_t k = 0; k < count && names[k][0] != '\0'; k++) {
            rdi_json_string(out, NULL, names[k]);
        }
        rdi_json_end(out, ']');
        rdi_text_add(out, ", %s}", hosts[i].text);
    }
    rdi_text_add(out, "\n]}\n");
}

// Frees it.
static int print(struct rdi_text *out) {
    int code = 0;
    if (out->failed) {
        code = ts_fail(TS_EXIT_ERROR, "out of memory");
    } else if (fwrite(out->buf, 1, out->len, stdout) != out->len || fflush(stdout) != 0) {
        code = ts_fail(TS_EXIT_ERROR, "cannot write: %s", strerror(errno));
    }
    rdi_text_free(out);
    return code;
}

static int show(const struct ts_options *o, const struct host *hosts, size_t n) {
    struct rdi_text out = {0};
    const char **names = calloc(n, sizeof *names);
    if (names) {
        (o->json ? print_json : print_text)(&out, hosts, n, names);
    }
    out.failed = out.failed || !names;
    free(names);
    return print(&out);
}

static rondo_status decide(const struct ts_options *o, const struct host *hosts, size_t n,
                           struct rdi_decision **d) {
    struct rdi_decide_host *in = calloc(n, sizeof *in);
    for (size_t i = 0; in && i < n; i++) {
        const rondo_topo *t = hosts[i].topo ? hosts[i].topo : hosts[hosts[i].same].topo;
        const char *own = rondo_topo_machine(t)->host;
        in[i].name = hosts[i].name[0] ? hosts[i].name : own[0] ? own : "host";
        in[i].topo = t;
        in[i].ranks = o->ranks ? o->ranks : rdi_decide_default_ranks(t);
    }
    rondo_status s = in ? rdi_decide(in, (int)n, d) : RONDO_ERR_NOMEM;
    free(in);
    return s;
}

static int draw(const struct ts_options *o, const struct host *hosts, size_t n,
                const struct rdi_decision *d) {
    size_t *same = calloc(n, sizeof *same);
    for (size_t i = 0; same && i < n; i++) {
        same[i] = hosts[i].same;
    }
    int code = same ? ts_draw(o, d, same) : ts_fail(TS_EXIT_ERROR, "out of memory");
    free(same);
    return code;
}

// Pictures first: what is printed says that all went well.
static int show_decision(const struct ts_options *o, const struct host *hosts, size_t n) {
    struct rdi_text out = {0};
    struct rdi_decision *d = NULL;
    rondo_status s = decide(o, hosts, n, &d);
    if (s != RONDO_OK) {
        return ts_fail(TS_EXIT_ERROR, "%s",
                       s == RONDO_ERR_NOMEM ? "out of memory" : rondo_last_error());
    }
    int code = o->svg || o->png ? draw(o, hosts, n, d) : -1;
    if (code < 0 && o->decide) {
        (o->json ? ts_decide_json : ts_decide_text)(&out, d);
        code = print(&out);
    }
    rdi_decision_free(d);
    return code;
}

// ---- All -----------------------------------------------------------------------------------------

static int run(const struct ts_options *o) {
    size_t n = o->n ? o->n : 1;
    int code = -1;
    struct host *hosts = calloc(n, sizeof *hosts);
    if (!hosts) {
        return ts_fail(TS_EXIT_ERROR, "out of memory");
    }
    for (size_t i = 0; code < 0 && i < n; i++) {
        code = load_one(o, hosts, i);
    }
    if (code < 0 && o->save && rondo_topo_save(hosts[0].topo, o->save) != RONDO_OK) {
        code = ts_fail(TS_EXIT_ERROR, "%s", rondo_last_error());
    }
    bool written = o->save || o->svg || o->png;
    if (code < 0 && (o->decide || o->svg || o->png)) {
        code = show_decision(o, hosts, n);
    }
    // What was to be written has been; only without a file it goes to the screen.
    if (code < 0) {
        code = written && !o->json ? 0 : show(o, hosts, n);
    }
    for (size_t i = 0; i < n; i++) {
        rondo_topo_free(hosts[i].topo);
        free(hosts[i].text);
    }
    free(hosts);
    return code;
}

int main(int argc, char **argv) {
    struct ts_options o;
    int code = ts_options_parse(&o, argc, argv);
    code = code < 0 ? ts_options_complete(&o) : code;
    // hwloc says on stderr what it cannot read; we say it ourselves.
    (void)setenv("HWLOC_HIDE_ERRORS", "2", 0);
    code = code < 0 ? run(&o) : code;
    ts_options_free(&o);
    return code;
}
