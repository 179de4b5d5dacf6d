// SPDX-License-Identifier: MIT
// gpu_kernels: the bits.
#include "tests/gpu/kernels.h"

#include "tests/unit/reduce_reference.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

static void random_bits(void *p, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t r = next_random(&seed);
        memcpy((char *)p + i, &r, bytes - i < 8 ? bytes - i : 8);
    }
}

// Floats at which sums round, and zeros, infinities, NaNs and the least number between them.
static void fill(void *p, size_t count, rondo_type type, uint64_t seed) {
    random_bits(p, count * rdi_type_size(type), seed);
    for (size_t i = 0; is_float(type) && i < count; i++) {
        const uint64_t r = next_random(&seed);
        const uint64_t special[] = {0, 1, inf_bits(type), inf_bits(type) + 1, nan_bits(type)};
        if (r % 3 == 0) {
            const double v = ldexp((double)(r >> 40), -(int)(r >> 8 & 31));
            put(p, i, type, encode(type, r & 4 ? v : -v));
        } else if (r % 16 == 1) {
            put(p, i, type, special[(r >> 8) % 5] | (r & 16 ? sign_bit(type) : 0));
        }
    }
}

static void same(const void *got, const void *want, size_t count, rondo_type type, rondo_op op,
                 const char *what) {
    for (size_t i = 0; i < count; i++) {
        if (get(got, i, type) != get(want, i, type)) {
            give_up("%s %s, %s: element %zu of %zu is %#llx, expected %#llx", op_text(op),
                    type_text(type), what, i, count, (unsigned long long)get(got, i, type),
                    (unsigned long long)get(want, i, type));
        }
    }
}

// ---- Steps ---------------------------------------------------------------------------------------

// in, local, dst and out, with room for offsets, in pinned memory and on the device.
struct places {
    struct pinned pinned[4];
    rdi_cu_ptr device[4];
    unsigned char *want, *got;
    size_t bytes;
};

static struct places places_new(struct gpu *g, size_t bytes) {
    struct places p = {.bytes = bytes, .want = malloc(bytes), .got = malloc(bytes)};
    for (int k = 0; k < 4; k++) {
        p.pinned[k] = pinned_new(g, bytes + 64);
        CU(g->cu->mem_alloc(&p.device[k], bytes + 64));
    }
    if (p.want == NULL || p.got == NULL) {
        give_up("out of memory for %zu bytes", bytes);
    }
    return p;
}

static void places_free(struct gpu *g, struct places *p) {
    for (int k = 0; k < 4; k++) {
        pinned_free(g, p->pinned[k]);
        CU(g->cu->mem_free(p->device[k]));
    }
    free(p->want);
    free(p->got);
}

struct trial {
    rondo_type type;
    rondo_op op;
    size_t count;
    bool pinned; // in and out; local and dst are on the device always
    bool in, local, dst, out, in_place;
    uint32_t divisor;
    unsigned offset, blocks, threads;
};

static void read_back(struct gpu *g, struct places *p, const struct trial *t, int k, size_t bytes) {
    if (t->pinned && k == 3) {
        memcpy(p->got, p->pinned[k].host + t->offset, bytes);
    } else {
        CU(g->cu->copy_to_host(p->got, p->device[k] + t->offset, bytes));
    }
}

static void try_step(struct gpu *g, struct places *p, const struct trial *t) {
    const size_t bytes = t->count * rdi_type_size(t->type);
    const unsigned char *in = p->pinned[0].host + t->offset, *local = p->pinned[1].host;
    char what[160];
    snprintf(
        what, sizeof what,
        "in %d local %d dst %d out %d, in place %d, pinned %d, divided by %u, offset %u, %u x %u",
        t->in, t->local, t->dst, t->out, t->in_place, t->pinned, t->divisor, t->offset, t->blocks,
        t->threads);
    fill(p->pinned[0].host + t->offset, t->count, t->type, t->count + t->offset);
    fill(p->pinned[1].host, t->count, t->type, 7 * t->count + (uint64_t)t->op);
    CU(g->cu->copy_to_device(p->device[0] + t->offset, in, bytes));
    CU(g->cu->copy_to_device(p->device[1] + t->offset, local, bytes));
    const rdi_cu_ptr dst = p->device[t->in_place ? 1 : 2];
    const struct rdi_gpu_step s = {
        .in = !t->in ? 0 : (t->pinned ? p->pinned[0].device : p->device[0]) + t->offset,
        .local = t->local ? p->device[1] + t->offset : 0,
        .dst = t->dst ? dst + t->offset : 0,
        .out = !t->out ? 0 : (t->pinned ? p->pinned[3].device : p->device[3]) + t->offset,
        .bytes = bytes,
        .flags = t->divisor ? RDI_STEP_DIVIDE : 0,
        .ranks = t->divisor,
    };
    CU(g->cu->stream_sync(NULL));
    launch_step(g, kernel(g, false, t->op, t->type), &s, t->blocks, t->threads);
    CU(g->cu->stream_sync(g->stream));
    if (t->in && t->local) {
        rdi_reduce2(p->want, in, local, t->count, t->type, t->op);
    } else {
        memcpy(p->want, t->in ? in : local, bytes);
    }
    rdi_divide(p->want, t->count, t->type, t->divisor);
    if (t->dst) {
        read_back(g, p, t, t->in_place ? 1 : 2, bytes);
        same(p->got, p->want, t->count, t->type, t->op, what);
    }
    if (t->out) {
        read_back(g, p, t, 3, bytes);
        same(p->got, p->want, t->count, t->type, t->op, what);
    }
}

