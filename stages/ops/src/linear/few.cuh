//! The linear map for few rows: a weight is read once, at the memory's speed, whatever the number of rows up to COLUMNS.
//!
//! Weight rows are the left operand of m16n8k16, the rows of x its columns. The sum over the width is cut into chunks of
//! 64, chunk i for warp i % 8 of the block that has the weight's rows; the eight sums are added in order. So what an
//! output is made of, and in which order, depends neither on the number of rows nor on the kernel that has room for them.
//!
//! Every thread copies to shared memory just what it will read back itself, 16 bytes at a time, some steps ahead: within
//! a step of 32 a thread's 8 elements of a row stand for k = 2t, 2t + 1, 2t + 8, 2t + 9 of two products, in x as in the
//! weight. Nobody else needs them, so the loop has no barrier. The first weights are read before the kernel ahead has ended,
//! x after it. Unaware of what is multiplied.
#pragma once

#include "few_branch.cuh"

namespace linear_few {

using attention::copies_commit;
using attention::copies_wait_for_all_but;
using attention::copy_16;

/// Elements of the width that a warp takes before the next warp's turn: two steps.
constexpr int CHUNK = 64;

/// The sums of `tiles` 16-row tiles of weights for up to NT * 8 rows of x, the eight warps' in shared memory.
template <int MT, int NT>
struct Sums {
    /// Of floats, between rows of x: threads of a fragment fall into different banks.
    static constexpr int STRIDE = MT * 16 + 4;
    static constexpr int BYTES = WARPS * NT * 8 * STRIDE * 4;

    /// Floats that the memory of so many stages has left beside the sums.
    static __host__ __device__ constexpr unsigned left(int stages) {
        return (stages * (2 * MT + NT) * FEW_THREADS * 16 - BYTES) / 4;
    }

    /// The whole sum of one output.
    static __device__ __forceinline__ float of(const float* sums, int row, int out) {
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; ++warp) sum += sums[(warp * NT * 8 + row) * STRIDE + out];
        return sum;
    }
};

/// Fills `Sums` for weight rows `first..first + 16 * MT` of `weight`, or, where there is an `other`, for MT / 2 tiles of
/// each from row `first` on. Rows from `outs` on and beyond the rows of x count as zeros.
template <int MT, int NT, int STAGES>
__device__ __forceinline__ void multiply(const Common& c, const bf16* weight, const bf16* other, unsigned outs,
                                         unsigned first, char* shared) {
    constexpr int SLOTS = 2 * MT + NT;
    static_assert(STAGES * SLOTS * FEW_THREADS * 16 >= Sums<MT, NT>::BYTES, "sums reuse the stages' memory");
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, group = lane >> 2, in_group = lane & 3;
    const uint32_t own = attention::shared_address(shared) + threadIdx.x * 16;
    const auto slot = [&](int stage, int i) { return (stage * SLOTS + i) * (FEW_THREADS * 16); };

    const unsigned chunks = (c.width + CHUNK - 1) / CHUNK;
    const int steps = unsigned(warp) < chunks ? int((chunks - warp + WARPS - 1) / WARPS) * 2 : 0;
    const auto column = [&](int step) {
        return unsigned(warp + WARPS * (step >> 1)) * CHUNK + (step & 1) * 32 + in_group * 8;
    };
    const auto fill_weight = [&](int stage, int step) {
        const unsigned k = column(step);
#pragma unroll
        for (int i = 0; i < 2 * MT; ++i) {
            const bool second = other != nullptr && i >= MT;
            const unsigned row = first + (second ? i - MT : i) * 8 + group;
            const bool take = k < c.width && row < outs;
            const bf16* from = second ? other : weight;
            copy_16(own + slot(stage, i), from + (take ? size_t(row) * c.width + k : 0), take);
        }
    };
    const auto fill_x = [&](int stage, int step) {
        const unsigned k = column(step);
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const unsigned row = n * 8 + group;
            const bool take = k < c.width && row < c.rows;
            copy_16(own + slot(stage, 2 * MT + n), c.x + (take ? size_t(row) * c.width + k : 0), take);
        }
    };

    float sums[MT][NT][4] = {};
    // Weights do not wait for what comes before, x does.
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage)
        if (stage < steps) fill_weight(stage, stage);
    anneal::await_earlier();
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (stage < steps) fill_x(stage, stage);
        copies_commit();
    }
    int stage = 0;
    for (int step = 0; step < steps; ++step) {
        copies_wait_for_all_but<STAGES - 2>();
        const char* from = shared + threadIdx.x * 16;
        uint4 left[2 * MT];
#pragma unroll
        for (int i = 0; i < 2 * MT; ++i) left[i] = *reinterpret_cast<const uint4*>(from + slot(stage, i));
        const int ahead = stage == 0 ? STAGES - 1 : stage - 1;
        if (step + STAGES - 1 < steps) {
            fill_weight(ahead, step + STAGES - 1);
            fill_x(ahead, step + STAGES - 1);
        }
        copies_commit();
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const uint4 right = *reinterpret_cast<const uint4*>(from + slot(stage, 2 * MT + n));
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                const uint4 top = left[2 * m], bottom = left[2 * m + 1];
                const uint32_t early[4] = {top.x, bottom.x, top.y, bottom.y};
                const uint32_t late[4] = {top.z, bottom.z, top.w, bottom.w};
                attention::mma(sums[m][n], early, right.x, right.y);
                attention::mma(sums[m][n], late, right.z, right.w);
            }
        }
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    copies_wait_for_all_but<0>();
    __syncthreads();
    float* to = reinterpret_cast<float*>(shared);
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const int row = warp * NT * 8 + n * 8 + in_group * 2, out = m * 16 + group;
            to[row * Sums<MT, NT>::STRIDE + out] = sums[m][n][0];
            to[(row + 1) * Sums<MT, NT>::STRIDE + out] = sums[m][n][1];
            to[row * Sums<MT, NT>::STRIDE + out + 8] = sums[m][n][2];
            to[(row + 1) * Sums<MT, NT>::STRIDE + out + 8] = sums[m][n][3];
        }
    }
    __syncthreads();
}

