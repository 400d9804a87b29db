//! What the linear map for few rows takes, and its LoRA branches: u = x A^T by blocks of their own, then u B^T where the
//! product's blocks write their outputs, which wait for u by flags.
//!
//! A row's u is made of the same sums in the same order whatever else is computed. Unaware of the product.
#pragma once

#include "../attention/mma.cuh"

namespace linear_few {

constexpr int FEW_THREADS = 256;
constexpr int WARPS = FEW_THREADS / 32;
/// Rows of x that share a reading of A.
constexpr int LOW_ROWS = 8;
/// Most rows of A that a low block takes.
constexpr int LOW_OUTS = 8;

/// One map of the launch's: y = x weight^T + bias + scaling * u b^T, u its columns of what `low` computed.
struct Module {
    const bf16* weight;  // [outs, width]
    void* out;           // [rows, outs]
    const float* bias;   // [outs], or null
    const float* a;      // [rank, width]
    const float* b;      // [outs, rank]
    unsigned outs;
    unsigned rank;  // 0: no branch
    float scaling;
};

/// What all maps of a launch share.
struct Common {
    const bf16* x;     // [rows, width]
    const bf16* onto;  // [rows, outs], or null
    float* u;          // [rows, rank of all together]
    unsigned* ready;   // one a low block
    unsigned low_blocks;
    unsigned low_outs;  // rows of A that a low block takes, one after the other; at most LOW_OUTS
    unsigned epoch;
    unsigned rows;
    unsigned width;
    unsigned wide;  // outputs are f32
};

__device__ __forceinline__ void publish(unsigned* flag, unsigned value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;\n" ::"l"(flag), "r"(value) : "memory");
}

__device__ __forceinline__ unsigned observe(const unsigned* flag) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(value) : "l"(flag) : "memory");
    return value;
}

/// Brings what lies there into L2: `count` floats, by all threads of the block.
__device__ __forceinline__ void prefetch(const float* from, size_t count) {
    for (size_t i = threadIdx.x * 32; i < count; i += FEW_THREADS * 32) attention::prefetch_l2(from + i);
}

/// One row of A with ROWS rows of x from `first` on: each warp's sums, [WARPS][LOW_ROWS]. Thread t takes the width's
/// elements 8t..8t + 8 of every 2048: how it is cut depends on the width alone. AHEAD of these are loaded at a time.
template <int ROWS, int AHEAD>
__device__ __forceinline__ void low_row(const Common& c, const float* a, unsigned first, float* to) {
    constexpr unsigned ROUND = FEW_THREADS * 8;
    // Rows beyond the last are the last once more, and not kept: no load waits for a branch.
    const bf16* const x = c.x + size_t(first) * c.width;
    const unsigned last = c.rows - 1 - first;
    float sums[ROWS] = {};
    const auto take = [&](unsigned k) {
        const float4 low_half = __ldg(reinterpret_cast<const float4*>(a + k));
        const float4 high_half = __ldg(reinterpret_cast<const float4*>(a + k + 4));
        const float weights[8] = {low_half.x,  low_half.y,  low_half.z,  low_half.w,
                                  high_half.x, high_half.y, high_half.z, high_half.w};
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            float v[8];
            anneal::unpack8(anneal::load8(x + size_t(min(unsigned(i), last)) * c.width + k), v);
#pragma unroll
            for (int j = 0; j < 8; ++j) sums[i] = fmaf(weights[j], v[j], sums[i]);
        }
    };
    unsigned k = threadIdx.x * 8;
    for (; k + (AHEAD - 1) * ROUND < c.width; k += AHEAD * ROUND) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) take(k + i * ROUND);
    }
    for (; k < c.width; k += ROUND) take(k);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        const float sum = anneal::warp_sum(sums[i]);
        if ((threadIdx.x & 31) == 0) to[(threadIdx.x >> 5) * LOW_ROWS + i] = sum;
    }
}

