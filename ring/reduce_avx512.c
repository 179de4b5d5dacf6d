// SPDX-License-Identifier: MIT
// The reduce kernels for x86-64 with AVX-512 (F, BW, DQ, VL: Skylake-SP, Zen 4 and later). AVX512_BF16 is of
// no use here: its conversion flushes denormals.
#if defined(__x86_64__)
#include <immintrin.h>

#define KERNELS rdi_kernels_avx512
#define KERNELS_NAME "avx512"
#define KERNEL_ATTR __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define LANES 32
#define HELPER static inline __attribute__((always_inline)) KERNEL_ATTR

typedef struct vf {
    __m512 x, y;
} vf;

HELPER vf load_f16(const void *p) {
    const __m256i *q = p;
    return (vf){_mm512_cvtph_ps(_mm256_loadu_si256(q)), _mm512_cvtph_ps(_mm256_loadu_si256(q + 1))};
}

HELPER __m256i round_f16(__m512 v) {
    const __m512 nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000));
    const __m512 quiet = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), nan);
    return _mm512_maskz_cvtps_ph(0xffff, quiet, _MM_FROUND_TO_NEAREST_INT);
}

HELPER void store_f16(void *p, vf v) {
    __m256i *q = p;
    _mm256_storeu_si256(q, round_f16(v.x));
    _mm256_storeu_si256(q + 1, round_f16(v.y));
}

// x takes the halves at even places, y those at odd places: no shuffles.
HELPER vf load_bf16(const void *p) {
    const __m512i u = _mm512_loadu_si512(p);
    return (vf){_mm512_castsi512_ps(_mm512_slli_epi32(u, 16)),
                _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32(-0x10000)))};
}

// Adds half of the last place kept, less one, plus that place's own bit: ties go to even. The lower half of a
// NaN is 0 here, so it stays a NaN.
HELPER __m512i round_bf16(__m512 v) {
    const __m512i u = _mm512_castps_si512(v);
    const __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
    const __m512i r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_add_epi32(r, odd, r, _mm512_set1_epi32(1));
}

HELPER void store_bf16(void *p, vf v) {
    const __m512i x = _mm512_srli_epi32(round_bf16(v.x), 16);
    const __m512i r = _mm512_mask_mov_epi16(x, 0xaaaaaaaa, round_bf16(v.y));
    const __m512i magnitude = _mm512_and_si512(r, _mm512_set1_epi16(0x7fff));
    const __mmask32 is_nan = _mm512_cmpgt_epi16_mask(magnitude, _mm512_set1_epi16(0x7f80));
    _mm512_storeu_si512(p, _mm512_mask_mov_epi16(r, is_nan, _mm512_set1_epi16(0x7fc0)));
}

#include "ring/reduce_template.h"
#endif
