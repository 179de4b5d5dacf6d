// SPDX-License-Identifier: MIT
// A libcuda.so.1 without a GPU: what its files share.
//
//     any thread                              stream thread (one for each stream)
//     cuLaunchKernel, cuMemcpy..., --> FIFO --> execute.c: copies, memory operations, twins of kernels
//     cuStreamWaitValue32 ...                   |
//     cuStreamSynchronize, events  <-- marks, completed tickets
//
// Device memory lies in memfds. Its device address is reserved and inaccessible; what the mock itself reads and
// writes is a second mapping, mc_view_delta bytes above.
//
// Locks: ctx->lock, then stream->lock; mark->lock, queue->lock, and those of handle.c and memory.c are leaves. There is
// no lock that every operation takes, and what threads share for reading they share by rwlocks: so ThreadSanitizer
// sees an order between two operations only where streams, events or memory operations make one.
#ifndef MOCK_CUDA_MOCK_H
#define MOCK_CUDA_MOCK_H

#include "transport/cuda/driver.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>

#ifdef MOCK_CUDA_OLD // a driver from before virtual memory management
#define MC_IF_0(...)
#else
#define MC_IF_0(...) __VA_ARGS__
#endif
#define MC_IF_1(...) __VA_ARGS__

#pragma GCC visibility push(default)
#include "tests/mock_cuda/mock_cuda.h"
#define MC_PROTOTYPE(need, name, symbol, arguments) MC_IF_##need(rdi_cu_result symbol arguments;)
RDI_CUDA_FUNCTIONS(MC_PROTOTYPE)
#pragma GCC visibility pop

enum mc_function {
#define MC_NUMBER(need, name, symbol, arguments) MC_FN_##symbol,
    RDI_CUDA_FUNCTIONS(MC_NUMBER) MC_FUNCTIONS
};

#define MC_MAX_DEVICES 16
#define MC_GRANULARITY (2ull << 20)
#define MC_PAGE 4096ull

// Results that Rondo has no name for.
enum {
    MC_MAP_FAILED = 205,
    MC_INVALID_HANDLE = 400,
    MC_CONTEXT_DESTROYED = 709,
    MC_HOST_MEMORY_NOT_REGISTERED = 713,
};

// ---- rule.c --------------------------------------------------------------------------------------

// "mock_cuda: RULE name: ..." and abort().
void mc_rule(const char *name, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn, cold));
uint64_t mc_now(void); // ns
uint64_t mc_random(uint64_t *state);
void mc_sleep_us(unsigned us);
void mc_cond_init(pthread_cond_t *c);
// One wait of at most a second; aborts (stuck) when `since` is too long ago. Like all conditions: in a loop.
void mc_cond_wait(pthread_cond_t *c, pthread_mutex_t *lock, uint64_t since, const char *what);
void mc_check_stuck(uint64_t since, const char *what);

// ---- config.c ------------------------------------------------------------------------------------

struct mc_attributes {
    int multiprocessors, integrated, major, minor, can_flush, vmm, posix_fd, gdr_vmm, gdr,
        flush_options, ordering, dmabuf, ipc, memops, peer, memory_mib;
};
struct mc_config {
    int devices;
    int physical[MC_MAX_DEVICES]; // by ordinal
    struct mc_attributes attributes[MC_MAX_DEVICES];
    unsigned jitter_us, queues, depth, stuck_s;
    uint64_t seed;
    int init, version;
    bool strict, leaks;
};
extern struct mc_config mc_config; // read by cuInit()
void mc_config_read(void);

// ---- fault.c -------------------------------------------------------------------------------------

void mc_fault_parse(const char *text);
// The result that MOCK_CUDA_FAIL has for this call, or 0. Counts it.
int mc_fault(const char *function);

// ---- enter.c -------------------------------------------------------------------------------------

struct mc_ctx;
struct mc_stream;
struct mc_tls {
    struct mc_ctx *stack[32];
    unsigned epoch[32];
    unsigned depth;
    bool forbidden, watched;
    struct mc_stream *running; // on a stream's thread
    uint64_t relaxed_since;
};
extern __thread struct mc_tls mc_tls;
extern const char *const mc_symbols[MC_FUNCTIONS];
void mc_watch_thread(void); // its end is checked

