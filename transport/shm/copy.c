// SPDX-License-Identifier: MIT
// Copying payload into slots, with plain or streaming stores, whichever measures faster.
#include "transport/shm/copy.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#define CAN_STREAM 1
#else
#define CAN_STREAM 0
#endif

#define TIMED_MIN 4096u  // shorter copies say more about the clock than about the memory
#define TIMED_EVERY 8u   // of those that are done as chosen
#define OTHER_EVERY 512u // the other way is tried, which may cost as much as twenty copies
#define FIRST_TRIALS 4u  // after the warm-up, each way twice

static const double worth = 2.0; // streaming has to be this much faster: the reader pays for it
static const double forget =
    1.5; // a cost rises at most by this: the copy may have been interrupted

enum shm_copy shm_copy_choose(struct shm_copier *c, size_t n, uint32_t warm_up, bool *timed) {
    *timed = false;
    if (!CAN_STREAM || n < TIMED_MIN) {
        return c->how;
    }
    uint32_t k = c->n++;
    enum shm_copy other = c->how == SHM_COPY_PLAIN ? SHM_COPY_STREAM : SHM_COPY_PLAIN;
    if (k < warm_up) {
        return c->how;
    }
    if (k - warm_up < FIRST_TRIALS) {
        *timed = true;
        return (k - warm_up) % 2 == 0 ? SHM_COPY_PLAIN : SHM_COPY_STREAM;
    }
    *timed = k % TIMED_EVERY == 0;
    return k % OTHER_EVERY == 0 ? other : c->how;
}

void shm_copy_learn(struct shm_copier *c, enum shm_copy how, size_t n, uint64_t ns) {
    double seen = (double)(ns > 0 ? ns : 1) / (double)n, known = c->cost[how];
    c->cost[how] = known > 0 && seen > forget * known ? forget * known : seen;
    if (c->cost[SHM_COPY_PLAIN] > 0 && c->cost[SHM_COPY_STREAM] > 0) {
        bool slow = c->cost[SHM_COPY_PLAIN] > worth * c->cost[SHM_COPY_STREAM];
        c->how = slow ? SHM_COPY_STREAM : SHM_COPY_PLAIN;
    }
}

#if CAN_STREAM
static void stream(void *restrict to, const void *restrict from, size_t n) {
    __m128i *out = to;
    const __m128i *in = from;
    size_t lines = n / 64;
    for (size_t i = 0; i < lines; i++, in += 4, out += 4) {
        __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
        __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
        _mm_stream_si128(out, a);
        _mm_stream_si128(out + 1, b);
        _mm_stream_si128(out + 2, c);
        _mm_stream_si128(out + 3, d);
    }
    memcpy(out, in, n - 64 * lines);
    _mm_sfence(); // streaming stores are not ordered with others
}
#endif

void shm_copy(enum shm_copy how, void *restrict to, const void *restrict from, size_t n) {
#if CAN_STREAM
    if (how == SHM_COPY_STREAM) {
        stream(to, from, n);
        return;
    }
#endif
    (void)how;
    memcpy(to, from, n);
}
