// SPDX-License-Identifier: MIT
// Modules and kernels: a module is any fatbin, a kernel the twin of its name.
#include "tests/mock_cuda/mock.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define FATBIN 0xba55ed50u

struct module {
    struct mc_ctx *ctx;
    struct function *functions;
};
struct function {
    struct module *module;
    struct function *next;
    void *handle;
    const struct mock_cuda_twin *twin;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct mock_cuda_twin *tables[16];
static unsigned ntables;
static bool loaded;

static void add_table(const struct mock_cuda_twin *table) {
    if (ntables == sizeof tables / sizeof tables[0])
        mc_rule("environment", "more than %u tables of twins", ntables);
    tables[ntables++] = table;
}

void mock_cuda_register_twins(const struct mock_cuda_twin *table) {
    pthread_mutex_lock(&lock);
    add_table(table);
    pthread_mutex_unlock(&lock);
}

// Twins find the functions of mock_cuda.h also where this library was loaded RTLD_LOCAL.
static void be_global(void) {
    Dl_info info;
    if (dladdr((void *)be_global, &info) && info.dli_fname)
        dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
}

static void load_libraries(void) {
    const char *list = getenv("MOCK_CUDA_TWINS");
    loaded = true;
    if (!list || !*list)
        return;
    be_global();
    char *copy = strdup(list), *save;
    for (char *one = strtok_r(copy, ":", &save); one; one = strtok_r(NULL, ":", &save)) {
        void *library = dlopen(one, RTLD_NOW | RTLD_GLOBAL);
        if (!library)
            mc_rule("environment", "MOCK_CUDA_TWINS: %s", dlerror());
        const struct mock_cuda_twin *table = dlsym(library, "mock_twin_table");
        if (!table)
            mc_rule("environment", "MOCK_CUDA_TWINS: %s has no mock_twin_table", one);
        add_table(table);
    }
    free(copy);
}

static const struct mock_cuda_twin *find_twin(const char *name) {
    const struct mock_cuda_twin *found = NULL;
    pthread_mutex_lock(&lock);
    if (!loaded)
        load_libraries();
    for (unsigned i = 0; i < ntables && !found; i++)
        for (const struct mock_cuda_twin *t = tables[i]; t->name && !found; t++)
            if (strcmp(t->name, name) == 0)
                found = t;
    pthread_mutex_unlock(&lock);
    return found;
}

rdi_cu_result cuModuleLoadData(rdi_cu_module *module, const void *image) {
    MC_ENTER(cuModuleLoadData, MC_NEED_CTX);
    if (!module || !image)
        return RDI_CU_INVALID_VALUE;
    uint32_t magic;
    memcpy(&magic, image, sizeof magic);
    if (magic != FATBIN)
        return RDI_CU_INVALID_IMAGE;
    struct module *m = calloc(1, sizeof *m);
    if (!m)
        return RDI_CU_OUT_OF_MEMORY;
    m->ctx = mc_ctx_current();
    *module = mc_handle_new(MC_MODULE, m);
    return RDI_CU_OK;
}

rdi_cu_result cuModuleUnload(rdi_cu_module module) {
    MC_ENTER(cuModuleUnload, MC_NEED_CTX);
    struct module *m = mc_handle_get(MC_MODULE, module);
    if (!m)
        return MC_INVALID_HANDLE;
    mc_handle_kill(module);
    while (m->functions) {
        struct function *f = m->functions;
        m->functions = f->next;
        mc_handle_kill(f->handle);
        free(f);
    }
    free(m);
    return RDI_CU_OK;
}

rdi_cu_result cuModuleGetFunction(rdi_cu_function *out, rdi_cu_module module, const char *name) {
    MC_ENTER(cuModuleGetFunction, MC_NEED_CTX);
    struct module *m = mc_handle_get(MC_MODULE, module);
    if (!m)
        return MC_INVALID_HANDLE;
    if (!out || !name)
        return RDI_CU_INVALID_VALUE;
    const struct mock_cuda_twin *twin = find_twin(name);
    if (!twin)
        return RDI_CU_NOT_FOUND;
    pthread_mutex_lock(&lock);
    struct function *f = m->functions;
    while (f && f->twin != twin)
        f = f->next;
    if (!f && (f = calloc(1, sizeof *f))) {
        *f = (struct function){.module = m, .next = m->functions, .twin = twin};
        f->handle = mc_handle_new(MC_FUNCTION, f);
        m->functions = f;
    }
    pthread_mutex_unlock(&lock);
    if (!f)
        return RDI_CU_OUT_OF_MEMORY;
    *out = f->handle;
    return RDI_CU_OK;
}

// ---- Launching -----------------------------------------------------------------------------------

static void check_grid(const char *name, const struct mc_op *op, unsigned shared) {
    const unsigned *g = op->grid, *b = op->block;
    bool grid = g[0] && g[0] <= 0x7fffffff && g[1] && g[1] <= 65535 && g[2] && g[2] <= 65535;
    bool block = b[0] && b[0] <= 1024 && b[1] && b[1] <= 1024 && b[2] && b[2] <= 64 &&
                 (uint64_t)b[0] * b[1] * b[2] <= 1024;
    if (!grid || !block || shared > 48u << 10)
        mc_rule("launch-grid", "%s is launched with grid %u,%u,%u block %u,%u,%u shared %u", name,
                g[0], g[1], g[2], b[0], b[1], b[2], shared);
}

static void copy_args(struct mc_op *op, void **args) {
    const struct mock_cuda_twin *t = op->twin;
    size_t bytes = 0;
    if (t->nargs > MOCK_CUDA_ARGS)
        mc_rule("launch-args", "the twin of %s has %u arguments", t->name, t->nargs);
    if (t->nargs && !args)
        mc_rule("launch-args", "%s is launched without its %u arguments", t->name, t->nargs);
    for (unsigned i = 0; i < t->nargs; i++)
        bytes += (t->size[i] + 15u) & ~15u;
    char *at = op->arg_bytes = aligned_alloc(16, bytes ? bytes : 16);
    if (!at)
        mc_rule("environment", "out of memory");
    for (unsigned i = 0; i < t->nargs; i++) {
        if (!args[i])
            mc_rule("launch-args", "argument %u of %s is NULL", i, t->name);
        op->args[i] = memcpy(at, args[i], t->size[i]);
        at += (t->size[i] + 15u) & ~15u;
    }
}

rdi_cu_result cuLaunchKernel(rdi_cu_function function, unsigned gx, unsigned gy, unsigned gz,
                             unsigned bx, unsigned by, unsigned bz, unsigned shared,
                             rdi_cu_stream stream, void **args, void **extra) {
    MC_ENTER(cuLaunchKernel, MC_NEED_CTX);
    const struct function *f = mc_handle_get(MC_FUNCTION, function);
    struct mc_stream *s;
    rdi_cu_result r = f ? mc_stream_of(stream, &s) : MC_INVALID_HANDLE;
    if (r)
        return r;
    if (f->module->ctx != mc_ctx_current() || s->ctx != mc_ctx_current())
        return MC_INVALID_HANDLE;
    if (extra)
        return RDI_CU_NOT_SUPPORTED;
    struct mc_op *op = mc_op_new(MC_KERNEL);
    *op = (struct mc_op){
        .work = MC_KERNEL, .twin = f->twin, .grid = {gx, gy, gz}, .block = {bx, by, bz}};
    check_grid(f->twin->name, op, shared);
    copy_args(op, args);
    mc_count(MC_N_LAUNCHES, 1);
    mc_enqueue(s, op);
    return RDI_CU_OK;
}
