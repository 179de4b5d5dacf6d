// SPDX-License-Identifier: MIT
// The numbers of opened devices, handed out to all processes of FAKE_VERBS_DIR, so that a queue pair's
// number says which process has it.
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct fv_slot {
    _Atomic int pid; // 0: free
    _Atomic uint32_t awake;
};

struct table {
    _Atomic uint32_t last; // numbers go round, so that one is not used again soon
    uint32_t reserved;
    struct fv_slot slots[FV_NICS];
};

static struct table *slot_table(const struct fv_slot *slot, uint32_t id) {
    return FV_CONTAINER(slot - id, struct table, slots);
}

// 'R' and the like; 0: there is no such process.
static char process_state(int pid) {
    char name[32], text[512];
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kill(pid, 0) == 0 ? 'S' : 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : 0;
}

static bool is_dead(int pid) {
    char state = process_state(pid);
    return state == 0 || state == 'Z' || state == 'X';
}

static uint32_t take(struct table *t) {
    for (uint32_t i = 1; i < FV_NICS; i++) {
        uint32_t id = (t->last + i) % FV_NICS;
        int pid = t->slots[id].pid;
        if (id == 0 || (pid != 0 && !is_dead(pid)))
            continue;
        t->slots[id].pid = getpid();
        t->slots[id].awake = 0;
        t->last = id;
        return id;
    }
    errno = EMFILE;
    return 0;
}

uint32_t fv_registry_take(struct fv_nic *nic) {
    int fd = openat(nic->dirfd, "registry", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return 0;
    uint32_t id = 0;
    struct stat st;
    if (flock(fd, LOCK_EX) == 0 && fstat(fd, &st) == 0 &&
        (st.st_size == sizeof(struct table) || ftruncate(fd, sizeof(struct table)) == 0)) {
        void *map = mmap(NULL, sizeof(struct table), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) {
            struct table *t = map;
            id = take(t);
            if (id)
                nic->slot = &t->slots[id];
            else
                munmap(map, sizeof(struct table));
        }
    }
    flock(fd, LOCK_UN); // the mapping would keep it
    close(fd);
    return id;
}

void fv_registry_give(struct fv_nic *nic) {
    nic->slot->pid = 0;
    munmap(slot_table(nic->slot, nic->id), sizeof(struct table));
    nic->slot = NULL;
}

void fv_registry_awake(struct fv_nic *nic, bool awake) { nic->slot->awake = awake; }

enum fv_life fv_registry_life(const struct fv_nic *nic, uint32_t id) {
    if (id == 0 || id >= FV_NICS)
        return FV_GONE;
    struct fv_slot *slot = &slot_table(nic->slot, nic->id)->slots[id];
    int pid = slot->pid;
    if (pid == 0)
        return FV_GONE;
    if (slot == nic->slot)
        return FV_IDLE;
    char state = process_state(pid);
    if (state == 0 || state == 'Z' || state == 'X')
        return FV_GONE;
    // The hardware of a stopped process goes on answering; this one cannot, and is not to be blamed.
    return state == 'T' || state == 't' || slot->awake ? FV_BUSY : FV_IDLE;
}
