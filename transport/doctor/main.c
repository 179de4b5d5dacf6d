// SPDX-License-Identifier: MIT
// rondo-doctor's life: what is asked, the checks one after another, the report, the exit code.
#include "transport/bootstrap/point.h"
#include "transport/doctor/doctor.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OFFER_MS 10000 // for the launcher's server to answer

static char *nothing(const char *name) {
    (void)name;
    return NULL;
}

// The environment's options may be wrong: that is a finding. Those of the command line may not.
static int load_options(struct doctor *d) {
    char text[4096];
    if (d->ask.options != NULL && strlen(d->ask.options) > sizeof text / 2) {
        return dr_fail("--options is longer than %zu bytes", sizeof text / 2);
    }
    snprintf(text, sizeof text, "%s%.64s%s%s", d->ask.transport != NULL ? "transport=" : "",
             d->ask.transport != NULL ? d->ask.transport : "",
             d->ask.transport != NULL && d->ask.options != NULL ? "," : "",
             d->ask.options != NULL ? d->ask.options : "");
    if (rdi_options_load(&d->options, text, nothing) != RONDO_OK) {
        return dr_fail("%s", rondo_last_error());
    }
    struct rdi_options both;
    if (rdi_options_load(&both, text, getenv) == RONDO_OK) {
        d->options = both;
    } else {
        d->options_error = strdup(rondo_last_error());
        d->no_memory = d->options_error == NULL;
    }
    return -1;
}

static void find_place(struct doctor *d) {
    struct rdi_job job = {.rank = 0};
    rdi_host_find(&job);
    snprintf(d->host, sizeof d->host, "%s", job.host);
    d->launch_status = rdi_discover(&d->config, rdi_pmix_getenv, &d->launch);
    if (d->launch_status == RONDO_OK) {
        rdi_key_spare_munge(&d->config, &d->options, getenv, &d->launch);
        d->launch_status =
            rdi_point_choose(&d->launch, getenv, OFFER_MS, d->offer_error, sizeof d->offer_error);
    }
    if (d->launch_status != RONDO_OK) {
        snprintf(d->launch_error, sizeof d->launch_error, "%s", rondo_last_error());
    }
    int found = d->launch_status == RONDO_OK && d->launch.size > 1 ? d->launch.size : 2;
    d->ranks = d->ask.ranks > 0 ? d->ask.ranks : found;
    if (d->ask.per_node > d->ranks) {
        d->ranks = d->ask.per_node;
    }
    d->per_node = d->ask.per_node > 0 ? d->ask.per_node : d->ranks;
}

static void list(void) {
    for (size_t i = 0; i < dr_ncheck; i++) {
        printf("%-20s %-8s %s\n", dr_checks[i].id, dr_checks[i].section, dr_checks[i].title);
    }
    for (size_t i = 0; i < DR_PEER_CHECKS; i++) {
        printf("%-20s %-8s %s (with --peer)\n", dr_peer_checks[i].id, dr_peer_checks[i].section,
               dr_peer_checks[i].title);
    }
}

static bool chosen(const struct doctor *d, const struct dr_check *c) {
    for (const char *item = d->ask.only; item != NULL;) {
        size_t n = strcspn(item, ",");
        if ((strlen(c->section) == n && memcmp(c->section, item, n) == 0) ||
            (strlen(c->id) == n && memcmp(c->id, item, n) == 0)) {
            return true;
        }
        item = item[n] == ',' ? item + n + 1 : NULL;
    }
    return d->ask.only == NULL;
}

static void run(struct doctor *d, const struct dr_check *c) {
    if (chosen(d, c)) {
        d->check = c;
        c->run(d);
    }
}

// 0, or the errno for which the report could not be written whole.
static int finish(FILE *f) {
    int err = fflush(f) != 0 || ferror(f) ? errno : 0;
    return f != stdout && fclose(f) != 0 && err == 0 ? errno : err;
}

static int report(const struct doctor *d) {
    bool to_stdout = d->ask.json != NULL && strcmp(d->ask.json, "-") == 0;
    const char *where = "standard output";
    int err = 0;
    if (!to_stdout) {
        const char *none = getenv("NO_COLOR"), *term = getenv("TERM");
        bool colour = isatty(STDOUT_FILENO) && (none == NULL || none[0] == '\0') && term != NULL &&
                      strcmp(term, "dumb") != 0;
        dr_report_text(d, stdout, colour);
        err = finish(stdout);
    }
    if (d->ask.json != NULL && err == 0) {
        FILE *f = to_stdout ? stdout : fopen(d->ask.json, "w");
        where = to_stdout ? where : d->ask.json;
        if (f != NULL) {
            dr_report_json(d, f);
        }
        err = f != NULL ? finish(f) : errno;
    }
    if (err != 0 || d->no_memory) {
        dr_fail("the report is not whole: %s: %s", err != 0 ? where : "this host",
                strerror(err != 0 ? err : ENOMEM));
        return DR_CANNOT_RUN;
    }
    return d->count[DR_ERROR] > 0 ? DR_CANNOT_RUN : DR_CAN_RUN;
}

int main(int argc, char **argv) {
    static struct doctor d = {.config = RONDO_CONFIG_INIT};
    int code = dr_parse(argc, argv, &d.ask);
    if (code < 0 && d.ask.list) {
        list();
        code = DR_CAN_RUN;
    }
    if (code < 0) {
        code = load_options(&d);
    }
    if (code >= 0) {
        return code;
    }
    signal(SIGPIPE, SIG_IGN);
    rdi_env_system(&d.env, NULL, NULL);
    d.root = d.ask.root != NULL ? d.ask.root : getenv("RONDO_DOCTOR_ROOT");
    d.root = d.root != NULL ? d.root : "";
    find_place(&d);
    for (size_t i = 0; i < dr_ncheck && !d.ask.listen; i++) {
        run(&d, &dr_checks[i]);
    }
    if (d.ask.peer != NULL) {
        dr_peer(&d);
    } else if (d.ask.listen) {
        dr_listen(&d);
    }
    code = report(&d);
    dr_free(&d);
    return code;
}
