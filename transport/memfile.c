// SPDX-License-Identifier: MIT
// Memory files: a memfd, sealed, or where the kernel or the container refuses memfd_create() a temporary file
// in /dev/shm. Neither ever has a name, so nothing is left behind whatever ends the process.
//
// A memfd is bounded by the machine's memory only. A file in /dev/shm is bounded by that file system, often
// 64 MiB in containers, and touching a page beyond the bound kills the process; so its pages are reserved when
// it is made, and a full /dev/shm is an error and not a SIGBUS. Such files cannot be sealed. A descriptor
// without seals is therefore taken from a peer only where this process cannot make a sealed one itself: one
// machine, one rule for all ranks.
#include "transport/memfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

// ---- Words for what ran out ----------------------------------------------------------------------

static unsigned long long limit_of(__rlimit_resource_t which) {
    struct rlimit r;
    return getrlimit(which, &r) == 0 ? (unsigned long long)r.rlim_cur : 0;
}

rondo_status rdi_fail_resource(int err, const char *fmt, ...) {
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    switch (err) {
    case EMFILE:
        return rdi_fail(
            RONDO_ERR_SYSTEM,
            "cannot %s: this process has no file descriptors left (limit %llu); raise the "
            "limit (ulimit -n)",
            what, limit_of(RLIMIT_NOFILE));
    case ENFILE:
        return rdi_fail(RONDO_ERR_SYSTEM,
                        "cannot %s: the machine has no file descriptors left; raise the sysctl "
                        "fs.file-max",
                        what);
    case EFBIG:
        return rdi_fail(RONDO_ERR_NOMEM,
                        "cannot %s: larger than the limit on file sizes (%llu bytes), which counts "
                        "for shared memory too; raise it (ulimit -f)",
                        what, limit_of(RLIMIT_FSIZE));
    case ENOMEM:
    case EAGAIN:
        if (limit_of(RLIMIT_AS) != (unsigned long long)RLIM_INFINITY) {
            return rdi_fail(RONDO_ERR_NOMEM,
                            "cannot %s: out of memory or address space (limit %llu bytes); raise "
                            "the limit (ulimit -v) or use less",
                            what, limit_of(RLIMIT_AS));
        }
        return rdi_fail(RONDO_ERR_NOMEM,
                        "cannot %s: the machine or the container is out of memory, or the process "
                        "has too many mappings (sysctl vm.max_map_count)",
                        what);
    default:
        return rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot %s", what);
    }
}

// ---- Making --------------------------------------------------------------------------------------

size_t rdi_memfile_size(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes == 0) {
        return page;
    }
    return bytes > SIZE_MAX - page ? 0 : (bytes + page - 1) / page * page;
}

