/* One tile of one unit: its value and, for backward, its derivatives. Included once per REAL.

   Notation of noisyexp/activations/functional.py: u linearisation, h hard unit, delta = h - u,
   sigma = c q^2 with q = g(p delta) - 1/2, d the side that the noise pushes to. */

/* q = g(z) - 1/2 = tanh(z / 2) / 2. g'(z) is 1/4 - q^2. */
INLINE REAL NAME(half_tanh)(REAL z) {
    REAL e = NAME(exp_minus)(z);
    return NAME(copy_sign)((REAL)0.5 * (1 - e) / (1 + e), z);
}

/* Derivatives by x and by p of a unit with noise at the output: from x, p and k, which holds all that
   comes of the draw. */
INLINE void NAME(output_slopes)(const activation *s, REAL x, REAL p, REAL k, REAL *dx, REAL *dp) {
    const REAL slope = s->slope, offset = s->offset, low = s->low, high = s->high;
    const REAL alpha = s->alpha;
    REAL u = slope * x + offset;
    REAL h = u < low ? low : (u > high ? high : u);
    *dx = h == u ? slope : slope * (1 - alpha - k * p);
    *dp = k * (h - u);
}

/* Of `count` numbers alpha h + (1 - alpha) u + d sigma m with m = xi (NAN), |xi| (NAH) or a constant (Eq 11 - 13); with
   `grad` the derivatives, or where there is `kept` the k that they follow from. */
INLINE void NAME(output_noise)(const activation *s, int count, int grad, const REAL *x,
                               const REAL *p, const REAL *xi, REAL *v, REAL *dx, REAL *dp,
                               REAL *kept) {
    const REAL slope = s->slope, offset = s->offset, low = s->low, high = s->high;
    const REAL alpha = s->alpha, rest = 1 - alpha, c = s->c, side = s->side;
    REAL push[TILE];
    if (s->multiplier == MULTIPLIER_MEAN)
        for (int l = 0; l < count; l++) push[l] = c * s->mean;
    else if (s->multiplier == MULTIPLIER_HALF_NORMAL)
        for (int l = 0; l < count; l++) push[l] = c * NAME(absolute)(xi[l]);
    else
        for (int l = 0; l < count; l++) push[l] = c * xi[l];
    for (int l = 0; l < count; l++) {
        REAL u = slope * x[l] + offset;
        REAL h = u < low ? low : (u > high ? high : u);
        REAL delta = h - u;
        REAL q = NAME(half_tanh)(p[l] * delta);
        REAL pushed = x[l] >= 0 ? side * push[l] : -side * push[l];
        REAL leak = rest == 0 ? 0 : u; /* u may be infinite */
        v[l] = NAME(fuse)(alpha, h, rest * leak) + pushed * q * q;
        if (grad || kept) {
            REAL k = 2 * pushed * q * ((REAL)0.25 - q * q);
            if (kept) kept[l] = k;
            else NAME(output_slopes)(s, x[l], p[l], k, &dx[l], &dp[l]);
        }
    }
}

/* alpha h + (1 - alpha) u: units without noise, and tiles in which none saturates. */
INLINE void NAME(noiseless)(const activation *s, int grad, const REAL *x, REAL *v, REAL *dx,
                            REAL *dp) {
    const REAL slope = s->slope, offset = s->offset, low = s->low, high = s->high;
    const REAL alpha = s->alpha, rest = 1 - alpha;
    for (int l = 0; l < TILE; l++) {
        REAL u = slope * x[l] + offset;
        REAL h = u < low ? low : (u > high ? high : u);
        REAL leak = rest == 0 ? 0 : u;
        v[l] = NAME(fuse)(alpha, h, rest * leak);
        if (grad) {
            dx[l] = h == u ? slope : slope * rest;
            dp[l] = 0;
        }
    }
}

/* The soft units, tanh x and the logistic 1 / (1 + exp(-x)), by e = exp(-2 |x|) and exp(-|x|). Both
   have the derivative 4 slope e / (1 + e)^2, which keeps its digits where 1 - v^2 loses them. */
