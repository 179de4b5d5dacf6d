// SPDX-License-Identifier: MIT
// The reduce kernels for x86-64 with AVX2 and F16C.
#if defined(__x86_64__)
#include <immintrin.h>

#define KERNELS rdi_kernels_avx2
#define KERNELS_NAME "avx2"
#define KERNEL_ATTR __attribute__((target("avx2,f16c")))
#define LANES 16
#define HELPER static inline __attribute__((always_inline)) KERNEL_ATTR

typedef struct vf {
    __m256 x, y;
} vf;

HELPER vf load_f16(const void *p) {
    const __m128i *q = p;
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}

HELPER __m128i round_f16(__m256 v) {
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    const __m256 quiet = _mm256_blendv_ps(v, nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_cvtps_ph(quiet, _MM_FROUND_TO_NEAREST_INT);
}

HELPER void store_f16(void *p, vf v) {
    __m128i *q = p;
    _mm_storeu_si128(q, round_f16(v.x));
    _mm_storeu_si128(q + 1, round_f16(v.y));
}

// x takes the halves at even places, y those at odd places: no shuffles.
HELPER vf load_bf16(const void *p) {
    const __m256i u = _mm256_loadu_si256(p);
    return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(u, 16)),
                _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32(-0x10000)))};
}

// Adds half of the last place kept, less one, plus that place's own bit: ties go to even. The lower half of a
// NaN is 0 here, so it stays a NaN.
HELPER __m256i round_bf16(__m256 v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}

HELPER void store_bf16(void *p, vf v) {
    const __m256i x = _mm256_srli_epi32(round_bf16(v.x), 16);
    const __m256i r = _mm256_blend_epi16(x, round_bf16(v.y), 0xaa);
    const __m256i magnitude = _mm256_and_si256(r, _mm256_set1_epi16(0x7fff));
    const __m256i is_nan = _mm256_cmpgt_epi16(magnitude, _mm256_set1_epi16(0x7f80));
    _mm256_storeu_si256(p, _mm256_blendv_epi8(r, _mm256_set1_epi16(0x7fc0), is_nan));
}

#include "ring/reduce_template.h"
#endif
