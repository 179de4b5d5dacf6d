// SPDX-License-Identifier: MIT
// Handles: numbers that look like pointers, fault when they are followed, and are never used twice, so that the use of
// what was destroyed is always found out.
#include "tests/mock_cuda/mock.h"

#include <stdlib.h>

#define BASE 0xc0da000000000000ull // no address of a process
#define STEP 16u
#define CHUNK 1024u

struct slot {
    enum mc_type type;
    bool dead;
    void *object;
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct slot *chunks[3000];
static unsigned used;

static const char *const names[] = {
    [MC_CTX] = "context",   [MC_STREAM] = "stream",     [MC_EVENT] = "event",
    [MC_MODULE] = "module", [MC_FUNCTION] = "function", [MC_PHYSICAL] = "physical allocation"};

static struct slot *slot_of(const void *handle) {
    uintptr_t n = (uintptr_t)handle;
    if (n < BASE || n % STEP || (n - BASE) / STEP >= used)
        return NULL;
    n = (n - BASE) / STEP;
    return &chunks[n / CHUNK][n % CHUNK];
}

void *mc_handle_new(enum mc_type type, void *object) {
    pthread_rwlock_wrlock(&lock);
    unsigned n = used;
    if (n / CHUNK == sizeof chunks / sizeof chunks[0])
        mc_rule("handles", "%u objects were made: more than the mock can tell apart", n);
    if (n % CHUNK == 0 && !(chunks[n / CHUNK] = calloc(CHUNK, sizeof(struct slot))))
        mc_rule("handles", "out of memory");
    used++;
    chunks[n / CHUNK][n % CHUNK] = (struct slot){.type = type, .object = object};
    pthread_rwlock_unlock(&lock);
    return (void *)(uintptr_t)(BASE + n * STEP);
}

void *mc_handle_get(enum mc_type type, const void *handle) {
    pthread_rwlock_rdlock(&lock);
    const struct slot *s = slot_of(handle);
    struct slot copy = s ? *s : (struct slot){0};
    pthread_rwlock_unlock(&lock);
    if (!s || copy.type != type)
        return NULL;
    if (copy.dead)
        mc_rule("dead-handle", "the %s %p was destroyed and is used again", names[type], handle);
    return copy.object;
}

void mc_handle_kill(const void *handle) {
    pthread_rwlock_wrlock(&lock);
    struct slot *s = slot_of(handle);
    s->dead = true;
    s->object = NULL;
    pthread_rwlock_unlock(&lock);
}

void mc_handle_each(enum mc_type type, void (*f)(void *object, void *arg), void *arg) {
    pthread_rwlock_rdlock(&lock);
    for (unsigned n = 0; n < used; n++) {
        const struct slot *s = &chunks[n / CHUNK][n % CHUNK];
        if (s->type == type && !s->dead)
            f(s->object, arg);
    }
    pthread_rwlock_unlock(&lock);
}

static void add_one(void *object, void *arg) {
    (void)object;
    ++*(unsigned *)arg;
}

unsigned mc_handle_count(enum mc_type type) {
    unsigned n = 0;
    mc_handle_each(type, add_one, &n);
    return n;
}