static int open_memfd(void) {
    int fd = memfd_create("rondo", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) { // kernels before 6.3 do not know the last flag
        fd = memfd_create("rondo", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    return fd;
}

// A refusal for good, as opposed to a resource that ran out.
static bool memfd_is_refused(int err) { return err == ENOSYS || err == EPERM || err == EACCES; }

// Gives the file its size. 0 or an errno.
static int set_size(int fd, size_t size) {
    // Growing a file beyond RLIMIT_FSIZE would not fail but kill the process (SIGXFSZ).
    unsigned long long limit = limit_of(RLIMIT_FSIZE);
    if (limit != (unsigned long long)RLIM_INFINITY && size > limit) {
        return EFBIG;
    }
    int rc;
    do {
        rc = ftruncate(fd, (off_t)size) == 0 ? 0 : errno;
    } while (rc == EINTR);
    return rc;
}

// Makes its pages. 0 or an errno.
static int reserve(int fd, size_t size) {
    int rc;
    do {
        rc = posix_fallocate(fd, 0, (off_t)size);
    } while (rc == EINTR);
    return rc;
}

// Seals what nobody shall change. Only then does the file leave this process.
static int seal(int fd, enum rdi_memfile_use use) {
    // EINVAL: before Linux 5.1, where peers are trusted to map it read-only.
    if (use == RDI_MEMFILE_PRIVATE && fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0 &&
        errno != EINVAL) {
        return errno;
    }
    return fcntl(fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL) < 0 ? errno : 0;
}

static rondo_status fail_create(int err, bool sealed, const char *what, size_t size) {
    if (sealed || err == EMFILE || err == ENFILE || err == ENOMEM || err == EFBIG) {
        return rdi_fail_resource(err == ENOSPC ? ENOMEM : err, "make %s of %zu bytes", what, size);
    }
    if (err == ENOSPC) {
        struct statvfs v;
        unsigned long long room = 0;
        if (statvfs("/dev/shm", &v) == 0) {
            room = (unsigned long long)v.f_bavail * v.f_frsize;
        }
        return rdi_fail(
            RONDO_ERR_NOMEM,
            "cannot make %s of %zu bytes: /dev/shm has only %llu bytes left and "
            "memfd_create() is refused; enlarge /dev/shm (docker run --shm-size) or set "
            "RONDO_TRANSPORT=tcp",
            what, size, room);
    }
    return rdi_fail_errno(
        RONDO_ERR_SYSTEM, err,
        "cannot make %s of %zu bytes: memfd_create() is refused here, and so is a "
        "file in /dev/shm; allow one of them, or set RONDO_TRANSPORT=tcp",
        what, size);
}

#define NODES 1024
#define WORD_BITS (8 * sizeof(unsigned long))

static _Atomic int preferred_node = -1;

void rdi_memfile_prefer_node(int node) { atomic_store(&preferred_node, node); }

// Before there is a page. A wish: what a node has no room for comes from others, and a kernel without NUMA refuses.
static void place(void *map, size_t size) {
    unsigned long mask[NODES / WORD_BITS] = {0};
    int node = atomic_load(&preferred_node);
    if (node >= 0 && node < NODES) {
        mask[(size_t)node / WORD_BITS] = 1UL << ((size_t)node % WORD_BITS);
        (void)syscall(SYS_mbind, map, size, MPOL_PREFERRED, mask, (unsigned long)NODES + 1, 0U);
    }
}

rondo_status rdi_memfile_create(const char *what, size_t bytes, enum rdi_memfile_use use, int *fd,
                                void **map) {
    size_t size = rdi_memfile_size(bytes);
    if (size == 0 || size > (size_t)INT64_MAX) {
        return rdi_fail(RONDO_ERR_NOMEM,
                        "cannot make %s of %zu bytes: beyond the address space; ask for less", what,
                        bytes);
    }
    bool sealed = true;
    int err = 0;
    int file = open_memfd();
    if (file < 0 && memfd_is_refused(errno)) {
        sealed = false;
        file = open("/dev/shm", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    }
    if (file < 0) {
        err = errno;
        goto fail;
    }
    err = set_size(file, size);
    if (err != 0) {
        goto close_file;
    }
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) {
        err = errno;
        goto close_file;
    }
    place(at, size);
    err = sealed ? seal(file, use) : reserve(file, size);
    if (err != 0) {
        munmap(at, size);
        goto close_file;
    }
    *fd = file;
    *map = at;
    return RONDO_OK;

close_file:
    close(file);
fail:
    errno = err;
    return fail_create(err, sealed, what, size);
}

// ---- Taking from a peer --------------------------------------------------------------------------

// Whether seals can be asked for at all. Costs system calls, but is asked about unsealed files only.
static bool can_seal(void) {
    int fd = open_memfd();
    if (fd < 0) {
        return !memfd_is_refused(errno);
    }
    close(fd);
    return true;
}

static rondo_status check(const char *what, int fd, size_t size) {
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return rdi_fail_errno(RONDO_ERR_SYSTEM, errno, "cannot look at %s from a peer", what);
    }
    if (!S_ISREG(st.st_mode) || st.st_size < 0 || (size_t)st.st_size != size) {
        return rdi_fail(
            RONDO_ERR_PEER,
            "%s from a peer has %lld bytes instead of %zu; run the same release of Rondo "
            "on all ranks",
            what, (long long)st.st_size, size);
    }
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals >= 0 && (seals & SIZE_SEALS) == SIZE_SEALS) {
        return RONDO_OK;
    }
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0 || fs.f_type != TMPFS_MAGIC || can_seal()) {
        return rdi_fail(
            RONDO_ERR_PEER,
            "%s from a peer is not sealed against shrinking and could end this process: "
            "refused; run the same release of Rondo in the same container settings on all ranks",
            what);
    }
    return RONDO_OK;
}

rondo_status rdi_memfile_map(const char *what, int fd, size_t bytes, enum rdi_memfile_use use,
                             void **map) {
    size_t size = rdi_memfile_size(bytes);
    if (size == 0) {
        return rdi_fail(RONDO_ERR_PEER, "%s from a peer claims %zu bytes", what, bytes);
    }
    rondo_status s = check(what, fd, size);
    if (s != RONDO_OK) {
        return s;
    }
    int access = use == RDI_MEMFILE_COMMON ? PROT_READ | PROT_WRITE : PROT_READ;
    void *at = mmap(NULL, size, access, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        return rdi_fail_resource(errno, "map %s of %zu bytes from a peer", what, size);
    }
    *map = at;
    return RONDO_OK;
}

void rdi_memfile_unmap(void *map, size_t bytes) {
    if (map != NULL) {
        munmap(map, rdi_memfile_size(bytes));
    }
}
