// Sums of squares of gradients in f64, in two stages of a fixed order, and scaling in place.
//
// anneal_grad_norm_partial overwrites (=) one sum a block, for all tensors in one launch: its blocks find theirs in a
// table (group.cuh), and which elements a block takes depends on its tensor's length and number of blocks only.
// anneal_grad_norm_finish overwrites (=) one sum a tensor: a block adds a tensor's partial sums up. f64, because
// squares of small and large gradients leave f32's range and millions of them its precision. anneal_grad_norm_scale_*
// overwrites (=) its array.
#include "../add/vector.cuh"
#include "../cuda/group.cuh"

namespace anneal_grad_norm {

using namespace anneal_vector;

/// A gradient in the table: `len` bf16 if `is_bf16`, f32 otherwise.
struct Entry {
    const void* x;
    unsigned long long len, is_bf16;
};

/// This thread's part of a block's sum.
template <typename T>
__device__ __forceinline__ double squares(const anneal_group::Part<Entry>& part) {
    const T* const x = anneal_group::global(static_cast<const T*>(part.entry.x));
    const unsigned long long thread = part.block * blockDim.x + threadIdx.x, stride = part.blocks * blockDim.x;
    const unsigned long long vectors = part.entry.len / WIDTH, rest = vectors * WIDTH + thread;
    double sum = 0.0;
    for (unsigned long long i = thread; i < vectors; i += stride) {
        float v[WIDTH];
        load(x + i * WIDTH, v);
        for (unsigned j = 0; j < WIDTH; ++j) sum = fma((double)v[j], (double)v[j], sum);
    }
    if (rest < part.entry.len) sum = fma((double)widen(x[rest]), (double)widen(x[rest]), sum);
    return sum;
}

template <typename T>
__device__ __forceinline__ void scale(T* x, float factor, unsigned long long len) {
    for_each(
        len,
        [=](unsigned long long i) {
            float v[WIDTH];
            load(x + i, v);
            for (unsigned j = 0; j < WIDTH; ++j) v[j] *= factor;
            store(x + i, v);
        },
        [=](unsigned long long i) { put(x + i, widen(x[i]) * factor); });
}

}  // namespace anneal_grad_norm

extern "C" __global__ void __launch_bounds__(256)
    anneal_grad_norm_partial(double* partials, const unsigned long long* table, unsigned count) {
    __shared__ double scratch[32];
    const auto part = anneal_group::find<anneal_grad_norm::Entry>(table, count);
    double sum = part.entry.is_bf16 ? anneal_grad_norm::squares<__nv_bfloat16>(part)
                                    : anneal_grad_norm::squares<float>(part);
    sum = anneal_vector::block_sum(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

/// sums[t] = partials[starts[t]] + ... + partials[starts[t + 1] - 1]; a block a tensor. A table begins with its starts.
extern "C" __global__ void __launch_bounds__(128)
    anneal_grad_norm_finish(double* sums, const double* partials, const unsigned long long* starts) {
    __shared__ double scratch[32];
    double sum = 0.0;
    const unsigned long long end = starts[blockIdx.x + 1];
    for (unsigned long long i = starts[blockIdx.x] + threadIdx.x; i < end; i += blockDim.x) sum += partials[i];
    sum = anneal_vector::block_sum(sum, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_grad_norm_scale_bf16(__nv_bfloat16* x, float factor, unsigned long long len) {
    anneal_grad_norm::scale(x, factor, len);
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_grad_norm_scale_f32(float* x, float factor, unsigned long long len) {
    anneal_grad_norm::scale(x, factor, len);
}
