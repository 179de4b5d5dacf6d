// SPDX-License-Identifier: MIT
// What the kernels' bodies ask of the machine, for CUDA devices and for C: memory by address, flags, atomics. The C
// side is what tests run the bodies with; there an address is the host's.
//
// Data that another device, a NIC or the host writes while a kernel runs is loaded after the flag that announces it
// was loaded with acquire semantics at system scope, and never through the read-only cache.
#ifndef RDI_CUDA_PORT_H
#define RDI_CUDA_PORT_H

#include <stdint.h>

#if defined(__CUDACC__)
#define RDI_DEVICE_FN static __device__ __forceinline__
#define RDI_DEVICE_CALL static __device__ __noinline__ // one copy, whoever calls it
#define RDI_UNROLL _Pragma("unroll")
#define RDI_NO_UNROLL _Pragma("unroll 1")
#define RDI_ALIGN16 __align__(16)
#else
#include <stdbool.h>
#include <string.h>
#define RDI_DEVICE_FN static inline __attribute__((always_inline, unused))
#define RDI_DEVICE_CALL static __attribute__((unused))
#define RDI_UNROLL
#define RDI_NO_UNROLL
#define RDI_ALIGN16 __attribute__((aligned(16), may_alias))
#endif

// What a thread moves at once.
struct RDI_ALIGN16 rdi_v16 {
    uint32_t w[4];
};

#if defined(__CUDACC__)

RDI_DEVICE_FN struct rdi_v16 rdi_load16(uint64_t at) {
    struct rdi_v16 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
                 : "l"(at)
                 : "memory");
    return v;
}

RDI_DEVICE_FN void rdi_store16(uint64_t at, struct rdi_v16 v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(at), "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3])
                 : "memory");
}

#define RDI_ACCESS(bits, T, constraint)                                                          \
    RDI_DEVICE_FN T rdi_load_u##bits(uint64_t at) {                                              \
        T v;                                                                                     \
        asm volatile("ld.global.u" #bits " %0, [%1];" : "=" constraint(v) : "l"(at) : "memory"); \
        return v;                                                                                \
    }                                                                                            \
    RDI_DEVICE_FN void rdi_store_u##bits(uint64_t at, T v) {                                     \
        asm volatile("st.global.u" #bits " [%0], %1;" : : "l"(at), constraint(v) : "memory");    \
    }
RDI_ACCESS(8, uint32_t, "r")
RDI_ACCESS(16, uint16_t, "h")
RDI_ACCESS(32, uint32_t, "r")
RDI_ACCESS(64, uint64_t, "l")

RDI_DEVICE_FN uint32_t rdi_load_flag(uint64_t at) {
    uint32_t v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}

RDI_DEVICE_FN void rdi_store_flag(uint64_t at, uint32_t v) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" : : "l"(at), "r"(v) : "memory");
}

// A counter of the grid's blocks, in device memory.
RDI_DEVICE_FN uint32_t rdi_load_counter(uint64_t at) {
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
    return v;
}

RDI_DEVICE_FN uint32_t rdi_add_counter(uint64_t at, uint32_t n) {
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(at), "r"(n)
                 : "memory");
    return old;
}

RDI_DEVICE_FN void rdi_clear_counter(uint64_t at) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], 0;" : : "l"(at) : "memory");
}

// Everything that this thread wrote or saw written comes before what it writes next, for the whole system.
RDI_DEVICE_FN void rdi_fence(void) { __threadfence_system(); }

// Between two looks at a word. `ns` grows: words in host memory lie behind the bus that the data needs.
RDI_DEVICE_FN void rdi_pause(uint32_t *ns) {
    asm volatile("nanosleep.u32 %0;" : : "r"(*ns));
    *ns = *ns < 512 ? *ns * 2 : *ns;
}

#else

#define RDI_ACCESS(bits)                                                      \
    typedef uint##bits##_t rdi_u##bits##_anywhere __attribute__((may_alias)); \
    RDI_DEVICE_FN uint##bits##_t rdi_load_u##bits(uint64_t at) {              \
        return *(const rdi_u##bits##_anywhere *)(uintptr_t)at;                \
    }                                                                         \
    RDI_DEVICE_FN void rdi_store_u##bits(uint64_t at, uint##bits##_t v) {     \
        *(rdi_u##bits##_anywhere *)(uintptr_t)at = v;                         \
    }
RDI_ACCESS(8)
RDI_ACCESS(16)
RDI_ACCESS(32)
RDI_ACCESS(64)

// As the device does, so that a sanitizer sees an address that is not aligned.
RDI_DEVICE_FN struct rdi_v16 rdi_load16(uint64_t at) {
    return *(const struct rdi_v16 *)(uintptr_t)at;
}

RDI_DEVICE_FN void rdi_store16(uint64_t at, struct rdi_v16 v) {
    *(struct rdi_v16 *)(uintptr_t)at = v;
}

RDI_DEVICE_FN uint32_t rdi_load_flag(uint64_t at) {
    return __atomic_load_n((const uint32_t *)(uintptr_t)at, __ATOMIC_ACQUIRE);
}

RDI_DEVICE_FN void rdi_store_flag(uint64_t at, uint32_t v) {
    __atomic_store_n((uint32_t *)(uintptr_t)at, v, __ATOMIC_RELEASE);
}

RDI_DEVICE_FN uint32_t rdi_load_counter(uint64_t at) { return rdi_load_flag(at); }

RDI_DEVICE_FN uint32_t rdi_add_counter(uint64_t at, uint32_t n) {
    return __atomic_fetch_add((uint32_t *)(uintptr_t)at, n, __ATOMIC_ACQ_REL);
}

RDI_DEVICE_FN void rdi_clear_counter(uint64_t at) { rdi_store_flag(at, 0); }

// The atomics above order everything already.
RDI_DEVICE_FN void rdi_fence(void) {}

// Whoever includes this on a host says how it pauses.
static void rdi_pause(uint32_t *ns);

#endif
#endif
