/* Standard normal draws as a pure function of a key and a counter.

   Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), then
   Box-Muller. Nothing is stored: backward asks for the same counters and gets the same draws, and
   no draw depends on the number of threads or on the draws before it.

   noisyexp/kernels/philox.py is the same function in PyTorch. */
#ifndef NOISE_H
#define NOISE_H

#include <stdint.h>
#include <string.h>

#include "structs.h"

#define LANES 16            /* units of a tile: one AVX-512 register of floats */
#define TILE (LANES * ROWS) /* a tile has ROWS rows */
#define INLINE static inline __attribute__((always_inline))

/* a b + c. Of a sum of two products a compiler may fuse either, and a change elsewhere turns its choice
   and the last bits of results: such a choice is made here. */
#ifdef __FP_FAST_FMAF
INLINE float fuse_f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE double fuse_d(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
INLINE float fuse_f(float a, float b, float c) { return a * b + c; }
INLINE double fuse_d(double a, double b, double c) { return a * b + c; }
#endif

/* Numbers of 32 bits in lanes of 64: a round of Philox then needs no shuffle. The upper halves hold
   rubbish that no product reads. Compilers do not find the instruction for 32 x 32 -> 64 bits. */
typedef uint64_t wide __attribute__((vector_size(LANES / 2 * 8)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
#ifdef __AVX512F__
#include <immintrin.h>
INLINE wide product(wide a, uint32_t b) {
    return (wide)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64((int64_t)b));
}
#else
INLINE wide product(wide a, uint32_t b) { return (a & 0xFFFFFFFFu) * (uint64_t)b; }
#endif
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

/* The lower halves of both as words: those of `even` in lanes 0, 2, ... */
INLINE words together(wide even, wide odd) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return (words)(even << 32 | (odd & 0xFFFFFFFFu));
#else
    return (words)((even & 0xFFFFFFFFu) | odd << 32);
#endif
}

/* Four random words for each unit of `count` registers, in the lower halves of word[w][register];
   counter (unit, row block, t, call). */
INLINE void philox_words(noise_key key, const wide *units, int count, uint32_t row_block, uint32_t t,
                         wide word[ROWS][2]) {
    wide *const c0 = word[0], *const c1 = word[1], *const c2 = word[2], *const c3 = word[3];
    uint32_t k0 = key.key0 + PHILOX_W0, k1 = key.key1 + PHILOX_W1;
    /* The first two rounds: the counter differs from lane to lane in the unit alone, so that of four
       products two are the same for all. */
    const uint64_t b = (uint64_t)t * PHILOX_M1;
    const uint64_t next_a = (uint64_t)((uint32_t)(b >> 32) ^ row_block ^ key.key0) * PHILOX_M0;
    for (int i = 0; i < count; i++) {
        const wide a = product(units[i], PHILOX_M0);
        const wide next_b = product((a >> 32) ^ key.call ^ key.key1, PHILOX_M1);
        c0[i] = (next_b >> 32) ^ b ^ k0;
        c1[i] = next_b;
        c2[i] = a ^ (next_a >> 32) ^ k1;
        c3[i] = (wide){0} + next_a;
    }
    for (int round = 2; round < 10; round++) {
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
        for (int i = 0; i < count; i++) {
            const wide a = product(c0[i], PHILOX_M0), b = product(c2[i], PHILOX_M1);
            c0[i] = (b >> 32) ^ c1[i] ^ k0;
            c2[i] = (a >> 32) ^ c3[i] ^ k1;
            c1[i] = b;
            c3[i] = a;
        }
    }
}

/* The same for LANES units from `unit` on, in order. */
INLINE void philox(noise_key key, uint32_t unit, uint32_t row_block, uint32_t t,
                   words word[ROWS]) {
    const wide even = (wide){0, 2, 4, 6, 8, 10, 12, 14} + unit, units[2] = {even, even + 1};
    wide apart[ROWS][2];
    philox_words(key, units, 2, row_block, t, apart);
    for (int w = 0; w < ROWS; w++) word[w] = together(apart[w][0], apart[w][1]);
}

/* sqrt(-2 ln u) with u = (top 24 bits of word + 1) / 2^24 in (0, 1]; at most 5.77. */
INLINE float radius(uint32_t word) {
    float n = (float)(int32_t)((word >> 8) + 1u);
    int32_t bits;
    memcpy(&bits, &n, 4);
    /* n = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh((m - 1) / (m + 1)) as a series.
       Factors of two are exact wherever they are: here in the series and in e, shifted by 23. */
    const int32_t exponent = (bits - 0x3F3504F3) & (int32_t)0xFF800000u;
    bits -= exponent;
    float m;
    memcpy(&m, &bits, 4);
    const float e = (float)(exponent - (24 << 23));
    const float s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
    const float series = -4.0f + s2 * (-4 * (1.0f / 3) + s2 * (-4 * (1.0f / 5)
                         + s2 * (-4 * (1.0f / 7) + s2 * (-4 * (1.0f / 9)))));
    const float square = fuse_f(e, -2 * 0.693147180559945f * 0x1p-23f, s * series);
    return __builtin_sqrtf(square > 0.0f ? square : 0.0f);
}

/* `x` with its sign turned where the highest bit of `where` is set. */
INLINE float turn(float x, uint32_t where) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits ^= where & 0x80000000u;
    memcpy(&x, &bits, 4);
    return x;
}