INLINE void NAME(soft)(const activation *s, int grad, const REAL *x, REAL *v, REAL *dx, REAL *dp) {
    const REAL scale = 4 * s->slope;
    REAL e[TILE], rest[TILE];
    if (s->low < 0) {
        for (int l = 0; l < TILE; l++) e[l] = NAME(exp_parts)(2 * x[l], &rest[l]);
        for (int l = 0; l < TILE; l++) v[l] = NAME(copy_sign)(rest[l] / (1 + e[l]), x[l]);
    } else {
        for (int l = 0; l < TILE; l++) e[l] = NAME(exp_parts)(x[l], &rest[l]);
        for (int l = 0; l < TILE; l++) v[l] = (x[l] < 0 ? e[l] : 1) / (1 + e[l]);
    }
    for (int l = 0; l < TILE; l++) v[l] = x[l] == x[l] ? v[l] : x[l];
    if (!grad) return;
    for (int l = 0; l < TILE; l++) {
        REAL d = scale * e[l] / ((1 + e[l]) * (1 + e[l]));
        dx[l] = x[l] == x[l] ? d : x[l];
        dp[l] = 0;
    }
}

/* What is infinite in a tile becomes far: with 0 times infinity, sigma of p = 0 and all derivatives
   would be NaN, which have limits. Returns whether anything was; NaN stays. Apart from the loops of
   the units, which a clamp makes 5 % slower. */
INLINE int NAME(come_near)(const REAL *x, REAL *near) {
    const REAL far = (REAL)1e18;
    int any = 0;
    for (int l = 0; l < TILE; l++) any |= (x[l] < -far) | (x[l] > far);
    if (any)
        for (int l = 0; l < TILE; l++) near[l] = x[l] < -far ? -far : (x[l] > far ? far : x[l]);
    return any;
}

/* h(z) with z = x + sigma xi: sigma fixed (Eq 14), where saturated only (Eq 15), or learned. */
INLINE void NAME(input_noise)(const activation *s, int grad, const REAL *x, const REAL *p,
                              const REAL *xi, REAL *v, REAL *dx, REAL *dp) {
    const REAL slope = s->slope, offset = s->offset, low = s->low, high = s->high;
    const REAL c = s->c, threshold = s->threshold;
    REAL sigma[TILE], dsigma_dx[TILE], dsigma_dp[TILE];
    memset(dsigma_dx, 0, sizeof dsigma_dx);
    memset(dsigma_dp, 0, sizeof dsigma_dp);
    if (s->form == FORM_INPUT_LEARNED)
        for (int l = 0; l < TILE; l++) {
            REAL u = slope * x[l] + offset;
            REAL delta = (u < low ? low : (u > high ? high : u)) - u;
            REAL q = NAME(half_tanh)(p[l] * delta), k = 2 * c * q * ((REAL)0.25 - q * q);
            sigma[l] = c * q * q;
            dsigma_dx[l] = -slope * k * p[l]; /* inside the linear range q and k are zero */
            dsigma_dp[l] = k * delta;
        }
    else if (s->form == FORM_INPUT_SATURATED)
        for (int l = 0; l < TILE; l++) sigma[l] = NAME(absolute)(x[l]) >= threshold ? c : 0;
    else
        for (int l = 0; l < TILE; l++) sigma[l] = c;
    for (int l = 0; l < TILE; l++) {
        REAL u = slope * (x[l] + sigma[l] * xi[l]) + offset;
        REAL h = u < low ? low : (u > high ? high : u);
        v[l] = h;
        if (grad) {
            REAL inside = h == u ? slope : 0;
            dx[l] = inside * (1 + dsigma_dx[l] * xi[l]);
            dp[l] = inside * dsigma_dp[l] * xi[l];
        }
    }
}

