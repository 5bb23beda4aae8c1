/* Scores of additive attention, e = v . phi(key + q), without phi in memory. Included once per REAL.

   Forward leaves nothing behind but the scores; backward makes phi and its derivatives again from
   key and q. Chunks as in layers.h, of positions in forward and of sentences in backward. */

/* LANES numbers of a row from the tile's first unit on, zeros past the last unit. Sums over rows are
   written with whole rows, since compilers shuffle loops of them. */
INLINE NAME(lanes) NAME(load_lanes)(const NAME(place) *at, const void *row) {
    return NAME(load_row)((const REAL *)row + at->unit, at->units);
}

INLINE void NAME(add_lanes)(const NAME(place) *at, NAME(lanes) sum, void *row) {
    sum += NAME(load_lanes)(at, row);
    NAME(store_row)(&sum, (REAL *)row + at->unit, at->units);
}

/* key + q on a tile of one sentence. */
INLINE void NAME(score_input)(const score *a, const NAME(place) *at, NAME(lanes) x[ROWS]) {
    const REAL *keys = (const REAL *)a->keys + at->t * a->key_strides[0];
    const NAME(lanes) q = NAME(load_lanes)(at, (const REAL *)a->q + at->t * at->hidden);
    NAME(load)(at, keys, a->key_strides[1], (REAL *)x);
    for (int r = 0; r < ROWS; r++) x[r] += q;
}

void NAME(score_forward)(const score *a) {
    const int64_t rows = a->size.rows, units = a->size.units;
    const int64_t row_tiles = (rows + ROWS - 1) / ROWS, total = a->size.blocks * row_tiles;
    _Pragma("omp parallel for schedule(static) num_threads(a->size.threads) if (a->size.threads > 1)")
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int64_t n = total * chunk / CHUNKS; n < total * (chunk + 1) / CHUNKS; n++) {
            const int64_t block = n / row_tiles, row = n % row_tiles * ROWS;
            NAME(lanes) x[ROWS], phi[ROWS], sums[ROWS] = {{0}};
            for (int64_t tile = 0; tile * LANES < units; tile++) {
                NAME(place) at = NAME(tile_at)(block, row, tile, rows, units);
                NAME(score_input)(a, &at, x);
                NAME(unit)(&a->unit, &at, 0, (REAL *)x, (REAL *)phi, 0, 0);
                const NAME(lanes) v = NAME(load_lanes)(&at, a->v);
                for (int r = 0; r < ROWS; r++) sums[r] += v * phi[r];
            }
            REAL *scores = (REAL *)a->scores + block * rows + row;
            for (int r = 0; r < ROWS && row + r < rows; r++) {
                scores[r] = 0;
                for (int l = 0; l < LANES; l++) scores[r] += sums[r][l];
            }
        }
}

/* Four positions of a sentence, of which d_e is given: adds to the gradients of q, v and p, and
   writes the gradient of the keys, or adds it where steps before have written theirs. */
INLINE void NAME(score_backward_tile)(const score *a, const NAME(place) *at, const REAL *d_e) {
    NAME(lanes) x[ROWS], phi[ROWS], dx[ROWS], dp[ROWS], d_v = {0}, d_q = {0}, d_p = {0};
    NAME(score_input)(a, at, x);
    NAME(unit)(&a->unit, at, 1, (REAL *)x, (REAL *)phi, (REAL *)dx, (REAL *)dp);
    const NAME(lanes) v = NAME(load_lanes)(at, a->v);
    for (int r = 0; r < ROWS; r++) {
        const NAME(lanes) g = d_e[r] * v;
        dx[r] *= g;
        d_q += dx[r];
        d_p += dp[r] * g;
        d_v += d_e[r] * phi[r];
    }
    NAME(add_lanes)(at, d_v, a->d_v);
    NAME(add_lanes)(at, d_q, (REAL *)a->d_q + at->t * at->hidden);
    if (a->unit.p_grad) NAME(add_lanes)(at, d_p, a->unit.p_grad);
    if (!a->d_keys) return;
    REAL *d_keys = (REAL *)a->d_keys + at->t * at->batch * at->hidden;
    if (a->adds) {
        NAME(load)(at, d_keys, at->hidden, (REAL *)x);
        for (int r = 0; r < ROWS; r++) dx[r] += x[r];
    }
    NAME(store)(at, (REAL *)dx, d_keys, at->hidden);
}

/* d_q has to be zeros, and so have the sums for v and p, one row a chunk: (CHUNKS, units). Masked
   positions, whose d_e is zero, have nothing to add. */
void NAME(score_backward)(const score *a) {
    const int64_t rows = a->size.rows, units = a->size.units, blocks = a->size.blocks;
    _Pragma("omp parallel for schedule(static) num_threads(a->size.threads) if (a->size.threads > 1)")
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        score own = *a;
        own.d_v = (REAL *)own.d_v + chunk * units;
        if (own.unit.p_grad) own.unit.p_grad = (REAL *)own.unit.p_grad + chunk * units;
        for (int64_t block = blocks * chunk / CHUNKS; block < blocks * (chunk + 1) / CHUNKS; block++)
            for (int64_t row = 0; row < rows; row += ROWS) {
                REAL d_e[ROWS] = {0};
                const REAL *d_scores = (const REAL *)own.d_scores + block * rows + row;
                for (int r = 0; r < ROWS && row + r < rows; r++) d_e[r] = d_scores[r];
                int masked = d_e[0] == 0 && d_e[1] == 0 && d_e[2] == 0 && d_e[3] == 0;
                if (masked && (own.adds || !own.d_keys)) continue;
                for (int64_t tile = 0; tile * LANES < units; tile++) {
                    NAME(place) at = NAME(tile_at)(block, row, tile, rows, units);
                    NAME(score_backward_tile)(&own, &at, d_e);
                }
            }
    }
}
