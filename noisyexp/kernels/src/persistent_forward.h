/* Forward phases of a block, see persistent.h. */

/* The block's weights, rows (gate, unit) with numbers k of the state. */
INLINE void load_weights(const block *b, int tid) {
    const persistent *p = b->p;
    const int hidden = (int)p->own.hidden, m = b->gates * p->units;
    const int rows = OPERANDS_OF(p) == OPERANDS_FLOAT ? m : (m + 15) / 16 * 16;
    for (int row = tid / 32; row < rows; row += b->threads / 32) {
        const int gate = row / p->units, unit = row % p->units;
        const float *from = p->w_hh + ((int64_t)gate * hidden + b->unit + unit) * hidden;
        const int there = row < m && unit < b->units;
        UNROLL_BY_8
        for (int k = tid % 32; k < p->width; k += 32)
            put(b->memory, row * p->width + k, there && k < hidden ? from[k] : 0, OPERANDS_OF(p));
    }
}

/* Tell the group h of a unit before step n. */
INLINE void tell(const block *b, int64_t n, place at, float h) {
    put(b->p->exchange, exchange_row(b, n % 2, (int)at.row) * b->p->width + at.unit, h,
        OPERANDS_OF(b->p));
}

/* The states before the first step; and zeros after the last unit, which products read. */
INLINE void tell_start(const block *b, int tid) {
    const persistent *p = b->p;
    for (int chunk = 0; has_chunk(b, chunk); chunk++) {
        for (int i = tid; i < numbers_in(b, chunk); i += b->threads) {
            const place at = place_of(b, 0, chunk, i);
            const int64_t index = at.row * at.hidden + at.unit;
            const float h = or_zero((const float *)p->own.h_start, index);
            KEPT(b, KEPT_H, chunk, i) = h;
            KEPT(b, KEPT_C, chunk, i) = or_zero((const float *)p->own.c_start, index);
            tell(b, 0, at, h);
            if (p->start) p->start[index] = h;
            if (p->start_half) p->start_half[index] = to_half(h, OPERANDS_OF(p));
        }
    }
    if (b->slice) return;
    const int hidden = (int)p->own.hidden, after = p->width - hidden;
    for (int i = tid; i < 2 * b->rows * after; i += b->threads) {
        const int row = (unsigned)i / (unsigned)after, k = hidden + i - row * after;
        const int64_t there = exchange_row(b, row & 1, b->row + (row >> 1));
        put(p->exchange, there * p->width + k, 0, OPERANDS_OF(p));
    }
}

INLINE void copy_states(const block *b, int64_t n, int chunk, int tid) {
    const persistent *p = b->p;
    const int row_bytes = p->width * bytes_of(p), all = rows_in(b, chunk) * row_bytes;
    const int64_t row = exchange_row(b, n % 2, b->row + chunk * p->chunk);
    const char *from = (const char *)p->exchange + row * row_bytes;
    char *to = (char *)tile_of(b, chunk);
    for (int i = tid * 16; i < all; i += b->threads * 16) copy_16_bytes(to + i, from + i);
}

INLINE void forward_product(const block *b, int chunk, int tid) {
    const persistent *p = b->p;
    const int m = b->gates * p->units;
    const product own = {b->memory, tile_of(b, chunk), p->width, m, (int)b->a->hidden, p->chunk,
                         p->splits, sums_of(b), m * p->chunk, m};
    multiply(&own, p, tid, b->threads);
}

/* What the input adds to the gates, with b_ih; read early. */
INLINE void forward_inputs(const block *b, int64_t n, int chunk, int tid) {
    const int numbers = numbers_in(b, chunk);
    for (int j = tid; j < b->gates * numbers; j += b->threads) {
        const int k = (unsigned)j / (unsigned)numbers, i = j - k * numbers;
        const place at = place_of(b, n, chunk, i);
        const float bias = biases_of(b)[k * b->p->units + (int)at.unit - b->unit];
        SLOT(b, SLOT_INPUT + k, i) = GATE(b->p->own.gates, b->gates, k) + bias;
    }
}

/* The recurrent product of gate k for number i of a chunk, with b_hh. */
INLINE float recurrent_sum(const block *b, int k, int i) {
    const int m = b->gates * b->p->units, row = row_of(b, i), unit = i - row * b->units;
    const int column = k * b->p->units + unit;
    const float *sums = sums_of(b) + row * m + column;
    float sum = biases_of(b)[4 * b->p->units + column];
    UNROLL_BY_8
    for (int split = 0; split < b->p->splits; split++) sum += sums[split * m * b->p->chunk];
    return sum;
}

INLINE void forward_gates(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const layer *a = b->a;
    const int numbers = numbers_in(b, chunk);
    for (int j = tid; j < b->gates * numbers; j += b->threads) {
        const int k = (unsigned)j / (unsigned)numbers, i = j - k * numbers;
        const place at = place_of(b, n, chunk, i);
        float x = recurrent_sum(b, k, i);
        if (lstm || k < 2) {
            x += SLOT(b, SLOT_INPUT + k, i);
            GATE(a->gates, b->gates, k) = x;
            x = unit_f(&a->activations[k], at, x).v;
        } else GATE(a->gates, 3, 2) = SLOT(b, SLOT_INPUT + 2, i);
        SLOT(b, k, i) = x; /* of a GRU's n: h_n */
    }
}

INLINE void forward_states(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const persistent *p = b->p;
    for (int i = tid; i < numbers_in(b, chunk); i += b->threads) {
        const place at = place_of(b, n, chunk, i);
        float y[4], c = KEPT(b, KEPT_C, chunk, i), h = KEPT(b, KEPT_H, chunk, i);
        UNROLL
        for (int k = 0; k < 4; k++)
            if (lstm || k < 3) y[k] = SLOT(b, k, i);
        if (lstm) lstm_state_f(b->a, at, y, &c, &h);
        else gru_state_f(b->a, at, y, SLOT(b, SLOT_INPUT + 2, i), &h);
        tell(b, n + 1, at, h);
        KEPT(b, KEPT_C, chunk, i) = c;
        KEPT(b, KEPT_H, chunk, i) = h;
        if (p->output_half)
            p->output_half[(at.t * at.batch + at.row) * at.hidden + at.unit] =
                to_half(h, OPERANDS_OF(p));
        if (n + 1 < p->steps) continue;
        p->end_h[at.row * at.hidden + at.unit] = h;
        if (lstm) p->end_c[at.row * at.hidden + at.unit] = c;
    }
}

INLINE void forward_step(const block *b, int64_t n, const int lstm) {
    PHASE(copy_states(b, n, 0, tid); finish_copies())
    for (int chunk = 0; has_chunk(b, chunk); chunk++) {
        const int more = has_chunk(b, chunk + 1);
        if (chunk) PHASE(finish_copies())
        PHASE(if (more) copy_states(b, n, chunk + 1, tid); forward_product(b, chunk, tid))
        PHASE(forward_gates(b, n, chunk, tid, lstm))
        PHASE(forward_states(b, n, chunk, tid, lstm))
        if (more) PHASE(forward_inputs(b, n, chunk + 1, tid))
    }
}
