// SPDX-License-Identifier: MIT
// What mock_cuda.h gives to tests, and the report of what is left.
#include "tests/mock_cuda/mock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static _Atomic uint64_t counts[MC_COUNTS];

void mc_count(enum mc_count what, uint64_t n) {
    atomic_fetch_add_explicit(&counts[what], n, memory_order_relaxed);
}

static uint64_t count_of(enum mc_count what) {
    return atomic_load_explicit(&counts[what], memory_order_relaxed);
}

void mock_cuda_counters(struct mock_cuda_counters *out) {
    unsigned device, host, maps;
    *out = (struct mock_cuda_counters){
        .launches = count_of(MC_N_LAUNCHES),
        .host_functions = count_of(MC_N_HOST),
        .waits = count_of(MC_N_WAITS),
        .writes = count_of(MC_N_WRITES),
        .to_device = count_of(MC_N_H2D),
        .to_host = count_of(MC_N_D2H),
        .on_device = count_of(MC_N_D2D),
        .sets = count_of(MC_N_SETS),
        .to_device_bytes = count_of(MC_N_H2D_BYTES),
        .to_host_bytes = count_of(MC_N_D2H_BYTES),
        .on_device_bytes = count_of(MC_N_D2D_BYTES),
        .set_bytes = count_of(MC_N_SET_BYTES),
        .staged = count_of(MC_N_STAGED),
        .streams = mc_handle_count(MC_STREAM),
        .events = mc_handle_count(MC_EVENT),
    };
    out->device_bytes = mc_mem_total(MC_MALLOC, MC_MALLOC, -1, &device);
    out->device_bytes += mc_mem_total(MC_VMM, MC_VMM, -1, &host);
    device += host;
    out->pinned_bytes = mc_mem_total(MC_PINNED, MC_PINNED, -1, &host);
    out->registered_bytes = mc_mem_total(MC_REGISTERED, MC_REGISTERED, -1, NULL);
    mc_mem_total(MC_IPC, MC_IPC, -1, &maps);
    out->allocations = device + host;
    out->ipc_maps = maps;
}

uint64_t mock_cuda_calls(const char *symbol) {
    for (unsigned i = 0; i < MC_FUNCTIONS; i++)
        if (strcmp(mc_symbols[i], symbol) == 0)
            return mc_calls(i);
    mc_rule("environment", "mock_cuda_calls(\"%s\"): there is no such function", symbol);
}

void mock_cuda_peek(void *to, unsigned long long from, size_t bytes) {
    memcpy(to, mc_translate(from, bytes, NULL), bytes);
}

void mock_cuda_poke(unsigned long long to, const void *from, size_t bytes) {
    memcpy(mc_translate(to, bytes, NULL), from, bytes);
}

void mock_cuda_forbid_thread(bool forbid) { mc_tls.forbidden = forbid; }

void mock_cuda_fail(const char *faults) { mc_fault_parse(faults); }

static struct mc_stream *stream_for(void *handle, const char *function) {
    struct mc_stream *s;
    if (mc_stream_of(handle, &s) != RDI_CU_OK)
        mc_rule("environment", "%s(): %p is no stream", function, handle);
    return s;
}

void mock_cuda_set_capture(void *stream, int status) {
    atomic_store(&stream_for(stream, __func__)->capture, status);
}

void mock_cuda_hold(void *stream, bool hold) {
    struct mc_stream *s = stream_for(stream, __func__);
    pthread_mutex_lock(&s->lock);
    s->held = hold;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

int mock_cuda_enqueue(void *stream, void (*fn)(void *), void *arg) {
    struct mc_stream *s;
    rdi_cu_result r = mc_stream_of(stream, &s);
    if (r)
        return r;
    struct mc_op *op = mc_op_new(MC_HOST);
    op->fn = fn;
    op->fn_arg = arg;
    mc_count(MC_N_HOST, 1);
    mc_enqueue(s, op);
    return RDI_CU_OK;
}

void *mock_cuda_managed(size_t bytes) {
    uint64_t span = (bytes + MC_PAGE - 1) & ~(MC_PAGE - 1);
    void *p = mc_ctx_current() ? mc_arena_host(span) : NULL;
    if (!p)
        return NULL;
    struct mc_mem *m = mc_mem_new(MC_MANAGED, mc_ctx_current(), (uintptr_t)p, bytes);
    if (!mc_mem_add(m))
        mc_rule("environment", "the address %p is in use", p);
    return p;
}

void mock_cuda_managed_free(void *p) {
    struct mc_mem *m = mc_mem_find((uintptr_t)p);
    if (!m || m->kind != MC_MANAGED)
        mc_rule("environment", "%p is no managed memory", p);
    mc_mem_remove(m);
    mc_arena_host_give(p, m->span_bytes);
    mc_mem_put(m);
}

// ---- What is left --------------------------------------------------------------------------------

struct left {
    unsigned n;
    bool print;
    const char *name;
};

static void left_memory(struct mc_mem *m, void *arg) {
    struct left *l = arg;
    l->n++;
    if (l->print)
        fprintf(stderr, "mock_cuda: left: %s 0x%llx+%llu of device %d\n", mc_kind_name(m->kind),
                (unsigned long long)m->address, (unsigned long long)m->bytes, m->ordinal);
}

static void left_object(void *object, void *arg) {
    struct left *l = arg;
    (void)object;
    l->n++;
    if (l->print)
        fprintf(stderr, "mock_cuda: left: %s\n", l->name);
}

unsigned mock_cuda_leaks(bool print) {
    struct left l = {.print = print};
    mc_mem_each(left_memory, &l);
    l.name = "a stream";
    mc_handle_each(MC_STREAM, left_object, &l);
    l.name = "an event";
    mc_handle_each(MC_EVENT, left_object, &l);
    l.name = "a physical allocation";
    mc_handle_each(MC_PHYSICAL, left_object, &l);
    return l.n;
}

__attribute__((destructor)) static void at_exit(void) {
    unsigned n = mc_config.leaks ? mock_cuda_leaks(true) : 0;
    if (n)
        mc_rule("leak", "%u objects are left at exit (MOCK_CUDA_LEAKS)", n);
}