unsigned check_steps(struct gpu *g, size_t count) {
    static const uint32_t divisors[] = {0, 0, 2, 3, 7, 4097};
    static const unsigned offsets[] = {0, 0, 16, 8, 1}; // 8: all elements are aligned
    struct places p = places_new(g, count * 8);
    unsigned n = 0;
    for (int v = 0; v < RONDO_TYPE_COUNT * (RONDO_MAX + 1); v++) {
        for (unsigned k = 0; k < 60; k++, n++) {
            const struct trial t = {
                .type = (rondo_type)(v % RONDO_TYPE_COUNT),
                .op = (rondo_op)(v / RONDO_TYPE_COUNT),
                .count = k % 4 == 3 ? 1 + k * 5 : count - k % 7,
                .pinned = k & 1,
                .in = k % 10 != 8,
                .local = k % 10 != 9,
                .dst = k % 3 != 0,
                .out = k % 3 != 1,
                .in_place = k % 5 == 2 && k % 3 != 0,
                .divisor = divisors[k % 6],
                .offset = offsets[k / 2 % 5],
                .blocks = 1 + k * 7 % 40,
                .threads = k % 2 ? RDI_STEP_BLOCK : 32 + k * 8 % 480,
            };
            try_step(g, &p, &t);
        }
    }
    places_free(g, &p);
    return n;
}

// Every pair of bytes, for the types of 8 bits.
unsigned check_eights(struct gpu *g) {
    struct places p = places_new(g, 65536);
    unsigned n = 0;
    for (int v = 0; v < RONDO_TYPE_COUNT * (RONDO_MAX + 1); v++) {
        const rondo_type type = (rondo_type)(v % RONDO_TYPE_COUNT);
        const rondo_op op = (rondo_op)(v / RONDO_TYPE_COUNT);
        if (rdi_type_size(type) != 1) {
            continue;
        }
        for (size_t i = 0; i < 65536; i++) {
            p.pinned[0].host[i] = (unsigned char)(i >> 8);
            p.pinned[1].host[i] = (unsigned char)i;
        }
        const struct rdi_gpu_step s = {.in = p.pinned[0].device,
                                       .local = p.pinned[1].device,
                                       .dst = p.device[2],
                                       .bytes = 65536};
        launch_step(g, kernel(g, false, op, type), &s, 3, RDI_STEP_BLOCK);
        CU(g->cu->stream_sync(g->stream));
        CU(g->cu->copy_to_host(p.got, p.device[2], 65536));
        rdi_reduce2(p.want, p.pinned[0].host, p.pinned[1].host, 65536, type, op);
        same(p.got, p.want, 65536, type, op, "every pair");
        n += 65536;
    }
    places_free(g, &p);
    return n;
}

// ---- Walks ---------------------------------------------------------------------------------------

struct feeder {
    uint32_t *in, *out;   // flags
    const uint32_t *done; // of the walker
    uint32_t steps, fed;
    bool late; // stopped by its own deadline
};

static void pause_us(long us) {
    const struct timespec t = {0, us * 1000};
    nanosleep(&t, NULL);
}

// Lets pieces arrive by one or two, and gives room for them a little later; then poison if not all were fed.
static void *feed(void *arg) {
    struct feeder *f = arg;
    uint64_t seed = f->steps;
    for (uint32_t in = 0, out = 0; out < f->fed;) {
        in = in + 2 < f->fed ? in + 1 + (uint32_t)(next_random(&seed) & 1) : f->fed;
        __atomic_store_n(f->in, in, __ATOMIC_RELEASE);
        pause_us((long)(next_random(&seed) & 63));
        out = in;
        __atomic_store_n(f->out, out, __ATOMIC_RELEASE);
    }
    for (int ms = 0; f->fed < f->steps && __atomic_load_n(f->done, __ATOMIC_ACQUIRE) < f->fed;
         ms++) {
        f->late = ms > 20000;
        if (f->late) {
            break;
        }
        pause_us(1000);
    }
    if (f->fed < f->steps) {
        __atomic_store_n(f->in, RDI_STEP_POISON, __ATOMIC_RELEASE);
    }
    return NULL;
}

