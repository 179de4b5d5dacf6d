// SPDX-License-Identifier: MIT
// The driver itself: initialization, devices, contexts, memory, what is said of pointers, modules, faults.
#include "tests/mock_cuda/test_support.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

static void before_init(void) {
    int n;
    const char *name;
    RESULT(RDI_CU_NOT_INITIALIZED, cuDeviceGetCount(&n));
    OK(cuDriverGetVersion(&n));
    CHECK(n == 13000);
    OK(cuGetErrorName(RDI_CU_OUT_OF_MEMORY, &name));
    CHECK(strcmp(name, "CUDA_ERROR_OUT_OF_MEMORY") == 0);
    OK(cuGetErrorString(RDI_CU_NOT_READY, &name));
    CHECK(strcmp(name, "device not ready") == 0);
    RESULT(RDI_CU_INVALID_VALUE, cuGetErrorName(12345, &name));
    CHECK(name == NULL);
}

static void a_stub(void) { RESULT(RDI_CU_STUB_LIBRARY, cuInit(0)); }
static void no_device(void) { RESULT(RDI_CU_NO_DEVICE, cuInit(0)); }

static void version(void) {
    int n;
    use_device(0);
    OK(cuDriverGetVersion(&n));
    CHECK(n == 11030);
}

static void a_child_must_begin_anew(void) {
    int status;
    use_device(0);
    pid_t pid = fork();
    if (pid == 0) {
        rdi_cu_ptr p;
        _exit(cuMemAlloc_v2(&p, 4) == RDI_CU_NOT_INITIALIZED && cuInit(0) == RDI_CU_NOT_INITIALIZED
                  ? 0
                  : 1);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void devices(void) {
    int n, d, value;
    char name[64], pci[2][24];
    rdi_cu_uuid uuid[2];
    size_t bytes;
    OK(cuInit(0));
    OK(cuDeviceGetCount(&n));
    CHECK(n == 2);
    for (int i = 0; i < 2; i++) {
        OK(cuDeviceGet(&d, i));
        OK(cuDeviceGetUuid_v2(&uuid[i], d));
        OK(cuDeviceGetPCIBusId(pci[i], sizeof pci[i], d));
    }
    CHECK(memcmp(&uuid[0], &uuid[1], sizeof uuid[0]) != 0 && strcmp(pci[0], pci[1]) != 0);
    RESULT(RDI_CU_INVALID_DEVICE, cuDeviceGet(&d, 2));
    OK(cuDeviceGetName(name, sizeof name, 1));
    CHECK(strcmp(name, "Mock GPU 1") == 0);
    OK(cuDeviceTotalMem_v2(&bytes, 0));
    CHECK(bytes == 64u << 20);
    OK(cuDeviceGetAttribute(&value, RDI_CU_ATTR_GDR_ORDERING, 0));
    CHECK(value == 0);
    OK(cuDeviceGetAttribute(&value, RDI_CU_ATTR_GDR_ORDERING, 1));
    CHECK(value == 200);
    RESULT(RDI_CU_INVALID_VALUE, cuDeviceGetAttribute(&value, 9999, 0));
    OK(cuDeviceCanAccessPeer(&value, 0, 1));
    CHECK(value == 1);
    OK(cuDeviceCanAccessPeer(&value, 1, 1));
    CHECK(value == 0);
}

static void visible_devices(void) {
    int n;
    char name[64];
    OK(cuInit(0));
    OK(cuDeviceGetCount(&n));
    CHECK(n == 2);
    OK(cuDeviceGetName(name, sizeof name, 0));
    CHECK(strcmp(name, "Mock GPU 3") == 0);
    OK(cuDeviceGetName(name, sizeof name, 1));
    CHECK(strcmp(name, "Mock GPU 1") == 0);
}

// ---- Contexts ------------------------------------------------------------------------------------

static void contexts(void) {
    rdi_cu_ctx a, b, c;
    rdi_cu_ptr p;
    int d;
    OK(cuInit(0));
    RESULT(RDI_CU_INVALID_CONTEXT, cuMemAlloc_v2(&p, 4));
    RESULT(RDI_CU_INVALID_CONTEXT, cuCtxPopCurrent_v2(NULL));
    OK(cuCtxGetCurrent(&c));
    CHECK(c == NULL);
    OK(cuDevicePrimaryCtxRetain(&a, 0));
    OK(cuDevicePrimaryCtxRetain(&b, 0));
    CHECK(a == b);
    OK(cuDevicePrimaryCtxRetain(&b, 1));
    CHECK(a != b);
    OK(cuCtxPushCurrent_v2(a));
    OK(cuCtxPushCurrent_v2(b));
    OK(cuCtxGetDevice(&d));
    CHECK(d == 1);
    OK(cuCtxPopCurrent_v2(&c));
    CHECK(c == b);
    OK(cuCtxGetDevice(&d));
    CHECK(d == 0);
    OK(cuDevicePrimaryCtxRelease_v2(0));
    OK(cuCtxSynchronize());
    OK(cuDevicePrimaryCtxRelease_v2(0));
    RESULT(709, cuCtxSynchronize());
    RESULT(RDI_CU_INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(0));
    RESULT(RDI_CU_INVALID_CONTEXT, cuCtxPushCurrent_v2((rdi_cu_ctx)0x1234));
}

static void wrong_contexts(void) {
    rdi_cu_ctx a = use_device(0), got;
    rdi_cu_stream s = new_stream();
    rdi_cu_event e = new_event();
    rdi_cu_function f = kernel("fill");
    rdi_cu_ptr p = device_memory(64);
    OK(cuStreamGetCtx(s, &got));
    CHECK(got == a);
    use_device(1);
    RESULT(400, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, s, (void *[]){&p, &p, &p}, NULL));
    RESULT(400, cuEventRecord(e, new_stream()));
    OK(cuStreamWaitEvent(new_stream(), e, 0)); // that is allowed
    RESULT(400, cuStreamQuery((rdi_cu_stream)0x1230));
    RESULT(400, cuStreamQuery((rdi_cu_stream)e));
    OK(cuCtxEnablePeerAccess(a, 0));
    RESULT(RDI_CU_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(a, 0));
    launch_fill(NULL, p, 4, 2);
    OK(cuStreamSynchronize(NULL));
    CHECK(first_float(p) == 2);
}

static void no_peers(void) {
    rdi_cu_ctx a = use_device(0);
    use_device(1);
    RESULT(RDI_CU_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(a, 0));
}

// ---- Memory --------------------------------------------------------------------------------------

static void allocations(void) {
    use_device(0);
    rdi_cu_ptr p, base;
    size_t bytes;
    RESULT(RDI_CU_INVALID_VALUE, cuMemAlloc_v2(&p, 0));
    RESULT(RDI_CU_OUT_OF_MEMORY, cuMemAlloc_v2(&p, 65 << 20));
    p = device_memory(40 << 20);
    CHECK(p % (2 << 20) == 0);
    RESULT(RDI_CU_OUT_OF_MEMORY, cuMemAlloc_v2(&base, 40 << 20));
    OK(cuMemFree_v2(p));
    RESULT(RDI_CU_INVALID_VALUE, cuMemFree_v2(p));
    p = device_memory(1000);
    CHECK(p % 256 == 0);
    OK(cuMemGetAddressRange_v2(&base, &bytes, p + 999));
    CHECK(base == p && bytes == 1000);
    RESULT(RDI_CU_NOT_FOUND, cuMemGetAddressRange_v2(&base, &bytes, p + 1000));
    RESULT(RDI_CU_INVALID_VALUE, cuMemFree_v2(p + 1));
    CHECK(first_float(p) != 0); // not zeroed
    OK(cuMemFree_v2(p));
    OK(cuMemFree_v2(0));
    CHECK(mock_cuda_leaks(true) == 0);
}

static void host_memory(void) {
    use_device(0);
    char *p = pinned_memory(100), *q = malloc(1000);
    rdi_cu_ptr d;
    OK(cuMemHostGetDevicePointer_v2(&d, p, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuMemHostGetDevicePointer_v2(&d, q, 0));
    OK(cuMemHostRegister_v2(q, 1000, 0));
    OK(cuMemHostGetDevicePointer_v2(&d, q, 0));
    RESULT(RDI_CU_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister_v2(q + 10, 10, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuMemFreeHost(q));
    RESULT(713, cuMemHostUnregister(q + 1));
    OK(cuMemHostUnregister(q));
    RESULT(713, cuMemHostUnregister(q));
    OK(cuMemFreeHost(p));
    RESULT(RDI_CU_INVALID_VALUE, cuMemFreeHost(p));
    void *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(none, 4096);
    RESULT(RDI_CU_INVALID_VALUE, cuMemHostRegister_v2(none, 4096, 0));
    free(q);
}

static unsigned type_of(rdi_cu_ptr p) {
    unsigned type = 99;
    OK(cuPointerGetAttribute(&type, RDI_CU_PTR_MEMORY_TYPE, p));
    return type;
}

static void pointers(void) {
    use_device(0);
    static char pageable[64];
    rdi_cu_ptr p = device_memory(1000), q = device_memory(64);
    char *h = pinned_memory(64);
    unsigned type = 9, managed = 9, one = 1;
    int ordinal = 9;
    unsigned long long a = 0, b = 0;
    void *host;
    CHECK(type_of(p + 999) == RDI_CU_MEM_DEVICE && type_of((uintptr_t)h) == RDI_CU_MEM_HOST);
    RESULT(RDI_CU_INVALID_VALUE,
           cuPointerGetAttribute(&type, RDI_CU_PTR_MEMORY_TYPE, (uintptr_t)pageable));
    RESULT(RDI_CU_INVALID_VALUE, cuPointerGetAttribute(&type, RDI_CU_PTR_MEMORY_TYPE, p + 1000));
    const int what[] = {RDI_CU_PTR_MEMORY_TYPE, RDI_CU_PTR_IS_MANAGED, RDI_CU_PTR_DEVICE_ORDINAL};
    void *values[] = {&type, &managed, &ordinal};
    OK(cuPointerGetAttributes(3, what, values, p));
    CHECK(type == RDI_CU_MEM_DEVICE && managed == 0 && ordinal == 0);
    OK(cuPointerGetAttributes(3, what, values, (uintptr_t)pageable));
    CHECK(type == 0 && managed == 0 && ordinal == -2);
    OK(cuPointerGetAttributes(3, what, values, (uintptr_t)mock_cuda_managed(64)));
    CHECK(type == RDI_CU_MEM_DEVICE && managed == 1);
    OK(cuPointerGetAttribute(&a, RDI_CU_PTR_BUFFER_ID, p));
    OK(cuPointerGetAttribute(&b, RDI_CU_PTR_BUFFER_ID, q));
    CHECK(a != b);
    OK(cuPointerGetAttribute(&a, RDI_CU_PTR_RANGE_START, p + 7));
    CHECK(a == p);
    OK(cuPointerGetAttribute(&host, RDI_CU_PTR_HOST_POINTER, (uintptr_t)h + 5));
    CHECK(host == h + 5);
    OK(cuPointerSetAttribute(&one, RDI_CU_PTR_SYNC_MEMOPS, p));
    OK(cuPointerGetAttribute(&type, RDI_CU_PTR_SYNC_MEMOPS, p));
    CHECK(type == 1);
}

// ---- Modules, faults -----------------------------------------------------------------------------

static void modules(void) {
    use_device(0);
    const uint32_t good[4] = {0xba55ed50u}, bad[4] = {0x464c457fu};
    rdi_cu_module m;
    rdi_cu_function f, g;
    kernel("fill");
    RESULT(RDI_CU_INVALID_IMAGE, cuModuleLoadData(&m, bad));
    OK(cuModuleLoadData(&m, good));
    OK(cuModuleGetFunction(&f, m, "fill"));
    OK(cuModuleGetFunction(&g, m, "fill"));
    CHECK(f == g);
    RESULT(RDI_CU_NOT_FOUND, cuModuleGetFunction(&g, m, "no_such_kernel"));
    OK(cuModuleUnload(m));
}

static void faults(void) {
    rdi_cu_ptr p;
    use_device(0);
    OK(cuMemAlloc_v2(&p, 4));
    RESULT(RDI_CU_OUT_OF_MEMORY, cuMemAlloc_v2(&p, 4));
    OK(cuMemAlloc_v2(&p, 4));
    RESULT(RDI_CU_NOT_SUPPORTED, cuStreamQuery(NULL));
    RESULT(RDI_CU_NOT_SUPPORTED, cuStreamQuery(NULL));
    mock_cuda_fail("cuStreamQuery:2+:3");
    OK(cuStreamQuery(NULL));
    RESULT(3, cuStreamQuery(NULL));
    RESULT(3, cuStreamQuery(NULL));
    mock_cuda_fail(NULL);
    OK(cuStreamQuery(NULL));
}

static void a_kernel_faults(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    uint32_t *flag = pinned_memory(4);
    rdi_cu_ptr p = device_memory(64);
    rdi_cu_event e = new_event();
    mock_cuda_hold(s, true);
    launch_fill(s, p, 4, 1);
    launch_fill(s, p, 4, 2);                              // this one
    OK(cuStreamWaitValue32_v2(s, (uintptr_t)flag, 1, 0)); // and then nothing waits
    OK(cuEventRecord(e, s));
    mock_cuda_hold(s, false);
    RESULT(RDI_CU_ILLEGAL_ADDRESS, cuStreamSynchronize(s));
    RESULT(RDI_CU_ILLEGAL_ADDRESS, cuEventQuery(e));
    RESULT(RDI_CU_ILLEGAL_ADDRESS, cuMemAlloc_v2(&p, 4));
    OK(cuCtxPopCurrent_v2(NULL));
}

static void an_old_library(void) {
    void *old = dlopen(getenv("OLD"), RTLD_NOW | RTLD_LOCAL);
    if (!old)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(old && dlsym(old, "cuMemAlloc_v2") && dlsym(old, "mock_cuda_range"));
    rdi_cu_result (*init)(unsigned) = (rdi_cu_result(*)(unsigned))dlsym(old, "cuInit");
    OK(init(0));
    static const char *const missing[] = {
        "cuMemCreate", "cuMemMap", "cuMemGetHandleForAddressRange", "cuFlushGPUDirectRDMAWrites"};
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        Dl_info info;
        void *f = dlsym(old, missing[i]);
        CHECK(!f || (dladdr(f, &info) && !strstr(info.dli_fname, "/old/")));
    }
}

int main(int argc, char **argv) {
    (void)argc;
    static char old[600];
    snprintf(old, sizeof old, "%s", argv[0]);
    char *slash = strrchr(old, '/');
    snprintf(slash ? slash : old, 64, "/../mock_cuda/old/libcuda.so.1");
    setenv("OLD", old, 1);
    static const struct mock_case cases[] = {
        CASE(before_init),
        CASE(a_stub, .env = "MOCK_CUDA_INIT=34"),
        CASE(no_device, .env = "MOCK_CUDA_INIT=100"),
        CASE(no_device, .env = "MOCK_CUDA_DEVICES=0"),
        CASE(no_device, .env = "CUDA_VISIBLE_DEVICES=none"),
        CASE(version, .env = "MOCK_CUDA_VERSION=11030"),
        CASE(a_child_must_begin_anew),
        CASE(devices, .env = "MOCK_CUDA_DEVICES=2 "
                             "MOCK_CUDA_ATTR=memory_mib=64,0.ordering=0,1.ordering=200"),
        CASE(visible_devices, .env = "MOCK_CUDA_DEVICES=4 CUDA_VISIBLE_DEVICES=3,1,9,0"),
        CASE(contexts, .env = "MOCK_CUDA_DEVICES=2"),
        CASE(wrong_contexts, .env = "MOCK_CUDA_DEVICES=2"),
        CASE(no_peers, .env = "MOCK_CUDA_DEVICES=2 MOCK_CUDA_ATTR=peer=0"),
        CASE(allocations, .env = "MOCK_CUDA_ATTR=memory_mib=64"),
        CASE(host_memory),
        CASE(pointers),
        CASE(modules),
        CASE(faults, .env = "MOCK_CUDA_FAIL=cuMemAlloc_v2:2:2,cuStreamQuery:*:801"),
        CASE(a_kernel_faults, .env = "MOCK_CUDA_FAIL=kernel:2:700"),
        CASE(an_old_library),
    };
    return run_mock_cases("mock_cuda_driver", cases, sizeof cases / sizeof cases[0]);
}
