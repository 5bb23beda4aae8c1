/* Rows of tiles between memory and registers. Included once per REAL. */

/* One row of a tile in whole registers: copies in halves of one stall the loads of the whole. */
typedef REAL NAME(lanes) __attribute__((vector_size(LANES * sizeof(REAL))));
typedef NAME(lanes) NAME(anywhere) __attribute__((aligned(sizeof(REAL)), may_alias));

/* `count` numbers, then zeros. */
INLINE NAME(lanes) NAME(load_row)(const REAL *from, int count) {
    if (count == LANES) return *(const NAME(anywhere) *)from;
    NAME(lanes) row;
    NAME(load_part)(from, count, &row);
    return row;
}

INLINE void NAME(store_row)(const NAME(anywhere) *row, REAL *to, int count) {
    if (count == LANES) *(NAME(anywhere) *)to = *row;
    else NAME(store_part)(row, to, count);
}
