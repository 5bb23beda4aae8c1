/* All steps of a layer in one call, for a caller that has torch's own matrix product at hand: the
   products are the ones that torch would be asked for, argument by argument, and so are their bits.
   Included once per REAL. */

/* C = A B + beta C in column-major order, as Fortran's ?GEMM has it. Sizes are 64 bits wide, of which
   a library with sizes of 32 bits reads the lower half: so all little-endian machines. */
typedef void (*NAME(gemm))(const char *, const char *, const int64_t *, const int64_t *,
                           const int64_t *, const REAL *, const REAL *, const int64_t *,
                           const REAL *, const int64_t *, const REAL *, REAL *, const int64_t *);

/* Step n of the pass, and the step before it or -1. */
INLINE int64_t NAME(step_at)(const step_loop *loop, int64_t n, int64_t *before) {
    *before = n == 0 ? -1 : loop->reverse ? loop->steps - n : n - 1;
    return loop->reverse ? loop->steps - 1 - n : n;
}

/* Product of h with W_hh, added to the gates or put into `recurrent` beside b_hh; then the step. */
void NAME(forward_pass)(const layer *a, const step_loop *loop) {
    const NAME(gemm) gemm = (NAME(gemm))loop->gemm;
    void (*const step)(const layer *, int64_t, int64_t) = loop->step;
    const int64_t size = a->batch * a->hidden, width = loop->width;
    const REAL one = 1, beta = loop->adds || loop->b_hh;
    for (int64_t n = 0; n < loop->steps; n++) {
        int64_t before;
        const int64_t t = NAME(step_at)(loop, n, &before);
        const REAL *h = before < 0 ? (const REAL *)a->h_start : (REAL *)a->output + before * size;
        REAL *to = loop->adds ? (REAL *)a->gates + t * a->batch * width : (REAL *)a->recurrent;
        if (!loop->adds && loop->b_hh)
            for (int64_t row = 0; row < a->batch; row++)
                memcpy(to + row * width, loop->b_hh, (size_t)width * sizeof(REAL));
        if (loop->w_t)
            gemm("N", "N", &width, &a->batch, &a->hidden, &one, loop->w_t, &width, h, &a->hidden,
                 &beta, to, &width);
        else
            gemm("T", "N", &width, &a->batch, &a->hidden, &one, loop->w, &a->hidden, h, &a->hidden,
                 &beta, to, &width);
        step(a, t, before);
    }
}

/* The step, then the product of its d_recurrent with W_hh, for the step before it or h_start. */
void NAME(backward_pass)(const layer *a, const step_loop *loop) {
    const NAME(gemm) gemm = (NAME(gemm))loop->gemm;
    void (*const step)(const layer *, int64_t, int64_t) = loop->step;
    const int64_t size = a->batch * a->hidden, width = loop->width;
    const REAL one = 1, beta = loop->carries;
    for (int64_t n = loop->steps - 1; n >= 0; n--) {
        int64_t before;
        const int64_t t = NAME(step_at)(loop, n, &before);
        step(a, t, before);
        if (before < 0 && !loop->to_start) break;
        if (loop->carries) memcpy(a->d_h, a->d_carry, (size_t)size * sizeof(REAL));
        gemm("N", "N", &a->hidden, &a->batch, &width, &one, loop->w, &a->hidden,
             (const REAL *)a->d_recurrent + t * a->batch * width, &width, &beta, a->d_h, &a->hidden);
    }
}
