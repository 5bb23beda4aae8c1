/* One step of a Neural Turing Machine's memory, forward and backward. Included once per REAL.

   Episodes are independent: each thread has some of them, and no sum goes across them. The memory of
   an episode lies as (M, N), locations innermost, so that vectors run over locations. Backward makes
   everything but the weights and the memories again from what forward was given. */

#ifndef MEMORY_STRUCTS
#define MEMORY_STRUCTS
/* B episodes; N rows of width M; W heads that write, then R that read, H in all. Row-major arrays. */
typedef struct {
    int64_t batch, rows, width, writers, readers;
    int32_t threads;
    void *work;                  /* memory_work() numbers for each thread */
    const void *raw;             /* (B, S): adds (W, M), keys (H, M); erasures (W, M), gates (H);
                                    strengths (H), sharpenings (H); shifts (H, 3) */
    const void *memory, *before; /* (B, M, N), (B, H, N) */
    void *written, *weights;     /* the same after the step */
    void *reads;                 /* (B, R, M) */
    const void *d_written, *d_weights, *d_reads; /* each may be null */
    void *d_raw, *d_memory, *d_before;           /* d_memory may be null */
} memory_step;

#define MAX_WRITERS 16
#define AHEAD 3
#define COSINE_EPS 1e-8    /* as in nn/memory.py */
#define SHARPEN_TINY 1e-16

static int64_t settings_of(const memory_step *a) {
    const int64_t heads = a->writers + a->readers;
    return a->width * (heads + 2 * a->writers) + 6 * heads;
}

/* Numbers of a thread's workspace: what `memory_place` lays out. */
static int64_t numbers_of_work(const memory_step *a) {
    const int64_t heads = a->writers + a->readers;
    return 2 * settings_of(a) + 2 * heads * (a->width + 1) + 3 * a->rows
           + heads * (6 * a->rows + 2) + (a->rows + 2) + a->width * a->rows
           + LANES * a->writers * a->width;
}

/* Size that memory.py compares with its own. */
#if PART == 2
int64_t memory_work(const memory_step *a) { return numbers_of_work(a); }
int64_t memory_size(void) { return (int64_t)sizeof(memory_step); }
#endif

/* The logarithm of a positive normal number, to 1e-7 (Cephes); NaN stays. */
INLINE float log_of_f(float x) {
    int32_t bits, n;
    float m;
    memcpy(&bits, &x, 4);
    n = (bits - 0x3F3504F3) >> 23; /* the mantissa is between the roots of 1/2 and 2 */
    bits -= n * (1 << 23);
    memcpy(&m, &bits, 4);
    m -= 1.0f;
    float y = ((((((((7.0376836292e-2f * m - 1.1514610310e-1f) * m + 1.1676998740e-1f) * m
               - 1.2420140846e-1f) * m + 1.4249322787e-1f) * m - 1.6668057665e-1f) * m
               + 2.0000714765e-1f) * m - 2.4999993993e-1f) * m + 3.3333331174e-1f) * m * m * m;
    y += -2.12194440e-4f * (float)n - 0.5f * m * m;
    return m + y + 0.693359375f * (float)n + 0.0f * x;
}
INLINE double log_of_d(double x) { return log(x); }
INLINE float root_of_f(float x) { return sqrtf(x); }
INLINE double root_of_d(double x) { return sqrt(x); }
/* Compilers keep vectors in registers where they know how many there are. */
#define OVER_HEADS(block, ...)                                                               \
    do {                                                                                     \
        const int count = n - j < LANES ? (int)(n - j) : LANES;                              \
        if (count == LANES && e->writers == 4) NAME(block)(e, 4, j, LANES, __VA_ARGS__);     \
        else if (count == LANES && e->writers == 1) NAME(block)(e, 1, j, LANES, __VA_ARGS__); \
        else NAME(block)(e, e->writers, j, count, __VA_ARGS__);                              \
    } while (0)
#define EACH_ROW for (int64_t i = 0; i < n; i++)
#endif

