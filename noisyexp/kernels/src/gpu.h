/* Units, and the equations of LSTM and GRU, of a GPU's thread. Included once per REAL.

   Notation of noisyexp/activations/functional.py: u linearisation, h hard unit, excess = h - u,
   sigma = c q^2 with q = g(p excess) - 1/2. unit.h and layers.h say the same in tiles. */

/* Value of a unit and its derivatives by x and by p. */
typedef struct {
    REAL v, dx, dp;
} NAME(value);

INLINE REAL NAME(clipped)(const activation *s, REAL u) {
    const REAL low = (REAL)s->low, high = (REAL)s->high;
    return u < low ? low : (u > high ? high : u);
}

/* Delta of an infinite x, or x itself, made finite, see unit.h. */
INLINE REAL NAME(bounded)(REAL z) {
    const REAL far = (REAL)1e18;
    return z < -far ? -far : (z > far ? far : z);
}

/* alpha h + (1 - alpha) u + d sigma m with m = xi (NAN), |xi| (NAH) or a constant (Eq 11 - 13); the
   same without its last term for units that have none. */
INLINE NAME(value) NAME(output_unit)(const activation *s, REAL x, REAL p, REAL xi) {
    const REAL slope = (REAL)s->slope, alpha = (REAL)s->alpha, rest = 1 - alpha;
    const REAL u = slope * x + (REAL)s->offset, h = NAME(clipped)(s, u);
    NAME(value) y = {alpha * h + (rest == 0 ? (REAL)0 : rest * u), /* u may be infinite */
                     h == u ? slope : slope * rest, 0};
    if (s->form == FORM_HARD || h == u) return y;
    REAL m = s->multiplier == MULTIPLIER_MEAN ? (REAL)s->mean
             : s->multiplier == MULTIPLIER_HALF_NORMAL ? (xi < 0 ? -xi : xi) : xi;
    REAL pushed = (x >= 0 ? (REAL)s->side : -(REAL)s->side) * (REAL)s->c * m;
    const REAL excess = NAME(bounded)(h - u);
    REAL q = (REAL)0.5 * tanh((REAL)0.5 * p * excess), k = 2 * pushed * q * ((REAL)0.25 - q * q);
    y.v += pushed * q * q;
    y.dx = slope * (rest - k * p);
    y.dp = k * excess;
    return y;
}

/* tanh x or 1 / (1 + exp(-x)), see unit.h. */
INLINE NAME(value) NAME(soft_unit)(const activation *s, REAL x) {
    const int is_tanh = s->low < 0;
    const REAL size = x < 0 ? -x : x, e = exp(is_tanh ? -2 * size : -size), over = 1 / (1 + e);
    NAME(value) y = {is_tanh ? (REAL)tanh(x) : (x < 0 ? e : (REAL)1) * over,
                     4 * (REAL)s->slope * e * over * over, 0};
    if (x != x) y.v = x;
    return y;
}

/* sigma of the noise at the input, fixed (Eq 14), where saturated only (Eq 15), or learned (Eq 9, or
   the released code's softplus), and its derivatives. */