enum mc_need {
    MC_NEED_NOTHING, // cuInit() and what may come before
    MC_NEED_INIT,
    MC_NEED_CTX,
};
// The beginning of every function of the driver: what is wrong with the call whatever its arguments are.
rdi_cu_result mc_enter(enum mc_function f, enum mc_need need);
#define MC_ENTER(symbol, need)                                  \
    do {                                                        \
        rdi_cu_result entered = mc_enter(MC_FN_##symbol, need); \
        if (entered != RDI_CU_OK)                               \
            return entered;                                     \
    } while (0)

// ---- handle.c ------------------------------------------------------------------------------------

// Handles are numbers that are never used twice, not addresses.
enum mc_type { MC_CTX = 1, MC_STREAM, MC_EVENT, MC_MODULE, MC_FUNCTION, MC_PHYSICAL };
void *mc_handle_new(enum mc_type type, void *object);
// NULL: never was one of this type. Aborts (dead-handle) when it was killed.
void *mc_handle_get(enum mc_type type, const void *handle);
void mc_handle_kill(const void *handle);
unsigned mc_handle_count(enum mc_type type);
void mc_handle_each(enum mc_type type, void (*f)(void *object, void *arg), void *arg);

// ---- context.c, device.c -------------------------------------------------------------------------

struct
    mc_queue { // a hardware queue: operations are dispatched in the order in which they were enqueued
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint64_t next, head;
};

struct mc_ctx { // the primary context of a device
    int ordinal;
    unsigned retained;
    _Atomic unsigned epoch;
    void *handle;
    _Atomic int error;      // sticky
    _Atomic uint32_t peers; // by ordinal
    pthread_mutex_t lock;
    struct mc_stream *streams;
    struct mc_stream *legacy;
    struct mc_queue queues[32];
    unsigned next_queue;
};
extern struct mc_ctx mc_ctxs[MC_MAX_DEVICES];
void mc_ctx_init(void);
struct mc_ctx *mc_ctx_current(void); // NULL: none
struct mc_ctx *mc_ctx_of(rdi_cu_ctx handle);
static inline const struct mc_attributes *mc_attributes_of(const struct mc_ctx *c) {
    return &mc_config.attributes[c->ordinal];
}
// Waits for all that was enqueued in the context until now, as the functions do that free memory.
void mc_ctx_drain(struct mc_ctx *c, const char *what);

// ---- arena.c -------------------------------------------------------------------------------------

extern uint64_t mc_view_delta;
void mc_arena_init(void);
bool mc_arena_has(uint64_t address);
// Device addresses; 0: none left. Not used again soon.
uint64_t mc_arena_take(uint64_t bytes, uint64_t align);
// Maps a descriptor behind device addresses (its readable view).
bool mc_arena_map(uint64_t address, uint64_t bytes, int fd, uint64_t offset);
void mc_arena_unmap(uint64_t address, uint64_t bytes);
// Host memory in the arena; inaccessible again once it is given back.
void *mc_arena_host(uint64_t bytes);
void mc_arena_host_give(void *p, uint64_t bytes);

// ---- memory.c ------------------------------------------------------------------------------------

enum mc_kind { MC_MALLOC = 1, MC_IPC, MC_VMM, MC_MANAGED, MC_PINNED, MC_REGISTERED };
struct mc_mem {
    enum mc_kind kind;
    uint64_t address, bytes;           // as the application asked
    uint64_t span_address, span_bytes; // whole pages
    uint64_t id;
    int fd; // -1: host memory
    int ordinal;
    struct mc_ctx *ctx;
    _Atomic int refs; // the table's and those of queued operations
    _Atomic int uses; // by queued operations
    bool sync_memops, gdr;
    unsigned flags;
    _Atomic uint32_t access;     // VMM: ordinals that may
    uint64_t ipc_pid, ipc_id;    // whose it is
    unsigned opened;             // IPC: how often
    struct mc_physical *backing; // VMM
};
static inline bool mc_is_device(const struct mc_mem *m) { return m->kind <= MC_VMM; }

struct mc_mem *mc_mem_new(enum mc_kind kind, struct mc_ctx *ctx, uint64_t address, uint64_t bytes);
bool mc_mem_add(struct mc_mem *m); // false: overlaps another
// The memory an address lies in, with a reference, or NULL.
struct mc_mem *mc_mem_find(uint64_t address);
// Any that overlaps the range, with a reference, or NULL.
struct mc_mem *mc_mem_overlap(uint64_t address, uint64_t bytes);
void mc_mem_put(struct mc_mem *m);
void mc_mem_remove(struct mc_mem *m); // from the table
bool mc_mem_holds(const struct mc_mem *m, uint64_t address, uint64_t bytes);
void *mc_mem_view(const struct mc_mem *m, uint64_t address);
// What a device of context `c` (NULL: any) accesses at `address`; aborts when it may not.
void *mc_translate(uint64_t address, uint64_t bytes, const struct mc_ctx *c);
// Sum of bytes of the kinds from..to on a device (-1: all), and how many.
uint64_t mc_mem_total(enum mc_kind from, enum mc_kind to, int ordinal, unsigned *n);
void mc_mem_each(void (*f)(struct mc_mem *m, void *arg), void *arg);
void mc_junk(void *p, uint64_t bytes);
const char *mc_kind_name(enum mc_kind kind);

struct mc_physical { // cuMemCreate()
    int fd;
    uint64_t bytes;
    int ordinal;
    bool exportable, gdr;
    _Atomic int refs; // the handle's and those of mappings
    void *handle;
};

// ---- stream.c ------------------------------------------------------------------------------------

struct mc_mark { // one recording of an event
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    uint64_t when;
    _Atomic int refs;
};

enum mc_work {
    MC_COPY = 1,
    MC_SET,
    MC_WAIT32,
    MC_WRITE32,
    MC_KERNEL,
    MC_HOST,
    MC_RECORD,
    MC_WAIT_MARK,
    MC_WAIT_STREAM,
};
struct mc_op {
    struct mc_op *next;
    enum mc_work work;
    uint64_t queue_ticket;
    uint64_t to, from, bytes; // addresses
    void *host_to;            // pageable memory, when it is not an address
    void *host_from;          // the same, or the copy that was made of it
    bool staged;              // host_from is ours
    uint32_t value, flags;
    struct mc_mem *uses[2];
    struct mc_mark *mark;
    struct mc_stream *other;
    uint64_t other_ticket;
    const struct mock_cuda_twin *twin;
    void *args[MOCK_CUDA_ARGS], *arg_bytes;
    unsigned grid[3], block[3];
    void (*fn)(void *);
    void *fn_arg;
};

struct mc_stream {
    struct mc_ctx *ctx;
    struct mc_stream *next;
    void *handle; // NULL: the legacy stream
    unsigned number, flags;
    int priority;
    struct mc_queue *queue;
    uint64_t rng;
    _Atomic int capture;
    _Atomic int refs;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct mc_op *head, **tail;
    uint64_t submitted, completed;
    bool held, closing;
};

struct mc_stream *mc_stream_new(struct mc_ctx *c, unsigned flags, int priority);
void mc_stream_put(struct mc_stream *s);
struct mc_stream *mc_stream_legacy(struct mc_ctx *c);
// The stream of a handle, NULL being the legacy stream of the current context.
rdi_cu_result mc_stream_of(rdi_cu_stream handle, struct mc_stream **out);
struct mc_op *mc_op_new(enum mc_work work);
void mc_op_use(struct mc_op *op, unsigned i, struct mc_mem *m); // takes over the caller's reference
void mc_op_free(struct mc_op *op);
uint64_t mc_enqueue(struct mc_stream *s,
                    struct mc_op *op); // the ticket that mc_stream_wait() takes
uint64_t mc_stream_last(struct mc_stream *s);
void mc_stream_wait(struct mc_stream *s, uint64_t ticket, const char *what);
bool mc_stream_idle(struct mc_stream *s);

struct mc_mark *mc_mark_new(void);
struct mc_mark *mc_mark_get(struct mc_mark *m);
void mc_mark_put(struct mc_mark *m);
void mc_mark_set(struct mc_mark *m);
bool mc_mark_done(struct mc_mark *m, uint64_t *when);
void mc_mark_wait(struct mc_mark *m, const char *what);

// ---- execute.c -----------------------------------------------------------------------------------

void mc_execute(struct mc_stream *s, struct mc_op *op);
bool mc_wait_met(uint32_t now, uint32_t value, uint32_t flags);

// ---- control.c -----------------------------------------------------------------------------------

enum mc_count {
    MC_N_LAUNCHES,
    MC_N_HOST,
    MC_N_WAITS,
    MC_N_WRITES,
    MC_N_H2D,
    MC_N_D2H,
    MC_N_D2D,
    MC_N_SETS,
    MC_N_H2D_BYTES,
    MC_N_D2H_BYTES,
    MC_N_D2D_BYTES,
    MC_N_SET_BYTES,
    MC_N_STAGED,
    MC_COUNTS
};
void mc_count(enum mc_count what, uint64_t n);
uint64_t mc_calls(unsigned f); // enter.c

#endif
