// Index of the largest element of each row, the lowest among equals; overwrites (=) `ids`. A block takes a row.
//
// Order and ties are settled by index, so the result does not depend on how a row is cut. A NaN anywhere in a row makes
// its id 0xffffffff; where a second list is given, the id is in that too, but 0 for NaN: it may be used as an index before
// anybody has looked.
#include "../add/vector.cuh"

namespace anneal_argmax {

using namespace anneal_vector;

constexpr unsigned NAN_ID = 0xffffffffu;
/// Elements of a thread whose loads are in flight at once.
constexpr unsigned AHEAD = 8;

/// A candidate; index NAN_ID beats all.
struct Best {
    float value;
    unsigned index;

    __device__ __forceinline__ void meet(float other, unsigned at) {
        const bool better = other > value || (other == value && at < index);
        if (index != NAN_ID && (at == NAN_ID || better)) value = other, index = at;
    }
};

template <typename T>
__device__ __forceinline__ void row(unsigned* ids, unsigned* usable, const T* x, unsigned width) {
    __shared__ float values[32];
    __shared__ unsigned indices[32];
    x += blockIdx.x * (unsigned long long)width;
    // Worse than every element: of -inf too, as its index is the highest that is none.
    Best best = {-INFINITY, NAN_ID - 1};
    for (unsigned start = threadIdx.x; start < width; start += AHEAD * blockDim.x) {
        float v[AHEAD];
#pragma unroll
        for (unsigned k = 0; k < AHEAD; ++k) {
            const unsigned i = start + k * blockDim.x;
            // Past the end: loses to every element of the row, also to -inf, whose index is lower.
            v[k] = i < width ? widen(x[i]) : -INFINITY;
        }
#pragma unroll
        for (unsigned k = 0; k < AHEAD; ++k) {
            const unsigned i = start + k * blockDim.x;
            best.meet(v[k], isnan(v[k]) ? NAN_ID : i);
        }
    }
    for (int mask = 16; mask > 0; mask >>= 1) {
        const float v = __shfl_xor_sync(0xffffffffu, best.value, mask);
        best.meet(v, __shfl_xor_sync(0xffffffffu, best.index, mask));
    }
    if ((threadIdx.x & 31) == 0) values[threadIdx.x >> 5] = best.value, indices[threadIdx.x >> 5] = best.index;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (unsigned warp = 1; warp < blockDim.x >> 5; ++warp) best.meet(values[warp], indices[warp]);
    ids[blockIdx.x] = best.index;
    if (usable != nullptr) usable[blockIdx.x] = best.index == NAN_ID ? 0 : best.index;
}

}  // namespace anneal_argmax

extern "C" __global__ void __launch_bounds__(1024)
    anneal_argmax_f32(unsigned* ids, unsigned* usable, const float* x, unsigned width) {
    anneal_argmax::row(ids, usable, x, width);
}

extern "C" __global__ void __launch_bounds__(1024)
    anneal_argmax_bf16(unsigned* ids, unsigned* usable, const __nv_bfloat16* x, unsigned width) {
    anneal_argmax::row(ids, usable, x, width);
}
