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

/* Four random words for each of LANES units from `unit` on; counter (unit, row block, t, call). */
INLINE void philox(noise_key key, uint32_t unit, uint32_t row_block, uint32_t t,
                   words word[ROWS]) {
    wide c0[2], c1[2], c2[2], c3[2];
    for (int half = 0; half < 2; half++) {
        for (int l = 0; l < LANES / 2; l++)
            c0[half][l] = (uint32_t)(unit + (uint32_t)(half * (LANES / 2) + l));
        c1[half] = (wide){0} + row_block;
        c2[half] = (wide){0} + t;
        c3[half] = (wide){0} + key.call;
    }
    uint32_t k0 = key.key0, k1 = key.key1;
    for (int round = 0; round < 10; round++) {
        for (int half = 0; half < 2; half++) {
            wide a = product(c0[half], 0xD2511F53u), b = product(c2[half], 0xCD9E8D57u);
            c0[half] = (b >> 32) ^ c1[half] ^ k0;
            c2[half] = (a >> 32) ^ c3[half] ^ k1;
            c1[half] = b;
            c3[half] = a;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const words lower = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    const words first = lower + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
    word[0] = __builtin_shuffle((words)c0[0], (words)c0[1], first);
    word[1] = __builtin_shuffle((words)c1[0], (words)c1[1], first);
    word[2] = __builtin_shuffle((words)c2[0], (words)c2[1], first);
    word[3] = __builtin_shuffle((words)c3[0], (words)c3[1], first);
}

/* sqrt(-2 ln u) with u = (top 24 bits of word + 1) / 2^24 in (0, 1]; at most 5.77. */
INLINE float radius(uint32_t word) {
    float u = (float)(int32_t)((word >> 8) + 1u) * 0x1p-24f;
    int32_t bits;
    memcpy(&bits, &u, 4);
    /* u = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh((m - 1) / (m + 1)) as a series. */
    int32_t e = (bits - 0x3F3504F3) >> 23;
    bits -= e << 23;
    float m;
    memcpy(&m, &bits, 4);
    float s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
    float series = 1.0f + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9))));
    float log_u = (float)e * 0.693147180559945f + 2.0f * s * series;
    float square = -2.0f * log_u;
    return __builtin_sqrtf(square > 0.0f ? square : 0.0f);
}

/* cos and sin of 2 pi (top 24 bits of word) / 2^24: quarter turns, then Taylor on [-pi/4, pi/4]. */
INLINE void direction(uint32_t word, float *cosine, float *sine) {
    int32_t turn = (int32_t)(word >> 8);
    int32_t quarter = (turn + (1 << 21)) >> 22;
    float z = (float)(turn - (quarter << 22)) * (6.283185307179586f * 0x1p-24f), z2 = z * z;
    float s = z * (1.0f + z2 * (-1.0f / 6 + z2 * (1.0f / 120 + z2 * (-1.0f / 5040
              + z2 * (1.0f / 362880)))));
    float c = 1.0f + z2 * (-0.5f + z2 * (1.0f / 24 + z2 * (-1.0f / 720 + z2 * (1.0f / 40320
              + z2 * (-1.0f / 3628800)))));
    float x = quarter & 1 ? s : c, y = quarter & 1 ? c : s;
    *cosine = (quarter + 1) & 2 ? -x : x;
    *sine = quarter & 2 ? -y : y;
}

/* Draws of a tile: row-major (ROWS, LANES); the rows are 4 row_block + 0 ... 3. Never inlined:
   compilers vectorise it worse inside a larger function. */
static __attribute__((noinline, unused)) void normal_tile(noise_key key, uint32_t unit,
                                                          uint32_t row_block, uint32_t t,
                                                          float xi[TILE]) {
    words word[ROWS];
    philox(key, unit, row_block, t, word);
    for (int pair = 0; pair < 2; pair++)
        for (int l = 0; l < LANES; l++) {
            float r = radius(word[2 * pair][l]), c, s;
            direction(word[2 * pair + 1][l], &c, &s);
            xi[2 * pair * LANES + l] = r * c;
            xi[(2 * pair + 1) * LANES + l] = r * s;
        }
}

#endif
