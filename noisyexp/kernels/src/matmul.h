/* Matrix products of bf16 numbers with float32 sums, by the best instructions that there are.

   Every number of the result is a sum in one order, which depends on the sum's length alone:
   neither on the other rows and columns nor on the number of threads. */
#ifndef MATMUL_H
#define MATMUL_H

#include "tiles.h"

enum { BY_FLOATS, BY_PAIRS, BY_TILES }; /* plain C; vectors of AVX512-BF16; tiles of AMX */

/* c = start + a b, or a b where start is null. */
typedef struct {
    int64_t rows, columns, depth; /* of c; depth is the length of the sum */
    const bf16 *a;                /* as `bf16_pack_rows` leaves it */
    int64_t a_stride;
    const uint32_t *b;            /* as `bf16_pack_columns` leaves it */
    const float *start;
    int64_t start_stride;         /* 0: one row for all rows of c */
    float *c;
    int64_t c_stride;
    int32_t form, threads;
} matmul;

/* A block of c: rows from `row`, the panel of columns from `column`, tiles [k, k_end) of the sum.
   Later parts of a sum go on from c itself. */
typedef struct {
    const matmul *p;
    int64_t row, column, k, k_end;
} block;

INLINE const uint32_t *block_b(const block *at) {
    return at->p->b + at->column / PANEL * tiles_deep(at->p->depth) * 2 * TILE_WORDS;
}
INLINE const float *block_start(const block *at, int64_t *stride) {
    const matmul *p = at->p;
    *stride = at->k ? p->c_stride : p->start_stride;
    if (at->k) return p->c + at->row * p->c_stride + at->column;
    return p->start ? p->start + at->row * p->start_stride + at->column : 0;
}

/* Copies of what does not fill a tile; not inlined, since it is rarely called from many places. */
static __attribute__((noinline)) void copy_part(const float *from, int64_t from_stride,
                                                float *to, int64_t to_stride, int64_t rows,
                                                int64_t columns) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j++) to[r * to_stride + j] = from[r * from_stride + j];
}

#if HAS_TILES
/* Tiles 0 to 3: the block of c, 2 x 2; 4, 5: rows of a; 6, 7: columns of b. */
INLINE void configure_for(int64_t rows) {
    tile_config config;
    const int upper = (int)at_most(rows, SIDE), lower = (int)rows - upper;
    const int sizes[8] = {upper, upper, lower ? lower : 1, lower ? lower : 1,
                          upper, lower ? lower : 1, SIDE, SIDE};
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int t = 0; t < 8; t++) {
        config.bytes[t] = SIDE * 4;
        config.rows[t] = (uint8_t)sizes[t];
    }
    tiles_configure(&config);
}

#define TILE_START(t, at_row, at_column, rows, columns)                              \
    do {                                                                             \
        const float *from = start + (at_row) * start_stride + (at_column);           \
        if (!start) TILE_ZERO(t);                                                    \
        else if ((columns) == SIDE) TILE_LOAD(t, from, start_stride * 4);            \
        else {                                                                       \
            copy_part(from, start_stride, edge, SIDE, rows, columns);                \
            TILE_LOAD(t, edge, SIDE * 4);                                            \
        }                                                                            \
    } while (0)

#define TILE_FINISH(t, at_row, at_column, rows, columns)                             \
    do {                                                                             \
        float *to = c + (at_row) * p->c_stride + (at_column);                        \
        if ((columns) == SIDE) TILE_STORE(t, to, p->c_stride * 4);                   \
        else {                                                                       \
            TILE_STORE(t, edge, SIDE * 4);                                           \
            copy_part(edge, SIDE, to, p->c_stride, rows, columns);                   \
        }                                                                            \
    } while (0)

#ifndef PREFETCH
#define PREFETCH 8 /* tiles along the sum between a read of b and the request for it */
#endif

INLINE void prefetch_tiles(const uint32_t *b) {
#if PREFETCH
    for (int line = 0; line < 2 * SIDE; line++)
        __builtin_prefetch(b + PREFETCH * 2 * TILE_WORDS + line * SIDE, 0, 2);
#else
    (void)b;
#endif
}

