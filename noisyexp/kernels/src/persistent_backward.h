/* Backward phases of a block, see persistent.h. */

/* The block's weights: rows are units of the step before, numbers are (gate, unit). */
INLINE void load_weights_across(const block *b, int tid) {
    const persistent *p = b->p;
    const int hidden = (int)p->own.hidden;
    const int rows = OPERANDS_OF(p) == OPERANDS_FLOAT ? hidden : (hidden + 15) / 16 * 16;
    for (int k = tid / 32; k < p->width; k += b->threads / 32) {
        const int gate = k / p->units, unit = k % p->units;
        const float *from = p->w_hh + ((int64_t)gate * hidden + b->unit + unit) * hidden;
        const int there = gate < b->gates && unit < b->units;
        UNROLL_BY_8
        for (int row = tid % 32; row < rows; row += 32)
            put(b->memory, row * p->width + k, there && row < hidden ? from[row] : 0,
                OPERANDS_OF(p));
    }
}

/* Zeros where the tile has no numbers. */
INLINE void clear_tile(const block *b, int tid) {
    uint32_t *tile = (uint32_t *)tile_of(b, 0);
    for (int i = tid; i < b->p->chunk * b->p->width * bytes_of(b->p) / 4; i += b->threads)
        tile[i] = 0;
}

/* Before the wait: units of the gates again, with derivatives, and what else a step needs. */
INLINE void backward_gates(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const layer *a = b->a;
    const int numbers = numbers_in(b, chunk), units = lstm ? 4 : 2, all = 6;
    const int64_t before = step_before(b->p, n);
    for (int j = tid; j < all * numbers; j += b->threads) {
        const int k = (unsigned)j / (unsigned)numbers, i = j - k * numbers;
        const place at = place_of(b, n, chunk, i);
        if (k < units) {
            keep_unit(b, k, i, unit_f(&a->activations[k], at, GATE(a->gates, b->gates, k)));
        } else if (k == units) {
            const void *states = lstm ? a->cells : a->output, *start = lstm ? a->c_start : a->h_start;
            const int64_t index = at.row * at.hidden + at.unit;
            SLOT(b, SLOT_BEFORE, i) = before < 0 ? or_zero((const float *)start, index)
                                                 : SLICE(states, before);
        } else if (k == units + 1) {
            SLOT(b, SLOT_D_OUTPUT, i) = a->d_output ? SLICE(a->d_output, at.t) : 0;
        } else if (k == units + 2) {
            SLOT(b, SLOT_H_N, i) = SLICE(a->cells, at.t);
        } else {
            SLOT(b, 6, i) = GATE(a->gates, 3, 2); /* in the place of n */
        }
    }
}

INLINE void backward_last_unit(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    for (int i = tid; i < numbers_in(b, chunk); i += b->threads) {
        const place at = place_of(b, n, chunk, i);
        if (lstm) {
            const value_f y[4] = {unit_in(b, 0, i), unit_in(b, 1, i), unit_in(b, 2, i),
                                  unit_in(b, 3, i)};
            keep_unit(b, 4, i, lstm_out_f(b->a, at, y, SLOT(b, SLOT_BEFORE, i)));
        } else {
            const float x = SLOT(b, 6, i);
            keep_unit(b, 2, i, gru_n_f(b->a, at, SLOT(b, 0, i), x, SLOT(b, SLOT_H_N, i)));
        }
    }
}

INLINE void backward_units(const block *b, int64_t n, int chunk, const int lstm) {
    PHASE(backward_gates(b, n, chunk, tid, lstm))
    PHASE(backward_last_unit(b, n, chunk, tid, lstm))
}

/* Rows of the exchange: what each slice sent for all units. */
INLINE float *sent_by(const block *b, int64_t n, int slice, int row) {
    const int64_t rows = (int64_t)b->p->groups * b->p->chunk * b->p->chunks;
    return (float *)b->p->exchange + ((n % 2 * b->p->slices + slice) * rows +
                                      exchange_row(b, 0, row)) * b->a->hidden;
}

