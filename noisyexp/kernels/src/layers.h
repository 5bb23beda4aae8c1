/* Whole units, LSTM steps and GRU steps, made of tiles. Included once per REAL.

   Matrix products are left to torch. Work is split into a fixed number of chunks of tiles, whatever
   the number of threads, and each chunk adds up its own gradients: every sum has one order. */

/* Views of one tile of a (batch, gates * hidden) slice. */
#define GATE(pointer, t, gates, k) \
    ((REAL *)(pointer) + (t) * a->batch * (gates) * a->hidden + (k) * a->hidden)
#define SLICE(pointer, t) ((REAL *)(pointer) + (t) * a->batch * a->hidden)

INLINE NAME(place) NAME(tile_at)(int64_t t, int64_t row, int64_t tile, int64_t batch,
                                 int64_t hidden) {
    NAME(place) at = {t, row, tile * LANES, batch, hidden, ROWS, LANES};
    if (batch - row < ROWS) at.rows = (int)(batch - row);
    if (hidden - at.unit < LANES) at.units = (int)(hidden - at.unit);
    return at;
}

/* Rows of the tile that are past their sequence's end at step t keep `old`. */
INLINE void NAME(keep_masked)(const layer *a, const NAME(place) *at, const REAL *old, REAL *new) {
    if (!a->mask) return;
    for (int r = 0; r < at->rows; r++)
        if (!a->mask[at->t * a->batch + at->row + r])
            ((NAME(anywhere) *)new)[r] = ((const NAME(anywhere) *)old)[r];
}

/* Move the gradient of masked rows from `d` to `pass`, which goes to the step before as it is. */
INLINE void NAME(split_masked)(const layer *a, const NAME(place) *at, REAL *d, REAL *pass) {
    memset(pass, 0, TILE * sizeof(REAL));
    if (!a->mask) return;
    for (int r = 0; r < at->rows; r++)
        if (!a->mask[at->t * a->batch + at->row + r])
            for (int l = 0; l < LANES; l++) {
                pass[r * LANES + l] = d[r * LANES + l];
                d[r * LANES + l] = 0;
            }
}

/* Gate k of an LSTM before its unit: the stored products and the bias, which is cheaper to add here
   than to write into the products first. */
INLINE void NAME(load_gate)(const layer *a, const NAME(place) *at, int k, REAL *x) {
    NAME(load)(at, GATE(a->gates, at->t, 4, k), 4 * a->hidden, x);
    if (!a->bias) return;
    const NAME(lanes) b =
        NAME(load_row)((const REAL *)a->bias + k * a->hidden + at->unit, at->units);
    for (int r = 0; r < ROWS; r++) ((NAME(anywhere) *)x)[r] += b;
}

/* The gradient of a step's output; zeros where none is given. */
INLINE void NAME(load_d_output)(const layer *a, const NAME(place) *at, REAL *d) {
    if (a->d_output) NAME(load)(at, SLICE(a->d_output, at->t), a->hidden, d);
    else memset(d, 0, TILE * sizeof(REAL));
}

/* c' = f c + i g; h' = o phi(c'). `gates` holds W x + U h of i, f, g, o. */
static void NAME(lstm_forward_tile)(const layer *a, NAME(place) at, const REAL *h, const REAL *c) {
    REAL x[TILE], i[TILE], f[TILE], g[TILE], o[TILE], old[TILE], new[TILE], out[TILE];
    REAL *const gate[4] = {i, f, g, o};
    for (int k = 0; k < 4; k++) {
        NAME(load_gate)(a, &at, k, x);
        NAME(unit)(&a->activations[k], &at, 0, x, gate[k], 0, 0);
    }
    NAME(load)(&at, c, a->hidden, old);
    for (int l = 0; l < TILE; l++) new[l] = f[l] * old[l] + i[l] * g[l];
    NAME(unit)(&a->activations[4], &at, 0, new, out, 0, 0);
    for (int l = 0; l < TILE; l++) out[l] *= o[l];
    if (a->mask) {
        NAME(keep_masked)(a, &at, old, new);
        NAME(load)(&at, h, a->hidden, old);
        NAME(keep_masked)(a, &at, old, out);
    }
    NAME(store)(&at, new, SLICE(a->cells, at.t), a->hidden);
    NAME(store)(&at, out, SLICE(a->output, at.t), a->hidden);
}