/* `lower` and `right`: whether the block has a second tile of rows and of columns. */
INLINE void tile_block(const block *at, int64_t rows, int lower, int right) {
    const matmul *p = at->p;
    const int64_t upper = at_most(rows, SIDE), left = at_most(SIDE, p->columns - at->column);
    const int64_t rest = rows - upper, more = at_most(SIDE, p->columns - at->column - SIDE);
    const int64_t a_bytes = p->a_stride * 2;
    const bf16 *a = p->a + at->row * p->a_stride, *a_lower = a + upper * p->a_stride;
    const uint32_t *b = block_b(at);
    float edge[TILE_WORDS] __attribute__((aligned(64))) = {0};
    float *c = p->c + at->row * p->c_stride + at->column;
    int64_t start_stride;
    const float *start = block_start(at, &start_stride);
    TILE_START(0, 0, 0, upper, left);
    if (right) TILE_START(1, 0, SIDE, upper, more);
    if (lower) TILE_START(2, upper, 0, rest, left);
    if (lower && right) TILE_START(3, upper, SIDE, rest, more);
    for (int64_t k = at->k; k < at->k_end; k++) {
        const uint32_t *tile = b + k * 2 * TILE_WORDS;
        TILE_LOAD(4, a + k * DEPTH, a_bytes);
        TILE_LOAD(6, tile, SIDE * 4);
        TILE_MULTIPLY(0, 4, 6);
        if (right) {
            TILE_LOAD(7, tile + TILE_WORDS, SIDE * 4);
            TILE_MULTIPLY(1, 4, 7);
        }
        if (lower) {
            TILE_LOAD(5, a_lower + k * DEPTH, a_bytes);
            TILE_MULTIPLY(2, 5, 6);
            if (right) TILE_MULTIPLY(3, 5, 7);
        }
        prefetch_tiles(tile);
    }
    TILE_FINISH(0, 0, 0, upper, left);
    if (right) TILE_FINISH(1, 0, SIDE, upper, more);
    if (lower) TILE_FINISH(2, upper, 0, rest, left);
    if (lower && right) TILE_FINISH(3, upper, SIDE, rest, more);
}

static void by_tiles(const block *at, int64_t rows) {
    const int right = at->p->columns - at->column > SIDE;
    if (rows > SIDE && right) tile_block(at, rows, 1, 1);
    else if (rows > SIDE) tile_block(at, rows, 1, 0);
    else if (right) tile_block(at, rows, 0, 1);
    else tile_block(at, rows, 0, 0);
}
#else
INLINE void configure_for(int64_t rows) { (void)rows; }
INLINE void tiles_release(void) {}
static void by_tiles(const block *at, int64_t rows) { (void)at, (void)rows; }
#endif

typedef float floats __attribute__((vector_size(SIDE * 4)));

/* acc + the two products of each pair: odd numbers first, as the instruction has it. */
INLINE floats add_pairs(int form, floats acc, uint32_t a, words b) {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
    if (form == BY_PAIRS)
        return (floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32((int)a),
                                        (__m512bh)b);
#endif
    (void)form;
    const uint32_t odd = a & 0xFFFF0000u, even = a << 16;
    float a_odd, a_even;
    memcpy(&a_odd, &odd, 4);
    memcpy(&a_even, &even, 4);
    acc += a_odd * (floats)(b & 0xFFFF0000u);
    return acc + a_even * (floats)(b << 16);
}

#define VECTOR_ROWS 8

/* `rows` rows, at most VECTOR_ROWS, and a panel of columns. */
INLINE void vector_block(int form, const block *at, int rows) {
    const matmul *p = at->p;
    const int64_t columns = at_most(PANEL, p->columns - at->column);
    const uint32_t *b = block_b(at);
    float *c = p->c + at->row * p->c_stride + at->column;
    int64_t stride;
    const float *start = block_start(at, &stride);
    floats sum[VECTOR_ROWS][2];
    float edge[VECTOR_ROWS][PANEL] = {{0}};
    if (start) copy_part(start, stride, edge[0], PANEL, rows, columns);
    memcpy(sum, edge, sizeof sum);
    for (int64_t k = at->k; k < at->k_end; k++)
        for (int q = 0; q < SIDE; q++) {
            words left, right;
            memcpy(&left, b + k * 2 * TILE_WORDS + q * SIDE, sizeof left);
            memcpy(&right, b + (k * 2 + 1) * TILE_WORDS + q * SIDE, sizeof right);
            for (int r = 0; r < rows; r++) {
                uint32_t pair;
                memcpy(&pair, p->a + (at->row + r) * p->a_stride + k * DEPTH + 2 * q, 4);
                sum[r][0] = add_pairs(form, sum[r][0], pair, left);
                sum[r][1] = add_pairs(form, sum[r][1], pair, right);
            }
        }
    memcpy(edge, sum, sizeof sum);
    copy_part(edge[0], PANEL, c, p->c_stride, rows, columns);
}

