// SPDX-License-Identifier: MIT
// What the verbs transport says of device memory over a driver that has no DMA-BUF, as soft-RoCE's: that it cannot
// be used, by the port's name, why, and what happens instead. Exit code 0: it says so. 77: no such device.
#include "transport/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES 65536

static rondo_status on_accept(void *self, struct rdi_link *link) {
    (void)self;
    (void)link;
    return rdi_fail(RONDO_ERR_PEER, "nobody is expected");
}

static int check(struct rdi_net *net, const void *memory) {
    static const char *const words[] = {"RDMA port ", "takes no DMA-BUF",
                                        "nvidia-peermem is not loaded",
                                        "device memory is staged through host memory"};
    rondo_status s = net->ops->device_memory(net, memory, BYTES);
    printf("device_memory: %s: %s\n", rondo_status_name(s), rondo_last_error());
    int missing = s != RONDO_ERR_UNSUPPORTED;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (s == RONDO_ERR_UNSUPPORTED && strstr(rondo_last_error(), words[i]) == NULL) {
            printf("it does not say '%s'\n", words[i]);
            missing = 1;
        }
    }
    if (net->attr.device) {
        printf("the transport says that it may use device memory\n");
    }
    return missing || net->attr.device;
}

int main(void) {
    struct rdi_options options;
    struct rdi_job job = {.rank = 0, .size = 1, .auth = true, .host = "here"};
    struct rdi_net_events events = {.accept = on_accept};
    struct rdi_net_params params = {.options = &options, .job = &job, .events = &events};
    struct rdi_net *net = NULL;
    rdi_env_system(&params.env, NULL, NULL);
    if (rdi_options_load(&options, NULL, getenv) != RONDO_OK ||
        rdi_key_set(&job, "a key that only tests use", 25) != RONDO_OK) {
        printf("%s\n", rondo_last_error());
        return 1;
    }
    rondo_status s = rdi_verbs_ops.open(&params, &net);
    if (s != RONDO_OK) {
        printf("%s\n", rondo_last_error());
        return s == RONDO_ERR_UNSUPPORTED ? 77 : 1;
    }
    // A file stands for a DMA-BUF; the driver would not even look at it.
    int fd = memfd_create("device", MFD_CLOEXEC), rc = 1;
    void *memory = mmap(NULL, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd >= 0 && memory != MAP_FAILED && ftruncate(fd, BYTES) == 0 &&
        rdi_mem_register_device(memory, BYTES, fd, 0) == RONDO_OK) {
        rc = check(net, memory);
        rdi_mem_unregister_device(memory);
    } else {
        perror("device memory");
    }
    net->ops->close(net);
    return rc;
}
