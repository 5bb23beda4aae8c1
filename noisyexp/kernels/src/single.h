/* One step of a cell with all its products in one call: at a batch of one, a call of torch costs more
   than its product. The products are those that torch would be asked for, and so are their bits.
   Included once per REAL, after passes.h. */

/* out (rows, columns) = x (rows, depth) W^T for W (columns, depth), row-major; added to what is in `out`
   already with `adds`. */
INLINE void NAME(times_transposed)(const single_step *s, int64_t rows, int64_t depth, const void *x,
                                   const void *w, int adds, void *out) {
    const REAL one = 1, beta = adds;
    ((NAME(gemm))s->gemm)("T", "N", &s->width, &rows, &depth, &one, w, &depth, x, &depth, &beta, out,
                          &s->width);
}

/* out (rows, columns) = d (rows, width) W for W (width, columns). */
INLINE void NAME(times)(const single_step *s, int64_t rows, int64_t columns, const void *d,
                        const void *w, int adds, void *out) {
    const REAL one = 1, beta = adds;
    ((NAME(gemm))s->gemm)("N", "N", &columns, &rows, &s->width, &one, w, &columns, d, &s->width,
                          &beta, out, &columns);
}

/* out (width, columns) = d^T x for d (rows, width), x (rows, columns). */
INLINE void NAME(outer)(const single_step *s, int64_t rows, int64_t columns, const void *d,
                        const void *x, void *out) {
    const REAL one = 1, zero = 0;
    ((NAME(gemm))s->gemm)("N", "T", &columns, &s->width, &rows, &one, x, &columns, d, &s->width,
                          &zero, out, &columns);
}

INLINE void NAME(repeat_row)(const void *row, int64_t width, int64_t rows, void *out) {
    for (int64_t r = 0; row && r < rows; r++)
        memcpy((REAL *)out + r * width, row, (size_t)width * sizeof(REAL));
}

/* Gates and the states after the step. An LSTM's biases are added up into `bias`. */
void NAME(single_forward)(const layer *a, const single_step *s) {
    void (*const step)(const layer *, int64_t, int64_t) = s->step;
    REAL *bias = (REAL *)s->bias;
    if (s->adds) {
        NAME(times_transposed)(s, a->batch, s->inputs, s->x, s->w_ih, 0, a->gates);
        NAME(times_transposed)(s, a->batch, a->hidden, a->h_start, s->w_hh, 1, a->gates);
        for (int64_t n = 0; bias && n < s->width; n++)
            bias[n] = ((const REAL *)s->b_ih)[n] + ((const REAL *)s->b_hh)[n];
    } else {
        NAME(repeat_row)(s->b_ih, s->width, a->batch, a->gates);
        NAME(repeat_row)(s->b_hh, s->width, a->batch, a->recurrent);
        NAME(times_transposed)(s, a->batch, s->inputs, s->x, s->w_ih, s->b_ih != 0, a->gates);
        NAME(times_transposed)(s, a->batch, a->hidden, a->h_start, s->w_hh, s->b_hh != 0,
                               a->recurrent);
    }
    step(a, 0, -1);
}

/* Gradients of the gates, and what is asked for of x, h_start and the weights. */
void NAME(single_backward)(const layer *a, const single_step *s) {
    void (*const step)(const layer *, int64_t, int64_t) = s->step;
    step(a, 0, -1);
    if (s->d_h_start) {
        if (!s->adds)
            memcpy(s->d_h_start, a->d_carry, (size_t)(a->batch * a->hidden) * sizeof(REAL));
        NAME(times)(s, a->batch, a->hidden, a->d_recurrent, s->w_hh, !s->adds, s->d_h_start);
    }
    if (s->d_x) NAME(times)(s, a->batch, s->inputs, a->d_gates, s->w_ih, 0, s->d_x);
    if (s->d_w_ih) NAME(outer)(s, a->batch, s->inputs, a->d_gates, s->x, s->d_w_ih);
    if (s->d_w_hh) NAME(outer)(s, a->batch, a->hidden, a->d_recurrent, a->h_start, s->d_w_hh);
}