static void NAME(lstm_backward_tile)(const layer *a, NAME(place) at, const REAL *c) {
    REAL x[TILE], old[TILE], new[TILE], dh[TILE], dc[TILE], t1[TILE], t2[TILE];
    REAL v[5][TILE], dx[5][TILE], dp[5][TILE], d[5][TILE];
    for (int k = 0; k < 4; k++) {
        NAME(load_gate)(a, &at, k, x);
        NAME(unit)(&a->activations[k], &at, 1, x, v[k], dx[k], dp[k]);
    }
    NAME(load)(&at, c, a->hidden, old);
    for (int l = 0; l < TILE; l++) new[l] = v[1][l] * old[l] + v[0][l] * v[2][l];
    NAME(unit)(&a->activations[4], &at, 1, new, v[4], dx[4], dp[4]);
    NAME(load_d_output)(a, &at, t1);
    NAME(load)(&at, (REAL *)a->d_h, a->hidden, dh);
    NAME(load)(&at, (REAL *)a->d_c, a->hidden, dc);
    for (int l = 0; l < TILE; l++) dh[l] += t1[l];
    NAME(split_masked)(a, &at, dh, t1);
    NAME(split_masked)(a, &at, dc, t2);
    for (int l = 0; l < TILE; l++) {
        d[4][l] = dh[l] * v[3][l];
        REAL total = dc[l] + d[4][l] * dx[4][l];
        d[0][l] = total * v[2][l];
        d[1][l] = total * old[l];
        d[2][l] = total * v[0][l];
        d[3][l] = dh[l] * v[4][l];
        dc[l] = total * v[1][l] + t2[l];
    }
    for (int k = 0; k < 5; k++) NAME(add_p_grad)(&a->activations[k], &at, d[k], dp[k]);
    for (int k = 0; k < 4; k++) {
        for (int l = 0; l < TILE; l++) x[l] = d[k][l] * dx[k][l];
        NAME(store)(&at, x, GATE(a->d_gates, at.t, 4, k), 4 * a->hidden);
    }
    NAME(store)(&at, dc, (REAL *)a->d_c, a->hidden);
    NAME(store)(&at, t1, (REAL *)a->d_carry, a->hidden);
}

/* n = phi(x_n + r h_n); h' = (1 - z) n + z h. `gates` holds W x + b of r, z, n and takes U h + b of
   r and z; `cells` keeps h_n = U h + b of n. */
static void NAME(gru_forward_tile)(const layer *a, NAME(place) at, const REAL *h, const REAL *uh) {
    REAL x[TILE], y[TILE], r[TILE], z[TILE], n[TILE], old[TILE];
    REAL *const gate[2] = {r, z};
    for (int k = 0; k < 2; k++) {
        REAL *stored = GATE(a->gates, at.t, 3, k);
        NAME(load)(&at, stored, 3 * a->hidden, x);
        NAME(load)(&at, uh + k * a->hidden, 3 * a->hidden, y);
        for (int l = 0; l < TILE; l++) x[l] += y[l];
        NAME(store)(&at, x, stored, 3 * a->hidden);
        NAME(unit)(&a->activations[k], &at, 0, x, gate[k], 0, 0);
    }
    NAME(load)(&at, GATE(a->gates, at.t, 3, 2), 3 * a->hidden, x);
    NAME(load)(&at, uh + 2 * a->hidden, 3 * a->hidden, y);
    NAME(store)(&at, y, SLICE(a->cells, at.t), a->hidden);
    for (int l = 0; l < TILE; l++) x[l] += r[l] * y[l];
    NAME(unit)(&a->activations[2], &at, 0, x, n, 0, 0);
    NAME(load)(&at, h, a->hidden, old);
    for (int l = 0; l < TILE; l++) n[l] = (1 - z[l]) * n[l] + z[l] * old[l];
    NAME(keep_masked)(a, &at, old, n);
    NAME(store)(&at, n, SLICE(a->output, at.t), a->hidden);
}

