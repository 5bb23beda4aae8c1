/* Cross-entropy of a block of logits, and its gradient in their place. Included once per REAL.

   A row is walked three times while it is near: for its largest number, for the sum of
   exponentials, for the gradient. Rows lie in CHUNKS parts, and each part adds its gradients of the
   bias to a row of sums of its own, so that no sum depends on the number of threads. */

#ifndef WIDE
#define WIDE (4 * LANES) /* numbers at once: sums that do not wait for one another */
#endif

/* The end of a row as WIDE numbers, minus infinity past the last. */
INLINE void NAME(load_end)(const REAL *from, int64_t size, REAL end[WIDE]) {
    for (int l = 0; l < WIDE; l++) end[l] = -INFINITY;
    memcpy(end, from, (size_t)size * sizeof(REAL));
}

/* The largest number of a row, NaN if one is. */
INLINE REAL NAME(largest)(const REAL *x, int64_t size) {
    const int64_t whole = size / WIDE * WIDE;
    REAL top[WIDE], nan[WIDE] = {0};
    NAME(load_end)(x + whole, size - whole, top);
    for (int l = 0; l < WIDE; l++) nan[l] = top[l] != top[l] ? top[l] : 0;
    for (int64_t i = 0; i < whole; i += WIDE)
        for (int l = 0; l < WIDE; l++) {
            nan[l] = x[i + l] != x[i + l] ? x[i + l] : nan[l];
            top[l] = x[i + l] > top[l] ? x[i + l] : top[l];
        }
    for (int half = WIDE / 2; half; half /= 2)
        for (int l = 0; l < half; l++) {
            nan[l] += nan[l + half];
            top[l] = top[l + half] > top[l] ? top[l + half] : top[l];
        }
    return top[0] + nan[0];
}

/* Sum of e^(x - top), with e^-80 for what is below it; with `keep`, x becomes the exponentials. */
INLINE REAL NAME(exponentials)(REAL *x, int64_t size, REAL top, int keep) {
    const int64_t whole = size / WIDE * WIDE;
    REAL sums[WIDE] = {0}, end[WIDE];
    for (int64_t i = 0; i < whole; i += WIDE)
        for (int l = 0; l < WIDE; l++) {
            const REAL e = NAME(exp_clamped)(x[i + l] - top);
            if (keep) x[i + l] = e;
            sums[l] += e;
        }
    NAME(load_end)(x + whole, size - whole, end);
    for (int l = 0; l < WIDE; l++) {
        end[l] = NAME(exp_clamped)(end[l] - top);
        sums[l] += end[l];
    }
    if (keep) memcpy(x + whole, end, (size_t)(size - whole) * sizeof(REAL));
    for (int half = WIDE / 2; half; half /= 2)
        for (int l = 0; l < half; l++) sums[l] += sums[l + half];
    return sums[0] + (top - top); /* NaN where top is not finite: exp_clamped hides it */
}

/* One row; its target is a class, or negative. */
INLINE void NAME(entropy_row)(REAL *x, int64_t classes, int64_t target, REAL floor,
                              const REAL *weight, REAL *cost, uint8_t *hit, REAL *restrict d_bias) {
    *cost = 0;
    *hit = 0;
    if (target < 0) {
        if (weight) memset(x, 0, (size_t)classes * sizeof(REAL));
        return;
    }
    const REAL top = NAME(largest)(x, classes), right = x[target];
    const REAL sum = weight ? NAME(exponentials)(x, classes, top, 1)
                            : NAME(exponentials)(x, classes, top, 0);
    const REAL nll = NAME(log)(sum) + (top - right), share = nll > 79 ? 0 : NAME(exp_minus)(nll);
    *cost = floor > 0 ? -NAME(log)(share + floor) : nll;
    *hit = right >= top;
    if (!weight) return;
    const REAL slope = floor > 0 ? *weight * (share / (share + floor)) : *weight;
    const REAL factor = slope / sum;
    if (d_bias) {
        for (int64_t i = 0; i < classes; i++) {
            x[i] *= factor;
            d_bias[i] += x[i];
        }
        d_bias[target] -= slope;
    } else {
        for (int64_t i = 0; i < classes; i++) x[i] *= factor;
    }
    x[target] -= slope;
}

/* Costs -ln p, or -ln(p + floor), of rows of logits, and whether no class has a higher logit than
   the target; both 0 where the target is negative. With weights the logits become the gradient of
   the sum of weight * cost, which is added to d_bias, (CHUNKS, classes) or null. */
void NAME(cross_entropy)(const shape *size, REAL *logits, const int64_t *targets,
                         const REAL *weights, double floor, REAL *costs, uint8_t *hits,
                         REAL *d_bias) {
    const int64_t rows = size->rows, classes = size->units;
    _Pragma("omp parallel for schedule(static) num_threads(size->threads) if (size->threads > 1)")
    for (int part = 0; part < CHUNKS; part++)
        for (int64_t row = rows * part / CHUNKS; row < rows * (part + 1) / CHUNKS; row++)
            NAME(entropy_row)(logits + row * classes, classes, targets[row], (REAL)floor,
                              weights ? weights + row : 0, costs + row, hits + row,
                              d_bias ? d_bias + part * classes : 0);
}
