// SPDX-License-Identifier: MIT
// The table of all memory that the driver knows, and what lies behind an address.
#include "tests/mock_cuda/mock.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct mc_mem **table; // by span_address
static unsigned count, room;
static struct range {
    uint64_t address, bytes;
} * freed; // what was device memory, for the right word when it is used
static unsigned freed_count, freed_room;
static _Atomic uint64_t last_id = 1;

const char *mc_kind_name(enum mc_kind kind) {
    static const char *const names[] = {
        [MC_MALLOC] = "device memory",     [MC_IPC] = "memory opened from another process",
        [MC_VMM] = "mapped device memory", [MC_MANAGED] = "managed memory",
        [MC_PINNED] = "pinned memory",     [MC_REGISTERED] = "registered memory"};
    return names[kind];
}

struct mc_mem *mc_mem_new(enum mc_kind kind, struct mc_ctx *ctx, uint64_t address, uint64_t bytes) {
    struct mc_mem *m = calloc(1, sizeof *m);
    if (!m)
        mc_rule("environment", "out of memory");
    m->kind = kind;
    m->address = address;
    m->bytes = bytes;
    m->span_address = address & ~(MC_PAGE - 1);
    m->span_bytes = ((address + bytes + MC_PAGE - 1) & ~(MC_PAGE - 1)) - m->span_address;
    if (kind == MC_REGISTERED) {
        m->span_address = address;
        m->span_bytes = bytes;
    }
    m->id = atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed);
    m->fd = -1;
    m->ctx = ctx;
    m->ordinal = ctx ? ctx->ordinal : -1;
    m->refs = 1;
    return m;
}

// References are counted without an order: it is the lock that orders their uses before the end.
void mc_mem_put(struct mc_mem *m) {
    pthread_rwlock_rdlock(&lock);
    int before = atomic_fetch_sub_explicit(&m->refs, 1, memory_order_relaxed);
    pthread_rwlock_unlock(&lock);
    if (before != 1)
        return;
    pthread_rwlock_wrlock(&lock);
    pthread_rwlock_unlock(&lock);
    if (m->fd >= 0)
        close(m->fd);
    free(m);
}

