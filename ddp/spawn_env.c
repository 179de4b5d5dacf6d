// SPDX-License-Identifier: MIT
// What a launcher gives to its ranks: their place in the job, the store's address, the job's key.
//
// The names are torchrun's, so that a program that runs under it runs here, plus those of Rondo.
#include "ddp/launch.h"
#include "transport/bootstrap/bootstrap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool rdi_place_one_thread(int local_world) {
    return local_world > 1 && getenv("OMP_NUM_THREADS") == NULL;
}

void rdi_run_id(const struct rdi_env *env, char id[RDI_RUN_ID_CAP]) {
    uint8_t r[8];
    env->random(env->self, r, sizeof r);
    snprintf(id, RDI_RUN_ID_CAP, "rondo%02x%02x%02x%02x%02x%02x%02x%02x", r[0], r[1], r[2], r[3],
             r[4], r[5], r[6], r[7]);
}

int rdi_place_env(const struct rdi_place *p,
                  int (*set)(void *arg, const char *name, const char *value), void *arg) {
    const struct {
        const char *name;
        int value;
    } numbers[] = {
        {"RANK", p->rank},
        {"LOCAL_RANK", p->local_rank},
        {"WORLD_SIZE", p->world},
        {"LOCAL_WORLD_SIZE", p->local_world},
        {"GROUP_RANK", p->node},
        {"GROUP_WORLD_SIZE", p->nodes},
        {"ROLE_RANK", p->rank},
        {"ROLE_WORLD_SIZE", p->world},
        {"MASTER_PORT", p->master_port},
        {"TORCHELASTIC_RESTART_COUNT", p->restart},
        {"TORCHELASTIC_MAX_RESTARTS", p->max_restarts},
    };
    char text[16], restart[16];
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        snprintf(text, sizeof text, "%d", numbers[i].value);
        int r = set(arg, numbers[i].name, text);
        if (r != 0) {
            return r;
        }
    }
    snprintf(text, sizeof text, "%d", p->key_fd);
    snprintf(restart, sizeof restart, "%d", p->restart);
    const struct {
        const char *name, *value;
    } words[] = {
        {"ROLE_NAME", "default"},
        {"MASTER_ADDR", p->master_addr},
        {"TORCHELASTIC_RUN_ID", p->run_id},
        {RDI_ENV_STORE, "launcher"},
        {RDI_ENV_ELASTIC, p->elastic},
        {RDI_ENV_RESTART, p->restart > 0 ? restart : NULL},
        // What torchrun around this launcher says of its own store, and the key of a rondo-run
        // around it, are not true here.
        {"TORCHELASTIC_USE_AGENT_STORE", NULL},
        {RDI_ENV_KEY_FD, p->key_fd >= 0 ? text : NULL},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        int r = set(arg, words[i].name, words[i].value);
        if (r != 0) {
            return r;
        }
    }
    return p->one_thread ? set(arg, "OMP_NUM_THREADS", "1") : 0;
}

// ---- The key ------------------------------------------------------------------------------------

// The environment as the ranks will see it: with no descriptor of a launcher around this one.
static char *get_for_ranks(const char *name) {
    return strcmp(name, RDI_ENV_KEY_FD) != 0 ? getenv(name) : NULL;
}

rondo_status rdi_launch_key(const struct rdi_options *options, bool single_host,
                            struct rdi_job *job, int *key_fd) {
    rondo_config config = RONDO_CONFIG_INIT;
    char source[RDI_KEY_SOURCE];
    // Whatever the number of ranks, the launcher shares the key with at least one.
    struct rdi_launch launch = {.size = 2, .local_rank = -1, .single_host = single_host};
    *key_fd = -1;
    job->rank = 0;
    job->size = launch.size;
    bool no_key = strcmp(options->str[RDI_OPT_AUTH], "none") == 0;
    if (!single_host || no_key || options->str[RDI_OPT_KEY_FILE][0] != '\0') {
        return rdi_key_find_for(&config, options, &launch, get_for_ranks, job, source);
    }
    int fd = rdi_key_memfd();
    if (fd < 0) {
        return RONDO_ERR_SYSTEM;
    }
    uint8_t secret[RDI_KEY_BYTES];
    rondo_status s = RONDO_OK;
    ssize_t n = pread(fd, secret, sizeof secret, 0);
    if (n < 0) {
        s = rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot read the job's key back");
    } else {
        s = rdi_key_set(job, secret, (size_t)n);
    }
    explicit_bzero(secret, sizeof secret);
    if (s != RONDO_OK) {
        close(fd);
        return s;
    }
    *key_fd = fd;
    return RONDO_OK;
}
