// SPDX-License-Identifier: MIT
// The reduce kernels in plain C, for any processor: the vectors are single floats.
#include "ring/half.h"

#define KERNELS rdi_kernels_c
#define KERNELS_NAME "c"
#define KERNEL_ATTR
#define LANES 2

typedef struct vf {
    float x, y;
} vf;

static inline uint16_t load_u16(const void *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

static inline vf load_f16(const void *p) {
    return (vf){rdi_f16_to_f32(load_u16(p)), rdi_f16_to_f32(load_u16((const char *)p + 2))};
}

static inline vf load_bf16(const void *p) {
    return (vf){rdi_bf16_to_f32(load_u16(p)), rdi_bf16_to_f32(load_u16((const char *)p + 2))};
}

static inline void store_u16(void *p, uint16_t h) { memcpy(p, &h, sizeof h); }

static inline uint16_t round_f16(float f) {
    return __builtin_isnan(f) ? 0x7e00 : rdi_f32_to_f16(f);
}

static inline uint16_t round_bf16(float f) {
    return __builtin_isnan(f) ? 0x7fc0 : rdi_f32_to_bf16(f);
}

static inline void store_f16(void *p, vf v) {
    store_u16(p, round_f16(v.x));
    store_u16((char *)p + 2, round_f16(v.y));
}

static inline void store_bf16(void *p, vf v) {
    store_u16(p, round_bf16(v.x));
    store_u16((char *)p + 2, round_bf16(v.y));
}

#include "ring/reduce_template.h"
