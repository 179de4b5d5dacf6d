// SPDX-License-Identifier: MIT
// rondo_all_reduce in place, float32 sum, through the public interface only. Forks its ranks.
//   --ranks N --port P --transport shm|tcp --buffer any|rondo
//   --version yes: only says which library this is
//   "any": the loop's own private memory; "rondo": from rondo_mem_alloc()
#include "loop.h"
#include "ranks.h"

#include <rondo/ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static unsigned char job_key[32];

static int report(const char *what) {
    fprintf(stderr, "%s: %s\n", what, rondo_last_error());
    return 1;
}

static float *alloc(void *state, size_t bytes) {
    void *p;
    (void)state;
    if (rondo_mem_alloc(bytes, &p) != RONDO_OK) {
        report("rondo_mem_alloc");
        return NULL;
    }
    return p;
}

static void release(void *state, float *buffer) {
    (void)state;
    if (rondo_mem_free(buffer) != RONDO_OK)
        report("rondo_mem_free");
}

static int all_reduce(void *state, float *buffer, size_t count) {
    rondo_comm *comm = state;
    if (rondo_all_reduce(buffer, buffer, count, RONDO_F32, RONDO_SUM, comm) != RONDO_OK)
        return report("rondo_all_reduce");
    return 0;
}

static int run_rank(int argc, char **argv, int rank, int size) {
    const char *wire = loop_argument(argc, argv, "--transport", "shm");
    char options[64];
    rondo_comm *comm;
    snprintf(options, sizeof options, "transport=%s", wire);
    rondo_config config = RONDO_CONFIG_INIT;
    config.rank = rank;
    config.world_size = size;
    config.local_rank = rank;
    config.master_addr = "127.0.0.1";
    config.master_port = atoi(loop_argument(argc, argv, "--port", "29500"));
    config.key = job_key;
    config.key_len = sizeof job_key;
    config.options = options;
    if (rondo_init(&config, &comm) != RONDO_OK)
        return report("rondo_init");
    loop_peer peer = {.rank = rank, .size = size, .state = comm, .op = all_reduce};
    if (strcmp(loop_argument(argc, argv, "--buffer", "any"), "rondo") == 0) {
        peer.alloc = alloc;
        peer.release = release;
    }
    int rc = loop_run(argc, argv, &peer);
    if (rondo_comm_destroy(comm) != RONDO_OK)
        return report("rondo_comm_destroy");
    return rc;
}

int main(int argc, char **argv) {
    if (loop_argument(argc, argv, "--version", NULL)) {
        puts(rondo_version());
        return 0;
    }
    if (getrandom(job_key, sizeof job_key, 0) != (ssize_t)sizeof job_key) {
        perror("getrandom");
        return 1;
    }
    return ranks_run(argc, argv, atoi(loop_argument(argc, argv, "--ranks", "2")), run_rank);
}