/* --- vectors */


INLINE void NAME(put)(NAME(lanes) x, REAL *to, int count) {
    NAME(store_row)((const NAME(anywhere) *)&x, to, count);
}

static REAL NAME(total)(NAME(lanes) v) {
    REAL x[LANES];
    memcpy(x, &v, sizeof v);
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) x[l] += x[l + half];
    return x[0];
}

static REAL NAME(dot)(const REAL *a, const REAL *b, int64_t n) {
    NAME(lanes) sum = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += NAME(load_row)(a + i, LANES) * NAME(load_row)(b + i, LANES);
    if (i < n) sum += NAME(load_row)(a + i, (int)(n - i)) * NAME(load_row)(b + i, (int)(n - i));
    return NAME(total)(sum);
}

/* The larger of each pair of numbers; compilers keep an array's maximum in single numbers. */
INLINE NAME(lanes) NAME(larger)(NAME(lanes) a, NAME(lanes) b) {
    const __typeof__(a > b) first = a > b;
    return (NAME(lanes))((first & (__typeof__(first))a) | (~first & (__typeof__(first))b));
}

static REAL NAME(greatest)(const REAL *x, int64_t n) {
    NAME(lanes) most = x[0] - (NAME(lanes)){0};
    REAL all[LANES];
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) most = NAME(larger)(NAME(load_row)(x + i, LANES), most);
    memcpy(all, &most, sizeof most);
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) all[l] = all[l + half] > all[l] ? all[l + half] : all[l];
    for (; i < n; i++) all[0] = x[i] > all[0] ? x[i] : all[0];
    return all[0];
}

/* Four rows of `matmul` in one block of columns. */
INLINE void NAME(matmul_block)(int heads, int64_t inner, int64_t n, int count, const REAL *a,
                               int64_t next_row, int64_t next, const REAL *b, const REAL *plus,
                               REAL *c) {
    NAME(lanes) sums[4] = {{0}};
    for (int h = 0; h < heads && plus; h++) sums[h] = NAME(load_row)(plus + h * n, count);
    for (int64_t k = 0; k < inner; k++) {
        const NAME(lanes) v = NAME(load_row)(b + k * n, count);
        for (int h = 0; h < heads; h++) sums[h] += a[h * next_row + k * next] * v;
    }
    for (int h = 0; h < heads; h++) NAME(put)(sums[h], c + h * n, count);
}

/* c (I, n) = plus (I, n) + a (I, K) b (K, n); a may lie transposed, plus may be null or c itself. */
static void NAME(matmul)(int64_t I, int64_t K, int64_t n, const REAL *a, int64_t next_row,
                         int64_t next, const REAL *b, const REAL *plus, REAL *c) {
    for (int64_t i = 0; i < I; i += 4) {
        const REAL *from = a + i * next_row;
        const int heads = I - i < 4 ? (int)(I - i) : 4;
        for (int64_t j = 0; j < n; j += LANES) {
            const REAL *old = plus ? plus + i * n + j : NULL;
            REAL *to = c + i * n + j;
            if (n - j >= LANES && heads == 4)
                NAME(matmul_block)(4, K, n, LANES, from, next_row, next, b + j, old, to);
            else
                NAME(matmul_block)(heads, K, n, n - j < LANES ? (int)(n - j) : LANES, from, next_row,
                                   next, b + j, old, to);
        }
    }
}

/* Sums of LANES vectors: rows become columns, which are added up. */
static void NAME(totals)(const NAME(lanes) v[LANES], REAL out[LANES]) {
    const REAL *x = (const REAL *)v;
    REAL columns[LANES][LANES];
    for (int i = 0; i < LANES; i++)
        for (int l = 0; l < LANES; l++) columns[l][i] = x[i * LANES + l];
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            for (int i = 0; i < LANES; i++) columns[l][i] += columns[l + half][i];
    memcpy(out, columns[0], sizeof columns[0]);
}

