/* Units, LSTM steps and GRU steps of a GPU's thread. Included once per REAL.

   Notation of noisyexp/activations/functional.py: u linearisation, h hard unit, excess = h - u,
   sigma = c q^2 with q = g(p excess) - 1/2. unit.h and layers.h say the same in tiles. */

/* The thread's element of gate k of several, of a sequence of states, and of one state. */
#define GATE(pointer, gates, k) \
    ((REAL *)(pointer))[((at.t * at.batch + at.row) * (gates) + (k)) * at.hidden + at.unit]
#define SLICE(pointer, t) ((REAL *)(pointer))[((t) * at.batch + at.row) * at.hidden + at.unit]
#define STATE(pointer) SLICE(pointer, 0)
#define BEFORE(states, start) (before < 0 ? STATE(start) : SLICE(states, before))
#define MASKED(a) ((a)->mask && !(a)->mask[at.t * at.batch + at.row])

/* Value of a unit and its derivatives by x and by p. */
typedef struct {
    REAL v, dx, dp;
} NAME(value);

INLINE REAL NAME(clipped)(const site *s, REAL u) {
    const REAL low = (REAL)s->low, high = (REAL)s->high;
    return u < low ? low : (u > high ? high : u);
}

/* alpha h + (1 - alpha) u + d sigma m with m = xi (NAN), |xi| (NAH) or a constant (Eq 11 - 13); the
   same without its last term for units that have none. */
INLINE NAME(value) NAME(output_unit)(const site *s, REAL x, REAL p, REAL xi) {
    const REAL slope = (REAL)s->slope, alpha = (REAL)s->alpha, rest = 1 - alpha;
    const REAL u = slope * x + (REAL)s->offset, h = NAME(clipped)(s, u);
    NAME(value) y = {alpha * h + (rest == 0 ? (REAL)0 : rest * u), /* u may be infinite */
                     h == u ? slope : slope * rest, 0};
    if (s->form == FORM_HARD || h == u) return y;
    REAL m = s->multiplier == MULTIPLIER_MEAN ? (REAL)s->mean
             : s->multiplier == MULTIPLIER_HALF_NORMAL ? (xi < 0 ? -xi : xi) : xi;
    REAL pushed = (x >= 0 ? (REAL)s->side : -(REAL)s->side) * (REAL)s->c * m;
    REAL q = (REAL)0.5 * tanh((REAL)0.5 * p * (h - u)), k = 2 * pushed * q * ((REAL)0.25 - q * q);
    y.v += pushed * q * q;
    y.dx = slope * (rest - k * p);
    y.dp = k * (h - u);
    return y;
}

/* tanh x or 1 / (1 + exp(-x)), see unit.h. */
INLINE NAME(value) NAME(soft_unit)(const site *s, REAL x) {
    const int is_tanh = s->low < 0;
    const REAL size = x < 0 ? -x : x, e = exp(is_tanh ? -2 * size : -size), over = 1 / (1 + e);
    NAME(value) y = {is_tanh ? (REAL)tanh(x) : (x < 0 ? e : (REAL)1) * over,
                     4 * (REAL)s->slope * e * over * over, 0};
    if (x != x) y.v = x;
    return y;
}

/* sigma of the noise at the input, fixed (Eq 14), where saturated only (Eq 15), or learned (Eq 9, or
   the released code's softplus), and its derivatives. */
INLINE NAME(value) NAME(input_sigma)(const site *s, REAL x, REAL p, REAL xi) {
    const REAL slope = (REAL)s->slope, c = (REAL)s->c, u = slope * x + (REAL)s->offset;
    const REAL excess = NAME(clipped)(s, u) - u, size = excess < 0 ? -excess : excess;
    NAME(value) sigma = {c, 0, 0};
    if (s->form == FORM_INPUT_SATURATED) {
        sigma.v = (x < 0 ? -x : x) >= (REAL)s->threshold ? c : (REAL)0;
    } else if (s->form == FORM_INPUT_LEARNED) {
        REAL q = (REAL)0.5 * tanh((REAL)0.5 * p * excess), k = 2 * c * q * ((REAL)0.25 - q * q);
        sigma.v = c * q * q;
        sigma.dx = -slope * k * p;
        sigma.dp = k * excess;
    } else if (s->form == FORM_INPUT_LEARNED_CODE) {
        REAL inverse = 1 / ((xi < 0 ? -xi : xi) + (REAL)1e-10);
        REAL z = p * size * inverse, k = c * inverse * (z > 20 ? (REAL)1 : 1 / (1 + exp(-z)));
        /* Linear above 20, as torch.nn.functional.softplus. */
        sigma.v = c * (z > 20 ? z : (z > 0 ? z + log1p(exp(-z)) : log1p(exp(z))));
        sigma.dx = -k * p * slope * (excess > 0 ? 1 : (excess < 0 ? -1 : 0));
        sigma.dp = k * size;
    }
    return sigma;
}

