/* Kernels of one step, and of a unit on an array. Included once per REAL, after gpu.h. */

/* The gates of an LSTM: stored products and bias through their units. */
INLINE void NAME(lstm_gates)(const layer *a, place at, NAME(value) y[4]) {
    for (int k = 0; k < 4; k++) {
        REAL x = GATE(a->gates, 4, k);
        if (a->bias) x += ((const REAL *)a->bias)[k * at.hidden + at.unit];
        y[k] = NAME(unit)(&a->sites[k], at, x);
    }
}

/* Write what a step's gradients are for, to the thread's own places. */
INLINE void NAME(keep)(const layer *a, place at, const NAME(gradient) *d, int sites) {
    for (int k = 0; k < sites; k++) NAME(add_p_grad)(&a->sites[k], at, at.row, d->p[k]);
    STATE(a->d_carry) = d->carry;
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
    const NAME(gradient) d = NAME(lstm_gradient)(a, at, y, c, dh, STATE(a->d_c));
    NAME(keep)(a, at, &d, 5);
    STATE(a->d_c) = d.c;
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
        y[k] = NAME(unit)(&a->sites[k], at, x).v;
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
    for (int k = 0; k < 2; k++) y[k] = NAME(unit)(&a->sites[k], at, GATE(a->gates, 3, k));
    y[2] = NAME(gru_n)(a, at, y[0].v, GATE(a->gates, 3, 2), uh);
    const REAL dh = SLICE(a->d_output, t) + STATE(a->d_h);
    const NAME(gradient) d = NAME(gru_gradient)(a, at, y, h, uh, dh);
    NAME(keep)(a, at, &d, 3);
}

/* A unit on an array (blocks, rows, units): its value, or with d_value the gradient of x. Thread n has
   rows n, n + threads, ... and its own row of the sums for p. */
KERNEL NAME(unit_map)(GIVEN site unit, GIVEN shape size, const REAL *x, REAL *value,
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