struct walk {
    struct pinned steps, words, out; // words: in flag, out flag, done
    rdi_cu_ptr in, local, dst, arrive;
    uint32_t n;
    size_t bytes;
};

// Step k: dst = in[k] op dst, and out[k] is that: a chain through dst, which each step cuts otherwise.
static void make_steps(struct walk *w) {
    struct rdi_gpu_step *s = (void *)w->steps.host;
    for (uint32_t k = 0; k < w->n; k++) {
        s[k] = (struct rdi_gpu_step){
            .in = w->in + k * w->bytes,
            .local = k == 0 ? w->local : w->dst,
            .dst = w->dst,
            .out = k % 2 ? w->out.device + k * w->bytes : 0,
            .bytes = w->bytes,
            .in_flag = w->words.device,
            .in_value = k + 1,
            .out_flag = k % 2 ? w->words.device + 4 : 0,
            .out_value = k + 1,
        };
    }
}

static void walk_once(struct gpu *g, struct walk *w, rondo_type type, rondo_op op, uint32_t fed,
                      unsigned char *expect, const unsigned char *host_in) {
    uint32_t *words = (void *)w->words.host, arrive = 1;
    memset(words, 0, 64);
    struct feeder f = {
        .in = &words[0], .out = &words[1], .done = &words[2], .steps = w->n, .fed = fed};
    rdi_cu_ptr done = w->words.device + 8;
    void *args[] = {&w->steps.device, &w->n, &done, &w->arrive};
    pthread_t thread;
    make_steps(w);
    CU(g->cu->stream_sync(NULL));
    CU(g->cu->launch(kernel(g, true, op, type), 6, 1, 1, RDI_STEP_BLOCK, 1, 1, 0, g->stream, args,
                     NULL));
    if (pthread_create(&thread, NULL, feed, &f) != 0) {
        give_up("cannot start a thread");
    }
    pthread_join(thread, NULL);
    CU(g->cu->stream_sync(g->stream));
    CU(g->cu->copy_to_host(&arrive, w->arrive, 4));
    if (f.late || __atomic_load_n(&words[2], __ATOMIC_ACQUIRE) != w->n || arrive != 0) {
        give_up("walk %s %s, %u of %u steps fed: done %u, counter %u%s", op_text(op),
                type_text(type), fed, w->n, words[2], arrive, f.late ? ", too late" : "");
    }
    const size_t count = w->bytes / rdi_type_size(type);
    for (uint32_t k = 0; k < fed; k++) {
        rdi_reduce2(expect, host_in + (k + 1) * w->bytes, k == 0 ? host_in : expect, count, type,
                    op);
        if (k % 2) {
            same(w->out.host + k * w->bytes, expect, count, type, op, "a step of a walk");
        }
    }
}

unsigned check_walks(struct gpu *g, uint32_t steps, size_t count) {
    struct walk w = {.n = steps, .bytes = count / 8 * 8};
    const size_t all = (steps + 1) * w.bytes;
    unsigned char *in = malloc(all), *expect = malloc(w.bytes);
    unsigned n = 0;
    if (in == NULL || expect == NULL) {
        give_up("out of memory for %zu bytes", all);
    }
    w.steps = pinned_new(g, steps * sizeof(struct rdi_gpu_step));
    w.words = pinned_new(g, 4096);
    w.out = pinned_new(g, all);
    CU(g->cu->mem_alloc(&w.local, all));
    w.in = w.local + w.bytes;
    CU(g->cu->mem_alloc(&w.dst, w.bytes));
    CU(g->cu->mem_alloc(&w.arrive, 4));
    CU(g->cu->set_async(w.arrive, 0, 4, g->stream));
    CU(g->cu->stream_sync(g->stream));
    for (int v = 0; v < RONDO_TYPE_COUNT * (RONDO_MAX + 1); v++, n++) {
        const rondo_type type = (rondo_type)(v % RONDO_TYPE_COUNT);
        random_bits(in, all, (uint64_t)v);
        CU(g->cu->copy_to_device(w.local, in, all));
        walk_once(g, &w, type, (rondo_op)(v / RONDO_TYPE_COUNT), v % 4 == 3 ? steps / 2 : steps,
                  expect, in);
    }
    CU(g->cu->mem_free(w.local));
    CU(g->cu->mem_free(w.dst));
    CU(g->cu->mem_free(w.arrive));
    pinned_free(g, w.steps);
    pinned_free(g, w.words);
    pinned_free(g, w.out);
    free(in);
    free(expect);
    return n;
}
