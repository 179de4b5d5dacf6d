// SPDX-License-Identifier: MIT
// Names of temporary files, and the sweep of those whose makers are dead.
#include "transport/temp.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- Names ---------------------------------------------------------------------------------------

// A number of lower-case hexadecimal or decimal digits at *at, and the character behind it.
static bool number(const char **at, int base, char end, uint64_t *out) {
    uint64_t v = 0;
    const char *p = *at;
    for (; (*p >= '0' && *p <= '9') || (base == 16 && *p >= 'a' && *p <= 'f'); p++) {
        unsigned digit = (unsigned)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
        if (__builtin_mul_overflow(v, (uint64_t)base, &v) || __builtin_add_overflow(v, digit, &v)) {
            return false;
        }
    }
    bool ok = p != *at && *p == end;
    *at = p + 1;
    *out = v;
    return ok;
}

bool rdi_temp_parse(const char *name, const char *prefix, struct rdi_temp_maker *out) {
    size_t len = strlen(name);
    if (strncmp(name, prefix, strlen(prefix)) != 0 || len < 5 ||
        strcmp(name + len - 4, ".tmp") != 0) {
        return false;
    }
    // The last dot but one.
    const char *at = name + len - 4;
    do {
        at--;
    } while (at > name && *at != '.');
    uint64_t pid, random;
    if (at <= name || (size_t)(at - name) < strlen(prefix)) {
        return false;
    }
    at++;
    if (!number(&at, 16, '-', &out->host) || !number(&at, 10, '-', &pid) ||
        !number(&at, 16, '-', &out->start) || !number(&at, 16, '.', &random) || pid == 0 ||
        pid > INT_MAX) {
        return false;
    }
    out->pid = (int)pid;
    return true;
}

// ---- Processes -----------------------------------------------------------------------------------

// When a process began, in clock ticks. 0 and errno: it cannot be told, ENOENT where there is no such process.
static uint64_t start_of(int pid) {
    char path[32], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    int err = errno;
    close(fd);
    errno = n < 0 ? (err == ESRCH ? ENOENT : err) : EIO;
    text[n > 0 ? n : 0] = '\0';
    // The 22nd field; the second, the program's name, ends with the last parenthesis.
    const char *at = strrchr(text, ')');
    unsigned long long start = 0;
    char state = '?';
    int threads = 0;
    if (at == NULL || sscanf(at + 1,
                             " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d"
                             " %*d %d %*d %llu",
                             &state, &threads, &start) != 3) {
        return 0;
    }
    // Dead and not yet waited for; with more threads only the first of them has ended.
    if ((state == 'Z' || state == 'X') && threads <= 1) {
        errno = ENOENT;
        return 0;
    }
    return start;
}

static uint64_t this_host(void) {
    struct {
        uint8_t boot[64];
        uint64_t pids;
    } id;
    struct stat st;
    uint64_t hash;
    memset(&id, 0, sizeof id);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, id.boot, sizeof id.boot) < 0) {
            memset(id.boot, 0, sizeof id.boot);
        }
        close(fd);
    }
    id.pids = stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
    crypto_shorthash((uint8_t *)&hash, (const uint8_t *)&id, sizeof id,
                     (const uint8_t[crypto_shorthash_KEYBYTES]){0});
    return hash;
}

static bool is_dead(const struct rdi_temp_maker *m) {
    uint64_t start = start_of(m->pid);
    return start != 0 ? start != m->start : errno == ENOENT && start_of((int)getpid()) != 0;
}

void rdi_temp_name(const char *path, char *out, size_t cap) {
    uint64_t random;
    struct rdi_env env;
    rdi_env_system(&env, NULL, NULL);
    env.random(env.self, &random, sizeof random);
    snprintf(out, cap, "%s.%llx-%d-%llx-%llx.tmp", path, (unsigned long long)this_host(),
             (int)getpid(), (unsigned long long)start_of((int)getpid()),
             (unsigned long long)random);
}

// ---- The sweep -----------------------------------------------------------------------------------

static void sweep_one(int dir, const char *name, const char *prefix, uint64_t host) {
    struct rdi_temp_maker m;
    struct stat st;
    if (rdi_temp_parse(name, prefix, &m) && m.host == host &&
        fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        st.st_uid == geteuid() && is_dead(&m)) {
        (void)unlinkat(dir, name, 0);
    }
}

void rdi_temp_sweep(const char *path) {
    char folder[PATH_MAX], prefix[NAME_MAX + 1];
    const char *slash = strrchr(path, '/');
    const char *last = slash != NULL ? slash + 1 : path;
    size_t n = strcspn(last, ".");
    if (n == 0 || n > NAME_MAX || (size_t)(last - path) >= sizeof folder) {
        return;
    }
    memcpy(prefix, last, n);
    prefix[n] = '\0';
    snprintf(folder, sizeof folder, "%.*s", last > path ? (int)(last - path) : 1,
             last > path ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    uint64_t host = this_host();
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        sweep_one(fd, e->d_name, prefix, host);
    }
    closedir(dir);
}

// ---- Whole files ---------------------------------------------------------------------------------

static bool write_all(int fd, const char *at, size_t n) {
    while (n > 0) {
        ssize_t w = write(fd, at, n);
        if (w < 0 && errno == EINTR) {
            continue;
        }
        if (w <= 0) {
            errno = w == 0 ? EIO : errno;
            return false;
        }
        at += w;
        n -= (size_t)w;
    }
    return true;
}

rondo_status rdi_temp_replace(const char *path, const void *bytes, size_t len, unsigned mode) {
    size_t cap = strlen(path) + RDI_TEMP_MORE;
    char *temporary = malloc(cap);
    if (!temporary) {
        return rdi_fail(RONDO_ERR_NOMEM, "out of memory to write %s", path);
    }
    rdi_temp_sweep(path); // what a killed process may have left here
    rdi_temp_name(path, temporary, cap);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    bool ok = fd >= 0 && write_all(fd, bytes, len);
    int err = errno;
    if (fd >= 0 && close(fd) != 0 && ok) {
        err = errno;
        ok = false;
    }
    if (ok && rename(temporary, path) != 0) {
        err = errno;
        ok = false;
    }
    if (!ok && fd >= 0) {
        (void)unlink(temporary);
    }
    free(temporary);
    return ok ? RONDO_OK : rdi_fail_errno(RONDO_ERR_SYSTEM, err, "cannot write %s", path);
}
