// SPDX-License-Identifier: MIT
// Fibers: a stack for each rank, so that blocking calls can be run on a virtual clock in one thread.
#include "tests/sim/job/job.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define BEFORE_SWITCH(keep, to) __sanitizer_start_switch_fiber(keep, (to)->stack, STACK)
#define AFTER_SWITCH(keep) __sanitizer_finish_switch_fiber(keep, &main_stack, &main_size)
#define BEFORE_RETURN(keep) __sanitizer_start_switch_fiber(keep, main_stack, main_size)
#define AFTER_RETURN(keep) __sanitizer_finish_switch_fiber(keep, NULL, NULL)
static const void *main_stack;
static size_t main_size;
#else
#define BEFORE_SWITCH(keep, to) ((void)(keep))
#define AFTER_SWITCH(keep) ((void)(keep))
#define BEFORE_RETURN(keep) ((void)(keep))
#define AFTER_RETURN(keep) ((void)(keep))
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#define STACK ((size_t)1 << 20)

struct fiber {
    ucontext_t context;
    char *stack;
    void (*fn)(void *arg);
    void *arg;
    uint64_t until;
    bool light, woken, over;
    void *fake;
#if defined(__SANITIZE_THREAD__)
    void *tsan;
#endif
};

static ucontext_t main_context;
static struct fiber *current;

static void enter(void) {
    struct fiber *f = current;
    AFTER_SWITCH(NULL);
    f->fn(f->arg);
    f->over = true;
    BEFORE_RETURN(NULL);
#if defined(__SANITIZE_THREAD__)
    extern void *main_tsan;
    __tsan_switch_to_fiber(main_tsan, 0);
#endif
    swapcontext(&f->context, &main_context);
}

#if defined(__SANITIZE_THREAD__)
void *main_tsan;
#endif

struct fiber *fiber_new(void (*fn)(void *arg), void *arg) {
    struct fiber *f = calloc(1, sizeof *f);
    if (!f) {
        give_up("out of memory for a fiber");
    }
    f->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->stack == MAP_FAILED) {
        give_up("out of memory for a stack");
    }
    f->fn = fn;
    f->arg = arg;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = NULL;
    makecontext(&f->context, enter, 0);
#if defined(__SANITIZE_THREAD__)
    main_tsan = __tsan_get_current_fiber();
    f->tsan = __tsan_create_fiber(0);
#endif
    return f;
}

void fiber_run(struct fiber *f) {
    void *keep = NULL;
    f->woken = false;
    current = f;
    BEFORE_SWITCH(&keep, f);
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(f->tsan, 0);
#endif
    swapcontext(&main_context, &f->context);
    AFTER_RETURN(keep);
    current = NULL;
}

void fiber_sleep(uint64_t until, bool light) {
    struct fiber *f = current;
    void *keep = NULL;
    f->until = until;
    f->light = light;
    BEFORE_RETURN(&keep);
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(main_tsan, 0);
#endif
    swapcontext(&f->context, &main_context);
    AFTER_SWITCH(keep);
}

void fiber_wake(struct fiber *f) { f->woken = true; }

bool fiber_is_due(const struct fiber *f, uint64_t now) {
    return !f->over && (now >= f->until || (f->light && f->woken));
}

bool fiber_is_light(const struct fiber *f) { return f->light; }

uint64_t fiber_until(const struct fiber *f) { return f->over ? UINT64_MAX : f->until; }

bool fiber_is_over(const struct fiber *f) { return f->over; }
