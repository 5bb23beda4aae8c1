/* Updates of optimisers, clipping included, in one pass over each tensor. Included once per REAL.

   Every number is rounded where torch's own operators, one after the other, round it: a product that
   torch adds in one instruction is `fuse`, all others are rounded by themselves. So an update has
   the bits of torch's. Nothing is added up, so that they do not depend on the number of threads. */

/* NUMBERS of a tensor at a time: what a rule keeps between two loops stays in the nearest cache. */
#define NUMBERS 1024

/* Square roots of n numbers of x; torch has them from MKL, which rounds a few otherwise. Null for
   the compiler's. `mode` is MKL's: high accuracy, denormal numbers are kept, no errors. */
#ifndef ROOT_MODE
#define ROOT_MODE 0x140102
typedef void (*root_function)(int32_t n, const void *x, void *out, int64_t mode);

enum { RULE_SGD, RULE_MOMENTUM, RULE_ADAM, RULE_UNCORRECTED_ADAM, RULE_RMSPROP, RULE_ADADELTA,
       RULE_GRAVES_RMSPROP };

typedef struct {
    void *weight;
    const void *gradient;
    void *state[3]; /* what the rule remembers, in its order; null past the last */
    int64_t size;
    double rate, divisor; /* the step, and what Adam divides the root by: of this tensor's updates */
} tensor_update;

typedef struct {
    int32_t rule, threads;
    int64_t tensors;
    const tensor_update *first;
    double factor;               /* of the gradient: what clipping leaves */
    double weight_decay, shrink; /* L2 penalty; AdamW's factor of the weight itself, else 1 */
    double decay, rest;          /* of the mean square; rest is 1 - decay, rounded in Python */
    double mean_decay, mean_rest;
    double momentum, eps;
    root_function root;
} update_call;

/* Sizes that optimizers.py compares with its own. */
#if PART == 2
void update_sizes(int64_t out[2]) {
    out[0] = (int64_t)sizeof(tensor_update);
    out[1] = (int64_t)sizeof(update_call);
}
#endif

#define EACH for (int i = 0; i < n; i++)
#endif

/* Only `fuse` rounds once: GCC and clang would make more such instructions of their own accord. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

static void NAME(roots)(root_function root, int n, REAL *x) {
    if (root) root(n, x, x, ROOT_MODE);
    else EACH x[i] = _Generic(x[i], float: sqrtf, double: sqrt)(x[i]);
}

/* x is the gradient, clipped and decayed; s, m and v are what the rule remembers. */
static void NAME(sgd)(const tensor_update *u, int n, const REAL *restrict x, REAL *restrict w) {
    const REAL rate = (REAL)-u->rate;
    EACH w[i] = NAME(fuse)(x[i], rate, w[i]);
}

static void NAME(momentum)(const update_call *c, const tensor_update *u, int n,
                           const REAL *restrict x, REAL *restrict w, REAL *restrict v) {
    const REAL rate = (REAL)-u->rate, momentum = (REAL)c->momentum;
    EACH {
        v[i] = v[i] * momentum + x[i];
        w[i] = NAME(fuse)(v[i], rate, w[i]);
    }
}

/* m follows the gradient as torch's lerp has it, or as `mul, add`, which the authors' rule needs. */
static void NAME(adam)(const update_call *c, const tensor_update *u, int n, const REAL *restrict x,
                       REAL *restrict w, REAL *restrict m, REAL *restrict s) {
    const REAL rate = (REAL)-u->rate, divisor = (REAL)u->divisor, eps = (REAL)c->eps;
    const REAL decay = (REAL)c->decay, rest = (REAL)c->rest, shrink = (REAL)c->shrink;
    const REAL mean_decay = (REAL)c->mean_decay, mean_rest = (REAL)c->mean_rest;
    REAL root[NUMBERS];
    if (c->rule == RULE_ADAM) EACH m[i] = NAME(fuse)(mean_rest, x[i] - m[i], m[i]);
    else EACH m[i] = NAME(fuse)(x[i], mean_rest, m[i] * mean_decay);
    EACH root[i] = s[i] = NAME(fuse)(rest * x[i], x[i], s[i] * decay);
    NAME(roots)(c->root, n, root);
    EACH w[i] = w[i] * shrink + rate * m[i] / (root[i] / divisor + eps);
}