/* cos and sin of 2 pi (top 24 bits of word) / 2^24: quarter turns, then Taylor on [-pi/4, pi/4]. */
INLINE void direction(uint32_t word, float *cosine, float *sine) {
    const uint32_t quarter = word + (1u << 29); /* in its two highest bits */
    /* What is left of the angle, in 2^34 a turn: the quarters fall out on the left. */
    const int32_t rest = (int32_t)((word & 0xFFFFFF00u) << 2);
    const float z = (float)rest * (6.283185307179586f * 0x1p-34f), z2 = z * z;
    const float s = z * (1.0f + z2 * (-1.0f / 6 + z2 * (1.0f / 120 + z2 * (-1.0f / 5040
                    + z2 * (1.0f / 362880)))));
    const float c = 1.0f + z2 * (-0.5f + z2 * (1.0f / 24 + z2 * (-1.0f / 720 + z2 * (1.0f / 40320
                    + z2 * (-1.0f / 3628800)))));
    const int odd = (quarter & (1u << 30)) != 0;
    *cosine = turn(odd ? s : c, quarter + (1u << 30));
    *sine = turn(odd ? c : s, quarter);
}

/* Two draws from two words. */
INLINE void box_muller(uint32_t first, uint32_t second, float *x, float *y) {
    float r = radius(first), c, s;
    direction(second, &c, &s);
    *x = r * c;
    *y = r * s;
}

/* Draws of the rows 4 row_block + 0 ... 3 for eight units of any numbers, which are in the lower halves:
   those of unit j in rows 0 and 2 in lanes 2j and 2j + 1 of xi, those in rows 1 and 3 LANES later. */
INLINE void normal_few(noise_key key, wide units, uint32_t row_block, uint32_t t,
                       float xi[2 * LANES]) {
    wide word[ROWS][2];
    philox_words(key, &units, 1, row_block, t, word);
    const words first = together(word[0][0], word[2][0]), second = together(word[1][0], word[3][0]);
    for (int l = 0; l < LANES; l++) box_muller(first[l], second[l], &xi[l], &xi[LANES + l]);
}

/* Draws of a tile: row-major (ROWS, LANES); the rows are 4 row_block + 0 ... 3. Never inlined:
   compilers vectorise it worse inside a larger function. */
static __attribute__((noinline, unused)) void normal_tile(noise_key key, uint32_t unit,
                                                          uint32_t row_block, uint32_t t,
                                                          float xi[TILE]) {
    words word[ROWS];
    philox(key, unit, row_block, t, word);
    for (int pair = 0; pair < 2; pair++)
        for (int l = 0; l < LANES; l++)
            box_muller(word[2 * pair][l], word[2 * pair + 1][l], &xi[2 * pair * LANES + l],
                       &xi[(2 * pair + 1) * LANES + l]);
}

#endif
