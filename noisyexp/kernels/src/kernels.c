/* Kernels of the noisy units and of recurrent steps made of them, for float and double.

   Plain C that a compiler turns into vector code: all work is on tiles of ROWS x LANES numbers.
   noisyexp/kernels/build.py compiles this file in three parts side by side: PART is 1 for float's
   units and steps, 2 for the rest of float, 3 for double. bindings.py declares what is in it. */
#include "numbers.h"

#if PART == 1
#define REAL float
#define NAME(x) x##_f
#ifdef __AVX512F__
#define FEW_UNITS
#endif
#include "tile_rows.h"
#include "unit.h"
#include "layers.h"
#include "passes.h"
#include "single.h"
#include "score.h"
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
void struct_sizes(int64_t out[6]) {
    out[0] = (int64_t)sizeof(activation);
    out[1] = (int64_t)sizeof(layer);
    out[2] = (int64_t)sizeof(shape);
    out[3] = (int64_t)sizeof(score);
    out[4] = (int64_t)sizeof(step_loop);
    out[5] = (int64_t)sizeof(single_step);
}
#undef REAL
#undef NAME
#undef FEW_UNITS
#endif

#if PART == 2
#define REAL float
#define NAME(x) x##_f
#include "tile_rows.h"
#include "cross_entropy.h"
#include "loops.h"
#include "optimizers.h"
#include "memory.h"
#include "memory_backward.h"

/* Sizes that matmul.py compares with its own. */
void bf16_struct_sizes(int64_t out[3]) {
    out[0] = (int64_t)sizeof(matrix);
    out[1] = (int64_t)sizeof(matmul);
    out[2] = (int64_t)sizeof(recurrence);
}
#undef REAL
#undef NAME
#endif

#if PART == 3
#define REAL double
#define NAME(x) x##_d
#include "tile_rows.h"
#include "unit.h"
#include "layers.h"
#include "passes.h"
#include "single.h"
#include "score.h"
#include "cross_entropy.h"
#include "optimizers.h"
#include "memory.h"
#include "memory_backward.h"
#endif