/* h(x + sigma xi). */
INLINE NAME(value) NAME(input_unit)(const site *s, REAL x, REAL p, REAL xi) {
    const NAME(value) sigma = NAME(input_sigma)(s, x, p, xi);
    const REAL u = (REAL)s->slope * (x + sigma.v * xi) + (REAL)s->offset;
    const REAL inside = u >= (REAL)s->low && u <= (REAL)s->high ? (REAL)s->slope : (REAL)0;
    NAME(value) y = {NAME(clipped)(s, u), inside * (1 + sigma.dx * xi), inside * sigma.dp * xi};
    return y;
}

/* The thread's draw: given, or made; 0 for units that draw nothing now, and for NAN, NAH and NANIL
   inside the linear range, where sigma is zero. */
INLINE REAL NAME(draw)(const site *s, place at, REAL x) {
    if (s->form == FORM_HARD || s->form == FORM_SOFT || s->multiplier == MULTIPLIER_MEAN) return 0;
    if (s->form == FORM_OUTPUT || s->form == FORM_INPUT_LEARNED) {
        const REAL u = (REAL)s->slope * x + (REAL)s->offset;
        if (u >= (REAL)s->low && u <= (REAL)s->high) return 0;
    }
    if (s->given) return SLICE(s->given, at.t);
    return normal(s->key, (uint32_t)at.unit, (uint32_t)at.row, (uint32_t)at.t);
}

INLINE NAME(value) NAME(unit)(const site *s, place at, REAL x) {
    const REAL p = s->p ? ((const REAL *)s->p)[at.unit * s->p_stride] : (REAL)0;
    const REAL xi = NAME(draw)(s, at, x);
    NAME(value) y = s->form == FORM_SOFT     ? NAME(soft_unit)(s, x)
                    : s->form <= FORM_OUTPUT ? NAME(output_unit)(s, x, p, xi)
                                             : NAME(input_unit)(s, x, p, xi);
    if (s->clip) {
        if (!(y.v >= (REAL)s->low && y.v <= (REAL)s->high)) y.dx = y.dp = 0;
        y.v = NAME(clipped)(s, y.v);
    }
    return y;
}

/* Add the thread's share of the gradient of p to its own place in the site's sums. */
INLINE void NAME(add_p_grad)(const site *s, place at, int64_t part, REAL gradient) {
    if (s->p_grad) ((REAL *)s->p_grad)[part * at.hidden + at.unit] += gradient;
}

/* The gates of an LSTM: stored products and bias through their units. */
INLINE void NAME(lstm_gates)(const layer *a, place at, NAME(value) y[4]) {
    for (int k = 0; k < 4; k++) {
        REAL x = GATE(a->gates, 4, k);
        if (a->bias) x += ((const REAL *)a->bias)[k * at.hidden + at.unit];
        y[k] = NAME(unit)(&a->sites[k], at, x);
    }
}

/* c' = f c + i g; h' = o phi(c'). `gates` holds W x + U h of i, f, g, o. */
KERNEL NAME(lstm_forward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    NAME(value) y[4];
    if (at.row >= at.batch) return;
    NAME(lstm_gates)(a, at, y);
    const REAL c = BEFORE(a->cells, a->c_start), cell = y[1].v * c + y[0].v * y[2].v;
    const REAL h = y[3].v * NAME(unit)(&a->sites[4], at, cell).v;
    const int masked = MASKED(a); /* past its end a sequence keeps its state */
    SLICE(a->cells, t) = masked ? c : cell;
    SLICE(a->output, t) = masked ? BEFORE(a->output, a->h_start) : h;
}

