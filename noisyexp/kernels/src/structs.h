/* What Python hands to the kernels of both machines, processor and GPU; bindings.py declares the
   same. Whoever includes this has int32_t and its like. */
#ifndef STRUCTS_H
#define STRUCTS_H

#define CHUNKS 16 /* parts in which the processor's kernels add up gradients */
#define ROWS 4    /* one Philox block gives four numbers, the draws of one unit for four rows */

typedef struct {
    uint32_t key0, key1; /* of (seed, step, site) */
    uint32_t call;       /* calls of the site in this step before this one */
} noise_key;

enum { FORM_HARD, FORM_OUTPUT, FORM_INPUT, FORM_INPUT_SATURATED, FORM_INPUT_LEARNED,
       FORM_INPUT_LEARNED_CODE, FORM_SOFT };
enum { MULTIPLIER_NORMAL, MULTIPLIER_HALF_NORMAL, MULTIPLIER_MEAN };
#define MAX_SITES 5

/* One unit: its equation, its settings, where its draws come from. */
typedef struct {
    int32_t form, multiplier, clip;
    noise_key key;
    double slope, offset, low, high, threshold, alpha, c, side, mean;
    const void *p;     /* (units,), or one number with p_stride 0 */
    int64_t p_stride;
    const void *given; /* draws (T, batch, units) instead of the key's, or null */
    void *p_grad;      /* a row of sums (units,) for each part of the work, or null */
} site;

/* One layer in one direction; arrays (T, batch, ...) in row-major order. */
typedef struct {
    int64_t batch, hidden;
    int32_t threads; /* of the processor; on a GPU the rows of a step */
    site sites[MAX_SITES];
    const uint8_t *mask; /* (T, batch), or null */
    const void *h_start, *c_start, *bias;
    void *gates, *cells, *output, *recurrent;
    const void *d_output;
    void *d_gates, *d_recurrent, *d_h, *d_c, *d_carry;
} layer;

typedef struct {
    int64_t blocks, rows, units;
    int32_t threads; /* of the processor; on a GPU the parts into which the rows are cut */
} shape;

/* Scores of attention, e = v . phi(key + q); rows of keys may lie apart. */
typedef struct {
    site unit;
    shape size;               /* sentences, positions, units */
    int32_t adds;             /* whether d_keys holds numbers to add to */
    int64_t key_strides[2];   /* from sentence to sentence and from position to position */
    const void *keys, *q, *v; /* (B, S, A), (B, A), (A,) */
    void *scores;             /* (B, S) */
    const void *d_scores;
    void *d_keys, *d_q, *d_v; /* (B, S, A) or null, (B, A), (CHUNKS, A) */
} score;

#endif