/* Add up what the slices sent in step n, in `splits` parts. */
INLINE void gather(const block *b, int64_t n, int chunk, int tid) {
    const int numbers = numbers_in(b, chunk), parts = b->p->splits, slices = b->p->slices;
    const int64_t apart = sent_by(b, 0, 1, 0) - sent_by(b, 0, 0, 0);
    for (int j = tid; j < parts * numbers; j += b->threads) {
        const int part = (unsigned)j / (unsigned)numbers, i = j - part * numbers;
        const place at = place_of(b, n, chunk, i);
        const float *from = sent_by(b, n, 0, (int)at.row) + at.unit;
        float sum = 0, some[8];
        int slice, end;
        part_of(slices, part, parts, &slice, &end);
        for (; slice < end; slice += 8) { /* all on their way before the first is used */
            UNROLL
            for (int k = 0; k < 8; k++)
                some[k] = slice + k < end ? read_shared_state(from + (slice + k) * apart) : 0;
            UNROLL
            for (int k = 0; k < 8; k++) sum += some[k];
        }
        sums_of(b)[j] = sum;
    }
}

/* The gradient of h before step n, for a chunk's number i: that, and what goes past the product. */
INLINE float gradient_before(const block *b, int chunk, int i) {
    const int numbers = numbers_in(b, chunk);
    float sum = KEPT(b, KEPT_H, chunk, i);
    UNROLL_BY_8
    for (int part = 0; part < b->p->splits; part++) sum += sums_of(b)[part * numbers + i];
    return sum;
}

/* Gradients of a step; a thread has a number with all its units. For the totals it leaves gradients of p
   where dp was, of gates where values were, and of the product of a GRU's n where its dx was. */
INLINE void backward_states(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const persistent *p = b->p;
    const layer *a = b->a;
    const int last = n + 1 == p->steps;
    for (int i = tid; i < numbers_in(b, chunk); i += b->threads) {
        const place at = place_of(b, n, chunk, i);
        const int64_t index = at.row * at.hidden + at.unit;
        const int row = row_of(b, i), masked = MASKED(a);
        const float before = SLOT(b, SLOT_BEFORE, i);
        float dh = SLOT(b, SLOT_D_OUTPUT, i), dc = 0, v[5];
        dh += last ? or_zero((const float *)a->d_h, index) : gradient_before(b, chunk, i);
        UNROLL
        for (int k = 0; k < 5; k++)
            if (lstm || k < 3) v[k] = SLOT(b, 3 * k, i);
        gradient_f d;
        if (lstm) {
            dc = last ? or_zero((const float *)a->d_c, index) : KEPT(b, KEPT_C, chunk, i);
            d = lstm_gradient_f(masked, v, SLOT(b, 13, i), before, dh, dc);
            if (!n) p->end_c[index] = d.c;
        } else {
            d = gru_gradient_f(masked, v, SLOT(b, 7, i), before, SLOT(b, SLOT_H_N, i), dh);
        }
        KEPT(b, KEPT_H, chunk, i) = d.carry;
        KEPT(b, KEPT_C, chunk, i) = d.c;
        UNROLL
        for (int k = 0; k < 5; k++)
            if (lstm || k < 3) SLOT(b, 3 * k + 2, i) *= d.y[k];
        UNROLL
        for (int k = 0; k < 4; k++) {
            if (!lstm && k == 3) continue;
            const float d_gate = d.y[k] * SLOT(b, 3 * k + 1, i);
            const float d_product = lstm || k < 2 ? d_gate : d_gate * v[0];
            const int64_t there = ((at.t * at.batch + at.row) * b->gates + k) * at.hidden + at.unit;
            SLOT(b, 3 * k, i) = d_gate;
            if (!lstm && k == 2) SLOT(b, 7, i) = d_product;
            put(tile_of(b, 0), row * p->width + k * p->units + i - row * b->units, d_product,
                OPERANDS_OF(p));
            ((float *)a->d_gates)[there] = d_gate;
            if (!lstm) ((float *)a->d_recurrent)[there] = d_product;
            if (p->d_recurrent_half)
                p->d_recurrent_half[there] = to_half(d_product, OPERANDS_OF(p));
            if (!lstm && p->d_gates_half) p->d_gates_half[there] = to_half(d_gate, OPERANDS_OF(p));
        }
    }
}

