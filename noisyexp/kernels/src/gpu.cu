/* Kernels of the noisy units and of recurrent steps made of them, for a GPU: the same functions as
   in kernels.c, on the same structures.

   A thread has one unit in one row of a step. It makes the whole Philox block of its four rows and
   takes one number of it: a step has few threads and waits for the longest, and short ones are
   faster than few. Matrix products are left to torch. noisyexp/kernels/cuda.py compiles this file
   with NVRTC; persistent.cu has kernels that run all steps in one launch. */
#include "thread.h"

#define REAL float
#define NAME(x) x##_f
#include "gpu.h"
#include "steps.h"
#undef REAL
#undef NAME
#define REAL double
#define NAME(x) x##_d
#include "gpu.h"
#include "steps.h"

/* Draws of one key as an array (blocks, rows, units); thread n has rows n, n + threads, ... */
KERNEL normal_fill_f(GIVEN noise_key key, GIVEN shape size, float *out) {
    const int64_t unit = THREAD % size.units, rows = size.rows;
    if (THREAD >= size.threads * size.units) return;
    for (int64_t n = THREAD / size.units; n < size.blocks * rows; n += size.threads)
        out[n * size.units + unit] =
            normal(key, (uint32_t)unit, (uint32_t)(n % rows), (uint32_t)(n / rows));
}
