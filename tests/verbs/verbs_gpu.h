// SPDX-License-Identifier: MIT
// Device memory for tests over the fake library: a file whose mapping at the device's address nobody may touch
// (PROT_NONE), so that any use by a processor ends the test. The test looks through a second mapping.
#ifndef RDI_TESTS_VERBS_GPU_H
#define RDI_TESTS_VERBS_GPU_H

#include "verbs_pair.h"

#include <sys/mman.h>

#define GPU_GUARD 4096u

struct gpu {
    int fd;
    uint8_t *at, *view; // the device's address; the test's
    size_t bytes;       // and GPU_GUARD more, which stay as they are
};

static inline void gpu_make(struct gpu *g, size_t bytes) {
    *g = (struct gpu){.bytes = (bytes + 4095) / 4096 * 4096};
    size_t all = g->bytes + GPU_GUARD;
    g->fd = memfd_create("gpu", MFD_CLOEXEC);
    assert_true(g->fd >= 0);
    assert_int_equal(ftruncate(g->fd, (off_t)all), 0);
    g->at = mmap(NULL, all, PROT_NONE, MAP_SHARED, g->fd, 0);
    g->view = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
    assert_true(g->at != MAP_FAILED && g->view != MAP_FAILED);
    memset(g->view + g->bytes, 0xee, GPU_GUARD);
}

// As a driver's DMA-BUF is: the owner's descriptor is closed as soon as it was told of.
static inline void gpu_register(const struct gpu *g) {
    int fd = dup(g->fd);
    assert_true(fd >= 0);
    assert_int_equal(rdi_mem_register_device(g->at, g->bytes, fd, 0), RONDO_OK);
    close(fd);
}

static inline void gpu_free(struct gpu *g) {
    for (size_t i = 0; i < GPU_GUARD; i++) {
        assert_int_equal(g->view[g->bytes + i], 0xee);
    }
    munmap(g->at, g->bytes + GPU_GUARD);
    munmap(g->view, g->bytes + GPU_GUARD);
    close(g->fd);
}

static inline long fake_count(const char *what) {
    static long (*count)(const char *what);
    if (count == NULL) {
        void *symbol = dlsym(dlopen("libibverbs.so.1", RTLD_NOW), "fake_verbs_count");
        assert_non_null(symbol);
        memcpy(&count, &symbol, sizeof count);
    }
    return count(what);
}

// ---- Links on the device channel -----------------------------------------------------------------

// What the receiver's engine answers when slots are made.
struct gpu_answer {
    bool yes;
    struct rdi_device_slots slots; // 0: as the transport says
    struct rdi_device_slots asked;
    unsigned calls;
};
static struct gpu_answer gpu_answer;

static inline bool gpu_on_slots(void *self, struct rdi_link *link, struct rdi_device_slots *io) {
    assert_non_null(self);
    assert_false(link->sender);
    assert_int_equal(link->id.channel, RDI_CHANNEL_DEVICE);
    gpu_answer.calls++;
    gpu_answer.asked = *io;
    io->ptr = gpu_answer.slots.ptr;
    io->slots = gpu_answer.slots.slots != 0 ? gpu_answer.slots.slots : io->slots;
    io->max_msg = gpu_answer.slots.max_msg != 0 ? gpu_answer.slots.max_msg : io->max_msg;
    return gpu_answer.yes;
}

static inline void gpu_begin_link(struct pair *p) {
    uint8_t blob[RDI_BLOB_MAX];
    size_t len = 0;
    struct rdi_link_id id = {.comm = 5, .from = 0, .to = 1, .channel = RDI_CHANNEL_DEVICE};
    p->side[1].events.slots = gpu_on_slots;
    assert_int_equal(p->side[1].net->ops->address(p->side[1].net, blob, &len), RONDO_OK);
    assert_int_equal(p->side[0].net->ops->connect(p->side[0].net, &id, blob, len, &p->link),
                     RONDO_OK);
}

static inline void gpu_connect(struct pair *p) {
    gpu_begin_link(p);
    pair_drive_until(p, pair_link_up(p) || p->link->state == RDI_LINK_FAILED);
    if (p->link->state == RDI_LINK_FAILED) {
        fail_msg("%s", p->link->why);
    }
}

#endif