INLINE void NAME(dots_block)(int I, int J, int count, const REAL *a, const REAL *b, int64_t n,
                             NAME(lanes) sums[LANES]) {
    NAME(lanes) v[4];
    for (int j = 0; j < J; j++) v[j] = NAME(load_row)(b + j * n, count);
    for (int i = 0; i < I; i++) {
        const NAME(lanes) x = NAME(load_row)(a + i * n, count);
        for (int j = 0; j < J; j++) sums[4 * i + j] += x * v[j];
    }
}

/* out (I, J) = a (I, n) b (J, n)^T, in blocks of 4 x 4, whose sums are LANES numbers. */
static void NAME(dots)(int64_t I, int64_t J, int64_t n, const REAL *a, const REAL *b, REAL *out) {
    for (int64_t i = 0; i < I; i += 4)
        for (int64_t j = 0; j < J; j += 4) {
            const int di = I - i < 4 ? (int)(I - i) : 4, dj = J - j < 4 ? (int)(J - j) : 4;
            NAME(lanes) sums[LANES] = {{0}};
            int64_t k = 0;
            if (di == 4 && dj == 4)
                for (; k + LANES <= n; k += LANES)
                    NAME(dots_block)(4, 4, LANES, a + i * n + k, b + j * n + k, n, sums);
            for (; k < n; k += LANES)
                NAME(dots_block)(di, dj, n - k < LANES ? (int)(n - k) : LANES, a + i * n + k,
                                 b + j * n + k, n, sums);
            REAL found[LANES];
            NAME(totals)(sums, found);
            for (int r = 0; r < di; r++)
                for (int c = 0; c < dj; c++) out[(i + r) * J + j + c] = found[4 * r + c];
        }
}

/* x becomes its softmax. */
static void NAME(softmax)(REAL *x, int64_t n) {
    const REAL most = NAME(greatest)(x, n);
    EACH_ROW x[i] = NAME(exp_minus)(most - x[i]);
    NAME(lanes) sums = {0};
    for (int64_t i = 0; i < n; i += LANES)
        sums += NAME(load_row)(x + i, n - i < LANES ? (int)(n - i) : LANES);
    const REAL scale = 1 / NAME(total)(sums);
    EACH_ROW x[i] *= scale;
}

/* --- one episode */

typedef struct {
    int64_t heads, n, m, readers, writers, inputs; /* H, N, M, R, W, S */
    REAL *add, *key, *erase, *gate, *beta, *gamma, *shift; /* settings, in the order of raw */
    REAL *d_settings, *scaled, *scale;             /* keys by strength and norm, (H, M), (H) */
    REAL *d_scaled, *norm;                         /* (H, M), norms of keys (H) */
    REAL *lengths, *inverse, *d_lengths;           /* of the rows of the memory, (N) */
    REAL *cosines, *content, *moved, *logs, *d_weights; /* (H, N) */
    REAL *gated, *d_moved;    /* (H, N + 2), (N + 2): both ends of a row are at the other side too */
    REAL *d_written, *d_erase;                     /* (M, N), (W M, LANES) */
    const REAL *ahead[AHEAD];                      /* of the next episode, (M, N) each, or null */
} NAME(episode);

static NAME(episode) NAME(memory_place)(const memory_step *a, int64_t part) {
    NAME(episode) e = {a->writers + a->readers, a->rows, a->width, a->readers, a->writers,
                       settings_of(a)};
    REAL *next = (REAL *)a->work + part * numbers_of_work(a);
    const int64_t heads = e.heads, n = e.n, m = e.m, writers = e.writers;
#define TAKE(name, size) (e.name = next, next += (size))
    TAKE(add, writers * m), TAKE(key, heads * m), TAKE(erase, writers * m), TAKE(gate, heads);
    TAKE(beta, heads), TAKE(gamma, heads), TAKE(shift, 3 * heads), TAKE(d_settings, e.inputs);
    TAKE(scaled, heads * m), TAKE(scale, heads), TAKE(d_scaled, heads * m), TAKE(norm, heads);
    TAKE(lengths, n), TAKE(inverse, n), TAKE(d_lengths, n);
    TAKE(cosines, heads * n), TAKE(content, heads * n);
    TAKE(moved, heads * n), TAKE(logs, heads * n), TAKE(d_weights, heads * n);
    TAKE(gated, heads * (n + 2)), TAKE(d_moved, n + 2);
    TAKE(d_written, m * n), TAKE(d_erase, LANES * writers * m);
#undef TAKE
    return e;
}

