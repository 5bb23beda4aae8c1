/* The phases of a block that has all steps of a layer. A block has `units` hidden units of `rows` rows:
   their rows of the recurrent weights, in shared memory from the first step to the last, and their
   states. Forward, a step begins with h of all units, from the exchange; backward, a block multiplies
   the gradients of its gates with its weights, and each unit's owner adds up what came for it. All
   sums have one order. What does not depend on other blocks is done before a wait. */

enum { CELL_LSTM, CELL_GRU }; /* the cells that these kernels have */

typedef struct {
    const persistent *p;
    const layer *a;           /* a copy, with places of p in shared memory */
    int gates, activations, threads;
    int row, unit;            /* the block's first */
    int group, slice, rows, units; /* rows and units that are there */
    char *memory;             /* shared by the block */
} block;

INLINE block block_at(const persistent *p, int gates, int index, int threads, char *memory) {
    const int group = index / p->slices, slice = index % p->slices;
    const int row = group * p->rows, unit = slice * p->units;
    const int rows = (int)p->own.batch - row, units = (int)p->own.hidden - unit;
    const block b = {p, (const layer *)(memory + p->at_layer), gates, gates == 4 ? 5 : 3, threads,
                     row, unit, group, slice, rows < p->rows ? rows : p->rows,
                     units < p->units ? units : p->units, memory};
    return b;
}

/* Step n of the order of computation, and the one before it or -1. */
INLINE int64_t step_at(const persistent *p, int64_t n) { return p->reverse ? p->steps - 1 - n : n; }
INLINE int64_t step_before(const persistent *p, int64_t n) { return n ? step_at(p, n - 1) : -1; }

INLINE uint32_t *count_of(const persistent *p, int group) { return p->arrived + group * COUNTERS_APART; }

INLINE int bytes_of(const persistent *p) { return OPERANDS_OF(p) == OPERANDS_FLOAT ? 4 : 2; }
INLINE void put(void *to, int64_t index, float x, int operands) {
    if (operands == OPERANDS_FLOAT) ((float *)to)[index] = x;
    else ((uint16_t *)to)[index] = to_half(x, operands);
}
INLINE float or_zero(const float *from, int64_t index) { return from ? from[index] : 0; }

/* Rows of a chunk that are there, and numbers: (row, unit). */
INLINE int rows_in(const block *b, int chunk) {
    const int rows = b->rows - chunk * b->p->chunk;
    return rows < b->p->chunk ? rows : b->p->chunk;
}
INLINE int numbers_in(const block *b, int chunk) { return rows_in(b, chunk) * b->units; }
INLINE int has_chunk(const block *b, int chunk) {
    return chunk < b->p->chunks && rows_in(b, chunk) > 0;
}

/* Number i of a chunk: its row there, its unit in the slice, its place in the layer. */
INLINE int row_of(const block *b, int i) { return (unsigned)i / (unsigned)b->units; }
INLINE place place_of(const block *b, int64_t n, int chunk, int i) {
    const int row = row_of(b, i), unit = i - row * b->units;
    const place at = {step_at(b->p, n), b->row + chunk * b->p->chunk + row, b->unit + unit,
                      b->a->batch, b->a->hidden};
    return at;
}

/* Tiles of operands: two where chunks follow each other, so that one is filled while one is used. */
INLINE void *tile_of(const block *b, int chunk) {
    return b->memory + b->p->at_tile + chunk % 2 * b->p->chunk * b->p->width * bytes_of(b->p);
}
INLINE float *sums_of(const block *b) { return (float *)(b->memory + b->p->at_sums); }

/* Shared numbers: slot k of a chunk's number i; number i of a chunk that is kept from step to step. */
#define SLOT(b, k, i) \
    ((float *)((b)->memory + (b)->p->at_slots))[(k) * (b)->p->chunk * (b)->p->units + (i)]
#define KEPT(b, k, chunk_, i)                  \
    ((float *)((b)->memory + (b)->p->at_kept)) \
        [((k) * (b)->p->chunks + (chunk_)) * (b)->p->chunk * (b)->p->units + (i)]
/* Forward: values of units, then what the input adds to each gate. Backward: value, dx and dp of each
   unit, the state before the step (an LSTM's c, a GRU's h), d_output, and a GRU's h_n. */
enum { SLOT_INPUT = 4, SLOT_BEFORE = 15, SLOT_D_OUTPUT = 16, SLOT_H_N = 17 };
enum { KEPT_H = 0, KEPT_C = 1 }; /* backward: what goes past the product, d_c */

INLINE value_f unit_in(const block *b, int k, int i) {
    const value_f y = {SLOT(b, 3 * k, i), SLOT(b, 3 * k + 1, i), SLOT(b, 3 * k + 2, i)};
    return y;
}
INLINE void keep_unit(const block *b, int k, int i, value_f y) {
    SLOT(b, 3 * k, i) = y.v, SLOT(b, 3 * k + 1, i) = y.dx, SLOT(b, 3 * k + 2, i) = y.dp;
}

/* After the layer's copy: p of the activations, b_ih and b_hh of the gates, totals. */
INLINE float *numbers_of(const block *b) {
    return (float *)(b->memory + b->p->at_layer + (sizeof(layer) + 15) / 16 * 16);
}
INLINE float *biases_of(const block *b) { return numbers_of(b) + 5 * b->p->units; }
INLINE float *totals_of(const block *b) { return numbers_of(b) + 13 * b->p->units; }

/* Copy what is read every step, past caches that the waits empty. */
INLINE void prepare(const block *b, int tid) {
    const persistent *p = b->p;
    float *numbers = numbers_of(b), *biases = biases_of(b), *totals = totals_of(b);
    for (int i = tid; i < (int)(sizeof(layer) / 4); i += b->threads)
        ((uint32_t *)(b->memory + p->at_layer))[i] = ((const uint32_t *)&p->own)[i];
    for (int i = tid; i < MOST_TOTALS * p->units; i += b->threads) {
        const int k = (unsigned)i / (unsigned)p->units, unit = b->unit + i - k * p->units;
        const int there = unit < (int)p->own.hidden;
        totals[i] = 0;
        if (k < b->activations) {
            const activation *s = &p->own.activations[k];
            numbers[i] = s->p && there ? ((const float *)s->p)[unit * s->p_stride] : 0;
        }
        if (k < b->gates) {
            biases[i] = there ? or_zero(p->b_ih, k * p->own.hidden + unit) : 0;
            biases[4 * p->units + i] = there ? or_zero(p->b_hh, k * p->own.hidden + unit) : 0;
        }
    }
}
INLINE void point_to_copies(const block *b, int tid) {
    layer *a = (layer *)(b->memory + b->p->at_layer);
    if (tid >= b->activations) return;
    if (a->activations[tid].key_from) a->activations[tid].key = *a->activations[tid].key_from;
    a->activations[tid].key_from = 0;
    if (!a->activations[tid].p) return;
    a->activations[tid].p = numbers_of(b) + tid * b->p->units - b->unit;
    a->activations[tid].p_stride = 1;
}

/* Where row r of the block's group is among the rows of the exchange: whole chunks for each group. */
INLINE int64_t exchange_row(const block *b, int64_t parity, int row) {
    return (parity * b->p->groups + b->group) * b->p->chunk * b->p->chunks + row - b->row;
}
