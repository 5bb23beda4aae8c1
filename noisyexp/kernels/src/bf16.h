/* Numbers of 16 bits (bf16) and the two layouts in which a matrix product takes them.

   A number is rounded to the nearest, ties to even, as torch does. A product sums over pairs: two
   neighbours along the sum are one word of 32 bits. The left operand keeps its rows, padded with
   zeros; the right one is packed into tiles of 16 pairs x 16 columns. Portable C; a compiler makes
   vector code of it. */
#ifndef BF16_H
#define BF16_H

#include "noise.h"

#define SIDE 16  /* rows of a tile, its columns and its pairs */
#define DEPTH 32 /* numbers along the sum in a tile */
#define PANEL 32 /* columns that lie together in the right operand: two tiles */
#define TILE_WORDS (SIDE * SIDE)

typedef uint16_t bf16;
typedef uint32_t words __attribute__((vector_size(SIDE * 4)));

/* How a matrix lies in memory: element (i, k), k along the sum; one of the strides is 1. */
typedef struct {
    const void *data;
    int64_t i_size, k_size, i_stride, k_stride;
    int32_t is_float; /* float, else bf16 */
    int32_t threads;
} matrix;

INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE uint32_t round_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? 0x7FC0u : (bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16;
}

INLINE uint32_t element(const void *data, int is_float, int64_t index) {
    return is_float ? round_float(((const float *)data)[index]) : ((const bf16 *)data)[index];
}

/* 16 x 16 words: four perfect shuffles of the rows make the rows columns. */
#if defined(__clang__) || __GNUC__ >= 12
#define FIRST_HALVES(a, b) \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define LAST_HALVES(a, b) \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define FIRST_HALVES(a, b) \
    __builtin_shuffle(a, b, (words){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23})
#define LAST_HALVES(a, b) \
    __builtin_shuffle(a, b, (words){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31})
#endif

INLINE void transpose(words row[SIDE]) {
    words next[SIDE];
    for (int pass = 0; pass < 4; pass++) {
        for (int i = 0; i < SIDE / 2; i++) {
            next[2 * i] = FIRST_HALVES(row[i], row[i + SIDE / 2]);
            next[2 * i + 1] = LAST_HALVES(row[i], row[i + SIDE / 2]);
        }
        memcpy(row, next, sizeof next);
    }
}

/* The tile from (i, k) on, pairs along the sum in a row; the sum runs along memory. */
INLINE void tile_along(const matrix *m, int is_float, int64_t i, int64_t k, words out[SIDE]) {
    const int64_t is = at_most(SIDE, m->i_size - i), ks = at_most(DEPTH, m->k_size - k);
    bf16 rows[SIDE][DEPTH];
    if (is < SIDE || ks < DEPTH) memset(rows, 0, sizeof rows);
    for (int64_t r = 0; r < is; r++) {
        const int64_t start = (i + r) * m->i_stride + k;
        if (ks == DEPTH)
            for (int j = 0; j < DEPTH; j++) rows[r][j] = (bf16)element(m->data, is_float, start + j);
        else
            for (int j = 0; j < ks; j++) rows[r][j] = (bf16)element(m->data, is_float, start + j);
    }
    memcpy(out, rows, sizeof rows);
}

/* The same tile with its pairs in a column: the sum runs across memory. */
INLINE void tile_across(const matrix *m, int is_float, int64_t i, int64_t k, words out[SIDE]) {
    const int64_t is = at_most(SIDE, m->i_size - i), ks = at_most(DEPTH, m->k_size - k);
    uint32_t pairs[SIDE][SIDE];
    if (is == SIDE && ks == DEPTH) {
        for (int q = 0; q < SIDE; q++) {
            const int64_t low = (k + 2 * q) * m->k_stride + i, high = low + m->k_stride;
            for (int j = 0; j < SIDE; j++)
                pairs[q][j] = element(m->data, is_float, low + j)
                              | element(m->data, is_float, high + j) << 16;
        }
    } else {
        memset(pairs, 0, sizeof pairs);
        for (int64_t d = 0; d < ks; d++)
            for (int64_t j = 0; j < is; j++)
                pairs[d / 2][j] |= element(m->data, is_float, (k + d) * m->k_stride + i + j)
                                   << (d % 2 * 16);
    }
    memcpy(out, pairs, sizeof pairs);
}

