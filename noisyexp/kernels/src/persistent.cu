/* All steps of a layer in one direction in one launch, forward or backward: noisyexp/nn/persistent.py
   launches it cooperatively, so that all blocks are there at once and may wait for each other. Units
   and cells are those of gpu.h. Compiled as C, a kernel runs its blocks one after another, step by step. */
#include "thread.h"

#ifdef __CUDACC_RTC__ /* a program has one cell and one kind of operands: LSTM and OPERANDS are given */
#define OPERANDS_OF(p) OPERANDS
#else
#define OPERANDS_OF(p) (p)->operands
#endif

#define REAL float
#define NAME(x) x##_f
#include "gpu.h"
#include "machine.h"
#include "product.h"
#include "persistent.h"

#ifdef __CUDACC_RTC__

extern __shared__ float4 shared_memory[];
#define MOST_THREADS 512

INLINE void run_forward(const pass *p, const int lstm) {
    const block own = block_at(p, lstm ? 4 : 3, blockIdx.x, blockDim.x, (char *)shared_memory);
    const block *b = &own;
    PHASE(load_weights(b, tid); tell_start(b, tid))
    for (int64_t n = 0; n < p->steps; n++) {
        arrive(count_of(b));
        wait_for(count_of(b), (uint32_t)(p->slices * (n + 1)));
        forward_step(b, n, lstm);
    }
}

INLINE void run_backward(const pass *p, const int lstm) {
    const block own = block_at(p, lstm ? 4 : 3, blockIdx.x, blockDim.x, (char *)shared_memory);
    const block *b = &own;
    PHASE(load_weights_across(b, tid); clear_tile(b, tid))
    for (int64_t n = p->steps - 1; n >= 0; n--) {
        backward_units(b, n, 0, lstm);
        if (n + 1 < p->steps) wait_for(count_of(b), (uint32_t)(p->slices * (p->steps - 1 - n)));
        backward_step(b, n, lstm);
        arrive(count_of(b));
    }
    wait_for(count_of(b), (uint32_t)(p->slices * p->steps));
    backward_end(b);
}

#define ENTRY extern "C" __global__ void __launch_bounds__(MOST_THREADS, 1)
ENTRY forward_all(GIVEN pass own) { run_forward(&own, LSTM); }
ENTRY backward_all(GIVEN pass own) { run_backward(&own, LSTM); }

#else

#include <stdlib.h>

#define EACH_BLOCK for (int i = 0; i < p->groups * p->slices; i++)

/* All blocks and their memories, which begin as not-a-number. */
static block *blocks_of(const pass *p, int gates, int threads) {
    block *blocks = (block *)malloc(sizeof(block) * p->groups * p->slices);
    THREADS = threads;
    EACH_BLOCK {
        char *memory = (char *)aligned_alloc(64, (p->bytes + 63) / 64 * 64);
        memset(memory, 0xff, p->bytes);
        blocks[i] = block_at(p, gates, i, threads, memory);
    }
    return blocks;
}

static void give_back(const pass *p, block *blocks) {
    EACH_BLOCK free(blocks[i].memory);
    free(blocks);
}

static void run_forward(const pass *p, int threads, const int lstm) {
    block *blocks = blocks_of(p, lstm ? 4 : 3, threads);
    EACH_BLOCK PHASE(load_weights(&blocks[i], tid); tell_start(&blocks[i], tid))
    for (int64_t n = 0; n < p->steps; n++) EACH_BLOCK forward_step(&blocks[i], n, lstm);
    give_back(p, blocks);
}

static void run_backward(const pass *p, int threads, const int lstm) {
    block *blocks = blocks_of(p, lstm ? 4 : 3, threads);
    EACH_BLOCK PHASE(load_weights_across(&blocks[i], tid); clear_tile(&blocks[i], tid))
    for (int64_t n = p->steps - 1; n >= 0; n--) {
        EACH_BLOCK {
            backward_units(&blocks[i], n, 0, lstm);
            backward_step(&blocks[i], n, lstm);
        }
    }
    EACH_BLOCK backward_end(&blocks[i]);
    give_back(p, blocks);
}

void lstm_forward_all(pass own, int threads) { run_forward(&own, threads, 1); }
void lstm_backward_all(pass own, int threads) { run_backward(&own, threads, 1); }
void gru_forward_all(pass own, int threads) { run_forward(&own, threads, 0); }
void gru_backward_all(pass own, int threads) { run_backward(&own, threads, 0); }
int64_t size_of_pass(void) { return sizeof(pass); }

#endif
