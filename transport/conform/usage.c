// SPDX-License-Identifier: MIT
// What this process holds of the machine: descriptors, mapped files, threads, address space.
#include "transport/conform/check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SETTLE_SECONDS 8 // until what lingers is gone

static unsigned count_entries(const char *path) {
    unsigned n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        n += e->d_name[0] != '.';
    }
    if (d != NULL) {
        closedir(d);
    }
    return n;
}

// "17 socket:[123]" for each descriptor; the directory's own comes and goes.
static void name_fds(char *text, size_t cap) {
    DIR *d = opendir("/proc/self/fd");
    size_t used = 0;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL && used < cap;) {
        char path[300], target[96];
        snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
        ssize_t n = e->d_name[0] != '.' ? readlink(path, target, sizeof target - 1) : -1;
        if (n > 0) {
            target[n] = '\0';
            used += (size_t)snprintf(text + used, cap - used, "%s %s\n", e->d_name, target);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
}

// Mappings of files that are no programs or libraries: memory files and devices.
static unsigned count_maps(void) {
    static char line[1024];
    unsigned n = 0;
    FILE *f = fopen("/proc/self/maps", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        n += strstr(line, "memfd:") != NULL || strstr(line, "/dev/") != NULL;
    }
    if (f != NULL) {
        fclose(f);
    }
    return n;
}

static uint64_t address_space(void) {
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f != NULL) {
        if (fscanf(f, "%llu", &pages) != 1) {
            pages = 0;
        }
        fclose(f);
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void cf_usage_take(struct cf_usage *u) {
    memset(u, 0, sizeof *u);
    u->fds = count_entries("/proc/self/fd");
    u->maps = count_maps();
    u->threads = count_entries("/proc/self/task");
    u->memory = address_space();
    name_fds(u->names, sizeof u->names);
}

// The lines of `now` that `before` lacks.
static void name_new(const char *before, const char *now, char *text, size_t cap) {
    size_t used = 0;
    text[0] = '\0';
    while (*now != '\0') {
        char line[160];
        size_t n = strcspn(now, "\n");
        snprintf(line, sizeof line, "%.*s\n", (int)n, now);
        if (strstr(before, line) == NULL && used < cap) {
            used += (size_t)snprintf(text + used, cap - used, "%.*s; ", (int)n, now);
        }
        now += n + (now[n] == '\n');
    }
}

static bool is_more(const struct cf_usage *now, const struct cf_usage *before, uint64_t growth) {
    // A sanitizer keeps freed memory for a while.
    return now->fds > before->fds || now->maps > before->maps || now->threads > before->threads ||
           (!CF_SANITIZED && now->memory > before->memory + growth);
}

void cf_usage_expect(struct cf *c, const struct cf_usage *before, uint64_t growth,
                     const char *when) {
    static struct cf_usage now;
    char names[1000];
    // Last words may still be on their way.
    uint64_t end = cf_now(c) + SETTLE_SECONDS * CF_SECOND;
    do {
        cf_turns(c, 20);
        cf_usage_take(&now);
    } while (is_more(&now, before, growth) && cf_now(c) < end);
    name_new(before->names, now.names, names, sizeof names);
    cf_expect(c, now.fds <= before->fds, "%u descriptors instead of %u %s; new: %s", now.fds,
              before->fds, when, names);
    cf_expect(c, !is_more(&now, before, growth),
              "%u mapped memory files instead of %u, %u threads instead of %u, %lld KiB more of "
              "address space %s",
              now.maps, before->maps, now.threads, before->threads,
              (long long)(now.memory - before->memory) / 1024, when);
}

void cf_limit_fds(struct cf *c, int more) {
    struct rlimit limit;
    int at = -1;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    cf_expect(c, setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit: %s", strerror(errno));
    if (more < 0) {
        return;
    }
    // The lowest free numbers are used first: the limit has to lie behind the `more`-th of them.
    for (int free_ones = 0; free_ones <= more;) {
        free_ones += fcntl(++at, F_GETFD) < 0;
    }
    limit.rlim_cur = (rlim_t)at;
    cf_expect(c, setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit: %s", strerror(errno));
}
