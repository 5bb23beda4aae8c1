/* The product of a block: its weights (M, K) with rows (R, K) of states or gradients, both in shared
   memory, into sums [split][R][M]. Operands are float32, by fused multiply-adds, or half, by tensor
   cores with float32 sums. Warps share it by columns m, rows, and parts of the sum over k. */

typedef struct {
    const void *weights, *rows; /* rows of `width` numbers, zeros after the K-th */
    int width, m, k;
    int count, splits;          /* rows, a multiple of a tile's */
    float *sums;
    int64_t split_apart, row_apart; /* in `sums` */
} product;

/* a / b, rounded up, of numbers that are not negative. */
INLINE int ceil_div(int a, int b) { return (int)((unsigned)(a + b - 1) / (unsigned)b); }

/* Part `split` of a sum's terms. */
INLINE void part_of(int terms, int split, int splits, int *from, int *to) {
    const int share = ceil_div(terms, splits), end = (split + 1) * share;
    *from = split * share < terms ? split * share : terms;
    *to = end < terms ? end : terms;
}

/* A lane has columns m0, m0 + 32, ... of several rows, and adds up in the order of k. */
INLINE void tile_of_floats(const product *a, int m0, int row, int split, const int rows,
                           const int columns) {
    const int vectors = a->width / 4;
    const float4 *w[4], *x = (const float4 *)a->rows + row * vectors;
    float sum[8][4];
    int from, to;
    part_of((a->k + 3) / 4, split, a->splits, &from, &to);
    UNROLL
    for (int j = 0; j < columns; j++) { /* past the last column: computed, not kept */
        const int m = m0 + 32 * j < a->m ? m0 + 32 * j : a->m - 1;
        w[j] = (const float4 *)a->weights + m * vectors;
        UNROLL
        for (int r = 0; r < rows; r++) sum[r][j] = 0;
    }
    for (int v = from; v < to; v++) {
        float4 y[4];
        UNROLL
        for (int j = 0; j < columns; j++) y[j] = w[j][v];
        UNROLL
        for (int r = 0; r < rows; r++) {
            const float4 z = x[r * vectors + v];
            UNROLL
            for (int j = 0; j < columns; j++) {
                sum[r][j] += y[j].x * z.x;
                sum[r][j] += y[j].y * z.y;
                sum[r][j] += y[j].z * z.z;
                sum[r][j] += y[j].w * z.w;
            }
        }
    }
    float *out = a->sums + split * a->split_apart + row * a->row_apart;
    UNROLL
    for (int j = 0; j < columns; j++) {
        UNROLL
        for (int r = 0; r < rows; r++)
            if (m0 + 32 * j < a->m) out[r * a->row_apart + m0 + 32 * j] = sum[r][j];
    }
}

INLINE void product_of_floats(const product *a, int tid, int threads, const int rows,
                              const int columns) {
    const int lane = tid % 32, strips = ceil_div(a->m, 32 * columns);
    const int tiles = a->count / rows * strips * a->splits;
    for (int tile = tid / 32; tile < tiles; tile += threads / 32) {
        const int rest = (unsigned)tile / (unsigned)strips, strip = tile - rest * strips;
        const int part = (unsigned)rest / (unsigned)a->splits, split = rest - part * a->splits;
        tile_of_floats(a, strip * 32 * columns + lane, part * rows, split, rows,
                       columns);
    }
}

/* A warp has 16 columns of 8, 16 or 32 rows. Its registers as in the PTX manual, mma.m16n8k16; as C
   one call has the registers of all lanes. */
INLINE void tile_of_halves(const product *a, int m0, int row, int split, int tid,
                           const int operands, const int eights) {
    const int words = a->width / 2;
    const uint32_t *w = (const uint32_t *)a->weights + m0 * words;
    const uint32_t *x = (const uint32_t *)a->rows + row * words;
    float sum[4][LANES][4];
    uint32_t wide[LANES][4], narrow[LANES][2];
    int from, to;
    part_of((a->k + 15) / 16, split, a->splits, &from, &to);
    UNROLL
    for (int n = 0; n < eights; n++)
        EACH_LANE(tid) sum[n][REGISTER][0] = sum[n][REGISTER][1] = sum[n][REGISTER][2] =
            sum[n][REGISTER][3] = 0;
    UNROLL_BY_2
    for (int v = from; v < to; v++) {
        EACH_LANE(tid) {
            const uint32_t *p = w + lane / 4 * words + v * 8 + lane % 4;
            wide[REGISTER][0] = p[0];
            wide[REGISTER][1] = p[8 * words];
            wide[REGISTER][2] = p[4];
            wide[REGISTER][3] = p[8 * words + 4];
        }
        UNROLL
        for (int n = 0; n < eights; n++) {
            EACH_LANE(tid) {
                const uint32_t *p = x + (8 * n + lane / 4) * words + v * 8 + lane % 4;
                narrow[REGISTER][0] = p[0];
                narrow[REGISTER][1] = p[4];
            }
            multiply_add(sum[n], wide, narrow, operands);
        }
    }
    UNROLL
    for (int n = 0; n < eights; n++) {
        EACH_LANE(tid) {
            UNROLL
            for (int i = 0; i < 4; i++) {
                const int m = m0 + lane / 4 + i / 2 * 8;
                const int r = row + 8 * n + lane % 4 * 2 + i % 2;
                if (m < a->m)
                    a->sums[split * a->split_apart + r * a->row_apart + m] = sum[n][REGISTER][i];
            }
        }
    }
}

INLINE void product_of_halves(const product *a, int tid, int threads, const int operands,
                              const int eights) {
    const int strips = ceil_div(a->m, 16);
    const int tiles = a->count / (8 * eights) * strips * a->splits;
    for (int tile = tid / 32; tile < tiles; tile += threads / 32) {
        const int rest = (unsigned)tile / (unsigned)strips, strip = tile - rest * strips;
        const int part = (unsigned)rest / (unsigned)a->splits, split = rest - part * a->splits;
        tile_of_halves(a, strip * 16, part * 8 * eights, split, tid, operands, eights);
    }
}

/* The code for every tile that noisyexp/kernels/persistent.py chooses from. */
INLINE void multiply(const product *a, const persistent *p, int tid, int threads) {
    const int rows = p->tile_rows, columns = p->tile_columns;
    if (OPERANDS_OF(p) == OPERANDS_FLOAT) {
        if (rows == 4 && columns == 1) product_of_floats(a, tid, threads, 4, 1);
        else if (rows == 4) product_of_floats(a, tid, threads, 4, 2);
        else if (columns == 2) product_of_floats(a, tid, threads, 8, 2);
        else product_of_floats(a, tid, threads, 8, 4);
        return;
    }
    if (LANES > 1 && tid % 32) return; /* as C, the first lane computes for its warp */
    if (OPERANDS_OF(p) == OPERANDS_BF16) {
        if (rows == 8) product_of_halves(a, tid, threads, OPERANDS_BF16, 1);
        else if (rows == 16) product_of_halves(a, tid, threads, OPERANDS_BF16, 2);
        else product_of_halves(a, tid, threads, OPERANDS_BF16, 4);
    } else {
        if (rows == 8) product_of_halves(a, tid, threads, OPERANDS_FP16, 1);
        else if (rows == 16) product_of_halves(a, tid, threads, OPERANDS_FP16, 2);
        else product_of_halves(a, tid, threads, OPERANDS_FP16, 4);
    }
}
