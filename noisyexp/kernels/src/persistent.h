/* The phases of a block that has all steps of a layer. A block has `units` hidden units of `rows` rows:
   their rows of the recurrent weights, in shared memory from the first step to the last, and their
   states. Forward, a step begins with h of all units, from the exchange; backward, a block multiplies
   the gradients of its gates with its weights, and each unit's owner adds up what came for it. All
   sums have one order. */

typedef struct {
    const pass *p;
    const layer *a;
    int gates, threads;       /* of the cell, of the block */
    int64_t row, unit;        /* the block's first */
    int group, slice, rows, units; /* rows and units that are there */
    char *memory;             /* shared by the block */
} block;

INLINE block block_at(const pass *p, int gates, int index, int threads, char *memory) {
    const int group = index / p->slices, slice = index % p->slices;
    const int64_t row = (int64_t)group * p->rows, unit = (int64_t)slice * p->units;
    const int64_t rows = p->own.batch - row, units = p->own.hidden - unit;
    block b = {p, &p->own, gates, threads, row, unit, group, slice,
               (int)(rows < p->rows ? rows : p->rows), (int)(units < p->units ? units : p->units),
               memory};
    return b;
}

/* Step n of the order of computation, and the one before it or -1. */
INLINE int64_t step_at(const pass *p, int64_t n) { return p->reverse ? p->steps - 1 - n : n; }
INLINE int64_t step_before(const pass *p, int64_t n) { return n ? step_at(p, n - 1) : -1; }

INLINE uint32_t *count_of(const block *b) { return b->p->arrived + b->group * ARRIVED_APART; }

INLINE void put(void *to, int64_t index, float x, int operands) {
    if (operands == OPERANDS_FLOAT) ((float *)to)[index] = x;
    else ((uint16_t *)to)[index] = to_half(x, operands);
}

/* Rows of a chunk that are there; place of a thread's number in it. */
INLINE int rows_in(const block *b, int chunk) {
    const int rows = b->rows - chunk * b->p->chunk;
    return rows < b->p->chunk ? rows : b->p->chunk;
}
INLINE place place_of(const block *b, int64_t n, int chunk, int i) {
    place at = {step_at(b->p, n), b->row + chunk * b->p->chunk + i / b->units,
                b->unit + i % b->units, b->a->batch, b->a->hidden};
    return at;
}

/* Tiles of operands: two where chunks follow each other, so that one is filled while one is used. */
INLINE void *tile_of(const block *b, int chunk) {
    const int bytes = OPERANDS_OF(b->p) == OPERANDS_FLOAT ? 4 : 2;
    return b->memory + b->p->at_tile + (int64_t)(chunk % 2) * b->p->chunk * b->p->width * bytes;
}
INLINE float *sums_of(const block *b) { return (float *)(b->memory + b->p->at_sums); }
INLINE value_f *values_of(const block *b) { return (value_f *)(b->memory + b->p->at_values); }
/* Value of unit k for a chunk's number i. */
#define VALUE(b, k, i) values_of(b)[(k) * (b)->p->chunk * (b)->p->units + (i)]

/* The block's weights, rows (gate, unit) with numbers k of the state. */
INLINE void load_weights(const block *b, int tid) {
    const pass *p = b->p;
    const int64_t hidden = b->a->hidden, m = b->gates * p->units, padded = (m + 15) / 16 * 16;
    const int64_t rows = OPERANDS_OF(p) == OPERANDS_FLOAT ? m : padded;
    for (int64_t row = tid / 32; row < rows; row += b->threads / 32) {
        const int64_t gate = row / p->units, unit = row % p->units;
        const float *from = p->w_hh + (gate * hidden + b->unit + unit) * hidden;
        const int there = row < m && unit < b->units;
        UNROLL_BY_8
        for (int64_t k = tid % 32; k < p->width; k += 32)
            put(b->memory, row * p->width + k, there && k < hidden ? from[k] : 0.0f, OPERANDS_OF(p));
    }
}