INLINE NAME(value) NAME(input_sigma)(const activation *s, REAL x, REAL p, REAL xi) {
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
INLINE NAME(value) NAME(input_unit)(const activation *s, REAL x, REAL p, REAL xi) {
    x = NAME(bounded)(x);
    const NAME(value) sigma = NAME(input_sigma)(s, x, p, xi);
    const REAL u = (REAL)s->slope * (x + sigma.v * xi) + (REAL)s->offset;
    const REAL inside = u >= (REAL)s->low && u <= (REAL)s->high ? (REAL)s->slope : (REAL)0;
    NAME(value) y = {NAME(clipped)(s, u), inside * (1 + sigma.dx * xi), inside * sigma.dp * xi};
    return y;
}

/* The thread's draw: given, or made; 0 for units that draw nothing now, and for NAN, NAH and NANIL
   inside the linear range, where sigma is zero. */
INLINE REAL NAME(draw)(const activation *s, place at, REAL x) {
    if (s->form == FORM_HARD || s->form == FORM_SOFT || s->multiplier == MULTIPLIER_MEAN) return 0;
    if (s->form == FORM_OUTPUT || s->form == FORM_INPUT_LEARNED) {
        const REAL u = (REAL)s->slope * x + (REAL)s->offset;
        if (u >= (REAL)s->low && u <= (REAL)s->high) return 0;
    }
    if (s->given) return SLICE(s->given, at.t);
    return normal(s->key_from ? *s->key_from : s->key, (uint32_t)at.unit, (uint32_t)at.row, (uint32_t)at.t);
}

INLINE NAME(value) NAME(unit)(const activation *s, place at, REAL x) {
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

/* Add the thread's share of the gradient of p to its own place in the activation's sums. */
INLINE void NAME(add_p_grad)(const activation *s, place at, int64_t part, REAL gradient) {
    if (s->p_grad) ((REAL *)s->p_grad)[part * at.hidden + at.unit] += gradient;
}

/* c' = f c + i g; h' = o phi(c'). Takes c and h, gives c' and h'. */
INLINE void NAME(lstm_state)(const layer *a, place at, const REAL y[4], REAL *c, REAL *h) {
    const REAL cell = y[1] * *c + y[0] * y[2];
    const REAL out = y[3] * NAME(unit)(&a->activations[4], at, cell).v;
    if (!MASKED(a)) *c = cell, *h = out; /* past its end a sequence keeps its state */
    SLICE(a->cells, at.t) = *c;
    SLICE(a->output, at.t) = *h;
}

/* phi(c') again, for backward. */
INLINE NAME(value) NAME(lstm_out)(const layer *a, place at, const NAME(value) y[4], REAL c) {
    return NAME(unit)(&a->activations[4], at, y[1].v * c + y[0].v * y[2].v);
}

/* Gradients of one step: of each unit's value; of c before it; and the part of that of h before it
   that goes past the recurrent product. */
typedef struct {
    REAL y[5], c, carry;
} NAME(gradient);

/* From those of h' and c'. v has values of the units, dx the derivative of the last. */
INLINE NAME(gradient) NAME(lstm_gradient)(int masked, const REAL v[5], REAL dx, REAL c, REAL dh,
                                          REAL dc) {
    NAME(gradient) d;
    d.carry = d.c = 0;
    if (masked) { /* the gradient goes to the step before as it is */
        d.carry = dh, d.c = dc;
        dh = dc = 0;
    }
    const REAL d_out = dh * v[3], total = dc + d_out * dx;
    d.y[0] = total * v[2];
    d.y[1] = total * c;
    d.y[2] = total * v[0];
    d.y[3] = dh * v[4];
    d.y[4] = d_out;
    d.c += total * v[1];
    return d;
}

/* n = phi(x_n + r h_n), with h_n = U h + b of n. */
INLINE NAME(value) NAME(gru_n)(const layer *a, place at, REAL r, REAL x, REAL uh) {
    return NAME(unit)(&a->activations[2], at, x + r * uh);
}

/* h' = (1 - z) n + z h. Takes h, gives h'; y has r, z and h_n, which `cells` keeps. */
INLINE void NAME(gru_state)(const layer *a, place at, const REAL y[3], REAL x, REAL *h) {
    const REAL n = NAME(gru_n)(a, at, y[0], x, y[2]).v;
    if (!MASKED(a)) *h = (1 - y[1]) * n + y[1] * *h;
    SLICE(a->cells, at.t) = y[2];
    SLICE(a->output, at.t) = *h;
}

/* From the gradient of h'. v has r, z and n, dx the derivative of n; the gradient of the product U h
   of n is y[2] dx r. */
INLINE NAME(gradient) NAME(gru_gradient)(int masked, const REAL v[3], REAL dx, REAL h, REAL uh,
                                         REAL dh) {
    NAME(gradient) d;
    d.carry = d.c = 0;
    if (masked) d.carry = dh, dh = 0;
    d.y[2] = dh * (1 - v[1]);
    d.y[1] = dh * (h - v[2]);
    d.y[0] = d.y[2] * dx * uh;
    d.carry += dh * v[1];
    return d;
}
