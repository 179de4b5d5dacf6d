// SPDX-License-Identifier: MIT
// Memory for transports: blocks that peers can map, the caller's own registered ranges, and device memory.
//
// The tables are process wide, behind one mutex. This is the one piece of global state that the library
// allows itself: rondo_mem_alloc() takes no handle on purpose, since a block outlives communicators and
// serves all of them, and a transport that is handed a bare pointer has to find out what lies there. The
// mutex is held for a few binary searches, never while memory is mapped or a peer is waited for.
#include "transport/mem.h"
#include "transport/memfile.h"
#include "transport/regcache.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct rdi_intervals blocks;        // from rondo_mem_alloc(); disjoint
static struct rdi_intervals registrations; // from rondo_mem_register(); may overlap
static struct rdi_intervals devices;       // from rdi_mem_register_device(); may overlap
static struct rdi_intervals holds;         // ranges that operations use now
static uint64_t last_id;                   // of all
static _Atomic uint64_t frees;

// A child that is forked while another thread holds the mutex would find it locked for ever.
static void lock_raw(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }
static void set_up_fork(void) { pthread_atfork(lock_raw, unlock, unlock); }

static void lock(void) {
    pthread_once(&once, set_up_fork);
    lock_raw();
}

// ---- Blocks --------------------------------------------------------------------------------------

// Where neither memfd_create() nor /dev/shm serves, a block is ordinary memory: the program works as before,
// only that peers get copies. What ran out, rather than being refused, is an error.
static bool is_refusal(int err) {
    return err != EMFILE && err != ENFILE && err != ENOMEM && err != EFBIG && err != EAGAIN;
}

