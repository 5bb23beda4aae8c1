/* Backward of memory.h: the gradients of one step of the memory. Included once per REAL. */

/* Columns from j on: d_written, the gradient of the written memory, becomes that of the memory; the
   gradients of erasures and weights are added to theirs. */
INLINE void NAME(write_backward_block)(const NAME(episode) *e, int64_t writers, int64_t j, int count,
                                       const REAL *memory, const REAL *weights) {
    const int64_t m = e->m, n = e->n;
    NAME(lanes) weight[MAX_WRITERS], kept[MAX_WRITERS], before[MAX_WRITERS], d_w[MAX_WRITERS];
    for (int64_t w = 0; w < writers; w++) {
        weight[w] = NAME(load_row)(weights + w * n + j, count);
        d_w[w] = NAME(load_row)(e->d_weights + w * n + j, count);
    }
    for (int64_t k = 0; k < m; k++) {
        /* The product without one of its factors: those before it times those after it. */
        NAME(lanes) product = NAME(load_row)(memory + k * n + j, count);
        const NAME(lanes) d = NAME(load_row)(e->d_written + k * n + j, count);
        for (int64_t w = 0; w < writers; w++) {
            before[w] = product;
            kept[w] = 1 - e->erase[w * m + k] * weight[w];
            product *= kept[w];
        }
        NAME(lanes) after = d;
        for (int64_t w = writers - 1; w >= 0; w--) {
            const NAME(lanes) d_kept = before[w] * after;
            REAL *sum = e->d_erase + (w * m + k) * LANES;
            NAME(put)(NAME(load_row)(sum, LANES) - d_kept * weight[w], sum, LANES);
            d_w[w] += e->add[w * m + k] * d - e->erase[w * m + k] * d_kept;
            after *= kept[w];
        }
        NAME(put)(after, e->d_written + k * n + j, count);
    }
    for (int64_t w = 0; w < writers; w++) NAME(put)(d_w[w], e->d_weights + w * n + j, count);
}

static const REAL *NAME(at_or_null)(const void *from, int64_t at) {
    return from ? (const REAL *)from + at : NULL;
}

static void NAME(copy_or_zero)(const REAL *from, REAL *to, int64_t n) {
    if (from) memcpy(to, from, (size_t)n * sizeof(REAL));
    else memset(to, 0, (size_t)n * sizeof(REAL));
}

/* Of reading and writing: d_weights, d_written as the gradient of the memory, and `d` of what is
   added and erased, before their tanh and sigmoid. */
static void NAME(write_backward)(const memory_step *a, const NAME(episode) *e, int64_t b,
                                 const REAL *weights, REAL *d) {
    const int64_t n = e->n, m = e->m, writers = e->writers, readers = e->readers;
    const int64_t locations = e->heads * n, cells = m * n, vectors = writers * m;
    const REAL *memory = (const REAL *)a->memory + b * cells;
    const REAL *written = (const REAL *)a->written + b * cells;
    const REAL *d_weights = NAME(at_or_null)(a->d_weights, b * locations);
    const REAL *d_written = NAME(at_or_null)(a->d_written, b * cells);
    const REAL *d_read = d_weights ? d_weights + writers * n : NULL;
    NAME(copy_or_zero)(d_weights, e->d_weights, writers * n);
    if (a->d_reads) {
        const REAL *d_reads = (const REAL *)a->d_reads + b * readers * m;
        NAME(matmul)(m, readers, n, d_reads, 1, m, weights + writers * n, d_written, e->d_written);
        NAME(matmul)(readers, m, n, d_reads, m, 1, written, d_read, e->d_weights + writers * n);
    } else {
        NAME(copy_or_zero)(d_written, e->d_written, cells);
        NAME(copy_or_zero)(d_read, e->d_weights + writers * n, readers * n);
    }
    NAME(dots)(writers, m, n, weights, e->d_written, d);
    memset(e->d_erase, 0, (size_t)(vectors * LANES) * sizeof(REAL));
    for (int64_t j = 0; j < n; j += LANES) OVER_HEADS(write_backward_block, memory, weights);
    REAL *d_erase = d + vectors + e->heads * m;
    for (int64_t i = 0; i < vectors; i++)
        d_erase[i] = NAME(total)(NAME(load_row)(e->d_erase + i * LANES, LANES));
}

/* Of the weights of head h; leaves the gradient of key times row in d_weights. */
static void NAME(address_backward)(const NAME(episode) *e, int64_t h, const REAL *weights,
                                   const REAL *old, REAL *d_old, REAL *d_gate, REAL *d_gamma,
                                   REAL *d_shift) {
    const int64_t n = e->n;
    const REAL gate = e->gate[h], gamma = e->gamma[h], *s = e->shift + 3 * h;
    const REAL *content = e->content + h * n, *gated = e->gated + h * (n + 2) + 1;
    const REAL *moved = e->moved + h * n, *cosines = e->cosines + h * n;
    REAL *restrict d = e->d_weights + h * n, *restrict d_moved = e->d_moved + 1;
    const REAL mean = NAME(dot)(weights, d, n);
    EACH_ROW d_moved[i] = weights[i] * (d[i] - mean);
    *d_gamma = NAME(dot)(d_moved, e->logs + h * n, n);
    EACH_ROW d_moved[i] *= gamma / moved[i];
    for (int k = 0; k < 3; k++) d_shift[k] = NAME(dot)(d_moved, gated + 1 - k, n);
    d_moved[-1] = d_moved[n - 1], d_moved[n] = d_moved[0];
    EACH_ROW d[i] = s[0] * d_moved[i - 1] + s[1] * d_moved[i] + s[2] * d_moved[i + 1];
    const REAL of_content = NAME(dot)(d, content, n);
    *d_gate = of_content - NAME(dot)(d, old, n);
    EACH_ROW d_old[i] = (1 - gate) * d[i];
    EACH_ROW d[i] = gate * content[i] * (d[i] - of_content) * e->inverse[i];
    EACH_ROW e->d_lengths[i] -= d[i] * cosines[i];
}

