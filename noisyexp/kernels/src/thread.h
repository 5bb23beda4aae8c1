/* What a thread of the GPU's kernels is: its place in a layer, and the draws that belong there.

   NVRTC has no headers of the C library. Compiled as C the same source is a library whose threads run
   one after another, so that a machine without a GPU can test it. */
#ifndef THREAD_H
#define THREAD_H

#ifdef __CUDACC_RTC__
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned long long uint64_t;
#define KERNEL extern "C" __global__ void
#if __CUDA_ARCH__ >= 700
#define GIVEN const __grid_constant__ /* read where it lies, never copied to a stack */
#else
#define GIVEN const
#endif
#define INLINE static __device__ __forceinline__
#define THREAD ((int64_t)blockIdx.x * blockDim.x + threadIdx.x)
#else
#include <math.h>
#include <stdint.h>
int64_t THREAD;
static void sincospif(float x, float *sine, float *cosine) {
    *sine = (float)sin(x * 3.14159265358979323846);
    *cosine = (float)cos(x * 3.14159265358979323846);
}
#define KERNEL void
#define GIVEN const
#define INLINE static inline
#endif

#include "structs.h"

/* One number of a Philox4x32-10 block through Box-Muller, see noise.h. */
INLINE float normal(noise_key key, uint32_t unit, uint32_t row, uint32_t t) {
    uint32_t c0 = unit, c1 = row / ROWS, c2 = t, c3 = key.call, k0 = key.key0, k1 = key.key1;
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const int second = row % ROWS >= 2; /* pair of words: the first two rows, or the last two */
    float sine, cosine;
    float u = (float)(((second ? c2 : c0) >> 8) + 1u) * 5.9604644775390625e-8f; /* 2^-24 */
    sincospif((float)((second ? c3 : c1) >> 8) * 1.1920928955078125e-7f, &sine, &cosine);
    float square = -2.0f * logf(u);
    return sqrtf(square > 0.0f ? square : 0.0f) * (row % 2 ? sine : cosine);
}

/* Where a thread is: one unit in one row of step t. */
typedef struct {
    int64_t t, row, unit, batch, hidden;
} place;

/* The thread's place in a layer; threads past the last have a row that is not in the batch. */
INLINE place place_in(const layer *a, int64_t t) {
    place at = {t, THREAD / a->hidden, THREAD % a->hidden, a->batch, a->hidden};
    return at;
}

/* The thread's element of gate k of several, of a sequence of states, and of one state. */
#define GATE(pointer, gates, k) \
    ((REAL *)(pointer))[((at.t * at.batch + at.row) * (gates) + (k)) * at.hidden + at.unit]
#define SLICE(pointer, t) ((REAL *)(pointer))[((t) * at.batch + at.row) * at.hidden + at.unit]
#define STATE(pointer) SLICE(pointer, 0)
#define BEFORE(states, start) (before < 0 ? STATE(start) : SLICE(states, before))
#define MASKED(a) ((a)->mask && !(a)->mask[at.t * at.batch + at.row])

#endif