/* The same for backward: rows are units of the step before, numbers are (gate, unit). */
INLINE void load_weights_across(const block *b, int tid) {
    const pass *p = b->p;
    const int64_t hidden = b->a->hidden, padded = (hidden + 15) / 16 * 16;
    const int64_t rows = OPERANDS_OF(p) == OPERANDS_FLOAT ? hidden : padded;
    for (int64_t k = tid / 32; k < p->width; k += b->threads / 32) {
        const int64_t gate = k / p->units, unit = k % p->units;
        const float *from = p->w_hh + (gate * hidden + b->unit + unit) * hidden;
        const int there = gate < b->gates && unit < b->units;
        UNROLL_BY_8
        for (int64_t row = tid % 32; row < rows; row += 32)
            put(b->memory, row * p->width + k, there && row < hidden ? from[row] : 0.0f,
                OPERANDS_OF(p));
    }
}

/* Where row r of a group is among the rows of the exchange, which has whole chunks for each group. */
INLINE int64_t exchange_row(const block *b, int64_t parity, int64_t row) {
    const int64_t rows = (int64_t)b->p->chunk * b->p->chunks;
    return (parity * b->p->groups + b->group) * rows + row - b->row;
}

/* Tell the group h of a unit before step n. */
INLINE void tell(const block *b, int64_t n, place at, float h) {
    put(b->p->exchange, exchange_row(b, n % 2, at.row) * b->p->width + at.unit, h, OPERANDS_OF(b->p));
}

INLINE void tell_start(const block *b, int tid) {
    for (int i = tid; i < b->rows * b->units; i += b->threads) {
        place at = place_of(b, 0, 0, i);
        tell(b, 0, at, ((const float *)b->a->h_start)[at.row * at.hidden + at.unit]);
    }
}

INLINE void copy_states(const block *b, int64_t n, int chunk, int tid) {
    const pass *p = b->p;
    const int bytes = OPERANDS_OF(p) == OPERANDS_FLOAT ? 4 : 2;
    const int64_t row = exchange_row(b, n % 2, b->row + chunk * p->chunk);
    const char *from = (const char *)p->exchange + row * p->width * bytes;
    char *to = (char *)tile_of(b, chunk);
    const int all = rows_in(b, chunk) * p->width * bytes;
    for (int i = tid * 16; i < all; i += b->threads * 16) copy_16_bytes(to + i, from + i);
}

INLINE void forward_product(const block *b, int chunk, int tid) {
    const pass *p = b->p;
    const int64_t m = b->gates * p->units;
    const product own = {b->memory, tile_of(b, chunk), p->width, m, b->a->hidden, p->chunk,
                         p->splits, sums_of(b), m * p->chunk, m};
    multiply(&own, p, tid, b->threads);
}

/* The recurrent product of gate k for number i of a chunk. */
INLINE float recurrent_sum(const block *b, int k, int i) {
    const int m = b->gates * b->p->units;
    const float *sums = sums_of(b) + i / b->units * m + k * b->p->units + i % b->units;
    float sum = 0;
    for (int split = 0; split < b->p->splits; split++) sum += sums[(int64_t)split * m * b->p->chunk];
    return sum;
}

INLINE void forward_gates(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const layer *a = b->a;
    const int numbers = rows_in(b, chunk) * b->units;
    for (int j = tid; j < b->gates * numbers; j += b->threads) {
        const int k = j / numbers, i = j % numbers;
        const place at = place_of(b, n, chunk, i);
        float x = recurrent_sum(b, k, i), y;
        if (lstm) {
            x += GATE(a->gates, 4, k);
            GATE(a->gates, 4, k) = x;
            y = lstm_gate_f(a, at, k, x).v;
        } else {
            if (a->bias) x += ((const float *)a->bias)[k * at.hidden + at.unit];
            y = x; /* of n: what r multiplies */
            if (k < 2) {
                x += GATE(a->gates, 3, k);
                GATE(a->gates, 3, k) = x;
                y = unit_f(&a->sites[k], at, x).v;
            }
        }
        VALUE(b, k, i).v = y;
    }
}