/* Of the keys and strengths: d_scaled is the gradient of keys by strength and norm. */
static void NAME(keys_backward)(const NAME(episode) *e, REAL *d_key, REAL *d_beta) {
    const int64_t m = e->m;
    for (int64_t h = 0; h < e->heads; h++) {
        const REAL *key = e->key + h * m, *d_scaled = e->d_scaled + h * m;
        const REAL length = e->norm[h] + (REAL)COSINE_EPS;
        REAL d_scale = 0;
        for (int64_t k = 0; k < m; k++) d_scale += d_scaled[k] * key[k];
        d_beta[h] = d_scale / length;
        /* A key of norm 0 has no direction; as in torch its norm has gradient 0 there. */
        const REAL along = e->norm[h] > 0 ? -d_scale * e->scale[h] / length / e->norm[h] : 0;
        for (int64_t k = 0; k < m; k++)
            d_key[h * m + k] = d_scaled[k] * e->scale[h] + along * key[k];
    }
}

/* From gradients of settings to those of the raw outputs x that they were made of. */
static void NAME(settings_backward)(const NAME(episode) *e, const REAL *x, const REAL *d, REAL *out) {
    const int64_t heads = e->heads, bounds = (e->writers + heads) * e->m;
    const int64_t opens = e->writers * e->m + heads, rest = bounds + opens;
    const REAL *y = e->add; /* all settings, in the order of x */
    for (int64_t k = 0; k < bounds; k++) out[k] = d[k] * (1 - y[k] * y[k]);
    for (int64_t k = bounds; k < rest; k++) out[k] = d[k] * y[k] * (1 - y[k]);
    NAME(opened)(x + rest, out + rest, 2 * heads);
    for (int64_t k = rest; k < rest + 2 * heads; k++) out[k] = x[k] > 20 ? d[k] : d[k] * out[k];
    for (int64_t k = rest + 2 * heads; k < e->inputs; k += 3) {
        const REAL mean = y[k] * d[k] + y[k + 1] * d[k + 1] + y[k + 2] * d[k + 2];
        for (int i = 0; i < 3; i++) out[k + i] = y[k + i] * (d[k + i] - mean);
    }
}

static void NAME(memory_one_backward)(const memory_step *a, NAME(episode) *e, int64_t b) {
    const int64_t n = e->n, m = e->m, heads = e->heads, locations = heads * n, cells = m * n;
    const REAL *raw = (const REAL *)a->raw + b * e->inputs;
    const REAL *memory = (const REAL *)a->memory + b * cells;
    const REAL *old = (const REAL *)a->before + b * locations;
    const REAL *weights = (const REAL *)a->weights + b * locations;
    REAL *d = e->d_settings, *d_key = d + e->writers * m;
    REAL *d_gate = d_key + (heads + e->writers) * m, *d_beta = d_gate + heads;
    REAL *d_gamma = d_beta + heads, *d_shift = d_gamma + heads;
    NAME(memory_settings)(e, raw);
    NAME(memory_address)(e, memory, old);
    NAME(write_backward)(a, e, b, weights, d);
    EACH_ROW e->d_lengths[i] = 0;
    for (int64_t h = 0; h < heads; h++)
        NAME(address_backward)(e, h, weights + h * n, old + h * n,
                               (REAL *)a->d_before + b * locations + h * n, d_gate + h, d_gamma + h,
                               d_shift + 3 * h);
    NAME(dots)(heads, m, n, e->d_weights, memory, e->d_scaled);
    NAME(keys_backward)(e, d_key, d_beta);
    NAME(settings_backward)(e, raw, d, (REAL *)a->d_raw + b * e->inputs);
    if (!a->d_memory) return;
    NAME(matmul)(m, heads, n, e->scaled, 1, m, e->d_weights, e->d_written, e->d_written);
    /* As of a key: a row of zeros has no direction. */
    EACH_ROW e->d_lengths[i] = e->lengths[i] > 0 ? e->d_lengths[i] / e->lengths[i] : 0;
    for (int64_t k = 0; k < m; k++) {
        const REAL *row = memory + k * n, *d_row = e->d_written + k * n;
        REAL *out = (REAL *)a->d_memory + b * cells + k * n;
        EACH_ROW out[i] = d_row[i] + e->d_lengths[i] * row[i];
    }
}

void NAME(memory_backward)(const memory_step *a) {
    _Pragma("omp parallel for schedule(static) num_threads(a->threads) if (a->threads > 1)")
    for (int part = 0; part < a->threads; part++) {
        NAME(episode) e = NAME(memory_place)(a, part);
        const int64_t end = a->batch * (part + 1) / a->threads;
        for (int64_t b = a->batch * part / a->threads; b < end; b++) {
            const int64_t next = (b + 1) * e.m * e.n;
            e.ahead[0] = b + 1 < end ? (const REAL *)a->memory + next : NULL;
            e.ahead[1] = (const REAL *)a->written + next;
            e.ahead[2] = NAME(at_or_null)(a->d_written, next);
            NAME(memory_one_backward)(a, &e, b);
        }
    }
}
