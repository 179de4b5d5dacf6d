// SPDX-License-Identifier: MIT
// Every misuse is found, and named.
#include "tests/mock_cuda/test_support.h"

#include <pthread.h>

static rdi_cu_stream s;
static rdi_cu_ptr p;
static uint32_t *flag;

static void open_device(void) {
    use_device(0);
    s = new_stream();
    p = device_memory(4096);
    flag = pinned_memory(64);
}

static void good_program(void) {
    open_device();
    launch_fill(s, p, 1024, 1);
    OK(cuStreamSynchronize(s));
    OK(cuStreamDestroy_v2(s));
    OK(cuMemFree_v2(p));
    OK(cuMemFreeHost(flag));
    OK(cuCtxPopCurrent_v2(NULL));
}

static void host_writes_device_memory(void) {
    open_device();
    *(volatile char *)(uintptr_t)p = 1;
}

static void host_reads_device_memory(void) {
    open_device();
    CHECK(*(volatile char *)(uintptr_t)(p + 100) == 0);
}

static void host_uses_freed_pinned_memory(void) {
    open_device();
    OK(cuMemFreeHost(flag));
    CHECK(*(volatile uint32_t *)flag == 0);
}

static void kernel_out_of_bounds(void) {
    open_device();
    launch_fill(s, p, 1025, 1);
    OK(cuStreamSynchronize(s));
}

static void kernel_of_pageable_memory(void) {
    open_device();
    float local[4];
    launch_fill(s, (uintptr_t)local, 4, 1);
    OK(cuStreamSynchronize(s));
}

static void kernel_of_freed_memory(void) {
    open_device();
    OK(cuMemFree_v2(p));
    launch_fill(s, p, 4, 1);
    OK(cuStreamSynchronize(s));
}

static void free_in_use(void) {
    open_device();
    OK(cuStreamWaitValue32_v2(s, (uintptr_t)flag, 1, 0));
    OK(cuMemsetD8Async(p, 0, 64, s));
    OK(cuMemFree_v2(p));
}

static void free_waits_for_ever(void) { free_in_use(); }

static void pinned_free_in_use(void) {
    open_device();
    OK(cuStreamWaitValue32_v2(s, (uintptr_t)flag, 1, 0));
    OK(cuMemFreeHost(flag));
}

static void unregister_in_use(void) {
    open_device();
    static uint32_t word;
    OK(cuMemHostRegister_v2(&word, 4, 0));
    OK(cuStreamWaitValue32_v2(s, (uintptr_t)&word, 1, 0));
    OK(cuMemHostUnregister(&word));
}

static void unmap_in_use(void) {
    open_device();
    const rdi_cu_allocation prop = {.type = RDI_CU_ALLOCATION_PINNED,
                                    .location = {RDI_CU_LOCATION_DEVICE, 0}};
    const rdi_cu_access access = {{RDI_CU_LOCATION_DEVICE, 0}, RDI_CU_ACCESS_READ_WRITE};
    rdi_cu_mem mem;
    OK(cuMemCreate(&mem, 2 << 20, &prop, 0));
    OK(cuMemAddressReserve(&p, 2 << 20, 0, 0, 0));
    OK(cuMemMap(p, 2 << 20, 0, mem, 0));
    OK(cuMemSetAccess(p, 2 << 20, &access, 1));
    OK(cuStreamWaitValue32_v2(s, (uintptr_t)flag, 1, 0));
    OK(cuMemsetD8Async(p, 0, 64, s));
    OK(cuMemUnmap(p, 2 << 20));
}

static void no_access(void) {
    open_device();
    const rdi_cu_allocation prop = {.type = RDI_CU_ALLOCATION_PINNED,
                                    .location = {RDI_CU_LOCATION_DEVICE, 0}};
    rdi_cu_mem mem;
    OK(cuMemCreate(&mem, 2 << 20, &prop, 0));
    OK(cuMemAddressReserve(&p, 2 << 20, 0, 0, 0));
    OK(cuMemMap(p, 2 << 20, 0, mem, 0));
    launch_fill(s, p, 4, 1);
    OK(cuStreamSynchronize(s));
}

static void peer_memory(void) {
    use_device(0);
    p = device_memory(64);
    rdi_cu_ctx other = use_device(1);
    (void)other;
    launch_fill(NULL, p, 4, 1);
    OK(cuStreamSynchronize(NULL));
}

static void memop_of_pageable_memory(void) {
    open_device();
    uint32_t local = 0;
    OK(cuStreamWriteValue32_v2(s, (uintptr_t)&local, 1, 0));
}

static void memop_of_managed_memory(void) {
    open_device();
    OK(cuStreamWriteValue32_v2(s, (uintptr_t)mock_cuda_managed(64), 1, 0));
}

static void copy_the_wrong_way(void) {
    open_device();
    OK(cuMemcpyHtoDAsync_v2(p, (const void *)(uintptr_t)p, 64, s));
}

static void grid_of_nothing(void) {
    open_device();
    OK(cuLaunchKernel(kernel("fill"), 0, 1, 1, 1, 1, 1, 0, s, (void *[]){&p, &p, &p}, NULL));
}

static void block_too_large(void) {
    open_device();
    OK(cuLaunchKernel(kernel("fill"), 1, 1, 1, 64, 32, 1, 0, s, (void *[]){&p, &p, &p}, NULL));
}

static void no_arguments(void) {
    open_device();
    OK(cuLaunchKernel(kernel("fill"), 1, 1, 1, 1, 1, 1, 0, s, NULL, NULL));
}

