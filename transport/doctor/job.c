// SPDX-License-Identifier: MIT
// What the environment says of the job: options, place, key.
#include "transport/bootstrap/point.h"
#include "transport/doctor/doctor.h"
#include "transport/text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

// ---- Options -------------------------------------------------------------------------------------

static void variable_of(const char *option, char *name, size_t cap) {
    snprintf(name, cap, "RONDO_%s", option);
    for (char *c = name; *c != '\0'; c++) {
        *c = (char)toupper((unsigned char)*c);
    }
}

void dr_job_options(struct doctor *d) {
    if (d->options_error != NULL) {
        dr_add(d, DR_ERROR, NULL, "%s", d->options_error);
        dr_means(d, "rondo_init() fails on every rank that has this environment");
        dr_remedy(d,
                  "correct or unset the variable; rondo(7) has all options. The findings below are"
                  " those for the defaults");
        return;
    }
    unsigned set = 0;
    for (size_t i = 0; i < rondo_option_count(); i++) {
        char name[96];
        variable_of(rondo_option(i)->name, name, sizeof name);
        const char *value = getenv(name);
        if (value != NULL && value[0] != '\0') {
            dr_add(d, DR_OK, name, "%s, for option %s (default: %s)", value, rondo_option(i)->name,
                   rondo_option(i)->default_value[0] != '\0' ? rondo_option(i)->default_value
                                                             : "empty");
            set++;
        }
    }
    if (set == 0) {
        dr_add(d, DR_OK, NULL, "the environment sets no option: all have their defaults");
    }
}

static char *nothing(const char *name) {
    (void)name;
    return NULL;
}

// Variables that begin with RONDO_ and are no options.
static bool is_known(const char *name, size_t n) {
    static const char *const others[] = {RDI_ENV_KEY_FD, RDI_ENV_STORE, "RONDO_DOCTOR_ROOT"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strlen(others[i]) == n && memcmp(others[i], name, n) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < rondo_option_count(); i++) {
        char option[96];
        variable_of(rondo_option(i)->name, option, sizeof option);
        if (strlen(option) == n && memcmp(option, name, n) == 0) {
            return true;
        }
    }
    return false;
}

void dr_job_variables(struct doctor *d) {
    for (char **e = environ; *e != NULL; e++) {
        size_t n = strcspn(*e, "=");
        if (strncmp(*e, "RONDO_", 6) != 0 || is_known(*e, n)) {
            continue;
        }
        // The library's own words for a name that it does not know have the nearest one.
        char name[64], text[80];
        snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : (int)sizeof name - 1, *e);
        snprintf(text, sizeof text, "%s=", name + 6);
        for (char *c = text; *c != '\0'; c++) {
            *c = *c == ',' ? '_' : (char)tolower((unsigned char)*c);
        }
        struct rdi_options unused;
        const char *nearest = NULL;
        if (rdi_options_load(&unused, text, nothing) != RONDO_OK) {
            nearest = strstr(rondo_last_error(), "the nearest is");
        }
        dr_add(d, DR_WARNING, name, "no option of this version is called so%s%s",
               nearest != NULL ? "; " : "", nearest != NULL ? nearest : "");
        dr_means(d, "it has no effect");
        dr_remedy(d, "unset %s, or correct its name; rondo(7) has all options", name);
    }
}

// ---- Place ---------------------------------------------------------------------------------------

static void say_order(struct doctor *d) {
    struct rdi_text text = {0};
    const char *name;
    char why[160];
    rdi_text_add(&text, "rank and size come from the first of: rondo_config");
    for (size_t i = 0; rdi_launcher_tell(i, getenv, &name, why, sizeof why); i++) {
        rdi_text_add(&text, "; %s (%s)", name, why);
    }
    d->no_memory = d->no_memory || text.failed;
    dr_add(d, DR_INFO, NULL, "%s", text.failed ? "" : text.buf);
    rdi_text_free(&text);
}