INLINE void forward_states(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const int numbers = rows_in(b, chunk) * b->units;
    const int64_t before = step_before(b->p, n);
    for (int i = tid; i < numbers; i += b->threads) {
        const place at = place_of(b, n, chunk, i);
        float y[4], h;
        for (int k = 0; k < b->gates; k++) y[k] = VALUE(b, k, i).v;
        h = lstm ? lstm_state_f(b->a, at, before, y) : gru_state_f(b->a, at, before, y, y[2]);
        tell(b, n + 1, at, h);
        if (b->p->output_half)
            ((uint16_t *)b->p->output_half)[(at.t * at.batch + at.row) * at.hidden + at.unit] =
                to_half(h, OPERANDS_OF(b->p));
    }
}

INLINE void forward_step(const block *b, int64_t n, const int lstm) {
    PHASE(copy_states(b, n, 0, tid); finish_copies())
    for (int chunk = 0; chunk < b->p->chunks; chunk++) {
        if (rows_in(b, chunk) <= 0) break;
        if (chunk) PHASE(finish_copies())
        PHASE(
            if (chunk + 1 < b->p->chunks && rows_in(b, chunk + 1) > 0)
                copy_states(b, n, chunk + 1, tid);
            forward_product(b, chunk, tid))
        PHASE(forward_gates(b, n, chunk, tid, lstm))
        PHASE(forward_states(b, n, chunk, tid, lstm))
    }
}

/* Backward before its wait: the units again, with derivatives. */
INLINE void backward_gates(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const layer *a = b->a;
    const int numbers = rows_in(b, chunk) * b->units, gates = lstm ? 4 : 2;
    for (int j = tid; j < gates * numbers; j += b->threads) {
        const int k = j / numbers, i = j % numbers;
        const place at = place_of(b, n, chunk, i);
        VALUE(b, k, i) = lstm ? lstm_gate_f(a, at, k, GATE(a->gates, 4, k))
                              : unit_f(&a->sites[k], at, GATE(a->gates, 3, k));
    }
}

INLINE void backward_last_unit(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const int numbers = rows_in(b, chunk) * b->units;
    for (int i = tid; i < numbers; i += b->threads) {
        const place at = place_of(b, n, chunk, i);
        if (lstm) {
            const value_f y[4] = {VALUE(b, 0, i), VALUE(b, 1, i), VALUE(b, 2, i), VALUE(b, 3, i)};
            VALUE(b, 4, i) = lstm_out_f(b->a, at, step_before(b->p, n), y);
        } else {
            VALUE(b, 2, i) = gru_n_f(b->a, at, VALUE(b, 0, i).v);
        }
    }
}

/* A part of the gradient of h before step n: what some of the slices sent for it in step n. */
INLINE float gradient_sent(const block *b, int64_t n, place at, int part, int parts) {
    const int64_t hidden = b->a->hidden, slices = b->p->slices;
    const int64_t apart = (int64_t)b->p->chunk * b->p->chunks * b->p->groups * hidden;
    const float *from = (const float *)b->p->exchange + n % 2 * slices * apart +
                        exchange_row(b, 0, at.row) * hidden + at.unit;
    float sum = 0;
    int slice, end;
    part_of(slices, part, parts, &slice, &end);
    UNROLL_BY_8
    for (; slice < end; slice++) sum += read_shared_state(from + slice * apart);
    return sum;
}

/* Add up what was sent in step n, in `splits` parts. */
INLINE void gather(const block *b, int64_t n, int chunk, int tid) {
    const int numbers = rows_in(b, chunk) * b->units, parts = b->p->splits;
    for (int j = tid; j < parts * numbers; j += b->threads)
        sums_of(b)[j] = gradient_sent(b, n, place_of(b, n, chunk, j % numbers), j / numbers, parts);
}

/* The gradient of h before step n, for a chunk's number i: that, and what goes past the product. */
INLINE float gradient_before(const block *b, int chunk, int i, place at) {
    const int numbers = rows_in(b, chunk) * b->units;
    float sum = ((const float *)b->a->d_carry)[at.row * at.hidden + at.unit];
    for (int part = 0; part < b->p->splits; part++) sum += sums_of(b)[part * numbers + i];
    return sum;
}

