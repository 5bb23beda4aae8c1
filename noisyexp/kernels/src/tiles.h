/* Tiles of AMX: what the instructions do, by the instructions or, compiled with EMULATE_TILES, by
   plain C that follows Intel's description of them to the order of the sums.

   Eight tiles of 16 rows of 64 bytes. Assembly and not intrinsics: those of GCC do not say that a
   load reads memory, and want flags that name the processor. */
#ifndef TILES_H
#define TILES_H

#include "bf16.h"

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16]; /* of a row of each tile */
    uint8_t rows[16];
} tile_config;

#if defined(EMULATE_TILES)
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static _Thread_local struct {
    tile_config config;
    uint32_t word[8][SIDE][SIDE];
} emulated;

INLINE void emulated_fault(int wrong, const char *why) {
    if (!wrong) return;
    fprintf(stderr, "tiles: %s\n", why);
    abort();
}

INLINE void tiles_configure(const tile_config *config) {
    memset(&emulated, 0, sizeof emulated);
    for (int t = 0; t < 8; t++)
        emulated_fault(config->rows[t] > SIDE || config->bytes[t] > SIDE * 4, "too large");
    emulated.config = *config;
}
INLINE void tiles_release(void) { memset(&emulated, 0, sizeof emulated); }

INLINE void tile_used(int t) {
    emulated_fault(emulated.config.palette != 1, "used before they are configured");
    emulated_fault(!emulated.config.rows[t] || !emulated.config.bytes[t], "a tile of no size");
}

INLINE void tile_zero_emulated(int t) {
    tile_used(t);
    memset(emulated.word[t], 0, sizeof emulated.word[t]);
}
INLINE void tile_load_emulated(int t, const void *from, int64_t stride) {
    tile_zero_emulated(t);
    for (int r = 0; r < emulated.config.rows[t]; r++)
        memcpy(emulated.word[t][r], (const char *)from + r * stride, emulated.config.bytes[t]);
}
INLINE void tile_store_emulated(int t, void *to, int64_t stride) {
    tile_used(t);
    for (int r = 0; r < emulated.config.rows[t]; r++)
        memcpy((char *)to + r * stride, emulated.word[t][r], emulated.config.bytes[t]);
}

/* Denormals count as zero. */
INLINE float tile_flush(float x) {
    return fabsf(x) < 1.17549435e-38f ? copysignf(0, x) : x;
}
INLINE float tile_half(uint32_t word, int high) {
    uint32_t bits = high ? word & 0xFFFF0000u : word << 16;
    float x;
    memcpy(&x, &bits, 4);
    return tile_flush(x);
}

/* TDPBF16PS: even and odd numbers of the sum apart, from zero, then both to the result. */
INLINE void tile_multiply_emulated(int c, int a, int b) {
    tile_used(c), tile_used(a), tile_used(b);
    const tile_config *config = &emulated.config;
    emulated_fault(c == a || c == b || a == b, "one tile twice in a product");
    emulated_fault(config->rows[c] != config->rows[a] || config->bytes[c] != config->bytes[b]
                   || config->bytes[a] / 4 != config->rows[b], "sizes that do not fit");
    for (int m = 0; m < config->rows[c]; m++)
        for (int n = 0; n < config->bytes[c] / 4; n++) {
            float even = 0, odd = 0, sum;
            for (int k = 0; k < config->bytes[a] / 4; k++) {
                const uint32_t left = emulated.word[a][m][k], right = emulated.word[b][k][n];
                even = tile_flush(fmaf(tile_half(left, 0), tile_half(right, 0), even));
                odd = tile_flush(fmaf(tile_half(left, 1), tile_half(right, 1), odd));
            }
            memcpy(&sum, &emulated.word[c][m][n], 4);
            sum = tile_flush(tile_flush(sum) + tile_flush(even + odd));
            memcpy(&emulated.word[c][m][n], &sum, 4);
        }
}

#define TILE_ZERO(t) tile_zero_emulated(t)
#define TILE_LOAD(t, from, stride) tile_load_emulated(t, from, stride)
#define TILE_STORE(t, to, stride) tile_store_emulated(t, to, stride)
#define TILE_MULTIPLY(c, a, b) tile_multiply_emulated(c, a, b)
#define HAS_TILES 1
INLINE int tiles_usable(void) { return 1; }

#elif defined(__x86_64__) && defined(__linux__) && !defined(NO_TILES)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

INLINE void tiles_configure(const tile_config *config) {
    __asm__ volatile("ldtilecfg %0" ::"m"(*config) : "memory");
}
INLINE void tiles_release(void) { __asm__ volatile("tilerelease" ::: "memory"); }

#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::: "memory")
#define TILE_LOAD(t, from, stride)                                                \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t                              \
                     ::"r"((const void *)(from)), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(t, to, stride)                                                 \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)"                          \
                     ::"r"((void *)(to)), "r"((int64_t)(stride)) : "memory")
#define TILE_MULTIPLY(c, a, b) \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")
#define HAS_TILES 1

#define ARCH_REQUEST_PERMISSION 0x1023
#define TILE_DATA 18

/* Whether the processor has bf16 tiles and Linux lets this process use them: asked once for all its
   threads, those that run already among them. */
INLINE int tiles_usable(void) {
    uint32_t a, b, c, d, low, high;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low >> 17 & 3) != 3) return 0; /* the system keeps tiles when it switches tasks */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQUEST_PERMISSION, TILE_DATA) == 0;
}

#else
#define HAS_TILES 0
INLINE int tiles_usable(void) { return 0; }
#endif

#endif
