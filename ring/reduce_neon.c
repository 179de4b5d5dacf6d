// SPDX-License-Identifier: MIT
// The reduce kernels for AArch64, where NEON and the conversions of f16 are part of the base architecture.
#if defined(__aarch64__)
#include <arm_neon.h>

#define KERNELS rdi_kernels_neon
#define KERNELS_NAME "neon"
#define KERNEL_ATTR
#define LANES 8
#define HELPER static inline __attribute__((always_inline))

typedef struct vf {
    float32x4_t x, y;
} vf;

// Loads and stores are of bytes: no alignment is assumed.
HELPER vf load_f16(const void *p) {
    const float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(p));
    return (vf){vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}

HELPER float32x4_t quiet(float32x4_t v) {
    const float32x4_t nan = vreinterpretq_f32_u32(vdupq_n_u32(0x7fc00000));
    return vbslq_f32(vceqq_f32(v, v), v, nan);
}

HELPER void store_f16(void *p, vf v) {
    const float16x8_t h = vcvt_high_f16_f32(vcvt_f16_f32(quiet(v.x)), quiet(v.y));
    vst1q_u8(p, vreinterpretq_u8_f16(h));
}

HELPER vf load_bf16(const void *p) {
    const uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(p));
    return (vf){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)),
                vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
}

// Adds half of the last place kept, less one, plus that place's own bit: ties go to even.
HELPER uint32x4_t round_bf16(float32x4_t v) {
    const uint32x4_t u = vreinterpretq_u32_f32(quiet(v));
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    return vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
}

HELPER void store_bf16(void *p, vf v) {
    const uint16x8_t h = vshrn_high_n_u32(vshrn_n_u32(round_bf16(v.x), 16), round_bf16(v.y), 16);
    vst1q_u8(p, vreinterpretq_u8_u16(h));
}

#include "ring/reduce_template.h"
#endif