/* The tile as rows of the left operand have it: pairs in a row. */
INLINE void tile_of_rows(const matrix *m, int is_float, int64_t i, int64_t k, words out[SIDE]) {
    if (m->k_stride == 1) {
        tile_along(m, is_float, i, k, out);
    } else {
        tile_across(m, is_float, i, k, out);
        transpose(out);
    }
}

/* The tile as columns of the right operand have it: pairs in a column. */
INLINE void tile_of_columns(const matrix *m, int is_float, int64_t i, int64_t k, words out[SIDE]) {
    if (m->k_stride == 1) {
        tile_along(m, is_float, i, k, out);
        transpose(out);
    } else {
        tile_across(m, is_float, i, k, out);
    }
}

/* Number of tiles along the sum. */
INLINE int64_t tiles_deep(int64_t k_size) { return (k_size + DEPTH - 1) / DEPTH; }

/* Right operand, i its columns: tile (panel, k, half of the panel) lies in place
   (panel * tiles_deep + k) * 2 + half. Zeros beyond the edges. */
void bf16_pack_columns(const matrix *m, uint32_t *out) {
    const int64_t deep = tiles_deep(m->k_size), panels = (m->i_size + PANEL - 1) / PANEL;
    _Pragma("omp parallel for schedule(static) num_threads(m->threads) if (m->threads > 1)")
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t k = 0; k < deep; k++)
            for (int half = 0; half < 2; half++) {
                const int64_t i = panel * PANEL + half * SIDE;
                words tile[SIDE];
                if (i >= m->i_size) memset(tile, 0, sizeof tile);
                else if (m->is_float) tile_of_columns(m, 1, i, k * DEPTH, tile);
                else tile_of_columns(m, 0, i, k * DEPTH, tile);
                memcpy(out + ((panel * deep + k) * 2 + half) * TILE_WORDS, tile, sizeof tile);
            }
}

/* Left operand, i its rows, `width` numbers apart: a multiple of DEPTH, zeros past k_size. Strips of
   rows, so that few pages are written at a time. */
void bf16_pack_rows(const matrix *m, bf16 *out, int64_t width) {
    const int64_t strips = (m->i_size + 2 * PANEL - 1) / (2 * PANEL);
    _Pragma("omp parallel for schedule(static) num_threads(m->threads) if (m->threads > 1)")
    for (int64_t strip = 0; strip < strips; strip++)
        for (int64_t k = 0; k < width; k += DEPTH)
            for (int64_t i = strip * 2 * PANEL;
                 i < at_most(m->i_size, (strip + 1) * 2 * PANEL); i += SIDE) {
                words tile[SIDE];
                if (k >= m->k_size) memset(tile, 0, sizeof tile);
                else if (m->is_float) tile_of_rows(m, 1, i, k, tile);
                else tile_of_rows(m, 0, i, k, tile);
                for (int64_t r = 0; r < at_most(SIDE, m->i_size - i); r++)
                    memcpy(out + (i + r) * width + k, &tile[r], sizeof tile[r]);
            }
}

#define STRIP 64

/* Rows of `size` floats to bf16 rows `width` apart, zeros past their end, and, with `sums`, what the
   columns add up to, added to it: first over these rows, so that long sums keep their digits. */
INLINE void round_rows(const float *x, int64_t rows, int64_t size, bf16 *out, int64_t width,
                       float *sums) {
    for (int64_t start = 0; start < width; start += STRIP) {
        const int64_t some = at_most(STRIP, size - start);
        float sum[STRIP] = {0};
        for (int64_t r = 0; r < rows; r++) {
            const float *from = x + r * size + start;
            bf16 *to = out + r * width + start;
            if (some == STRIP) {
                for (int j = 0; j < STRIP; j++) {
                    to[j] = (bf16)round_float(from[j]);
                    sum[j] += from[j];
                }
                continue;
            }
            for (int64_t j = 0; j < some; j++) {
                to[j] = (bf16)round_float(from[j]);
                sum[j] += from[j];
            }
            for (int64_t j = some < 0 ? 0 : some; j < at_most(STRIP, width - start); j++) to[j] = 0;
        }
        if (sums)
            for (int64_t j = 0; j < some; j++) sums[start + j] += sum[j];
    }
}

#endif
