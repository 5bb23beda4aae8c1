/* Kernels of one step, of a unit on an array, and of a cross-entropy. Included once per REAL, after gpu.h. */

/* The gates of an LSTM: stored products and bias through their units. */
INLINE void NAME(lstm_gates)(const layer *a, place at, NAME(value) y[4]) {
    for (int k = 0; k < 4; k++) {
        REAL x = GATE(a->gates, 4, k);
        if (a->bias) x += ((const REAL *)a->bias)[k * at.hidden + at.unit];
        y[k] = NAME(unit)(&a->activations[k], at, x);
    }
}

/* `gates` holds W x + U h of i, f, g, o. */
KERNEL NAME(lstm_forward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    NAME(value) y[4];
    if (at.row >= at.batch) return;
    NAME(lstm_gates)(a, at, y);
    const REAL v[4] = {y[0].v, y[1].v, y[2].v, y[3].v};
    REAL c = BEFORE(a->cells, a->c_start), h = MASKED(a) ? BEFORE(a->output, a->h_start) : 0;
    NAME(lstm_state)(a, at, v, &c, &h);
}

KERNEL NAME(lstm_backward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    NAME(value) y[5];
    if (at.row >= at.batch) return;
    NAME(lstm_gates)(a, at, y);
    const REAL c = BEFORE(a->cells, a->c_start), dh = SLICE(a->d_output, t) + STATE(a->d_h);
    y[4] = NAME(lstm_out)(a, at, y, c);
    const REAL v[5] = {y[0].v, y[1].v, y[2].v, y[3].v, y[4].v};
    const NAME(gradient) d =
        NAME(lstm_gradient)(MASKED(a), v, y[4].dx, c, dh, STATE(a->d_c));
    for (int k = 0; k < 5; k++) NAME(add_p_grad)(&a->activations[k], at, at.row, d.y[k] * y[k].dp);
    for (int k = 0; k < 4; k++) GATE(a->d_gates, 4, k) = d.y[k] * y[k].dx;
    STATE(a->d_c) = d.c;
    STATE(a->d_carry) = d.carry;
}

/* `gates` holds W x + b of r, z, n and takes U h + b of r and z. */
KERNEL NAME(gru_forward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    REAL y[3];
    if (at.row >= at.batch) return;
    const REAL *recurrent = (const REAL *)a->recurrent + at.row * 3 * at.hidden + at.unit;
    for (int k = 0; k < 2; k++) {
        const REAL x = GATE(a->gates, 3, k) + recurrent[k * at.hidden];
        GATE(a->gates, 3, k) = x;
        y[k] = NAME(unit)(&a->activations[k], at, x).v;
    }
    y[2] = recurrent[2 * at.hidden];
    REAL h = BEFORE(a->output, a->h_start);
    NAME(gru_state)(a, at, y, GATE(a->gates, 3, 2), &h);
}

KERNEL NAME(gru_backward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    NAME(value) y[3];
    if (at.row >= at.batch) return;
    const REAL uh = SLICE(a->cells, t), h = BEFORE(a->output, a->h_start);
    for (int k = 0; k < 2; k++) y[k] = NAME(unit)(&a->activations[k], at, GATE(a->gates, 3, k));
    y[2] = NAME(gru_n)(a, at, y[0].v, GATE(a->gates, 3, 2), uh);
    const REAL dh = SLICE(a->d_output, t) + STATE(a->d_h);
    const REAL v[3] = {y[0].v, y[1].v, y[2].v};
    const NAME(gradient) d = NAME(gru_gradient)(MASKED(a), v, y[2].dx, h, uh, dh);
    for (int k = 0; k < 3; k++) {
        const REAL d_gate = d.y[k] * y[k].dx;
        NAME(add_p_grad)(&a->activations[k], at, at.row, d.y[k] * y[k].dp);
        GATE(a->d_gates, 3, k) = d_gate;
        GATE(a->d_recurrent, 3, k) = k < 2 ? d_gate : d_gate * y[0].v;
    }
    STATE(a->d_carry) = d.carry;
}

/* A unit on an array (blocks, rows, units): its value, or with d_value the gradient of x. Thread n has
   rows n, n + threads, ... and its own row of the sums for p. */
KERNEL NAME(unit_map)(GIVEN activation unit, GIVEN shape size, const REAL *x, REAL *value,
                      const REAL *d_value, REAL *d_x) {
    const int64_t part = THREAD / size.units;
    if (part >= size.threads) return;
    for (int64_t n = part; n < size.blocks * size.rows; n += size.threads) {
        const place at = {n / size.rows, n % size.rows, THREAD % size.units, size.rows, size.units};
        const NAME(value) y = NAME(unit)(&unit, at, SLICE(x, at.t));
        if (value) SLICE(value, at.t) = y.v;
        if (!d_value) continue;
        const REAL g = SLICE(d_value, at.t);
        NAME(add_p_grad)(&unit, at, part, g * y.dp);
        SLICE(d_x, at.t) = g * y.dx;
    }
}

/* The gradient of weighted cross-entropies, weight (softmax - 1 at the target), written over the
   logarithms of the softmax (rows, units). Thread n has rows n, n + threads, ... */
KERNEL NAME(cross_entropy_back)(GIVEN shape size, REAL *logs, const int64_t *targets,
                                const REAL *weights) {
    const int64_t part = THREAD / size.units, unit = THREAD % size.units;
    if (part >= size.threads) return;
    for (int64_t row = part; row < size.rows; row += size.threads) {
        REAL *log_p = logs + row * size.units + unit;
        const REAL d = (REAL)exp(*log_p) * weights[row];
        *log_p = unit == targets[row] ? d - weights[row] : d;
    }
}
