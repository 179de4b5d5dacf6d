// SPDX-License-Identifier: MIT
// Where the store is: host and port, from the configuration, the environment, or what a launcher tells of its hosts.
#include "transport/bootstrap/launchers.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Only names and addresses that are loopback by what they are; no resolver is asked.
static bool is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    return strcmp(host, "localhost") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127) ||
           (inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6));
}

// Rank 0's host, the first of the launcher's list.
static rondo_status first_of_list(const struct rdi_search *f, struct rdi_launch *out) {
    size_t n;
    rondo_status s = rdi_hosts_count(f->row->form, f->hosts, &n);
    if (s == RONDO_OK) {
        s = rdi_hosts_at(f->row->form, f->hosts, 0, out->host, sizeof out->host);
    }
    out->host_from = f->row->hosts;
    return s == RONDO_OK ? s
                         : rdi_fail(RONDO_ERR_BOOTSTRAP,
                                    "rank %d of %d does not know where rank 0 is, as the list of"
                                    " hosts in %s cannot be understood: %s; set MASTER_ADDR to the"
                                    " host of rank 0",
                                    out->rank, out->size, f->row->hosts, rondo_last_error());
}

static rondo_status find_host(const struct rdi_search *f, struct rdi_launch *out) {
    const char *host = f->config->master_addr, *name = "rondo_config.master_addr";
    if (host == NULL) {
        name = "MASTER_ADDR";
        host = rdi_variable(f->get, name);
    }
    if (host == NULL && out->single_host) {
        host = "127.0.0.1";
    } else if (host == NULL && f->hosts != NULL) {
        return first_of_list(f, out);
    }
    if (host == NULL) {
        return rdi_with_remedy(
            f, rdi_fail(RONDO_ERR_BOOTSTRAP,
                        "rank %d of %d does not know where rank 0 is: set the environment variable"
                        " MASTER_ADDR to the host of rank 0 and MASTER_PORT to a free port there,"
                        " or start the program with rondo-run",
                        out->rank, out->size));
    }
    if (host[0] == '\0' || strlen(host) >= sizeof out->host) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "%s is %s; it must be a host name or an address", name,
                        host[0] == '\0' ? "empty" : "too long");
    }
    snprintf(out->host, sizeof out->host, "%s", host);
    out->loopback = is_loopback(host);
    out->single_host = out->single_host || out->loopback;
    return RONDO_OK;
}

static uint32_t add_text(uint32_t hash, const char *text) {
    for (; *text != '\0'; text++) {
        hash = (hash ^ (uint8_t)*text) * 16777619u;
    }
    return hash;
}

// A port that follows from the job's id, so that jobs on one host seldom meet; 0 if there is none. What has the same port
// all the same (step 7 of job J and step 0 of job J + 1, for one) is kept apart by the launch's id.
static int port_of_job(rdi_getenv get, const struct rdi_launcher *row) {
    const char *job = rdi_variable(get, row->job_id), *step = rdi_variable(get, row->step_id);
    if (job == NULL) {
        return 0;
    }
    step = step != NULL ? step : "";
    if (row->step_id != NULL && step[strspn(step, "0123456789")] == '\0') {
        // The steps of a job that follow each other have different ones.
        return 20000 + (int)((strtoul(job, NULL, 10) * 7 + strtoul(step, NULL, 10)) % 10000);
    }
    return 20000 + (int)(add_text(add_text(2166136261u, job), step) % 10000);
}

static rondo_status find_port(const struct rdi_search *f, struct rdi_launch *out) {
    const int given = f->config->master_port;
    out->port_given = given != -1 || rdi_variable(f->get, "MASTER_PORT") != NULL;
    if (given != -1) {
        out->port = given;
        return given >= 1 && given <= 65535
                   ? RONDO_OK
                   : rdi_fail(
                         RONDO_ERR_INVALID,
                         "rondo_config.master_port is %d; it can be 1..65535, or -1 to find it",
                         given);
    }
    if (rdi_variable(f->get, "MASTER_PORT") == NULL) {
        int port = f->row != NULL ? port_of_job(f->get, f->row) : 0;
        out->port = port > 0 ? port : RDI_MASTER_PORT_DEFAULT;
        return RONDO_OK;
    }
    rondo_status s = rdi_read_int(f->get, "MASTER_PORT", 1, 65535, &out->port);
    const char *agent = rdi_variable(f->get, "TORCHELASTIC_USE_AGENT_STORE");
    if (s == RONDO_OK && agent != NULL && strcmp(agent, "True") == 0 && !out->launcher_store) {
        // torchrun's agent keeps PyTorch's own store at that port, so ours is beside it.
        out->port += out->port < 65535 ? 1 : -1;
    }
    return s;
}

// Whether a variable is there and is this number.
static bool is_number(rdi_getenv get, const char *name, int number) {
    int value;
    return rdi_variable(get, name) != NULL &&
           rdi_read_int(get, name, 0, RDI_RANKS_MAX, &value) == RONDO_OK && value == number;
}

// What the launcher offers to this very rank, and not one around it to another.
static unsigned find_offers(const struct rdi_search *f, const struct rdi_launch *out) {
    unsigned offers = f->ours ? f->row->offers : 0;
    if (rdi_variable(f->get, "PMIX_NAMESPACE") == NULL ||
        !is_number(f->get, "PMIX_RANK", out->rank)) {
        offers &= ~(unsigned)RDI_VIA_PMIX;
    }
    if (rdi_variable(f->get, "PMI_FD") == NULL || !is_number(f->get, "PMI_RANK", out->rank) ||
        !is_number(f->get, "PMI_SIZE", out->size)) {
        offers &= ~(unsigned)RDI_VIA_PMI;
    }
    return offers;
}

rondo_status rdi_find_store(const struct rdi_search *f, struct rdi_launch *out) {
    const char *store = rdi_variable(f->get, RDI_ENV_STORE);
    if (store != NULL && strcmp(store, "launcher") != 0) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP,
                        "the environment variable " RDI_ENV_STORE
                        " is '%.40s'; it can be 'launcher' (who serves the store then) or unset",
                        store);
    }
    out->launcher_store = store != NULL && f->config->master_addr == NULL &&
                          f->config->master_port == -1;
    if (f->config->master_addr == NULL && rdi_variable(f->get, "MASTER_ADDR") == NULL &&
        !out->launcher_store) {
        out->offered = find_offers(f, out);
    }
    rondo_status s = find_host(f, out);
    if (s != RONDO_OK || out->host_from == NULL) {
        out->offered &= ~(unsigned)RDI_VIA_MUNGE; // nobody to ask, or all on this host
    }
    if (s != RONDO_OK && out->offered != 0) {
        out->host[0] = '\0';
        out->host_from = NULL;
        s = RONDO_OK;
    }
    return s == RONDO_OK ? find_port(f, out) : s;
}