/* Send all units of the step before their share of the gradient. */
INLINE void backward_product(const block *b, int64_t n, int chunk, int tid) {
    const persistent *p = b->p;
    const int hidden = (int)b->a->hidden;
    const product own = {b->memory, tile_of(b, 0), p->width, hidden, b->gates * p->units, p->chunk,
                         1, sent_by(b, n, b->slice, b->row + chunk * p->chunk), 0, hidden};
    multiply(&own, p, tid, b->threads);
}

/* Item m of the totals: each activation's p, each gate's bias, and b_hh of a GRU's n. */
INLINE int slot_of_item(const block *b, int m) {
    if (m < b->activations) return 3 * m + 2;
    return m < b->activations + b->gates ? 3 * (m - b->activations) : 7;
}
INLINE int items_of(const block *b) { return b->gates == 4 ? 9 : 7; }

/* Add a chunk's gradients of p and biases, over its rows, to the totals. */
INLINE void add_to_totals(const block *b, int chunk, int tid) {
    const int rows = rows_in(b, chunk);
    for (int j = tid; j < items_of(b) * b->units; j += b->threads) {
        const int m = (unsigned)j / (unsigned)b->units, unit = j - m * b->units;
        const float *from = &SLOT(b, slot_of_item(b, m), unit);
        float sum = 0;
        UNROLL_BY_8
        for (int row = 0; row < rows; row++) sum += from[row * b->units];
        totals_of(b)[j] += sum;
    }
}

/* From the wait of step n to its arrival; the last chunk's totals are left for afterwards. */
INLINE int backward_step(const block *b, int64_t n, const int lstm) {
    int chunk = 0;
    for (; has_chunk(b, chunk); chunk++) {
        if (chunk) {
            PHASE(add_to_totals(b, chunk - 1, tid))
            backward_units(b, n, chunk, lstm);
        }
        if (n + 1 < b->p->steps) PHASE(gather(b, n + 1, chunk, tid))
        PHASE(backward_states(b, n, chunk, tid, lstm))
        PHASE(backward_product(b, n, chunk, tid))
    }
    return chunk - 1;
}

/* After the first step: the gradient of h before it. */
INLINE void write_start_gradient(const block *b, int chunk, int tid) {
    for (int i = tid; i < numbers_in(b, chunk); i += b->threads) {
        const place at = place_of(b, 0, chunk, i);
        b->p->end_h[at.row * at.hidden + at.unit] = gradient_before(b, chunk, i);
    }
}
INLINE void backward_start(const block *b) {
    for (int chunk = 0; has_chunk(b, chunk); chunk++) {
        PHASE(gather(b, 0, chunk, tid))
        PHASE(write_start_gradient(b, chunk, tid))
    }
}

INLINE void send_totals(const block *b, int tid) {
    const int64_t hidden = b->a->hidden;
    for (int j = tid; j < items_of(b) * b->units; j += b->threads) {
        const int m = (unsigned)j / (unsigned)b->units, unit = b->unit + j - m * b->units;
        b->p->partial[((int64_t)b->group * MOST_TOTALS + m) * hidden + unit] = totals_of(b)[j];
    }
}

/* Of all groups, by the blocks of the first. */
INLINE void sum_totals(const block *b, int tid) {
    const int64_t hidden = b->a->hidden;
    for (int j = tid; j < items_of(b) * b->units; j += b->threads) {
        const int m = (unsigned)j / (unsigned)b->units, unit = b->unit + j - m * b->units;
        const int gate = m - b->activations;
        float sum = 0, *to = b->p->totals + unit;
        for (int group = 0; group < b->p->groups; group++)
            sum += read_shared_state(b->p->partial + ((int64_t)group * MOST_TOTALS + m) * hidden + unit);
        if (gate < b->gates) to[m * hidden] = sum;
        if (gate == b->gates) to[(m + 2) * hidden] = sum;
        if (gate >= 0 && gate < b->gates && (b->gates == 4 || gate < 2))
            to[(m + b->gates) * hidden] = sum;
    }
}