static void NAME(gru_backward_tile)(const layer *a, NAME(place) at, const REAL *h) {
    REAL x[TILE], y[TILE], old[TILE], dh[TILE], pass[TILE];
    REAL v[3][TILE], dx[3][TILE], dp[3][TILE], d[3][TILE];
    for (int k = 0; k < 2; k++) {
        NAME(load)(&at, GATE(a->gates, at.t, 3, k), 3 * a->hidden, x);
        NAME(unit)(&a->activations[k], &at, 1, x, v[k], dx[k], dp[k]);
    }
    NAME(load)(&at, GATE(a->gates, at.t, 3, 2), 3 * a->hidden, x);
    NAME(load)(&at, SLICE(a->cells, at.t), a->hidden, y);
    for (int l = 0; l < TILE; l++) x[l] += v[0][l] * y[l];
    NAME(unit)(&a->activations[2], &at, 1, x, v[2], dx[2], dp[2]);
    NAME(load)(&at, h, a->hidden, old);
    NAME(load_d_output)(a, &at, x);
    NAME(load)(&at, (REAL *)a->d_h, a->hidden, dh);
    for (int l = 0; l < TILE; l++) dh[l] += x[l];
    NAME(split_masked)(a, &at, dh, pass);
    for (int l = 0; l < TILE; l++) {
        d[2][l] = dh[l] * (1 - v[1][l]);
        d[1][l] = dh[l] * (old[l] - v[2][l]);
        x[l] = d[2][l] * dx[2][l];
        d[0][l] = x[l] * y[l];
        y[l] = x[l] * v[0][l];
        pass[l] += dh[l] * v[1][l];
    }
    for (int k = 0; k < 3; k++) NAME(add_p_grad)(&a->activations[k], &at, d[k], dp[k]);
    NAME(store)(&at, x, GATE(a->d_gates, at.t, 3, 2), 3 * a->hidden);
    NAME(store)(&at, y, GATE(a->d_recurrent, at.t, 3, 2), 3 * a->hidden);
    for (int k = 0; k < 2; k++) {
        for (int l = 0; l < TILE; l++) x[l] = d[k][l] * dx[k][l];
        NAME(store)(&at, x, GATE(a->d_gates, at.t, 3, k), 3 * a->hidden);
        NAME(store)(&at, x, GATE(a->d_recurrent, at.t, 3, k), 3 * a->hidden);
    }
    NAME(store)(&at, pass, (REAL *)a->d_carry, a->hidden);
}

/* One step over all tiles in CHUNKS parts, each with its own sums of the gradients of p; `before` is
   the step that came before t, negative for the first. */
#define OVER_TILES(tile_function, ...)                                                       \
    const int64_t across = (a->hidden + LANES - 1) / LANES;                                  \
    const int64_t total = across * ((a->batch + ROWS - 1) / ROWS);                           \
    _Pragma("omp parallel for schedule(static) num_threads(a->threads) if (a->threads > 1)") \
    for (int chunk = 0; chunk < CHUNKS; chunk++) {                                           \
        const int64_t first = total * chunk / CHUNKS, end = total * (chunk + 1) / CHUNKS;    \
        if (first == end) continue;                                                          \
        layer own = *a;                                                                      \
        for (int k = 0; k < MAX_ACTIVATIONS; k++) {                                          \
            void **sums = &own.activations[k].p_grad;                                        \
            if (*sums) *sums = (REAL *)*sums + chunk * a->sums_apart;                        \
        }                                                                                    \
        int64_t row = first / across, tile = first % across;                                 \
        for (int64_t n = first; n < end; n++) { /* a division a tile would cost as much */   \
            tile_function(&own, NAME(tile_at)(t, row * ROWS, tile, a->batch, a->hidden),     \
                          __VA_ARGS__);                                                      \
            if (++tile == across) tile = 0, row++;                                           \
        }                                                                                    \
    }

void NAME(lstm_forward)(const layer *a, int64_t t, int64_t before) {
    const REAL *h = before < 0 ? (const REAL *)a->h_start : SLICE(a->output, before);
    const REAL *c = before < 0 ? (const REAL *)a->c_start : SLICE(a->cells, before);
    OVER_TILES(NAME(lstm_forward_tile), h, c)
}

void NAME(lstm_backward)(const layer *a, int64_t t, int64_t before) {
    const REAL *c = before < 0 ? (const REAL *)a->c_start : SLICE(a->cells, before);
    OVER_TILES(NAME(lstm_backward_tile), c)
}

void NAME(gru_forward)(const layer *a, int64_t t, int64_t before) {
    const REAL *h = before < 0 ? (const REAL *)a->h_start : SLICE(a->output, before);
    OVER_TILES(NAME(gru_forward_tile), h, (const REAL *)a->recurrent)
}

void NAME(gru_backward)(const layer *a, int64_t t, int64_t before) {
    const REAL *h = before < 0 ? (const REAL *)a->h_start : SLICE(a->output, before);
    OVER_TILES(NAME(gru_backward_tile), h)
}

/* Over x of shape (blocks, rows, units), contiguous, in CHUNKS parts with sums for p of their own:
   `body` sees the activation as `own`, the tile as `at` and the block's offset as `skip`. */