static void stream_destroyed_twice(void) {
    open_device();
    OK(cuStreamDestroy_v2(s));
    OK(cuStreamDestroy_v2(s));
}

static void event_used_after_its_end(void) {
    open_device();
    rdi_cu_event e = new_event();
    OK(cuEventDestroy_v2(e));
    OK(cuEventRecord(e, s));
}

static void function_of_an_unloaded_module(void) {
    open_device();
    kernel("fill"); // registers the twins
    const uint32_t image[4] = {0xba55ed50u};
    rdi_cu_module m;
    rdi_cu_function f;
    OK(cuModuleLoadData(&m, image));
    OK(cuModuleGetFunction(&f, m, "fill"));
    OK(cuModuleUnload(m));
    OK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, s, (void *[]){&p, &p, &p}, NULL));
}

static void *pushes(void *ctx) {
    OK(cuCtxPushCurrent_v2(ctx));
    return NULL;
}

static void context_not_popped(void) {
    rdi_cu_ctx ctx = use_device(0);
    pthread_t t;
    pthread_create(&t, NULL, pushes, ctx);
    pthread_join(t, NULL);
}

static void context_released_too_soon(void) {
    open_device();
    OK(cuDevicePrimaryCtxRelease_v2(0));
}

static void memop_in_another_context(void) {
    open_device();
    use_device(1);
    OK(cuStreamWriteValue32_v2(s, (uintptr_t)flag, 1, 0));
}

static void forbidden_thread(void) {
    open_device();
    mock_cuda_forbid_thread(true);
    OK(cuStreamQuery(s));
}

static void calls(void *unused) {
    (void)unused;
    cuStreamQuery(s);
}

static void driver_called_in_a_stream(void) {
    open_device();
    OK(mock_cuda_enqueue(s, calls, NULL));
    OK(cuStreamSynchronize(s));
}

static void enqueued_in_capture(void) {
    open_device();
    mock_cuda_set_capture(s, RDI_CU_CAPTURE_ACTIVE);
    launch_fill(s, p, 4, 1);
}

static void a_wait_for_ever(void) {
    open_device();
    OK(cuStreamWaitValue32_v2(s, (uintptr_t)flag, 1, 0));
    OK(cuStreamSynchronize(s));
}

static void a_kernel_for_ever(void) {
    open_device();
    launch_await(s, (uintptr_t)flag, 1);
    OK(cuStreamSynchronize(s));
}

static void wrong_fault(void) { open_device(); }

int main(void) {
    static const struct mock_case cases[] = {
        CASE(good_program, .env = "MOCK_CUDA_LEAKS=1"),
        CASE(open_device, .env = "MOCK_CUDA_LEAKS=1", .rule = "leak"),
        CASE(host_writes_device_memory, .rule = "host-touches-device-memory"),
        CASE(host_reads_device_memory, .rule = "host-touches-device-memory"),
        CASE(host_uses_freed_pinned_memory, .rule = "host-use-after-free"),
        CASE(kernel_out_of_bounds, .rule = "kernel-out-of-bounds"),
        CASE(kernel_of_pageable_memory, .rule = "kernel-address-unknown"),
        CASE(kernel_of_freed_memory, .rule = "use-after-free"),
        CASE(free_in_use, .env = "MOCK_CUDA_STRICT=1", .rule = "free-in-use"),
        CASE(free_waits_for_ever, .env = "MOCK_CUDA_STUCK_S=1", .rule = "stuck"),
        CASE(pinned_free_in_use, .rule = "pinned-free-in-use"),
        CASE(unregister_in_use, .rule = "unregister-in-use"),
        CASE(unmap_in_use, .rule = "unmap-in-use"),
        CASE(no_access, .rule = "vmm-no-access"),
        CASE(peer_memory, .env = "MOCK_CUDA_DEVICES=2", .rule = "peer-not-enabled"),
        CASE(memop_of_pageable_memory, .rule = "memop-address"),
        CASE(memop_of_managed_memory, .rule = "memop-address"),
        CASE(copy_the_wrong_way, .rule = "copy-direction"),
        CASE(grid_of_nothing, .rule = "launch-grid"),
        CASE(block_too_large, .rule = "launch-grid"),
        CASE(no_arguments, .rule = "launch-args"),
        CASE(stream_destroyed_twice, .rule = "dead-handle"),
        CASE(event_used_after_its_end, .rule = "dead-handle"),
        CASE(function_of_an_unloaded_module, .rule = "dead-handle"),
        CASE(context_not_popped, .rule = "context-stack-left"),
        CASE(context_released_too_soon, .rule = "context-in-use"),
        CASE(memop_in_another_context, .env = "MOCK_CUDA_DEVICES=2", .rule = "foreign-context"),
        CASE(forbidden_thread, .rule = "forbidden-thread"),
        CASE(driver_called_in_a_stream, .rule = "call-in-stream"),
        CASE(enqueued_in_capture, .rule = "enqueued-in-capture"),
        CASE(a_wait_for_ever, .env = "MOCK_CUDA_STUCK_S=1", .rule = "stuck"),
        CASE(a_kernel_for_ever, .env = "MOCK_CUDA_STUCK_S=1", .rule = "stuck"),
        CASE(wrong_fault, .env = "MOCK_CUDA_FAIL=cuNothing:1:2", .rule = "environment"),
        CASE(wrong_fault, .env = "MOCK_CUDA_ATTR=speed=1", .rule = "environment"),
        CASE(wrong_fault, .env = "MOCK_CUDA_DEVICES=many", .rule = "environment"),
    };
    return run_mock_cases("mock_cuda_rules", cases, sizeof cases / sizeof cases[0]);
}