/// A launch's blocks: the low-rank ones, then 16 * MT outputs each, module after module. Overwrites (=) the outputs, which
/// may be `onto`.
template <int MT, int NT, int STAGES>
__device__ __forceinline__ void product(const Common& c, const Module& m0, const Module& m1, const Module& m2) {
    extern __shared__ __align__(16) char shared[];
    anneal::next_may_begin();
    if (blockIdx.x < c.low_blocks) return low_rank(c, m0, m1, m2, blockIdx.x, reinterpret_cast<float*>(shared));
    constexpr unsigned OUTS = MT * 16;
    unsigned tile = blockIdx.x - c.low_blocks, column = 0;
    Module m = m0;
    if (tile >= (m.outs + OUTS - 1) / OUTS) {
        tile -= (m.outs + OUTS - 1) / OUTS, column = m0.rank, m = m1;
        if (tile >= (m.outs + OUTS - 1) / OUTS) tile -= (m.outs + OUTS - 1) / OUTS, column += m1.rank, m = m2;
    }
    const unsigned first = tile * OUTS, all = m0.rank + m1.rank + m2.rank;
    // Not before the end are B's rows needed; from memory they would take longer then than the branch itself.
    prefetch(m.b + size_t(first) * m.rank, min(OUTS, m.outs - first) * size_t(m.rank));
    multiply<MT, NT, STAGES>(c, m.weight, nullptr, m.outs, first, shared);
    float* room = reinterpret_cast<float*>(shared + Sums<MT, NT>::BYTES);
    unsigned left = Sums<MT, NT>::left(STAGES);
    const Branch branch = take_b(c, m, column, all, first, OUTS, room, left);
    if (m.rank > 0) {
        await_low_rank(c);
        take_u(c, branch, column, all);
        attention::copies_wait();
        __syncthreads();
    }
    for (unsigned i = threadIdx.x; i < OUTS * NT * 8; i += FEW_THREADS) {
        const unsigned at = i % OUTS, row = i / OUTS, out = first + at;
        if (row >= c.rows || out >= m.outs) continue;
        float y = Sums<MT, NT>::of(reinterpret_cast<const float*>(shared), row, at);
        if (m.rank > 0) y += branch.of(row, at);
        if (m.bias != nullptr) y += m.bias[out];
        const size_t to = size_t(row) * m.outs + out;
        if (c.onto != nullptr) y += anneal::to_f32(c.onto[to]);
        if (c.wide) {
            static_cast<float*>(m.out)[to] = y;
        } else {
            static_cast<bf16*>(m.out)[to] = anneal::to_bf16(y);
        }
    }
}

/// out (=) silu(gate) * up, of two modules of one size: 8 * MT outputs a block.
template <int MT, int NT, int STAGES>
__device__ __forceinline__ void gated(const Common& c, const Module& gate, const Module& up, const Module& none) {
    extern __shared__ __align__(16) char shared[];
    anneal::next_may_begin();
    if (blockIdx.x < c.low_blocks) return low_rank(c, gate, up, none, blockIdx.x, reinterpret_cast<float*>(shared));
    constexpr unsigned OUTS = MT * 8;
    const unsigned first = (blockIdx.x - c.low_blocks) * OUTS, all = gate.rank + up.rank;
    prefetch(gate.b + size_t(first) * gate.rank, min(OUTS, gate.outs - first) * size_t(gate.rank));
    prefetch(up.b + size_t(first) * up.rank, min(OUTS, up.outs - first) * size_t(up.rank));
    multiply<MT, NT, STAGES>(c, gate.weight, up.weight, gate.outs, first, shared);
    float* room = reinterpret_cast<float*>(shared + Sums<MT, NT>::BYTES);
    unsigned left = Sums<MT, NT>::left(STAGES);
    const Branch of_gate = take_b(c, gate, 0, all, first, OUTS, room, left);
    const Branch of_up = take_b(c, up, gate.rank, all, first, OUTS, room, left);
    if (all > 0) {
        await_low_rank(c);
        take_u(c, of_gate, 0, all);
        take_u(c, of_up, gate.rank, all);
        attention::copies_wait();
        __syncthreads();
    }
    for (unsigned i = threadIdx.x; i < OUTS * NT * 8; i += FEW_THREADS) {
        const unsigned at = i % OUTS, row = i / OUTS, out = first + at;
        if (row >= c.rows || out >= gate.outs) continue;
        float g = Sums<MT, NT>::of(reinterpret_cast<const float*>(shared), row, at);
        float u = Sums<MT, NT>::of(reinterpret_cast<const float*>(shared), row, OUTS + at);
        if (gate.rank > 0) g += of_gate.of(row, at);
        if (up.rank > 0) u += of_up.of(row, at);
        if (gate.bias != nullptr) g += gate.bias[out];
        if (up.bias != nullptr) u += up.bias[out];
        const float sigmoid = __fdividef(1.0f, 1.0f + __expf(-g));
        static_cast<bf16*>(gate.out)[size_t(row) * gate.outs + out] = anneal::to_bf16(g * sigmoid * u);
    }
}

}  // namespace linear_few
