/* What persistent.cu needs of the machine: barriers, copies into shared memory, half numbers and tensor
   cores; and the same as plain C, in which the threads of a block take each phase one after another. */
#ifdef __CUDACC_RTC__

#define UNROLL _Pragma("unroll")
#define UNROLL_BY_2 _Pragma("unroll 2")
#define UNROLL_BY_8 _Pragma("unroll 8")
#define LANES 1
#define REGISTER 0
#define EACH_LANE(tid) for (int lane = (tid) % 32, once = 1; once; once = 0)
/* One phase of a block: all threads do it before any does the next. */
#define PHASE(call)                  \
    {                                \
        const int tid = threadIdx.x; \
        call;                        \
        __syncthreads();             \
    }

/* Past L1, which does not see what other blocks write. */
INLINE void copy_16_bytes(void *to, const void *from) {
    const uint32_t place = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
}
INLINE void finish_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
INLINE float read_shared_state(const float *from) { return __ldcg(from); }

/* After a barrier of the block: what its threads wrote can be seen by whoever sees the count. */
INLINE void arrive(uint32_t *count) {
    if (threadIdx.x == 0)
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
}

/* Until `count` has come to `all`. A wait of seconds is a defect: better an error than a hang. */
INLINE void wait_for(const uint32_t *count, uint32_t all) {
    if (threadIdx.x == 0) {
        uint32_t seen;
        int left = 1 << 24;
        do {
            asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(count) : "memory");
            if (--left == 0) __trap();
        } while (seen < all);
        asm volatile("fence.acq_rel.gpu;" ::: "memory");
    }
    __syncthreads();
}

/* The last block to leave resets the counters, for the next launch. */
INLINE void leave(const pass *p) {
    if (threadIdx.x == 0) {
        uint32_t *left = p->arrived + p->groups * COUNTERS_APART;
        if (atomicAdd(left, 1) + 1 < gridDim.x) return;
        for (int group = 0; group <= p->groups; group++) p->arrived[group * COUNTERS_APART] = 0;
    }
}

INLINE uint16_t to_half(float x, int operands) {
    uint16_t y;
    if (operands == OPERANDS_BF16) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    else asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

#define MULTIPLY_ADD(type)                                                                       \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, "           \
        "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                                 \
        : "+f"(sum[0][0]), "+f"(sum[0][1]), "+f"(sum[0][2]), "+f"(sum[0][3])                     \
        : "r"(a[0][0]), "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(b[0][0]), "r"(b[0][1]))
INLINE void multiply_add(float (*sum)[4], uint32_t (*a)[4], uint32_t (*b)[2], const int operands) {
    if (operands == OPERANDS_BF16) MULTIPLY_ADD("bf16");
    else MULTIPLY_ADD("f16");
}

#else

#include <string.h>
#define UNROLL
#define UNROLL_BY_2
#define UNROLL_BY_8
#define LANES 32
#define REGISTER lane
#define EACH_LANE(tid) for (int lane = 0 * (tid); lane < 32; lane++)
static int THREADS; /* of a block */
#define PHASE(call) \
    for (int tid = 0; tid < THREADS; tid++) { call; }

typedef struct {
    float x, y, z, w;
} float4;

INLINE void copy_16_bytes(void *to, const void *from) { memcpy(to, from, 16); }
INLINE void finish_copies(void) {}
INLINE float read_shared_state(const float *from) { return *from; }

INLINE float of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE uint16_t to_half(float x, int operands) {
    uint32_t bits;
    if (operands == OPERANDS_FP16) {
        const _Float16 y = (_Float16)x;
        uint16_t half;
        memcpy(&half, &y, 2);
        return half;
    }
    memcpy(&bits, &x, 4);
    if (x != x) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest, ties to even */
}

/* The lower (0) or upper (1) number of a register. */
INLINE float half_of(uint32_t bits, int which, int operands) {
    const uint16_t half = (uint16_t)(bits >> 16 * which);
    _Float16 y;
    if (operands == OPERANDS_BF16) return of_bits((uint32_t)half << 16);
    memcpy(&y, &half, 2);
    return (float)y;
}

/* D (16, 8) += A (16, 16) B (16, 8) with the fragments of mma.m16n8k16. */
INLINE void multiply_add(float (*sum)[4], uint32_t (*a)[4], uint32_t (*b)[2], const int operands) {
    float wide[16][16], narrow[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 4; i++)
            for (int which = 0; which < 2; which++)
                wide[group + i % 2 * 8][pair + which + i / 2 * 8] =
                    half_of(a[lane][i], which, operands);
        for (int i = 0; i < 2; i++)
            for (int which = 0; which < 2; which++)
                narrow[pair + which + i * 8][group] = half_of(b[lane][i], which, operands);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 16; k++)
                sum[lane][i] += wide[lane / 4 + i / 2 * 8][k] * narrow[k][lane % 4 * 2 + i % 2];
}

#endif