/* NANIL of the released code: sigma = c softplus(p |delta| / (|xi| + 1e-10)). */
static void NAME(input_noise_code)(const activation *s, const REAL *x, const REAL *p,
                                   const REAL *xi, REAL *v, REAL *dx, REAL *dp) {
    const REAL slope = s->slope, offset = s->offset, low = s->low, high = s->high, c = s->c;
    for (int l = 0; l < TILE; l++) {
        REAL u = slope * x[l] + offset;
        REAL delta = (u < low ? low : (u > high ? high : u)) - u;
        REAL inverse = 1 / (NAME(absolute)(xi[l]) + (REAL)1e-10);
        REAL z = p[l] * NAME(absolute)(delta) * inverse, e = NAME(exp_minus)(z);
        /* Linear above 20, as torch.nn.functional.softplus. */
        REAL softplus = z > 20 ? z : (z > 0 ? z : 0) + NAME(log_one_plus)(e);
        REAL k = c * (z > 20 ? 1 : (z >= 0 ? 1 : e) / (1 + e)) * inverse;
        REAL sign = delta > 0 ? 1 : (delta < 0 ? -1 : 0);
        REAL uz = slope * (x[l] + c * softplus * xi[l]) + offset;
        REAL inside = (uz >= low) & (uz <= high) ? slope : (REAL)0;
        v[l] = uz < low ? low : (uz > high ? high : uz);
        dx[l] = inside * (1 - k * p[l] * sign * slope * xi[l]);
        dp[l] = inside * k * NAME(absolute)(delta) * xi[l];
    }
}

/* Where a tile lies: rows [row, row + rows), units [unit, unit + units) of step t. */
typedef struct {
    int64_t t, row, unit, batch, hidden;
    int rows, units;
} NAME(place);

/* Rows of a (batch, hidden) slice into a padded tile and back. */
INLINE void NAME(load)(const NAME(place) *at, const REAL *from, int64_t stride, REAL *tile) {
    NAME(anywhere) *to = (NAME(anywhere) *)tile;
    from += at->row * stride + at->unit;
    if (at->rows == ROWS) {
        for (int r = 0; r < ROWS; r++) to[r] = NAME(load_row)(from + r * stride, at->units);
        return;
    }
    for (int r = 0; r < ROWS; r++) {
        if (r < at->rows) to[r] = NAME(load_row)(from + r * stride, at->units);
        else to[r] = (NAME(lanes)){0};
    }
}

INLINE void NAME(store)(const NAME(place) *at, const REAL *tile, REAL *to, int64_t stride) {
    const NAME(anywhere) *from = (const NAME(anywhere) *)tile;
    to += at->row * stride + at->unit;
    for (int r = 0; r < at->rows; r++) NAME(store_row)(from + r, to + r * stride, at->units);
}

/* p of the tile's units, the same in every row. */
INLINE void NAME(load_p)(const activation *s, const NAME(place) *at, REAL *p) {
    const REAL *from = (const REAL *)s->p + at->unit * s->p_stride;
    NAME(lanes) row = {0};
    if (s->p_stride == 1) row = NAME(load_row)(from, at->units);
    else
        for (int l = 0; l < at->units; l++) row[l] = from[l * s->p_stride];
    for (int r = 0; r < ROWS; r++) ((NAME(anywhere) *)p)[r] = row;
}

/* The draws of a tile: given, or made. */
INLINE void NAME(draw)(const activation *s, const NAME(place) *at, REAL *xi) {
    if (s->given) {
        NAME(load)(at, (const REAL *)s->given + at->t * at->batch * at->hidden, at->hidden, xi);
        return;
    }
    float raw[TILE];
    normal_tile(s->key, (uint32_t)at->unit, (uint32_t)(at->row / ROWS), (uint32_t)at->t, raw);
    for (int l = 0; l < TILE; l++) xi[l] = raw[l];
}

#include "few.h"

/* Value of a unit on a tile; with `grad` also its derivatives by x and by p. Or with `kept` what
   `kept_slopes` makes them of later: k of noise at the output, else the draw. */
