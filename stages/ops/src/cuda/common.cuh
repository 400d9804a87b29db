// Helpers shared by the crate's kernels: bf16 <-> f32, 16-byte vectors, reductions in a fixed order.
// Unaware of any op. No atomics anywhere: sums are in the same order from run to run.
#pragma once
#include <cuda_bf16.h>
#include <cstdint>

typedef __nv_bfloat16 bf16;

namespace anneal {

__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(float x) { return x; }
/// Rounds to nearest even.
__device__ __forceinline__ bf16 to_bf16(float x) { return __float2bfloat16_rn(x); }

/// 8 bf16 in 16 bytes: one load or store of a thread.
struct alignas(16) Bf16x8 {
    __nv_bfloat162 pair[4];
};

__device__ __forceinline__ Bf16x8 load8(const bf16* p) { return *reinterpret_cast<const Bf16x8*>(p); }
__device__ __forceinline__ void store8(bf16* p, const Bf16x8& v) { *reinterpret_cast<Bf16x8*>(p) = v; }

/// Exact.
__device__ __forceinline__ void unpack8(const Bf16x8& v, float (&out)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 f = __bfloat1622float2(v.pair[i]);
        out[2 * i] = f.x;
        out[2 * i + 1] = f.y;
    }
}

/// Rounds to nearest even.
__device__ __forceinline__ Bf16x8 pack8(const float (&in)[8]) {
    Bf16x8 v;
#pragma unroll
    for (int i = 0; i < 4; ++i) v.pair[i] = __floats2bfloat162_rn(in[2 * i], in[2 * i + 1]);
    return v;
}

/// Whether `p` may be read by `load8`.
__device__ __forceinline__ bool aligned16(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

/// Sum over the warp, the same in all lanes. All 32 lanes must take part.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/// Maximum over the warp, the same in all lanes. All 32 lanes must take part.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/// Sum over a one-dimensional block of whole warps, the same in all threads. `scratch` holds 32 floats of shared
/// memory and may be reused after the call returns.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    x = warp_sum(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : 0.f);
    __syncthreads();
    return x;
}

/// As `block_sum`, the maximum.
__device__ __forceinline__ float block_max(float x, float* scratch) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    x = warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_max(lane < warps ? scratch[lane] : -INFINITY);
    __syncthreads();
    return x;
}

/// The kernel behind this one may begin when all blocks have said so (`launch_early` in launch.rs). It waits for the end of
/// this one before it takes anything from it.
__device__ __forceinline__ void next_may_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::);
#endif
}

/// Waits until all that was launched before this kernel has ended, and its writes are there to be seen.
__device__ __forceinline__ void await_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/// First index of this thread in a one-dimensional grid, and the grid's number of threads: `for (i = first(); i < n; i
/// += stride())`. 64 bits.
__device__ __forceinline__ uint64_t first() { return uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ uint64_t stride() { return uint64_t(gridDim.x) * blockDim.x; }

}  // namespace anneal
