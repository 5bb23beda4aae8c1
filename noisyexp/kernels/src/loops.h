/* All steps of one direction of an LSTM or a GRU, with products of bf16 numbers between the kernels
   of the steps. What a product takes is rounded, all else is float32. */
#ifndef LOOPS_H
#define LOOPS_H

#include "matmul.h"

typedef struct {
    layer arrays;
    int64_t steps;
    int32_t reverse, form, threads;
    int32_t past_start;            /* backward: whether the gradient goes to the first state */
    const uint32_t *weights;       /* the recurrent weights, packed */
    bf16 *rounded;                 /* forward: states (T + 1, batch, width), the first with them */
    int64_t width;                 /* backward: gradients of the gates (T, batch, width) */
    bf16 *rounded_recurrent;       /* of a GRU: with respect to U h + b */
    const float *b_hh;             /* of a GRU, or null */
    float *d_bias, *d_bias_hh;     /* sums over rows (gates * hidden), or null; of a GRU both */
} recurrence;

/* Of layers.h, compiled beside this. */
void lstm_forward_f(const layer *a, int64_t t, int64_t before);
void lstm_backward_f(const layer *a, int64_t t, int64_t before);
void gru_forward_f(const layer *a, int64_t t, int64_t before);
void gru_backward_f(const layer *a, int64_t t, int64_t before);

#define FLOATS(pointer, t, size) ((float *)(pointer) + (t) * (size))

/* Step number s of a pass and the step before it, negative for none. */
INLINE int64_t step_at(const recurrence *a, int64_t s) { return a->reverse ? a->steps - 1 - s : s; }
INLINE int64_t step_before(const recurrence *a, int64_t s) { return s ? step_at(a, s - 1) : -1; }

/* Rounded states: where the state after step t is; the first state is beyond the last step of the
   pass. The state before step s of the pass is the one after the step before. */
INLINE bf16 *state_after(const recurrence *a, int64_t t) {
    const int64_t place = a->reverse ? (t < 0 ? a->steps : t) : t + 1;
    return a->rounded + place * a->arrays.batch * a->width;
}

INLINE matmul step_product(const recurrence *a, int64_t columns, int64_t depth, const bf16 *left) {
    matmul p = {.rows = a->arrays.batch, .columns = columns, .depth = depth, .a = left,
                .a_stride = a->width, .b = a->weights, .c_stride = columns, .form = a->form,
                .threads = a->threads};
    return p;
}

INLINE void round_state(const recurrence *a, const void *h, int64_t t) {
    round_rows((const float *)h, a->arrays.batch, a->arrays.hidden, state_after(a, t), a->width, 0);
}

void lstm_forward_bf16(const recurrence *a) {
    const layer *l = &a->arrays;
    const int64_t gates = 4 * l->hidden, slice = l->batch * l->hidden;
    round_state(a, l->h_start, -1);
    for (int64_t s = 0; s < a->steps; s++) {
        const int64_t t = step_at(a, s), before = step_before(a, s);
        matmul p = step_product(a, gates, l->hidden, state_after(a, before));
        p.start = p.c = FLOATS(l->gates, t, l->batch * gates);
        p.start_stride = gates;
        bf16_multiply(&p);
        lstm_forward_f(l, t, before);
        round_state(a, FLOATS(l->output, t, slice), t);
    }
}

void gru_forward_bf16(const recurrence *a) {
    const layer *l = &a->arrays;
    const int64_t gates = 3 * l->hidden, slice = l->batch * l->hidden;
    round_state(a, l->h_start, -1);
    for (int64_t s = 0; s < a->steps; s++) {
        const int64_t t = step_at(a, s), before = step_before(a, s);
        matmul p = step_product(a, gates, l->hidden, state_after(a, before));
        p.start = a->b_hh;
        p.c = (float *)l->recurrent;
        bf16_multiply(&p);
        gru_forward_f(l, t, before);
        round_state(a, FLOATS(l->output, t, slice), t);
    }
}

/* The gradient of one step's gates is made in a buffer that all steps use, since only its rounded
   form is wanted later: the kernel gets the address from which step t comes to lie there. */
INLINE void *as_step(void *buffer, int64_t t, int64_t size) {
    return (void *)((uintptr_t)buffer - (uintptr_t)(t * size) * sizeof(float));
}

/* d_h of the step before: what goes past the product, and the product. */
INLINE void step_back(const recurrence *a, int64_t gates, const bf16 *d, int adds) {
    const layer *l = &a->arrays;
    matmul p = step_product(a, l->hidden, gates, d);
    if (adds) p.start = (const float *)l->d_carry;
    p.start_stride = l->hidden;
    p.c = (float *)l->d_h;
    bf16_multiply(&p);
}

void lstm_backward_bf16(const recurrence *a) {
    layer l = a->arrays;
    const int64_t gates = 4 * l.hidden, slice = l.batch * gates;
    for (int64_t s = a->steps - 1; s >= 0; s--) {
        const int64_t t = step_at(a, s);
        bf16 *d = a->rounded + t * l.batch * a->width;
        l.d_gates = as_step(a->arrays.d_gates, t, slice);
        lstm_backward_f(&l, t, step_before(a, s));
        round_rows((const float *)a->arrays.d_gates, l.batch, gates, d, a->width, a->d_bias);
        if (s || a->past_start) step_back(a, gates, d, l.mask != 0);
    }
}

void gru_backward_bf16(const recurrence *a) {
    layer l = a->arrays;
    const int64_t gates = 3 * l.hidden, slice = l.batch * gates;
    for (int64_t s = a->steps - 1; s >= 0; s--) {
        const int64_t t = step_at(a, s), place = t * l.batch * a->width;
        l.d_gates = as_step(a->arrays.d_gates, t, slice);
        l.d_recurrent = as_step(a->arrays.d_recurrent, t, slice);
        gru_backward_f(&l, t, step_before(a, s));
        round_rows((const float *)a->arrays.d_gates, l.batch, gates, a->rounded + place, a->width,
                   a->d_bias);
        bf16 *d = a->rounded_recurrent + place;
        round_rows((const float *)a->arrays.d_recurrent, l.batch, gates, d, a->width,
                   a->d_bias_hh);
        if (s || a->past_start) step_back(a, gates, d, 1);
    }
}

#undef FLOATS
#endif