INLINE void NAME(compute)(const activation *s, const NAME(place) *at, int grad, const REAL *x,
                          REAL *v, REAL *dx, REAL *dp, REAL *kept) {
    REAL xi[TILE], p[TILE], near[TILE], unused_dx[TILE], unused_dp[TILE];
    uint32_t columns = ~0u;
    int quiet = s->form == FORM_HARD;
    if (s->form == FORM_OUTPUT || s->form == FORM_INPUT_LEARNED) {
        columns = NAME(saturated)(s, x);
        quiet = !columns;
    }
    if (kept && (quiet || s->form == FORM_SOFT)) memset(kept, 0, TILE * sizeof(REAL));
    if (s->form == FORM_SOFT) {
        NAME(soft)(s, grad, x, v, dx, dp);
    } else if (quiet) {
        NAME(noiseless)(s, grad, x, v, dx, dp);
    } else if (kept || !NAME(few)(s, at, columns, grad, x, v, dx, dp)) {
        if (s->multiplier != MULTIPLIER_MEAN) NAME(draw)(s, at, xi);
        else memset(xi, 0, sizeof xi);
        if (s->p) NAME(load_p)(s, at, p);
        const int far = s->p && NAME(come_near)(x, near);
        const REAL *z = far ? near : x, leak = (REAL)(s->slope * (1 - s->alpha));
        if (kept && s->form != FORM_OUTPUT) memcpy(kept, xi, sizeof xi);
        if (s->form == FORM_OUTPUT) NAME(output_noise)(s, TILE, grad, z, p, xi, v, dx, dp, kept);
        else if (s->form == FORM_INPUT_LEARNED_CODE)
            NAME(input_noise_code)(s, z, p, xi, v, grad ? dx : unused_dx, grad ? dp : unused_dp);
        else NAME(input_noise)(s, grad, z, p, xi, v, dx, dp);
        if (far && s->form == FORM_OUTPUT && leak != 0)
            for (int l = 0; l < TILE; l++) v[l] += leak * (x[l] - z[l]);
    }
    if (s->clip) {
        const REAL low = s->low, high = s->high;
        for (int l = 0; l < TILE; l++) {
            if (grad) {
                REAL pass = (v[l] >= low) & (v[l] <= high) ? (REAL)1 : (REAL)0;
                dx[l] *= pass;
                dp[l] *= pass;
            }
            v[l] = v[l] < low ? low : (v[l] > high ? high : v[l]);
        }
    }
}

/* Functions that all kernels call: put into each of them, they take a compiler three times as long, and
   are no faster. */
#define APART static __attribute__((noinline)) void
APART NAME(unit_value)(const activation *s, const NAME(place) *at, const REAL *x, REAL *v) {
    NAME(compute)(s, at, 0, x, v, 0, 0, 0);
}

APART NAME(unit_slopes)(const activation *s, const NAME(place) *at, const REAL *x, REAL *v,
                        REAL *dx, REAL *dp) {
    NAME(compute)(s, at, 1, x, v, dx, dp, 0);
}

APART NAME(unit_kept)(const activation *s, const NAME(place) *at, const REAL *x, REAL *v,
                      REAL *kept) {
    NAME(compute)(s, at, 0, x, v, 0, 0, kept);
}

/* The derivatives on a tile from what `unit_kept` kept of noise at the output, without a clip. */
APART NAME(kept_slopes)(const activation *s, const NAME(place) *at, const REAL *x, const REAL *kept,
                        REAL *dx, REAL *dp) {
    REAL p[TILE], near[TILE];
    NAME(load_p)(s, at, p);
    const REAL *z = NAME(come_near)(x, near) ? near : x;
    for (int l = 0; l < TILE; l++) NAME(output_slopes)(s, z[l], p[l], kept[l], &dx[l], &dp[l]);
}
#undef APART

INLINE void NAME(unit)(const activation *s, const NAME(place) *at, int grad, const REAL *x, REAL *v,
                       REAL *dx, REAL *dp) {
    if (grad) NAME(unit_slopes)(s, at, x, v, dx, dp);
    else NAME(unit_value)(s, at, x, v);
}

/* Add the tile's share of the gradient of p to the activation's sum over rows. */
INLINE void NAME(add_p_grad)(const activation *s, const NAME(place) *at, const REAL *g,
                             const REAL *dp) {
    REAL *sum = (REAL *)s->p_grad;
    if (!sum) return;
    NAME(lanes) total = {0};
    for (int l = 0; l < LANES; l++)
        total[l] = (g[l] * dp[l] + g[LANES + l] * dp[LANES + l])
                   + (g[2 * LANES + l] * dp[2 * LANES + l] + g[3 * LANES + l] * dp[3 * LANES + l]);
    sum += at->unit;
    total += NAME(load_row)(sum, at->units);
    NAME(store_row)(&total, sum, at->units);
}