#define VECTOR_FORM(name, form)                                        \
    static void name(const block *at, int64_t rows) {                  \
        switch (rows) {                                                \
            case 8: vector_block(form, at, 8); return;                 \
            case 7: vector_block(form, at, 7); return;                 \
            case 6: vector_block(form, at, 6); return;                 \
            case 5: vector_block(form, at, 5); return;                 \
            case 4: vector_block(form, at, 4); return;                 \
            case 3: vector_block(form, at, 3); return;                 \
            case 2: vector_block(form, at, 2); return;                 \
            default: vector_block(form, at, 1);                        \
        }                                                              \
    }
VECTOR_FORM(by_floats, BY_FLOATS)
VECTOR_FORM(by_pairs, BY_PAIRS)

INLINE void run_block(const block *at, int64_t rows) {
    if (at->p->form == BY_TILES) by_tiles(at, rows);
    else if (at->p->form == BY_PAIRS) by_pairs(at, rows);
    else by_floats(at, rows);
}

#define FEW_ROWS 64           /* so many stay near, and b is read once */
#define NEAR_WORDS 250000     /* of b, half of a second-level cache */
#define LONG_SUM (2048 / DEPTH)

/* Rows [from, to), cut into blocks of `size` rows, of columns [first, last). */
static void multiply_rows(const matmul *p, int64_t from, int64_t to, int64_t size, int64_t first,
                          int64_t last) {
    const int64_t deep = tiles_deep(p->depth), few = to - from <= FEW_ROWS;
    const int64_t tiles = few ? deep : at_most(deep, LONG_SUM);
    int64_t wide = NEAR_WORDS / (tiles * TILE_WORDS * 2) * PANEL;
    if (wide < PANEL || few) wide = PANEL;
    if (p->form == BY_TILES) configure_for(size);
    for (int64_t k = 0; k < deep; k += tiles)
        for (int64_t near = first; near < last; near += wide)
            for (int64_t row = from; row < to; row += size)
                for (int64_t column = near; column < at_most(last, near + wide); column += PANEL) {
                    block at = {p, row, column, k, at_most(deep, k + tiles)};
                    run_block(&at, size);
                }
    if (p->form == BY_TILES) tiles_release();
}

/* One thread's share. Blocks of rows are of one size, as near to the largest as they can be; the
   last may be smaller. */
static void multiply_part(const matmul *p, int64_t from, int64_t to, int64_t first, int64_t last) {
    const int64_t largest = p->form == BY_TILES ? 2 * SIDE : VECTOR_ROWS;
    if (from >= to || first >= last) return;
    const int64_t blocks = (to - from + largest - 1) / largest;
    const int64_t size = (to - from + blocks - 1) / blocks;
    const int64_t even = from + (to - from) / size * size;
    multiply_rows(p, from, even, size, first, last);
    if (even < to) multiply_rows(p, even, to, to - even, first, last);
}

/* Many rows are shared among threads, few rows by their columns. */
void bf16_multiply(const matmul *p) {
    const int by_rows = p->rows >= p->threads * FEW_ROWS;
    const int64_t unit = by_rows ? 2 * SIDE : PANEL, size = by_rows ? p->rows : p->columns;
    const int64_t units = (size + unit - 1) / unit;
    _Pragma("omp parallel for schedule(static) num_threads(p->threads) if (p->threads > 1)")
    for (int part = 0; part < p->threads; part++) {
        const int64_t from = at_most(size, units * part / p->threads * unit);
        const int64_t to = at_most(size, units * (part + 1) / p->threads * unit);
        if (by_rows) multiply_part(p, from, to, 0, p->columns);
        else multiply_part(p, 0, p->rows, from, to);
    }
}

/* Whether `form` can be used here. */
int32_t bf16_usable(int32_t form) {
    if (form == BY_TILES) return tiles_usable();
#if defined(__AVX512BF16__) && defined(__AVX512F__)
    if (form == BY_PAIRS) return __builtin_cpu_supports("avx512bf16") != 0;
#endif
    return form == BY_FLOATS;
}

#endif