INLINE void backward_states(const block *b, int64_t n, int chunk, int tid, const int lstm) {
    const pass *p = b->p;
    const layer *a = b->a;
    const int numbers = rows_in(b, chunk) * b->units;
    for (int i = tid; i < numbers; i += b->threads) {
        const place at = place_of(b, n, chunk, i);
        const int64_t element = (at.t * at.batch + at.row) * b->gates * at.hidden + at.unit;
        float dh = ((const float *)a->d_output)[(at.t * at.batch + at.row) * at.hidden + at.unit];
        float d[4];
        dh += n + 1 < p->steps ? gradient_before(b, chunk, i, at)
                               : ((const float *)a->d_h)[at.row * at.hidden + at.unit];
        value_f y[5];
        for (int k = 0; k < (lstm ? 5 : 3); k++) y[k] = VALUE(b, k, i);
        if (lstm) lstm_gradient_f(a, at, step_before(p, n), y, y[4], dh, d);
        else gru_gradient_f(a, at, step_before(p, n), y, dh, d);
        for (int k = 0; k < b->gates; k++) {
            const int64_t there = (int64_t)(i / b->units) * p->width + k * p->units + i % b->units;
            put(tile_of(b, 0), there, d[k], OPERANDS_OF(p));
            if (p->d_recurrent_half)
                ((uint16_t *)p->d_recurrent_half)[element + k * at.hidden] =
                    to_half(d[k], OPERANDS_OF(p));
        }
        if (!lstm && p->d_gates_half) {
            uint16_t *to = (uint16_t *)p->d_gates_half + element;
            for (int k = 0; k < 3; k++)
                to[k * at.hidden] = to_half(GATE(a->d_gates, 3, k), OPERANDS_OF(p));
        }
    }
}

/* Send all units of the step before their share of the gradient. */
INLINE void backward_product(const block *b, int64_t n, int chunk, int tid) {
    const pass *p = b->p;
    const int64_t hidden = b->a->hidden, rows = (int64_t)p->chunk * p->chunks * p->groups;
    float *to = (float *)p->exchange + (n % 2 * p->slices + b->slice) * rows * hidden +
                exchange_row(b, 0, b->row + chunk * p->chunk) * hidden;
    const product own = {b->memory, tile_of(b, 0), p->width, hidden, b->gates * p->units, p->chunk,
                         1, to, 0, hidden};
    multiply(&own, p, tid, b->threads);
}

INLINE void backward_units(const block *b, int64_t n, int chunk, const int lstm) {
    PHASE(backward_gates(b, n, chunk, tid, lstm))
    PHASE(backward_last_unit(b, n, chunk, tid, lstm))
}

INLINE void backward_step(const block *b, int64_t n, const int lstm) {
    for (int chunk = 0; chunk < b->p->chunks; chunk++) {
        if (rows_in(b, chunk) <= 0) break;
        if (chunk) backward_units(b, n, chunk, lstm);
        if (n + 1 < b->p->steps) PHASE(gather(b, n + 1, chunk, tid))
        PHASE(backward_states(b, n, chunk, tid, lstm))
        PHASE(backward_product(b, n, chunk, tid))
    }
}

/* Zeros where the tile has no numbers. */
INLINE void clear_tile(const block *b, int tid) {
    const int bytes = OPERANDS_OF(b->p) == OPERANDS_FLOAT ? 4 : 2;
    uint32_t *tile = (uint32_t *)tile_of(b, 0);
    for (int i = tid; i < b->p->chunk * b->p->width * bytes / 4; i += b->threads) tile[i] = 0;
}

/* After the first step: the gradient of the state before it. */
INLINE void backward_end(const block *b) {
    const layer *a = b->a;
    for (int chunk = 0; chunk < b->p->chunks && rows_in(b, chunk) > 0; chunk++) {
        PHASE(gather(b, 0, chunk, tid))
        PHASE(for (int i = tid; i < rows_in(b, chunk) * b->units; i += b->threads) {
            const place at = place_of(b, 0, chunk, i);
            ((float *)a->d_h)[at.row * at.hidden + at.unit] = gradient_before(b, chunk, i, at);
        })
    }
}
