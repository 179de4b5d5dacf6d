// SPDX-License-Identifier: MIT
// Files as a whole.
#include "gpt_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- Reading ------------------------------------------------------------------------------------

static bool read_all(int fd, uint8_t *to, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, to + done, size - done);
        if (n == 0) {
            errno = EIO; // somebody shortened the file meanwhile
        }
        if (n <= 0 && !(n < 0 && errno == EINTR)) {
            return false;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool read_open(int fd, const char *path, const char *purpose, uint8_t **bytes, size_t *len,
                      struct gpt_error *e) {
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return gpt_fail(e, "%s %s: %s", purpose, path, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return gpt_fail(e, "%s %s: it is %s, not a file", purpose, path,
                        S_ISDIR(st.st_mode) ? "a folder" : "a device or a pipe");
    }
    if (st.st_size == 0) {
        return gpt_fail(e, "%s %s: it is empty", purpose, path);
    }
    uint8_t *memory = malloc((size_t)st.st_size);
    if (!memory) {
        return gpt_fail(e, "%s %s: no memory for its %lld bytes", purpose, path,
                        (long long)st.st_size);
    }
    if (!read_all(fd, memory, (size_t)st.st_size)) {
        free(memory);
        return gpt_fail(e, "%s %s: %s", purpose, path, strerror(errno));
    }
    *bytes = memory;
    *len = (size_t)st.st_size;
    return true;
}

bool gpt_file_read(const char *path, const char *purpose, uint8_t **bytes, size_t *len,
                   struct gpt_error *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // does not wait for a pipe's other end
    if (fd < 0) {
        return gpt_fail(e, "%s %s: %s", purpose, path, strerror(errno));
    }
    bool ok = read_open(fd, path, purpose, bytes, len, e);
    close(fd);
    return ok;
}

// ---- Writing ------------------------------------------------------------------------------------

static bool write_all(int fd, const uint8_t *from, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, from + done, size - done);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool write_parts(const char *path, const struct iovec *parts, int count) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return false;
    }
    bool ok = true;
    for (int i = 0; ok && i < count; i++) {
        ok = write_all(fd, parts[i].iov_base, parts[i].iov_len);
    }
    ok = ok && fsync(fd) == 0;
    int why = errno;
    if (close(fd) < 0 && ok) {
        return false;
    }
    errno = why;
    return ok;
}

// A rename is on the disk when its folder is.
static void flush_folder(const char *path) {
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd); // some file systems cannot; the file itself is safe by then
        close(fd);
    }
}

static bool new_name(char name[PATH_MAX], const char *path, struct gpt_error *e) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return gpt_fail(e, "cannot write %s: it is there already and is not a file", path);
    }
    if (snprintf(name, PATH_MAX, "%s.new", path) >= PATH_MAX) {
        return gpt_fail(e, "cannot write %.100s...: the name is too long", path);
    }
    return true;
}

bool gpt_file_replace(const char *path, const struct iovec *parts, int count, struct gpt_error *e) {
    char name[PATH_MAX];
    if (!new_name(name, path, e)) {
        return false;
    }
    if (!write_parts(name, parts, count) || rename(name, path) < 0) {
        gpt_fail(e, "cannot write %s: %s", path, strerror(errno));
        unlink(name);
        return false;
    }
    flush_folder(path);
    return true;
}

bool gpt_file_probe(const char *path, struct gpt_error *e) {
    char name[PATH_MAX];
    if (!new_name(name, path, e)) {
        return false;
    }
    bool ok = write_parts(name, NULL, 0);
    if (!ok) {
        gpt_fail(e, "cannot write %s: %s", path, strerror(errno));
    }
    unlink(name);
    return ok;
}
