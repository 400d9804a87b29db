// Softmax and negative log-likelihood of a chunk of f32 logits, and their gradient in place.
//
// Fused: largest and sum of exponentials in one pass over a row (online softmax), then the loss, then the gradient.
// anneal_cross_entropy_rows overwrites (=) `losses` and, if `gradient`, each row of logits by scale * (p - one at the
// target) in bf16, at the row's start: the result is a bf16 matrix whose rows lie 2 * vocabulary elements apart. A
// block takes a row. The `_any` kernel takes every vocabulary, the other multiples of 4 (rows start at 16 bytes).
// anneal_cross_entropy_narrow overwrites (=) a bf16 array by f32 numbers.
#include "../add/vector.cuh"

#include <float.h>

namespace anneal_cross_entropy {

using namespace anneal_vector;

/// Largest and sum of e^(x - largest) so far. The first largest is finite, so that a logit of -inf counts 0; one of
/// +inf or NaN makes the sum NaN.
struct Online {
    float largest = -FLT_MAX, sum = 0.0f;

    template <unsigned N>
    __device__ __forceinline__ void add(const float (&x)[N]) {
        float best = x[0];
        for (unsigned j = 1; j < N; ++j) best = fmaxf(best, x[j]);
        if (best > largest) {
            sum *= __expf(largest - best);
            largest = best;
        }
        for (unsigned j = 0; j < N; ++j) sum += __expf(x[j] - largest);
    }
};

/// The largest logit of the row and the sum of exponentials, the same bits in every thread.
__device__ __forceinline__ Online combine(Online mine) {
    __shared__ float scratch[2][32];
    Online all;
    all.largest = block_max(mine.largest, scratch[0]);
    all.sum = block_sum(mine.sum * __expf(mine.largest - all.largest), scratch[1]);
    return all;
}

__device__ __forceinline__ float gradient(float x, const Online& row, float factor, float scale, bool target) {
    const float p = __expf(x - row.largest) * factor;
    return target ? p - scale : p;
}

/// A row is overwritten tile by tile: results are half as long as logits, so those of a tile land on logits of the same
/// or earlier tiles, which the barrier says have been read.
template <bool VECTORS>
__device__ __forceinline__ void row(float* losses, float* logits, const unsigned* targets, unsigned vocabulary,
                                    float scale, bool wanted) {
    float* x = logits + blockIdx.x * (unsigned long long)vocabulary;
    bf16* out = reinterpret_cast<bf16*>(x);
    const unsigned target = targets[blockIdx.x];
    const float at_target = x[target];
    Online mine;
    unsigned whole = 0;
    if constexpr (VECTORS) {
        // Of a multiple of 4 that is none of 8, the last 4 elements are taken one by one.
        whole = vocabulary / WIDTH * WIDTH;
        for (unsigned i = threadIdx.x * WIDTH; i < whole; i += blockDim.x * WIDTH) {
            float v[WIDTH];
            load(x + i, v);
            mine.add(v);
        }
    }
    for (unsigned i = whole + threadIdx.x; i < vocabulary; i += blockDim.x) {
        const float v[1] = {x[i]};
        mine.add(v);
    }
    const Online all = combine(mine);
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(all.sum) + (all.largest - at_target);
    if (!wanted) return;
    const float factor = scale / all.sum;
    if constexpr (VECTORS) {
        for (unsigned start = 0; start < whole; start += blockDim.x * WIDTH) {
            const unsigned i = start + threadIdx.x * WIDTH;
            float v[WIDTH];
            if (i < whole) {
                load(x + i, v);
                for (unsigned j = 0; j < WIDTH; ++j) v[j] = gradient(v[j], all, factor, scale, i + j == target);
            }
            __syncthreads();
            if (i < whole) store(out + i, v);
        }
    }
    for (unsigned start = whole; start < vocabulary; start += blockDim.x) {
        const unsigned i = start + threadIdx.x;
        float v = 0.0f;
        if (i < vocabulary) v = gradient(x[i], all, factor, scale, i == target);
        __syncthreads();
        if (i < vocabulary) put(out + i, v);
    }
}

}  // namespace anneal_cross_entropy

extern "C" __global__ void __launch_bounds__(1024)
    anneal_cross_entropy_rows(float* losses, float* logits, const unsigned* targets, unsigned vocabulary, float scale,
                              unsigned gradient) {
    anneal_cross_entropy::row<true>(losses, logits, targets, vocabulary, scale, gradient != 0);
}

extern "C" __global__ void __launch_bounds__(1024)
    anneal_cross_entropy_rows_any(float* losses, float* logits, const unsigned* targets, unsigned vocabulary,
                                  float scale, unsigned gradient) {
    anneal_cross_entropy::row<false>(losses, logits, targets, vocabulary, scale, gradient != 0);
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_cross_entropy_narrow(__nv_bfloat16* out, const float* x, unsigned long long len) {
    using namespace anneal_vector;
    for_each(
        len,
        [=](unsigned long long i) {
            float v[WIDTH];
            load(x + i, v);
            store(out + i, v);
        },
        [=](unsigned long long i) { put(out + i, x[i]); });
}