static void NAME(rmsprop)(const update_call *c, const tensor_update *u, int n, const REAL *restrict x,
                          REAL *restrict w, REAL *restrict s, REAL *restrict v) {
    const REAL rate = (REAL)-u->rate, momentum = (REAL)c->momentum, eps = (REAL)c->eps;
    const REAL decay = (REAL)c->decay, rest = (REAL)c->rest;
    REAL root[NUMBERS];
    EACH root[i] = s[i] = NAME(fuse)(rest * x[i], x[i], s[i] * decay);
    NAME(roots)(c->root, n, root);
    if (!v) EACH w[i] = w[i] + rate * x[i] / (root[i] + eps);
    else EACH {
        v[i] = v[i] * momentum + x[i] / (root[i] + eps);
        w[i] = NAME(fuse)(v[i], rate, w[i]);
    }
}

static void NAME(adadelta)(const update_call *c, const tensor_update *u, int n,
                           const REAL *restrict x, REAL *restrict w, REAL *restrict s,
                           REAL *restrict d) {
    const REAL rate = (REAL)-u->rate, eps = (REAL)c->eps;
    const REAL decay = (REAL)c->decay, rest = (REAL)c->rest;
    REAL below[NUMBERS], above[NUMBERS];
    EACH {
        s[i] = NAME(fuse)(rest * x[i], x[i], s[i] * decay);
        below[i] = s[i] + eps;
        above[i] = d[i] + eps;
    }
    NAME(roots)(c->root, n, below);
    NAME(roots)(c->root, n, above);
    EACH {
        const REAL delta = above[i] / below[i] * x[i];
        d[i] = NAME(fuse)(rest * delta, delta, d[i] * decay);
        w[i] = NAME(fuse)(delta, rate, w[i]);
    }
}

static void NAME(graves_rmsprop)(const update_call *c, const tensor_update *u, int n,
                                 const REAL *restrict x, REAL *restrict w, REAL *restrict s,
                                 REAL *restrict m, REAL *restrict v) {
    const REAL rate = (REAL)-u->rate, momentum = (REAL)c->momentum, eps = (REAL)c->eps;
    const REAL decay = (REAL)c->decay, rest = (REAL)c->rest;
    EACH {
        s[i] = NAME(fuse)(rest * x[i], x[i], s[i] * decay);
        m[i] = NAME(fuse)(x[i], rest, m[i] * decay);
        REAL variance = NAME(fuse)(-m[i], m[i], s[i]);
        variance = variance < 0 ? 0 : variance; /* NaN stays */
        const REAL scale = 1 / _Generic(variance, float: sqrtf, double: sqrt)(variance + eps);
        v[i] = NAME(fuse)(rate * x[i], scale, v[i] * momentum);
        w[i] = w[i] + v[i];
    }
}

static void NAME(update_piece)(const update_call *c, const tensor_update *u, int64_t start) {
    const int n = u->size - start < NUMBERS ? (int)(u->size - start) : NUMBERS;
    REAL *w = (REAL *)u->weight + start, *state[3];
    const REAL *g = (const REAL *)u->gradient + start;
    for (int k = 0; k < 3; k++) state[k] = u->state[k] ? (REAL *)u->state[k] + start : 0;
    const REAL factor = (REAL)c->factor, weight_decay = (REAL)c->weight_decay;
    REAL x[NUMBERS];
    if (weight_decay == 0) EACH x[i] = g[i] * factor;
    else EACH x[i] = NAME(fuse)(w[i], weight_decay, g[i] * factor);
    switch (c->rule) {
    case RULE_SGD: NAME(sgd)(u, n, x, w); break;
    case RULE_MOMENTUM: NAME(momentum)(c, u, n, x, w, state[0]); break;
    case RULE_RMSPROP: NAME(rmsprop)(c, u, n, x, w, state[0], state[1]); break;
    case RULE_ADADELTA: NAME(adadelta)(c, u, n, x, w, state[0], state[1]); break;
    case RULE_GRAVES_RMSPROP:
        NAME(graves_rmsprop)(c, u, n, x, w, state[0], state[1], state[2]);
        break;
    default: NAME(adam)(c, u, n, x, w, state[0], state[1]);
    }
}

/* Each thread has a run of pieces, however they lie in the tensors. */
void NAME(update)(const update_call *c) {
    int64_t total = 0;
    for (int64_t k = 0; k < c->tensors; k++) total += (c->first[k].size + NUMBERS - 1) / NUMBERS;
    _Pragma("omp parallel for schedule(static) num_threads(c->threads) if (c->threads > 1)")
    for (int part = 0; part < c->threads; part++) {
        const int64_t from = total * part / c->threads, to = total * (part + 1) / c->threads;
        int64_t seen = 0;
        for (const tensor_update *u = c->first; u < c->first + c->tensors; u++) {
            const int64_t pieces = (u->size + NUMBERS - 1) / NUMBERS;
            for (int64_t k = from > seen ? from - seen : 0; k < pieces && seen + k < to; k++)
                NAME(update_piece)(c, u, k * NUMBERS);
            seen += pieces;
        }
    }
}

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