/* tanh, or the sigmoid, of n numbers. */
static void NAME(bounded)(const REAL *x, REAL *y, int64_t n) {
    EACH_ROW {
        const REAL e = NAME(exp_minus)(2 * x[i]), t = (1 - e) / (1 + e);
        y[i] = NAME(copy_sign)(t, x[i]);
    }
}

static void NAME(opened)(const REAL *x, REAL *y, int64_t n) {
    EACH_ROW {
        const REAL e = NAME(exp_minus)(x[i]), large = 1 / (1 + e);
        y[i] = x[i] > 0 ? large : e * large;
    }
}

/* What the heads shall do, of the raw outputs x. */
static void NAME(memory_settings)(NAME(episode) *e, const REAL *x) {
    const int64_t heads = e->heads, vectors = e->writers * e->m, keys = heads * e->m;
    NAME(bounded)(x, e->add, vectors + keys);
    NAME(opened)(x += vectors + keys, e->erase, vectors + heads);
    x += vectors + heads;
    for (int64_t h = 0; h < 2 * heads; h++) {
        const REAL positive = x[h] > 0 ? x[h] : 0;
        /* As torch's softplus, the identity above 20. */
        e->beta[h] = x[h] > 20 ? x[h] : positive + NAME(log_of)(1 + NAME(exp_minus)(x[h]));
    }
    for (int64_t h = 0; h < heads; h++) e->gamma[h] += 1;
    x += 2 * heads;
    for (int64_t h = 0; h < 3 * heads; h += 3) {
        REAL *s = e->shift + h, most = x[h] > x[h + 1] ? x[h] : x[h + 1];
        most = x[h + 2] > most ? x[h + 2] : most;
        for (int k = 0; k < 3; k++) s[k] = NAME(exp_minus)(most - x[h + k]);
        const REAL sum = s[0] + s[1] + s[2];
        for (int k = 0; k < 3; k++) s[k] /= sum;
    }
    for (int64_t h = 0; h < heads; h++) {
        const REAL *key = e->key + h * e->m;
        REAL sum = 0;
        for (int64_t k = 0; k < e->m; k++) sum += key[k] * key[k];
        e->norm[h] = NAME(root_of)(sum);
        e->scale[h] = e->beta[h] / (e->norm[h] + (REAL)COSINE_EPS);
        for (int64_t k = 0; k < e->m; k++) e->scaled[h * e->m + k] = key[k] * e->scale[h];
    }
}

/* Ask for a share of the next episode's arrays, one of e->heads, so that they are in the cache when its
   turn comes; all at once would wait for the memory. */
static void NAME(fetch_ahead)(const NAME(episode) *e, int64_t share) {
    const int64_t size = e->m * e->n * (int64_t)sizeof(REAL);
    for (int array = 0; array < AHEAD && e->ahead[array]; array++) {
        const char *next = (const char *)e->ahead[array];
        for (int64_t at = share * size / e->heads; at < (share + 1) * size / e->heads; at += 64)
            __builtin_prefetch(next + at, 0, 2);
    }
}

