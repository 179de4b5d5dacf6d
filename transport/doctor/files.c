// SPDX-License-Identifier: MIT
// Reading what the kernel tells, below a root that tests can put elsewhere.
#include "transport/doctor/doctor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool make_path(const struct doctor *d, char path[PATH_MAX], const char *fmt, va_list ap) {
    int n = snprintf(path, PATH_MAX, "%s", d->root);
    if (n < 0 || n >= PATH_MAX) {
        return false;
    }
    int m = vsnprintf(path + n, (size_t)(PATH_MAX - n), fmt, ap);
    return m >= 0 && m < PATH_MAX - n;
}

static bool read_file(const char *path, char *buf, size_t cap) {
    // Non-blocking, lest something else than a file in its place makes us wait.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return false;
    }
    size_t used = 0;
    ssize_t n = 0;
    while (used < cap - 1) {
        n = read(fd, buf + used, cap - 1 - used);
        if (n > 0) {
            used += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            break;
        }
    }
    close(fd);
    while (used > 0 && (buf[used - 1] == '\n' || buf[used - 1] == ' ')) {
        used--;
    }
    buf[used] = '\0';
    return n >= 0;
}

bool dr_read(const struct doctor *d, char *buf, size_t cap, const char *fmt, ...) {
    char path[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    bool ok = make_path(d, path, fmt, ap);
    va_end(ap);
    buf[0] = '\0';
    return ok && read_file(path, buf, cap);
}

static bool parse(const char *text, uint64_t *out) {
    if (strncmp(text, "max", 3) == 0 || strncmp(text, "unlimited", 9) == 0) {
        *out = UINT64_MAX;
        return true;
    }
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    *out = v;
    return end != text && errno == 0 && text[0] >= '0' && text[0] <= '9';
}

bool dr_read_number(const struct doctor *d, uint64_t *out, const char *fmt, ...) {
    char path[PATH_MAX], text[64];
    va_list ap;
    va_start(ap, fmt);
    bool ok = make_path(d, path, fmt, ap);
    va_end(ap);
    return ok && read_file(path, text, sizeof text) && parse(text, out);
}

bool dr_exists(const struct doctor *d, const char *fmt, ...) {
    char path[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    bool ok = make_path(d, path, fmt, ap);
    va_end(ap);
    return ok && access(path, F_OK) == 0;
}

static int visible(const struct dirent *e) { return e->d_name[0] != '.'; }

size_t dr_each(struct doctor *d, const char *path,
               void (*visit)(struct doctor *d, const char *name, void *arg), void *arg) {
    char whole[PATH_MAX];
    int n = snprintf(whole, sizeof whole, "%s%s", d->root, path);
    struct dirent **list;
    int count = n > 0 && n < PATH_MAX ? scandir(whole, &list, visible, versionsort) : -1;
    for (int i = 0; i < count; i++) {
        if (visit != NULL) {
            visit(d, list[i]->d_name, arg);
        }
        free(list[i]);
    }
    if (count >= 0) {
        free(list);
    }
    return count > 0 ? (size_t)count : 0;
}

bool dr_limit(const struct doctor *d, const char *name, uint64_t *soft, uint64_t *hard) {
    char text[DR_TEXT];
    if (!dr_read(d, text, sizeof text, "/proc/self/limits")) {
        return false;
    }
    const char *line = strstr(text, name);
    if (line == NULL) {
        return false;
    }
    const char *at = line + strlen(name);
    at += strspn(at, " ");
    const char *second = at + strcspn(at, " \n");
    second += strspn(second, " ");
    return parse(at, soft) && parse(second, hard);
}

unsigned dr_list_count(const char *list, unsigned which, bool *has) {
    unsigned count = 0;
    if (has != NULL) {
        *has = false;
    }
    while (*list >= '0' && *list <= '9') {
        char *end;
        unsigned long low = strtoul(list, &end, 10), high = low;
        if (*end == '-') {
            high = strtoul(end + 1, &end, 10);
        }
        if (high < low || high > 1u << 20) {
            break;
        }
        count += (unsigned)(high - low + 1);
        if (has != NULL && which >= low && which <= high) {
            *has = true;
        }
        list = *end == ',' ? end + 1 : end;
    }
    return count;
}

const char *dr_bytes(uint64_t bytes, char buf[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    if (bytes == UINT64_MAX) {
        return "no limit";
    }
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 1024 && u + 1 < sizeof units / sizeof units[0]; u++) {
        v /= 1024;
    }
    snprintf(buf, 32, v < 100 && u > 0 ? "%.3g %s" : "%.0f %s", v, units[u]);
    return buf;
}
