// SPDX-License-Identifier: MIT
// What the mock's own tests share: a process for each case, and short words for what most cases need.
#include "tests/mock_cuda/test_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

// Every case is a process, and ThreadSanitizer has each wait for a second at its end.
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "atexit_sleep_ms=20"; }

#ifdef __SANITIZE_THREAD__
static const bool thread_sanitizer = true;
#else
static const bool thread_sanitizer = false;
#endif

// ---- Cases ---------------------------------------------------------------------------------------

static void set_environment(const char *text) {
    char copy[512], *save;
    if (!text)
        return;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *one = strtok_r(copy, " ", &save); one; one = strtok_r(NULL, " ", &save)) {
        char *equal = strchr(one, '=');
        *equal = '\0';
        setenv(one, equal + 1, 1);
    }
}

static int in_process(const struct mock_case *c, char *text, size_t cap) {
    int fds[2], status;
    size_t n = 0;
    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        dup2(fds[1], 2);
        close(fds[0]);
        close(fds[1]);
        set_environment(c->env);
        c->run();
        exit(0);
    }
    close(fds[1]);
    ssize_t got;
    while (n < cap - 1 && (got = read(fds[0], text + n, cap - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void one_case(void **state) {
    const struct mock_case *c = *state;
    char text[8192], want[80];
    if (c->race && !thread_sanitizer)
        skip();
    int status = in_process(c, text, sizeof text);
    if (c->race) {
        if (status == 0 || !strstr(text, "data race"))
            fail_msg("no race was found: status 0x%x, and it says: %s", (unsigned)status, text);
        return;
    }
    if (!c->rule) {
        if (status || *text)
            fail_msg("status 0x%x, and it says: %s", (unsigned)status, text);
        return;
    }
    snprintf(want, sizeof want, "mock_cuda: RULE %s: ", c->rule);
    const char *at = strstr(text, want);
    if (!at || !WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || strstr(at + 10, ": RULE"))
        fail_msg("status 0x%x instead of rule %s, and it says: %s", (unsigned)status, c->rule,
                 text);
}

int run_mock_cases(const char *group, const struct mock_case *cases, size_t n) {
    struct CMUnitTest *tests = calloc(n, sizeof *tests);
    for (size_t i = 0; i < n; i++)
        tests[i] = (struct CMUnitTest){.name = cases[i].name,
                                       .test_func = one_case,
                                       .initial_state = (void *)(uintptr_t)&cases[i]};
    int failed = _cmocka_run_group_tests(group, tests, n, NULL, NULL);
    free(tests);
    return failed;
}

// ---- Twins ---------------------------------------------------------------------------------------

static void twin_add(void **args, const unsigned grid[3], const unsigned block[3]) {
    (void)grid;
    (void)block;
    uint64_t p[3], n;
    for (int i = 0; i < 3; i++)
        memcpy(&p[i], args[i], 8);
    memcpy(&n, args[3], 8);
    float *dst = mock_cuda_range(p[0], n * 4);
    const float *a = mock_cuda_range(p[1], n * 4), *b = mock_cuda_range(p[2], n * 4);
    for (uint64_t i = 0; i < n; i++)
        dst[i] = a[i] + b[i];
}

static void twin_fill(void **args, const unsigned grid[3], const unsigned block[3]) {
    (void)grid;
    (void)block;
    uint64_t p, n;
    float value;
    memcpy(&p, args[0], 8);
    memcpy(&n, args[1], 8);
    memcpy(&value, args[2], 4);
    float *dst = mock_cuda_range(p, n * 4);
    for (uint64_t i = 0; i < n; i++)
        dst[i] = value;
}

static void twin_await(void **args, const unsigned grid[3], const unsigned block[3]) {
    (void)grid;
    (void)block;
    uint64_t p;
    uint32_t value;
    memcpy(&p, args[0], 8);
    memcpy(&value, args[1], 4);
    const uint32_t *flag = mock_cuda_range(p, 4);
    while ((int32_t)(__atomic_load_n(flag, __ATOMIC_ACQUIRE) - value) < 0)
        mock_cuda_relax();
}

static const struct mock_cuda_twin twins[] = {
    {"add", twin_add, 4, {8, 8, 8, 8}},
    {"fill", twin_fill, 3, {8, 8, 4}},
    {"await", twin_await, 2, {8, 4}},
    {0},
};

rdi_cu_function kernel(const char *name) {
    static const uint32_t image[4] = {0xba55ed50u};
    static rdi_cu_module module;
    static rdi_cu_ctx of;
    rdi_cu_ctx now;
    rdi_cu_function f;
    OK(cuCtxGetCurrent(&now));
    if (!module)
        mock_cuda_register_twins(twins);
    if (of != now)
        OK(cuModuleLoadData(&module, image));
    of = now;
    OK(cuModuleGetFunction(&f, module, name));
    return f;
}

static void launch(const char *name, rdi_cu_stream s, void **args) {
    OK(cuLaunchKernel(kernel(name), 4, 1, 1, 128, 1, 1, 0, s, args, NULL));
}

void launch_add(rdi_cu_stream s, rdi_cu_ptr dst, rdi_cu_ptr a, rdi_cu_ptr b, uint64_t n) {
    launch("add", s, (void *[]){&dst, &a, &b, &n});
}

void launch_fill(rdi_cu_stream s, rdi_cu_ptr dst, uint64_t n, float value) {
    launch("fill", s, (void *[]){&dst, &n, &value});
}

void launch_await(rdi_cu_stream s, rdi_cu_ptr flag, uint32_t value) {
    launch("await", s, (void *[]){&flag, &value});
}

// ---- Short words ---------------------------------------------------------------------------------

rdi_cu_ctx use_device(int ordinal) {
    rdi_cu_ctx ctx;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&ctx, ordinal));
    OK(cuCtxPushCurrent_v2(ctx));
    return ctx;
}

rdi_cu_ptr device_memory(size_t bytes) {
    rdi_cu_ptr p;
    OK(cuMemAlloc_v2(&p, bytes));
    return p;
}

void *pinned_memory(size_t bytes) {
    void *p;
    OK(cuMemHostAlloc(&p, bytes, RDI_CU_HOST_PORTABLE | RDI_CU_HOST_DEVICEMAP));
    return memset(p, 0, bytes);
}

rdi_cu_stream new_stream(void) {
    rdi_cu_stream s;
    OK(cuStreamCreateWithPriority(&s, RDI_CU_STREAM_NON_BLOCKING, 0));
    return s;
}

rdi_cu_event new_event(void) {
    rdi_cu_event e;
    OK(cuEventCreate(&e, RDI_CU_EVENT_DISABLE_TIMING));
    return e;
}

float first_float(rdi_cu_ptr p) {
    float f;
    mock_cuda_peek(&f, p, sizeof f);
    return f;
}
