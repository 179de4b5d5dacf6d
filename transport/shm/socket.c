// SPDX-License-Identifier: MIT
// The Unix sockets on which ranks of a host meet.
//
// Their names are abstract: nothing lies in a file system, so nothing is left behind, and they are visible
// within one network namespace only, as TCP ports on loopback are. The name is 16 random bytes, so it cannot
// be guessed or taken beforehand; who else learns it still has to run as the same user and prove the job's key.
#include "transport/shm/shm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_TYPE (SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC)

static socklen_t set_name(struct sockaddr_un *un, const struct shm_address *a) {
    memset(un, 0, sizeof *un);
    un->sun_family = AF_UNIX;
    int n = snprintf(un->sun_path + 1, sizeof un->sun_path - 1, "rondo-shm-");
    for (size_t i = 0; i < sizeof a->name; i++) {
        n +=
            snprintf(un->sun_path + 1 + n, sizeof un->sun_path - 1 - (size_t)n, "%02x", a->name[i]);
    }
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

static int close_with_errno(int fd) {
    int err = errno;
    close(fd);
    errno = err;
    return -1;
}

int shm_listen(const struct shm_address *a) {
    struct sockaddr_un un;
    socklen_t len = set_name(&un, a);
    int fd = socket(AF_UNIX, SOCKET_TYPE, 0);
    if (fd < 0) {
        return -1;
    }
    if (bind(fd, (struct sockaddr *)&un, len) != 0 || listen(fd, SOMAXCONN) != 0) {
        return close_with_errno(fd);
    }
    return fd;
}

int shm_dial(const struct shm_address *a) {
    struct sockaddr_un un;
    socklen_t len = set_name(&un, a);
    int fd = socket(AF_UNIX, SOCKET_TYPE, 0);
    if (fd < 0) {
        return -1;
    }
    if (connect(fd, (struct sockaddr *)&un, len) != 0) {
        return close_with_errno(fd);
    }
    return fd;
}

bool shm_same_user(int fd, int32_t *pid) {
    struct ucred cred;
    socklen_t len = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0 || cred.uid != geteuid()) {
        return false;
    }
    *pid = (int32_t)cred.pid;
    return true;
}
