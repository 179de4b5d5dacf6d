// SPDX-License-Identifier: MIT
// Which host this is: its name for messages, and an id that is equal for processes that can share
// memory.
//
// The id is made of the kernel's boot id and the network namespace: containers of one host that
// share neither are hosts of their own, and so are the namespaces that tests make.
#include "transport/bootstrap/bootstrap.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Bytes read; 0 when there is no such file.
static size_t read_small(const char *path, char *buf, size_t cap) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n;
    do {
        n = read(fd, buf, cap);
    } while (n < 0 && errno == EINTR);
    close(fd);
    return n > 0 ? (size_t)n : 0;
}

void rdi_host_find(struct rdi_job *job) {
    memset(job->host, 0, sizeof job->host);
    if (gethostname(job->host, sizeof job->host - 1) != 0 || job->host[0] == '\0') {
        snprintf(job->host, sizeof job->host, "unknown-host");
    }

    char boot[64] = {0};
    if (read_small("/proc/sys/kernel/random/boot_id", boot, sizeof boot) == 0) {
        snprintf(boot, sizeof boot, "%s", job->host); // no /proc: hosts differ at least by name
    }
    // The namespace's file has one inode number for all processes in it.
    struct stat ns = {0};
    uint64_t where[2] = {0, 0};
    if (stat("/proc/self/ns/net", &ns) == 0) {
        where[0] = (uint64_t)ns.st_dev;
        where[1] = (uint64_t)ns.st_ino;
    }

    crypto_generichash_state h;
    crypto_generichash_init(&h, NULL, 0, sizeof job->host_id);
    crypto_generichash_update(&h, (const uint8_t *)boot, sizeof boot);
    crypto_generichash_update(&h, (const uint8_t *)where, sizeof where);
    crypto_generichash_final(&h, job->host_id, sizeof job->host_id);
}
