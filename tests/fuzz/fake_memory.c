// SPDX-License-Identifier: MIT
// See fake_memory.h. A packet lies in its socket's buffer as: bytes (2), descriptors (1), each (4), bytes.
#include "fake_memory.h"
#include "transport/memfile.h"
#include "transport/shm/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct memory files[MEMORY_FILES];
static size_t zeroed;
static struct {
    struct memory *file;
    enum descriptor kind;
} table[SOCKETS];

// ---- The target's side ---------------------------------------------------------------------------

static struct memory *new_file(size_t size) {
    for (unsigned i = 0; i < MEMORY_FILES; i++) {
        if (files[i].fds == 0 && files[i].maps == 0) {
            free(files[i].bytes);
            files[i] = (struct memory){.size = size};
            return &files[i];
        }
    }
    return NULL;
}

static int new_fd(struct memory *file, enum descriptor kind) {
    struct sock *s = sockets_new(SOCKET_FILE);
    if (s == NULL) {
        return -1;
    }
    table[s->fd - SOCKET_FIRST_FD].file = file;
    table[s->fd - SOCKET_FIRST_FD].kind = kind;
    if (file != NULL) {
        file->fds++;
    }
    return s->fd;
}

int memory_descriptor(enum descriptor kind, size_t size) {
    struct memory *file = kind == DESCRIPTOR_MEMORY ? new_file(size) : NULL;
    if (kind == DESCRIPTOR_MEMORY && file == NULL) {
        return -1;
    }
    return new_fd(file, kind);
}

static struct memory *memory_of(int fd) {
    (void)sockets_of(fd);
    return table[fd - SOCKET_FIRST_FD].file;
}

// Whoever maps it first finds zeros.
static void *map_file(struct memory *file) {
    if (file->bytes == NULL) {
        file->bytes = malloc(file->size > 0 ? file->size : 1);
        MUST(file->bytes != NULL);
        memset(file->bytes, 0, file->size < zeroed ? file->size : zeroed);
    }
    return file->bytes;
}

void memory_check_closed(void) {
    for (unsigned i = 0; i < MEMORY_FILES; i++) {
        MUST(files[i].maps == 0 && files[i].fds == 0);
        free(files[i].bytes);
        files[i] = (struct memory){.size = 0};
    }
}

// What was under way in a socket is closed with it.
static void on_close(struct sock *s) {
    struct memory *file = table[s->fd - SOCKET_FIRST_FD].file;
    if (s->kind == SOCKET_FILE && file != NULL) {
        MUST(file->fds > 0);
        file->fds--;
    }
    while (s->kind == SOCKET_CONNECTED && s->in_off < s->in_len) {
        const uint8_t *head = s->in + s->in_off;
        for (unsigned i = 0; i < head[2]; i++) {
            int fd;
            memcpy(&fd, head + 3 + 4 * i, 4);
            close(fd);
        }
        s->in_off += 3u + 4u * head[2] + (head[0] | (size_t)head[1] << 8);
    }
}

void memory_begin(size_t zeros) {
    sockets_on_close = on_close;
    zeroed = zeros;
}

// ---- Packets -------------------------------------------------------------------------------------

void packet_give(struct sock *s, const void *bytes, size_t n, const int *fds, size_t n_fds) {
    uint8_t head[3 + 4 * SHM_FDS_MAX] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)n_fds};
    size_t head_len = 3 + 4 * n_fds;
    bool fits = s->kind != SOCKET_FREE && !s->in_end && s->error == 0 &&
                SOCKET_IN - s->in_len > head_len + n;
    for (size_t i = 0; i < n_fds; i++) {
        memcpy(head + 3 + 4 * i, &fds[i], 4);
        if (!fits) {
            close(fds[i]);
        }
    }
    if (fits) {
        sockets_give(s, head, head_len);
        sockets_give(s, bytes, n);
    }
}

bool packet_take(struct sock *s, void *bytes, size_t cap, size_t *n) {
    uint8_t head[2];
    if (sockets_take(s, head, sizeof head) == 0) {
        return false;
    }
    *n = head[0] | (size_t)head[1] << 8;
    MUST(*n <= cap);
    sockets_take(s, bytes, *n);
    return true;
}