KERNEL NAME(lstm_backward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    NAME(value) y[4];
    if (at.row >= at.batch) return;
    NAME(lstm_gates)(a, at, y);
    const REAL c = BEFORE(a->cells, a->c_start), cell = y[1].v * c + y[0].v * y[2].v;
    const NAME(value) out = NAME(unit)(&a->sites[4], at, cell);
    REAL dh = SLICE(a->d_output, t) + STATE(a->d_h), dc = STATE(a->d_c), pass_h = 0, pass_c = 0;
    if (MASKED(a)) { /* the gradient goes to the step before as it is */
        pass_h = dh, pass_c = dc;
        dh = dc = 0;
    }
    const REAL d_out = dh * y[3].v, total = dc + d_out * out.dx;
    const REAL d[4] = {total * y[2].v, total * c, total * y[0].v, dh * out.v};
    for (int k = 0; k < 4; k++) {
        NAME(add_p_grad)(&a->sites[k], at, at.row, d[k] * y[k].dp);
        GATE(a->d_gates, 4, k) = d[k] * y[k].dx;
    }
    NAME(add_p_grad)(&a->sites[4], at, at.row, d_out * out.dp);
    STATE(a->d_c) = total * y[1].v + pass_c;
    STATE(a->d_carry) = pass_h;
}

/* n = phi(x_n + r h_n); h' = (1 - z) n + z h. `gates` holds W x + b of r, z, n and takes U h + b of
   r and z; `cells` keeps h_n = U h + b of n. */
KERNEL NAME(gru_forward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    REAL y[2];
    if (at.row >= at.batch) return;
    const REAL *recurrent = (const REAL *)a->recurrent + at.row * 3 * at.hidden + at.unit;
    for (int k = 0; k < 2; k++) {
        const REAL x = GATE(a->gates, 3, k) + recurrent[k * at.hidden];
        GATE(a->gates, 3, k) = x;
        y[k] = NAME(unit)(&a->sites[k], at, x).v;
    }
    const REAL uh = recurrent[2 * at.hidden], h = BEFORE(a->output, a->h_start);
    const REAL n = NAME(unit)(&a->sites[2], at, GATE(a->gates, 3, 2) + y[0] * uh).v;
    SLICE(a->cells, t) = uh;
    SLICE(a->output, t) = MASKED(a) ? h : (1 - y[1]) * n + y[1] * h;
}

KERNEL NAME(gru_backward)(GIVEN layer own, int64_t t, int64_t before) {
    const layer *a = &own;
    const place at = place_in(a, t);
    if (at.row >= at.batch) return;
    const NAME(value) r = NAME(unit)(&a->sites[0], at, GATE(a->gates, 3, 0));
    const NAME(value) z = NAME(unit)(&a->sites[1], at, GATE(a->gates, 3, 1));
    const REAL uh = SLICE(a->cells, t), h = BEFORE(a->output, a->h_start);
    const NAME(value) n = NAME(unit)(&a->sites[2], at, GATE(a->gates, 3, 2) + r.v * uh);
    REAL dh = SLICE(a->d_output, t) + STATE(a->d_h), pass = 0;
    if (MASKED(a)) pass = dh, dh = 0;
    const REAL d_n = dh * (1 - z.v), d_z = dh * (h - n.v), d_x = d_n * n.dx, d_r = d_x * uh;
    NAME(add_p_grad)(&a->sites[0], at, at.row, d_r * r.dp);
    NAME(add_p_grad)(&a->sites[1], at, at.row, d_z * z.dp);
    NAME(add_p_grad)(&a->sites[2], at, at.row, d_n * n.dp);
    GATE(a->d_gates, 3, 0) = GATE(a->d_recurrent, 3, 0) = d_r * r.dx;
    GATE(a->d_gates, 3, 1) = GATE(a->d_recurrent, 3, 1) = d_z * z.dx;
    GATE(a->d_gates, 3, 2) = d_x;
    GATE(a->d_recurrent, 3, 2) = d_x * r.v;
    STATE(a->d_carry) = pass + dh * z.v;
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

#undef GATE
#undef SLICE
#undef STATE
#undef BEFORE
#undef MASKED
