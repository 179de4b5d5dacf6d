// SPDX-License-Identifier: MIT
// Streams, events, memory operations, copies, kernels: that the order holds which CUDA promises, and no other.
#include "tests/mock_cuda/test_support.h"

#include <pthread.h>
#include <time.h>

enum { N = 1000 };

static void pause_ms(long ms) {
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void store(void *word, uint32_t value) {
    __atomic_store_n((uint32_t *)word, value, __ATOMIC_RELEASE);
}

static uint32_t load(void *word) { return __atomic_load_n((uint32_t *)word, __ATOMIC_ACQUIRE); }

static rdi_cu_ptr address(void *host) {
    rdi_cu_ptr p;
    OK(cuMemHostGetDevicePointer_v2(&p, host, 0));
    return p;
}

static void a_stream_is_a_fifo(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    rdi_cu_ptr a = device_memory(N * 4), b = device_memory(N * 4);
    launch_fill(s, a, N, 1);
    for (int i = 0; i < 20; i++) {
        OK(cuMemcpyDtoDAsync_v2(b, a, N * 4, s));
        launch_add(s, a, a, b, N);
    }
    OK(cuStreamSynchronize(s));
    CHECK(first_float(a) == 1 << 20);
    OK(cuMemsetD8Async(a, 0, N * 4, s));
    OK(cuStreamSynchronize(s));
    CHECK(first_float(a) == 0);
}

static void calls_return_before_the_work(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    rdi_cu_ptr a = device_memory(N * 4);
    mock_cuda_hold(s, true);
    launch_fill(s, a, N, 3);
    RESULT(RDI_CU_NOT_READY, cuStreamQuery(s));
    pause_ms(20);
    CHECK(first_float(a) != 3);
    mock_cuda_hold(s, false);
    OK(cuStreamSynchronize(s));
    OK(cuStreamQuery(s));
    CHECK(first_float(a) == 3);
}

static void arguments_are_copied_at_launch(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    rdi_cu_ptr a = device_memory(N * 4);
    uint64_t n = N;
    float value = 5;
    mock_cuda_hold(s, true);
    OK(cuLaunchKernel(kernel("fill"), 1, 1, 1, 1, 1, 1, 0, s, (void *[]){&a, &n, &value}, NULL));
    value = 6;
    mock_cuda_hold(s, false);
    OK(cuStreamSynchronize(s));
    CHECK(first_float(a) == 5);
}

static void an_event_orders_streams(void) {
    use_device(0);
    rdi_cu_stream s = new_stream(), t = new_stream();
    rdi_cu_event e = new_event();
    rdi_cu_ptr a = device_memory(N * 4), b = device_memory(N * 4);
    for (int i = 0; i < 20; i++) {
        launch_fill(s, a, N, (float)i);
        OK(cuEventRecord(e, s));
        OK(cuStreamWaitEvent(t, e, 0));
        OK(cuMemcpyDtoDAsync_v2(b, a, N * 4, t));
        OK(cuEventRecord(e, t));
        OK(cuStreamWaitEvent(s, e, 0));
    }
    OK(cuEventSynchronize(e));
    OK(cuEventQuery(e));
    CHECK(first_float(b) == 19);
}

// The same without events, one long after the other: right by luck, and ThreadSanitizer knows.
static void streams_without_order(void) {
    use_device(0);
    rdi_cu_stream s = new_stream(), t = new_stream();
    rdi_cu_ptr a = device_memory(N * 4), b = device_memory(N * 4);
    launch_fill(s, a, N, 1);
    pause_ms(300);
    launch_add(t, b, a, a, N);
    OK(cuStreamSynchronize(t));
}

static void an_event_never_recorded_holds_nobody(void) {
    use_device(0);
    rdi_cu_stream s = new_stream(), t = new_stream();
    rdi_cu_event e = new_event();
    OK(cuEventQuery(e));
    OK(cuEventSynchronize(e));
    mock_cuda_hold(t, true);
    OK(cuStreamWaitEvent(s, e, 0));
    OK(cuEventRecord(e, t)); // later: the wait did not mean this one
    OK(cuStreamSynchronize(s));
    RESULT(RDI_CU_NOT_READY, cuEventQuery(e));
    mock_cuda_hold(t, false);
    OK(cuEventSynchronize(e));
}

static void a_wait_means_the_last_recording(void) {
    use_device(0);
    rdi_cu_stream s = new_stream(), t = new_stream(), u = new_stream();
    rdi_cu_event e = new_event();
    mock_cuda_hold(t, true);
    OK(cuEventRecord(e, t));
    OK(cuStreamWaitEvent(s, e, 0));
    OK(cuEventRecord(e, u)); // does not release s
    OK(cuEventSynchronize(e));
    pause_ms(10);
    RESULT(RDI_CU_NOT_READY, cuStreamQuery(s));
    OK(cuEventDestroy_v2(e)); // nor does this
    mock_cuda_hold(t, false);
    OK(cuStreamSynchronize(s));
}

static void elapsed_time(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    rdi_cu_event a, b;
    float ms;
    OK(cuEventCreate(&a, RDI_CU_EVENT_DEFAULT));
    OK(cuEventCreate(&b, RDI_CU_EVENT_DEFAULT));
    RESULT(400, cuEventElapsedTime(&ms, a, b));
    OK(cuEventRecord(a, s));
    OK(cuStreamSynchronize(s));
    mock_cuda_hold(s, true);
    OK(cuEventRecord(b, s));
    RESULT(RDI_CU_NOT_READY, cuEventElapsedTime(&ms, a, b));
    pause_ms(15);
    mock_cuda_hold(s, false);
    OK(cuEventSynchronize(b));
    OK(cuEventElapsedTime(&ms, a, b));
    CHECK(ms >= 15 && ms < 60000);
    RESULT(400, cuEventElapsedTime(&ms, a, new_event()));
}

// ---- The legacy stream ---------------------------------------------------------------------------

static void the_legacy_stream_waits_for_blocking_ones(void) {
    use_device(0);
    rdi_cu_stream s, n = new_stream();
    OK(cuStreamCreateWithPriority(&s, 0, -3));
    rdi_cu_ptr a = device_memory(N * 4), b = device_memory(N * 4);
    mock_cuda_hold(s, true);
    mock_cuda_hold(n, true);
    launch_fill(s, a, N, 7);
    launch_fill(n, b, N, 8);
    OK(cuMemcpyDtoDAsync_v2(b, a, N * 4, NULL)); // after s, whatever n does
    pause_ms(10);
    RESULT(RDI_CU_NOT_READY, cuStreamQuery(NULL));
    mock_cuda_hold(s, false);
    OK(cuStreamSynchronize(NULL));
    CHECK(first_float(b) == 7);
    mock_cuda_hold(n, false);
    OK(cuStreamSynchronize(n));
    CHECK(first_float(b) == 8);
}

static void blocking_streams_wait_for_the_legacy_one(void) {
    use_device(0);
    rdi_cu_stream s, n = new_stream();
    OK(cuStreamCreateWithPriority(&s, 0, 0));
    rdi_cu_ptr a = device_memory(N * 4);
    mock_cuda_hold(NULL, true);
    launch_fill(NULL, a, N, 1);
    launch_fill(s, a, N, 2);
    launch_fill(n, a, N, 3);
    OK(cuStreamSynchronize(n));
    pause_ms(10);
    CHECK(first_float(a) == 3);
    RESULT(RDI_CU_NOT_READY, cuStreamQuery(s));
    mock_cuda_hold(NULL, false);
    OK(cuStreamSynchronize(s));
    CHECK(first_float(a) == 2);
}

// ---- Memory operations ---------------------------------------------------------------------------

static void waits_and_writes(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    uint32_t *flag = pinned_memory(64);
    rdi_cu_ptr f = address(flag);
    OK(cuStreamWriteValue32_v2(s, f + 4, 1, RDI_CU_WRITE_DEFAULT));
    OK(cuStreamWaitValue32_v2(s, f, 5, RDI_CU_WAIT_GEQ | RDI_CU_WAIT_FLUSH));
    OK(cuStreamWriteValue32_v2(s, f + 4, 2, RDI_CU_WRITE_DEFAULT));
    pause_ms(20);
    CHECK(load(flag + 1) == 1);
    store(flag, 4);
    pause_ms(20);
    CHECK(load(flag + 1) == 1);
    store(flag, 6);
    OK(cuStreamSynchronize(s));
    CHECK(load(flag + 1) == 2);
}

static void the_comparison_is_cyclic(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    uint32_t *flag = pinned_memory(4);
    store(flag, 3); // has wrapped, and is more
    OK(cuStreamWaitValue32_v2(s, address(flag), 0xfffffff0u, RDI_CU_WAIT_GEQ));
    OK(cuStreamSynchronize(s));
    OK(cuStreamWaitValue32_v2(s, address(flag), 4, RDI_CU_WAIT_EQ));
    store(flag, 5);
    pause_ms(10);
    RESULT(RDI_CU_NOT_READY, cuStreamQuery(s));
    store(flag, 4);
    OK(cuStreamSynchronize(s));
}

static void a_batch(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    static uint32_t flags[2];
    OK(cuMemHostRegister_v2(flags, sizeof flags, 0));
    rdi_cu_ptr f = address(flags);
    rdi_cu_memop ops[2] = {
        {.value32 = {.kind = RDI_CU_OP_WRITE32, .address = f, .value = 9}},
        {.value32 = {.kind = RDI_CU_OP_WAIT32, .address = f + 4, .value = 1}},
    };
    OK(cuStreamBatchMemOp_v2(s, 2, ops, 0));
    while (load(flags) != 9)
        pause_ms(1);
    RESULT(RDI_CU_NOT_READY, cuStreamQuery(s));
    store(flags + 1, 1);
    OK(cuStreamSynchronize(s));
    ops[1].value32.kind = 3;
    RESULT(RDI_CU_INVALID_VALUE, cuStreamBatchMemOp_v2(s, 2, ops, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuStreamBatchMemOp_v2(s, 0, ops, 0));
    RESULT(RDI_CU_INVALID_VALUE, cuStreamWaitValue32_v2(s, f + 2, 0, 0));
    OK(cuMemHostUnregister(flags));
}

static void memops_turned_off(void) {
    use_device(0);
    uint32_t *flag = pinned_memory(4);
    RESULT(RDI_CU_NOT_SUPPORTED, cuStreamWriteValue32_v2(NULL, address(flag), 1, 0));
}

static void flush_turned_off(void) {
    use_device(0);
    uint32_t *flag = pinned_memory(4);
    RESULT(RDI_CU_NOT_SUPPORTED, cuStreamWaitValue32_v2(NULL, address(flag), 0, RDI_CU_WAIT_FLUSH));
    OK(cuStreamWaitValue32_v2(NULL, address(flag), 0, 0));
    RESULT(RDI_CU_NOT_SUPPORTED, cuFlushGPUDirectRDMAWrites(0, RDI_CU_FLUSH_TO_OWNER));
}

static void *answer(void *flags) {
    for (uint32_t i = 1; i <= 200; i++) {
        while ((int32_t)(load(flags) - i) < 0)
            pause_ms(0);
        store((uint32_t *)flags + 16, i);
    }
    return NULL;
}

// The whole pattern of a collective: write, a thread that answers, wait, a kernel.
static void a_chain_with_a_progress_thread(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    uint32_t *flags = pinned_memory(128);
    rdi_cu_ptr a = device_memory(N * 4), b = device_memory(N * 4);
    pthread_t t;
    pthread_create(&t, NULL, answer, flags);
    launch_fill(s, a, N, 0);
    launch_fill(s, b, N, 1);
    for (uint32_t i = 1; i <= 200; i++) {
        OK(cuStreamWriteValue32_v2(s, address(flags), i, 0));
        OK(cuStreamWaitValue32_v2(s, address(flags + 16), i, 0));
        launch_add(s, a, a, b, N);
    }
    OK(cuStreamSynchronize(s));
    pthread_join(t, NULL);
    CHECK(first_float(a) == 200);
    struct mock_cuda_counters c;
    mock_cuda_counters(&c);
    CHECK(c.launches == 202 && c.waits == 200 && c.writes == 200);
    CHECK(mock_cuda_calls("cuLaunchKernel") == 202);
}

static void a_kernel_that_waits(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    uint32_t *flag = pinned_memory(4);
    launch_await(s, address(flag), 1);
    pause_ms(10);
    RESULT(RDI_CU_NOT_READY, cuStreamQuery(s));
    store(flag, 1);
    OK(cuStreamSynchronize(s));
}

// Hardware queues: with one, a wait holds back what another stream enqueued after it.
static void streams_share_a_queue(void) {
    use_device(0);
    rdi_cu_stream s = new_stream(), t = new_stream();
    uint32_t *flag = pinned_memory(4);
    rdi_cu_ptr a = device_memory(N * 4);
    OK(cuStreamWaitValue32_v2(s, address(flag), 1, 0));
    launch_fill(t, a, N, 1);
    pause_ms(30);
    bool alone = getenv("MOCK_CUDA_QUEUES") == NULL;
    RESULT(alone ? RDI_CU_OK : RDI_CU_NOT_READY, cuStreamQuery(t));
    store(flag, 1);
    OK(cuStreamSynchronize(t));
    OK(cuStreamSynchronize(s));
}

static void aliased_streams_deadlock(void) {
    use_device(0);
    rdi_cu_stream s = new_stream(), t = new_stream();
    uint32_t *flag = pinned_memory(4);
    OK(cuStreamWaitValue32_v2(s, address(flag), 1, 0));
    OK(cuStreamWriteValue32_v2(t, address(flag), 1, 0));
    OK(cuStreamSynchronize(s));
}

// ---- Copies --------------------------------------------------------------------------------------

static void pinned_sources_are_read_late(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    float *p = pinned_memory(4);
    rdi_cu_ptr a = device_memory(4);
    mock_cuda_hold(s, true);
    *p = 1;
    OK(cuMemcpyHtoDAsync_v2(a, p, 4, s));
    *p = 2;
    mock_cuda_hold(s, false);
    OK(cuStreamSynchronize(s));
    CHECK(first_float(a) == 2);
}

static void pageable_sources_are_read_at_once(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    float f = 1;
    rdi_cu_ptr a = device_memory(4);
    mock_cuda_hold(s, true);
    OK(cuMemcpyHtoDAsync_v2(a, &f, 4, s));
    f = 2;
    mock_cuda_hold(s, false);
    OK(cuStreamSynchronize(s));
    CHECK(first_float(a) == 1);
    struct mock_cuda_counters c;
    mock_cuda_counters(&c);
    CHECK(c.staged == 1 && c.to_device_bytes == 4);
}

static void copies_to_the_host(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    float *p = pinned_memory(4), f = 0;
    rdi_cu_ptr a = device_memory(4);
    launch_fill(s, a, 1, 4);
    OK(cuMemcpyDtoHAsync_v2(&f, a, 4, s)); // pageable: done at return
    CHECK(f == 4);
    mock_cuda_hold(s, true);
    OK(cuMemcpyDtoHAsync_v2(p, a, 4, s));
    CHECK(*p == 0);
    mock_cuda_hold(s, false);
    OK(cuStreamSynchronize(s));
    CHECK(*p == 4);
    OK(cuMemcpyDtoH_v2(&f, a, 4));
}

static void copies_without_async(void) {
    use_device(0);
    static char big[1 << 20], back[1 << 20];
    memset(big, 7, sizeof big);
    rdi_cu_ptr a = device_memory(sizeof big);
    OK(cuMemcpyHtoD_v2(a, big, sizeof big));
    OK(cuMemcpyDtoH_v2(back, a, sizeof big));
    CHECK(memcmp(big, back, sizeof big) == 0);
    mock_cuda_hold(NULL, true); // a small one may return before it is there
    OK(cuMemcpyHtoD_v2(a, "abc", 4));
    mock_cuda_peek(back, a, 4);
    CHECK(back[0] == 7);
    mock_cuda_hold(NULL, false);
    OK(cuStreamSynchronize(NULL));
    RESULT(RDI_CU_INVALID_VALUE, cuMemcpyHtoD_v2(a, big, sizeof big + 1));
    RESULT(RDI_CU_INVALID_VALUE, cuMemcpyHtoD_v2((uintptr_t)big, big, 1));
}

static void host_functions_run_in_order(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    uint32_t *words = pinned_memory(4);
    mock_cuda_hold(s, true);
    OK(mock_cuda_enqueue(s, (void (*)(void *))free, malloc(1)));
    OK(cuStreamWriteValue32_v2(s, address(words), 1, 0));
    mock_cuda_hold(s, false);
    OK(cuStreamSynchronize(s));
    CHECK(load(words) == 1);
}

static void the_queue_of_a_stream_is_finite(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    mock_cuda_hold(s, true);
    rdi_cu_event e = new_event();
    for (int i = 0; i < 9; i++) // the ninth blocks for ever
        OK(cuEventRecord(e, s));
}

static void work_of_a_destroyed_stream_is_done(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    rdi_cu_event e = new_event();
    rdi_cu_ptr a = device_memory(4);
    mock_cuda_hold(s, true);
    launch_fill(s, a, 1, 9);
    OK(cuEventRecord(e, s));
    OK(cuStreamDestroy_v2(s));
    OK(cuEventSynchronize(e));
    CHECK(first_float(a) == 9);
}

static void capture(void) {
    use_device(0);
    rdi_cu_stream s = new_stream();
    int status = 9;
    OK(cuStreamIsCapturing(s, &status));
    CHECK(status == RDI_CU_CAPTURE_NONE);
    mock_cuda_set_capture(s, RDI_CU_CAPTURE_ACTIVE);
    OK(cuStreamIsCapturing(s, &status));
    CHECK(status == RDI_CU_CAPTURE_ACTIVE);
    RESULT(RDI_CU_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(s));
    mock_cuda_set_capture(s, RDI_CU_CAPTURE_NONE);
    OK(cuStreamSynchronize(s));
}

#define JITTER .env = "MOCK_CUDA_JITTER_US=200"
int main(void) {
    static const struct mock_case cases[] = {
        CASE(a_stream_is_a_fifo, JITTER),
        CASE(calls_return_before_the_work),
        CASE(arguments_are_copied_at_launch),
        CASE(an_event_orders_streams, JITTER),
        CASE(streams_without_order, .race = true),
        CASE(an_event_never_recorded_holds_nobody),
        CASE(a_wait_means_the_last_recording),
        CASE(elapsed_time),
        CASE(the_legacy_stream_waits_for_blocking_ones),
        CASE(blocking_streams_wait_for_the_legacy_one),
        CASE(waits_and_writes),
        CASE(the_comparison_is_cyclic),
        CASE(a_batch),
        CASE(memops_turned_off, .env = "MOCK_CUDA_ATTR=memops=0"),
        CASE(flush_turned_off, .env = "MOCK_CUDA_ATTR=can_flush=0,flush_options=0"),
        CASE(a_chain_with_a_progress_thread, JITTER),
        CASE(a_kernel_that_waits),
        CASE(streams_share_a_queue),
        CASE(streams_share_a_queue, .env = "MOCK_CUDA_QUEUES=1"),
        CASE(aliased_streams_deadlock),
        CASE(aliased_streams_deadlock, .env = "MOCK_CUDA_QUEUES=1 MOCK_CUDA_STUCK_S=1",
             .rule = "stuck"),
        CASE(pinned_sources_are_read_late),
        CASE(pageable_sources_are_read_at_once),
        CASE(copies_to_the_host),
        CASE(copies_without_async),
        CASE(host_functions_run_in_order),
        CASE(the_queue_of_a_stream_is_finite, .env = "MOCK_CUDA_DEPTH=8 MOCK_CUDA_STUCK_S=1",
             .rule = "stuck"),
        CASE(work_of_a_destroyed_stream_is_done),
        CASE(capture),
    };
    return run_mock_cases("mock_cuda_stream", cases, sizeof cases / sizeof cases[0]);
}
