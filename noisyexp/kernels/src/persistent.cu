/* All steps of a layer in one direction in one launch, forward or backward: noisyexp/kernels/
   persistent.py launches it cooperatively, so that all blocks are there at once and may wait for each
   other. Units and cells are those of gpu.h. Compiled as C, blocks run one after another, a step at a
   time. */
#include "thread.h"

#ifdef __CUDACC_RTC__ /* a program has one cell and one kind of operands: CELL and OPERANDS are given */
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
#include "persistent_forward.h"
#include "persistent_backward.h"

#ifdef __CUDACC_RTC__

extern __shared__ float4 shared_memory[];
#define MOST_THREADS 512
#define LSTM (CELL == CELL_LSTM)
#define ENTRY extern "C" __global__ void __launch_bounds__(MOST_THREADS, 1)
#define OWN_BLOCK \
    const persistent *p = &own; \
    const block mine = block_at(p, LSTM ? 4 : 3, blockIdx.x, blockDim.x, (char *)shared_memory); \
    const block *b = &mine;

ENTRY forward_all(GIVEN persistent own) {
    OWN_BLOCK
    PHASE(load_weights(b, tid); prepare(b, tid))
    PHASE(point_to_copies(b, tid); tell_start(b, tid))
    for (int64_t n = 0; n < p->steps; n++) {
        arrive(count_of(p, b->group));
        forward_inputs(b, n, 0, threadIdx.x);
        wait_for(count_of(p, b->group), (uint32_t)(p->slices * (n + 1)));
        forward_step(b, n, LSTM);
    }
    leave(p);
}

ENTRY backward_all(GIVEN persistent own) {
    OWN_BLOCK
    PHASE(load_weights_across(b, tid); clear_tile(b, tid); prepare(b, tid))
    PHASE(point_to_copies(b, tid))
    for (int64_t n = p->steps - 1; n >= 0; n--) {
        backward_units(b, n, 0, LSTM);
        if (n + 1 < p->steps)
            wait_for(count_of(p, b->group), (uint32_t)(p->slices * (p->steps - 1 - n)));
        const int last = backward_step(b, n, LSTM);
        arrive(count_of(p, b->group));
        PHASE(add_to_totals(b, last, tid))
    }
    wait_for(count_of(p, b->group), (uint32_t)(p->slices * p->steps));
    if (p->end_h) backward_start(b);
    PHASE(send_totals(b, tid))
    arrive(count_of(p, b->group));
    if (b->group == 0) {
        for (int group = 0; group < p->groups; group++)
            wait_for(count_of(p, group), (uint32_t)(p->slices * (p->steps + 1)));
        PHASE(sum_totals(b, tid))
    }
    leave(p);
}

#else

#include <stdlib.h>

#define EACH_BLOCK for (int i = 0; i < p->groups * p->slices; i++)

/* All blocks and their memories, which begin as not-a-number. */
static block *blocks_of(const persistent *p, int gates, int threads) {
    block *blocks = (block *)malloc(sizeof(block) * p->groups * p->slices);
    THREADS = threads;
    EACH_BLOCK {
        char *memory = (char *)aligned_alloc(64, (p->bytes + 63) / 64 * 64);
        memset(memory, 0xff, p->bytes);
        const block own = block_at(p, gates, i, threads, memory);
        memcpy(&blocks[i], &own, sizeof(block));
    }
    return blocks;
}

static void give_back(const persistent *p, block *blocks) {
    EACH_BLOCK free(blocks[i].memory);
    free(blocks);
}

static void run_forward(const persistent *p, int threads, const int lstm) {
    block *blocks = blocks_of(p, lstm ? 4 : 3, threads), *b;
    EACH_BLOCK {
        b = &blocks[i];
        PHASE(load_weights(b, tid); prepare(b, tid))
        PHASE(point_to_copies(b, tid); tell_start(b, tid))
    }
    for (int64_t n = 0; n < p->steps; n++) {
        EACH_BLOCK {
            b = &blocks[i];
            PHASE(forward_inputs(b, n, 0, tid))
            forward_step(b, n, lstm);
        }
    }
    give_back(p, blocks);
}

static void run_backward(const persistent *p, int threads, const int lstm) {
    block *blocks = blocks_of(p, lstm ? 4 : 3, threads), *b;
    EACH_BLOCK {
        b = &blocks[i];
        PHASE(load_weights_across(b, tid); clear_tile(b, tid); prepare(b, tid))
        PHASE(point_to_copies(b, tid))
    }
    for (int64_t n = p->steps - 1; n >= 0; n--) {
        EACH_BLOCK {
            b = &blocks[i];
            backward_units(b, n, 0, lstm);
            const int last = backward_step(b, n, lstm);
            PHASE(add_to_totals(b, last, tid))
        }
    }
    EACH_BLOCK {
        b = &blocks[i];
        if (p->end_h) backward_start(b);
        PHASE(send_totals(b, tid))
    }
    for (int i = 0; i < p->slices; i++) PHASE(sum_totals(&blocks[i], tid))
    give_back(p, blocks);
}

void lstm_forward_all(persistent own, int threads) { run_forward(&own, threads, 1); }
void lstm_backward_all(persistent own, int threads) { run_backward(&own, threads, 1); }
void gru_forward_all(persistent own, int threads) { run_forward(&own, threads, 0); }
void gru_backward_all(persistent own, int threads) { run_backward(&own, threads, 0); }
int64_t size_of_persistent(void) { return sizeof(persistent); }

#endif
