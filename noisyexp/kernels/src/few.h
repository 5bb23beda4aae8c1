/* Tiles of noise at the output in which few units saturate: only those need draws and exponentials, and
   they fit into half of the registers. Results have the bits that a whole tile has. Included by unit.h. */

#ifdef FEW_UNITS

/* In which columns of a tile, one for each unit, any row saturates, so that Eq 9's sigma is not zero: a
   bit for each. NaN counts. */
INLINE uint32_t NAME(saturated)(const activation *s, const REAL *x) {
    const __m512 slope = _mm512_set1_ps((float)s->slope), offset = _mm512_set1_ps((float)s->offset);
    const __m512 low = _mm512_set1_ps((float)s->low), high = _mm512_set1_ps((float)s->high);
    uint32_t columns = 0;
    for (int r = 0; r < ROWS; r++) {
        const __m512 u = _mm512_fmadd_ps(slope, _mm512_loadu_ps(x + r * LANES), offset);
        columns |= _mm512_cmp_ps_mask(u, low, _CMP_NGE_UQ) | _mm512_cmp_ps_mask(u, high, _CMP_NLE_UQ);
    }
    return columns;
}

/* As `output_noise` for a whole tile where at most half of its columns saturate; else 0, and nothing
   done. Of unit j of those columns, rows 0 and 2 are in lanes 2j and 2j + 1 of a first register, rows 1
   and 3 in those of a second. */
INLINE int NAME(few)(const activation *s, const NAME(place) *at, uint32_t columns, int grad,
                     const REAL *x, REAL *v, REAL *dx, REAL *dp) {
    if (s->form != FORM_OUTPUT || s->multiplier == MULTIPLIER_MEAN || s->given) return 0;
    if (__builtin_popcount(columns) > LANES / 2) return 0;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i units = _mm512_maskz_compress_epi32((__mmask16)columns, lanes);
    const wide unit = (wide)_mm512_cvtepu32_epi64(_mm512_castsi512_si256(units));
    /* From which of 2 x 16 numbers a lane comes: of two rows, one after the other. */
    const __m512i from = (__m512i)(unit | (unit + LANES) << 32);
    __m512 in[2], xi[2], value[2], by_x[2], by_p[2], p[2];
    for (int i = 0; i < 2; i++) {
        in[i] = _mm512_permutex2var_ps(_mm512_loadu_ps(x + i * LANES), from,
                                       _mm512_loadu_ps(x + (i + 2) * LANES));
        if (_mm512_cmp_ps_mask(_mm512_abs_ps(in[i]), _mm512_set1_ps(1e18f), _CMP_GT_OQ)) return 0;
    }
    NAME(lanes) of_units = {0};
    const REAL *all_p = (const REAL *)s->p + at->unit * s->p_stride;
    if (s->p_stride == 1) of_units = NAME(load_row)(all_p, at->units);
    else
        for (int l = 0; l < at->units; l++) of_units[l] = all_p[l * s->p_stride];
    p[0] = p[1] = _mm512_permutexvar_ps(from, (__m512)of_units);
    normal_few(s->key, unit + (uint32_t)at->unit, (uint32_t)(at->row / ROWS), (uint32_t)at->t,
               (float *)xi);
    NAME(output_noise)(s, 2 * LANES, grad, (float *)in, (float *)p, (float *)xi, (float *)value,
                       (float *)by_x, (float *)by_p, 0);
    NAME(noiseless)(s, grad, x, v, dx, dp);
    /* Where a column's numbers are in those registers. */
    const __m512i first = _mm512_maskz_expand_epi32((__mmask16)columns, _mm512_slli_epi32(lanes, 1));
    for (int r = 0; r < ROWS; r++) {
        const __m512i where = _mm512_add_epi32(first, _mm512_set1_epi32(r / 2));
#define PUT(all, of_few)                                                                        \
    _mm512_storeu_ps(all + r * LANES,                                                           \
                     _mm512_mask_permutexvar_ps(_mm512_loadu_ps(all + r * LANES),               \
                                                (__mmask16)columns, where, of_few[r % 2]))
        PUT(v, value);
        if (grad) {
            PUT(dx, by_x);
            PUT(dp, by_p);
        }
#undef PUT
    }
    return 1;
}

#else

/* All bits where any number saturates: without such instructions only that much is looked for. */
INLINE uint32_t NAME(saturated)(const activation *s, const REAL *x) {
    const REAL slope = s->slope, offset = s->offset, low = s->low, high = s->high;
    int any = 0;
    for (int l = 0; l < TILE; l++) {
        REAL u = slope * x[l] + offset;
        any |= !((u >= low) & (u <= high));
    }
    return any ? ~0u : 0;
}

INLINE int NAME(few)(const activation *s, const NAME(place) *at, uint32_t columns, int grad,
                     const REAL *x, REAL *v, REAL *dx, REAL *dp) {
    (void)s, (void)at, (void)columns, (void)grad, (void)x, (void)v, (void)dx, (void)dp;
    return 0;
}

#endif
