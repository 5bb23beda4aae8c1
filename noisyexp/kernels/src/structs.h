/* What Python hands to the kernels of both machines, processor and GPU; bindings.py declares the
   same. Whoever includes this has int32_t and its like. */
#ifndef STRUCTS_H
#define STRUCTS_H

#define CHUNKS 16 /* parts in which the processor's kernels add up gradients */
#define ROWS 4    /* one Philox block gives four numbers, the draws of one unit for four rows */

typedef struct {
    uint32_t key0, key1; /* of (seed, step, path of the unit) */
    uint32_t call;       /* calls of that unit in this step before this one */
} noise_key;

enum { FORM_HARD, FORM_OUTPUT, FORM_INPUT, FORM_INPUT_SATURATED, FORM_INPUT_LEARNED,
       FORM_INPUT_LEARNED_CODE, FORM_SOFT };
enum { MULTIPLIER_NORMAL, MULTIPLIER_HALF_NORMAL, MULTIPLIER_MEAN };
#define MAX_ACTIVATIONS 5

/* One unit in one call: its equation, its settings, where its draws come from. */
typedef struct {
    int32_t form, multiplier, clip;
    noise_key key;
    double slope, offset, low, high, threshold, alpha, c, side, mean;
    const void *p;     /* (units,), or one number with p_stride 0 */
    int64_t p_stride;
    const noise_key *key_from; /* on a GPU: where the key is read when a kernel runs, or null */
    const void *given; /* draws (T, batch, units) instead of the key's, or null */
    void *p_grad;      /* a row of sums (units,) for each part of the work, or null */
} activation;

/* One layer in one direction; arrays (T, batch, ...) in row-major order. */
typedef struct {
    int64_t batch, hidden;
    int32_t threads; /* of the processor; on a GPU the rows of a step */
    int32_t sums_apart; /* of the processor: from one part's sums for p to the next's; 0 where no unit
                           is in two parts */
    activation activations[MAX_ACTIVATIONS];
    const uint8_t *mask; /* (T, batch), or null */
    const void *h_start, *c_start, *bias;
    void *gates, *cells, *output, *recurrent;
    const void *d_output; /* or null for zeros, on a processor */
    void *d_gates, *d_recurrent, *d_h, *d_c, *d_carry;
} layer;

/* All steps of a layer in one launch, persistent.cu. Rows of the batch are cut into groups, units into
   slices; a block has a group and a slice, and only blocks of one group wait for each other.
   Of `own`, starts and given gradients may be null, which are zeros; its bias and its places for
   gradients of p and of states are not used. Gates are stored as they go into the units, with
   biases. */
typedef struct {
    layer own;
    int64_t steps;
    int32_t reverse;
    int32_t operands;           /* of the products with the state, OPERANDS_... */
    int32_t groups, slices;
    int32_t rows, units;        /* of a group, of a slice */
    int32_t chunk, chunks;      /* rows at a time, and how often */
    int32_t splits;             /* parts of a sum that a block's threads share */
    int32_t tile_rows, tile_columns; /* of a thread, in products of float32 */
    int32_t width;              /* from one row of operands to the next, in numbers */
    int32_t at_tile, at_sums, at_slots, at_kept, at_layer, bytes; /* of shared memory */
    const float *w_hh, *b_ih, *b_hh;
    void *exchange;             /* what the blocks of a group tell each other */
    uint32_t *arrived;          /* a counter each group and one more, COUNTERS_APART apart: zeros
                                   before and after */
    float *end_h, *end_c;       /* states after the last step; or gradients of those before the first */
    float *start;               /* where to copy h before the first step, or null */
    uint16_t *start_half, *output_half, *d_gates_half, *d_recurrent_half; /* rounded, or null */
    float *partial, *totals;    /* (groups, MOST_TOTALS, hidden); gradients of p and biases, rows of
                                   hidden: p of each unit, b_ih of each gate, b_hh of each gate */
} persistent;

enum { OPERANDS_FLOAT, OPERANDS_BF16, OPERANDS_FP16 };
#define COUNTERS_APART 32 /* 128 bytes, a line of the cache */
#define MOST_TOTALS 9

/* All steps of a layer on a processor, see passes.h. */
typedef struct {
    void *gemm, *step;            /* torch's product; the kernel of a step */
    int64_t steps, width;         /* T; gates * hidden */
    int32_t reverse, adds;        /* from the last step; whether products add to `gates` */
    int32_t carries, to_start;    /* whether d_carry counts; whether h_start wants a gradient */
    const void *w, *w_t, *b_hh;   /* W_hh (width, hidden); its transpose or null; (width,) or null */
} step_loop;

/* One step of a cell with its products on a processor, see single.h. */
typedef struct {
    void *gemm, *step;            /* torch's product; the kernel of a step */
    int64_t inputs, width;        /* of x; gates * hidden */
    int32_t adds;                 /* whether products add to `gates` */
    const void *x, *w_ih, *w_hh;  /* (batch, inputs), (width, inputs), (width, hidden) */
    const void *b_ih, *b_hh;      /* (width,), or null */
    void *bias;                   /* where to add up the biases of an LSTM, or null */
    void *d_x, *d_h_start, *d_w_ih, *d_w_hh; /* gradients, null for those not asked for */
} single_step;

typedef struct {
    int64_t blocks, rows, units;
    int32_t threads; /* of the processor; on a GPU the parts into which the rows are cut */
} shape;

/* Scores of attention, e = v . phi(key + q); rows of keys may lie apart. */
typedef struct {
    activation unit;
    shape size;               /* sentences, positions, units */
    int32_t adds;             /* whether d_keys holds numbers to add to */
    int64_t key_strides[2];   /* from sentence to sentence and from position to position */
    const void *keys, *q, *v; /* (B, S, A), (B, A), (A,) */
    void *scores;             /* (B, S) */
    const void *d_scores;
    void *d_keys, *d_q, *d_v; /* (B, S, A) or null, (B, A), (CHUNKS, A) */
} score;

#endif