static rondo_status make_block(size_t bytes, int *fd, void **at) {
    rondo_status s = rdi_memfile_create("a block", bytes, RDI_MEMFILE_PRIVATE, fd, at);
    if (s == RONDO_OK || rdi_memfile_size(bytes) == 0 || !is_refusal(errno)) {
        return s;
    }
    *fd = -1;
    *at = mmap(NULL, rdi_memfile_size(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
               -1, 0);
    return *at != MAP_FAILED ? RONDO_OK
                             : rdi_fail_resource(errno, "allocate a block of %zu bytes", bytes);
}

// Gives the block its pages now: one pass in the kernel is three times as fast as a fault for each page, and
// memory that is not there is an error here and not a signal later.
static rondo_status populate(int fd, void *at, size_t bytes) {
    // Where shared memory may have huge pages (shmem_enabled=advise), ask for them; elsewhere this is refused
    // or ignored, and either is fine.
    madvise(at, bytes, MADV_HUGEPAGE);
    int err;
    do {
        err = madvise(at, bytes, MADV_POPULATE_WRITE) == 0 ? 0 : errno;
    } while (err == EINTR || err == EAGAIN);
    if (err == EINVAL && fd < 0) { // before Linux 5.14
        memset(at, 0, bytes);
        err = 0;
    }
    if (err == EINVAL) {
        do {
            err = posix_fallocate(fd, 0, (off_t)bytes);
        } while (err == EINTR);
    }
    return err == 0 ? RONDO_OK
                    : rdi_fail_resource(err == EFAULT ? ENOMEM : err,
                                        "allocate a block of %zu bytes", bytes);
}

// Populating more than the machine has would end in its out-of-memory killer.
static rondo_status check_size(size_t bytes) {
    uint64_t pages = (uint64_t)sysconf(_SC_PHYS_PAGES), page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (bytes / page >= pages) {
        return rdi_fail(RONDO_ERR_NOMEM,
                        "cannot allocate a block of %zu bytes: this machine has %llu bytes of "
                        "memory; ask for less",
                        bytes, (unsigned long long)pages * page);
    }
    return RONDO_OK;
}

static void close_file(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

rondo_status rondo_mem_alloc(size_t bytes, void **ptr) {
    if (ptr == NULL) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_mem_alloc: ptr is NULL; pass the address of a pointer");
    }
    rondo_status s = check_size(bytes);
    int fd;
    void *at;
    if (s != RONDO_OK || (s = make_block(bytes, &fd, &at)) != RONDO_OK) {
        return s;
    }
    size_t size = rdi_memfile_size(bytes);
    s = populate(fd, at, size);
    if (s != RONDO_OK) {
        goto unmap;
    }
    lock();
    struct rdi_interval *e = rdi_intervals_add(&blocks, (uintptr_t)at, size);
    if (e != NULL) {
        e->fd = fd;
        e->id = ++last_id;
    }
    unlock();
    if (e == NULL) {
        s = rdi_fail_resource(ENOMEM, "remember a block of %zu bytes", size);
        goto unmap;
    }
    *ptr = at;
    return RONDO_OK;

unmap:
    munmap(at, size);
    close_file(fd);
    return s;
}

rondo_status rondo_mem_free(void *ptr) {
    if (ptr == NULL) {
        return RONDO_OK;
    }
    rondo_status s = RONDO_OK;
    struct rdi_interval block = {.fd = -1};
    lock();
    struct rdi_interval *e = rdi_intervals_starting(&blocks, (uintptr_t)ptr);
    if (e == NULL) {
        s = rdi_fail(
            RONDO_ERR_USAGE,
            "rondo_mem_free(%p): this is not the start of a block from rondo_mem_alloc(), or "
            "it was freed before",
            ptr);
    } else if (rdi_intervals_touch(&holds, e->start, e->bytes)) {
        s = rdi_fail(RONDO_ERR_USAGE,
                     "rondo_mem_free(%p): a request still uses this block; wait for it first", ptr);
    } else {
        block = *e;
        rdi_intervals_drop(&blocks, e);
        atomic_fetch_add_explicit(&frees, 1, memory_order_release);
    }
    unlock();
    if (s == RONDO_OK) {
        munmap(ptr, block.bytes);
        close_file(block.fd);
    }
    return s;
}

bool rdi_mem_find(const void *ptr, size_t len, int *fd, uint64_t *id, uint64_t *offset,
                  uint64_t *bytes) {
    lock();
    const struct rdi_interval *e = rdi_intervals_around(&blocks, (uintptr_t)ptr, len);
    bool found = e != NULL && e->fd >= 0;
    if (found) {
        *fd = e->fd;
        *id = e->id;
        *offset = (uintptr_t)ptr - e->start;
        *bytes = e->bytes;
    }
    unlock();
    return found;
}

uint64_t rdi_mem_frees(void) { return atomic_load_explicit(&frees, memory_order_acquire); }

static bool has_id(const struct rdi_intervals *t, uint64_t id) {
    for (size_t i = 0; i < t->n; i++) {
        if (t->at[i].id == id) {
            return true;
        }
    }
    return false;
}

bool rdi_mem_alive(uint64_t id) {
    lock();
    bool alive = has_id(&blocks, id) || has_id(&registrations, id) || has_id(&devices, id);
    unlock();
    return alive;
}

bool rdi_mem_region(const void *ptr, size_t len, void **start, size_t *bytes, uint64_t *id) {
    lock();
    const struct rdi_interval *e = rdi_intervals_around(&blocks, (uintptr_t)ptr, len);
    if (e == NULL) {
        e = rdi_intervals_around(&registrations, (uintptr_t)ptr, len);
    }
    if (e != NULL) {
        // Derived from ptr, since a pointer made of a number hides what it points into.
        *start = (char *)(uintptr_t)ptr - ((uintptr_t)ptr - e->start);
        *bytes = e->bytes;
        *id = e->id;
    }
    unlock();
    return e != NULL;
}

// ---- Registrations -------------------------------------------------------------------------------

rondo_status rondo_mem_register(void *ptr, size_t bytes) {
    uintptr_t end;
    if (ptr == NULL || __builtin_add_overflow((uintptr_t)ptr, bytes, &end)) {
        return rdi_fail(RONDO_ERR_INVALID,
                        "rondo_mem_register(%p, %zu): not a range of this process' memory; pass a "
                        "pointer and the number of bytes behind it",
                        ptr, bytes);
    }
    lock();
    struct rdi_interval *e = rdi_intervals_add(&registrations, (uintptr_t)ptr, bytes);
    if (e != NULL && e->count == 1) {
        e->id = ++last_id;
    }
    unlock();
    return e != NULL ? RONDO_OK
                     : rdi_fail_resource(ENOMEM, "remember a registration of %zu bytes", bytes);
}

// Of several ranges that start at one address the shortest goes first: what is left then still covers all
// that was covered.
rondo_status rondo_mem_unregister(void *ptr) {
    rondo_status s = RONDO_OK;
    lock();
    struct rdi_interval *e = rdi_intervals_starting(&registrations, (uintptr_t)ptr);
    if (e == NULL) {
        s = rdi_fail(
            RONDO_ERR_USAGE,
            "rondo_mem_unregister(%p): no registration starts here; pass the pointer that was "
            "given to rondo_mem_register(), once for each time",
            ptr);
    } else {
        size_t i = (size_t)(e - registrations.at);
        bool another = i + 1 < registrations.n && registrations.at[i + 1].start == e->start;
        if (e->count == 1 && !another && rdi_intervals_touch(&holds, e->start, e->bytes)) {
            s = rdi_fail(RONDO_ERR_USAGE,
                         "rondo_mem_unregister(%p): a request still uses this memory; wait for it "
                         "first",
                         ptr);
        } else {
            uint64_t last = e->count == 1 ? 1 : 0;
            rdi_intervals_drop(&registrations, e);
            atomic_fetch_add_explicit(&frees, last, memory_order_release);
        }
    }
    unlock();
    return s;
}

// ---- Device memory -------------------------------------------------------------------------------

// The table keeps a descriptor of its own: a number that its owner has closed may be another file's by the
// time that a device is asked to register the memory.
rondo_status rdi_mem_register_device(const void *ptr, size_t bytes, int fd, uint64_t offset) {
    uintptr_t end;
    if (ptr == NULL || bytes == 0 || __builtin_add_overflow((uintptr_t)ptr, bytes, &end)) {
        return rdi_fail(RONDO_ERR_INVALID, "device memory %p of %zu bytes is not a range", ptr,
                        bytes);
    }
    int own = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd >= 0 && own < 0) {
        return errno == EBADF
                   ? rdi_fail(RONDO_ERR_INVALID,
                              "device memory %p of %zu bytes: descriptor %d is not open", ptr,
                              bytes, fd)
                   : rdi_fail_resource(errno, "keep the descriptor of %zu bytes of device memory",
                                       bytes);
    }
    lock();
    struct rdi_interval *e = rdi_intervals_add(&devices, (uintptr_t)ptr, bytes);
    if (e != NULL && e->count == 1) {
        e->id = ++last_id;
        e->fd = own;
        e->offset = offset;
        own = -1;
    }
    unlock();
    close_file(own);
    return e != NULL ? RONDO_OK
                     : rdi_fail_resource(ENOMEM, "remember %zu bytes of device memory", bytes);
}

