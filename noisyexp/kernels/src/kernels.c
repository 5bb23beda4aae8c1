/* Kernels of the noisy units and of recurrent steps made of them, for float and double.

   Plain C that a compiler turns into vector code: all work is on tiles of ROWS x LANES numbers.
   noisyexp/kernels/build.py compiles this file, once for float and once for double side by side
   (REALS is 1, 2, or 3 for both); bindings.py declares what is in it. */
#include <math.h>
#include <stdint.h>

#include "noise.h"

/* exp(-|x|) to 1e-7: 2^n times the series of exp on [-ln 2 / 2, ln 2 / 2]. The clamp to 80 is one of
   integers, since compilers do not vectorise it otherwise; it hides NaN and infinity. */
INLINE float exp_clamped_f(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    bits &= 0x7FFFFFFF;
    bits = bits > 0x42A00000 ? 0x42A00000 : bits;
    float size, power;
    memcpy(&size, &bits, 4);
    int32_t n = (int32_t)(size * 1.44269504088896f + 0.5f);
    float r = ((float)n * 0.693359375f - size) - (float)n * 2.12194440e-4f;
    float series = 1.0f + r * (1.0f + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24
                   + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)))))));
    bits = (127 - n) << 23;
    memcpy(&power, &bits, 4);
    return series * power;
}

/* 0 x brings NaN back. */
INLINE float exp_minus_f(float x) { return exp_clamped_f(x) + 0.0f * x; }

INLINE double exp_clamped_d(double x) { return exp(-fabs(x)); }
INLINE double exp_minus_d(double x) { return exp(-fabs(x)); }

/* exp(-|x|), and 1 - exp(-|x|) without the cancellation near 0, both to 1e-7; zero below the smallest
   normal number. NaN is the caller's. */
INLINE float exp_parts_f(float x, float *rest) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    bits &= 0x7FFFFFFF;
    bits = bits > 0x42B00000 ? 0x42B00000 : bits; /* 88, where n is 127 and the power 0 */
    float size, power;
    memcpy(&size, &bits, 4);
    int32_t n = (int32_t)(size * 1.44269504088896f + 0.5f);
    float r = ((float)n * 0.693359375f - size) - (float)n * 2.12194440e-4f;
    float less = r * (1.0f + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24
                 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)))))));
    bits = (127 - n) << 23;
    memcpy(&power, &bits, 4);
    *rest = (1.0f - power) - power * less;
    return power + power * less;
}

INLINE double exp_parts_d(double x, double *rest) {
    *rest = -expm1(-fabs(x));
    return exp(-fabs(x));
}

INLINE float log_one_plus_f(float x) { return log1pf(x); }
INLINE double log_one_plus_d(double x) { return log1p(x); }
INLINE float log_f(float x) { return logf(x); }
INLINE double log_d(double x) { return log(x); }
INLINE float absolute_f(float x) { return fabsf(x); }
INLINE double absolute_d(double x) { return fabs(x); }
INLINE float copy_sign_f(float x, float y) { return copysignf(x, y); }
INLINE double copy_sign_d(double x, double y) { return copysign(x, y); }

/* a b + c. Of a sum of two products a compiler may fuse either, and a change elsewhere turns its choice
   and the last bits of results: such a choice is made here. */
