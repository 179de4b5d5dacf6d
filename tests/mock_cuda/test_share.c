// SPDX-License-Identifier: MIT
// Device memory between processes (IPC, virtual memory management) and for NICs (DMA-BUF).
#include "tests/mock_cuda/test_support.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { BYTES = 3 << 20 };

// ---- Two processes -------------------------------------------------------------------------------

struct peer {
    int fd;
    pid_t pid;
};

static struct peer start(void (*child)(int fd)) {
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        child(fds[1]);
        exit(0);
    }
    close(fds[1]);
    return (struct peer){fds[0], pid};
}

static void finish(struct peer p) {
    int status;
    close(p.fd);
    CHECK(waitpid(p.pid, &status, 0) == p.pid);
    CHECK(status == 0);
}

static void put(int fd, const void *data, size_t bytes) {
    CHECK(write(fd, data, bytes) == (ssize_t)bytes);
}

static void get(int fd, void *data, size_t bytes) {
    CHECK(read(fd, data, bytes) == (ssize_t)bytes);
}

static void send_fd(int to, int fd) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } c = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec iov = {"f", 1};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
    memcpy(CMSG_DATA(&c.header), &fd, sizeof fd);
    CHECK(sendmsg(to, &m, 0) == 1);
}

static int get_fd(int from) {
    char room[CMSG_SPACE(sizeof(int))], byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    int fd;
    CHECK(recvmsg(from, &m, 0) == 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

// ---- IPC -----------------------------------------------------------------------------------------

static void exporter(int fd) {
    use_device(0);
    rdi_cu_ptr big = device_memory(BYTES), small = device_memory(1000);
    rdi_cu_ipc_mem h[2];
    launch_fill(NULL, big, BYTES / 4, 1);
    launch_fill(NULL, small, 250, 2);
    OK(cuStreamSynchronize(NULL));
    OK(cuIpcGetMemHandle(&h[0], big + 4096)); // of the whole allocation
    OK(cuIpcGetMemHandle(&h[1], small));
    put(fd, h, sizeof h);
    char word;
    get(fd, &word, 1);
    CHECK(first_float(big) == 3);
    OK(cuMemFree_v2(small));
    put(fd, "x", 1);
    get(fd, &word, 1);
}

static void memory_of_another_process(void) {
    struct peer peer = start(exporter);
    rdi_cu_ipc_mem h[2];
    rdi_cu_ptr big, small, again, base;
    size_t bytes;
    char word;
    get(peer.fd, h, sizeof h);
    use_device(0);
    OK(cuIpcOpenMemHandle_v2(&big, h[0], RDI_CU_IPC_LAZY_PEER_ACCESS));
    OK(cuIpcOpenMemHandle_v2(&small, h[1], RDI_CU_IPC_LAZY_PEER_ACCESS));
    CHECK(first_float(big) == 1 && first_float(big + BYTES - 4) == 1 && first_float(small) == 2);
    OK(cuMemGetAddressRange_v2(&base, &bytes, small + 5));
    CHECK(base == small && bytes == 1000);
    launch_fill(NULL, big, BYTES / 4, 3);
    OK(cuStreamSynchronize(NULL));
    put(peer.fd, "x", 1);
    get(peer.fd, &word, 1);
    CHECK(first_float(small) == 2); // freed there, and kept for us

    OK(cuIpcOpenMemHandle_v2(&again, h[0], RDI_CU_IPC_LAZY_PEER_ACCESS));
    CHECK(again == big);
    OK(cuIpcCloseMemHandle(big));
    CHECK(first_float(big) == 3);
    put(peer.fd, "x", 1);
    finish(peer);
    CHECK(first_float(big) == 3); // and it lives longer than the other process
    OK(cuIpcCloseMemHandle(big));
    OK(cuIpcCloseMemHandle(small));
    RESULT(RDI_CU_INVALID_VALUE, cuIpcCloseMemHandle(small));
    RESULT(RDI_CU_INVALID_VALUE, cuIpcOpenMemHandle_v2(&big, h[0], RDI_CU_IPC_LAZY_PEER_ACCESS));
}

static void handles_that_do_not_open(void) {
    use_device(0);
    rdi_cu_ptr p = device_memory(4096), q;
    rdi_cu_ipc_mem h, bad = {{1, 2, 3}};
    OK(cuIpcGetMemHandle(&h, p));
    RESULT(RDI_CU_INVALID_CONTEXT, cuIpcOpenMemHandle_v2(&q, h, RDI_CU_IPC_LAZY_PEER_ACCESS));
    RESULT(RDI_CU_INVALID_VALUE, cuIpcOpenMemHandle_v2(&q, bad, RDI_CU_IPC_LAZY_PEER_ACCESS));
    h.reserved[20] ^= 1;
    RESULT(RDI_CU_INVALID_VALUE, cuIpcOpenMemHandle_v2(&q, h, RDI_CU_IPC_LAZY_PEER_ACCESS));
    RESULT(RDI_CU_INVALID_VALUE, cuIpcOpenMemHandle_v2(&q, h, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuIpcGetMemHandle(&h, (uintptr_t)pinned_memory(4)));
}

static void ipc_turned_off(void) {
    use_device(0);
    rdi_cu_ptr p = device_memory(4096);
    rdi_cu_ipc_mem h;
    int capable = 9;
    RESULT(RDI_CU_NOT_SUPPORTED, cuIpcGetMemHandle(&h, p));
    OK(cuPointerGetAttribute(&capable, RDI_CU_PTR_LEGACY_IPC, p));
    CHECK(capable == 0);
}

static void dies(int fd) {
    use_device(0);
    rdi_cu_ptr p = device_memory(64);
    rdi_cu_ipc_mem h;
    OK(cuIpcGetMemHandle(&h, p));
    put(fd, &h, sizeof h);
    raise(SIGKILL);
}

static void a_handle_of_a_dead_process(void) {
    struct peer peer = start(dies);
    rdi_cu_ipc_mem h;
    rdi_cu_ptr p;
    get(peer.fd, &h, sizeof h);
    CHECK(waitpid(peer.pid, NULL, 0) == peer.pid);
    use_device(0);
    RESULT(RDI_CU_INVALID_VALUE, cuIpcOpenMemHandle_v2(&p, h, RDI_CU_IPC_LAZY_PEER_ACCESS));
}

// ---- Virtual memory management -------------------------------------------------------------------

static const rdi_cu_allocation prop = {.type = RDI_CU_ALLOCATION_PINNED,
                                       .handle_types = RDI_CU_SHARE_POSIX_FD,
                                       .location = {RDI_CU_LOCATION_DEVICE, 0},
                                       .flags = {.gdr_capable = 1}};
static const rdi_cu_access access_0 = {{RDI_CU_LOCATION_DEVICE, 0}, RDI_CU_ACCESS_READ_WRITE};

static rdi_cu_ptr map(rdi_cu_mem mem, size_t bytes) {
    rdi_cu_ptr p;
    OK(cuMemAddressReserve(&p, bytes, 0, 0, 0));
    OK(cuMemMap(p, bytes, 0, mem, 0));
    OK(cuMemSetAccess(p, bytes, &access_0, 1));
    return p;
}

static void importer(int fd) {
    use_device(0);
    rdi_cu_mem mem;
    int shared = get_fd(fd);
    OK(cuMemImportFromShareableHandle(&mem, (void *)(intptr_t)shared, RDI_CU_SHARE_POSIX_FD));
    close(shared);
    rdi_cu_ptr p = map(mem, 2 << 20);
    CHECK(first_float(p) == 1);
    launch_fill(NULL, p, 10, 2);
    OK(cuStreamSynchronize(NULL));
    OK(cuMemUnmap(p, 2 << 20));
    OK(cuMemAddressFree(p, 2 << 20));
    OK(cuMemRelease(mem));
    put(fd, "x", 1);
}

static void mapped_memory_and_its_descriptor(void) {
    struct peer peer = start(importer);
    use_device(0);
    rdi_cu_mem mem;
    size_t granularity;
    OK(cuMemGetAllocationGranularity(&granularity, &prop, 0));
    OK(cuMemCreate(&mem, granularity, &prop, 0));
    rdi_cu_ptr p = map(mem, granularity);
    int fd, capable = 9;
    char word;
    OK(cuMemExportToShareableHandle(&fd, mem, RDI_CU_SHARE_POSIX_FD, 0));
    OK(cuMemRelease(mem)); // the mapping keeps it
    launch_fill(NULL, p, 10, 1);
    OK(cuStreamSynchronize(NULL));
    send_fd(peer.fd, fd);
    close(fd);
    get(peer.fd, &word, 1);
    CHECK(first_float(p) == 2);
    finish(peer);
    OK(cuPointerGetAttribute(&capable, RDI_CU_PTR_LEGACY_IPC, p));
    rdi_cu_ipc_mem h;
    CHECK(capable == 0);
    RESULT(RDI_CU_INVALID_VALUE, cuIpcGetMemHandle(&h, p));
    RESULT(RDI_CU_INVALID_VALUE, cuMemAddressFree(p, granularity)); // still mapped
    RESULT(RDI_CU_INVALID_VALUE, cuMemFree_v2(p));
    OK(cuMemUnmap(p, granularity));
    OK(cuMemAddressFree(p, granularity));
    CHECK(mock_cuda_leaks(true) == 0);
}

static void sizes_of_mapped_memory(void) {
    use_device(0);
    rdi_cu_mem mem;
    rdi_cu_ptr p;
    RESULT(RDI_CU_INVALID_VALUE, cuMemCreate(&mem, 4096, &prop, 0));
    rdi_cu_allocation other = prop;
    other.location.id = 1;
    RESULT(RDI_CU_INVALID_DEVICE, cuMemCreate(&mem, 2 << 20, &other, 0));
    OK(cuMemCreate(&mem, 2 << 20, &prop, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuMemAddressReserve(&p, 4096, 0, 0, 0));
    OK(cuMemAddressReserve(&p, 4 << 20, 0, 0, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuMemMap(p, 4 << 20, 0, mem, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuMemMap(p + 4096, 2 << 20, 0, mem, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuMemMap(p + (4 << 20), 2 << 20, 0, mem, 0));
    OK(cuMemMap(p, 2 << 20, 0, mem, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuMemMap(p, 2 << 20, 0, mem, 0));
    OK(cuMemMap(p + (2 << 20), 2 << 20, 0, mem, 0)); // the same memory twice
    OK(cuMemSetAccess(p, 4 << 20, &access_0, 1));
    launch_fill(NULL, p, 1, 5);
    OK(cuStreamSynchronize(NULL));
    CHECK(first_float(p + (2 << 20)) == 5);
    RESULT(RDI_CU_INVALID_VALUE, cuMemUnmap(p + (1 << 20), 2 << 20));
    OK(cuMemUnmap(p, 4 << 20));
    RESULT(RDI_CU_INVALID_VALUE, cuMemUnmap(p, 2 << 20));
    RESULT(RDI_CU_INVALID_VALUE,
           cuMemImportFromShareableHandle(&mem, (void *)0, RDI_CU_SHARE_POSIX_FD));
}

static void vmm_turned_off(void) {
    use_device(0);
    rdi_cu_mem mem;
    int has = 9;
    OK(cuDeviceGetAttribute(&has, RDI_CU_ATTR_POSIX_FD, 0));
    CHECK(has == 0);
    RESULT(RDI_CU_NOT_SUPPORTED, cuMemCreate(&mem, 2 << 20, &prop, 0));
}

// ---- DMA-BUF -------------------------------------------------------------------------------------

static void descriptors_for_nics(void) {
    use_device(0);
    rdi_cu_ptr p = device_memory(BYTES);
    int fd;
    RESULT(RDI_CU_INVALID_VALUE,
           cuMemGetHandleForAddressRange(&fd, p + 8, 4096, RDI_CU_HANDLE_DMA_BUF_FD, 0));
    RESULT(RDI_CU_INVALID_VALUE,
           cuMemGetHandleForAddressRange(&fd, p, 100, RDI_CU_HANDLE_DMA_BUF_FD, 0));
    RESULT(RDI_CU_INVALID_VALUE,
           cuMemGetHandleForAddressRange(&fd, p, BYTES + 4096, RDI_CU_HANDLE_DMA_BUF_FD, 0));
    OK(cuMemGetHandleForAddressRange(&fd, p + 8192, 4096, RDI_CU_HANDLE_DMA_BUF_FD, 0));
    launch_fill(NULL, p + 8192, 1, 4);
    OK(cuStreamSynchronize(NULL));
    off_t at = lseek(fd, 0, SEEK_CUR);
    CHECK(at == 8192);
    float *nic = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
    CHECK(nic != MAP_FAILED && *nic == 4);
    *nic = 5;
    CHECK(first_float(p + 8192) == 5);
    OK(cuMemFree_v2(p));
    CHECK(*nic == 5); // what a NIC has registered stays
    close(fd);
}

static void a_small_allocation_for_nics(void) {
    use_device(0);
    device_memory(100);
    rdi_cu_ptr p = device_memory(1000), page = p & ~4095ull;
    CHECK(p != page);
    int fd;
    OK(cuMemGetHandleForAddressRange(&fd, page, 4096, RDI_CU_HANDLE_DMA_BUF_FD, 0));
    launch_fill(NULL, p, 1, 6);
    OK(cuStreamSynchronize(NULL));
    char *nic = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, lseek(fd, 0, SEEK_CUR));
    float f;
    memcpy(&f, nic + (p - page), 4);
    CHECK(f == 6);
    close(fd);
}

static void dmabuf_turned_off(void) {
    use_device(0);
    rdi_cu_ptr p = device_memory(BYTES);
    int fd;
    RESULT(RDI_CU_NOT_SUPPORTED,
           cuMemGetHandleForAddressRange(&fd, p, 4096, RDI_CU_HANDLE_DMA_BUF_FD, 0));
}

int main(void) {
    static const struct mock_case cases[] = {
        CASE(memory_of_another_process),
        CASE(handles_that_do_not_open),
        CASE(ipc_turned_off, .env = "MOCK_CUDA_ATTR=ipc=0"),
        CASE(a_handle_of_a_dead_process),
        CASE(mapped_memory_and_its_descriptor),
        CASE(sizes_of_mapped_memory),
        CASE(vmm_turned_off, .env = "MOCK_CUDA_ATTR=vmm=0"),
        CASE(descriptors_for_nics),
        CASE(a_small_allocation_for_nics),
        CASE(dmabuf_turned_off, .env = "MOCK_CUDA_ATTR=dmabuf=0"),
    };
    return run_mock_cases("mock_cuda_share", cases, sizeof cases / sizeof cases[0]);
}
