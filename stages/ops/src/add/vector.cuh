// Eight bf16 numbers as one 16-byte access, f32 arithmetic on them, and sums over a block in a fixed order.
//
// For the memory-bound kernels of add, adamw, cross_entropy, embedding, grad_norm, rms_norm, rope and swiglu. Device
// allocations start at multiples of 256 bytes, so a flat array may always be read in vectors; rows of a matrix may if
// its width is a multiple of 8. Unaware of what the numbers mean.
#pragma once

#include "../cuda/common.cuh"

namespace anneal_vector {

/// Elements of one vector.
constexpr unsigned WIDTH = 8;

/// Eight raw bf16 numbers: half the registers of their f32 values while loads are in flight.
struct Raw {
    anneal::Bf16x8 bits;

    __device__ __forceinline__ static Raw load(const bf16* from) { return Raw{anneal::load8(from)}; }
    __device__ __forceinline__ static Raw zero() {
        const float zeros[WIDTH] = {};
        return Raw{anneal::pack8(zeros)};
    }
    __device__ __forceinline__ void unpack(float (&out)[WIDTH]) const { anneal::unpack8(bits, out); }
};

__device__ __forceinline__ void load(const bf16* from, float (&out)[WIDTH]) { Raw::load(from).unpack(out); }

__device__ __forceinline__ void load(const float* from, float (&out)[WIDTH]) {
    const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}

__device__ __forceinline__ void store(bf16* to, const float (&in)[WIDTH]) { anneal::store8(to, anneal::pack8(in)); }

__device__ __forceinline__ void store(float* to, const float (&in)[WIDTH]) {
    reinterpret_cast<float4*>(to)[0] = make_float4(in[0], in[1], in[2], in[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(in[4], in[5], in[6], in[7]);
}

__device__ __forceinline__ float widen(bf16 x) { return anneal::to_f32(x); }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ void put(bf16* to, float x) { *to = anneal::to_bf16(x); }
__device__ __forceinline__ void put(float* to, float x) { *to = x; }

/// Sum over a warp; every lane gets the same bits, since a sum of two does not depend on their order.
template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
    for (int mask = 16; mask > 0; mask >>= 1) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

/// Sum over a block of whole warps, the same bits in every thread. `scratch` holds one number a warp. Two calls in a
/// row need two scratches: unlike the one in common.cuh it has one barrier, and the next call's ends its use.
template <typename T>
__device__ __forceinline__ T block_sum(T x, T* scratch) {
    x = warp_sum(x);
    if (blockDim.x <= 32) return x;
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
    __syncthreads();
    T sum = scratch[0];
    for (unsigned warp = 1; warp < blockDim.x >> 5; ++warp) sum += scratch[warp];
    return sum;
}

/// As `block_sum`, the largest.
__device__ __forceinline__ float block_max(float x, float* scratch) {
    x = anneal::warp_max(x);
    if (blockDim.x <= 32) return x;
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
    __syncthreads();
    float best = scratch[0];
    for (unsigned warp = 1; warp < blockDim.x >> 5; ++warp) best = fmaxf(best, scratch[warp]);
    return best;
}

/// Calls `vector(first)` for each whole vector of a flat array of `len`, and `single(i)` for what is left.
template <typename Vector, typename Single>
__device__ __forceinline__ void for_each(unsigned long long len, Vector vector, Single single) {
    const unsigned long long thread = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    const unsigned long long stride = gridDim.x * (unsigned long long)blockDim.x;
    const unsigned long long vectors = len / WIDTH;
    for (unsigned long long i = thread; i < vectors; i += stride) vector(i * WIDTH);
    const unsigned long long rest = vectors * WIDTH + thread;
    if (rest < len) single(rest);
}

}  // namespace anneal_vector
