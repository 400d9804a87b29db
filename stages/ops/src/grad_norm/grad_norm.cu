// Sums of squares of gradients in f64, in two stages of a fixed order, and scaling in place.
//
// anneal_grad_norm_partial_* overwrites (=) one sum a block: which elements a block takes depends on the length and the
// grid only. anneal_grad_norm_finish overwrites (=) one sum a tensor: a block adds a tensor's partial sums up. f64,
// because squares of small and large gradients leave f32's range and millions of them its precision.
// anneal_grad_norm_scale_* overwrites (=) its array.
#include "../add/vector.cuh"

namespace anneal_grad_norm {

using namespace anneal_vector;

template <typename T>
__device__ __forceinline__ void partial(double* partials, const T* x, unsigned long long len) {
    __shared__ double scratch[32];
    double sum = 0.0;
    for_each(
        len,
        [&](unsigned long long i) {
            float v[WIDTH];
            load(x + i, v);
            for (unsigned j = 0; j < WIDTH; ++j) sum = fma((double)v[j], (double)v[j], sum);
        },
        [&](unsigned long long i) { sum = fma((double)widen(x[i]), (double)widen(x[i]), sum); });
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
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
    anneal_grad_norm_partial_bf16(double* partials, const __nv_bfloat16* x, unsigned long long len) {
    anneal_grad_norm::partial(partials, x, len);
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_grad_norm_partial_f32(double* partials, const float* x, unsigned long long len) {
    anneal_grad_norm::partial(partials, x, len);
}

/// sums[t] = partials[starts[t]] + ... + partials[starts[t + 1] - 1]; a block a tensor.
extern "C" __global__ void __launch_bounds__(128)
    anneal_grad_norm_finish(double* sums, const double* partials, const unsigned* starts) {
    __shared__ double scratch[32];
    double sum = 0.0;
    for (unsigned i = starts[blockIdx.x] + threadIdx.x; i < starts[blockIdx.x + 1]; i += blockDim.x) sum += partials[i];
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
