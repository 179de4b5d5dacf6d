// SPDX-License-Identifier: MIT
// gpu_probe: what the driver and each device say of themselves, as one JSON object. Exit code 77, with the reason on
// the standard error, where there is no device.
#include "tests/gpu/programs/measure.h"

#include <unistd.h>

static const struct {
    const char *name;
    int what;
} attributes[] = {
    {"integrated", RDI_CU_ATTR_INTEGRATED},
    {"unified_addressing", RDI_CU_ATTR_UNIFIED_ADDRESSING},
    {"can_flush_remote_writes", RDI_CU_ATTR_CAN_FLUSH_REMOTE_WRITES},
    {"vmm", RDI_CU_ATTR_VMM},
    {"posix_fd", RDI_CU_ATTR_POSIX_FD},
    {"gdr", RDI_CU_ATTR_GDR},
    {"gdr_with_vmm", RDI_CU_ATTR_GDR_WITH_VMM},
    {"gdr_flush_options", RDI_CU_ATTR_GDR_FLUSH_OPTIONS},
    {"gdr_ordering", RDI_CU_ATTR_GDR_ORDERING},
    {"dma_buf", RDI_CU_ATTR_DMA_BUF},
};

// What an attempt gave: "works", or the error.
static void print_attempt(const char *name, rondo_status s) {
    printf(", \"%s\": ", name);
    print_text(s == RONDO_OK ? "works" : rondo_last_error());
}

static rondo_status dmabuf_of(const struct rdi_cuda_device *d) {
    rdi_cu_ptr p;
    int fd = -1;
    uint64_t offset;
    rdi_cu_result r = cu->mem_alloc(&p, 2 << 20);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "2 MiB of device memory");
    }
    rondo_status s = rdi_cuda_dmabuf(d, p, 2 << 20, &fd, &offset);
    if (s == RONDO_OK) {
        close(fd);
    }
    (void)cu->mem_free(p);
    return s;
}

static rondo_status handle_of(const struct rdi_cuda_device *d) {
    rdi_cu_ptr p;
    rdi_cu_ipc_mem handle;
    rdi_cu_result r = cu->mem_alloc(&p, 2 << 20);
    (void)d;
    if (r == RDI_CU_OK) {
        r = cu->ipc_export(&handle, p);
        (void)cu->mem_free(p);
    }
    return r == RDI_CU_OK ? RONDO_OK : rdi_cuda_fail(r, "cuIpcGetMemHandle");
}

// A value written by a stream, and waited for.
static rondo_status memops_of(const struct rdi_cuda_device *d) {
    struct rdi_cuda_pinned word;
    rondo_status s = rdi_cuda_pinned_alloc(d, 4096, &word);
    if (s != RONDO_OK) {
        return s;
    }
    rdi_cu_result r = cu->write_value(NULL, word.device, 7, RDI_CU_WRITE_DEFAULT);
    r = r == RDI_CU_OK ? cu->wait_value(NULL, word.device, 7, RDI_CU_WAIT_GEQ) : r;
    r = r == RDI_CU_OK ? cu->stream_sync(NULL) : r;
    bool right = *(volatile uint32_t *)word.host == 7;
    rdi_cuda_pinned_free(d, &word);
    if (r != RDI_CU_OK) {
        return rdi_cuda_fail(r, "stream memory operations");
    }
    return right ? RONDO_OK : rdi_fail(RONDO_ERR_SYSTEM, "a stream's write did not arrive");
}

static void print_peers(int ordinal, int devices) {
    const char *comma = "";
    printf(", \"peers\": [");
    for (int p = 0; p < devices; p++) {
        int yes = 0;
        rdi_cu_device from, to;
        if (p != ordinal && cu->device_get(&from, ordinal) == RDI_CU_OK &&
            cu->device_get(&to, p) == RDI_CU_OK && cu->peer_capable(&yes, from, to) == RDI_CU_OK &&
            yes) {
            printf("%s%d", comma, p);
            comma = ", ";
        }
    }
    printf("]");
}

static int print_device(int ordinal, int devices) {
    struct rdi_cuda_device *d;
    size_t bytes = 0;
    OK(rdi_cuda_device(ordinal, &d));
    OK(rdi_cuda_enter(d));
    (void)cu->device_memory(&bytes, d->device);
    printf("%s\n  {\"ordinal\": %d, \"name\": ", ordinal ? "," : "", ordinal);
    print_text(d->name);
    printf(", \"pci\": ");
    print_text(d->pci);
    printf(", \"compute\": \"%d.%d\", \"multiprocessors\": %d, \"memory_mib\": %zu", d->major,
           d->minor, d->multiprocessors, bytes >> 20);
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        int value = 0;
        if (cu->device_attribute(&value, attributes[i].what, d->device) == RDI_CU_OK) {
            printf(", \"%s\": %d", attributes[i].name, value);
        } else {
            printf(", \"%s\": null", attributes[i].name);
        }
    }
    print_attempt("try_memops", memops_of(d));
    print_attempt("try_ipc", handle_of(d));
    print_attempt("try_dma_buf", dmabuf_of(d));
    printf(", \"kernels\": ");
    print_text(d->module ? "loaded" : d->why);
    print_peers(ordinal, devices);
    printf("}");
    rdi_cuda_leave(d);
    return 0;
}

int main(void) {
    int devices = 0;
    cu = rdi_cuda(RDI_CUDA_LOAD);
    if (!cu) {
        fprintf(stderr, "%s\n", rdi_cuda_state());
        return 77;
    }
    CU(cu->device_count(&devices));
    printf("{\"state\": ");
    print_text(rdi_cuda_state());
    printf(", \"flush_call\": %s, \"peermem\": %s, \"image_bytes\": %llu, \"devices\": [",
           cu->flush_writes ? "true" : "false",
           access("/sys/module/nvidia_peermem", F_OK) == 0 ? "true" : "false",
           (unsigned long long)rdi_cuda_image_size);
    for (int i = 0; i < devices; i++) {
        RUN(print_device(i, devices));
    }
    printf("]}\n");
    return fflush(stdout) == 0 ? 0 : 1;
}
