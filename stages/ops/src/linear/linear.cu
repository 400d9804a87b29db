// Parts of the linear map around its matrix products: dropout of the branch's input, bf16 copies of the branch's small
// f32 matrices, bias. Each kernel says whether it overwrites (=) or accumulates (+=).
#include "common.cuh"

using namespace anneal;

// The hash of (key, index), uniform over 32 bits: SplitMix64's finaliser (Steele et al., 2014), as on the CPU.
static __device__ __forceinline__ uint32_t hash(uint64_t key, uint64_t index) {
    uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return uint32_t((z ^ (z >> 31)) >> 32);
}

// 0 for a dropped element, `grow` for a kept one: multiplied, so that a NaN stays visible.
static __device__ __forceinline__ float factor(uint64_t key, uint64_t index, uint32_t limit, float grow) {
    return hash(key, index) < limit ? 0.f : grow;
}

// out = dropout(x), `n` elements of both. Overwrites.
extern "C" __global__ void anneal_linear_dropout(const bf16* x, bf16* out, uint64_t n, uint64_t key, uint32_t limit,
                                                 float grow) {
    for (uint64_t i = first(); i < n; i += stride()) out[i] = to_bf16(to_f32(x[i]) * factor(key, i, limit, grow));
}

// d_x += dropout(through). Accumulates.
extern "C" __global__ void anneal_linear_dropout_add(const bf16* through, bf16* d_x, uint64_t n, uint64_t key,
                                                     uint32_t limit, float grow) {
    for (uint64_t i = first(); i < n; i += stride()) {
        d_x[i] = to_bf16(fmaf(to_f32(through[i]), factor(key, i, limit, grow), to_f32(d_x[i])));
    }
}

// out[at + i] = x[i] rounded, for six matrices x of n elements each. Overwrites.
extern "C" __global__ void anneal_linear_round(bf16* out, const float* x0, uint64_t n0, uint64_t at0, const float* x1,
                                               uint64_t n1, uint64_t at1, const float* x2, uint64_t n2, uint64_t at2,
                                               const float* x3, uint64_t n3, uint64_t at3, const float* x4,
                                               uint64_t n4, uint64_t at4, const float* x5, uint64_t n5,
                                               uint64_t at5) {
    const float* x[6] = {x0, x1, x2, x3, x4, x5};
    const uint64_t n[6] = {n0, n1, n2, n3, n4, n5}, at[6] = {at0, at1, at2, at3, at4, at5};
#pragma unroll
    for (int m = 0; m < 6; ++m) {
        for (uint64_t i = first(); i < n[m]; i += stride()) out[at[m] + i] = to_bf16(x[m][i]);
    }
}

// to += x. Accumulates.
extern "C" __global__ void anneal_linear_add(float* to, const float* x, uint64_t n) {
    for (uint64_t i = first(); i < n; i += stride()) to[i] += x[i];
}

// y[row, col] += bias[col]. Accumulates.
extern "C" __global__ void anneal_linear_bias(bf16* y, const float* bias, uint64_t n, uint64_t outs) {
    for (uint64_t i = first(); i < n; i += stride()) y[i] = to_bf16(to_f32(y[i]) + bias[i % outs]);
}

// d_bias[col] += sum of column col of d [rows, outs]. Accumulates. A block takes 32 columns; its 8 warps take rows in
// turn and their sums are added in order.
extern "C" __global__ void anneal_linear_bias_gradient(const bf16* d, float* d_bias, uint64_t rows, uint64_t outs) {
    __shared__ float sums[8][32];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint64_t col = uint64_t(blockIdx.x) * 32 + lane;
    float sum = 0.f;
    if (col < outs) {
        for (uint64_t row = warp; row < rows; row += 8) sum += to_f32(d[row * outs + col]);
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && col < outs) {
        float total = 0.f;
        for (int i = 0; i < 8; ++i) total += sums[i][lane];
        d_bias[col] += total;
    }
}
