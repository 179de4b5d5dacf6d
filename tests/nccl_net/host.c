// SPDX-License-Identifier: MIT
// One end of a stream of messages, for hosts that meet through a file only: tests/nccl_net/hosts runs it in
// network namespaces.
//
//   nccl_net_host libnccl-net-rondo.so recv|send FILE DEVICES DEVICE [WORD...]
//
// DEVICES is how many there must be. Afterwards each WORD must have been logged.
#include "tests/nccl_net/proxy.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const size_t sizes[] = {524288, 1, 3000000, 0};

static void put_handle(const char *path, const uint8_t *handle) {
    char part[512];
    snprintf(part, sizeof part, "%s.part", path);
    int fd = open(part, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    px_check(fd >= 0 && write(fd, handle, RDI_NCCL_HANDLE) == RDI_NCCL_HANDLE);
    close(fd);
    px_check(rename(part, path) == 0);
}

static void get_handle(const char *path, uint8_t *handle) {
    int fd = -1;
    for (unsigned i = 0; i < 3000 && fd < 0; i++) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            usleep(10000);
        }
    }
    px_check(fd >= 0 && read(fd, handle, RDI_NCCL_HANDLE) == RDI_NCCL_HANDLE);
    close(fd);
}

int main(int argc, char **argv) {
    if (px_arguments(argc, argv) != 0 || argc < 6) {
        return 2;
    }
    bool sends = strcmp(argv[2], "send") == 0;
    int dev = atoi(argv[5]);
    struct px p;
    uint8_t handle[RDI_NCCL_HANDLE];
    void *listen = NULL, *comm;
    struct px_stream s = {.seed = 3, .count = 100, .depth = 8, .sizes = sizes, .nsizes = 4};
    px_load(&p, 12);
    px_check(px_devices(&p) == atoi(argv[4]));
    if (sends) {
        get_handle(argv[3], handle);
        comm = px_connected(&p, dev, handle);
        px_send_stream(&p, comm, &s);
        px_close_send(&p, comm);
    } else {
        px_listen(&p, dev, handle, &listen);
        put_handle(argv[3], handle);
        comm = px_accepted(&p, listen);
        px_close_listen(&p, listen);
        px_recv_stream(&p, comm, &s);
        px_close_recv(&p, comm);
    }
    px_check(s.error == 0 && s.done == s.count);
    px_unload(&p);
    for (int i = 6; i < argc; i++) {
        if (!px_logged(argv[i], NULL)) {
            px_die(__FILE__, __LINE__, "nothing was logged of \"%s\"", argv[i]);
        }
    }
    return 0;
}