#define OVER_MAP(body)                                                                           \
    const int64_t rows = size->rows, units = size->units;                                        \
    const int64_t row_tiles = (rows + ROWS - 1) / ROWS, total = size->blocks * row_tiles;        \
    _Pragma("omp parallel for schedule(static) num_threads(size->threads) if (size->threads > 1)") \
    for (int chunk = 0; chunk < CHUNKS; chunk++) {                                               \
        activation own = *s;                                                                     \
        if (own.p_grad) own.p_grad = (REAL *)own.p_grad + chunk * units;                         \
        for (int64_t n = total * chunk / CHUNKS; n < total * (chunk + 1) / CHUNKS; n++) {        \
            const int64_t block = n / row_tiles, row = n % row_tiles * ROWS;                     \
            const int64_t skip = block * rows * units;                                           \
            for (int64_t tile = 0; tile * LANES < units; tile++) {                               \
                NAME(place) at = NAME(tile_at)(block, row, tile, rows, units);                   \
                body                                                                             \
            }                                                                                    \
        }                                                                                        \
    }

static void NAME(value_tile)(const activation *s, const NAME(place) *at, const REAL *x,
                             REAL *value) {
    REAL in[TILE], v[TILE];
    NAME(load)(at, x, at->hidden, in);
    NAME(unit)(s, at, 0, in, v, 0, 0);
    NAME(store)(at, v, value, at->hidden);
}

static void NAME(keep_tile)(const activation *s, const NAME(place) *at, const REAL *x, REAL *value,
                            REAL *kept) {
    REAL in[TILE], v[TILE], by_noise[TILE];
    NAME(load)(at, x, at->hidden, in);
    NAME(unit_kept)(s, at, in, v, by_noise);
    NAME(store)(at, v, value, at->hidden);
    NAME(store)(at, by_noise, kept, at->hidden);
}

/* g dx into d_x, and g dp into the sums for p. */
INLINE void NAME(chain)(const activation *s, const NAME(place) *at, const REAL *d_value, REAL *dx,
                        const REAL *dp, REAL *d_x) {
    REAL g[TILE];
    NAME(load)(at, d_value, at->hidden, g);
    NAME(add_p_grad)(s, at, g, dp);
    for (int l = 0; l < TILE; l++) dx[l] *= g[l];
    NAME(store)(at, dx, d_x, at->hidden);
}

static void NAME(back_tile)(const activation *s, const NAME(place) *at, const REAL *x,
                            const REAL *d_value, REAL *d_x) {
    REAL in[TILE], v[TILE], dx[TILE], dp[TILE];
    NAME(load)(at, x, at->hidden, in);
    NAME(unit)(s, at, 1, in, v, dx, dp);
    NAME(chain)(s, at, d_value, dx, dp, d_x);
}

static void NAME(back_kept_tile)(const activation *s, const NAME(place) *at, const REAL *x,
                                 const REAL *kept, const REAL *d_value, REAL *d_x) {
    REAL in[TILE], by_noise[TILE], dx[TILE], dp[TILE];
    NAME(load)(at, x, at->hidden, in);
    NAME(load)(at, kept, at->hidden, by_noise);
    NAME(kept_slopes)(s, at, in, by_noise, dx, dp);
    NAME(chain)(s, at, d_value, dx, dp, d_x);
}

/* A unit on an array. With d_value, d_x instead of the value and, in s->p_grad, one row of sums a
   chunk: (CHUNKS, units). */
void NAME(unit_map)(const activation *s, const shape *size, const REAL *x, REAL *value,
                    const REAL *d_value, REAL *d_x) {
    if (d_value) {
        OVER_MAP(NAME(back_tile)(&own, &at, x + skip, d_value + skip, d_x + skip);)
    } else {
        OVER_MAP(NAME(value_tile)(&own, &at, x + skip, value + skip);)
    }
}

/* The same in two parts of which the second makes no noise again, by one number for each of x: value,
   then gradients. d_x may lie where `kept` is; no clip. */
void NAME(unit_keep)(const activation *s, const shape *size, const REAL *x, REAL *value,
                     REAL *kept) {
    OVER_MAP(NAME(keep_tile)(&own, &at, x + skip, value + skip, kept + skip);)
}

void NAME(unit_back_kept)(const activation *s, const shape *size, const REAL *x, const REAL *kept,
                          const REAL *d_value, REAL *d_x) {
    if (s->form == FORM_OUTPUT) {
        OVER_MAP(NAME(back_kept_tile)(&own, &at, x + skip, kept + skip, d_value + skip, d_x + skip);)
    } else {
        activation with_draws = *s;
        with_draws.given = kept;
        NAME(unit_map)(&with_draws, size, x, 0, d_value, d_x);
    }
}

#undef OVER_MAP
#undef GATE
#undef SLICE
#undef OVER_TILES