/// u (=) x A^T in f32: block `low` takes `low_outs` rows of all A together, for LOW_ROWS rows of x. Then the block's flag
/// says so. These are the launch's first blocks, and wait for none of the others.
__device__ __forceinline__ void low_rank(const Common& c, const Module& m0, const Module& m1, const Module& m2,
                                         unsigned low, float* sums) {
    const unsigned rank = m0.rank + m1.rank + m2.rank, groups = (rank + c.low_outs - 1) / c.low_outs;
    const unsigned from = low % groups * c.low_outs, outs = min(c.low_outs, rank - from);
    const unsigned first = low / groups * LOW_ROWS;
    const auto row_of = [&](unsigned at) {
        return at < m0.rank             ? m0.a + size_t(at) * c.width
               : at < m0.rank + m1.rank ? m1.a + size_t(at - m0.rank) * c.width
                                        : m2.a + size_t(at - m0.rank - m1.rank) * c.width;
    };
    for (unsigned i = 0; i < outs; ++i) prefetch(row_of(from + i), c.width);
    anneal::await_earlier();
    for (unsigned i = 0; i < outs; ++i) {
        float* const to = sums + i * (WARPS * LOW_ROWS);
        if (first + 1 == c.rows) {
            low_row<1, 4>(c, row_of(from + i), first, to);
        } else {
            low_row<LOW_ROWS, 1>(c, row_of(from + i), first, to);
        }
    }
    __syncthreads();
    const unsigned row = threadIdx.x / LOW_OUTS, at = threadIdx.x % LOW_OUTS;
    if (row < LOW_ROWS && first + row < c.rows && at < outs) {
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) sum += sums[(at * WARPS + warp) * LOW_ROWS + row];
        c.u[size_t(first + row) * rank + from + at] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) publish(c.ready + low, c.epoch);
}

/// Waits until all of u is there: for blocks of lower numbers, which have begun. Blocks begin in the order of their
/// numbers on every GPU so far; CUDA does not promise it where they do not all fit at once.
__device__ __forceinline__ void await_low_rank(const Common& c) {
    for (unsigned i = threadIdx.x; i < c.low_blocks; i += FEW_THREADS) {
        while (observe(c.ready + i) != c.epoch) __nanosleep(40);
    }
    __syncthreads();
}

/// A module's branch for a tile of outputs: u and B from shared memory, or, where they have no room there, in place.
struct Branch {
    const float* u;  // of the first row
    const float* b;  // of the tile's first output
    unsigned u_stride;
    unsigned b_stride;
    unsigned rank;
    float scaling;

    /// scaling * u[row] . b[at], in order.
    __device__ __forceinline__ float of(unsigned row, unsigned at) const {
        float sum = 0.0f;
#pragma unroll 4
        for (unsigned i = 0; i < rank; ++i) sum = fmaf(u[row * u_stride + i], b[at * b_stride + i], sum);
        return scaling * sum;
    }
};

/// The branch of outputs `first..first + outs` of a module whose columns of u begin at `column` of `all`. Starts copying B to
/// `room` if it has `left` floats enough for B and u, and takes these from it; `take_u` brings the rest once u is there.
__device__ __forceinline__ Branch take_b(const Common& c, const Module& m, unsigned column, unsigned all,
                                         unsigned first, unsigned outs, float*& room, unsigned& left) {
    Branch branch = {c.u + column, m.b + size_t(first) * m.rank, all, m.rank, m.rank, m.scaling};
    // An odd stride: neighbouring outputs lie in different banks.
    const unsigned stride = m.rank | 1, wanted = (outs + c.rows) * stride;
    if (m.rank == 0 || wanted > left) return branch;
    const unsigned count = min(outs, m.outs - first) * m.rank;
    const uint32_t to = attention::shared_address(room);
    for (unsigned i = threadIdx.x; i < count; i += FEW_THREADS)
        attention::copy_4(to + (i / m.rank * stride + i % m.rank) * 4, branch.b + i);
    branch.b = room;
    branch.b_stride = stride;
    branch.u = room + outs * stride;
    branch.u_stride = stride;
    room += wanted;
    left -= wanted;
    return branch;
}

__device__ __forceinline__ void take_u(const Common& c, const Branch& branch, unsigned column, unsigned all) {
    if (branch.u == c.u + column) return;
    float* const to = const_cast<float*>(branch.u);
    for (unsigned i = threadIdx.x; i < c.rows * branch.rank; i += FEW_THREADS) {
        const unsigned row = i / branch.rank, at = i % branch.rank;
        to[row * branch.u_stride + at] = __ldcg(c.u + size_t(row) * all + column + at);
    }
}

}  // namespace linear_few