int __wrap_shm_packet_send(int fd, const void *bytes, size_t n, const int *fds, size_t n_fds);
int __wrap_shm_packet_send(int fd, const void *bytes, size_t n, const int *fds, size_t n_fds) {
    struct sock *s = sockets_of(fd);
    uint8_t head[2] = {(uint8_t)n, (uint8_t)(n >> 8)};
    MUST(s->kind == SOCKET_CONNECTED && n_fds <= SHM_FDS_MAX && n <= 65535);
    for (size_t i = 0; i < n_fds; i++) {
        (void)sockets_of(fds[i]);
    }
    if (s->error != 0 || s->in_end) {
        return EPIPE;
    }
    if (s->room == 0 || SOCKET_OUT - s->out_len < 16 + n) {
        return EAGAIN;
    }
    size_t had = s->room - 1; // in packets
    s->room = SOCKET_OUT;
    MUST(send(fd, head, 2, MSG_NOSIGNAL) == 2);
    MUST(n == 0 || send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
    s->room = had;
    return 0;
}

int __wrap_shm_packet_receive(int fd, void *bytes, size_t cap, size_t *n, int fds[SHM_FDS_MAX],
                              size_t *n_fds);
int __wrap_shm_packet_receive(int fd, void *bytes, size_t cap, size_t *n, int fds[SHM_FDS_MAX],
                              size_t *n_fds) {
    uint8_t head[3];
    ssize_t got = recv(fd, head, sizeof head, 0);
    *n_fds = 0;
    if (got <= 0) {
        return got == 0 || errno == ECONNRESET ? EPIPE : errno;
    }
    size_t len = head[0] | (size_t)head[1] << 8;
    MUST(head[2] == 0 || recv(fd, fds, 4u * head[2], 0) == 4 * head[2]);
    uint8_t packet[1024];
    MUST(len <= sizeof packet && (len == 0 || recv(fd, packet, len, 0) == (ssize_t)len));
    int err = len == 0                                ? EPIPE
              : len > cap                             ? EMSGSIZE
              : sockets_no_descriptors && head[2] > 0 ? EMFILE
                                                      : 0;
    for (unsigned i = 0; err != 0 && i < head[2]; i++) {
        close(fds[i]);
    }
    *n_fds = err != 0 ? 0 : head[2];
    *n = len < cap ? len : cap;
    memcpy(bytes, packet, *n);
    return err;
}

// ---- Memory and descriptors ----------------------------------------------------------------------

rondo_status __wrap_rdi_memfile_create(const char *what, size_t bytes, enum rdi_memfile_use use,
                                       int *fd, void **map);
rondo_status __wrap_rdi_memfile_create(const char *what, size_t bytes, enum rdi_memfile_use use,
                                       int *fd, void **map) {
    (void)use;
    struct memory *file = sockets_no_descriptors ? NULL : new_file(bytes);
    *fd = file != NULL ? new_fd(file, DESCRIPTOR_MEMORY) : -1;
    if (*fd < 0) {
        errno = EMFILE;
        return rdi_fail_resource(EMFILE, "make %s", what);
    }
    file->maps++;
    *map = map_file(file);
    return RONDO_OK;
}

rondo_status __wrap_rdi_memfile_map(const char *what, int fd, size_t bytes,
                                    enum rdi_memfile_use use, void **map);
rondo_status __wrap_rdi_memfile_map(const char *what, int fd, size_t bytes,
                                    enum rdi_memfile_use use, void **map) {
    (void)use;
    if (fd < 0 || sockets_no_descriptors) {
        return rdi_fail_resource(EMFILE, "look at %s", what);
    }
    struct memory *file = memory_of(fd);
    if (file == NULL || file->size != bytes || bytes == 0) {
        return rdi_fail(RONDO_ERR_PEER, "%s is not what it is said to be", what);
    }
    file->maps++;
    *map = map_file(file);
    return RONDO_OK;
}

void __wrap_rdi_memfile_unmap(void *map, size_t bytes);
void __wrap_rdi_memfile_unmap(void *map, size_t bytes) {
    for (unsigned i = 0; i < MEMORY_FILES && map != NULL; i++) {
        struct memory *file = &files[i];
        if (file->bytes == map && file->maps > 0) {
            MUST(file->size == bytes);
            if (--file->maps == 0) { // seen by the product no more: an access is one after free
                free(file->bytes);
                file->bytes = NULL;
            }
            return;
        }
    }
    MUST(map == NULL);
}

int __real_eventfd(unsigned count, int flags);
int __wrap_eventfd(unsigned count, int flags);
int __wrap_eventfd(unsigned count, int flags) {
    MUST(count == 0 && flags & EFD_NONBLOCK);
    int fd = memory_descriptor(DESCRIPTOR_EVENT, 0);
    errno = fd < 0 ? EMFILE : errno;
    return fd;
}

int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
    (void)sockets_of(fd);
    if (command == F_DUPFD_CLOEXEC) {
        int copy = sockets_no_descriptors ? -1 : new_fd(NULL, DESCRIPTOR_EVENT);
        errno = copy < 0 ? EMFILE : errno;
        return copy;
    }
    MUST(command == F_GETFL);
    return table[fd - SOCKET_FIRST_FD].kind == DESCRIPTOR_BLOCKS ? O_RDWR : O_RDWR | O_NONBLOCK;
}

int __real_fstat(int fd, struct stat *out);
int __wrap_fstat(int fd, struct stat *out);
int __wrap_fstat(int fd, struct stat *out) {
    if (fd < SOCKET_FIRST_FD) {
        return __real_fstat(fd, out);
    }
    *out =
        (struct stat){.st_mode = table[fd - SOCKET_FIRST_FD].kind == DESCRIPTOR_PIPE ? S_IFIFO : 0};
    return 0;
}

ssize_t __real_read(int fd, void *buf, size_t n);
ssize_t __wrap_read(int fd, void *buf, size_t n);
ssize_t __wrap_read(int fd, void *buf, size_t n) {
    if (fd < SOCKET_FIRST_FD) {
        return __real_read(fd, buf, n);
    }
    struct sock *s = sockets_of(fd);
    MUST(n == 8);
    if (s->in_len == 0) {
        errno = EAGAIN;
        return -1;
    }
    s->in_off = s->in_len = 0;
    memset(buf, 1, n);
    return 8;
}

ssize_t __real_write(int fd, const void *buf, size_t n);
ssize_t __wrap_write(int fd, const void *buf, size_t n);
ssize_t __wrap_write(int fd, const void *buf, size_t n) {
    if (fd < SOCKET_FIRST_FD) {
        return __real_write(fd, buf, n);
    }
    (void)sockets_of(fd);
    enum descriptor kind = table[fd - SOCKET_FIRST_FD].kind;
    MUST(n == 8 && kind != DESCRIPTOR_BLOCKS && kind != DESCRIPTOR_PIPE);
    return 8;
}

long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...) {
    MUST(number == SYS_pidfd_open);
    int fd = sockets_no_descriptors ? -1 : new_fd(NULL, DESCRIPTOR_EVENT);
    errno = fd < 0 ? EMFILE : errno;
    return fd;
}