rondo_status rdi_mem_unregister_device(const void *ptr) {
    int fd = -1;
    lock();
    struct rdi_interval *e = rdi_intervals_starting(&devices, (uintptr_t)ptr);
    bool found = e != NULL;
    if (found) {
        uint64_t last = e->count == 1 ? 1 : 0;
        fd = last != 0 ? e->fd : -1;
        rdi_intervals_drop(&devices, e);
        atomic_fetch_add_explicit(&frees, last, memory_order_release);
    }
    unlock();
    close_file(fd);
    return found ? RONDO_OK
                 : rdi_fail(RONDO_ERR_USAGE, "no registered device memory starts at %p", ptr);
}

rondo_status rdi_mem_find_device(const void *ptr, size_t len, struct rdi_mem_device *out) {
    int err = 0;
    lock();
    const struct rdi_interval *e = rdi_intervals_around(&devices, (uintptr_t)ptr, len);
    if (e != NULL) {
        *out =
            (struct rdi_mem_device){.start = (char *)(uintptr_t)ptr - ((uintptr_t)ptr - e->start),
                                    .bytes = e->bytes,
                                    .id = e->id,
                                    .fd = -1,
                                    .offset = e->offset};
        out->fd = e->fd >= 0 ? fcntl(e->fd, F_DUPFD_CLOEXEC, 0) : -1;
        err = e->fd >= 0 && out->fd < 0 ? errno : 0;
    }
    unlock();
    if (e == NULL) {
        return rdi_fail(RONDO_ERR_INVALID, "%p of %zu bytes is not within registered device memory",
                        ptr, len);
    }
    return err == 0 ? RONDO_OK
                    : rdi_fail_resource(err, "use the descriptor of %zu bytes of device memory",
                                        out->bytes);
}

// ---- Use -----------------------------------------------------------------------------------------

// A hold is an interval of its own and not a count at a block or registration: it stays what it is when
// registrations that overlap come and go meanwhile.
bool rdi_mem_hold(const void *ptr, size_t len) {
    if (len == 0) {
        return false;
    }
    uintptr_t start = (uintptr_t)ptr;
    lock();
    bool known = rdi_intervals_around(&blocks, start, len) != NULL ||
                 rdi_intervals_around(&registrations, start, len) != NULL;
    bool held = known && rdi_intervals_add(&holds, start, len) != NULL;
    unlock();
    return held;
}

void rdi_mem_unhold(const void *ptr, size_t len) {
    lock();
    struct rdi_interval *e = rdi_intervals_exact(&holds, (uintptr_t)ptr, len);
    if (e != NULL) {
        rdi_intervals_drop(&holds, e);
    }
    unlock();
}