// The first entry that ends behind the address.
static unsigned position(uint64_t address) {
    unsigned low = 0, high = count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (table[middle]->span_address + table[middle]->span_bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void *grow(void *array, unsigned used, unsigned *capacity, size_t each) {
    if (used < *capacity)
        return array;
    *capacity = *capacity ? 2 * *capacity : 64;
    array = realloc(array, *capacity * each);
    if (!array)
        mc_rule("environment", "out of memory");
    return array;
}

bool mc_mem_add(struct mc_mem *m) {
    pthread_rwlock_wrlock(&lock);
    unsigned at = position(m->span_address);
    bool free_range = at == count || table[at]->span_address >= m->span_address + m->span_bytes;
    if (free_range) {
        table = grow(table, count, &room, sizeof(struct mc_mem *));
        memmove(&table[at + 1], &table[at], (count - at) * sizeof(struct mc_mem *));
        table[at] = m;
        count++;
    }
    pthread_rwlock_unlock(&lock);
    return free_range;
}

void mc_mem_remove(struct mc_mem *m) {
    pthread_rwlock_wrlock(&lock);
    unsigned at = position(m->span_address);
    if (at == count || table[at] != m)
        mc_rule("freed-twice", "two threads free %s 0x%llx", mc_kind_name(m->kind),
                (unsigned long long)m->address);
    memmove(&table[at], &table[at + 1], (count - at - 1) * sizeof(struct mc_mem *));
    count--;
    if (mc_is_device(m)) {
        freed = grow(freed, freed_count, &freed_room, sizeof *freed);
        freed[freed_count++] = (struct range){m->span_address, m->span_bytes};
    }
    pthread_rwlock_unlock(&lock);
    mc_mem_put(m);
}

static struct mc_mem *overlap_locked(uint64_t address, uint64_t bytes) {
    unsigned at = position(address);
    struct mc_mem *m = at < count ? table[at] : NULL;
    return m && (m->span_address <= address || m->span_address - address < bytes) ? m : NULL;
}

static struct mc_mem *find_locked(uint64_t address) {
    struct mc_mem *m = overlap_locked(address, 1);
    return m && address - m->address < m->bytes ? m : NULL;
}

static struct mc_mem *with_reference(struct mc_mem *m) {
    if (m)
        atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

struct mc_mem *mc_mem_overlap(uint64_t address, uint64_t bytes) {
    pthread_rwlock_rdlock(&lock);
    struct mc_mem *m = with_reference(overlap_locked(address, bytes));
    pthread_rwlock_unlock(&lock);
    return m;
}

struct mc_mem *mc_mem_find(uint64_t address) {
    pthread_rwlock_rdlock(&lock);
    struct mc_mem *m = with_reference(find_locked(address));
    pthread_rwlock_unlock(&lock);
    return m;
}

bool mc_mem_holds(const struct mc_mem *m, uint64_t address, uint64_t bytes) {
    return address >= m->address && bytes <= m->bytes && address - m->address <= m->bytes - bytes;
}

void *mc_mem_view(const struct mc_mem *m, uint64_t address) {
    return (void *)(uintptr_t)(mc_is_device(m) ? address + mc_view_delta : address);
}

static bool was_freed(uint64_t address) {
    for (unsigned i = 0; i < freed_count; i++)
        if (address - freed[i].address < freed[i].bytes)
            return true;
    return false;
}

static void check_access(const struct mc_mem *m, uint64_t address, const struct mc_ctx *c) {
    if (m->kind == MC_VMM && !(m->access & 1u << c->ordinal))
        mc_rule("vmm-no-access", "device %d has no access to 0x%llx: cuMemSetAccess()", c->ordinal,
                (unsigned long long)address);
    if (m->kind == MC_MALLOC && m->ordinal != c->ordinal &&
        !(atomic_load(&c->peers) & 1u << m->ordinal))
        mc_rule("peer-not-enabled",
                "device %d accesses 0x%llx of device %d without cuCtxEnablePeerAccess()",
                c->ordinal, (unsigned long long)address, m->ordinal);
}

void *mc_translate(uint64_t address, uint64_t bytes, const struct mc_ctx *c) {
    pthread_rwlock_rdlock(&lock);
    const struct mc_mem *m = find_locked(address);
    if (!m && was_freed(address))
        mc_rule("use-after-free", "a stream uses 0x%llx, which was freed",
                (unsigned long long)address);
    if (!m)
        mc_rule("kernel-address-unknown",
                "a stream uses 0x%llx, which is neither device memory nor pinned or registered",
                (unsigned long long)address);
    if (!mc_mem_holds(m, address, bytes))
        mc_rule("kernel-out-of-bounds", "a stream uses 0x%llx+%llu, beyond %s 0x%llx+%llu",
                (unsigned long long)address, (unsigned long long)bytes, mc_kind_name(m->kind),
                (unsigned long long)m->address, (unsigned long long)m->bytes);
    if (c)
        check_access(m, address, c);
    void *p = mc_mem_view(m, address);
    pthread_rwlock_unlock(&lock);
    return p;
}

void mc_mem_each(void (*f)(struct mc_mem *m, void *arg), void *arg) {
    pthread_rwlock_rdlock(&lock);
    for (unsigned i = 0; i < count; i++)
        f(table[i], arg);
    pthread_rwlock_unlock(&lock);
}

struct total {
    enum mc_kind from, to;
    int ordinal;
    unsigned n;
    uint64_t bytes;
};

static void add_up(struct mc_mem *m, void *arg) {
    struct total *t = arg;
    if (m->kind < t->from || m->kind > t->to || (t->ordinal >= 0 && m->ordinal != t->ordinal))
        return;
    t->n++;
    t->bytes += m->bytes;
}

uint64_t mc_mem_total(enum mc_kind from, enum mc_kind to, int ordinal, unsigned *n) {
    struct total t = {.from = from, .to = to, .ordinal = ordinal};
    mc_mem_each(add_up, &t);
    if (n)
        *n = t.n;
    return t.bytes;
}

// New memory holds what somebody else left there.
void mc_junk(void *p, uint64_t bytes) {
    enum { MOST = 4 << 20 };
    memset(p, 0xa5, bytes < MOST ? bytes : MOST);
    if (bytes > MOST) {
        uint64_t rest = bytes - MOST < MOST ? bytes - MOST : MOST;
        memset((char *)p + bytes - rest, 0xa5, rest);
    }
}
