/* What the kernels of both precisions do with single numbers and with rows of a tile. */
#ifndef NUMBERS_H
#define NUMBERS_H
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

#endif
