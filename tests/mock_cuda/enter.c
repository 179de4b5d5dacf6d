// SPDX-License-Identifier: MIT
// The beginning of every call, cuInit(), and the names of errors.
#include "tests/mock_cuda/mock.h"

#include <stdlib.h>
#include <unistd.h>

__thread struct mc_tls mc_tls;

const char *const mc_symbols[MC_FUNCTIONS] = {
#define MC_SYMBOL(need, name, symbol, arguments) #symbol,
    RDI_CUDA_FUNCTIONS(MC_SYMBOL)};

// Linked only if every function of the table is defined.
typedef void any_function(void);
__attribute__((used)) static any_function *const defined[] = {
#define MC_ADDRESS(need, name, symbol, arguments) MC_IF_##need((any_function *)symbol, )
    RDI_CUDA_FUNCTIONS(MC_ADDRESS)};

static _Atomic int ready_pid; // the process that called cuInit()
static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t exit_key;
static _Atomic uint64_t calls[MC_FUNCTIONS];

uint64_t mc_calls(unsigned f) { return atomic_load_explicit(&calls[f], memory_order_relaxed); }

// The thread's variables are freed by whichever thread gets its stack next, in order, but by the loader, whose locks the
// sanitizer of threads does not see.
__attribute__((no_sanitize_thread)) static void thread_ends(void *unused) {
    (void)unused;
    if (mc_tls.depth)
        mc_rule("context-stack-left", "a thread ends with %u contexts pushed and not popped",
                mc_tls.depth);
}

void mc_watch_thread(void) {
    if (!mc_tls.watched)
        pthread_setspecific(exit_key, &mc_tls);
    mc_tls.watched = true;
}

static rdi_cu_result check_context(void) {
    if (!mc_tls.depth)
        return RDI_CU_INVALID_CONTEXT;
    const struct mc_ctx *c = mc_ctx_current();
    if (!c)
        return MC_CONTEXT_DESTROYED;
    return atomic_load_explicit(&c->error, memory_order_relaxed);
}

rdi_cu_result mc_enter(enum mc_function f, enum mc_need need) {
    atomic_fetch_add_explicit(&calls[f], 1, memory_order_relaxed);
    if (mc_tls.forbidden)
        mc_rule("forbidden-thread", "%s() is called by a thread that must not call the driver",
                mc_symbols[f]);
    if (mc_tls.running)
        mc_rule("call-in-stream", "%s() is called by a host function or kernel of a stream",
                mc_symbols[f]);
    int pid = atomic_load_explicit(&ready_pid, memory_order_acquire);
    if (need != MC_NEED_NOTHING && pid != getpid()) // a forked child inherits no driver
        return RDI_CU_NOT_INITIALIZED;
    int code = mc_fault(mc_symbols[f]);
    if (code)
        return code;
    return need == MC_NEED_CTX ? check_context() : RDI_CU_OK;
}

rdi_cu_result cuInit(unsigned flags) {
    pthread_mutex_lock(&init_lock);
    int pid = atomic_load(&ready_pid);
    if (pid == 0)
        mc_config_read();
    pthread_mutex_unlock(&init_lock);
    MC_ENTER(cuInit, MC_NEED_NOTHING);
    if (flags)
        return RDI_CU_INVALID_VALUE;
    if (mc_config.init)
        return mc_config.init;
    if (pid && pid != getpid())
        return RDI_CU_NOT_INITIALIZED;
    if (mc_config.devices == 0)
        return RDI_CU_NO_DEVICE;
    pthread_mutex_lock(&init_lock);
    if (atomic_load(&ready_pid) == 0) {
        mc_ctx_init();
        mc_arena_init();
        pthread_key_create(&exit_key, thread_ends);
        atomic_store_explicit(&ready_pid, getpid(), memory_order_release);
    }
    pthread_mutex_unlock(&init_lock);
    return RDI_CU_OK;
}

rdi_cu_result cuDriverGetVersion(int *version) {
    MC_ENTER(cuDriverGetVersion, MC_NEED_NOTHING);
    if (!version)
        return RDI_CU_INVALID_VALUE;
    *version = mc_config.version ? mc_config.version : 13000;
    return RDI_CU_OK;
}

// ---- Errors --------------------------------------------------------------------------------------

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {RDI_CU_OK, "CUDA_SUCCESS", "no error"},
    {RDI_CU_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {RDI_CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {RDI_CU_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {RDI_CU_DEINITIALIZED, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {RDI_CU_STUB_LIBRARY, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {RDI_CU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {RDI_CU_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {RDI_CU_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {RDI_CU_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {MC_MAP_FAILED, "CUDA_ERROR_MAP_FAILED", "mapping of buffer object failed"},
    {RDI_CU_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {RDI_CU_PEER_ACCESS_UNSUPPORTED, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
     "peer access is not supported between these two devices"},
    {MC_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {RDI_CU_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {RDI_CU_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {RDI_CU_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {RDI_CU_PEER_ACCESS_ALREADY_ENABLED, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
     "peer access is already enabled"},
    {MC_CONTEXT_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {RDI_CU_HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {MC_HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {RDI_CU_NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {RDI_CU_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {RDI_CU_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
};

static rdi_cu_result describe(rdi_cu_result r, bool name, const char **out) {
    if (!out)
        return RDI_CU_INVALID_VALUE;
    *out = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (errors[i].code == r)
            *out = name ? errors[i].name : errors[i].text;
    return *out ? RDI_CU_OK : RDI_CU_INVALID_VALUE;
}

rdi_cu_result cuGetErrorName(rdi_cu_result r, const char **name) {
    MC_ENTER(cuGetErrorName, MC_NEED_NOTHING);
    return describe(r, true, name);
}

rdi_cu_result cuGetErrorString(rdi_cu_result r, const char **text) {
    MC_ENTER(cuGetErrorString, MC_NEED_NOTHING);
    return describe(r, false, text);
}