#ifdef __FP_FAST_FMAF
INLINE float fuse_f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE double fuse_d(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
INLINE float fuse_f(float a, float b, float c) { return a * b + c; }
INLINE double fuse_d(double a, double b, double c) { return a * b + c; }
#endif

/* The first `count` of LANES numbers between memory and a row of a tile; loaded ones end in zeros. */
#ifdef __AVX512F__
#define FIRST(count) ((1u << (count)) - 1)
INLINE void load_part_f(const float *from, int count, void *row) {
    _mm512_storeu_ps(row, _mm512_maskz_loadu_ps((__mmask16)FIRST(count), from));
}
INLINE void store_part_f(const void *row, float *to, int count) {
    _mm512_mask_storeu_ps(to, (__mmask16)FIRST(count), _mm512_loadu_ps(row));
}
INLINE void load_part_d(const double *from, int count, void *row) {
    const __mmask8 low = (__mmask8)FIRST(count), high = (__mmask8)(FIRST(count) >> 8);
    _mm512_storeu_pd(row, _mm512_maskz_loadu_pd(low, from));
    _mm512_storeu_pd((double *)row + 8, _mm512_maskz_loadu_pd(high, from + 8));
}
INLINE void store_part_d(const void *row, double *to, int count) {
    const __mmask8 low = (__mmask8)FIRST(count), high = (__mmask8)(FIRST(count) >> 8);
    _mm512_mask_storeu_pd(to, low, _mm512_loadu_pd(row));
    _mm512_mask_storeu_pd(to + 8, high, _mm512_loadu_pd((const double *)row + 8));
}
#else
#define PARTS(REAL, suffix)                                                                  \
    INLINE void load_part_##suffix(const REAL *from, int count, void *row) {                 \
        for (int l = 0; l < LANES; l++) ((REAL *)row)[l] = l < count ? from[l] : (REAL)0;    \
    }                                                                                        \
    INLINE void store_part_##suffix(const void *row, REAL *to, int count) {                  \
        for (int l = 0; l < count; l++) to[l] = ((const REAL *)row)[l];                      \
    }
PARTS(float, f)
PARTS(double, d)
#endif

#ifndef REALS
#define REALS 3
#endif

#if REALS & 1
#define REAL float
#define NAME(x) x##_f
#include "unit.h"
#include "layers.h"
#include "passes.h"
#include "score.h"
#include "cross_entropy.h"
#include "loops.h"
#include "optimizers.h"
#include "memory.h"
#include "memory_backward.h"
/* Draws of one key as an array (blocks, rows, units). */
void normal_fill_f(const noise_key *key, const shape *size, float *out) {
    const int64_t rows = size->rows, units = size->units;
    _Pragma("omp parallel for schedule(static) num_threads(size->threads) if (size->threads > 1)")
    for (int64_t block = 0; block < size->blocks; block++)
        for (int64_t row = 0; row < rows; row += ROWS)
            for (int64_t tile = 0; tile * LANES < units; tile++) {
                float xi[TILE];
                place_f at = tile_at_f(block, row, tile, rows, units);
                normal_tile(*key, (uint32_t)at.unit, (uint32_t)(row / ROWS), (uint32_t)block, xi);
                store_f(&at, xi, out + block * rows * units, units);
            }
}

/* Random words of one block, for the published test vectors. */
void philox_block(const noise_key *key, const uint32_t counter[3], uint32_t out[ROWS]) {
    words word[ROWS];
    philox(*key, counter[0], counter[1], counter[2], word);
    for (int r = 0; r < ROWS; r++) out[r] = word[r][0];
}

/* Sizes that bindings.py compares with its own, so that a wrong declaration cannot go unseen. */
void struct_sizes(int64_t out[5]) {
    out[0] = (int64_t)sizeof(site);
    out[1] = (int64_t)sizeof(layer);
    out[2] = (int64_t)sizeof(shape);
    out[3] = (int64_t)sizeof(score);
    out[4] = (int64_t)sizeof(step_loop);
}

/* The same for kernels/matmul.py. */
void bf16_struct_sizes(int64_t out[3]) {
    out[0] = (int64_t)sizeof(matrix);
    out[1] = (int64_t)sizeof(matmul);
    out[2] = (int64_t)sizeof(recurrence);
}
#undef REAL
#undef NAME
#endif

#if REALS & 2
#define REAL double
#define NAME(x) x##_d
#include "unit.h"
#include "layers.h"
#include "passes.h"
#include "score.h"
#include "cross_entropy.h"
#include "optimizers.h"
#include "memory.h"
#include "memory_backward.h"
#endif