/* Content, gate and shift: what is sharpened, and its logarithms. */
static void NAME(memory_address)(NAME(episode) *e, const REAL *memory, const REAL *before) {
    const int64_t n = e->n;
    for (int64_t j = 0; j < n; j += LANES) {
        const int count = n - j < LANES ? (int)(n - j) : LANES;
        NAME(lanes) sums = {0};
        for (int64_t k = 0; k < e->m; k++) {
            const REAL *row = memory + k * n + j;
            const NAME(lanes) x = NAME(load_row)(row, count);
            sums += x * x;
        }
        NAME(put)(sums, e->lengths + j, count);
    }
    EACH_ROW e->lengths[i] = NAME(root_of)(e->lengths[i]);
    EACH_ROW e->inverse[i] = 1 / (e->lengths[i] + (REAL)COSINE_EPS);
    NAME(matmul)(e->heads, e->m, n, e->scaled, e->m, 1, memory, NULL, e->cosines);
    for (int64_t h = 0; h < e->heads; h++) {
        REAL *restrict cosines = e->cosines + h * n, *restrict content = e->content + h * n;
        REAL *restrict gated = e->gated + h * (n + 2) + 1, *restrict moved = e->moved + h * n;
        const REAL *old = before + h * n, gate = e->gate[h], *s = e->shift + 3 * h;
        EACH_ROW content[i] = cosines[i] = cosines[i] * e->inverse[i];
        NAME(fetch_ahead)(e, h);
        NAME(softmax)(content, n);
        EACH_ROW gated[i] = gate * content[i] + (1 - gate) * old[i];
        gated[-1] = gated[n - 1], gated[n] = gated[0];
        EACH_ROW moved[i] = s[0] * gated[i + 1] + s[1] * gated[i] + s[2] * gated[i - 1];
        EACH_ROW moved[i] += (REAL)SHARPEN_TINY;
        EACH_ROW e->logs[h * n + i] = NAME(log_of)(moved[i]);
    }
}

/* Columns of the memory from j on, after erasing and adding. */
INLINE void NAME(write_block)(const NAME(episode) *e, int64_t writers, int64_t j, int count,
                              const REAL *memory, const REAL *weights, REAL *written) {
    NAME(lanes) weight[MAX_WRITERS];
    for (int64_t w = 0; w < writers; w++) weight[w] = NAME(load_row)(weights + w * e->n + j, count);
    for (int64_t k = 0; k < e->m; k++) {
        NAME(lanes) kept = NAME(load_row)(memory + k * e->n + j, count), added = {0};
        for (int64_t w = 0; w < writers; w++) {
            kept -= kept * (e->erase[w * e->m + k] * weight[w]);
            added += e->add[w * e->m + k] * weight[w];
        }
        NAME(put)(kept + added, written + k * e->n + j, count);
    }
}

static void NAME(memory_one_forward)(const memory_step *a, NAME(episode) *e, int64_t b) {
    const int64_t n = e->n, locations = e->heads * n, cells = e->m * n;
    const REAL *memory = (const REAL *)a->memory + b * cells;
    REAL *written = (REAL *)a->written + b * cells, *weights = (REAL *)a->weights + b * locations;
    NAME(memory_settings)(e, (const REAL *)a->raw + b * e->inputs);
    NAME(memory_address)(e, memory, (const REAL *)a->before + b * locations);
    for (int64_t h = 0; h < e->heads; h++) {
        EACH_ROW weights[h * n + i] = e->gamma[h] * e->logs[h * n + i];
        NAME(softmax)(weights + h * n, n);
    }
    for (int64_t j = 0; j < n; j += LANES) OVER_HEADS(write_block, memory, weights, written);
    NAME(dots)(e->readers, e->m, n, weights + e->writers * n, written,
               (REAL *)a->reads + b * e->readers * e->m);
}

void NAME(memory_forward)(const memory_step *a) {
    _Pragma("omp parallel for schedule(static) num_threads(a->threads) if (a->threads > 1)")
    for (int part = 0; part < a->threads; part++) {
        NAME(episode) e = NAME(memory_place)(a, part);
        const int64_t end = a->batch * (part + 1) / a->threads;
        for (int64_t b = a->batch * part / a->threads; b < end; b++) {
            const int64_t next = (b + 1) * e.m * e.n;
            e.ahead[0] = b + 1 < end ? (const REAL *)a->memory + next : NULL;
            NAME(memory_one_forward)(a, &e, b);
        }
    }
}
