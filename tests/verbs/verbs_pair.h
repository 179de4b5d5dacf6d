// SPDX-License-Identifier: MIT
// Two ranks with a verbs net each in one process, over the fake library, driven in turns.
#ifndef RDI_TESTS_VERBS_PAIR_H
#define RDI_TESTS_VERBS_PAIR_H

#include "transport/verbs/verbs.h"

#include "tests/unit/tcp_pair.h"

#include <dlfcn.h>
#include <ftw.h>
#include <unistd.h>

static inline int fake_remove_one(const char *path, const struct stat *s, int type,
                                  struct FTW *at) {
    (void)s;
    (void)type;
    (void)at;
    return remove(path);
}

static char fake_dir[64];

static inline int fake_dir_remove(void **state) {
    (void)state;
    nftw(fake_dir, fake_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}

// A folder for the fake library and `devices` in it. Before anything loads the library.
static inline int fake_prepare(const char *devices) {
    snprintf(fake_dir, sizeof fake_dir, "/tmp/rondo-verbs-XXXXXX");
    if (mkdtemp(fake_dir) == NULL) {
        perror("mkdtemp");
        return 1;
    }
    setenv("FAKE_VERBS_DIR", fake_dir, 1);
    setenv("FAKE_VERBS_DEVICES", devices, 1);
    return 0;
}

// Faults of one device from now on; NULL: of all, "" none.
static inline void fake_control(const char *device, const char *faults) {
    static int (*control)(const char *device, const char *faults);
    if (control == NULL) {
        void *lib = dlopen("libibverbs.so.1", RTLD_NOW);
        assert_non_null(lib);
        void *symbol = dlsym(lib, "fake_verbs_control");
        if (symbol == NULL) {
            fail_msg("the fake library is not on LD_LIBRARY_PATH");
        }
        memcpy(&control, &symbol, sizeof control);
    }
    assert_true(control(device, faults) > 0);
}

static inline void verbs_side_open(struct side *s) {
    if (rdi_verbs_ops.open(&s->params, &s->net) != RONDO_OK) {
        fail_msg("open: %s", rondo_last_error());
    }
}

// The two ranks are on two hosts, as far as GIDs tell.
static inline void verbs_open(struct pair *p, const char *options0, const char *options1) {
    memset(p, 0, sizeof *p);
    side_prepare(&p->side[0], 0, options0);
    side_prepare(&p->side[1], 1, options1);
    setenv("FAKE_VERBS_HOST", "1", 1);
    verbs_side_open(&p->side[0]);
    setenv("FAKE_VERBS_HOST", "2", 1);
    verbs_side_open(&p->side[1]);
}

// ---- A stream of messages ------------------------------------------------------------------------

struct stream {
    struct pair *p;
    uint64_t count, checked;
    uint8_t *data;
    size_t bytes;
    bool registered;
    uint32_t random;
    unsigned cuts, resets;
};

static inline uint32_t stream_random(struct stream *s, uint32_t below) {
    s->random = s->random * 1664525u + 1013904223u;
    return (s->random >> 8) % below;
}

// All the edges first, then anything.
static inline uint32_t stream_size(uint64_t seq, uint32_t max) {
    const uint32_t edges[] = {0,   1,   63,  64,   65,   91,   92,      93,
                              895, 896, 897, 4095, 4096, 4097, max - 1, max};
    uint32_t n = seq < sizeof edges / sizeof *edges ? edges[seq]
                                                    : (uint32_t)(seq * 7919 % (max + 1));
    return n > max ? max : n;
}

static inline void stream_send(struct stream *s) {
    struct rdi_link *l = s->p->link;
    if (l->state == RDI_LINK_LOST) {
        assert_true(strlen(l->why) > 20);
        if (l->ops->reset(l, l->epoch + 1) != RONDO_OK) {
            fail_msg("reset: %s", rondo_last_error());
        }
        s->resets++;
        return;
    }
    while (l->state == RDI_LINK_UP && l->posted < s->count && l->posted < l->credit &&
           l->posted - l->sent < l->slots) {
        uint64_t seq = l->posted;
        uint8_t sig[RDI_SIG_BYTES];
        uint8_t *at = s->data + (seq % l->slots) * l->max_msg;
        struct rdi_put put = {.data = at, .len = stream_size(seq, l->max_msg), .tag = seq};
        put.flags = seq % 5 == 0 ? RDI_PUT_ACK : 0;
        pair_fill(at, seq, put.len);
        if (seq % 3 == 0) {
            pair_fill(sig, ~seq, sizeof sig);
            put.sig = sig;
        }
        if (l->ops->put(l, &put) != RONDO_OK) {
            return;
        }
    }
}

// Exactly once, in order, with the right contents.
static inline void stream_receive(struct stream *s) {
    struct rdi_link *in = s->p->side[1].accepted;
    if (in == NULL) {
        return;
    }
    assert_true(in->released <= in->arrived && in->arrived <= in->released + in->slots);
    while (s->checked < in->arrived) {
        struct rdi_msg m;
        in->ops->peek(in, s->checked, &m);
        assert_true(m.tag == s->checked);
        assert_int_equal(m.len, stream_size(s->checked, in->max_msg));
        assert_true(pair_matches(m.data, s->checked, m.len));
        assert_true((m.sig != NULL) == (s->checked % 3 == 0));
        assert_true(m.sig == NULL || pair_matches(m.sig, ~s->checked, RDI_SIG_BYTES));
        s->checked++;
        // Some are held for a while, but never so many that nothing could come any more.
        if (stream_random(s, 3) != 0 || s->checked - in->released > in->slots / 2) {
            in->ops->release(in, s->checked);
        }
    }
}

static inline bool stream_step(struct stream *s) {
    struct rdi_link *end = stream_random(s, 2) ? s->p->link : s->p->side[1].accepted;
    if (s->cuts > 0 && end != NULL && stream_random(s, 12) == 0 && end->state == RDI_LINK_UP) {
        s->cuts -= rdi_verbs_test_cut(end, stream_random(s, ((struct rdi_verbs_link *)end)->nqps));
    }
    if (s->p->link->state == RDI_LINK_FAILED) {
        fail_msg("%s", s->p->link->why);
    }
    stream_send(s);
    stream_receive(s);
    return s->checked == s->count && s->p->link->sent == s->count;
}

static inline void stream_begin(struct stream *s, struct pair *p, uint64_t count, bool registered) {
    *s = (struct stream){
        .p = p, .count = count, .random = (uint32_t)count, .registered = registered};
    s->bytes = (size_t)p->link->slots * p->link->max_msg;
    if (registered) {
        void *at = NULL;
        assert_int_equal(rondo_mem_alloc(s->bytes, &at), RONDO_OK);
        s->data = at;
    } else {
        s->data = malloc(s->bytes);
        assert_non_null(s->data);
    }
}

static inline void stream_end(struct stream *s) {
    if (s->registered) {
        assert_int_equal(rondo_mem_free(s->data), RONDO_OK);
    } else {
        free(s->data);
    }
}

#endif