void dr_job_launcher(struct doctor *d) {
    const struct rdi_launch *l = &d->launch;
    if (d->launch_status != RONDO_OK) {
        dr_add(d, DR_ERROR, NULL, "%s", d->launch_error);
        dr_means(d, "rondo_init() fails with this text");
        dr_remedy(d, "start the program with rondo-run or torchrun, or set the variables that are"
                     " missing on every rank");
    } else if (l->size == 1) {
        dr_add(d, DR_INFO, NULL, "%s: a program started here is a job of one rank",
               strcmp(l->launcher, "no launcher") == 0 ? "no launcher's variables are set"
                                                       : l->launcher);
        dr_remedy(d, "rondo-run -n %d PROGRAM", d->ranks);
    } else {
        char local[64] = "local rank to be counted";
        if (l->local_rank >= 0) {
            int n = snprintf(local, sizeof local, "local rank %d", l->local_rank);
            if (l->local_size > 0) {
                snprintf(local + n, sizeof local - (size_t)n, " of %d", l->local_size);
            }
        }
        // By munge rank 0 is asked for the key there, if a key is needed.
        const bool told = l->via == RDI_VIA_PMIX || l->via == RDI_VIA_PMI;
        if (told) {
            dr_add(d, DR_OK, NULL,
                   "%s: rank %d of %d, %s; rank 0 serves the store and tells the others where,"
                   " through the launcher's %s",
                   l->launcher, l->rank, l->size, local, rdi_via_name(l->via));
        } else {
            dr_add(d, DR_OK, NULL,
                   "%s: rank %d of %d, %s; the store is at %s, port %d, served by %s", l->launcher,
                   l->rank, l->size, local, l->host, l->port,
                   l->launcher_store ? "the launcher" : "rank 0");
        }
        if (d->offer_error[0] != '\0') {
            dr_add(d, DR_INFO, NULL, "what the launcher offers to tell where rank 0 is: %s",
                   d->offer_error);
        }
        if (!told && l->loopback && d->per_node < d->ranks) {
            dr_add(d, DR_ERROR, NULL, "the store's host %s is one that only this host reaches",
                   l->host);
            dr_means(d, "ranks on other hosts never find the store");
            dr_remedy(d, "set MASTER_ADDR to an address of rank 0's host that the others reach");
        }
    }
    say_order(d);
}

// ---- Key -----------------------------------------------------------------------------------------

static void say_key_order(struct doctor *d) {
    char text[640] = "the key comes from the first of: ";
    size_t used = strlen(text);
    for (size_t i = 0; rdi_key_order(i) != NULL && used < sizeof text; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i > 0 ? "; " : "",
                                 rdi_key_order(i));
    }
    dr_add(d, DR_INFO, NULL, "%s", text);
}

void dr_job_key(struct doctor *d) {
    // Alone there is no need of a key; what is asked is the job to come.
    struct rdi_launch launch = d->launch;
    launch.single_host = d->per_node >= d->ranks;
    struct rdi_job job = {.size = d->ranks};
    char source[RDI_KEY_SOURCE] = "";
    rondo_status s = rdi_key_look_for(&d->config, &d->options, &launch, getenv, &job, source);
    if (s == RONDO_AGAIN) {
        dr_add(d, DR_OK, NULL, "the job's key: a random one from %s", source);
    } else if (s != RONDO_OK) {
        bool home = s == RONDO_ERR_AUTH;
        dr_add(d, home ? DR_WARNING : DR_ERROR, NULL, "%s", rondo_last_error());
        dr_means(d, home ? "ranks started without rondo-run make one at first use, where this home"
                           " directory can be written; it must be the same file on all hosts"
                         : "rondo_init() fails with this text");
        dr_remedy(d, "(umask 077; head -c 32 /dev/urandom | base64 > KEYFILE), the same file on all"
                     " hosts, and RONDO_KEY_FILE=KEYFILE");
    } else if (job.auth || d->ranks == 1) {
        dr_add(d, DR_OK, NULL, "the job's key: %s%s", source,
               strncmp(source, "the file", 8) == 0 ? ", readable by its owner only" : "");
    } else {
        bool meant = strcmp(d->options.str[RDI_OPT_AUTH], "none") == 0;
        dr_add(d, meant ? DR_WARNING : DR_INFO, NULL, "the job's key: %s", source);
        dr_means(d, meant ? "whoever reaches a port of the job can join it"
                          : "rondo-run makes a key for its ranks; ranks started without it are open"
                            " to local users");
        dr_remedy(d, meant ? "use a key (unset RONDO_AUTH) unless nobody else reaches the network"
                           : "start ranks with rondo-run, or give them a file with RONDO_KEY_FILE");
    }
    rdi_job_clear(&job);
    say_key_order(d);
}
