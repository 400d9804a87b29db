//! The linear map for few rows: a weight is read once, at the memory's speed, whatever the number of rows up to COLUMNS.
//!
//! Weight rows are the left operand of m16n8k16, the rows of x its columns. The sum over the width is cut into chunks of
//! 64, chunk i for warp i % 8 of the block that has the weight's rows; the eight sums are added in order. So what an
//! output is made of, and in which order, depends neither on the number of rows nor on the kernel that has room for them.
//!
//! Every thread copies to shared memory just what it will read back itself, 16 bytes at a time, some steps ahead: within
//! a step of 32 a thread's 8 elements of a row stand for k = 2t, 2t + 1, 2t + 8, 2t + 9 of two products, in x as in the
//! weight. Nobody else needs them, so the loop has no barrier. Unaware of what is multiplied.
#pragma once

#include "../attention/mma.cuh"

namespace linear_few {

using attention::copy_16;
using attention::copies_commit;

constexpr int FEW_THREADS = 256;
constexpr int WARPS = FEW_THREADS / 32;
/// Elements of the width that a warp takes before the next warp's turn: two steps.
constexpr int CHUNK = 64;
/// Rows of x that share a reading of A.
constexpr int LOW_ROWS = 4;
/// Loads of A that a lane has in flight.
constexpr int LOW_AHEAD = 4;

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
    unsigned epoch;
    unsigned rows;
    unsigned width;
    unsigned wide;  // outputs are f32
};

template <int PENDING>
__device__ __forceinline__ void copies_wait_for_all_but() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ void publish(unsigned* flag, unsigned value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;\n" ::"l"(flag), "r"(value) : "memory");
}

__device__ __forceinline__ unsigned observe(const unsigned* flag) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(value) : "l"(flag) : "memory");
    return value;
}

/// u (=) x A^T in f32: warp w of block `low` takes row 8 * (low % groups) + w of all A together, for LOW_ROWS rows of x.
/// Then the block's flag says so. These are the launch's first blocks, and wait for nothing.
__device__ __forceinline__ void low_rank(const Common& c, const Module& m0, const Module& m1, const Module& m2,
                                         unsigned low) {
    const unsigned rank = m0.rank + m1.rank + m2.rank, groups = (rank + WARPS - 1) / WARPS;
    const unsigned lane = threadIdx.x & 31, at = low % groups * WARPS + (threadIdx.x >> 5);
    const unsigned first = low / groups * LOW_ROWS;
    if (at < rank) {
        const float* a = at < m0.rank             ? m0.a + size_t(at) * c.width
                         : at < m0.rank + m1.rank ? m1.a + size_t(at - m0.rank) * c.width
                                                  : m2.a + size_t(at - m0.rank - m1.rank) * c.width;
        // Rows beyond the last are the last once more, and not written: no load waits for a branch.
        const bf16* x[LOW_ROWS];
#pragma unroll
        for (int i = 0; i < LOW_ROWS; ++i) x[i] = c.x + size_t(min(first + i, c.rows - 1)) * c.width;
        float sums[LOW_ROWS] = {};
        const auto take = [&](unsigned k) {
            const float4 low_half = __ldg(reinterpret_cast<const float4*>(a + k));
            const float4 high_half = __ldg(reinterpret_cast<const float4*>(a + k + 4));
            const float weights[8] = {low_half.x,  low_half.y,  low_half.z,  low_half.w,
                                      high_half.x, high_half.y, high_half.z, high_half.w};
#pragma unroll
            for (int i = 0; i < LOW_ROWS; ++i) {
                float v[8];
                anneal::unpack8(anneal::load8(x[i] + k), v);
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i] = fmaf(weights[j], v[j], sums[i]);
            }
        };
        unsigned k = lane * 8;
        for (; k + (LOW_AHEAD - 1) * 256 < c.width; k += LOW_AHEAD * 256) {
#pragma unroll
            for (int i = 0; i < LOW_AHEAD; ++i) take(k + i * 256);
        }
        for (; k < c.width; k += 256) take(k);
#pragma unroll
        for (int i = 0; i < LOW_ROWS; ++i) {
            const float sum = anneal::warp_sum(sums[i]);
            if (lane == 0 && first + i < c.rows) c.u[size_t(first + i) * rank + at] = sum;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) publish(c.ready + low, c.epoch);
}

/// Waits until all of u is there.
__device__ __forceinline__ void await_low_rank(const Common& c) {
    for (unsigned i = threadIdx.x; i < c.low_blocks; i += FEW_THREADS) {
        while (observe(c.ready + i) != c.epoch) __nanosleep(40);
    }
    __syncthreads();
}

/// scaling * u[row] . b[out], in order.
__device__ __forceinline__ float branch(const Common& c, const Module& m, unsigned first, unsigned all, unsigned row,
                                        unsigned out) {
    const float* u = c.u + size_t(row) * all + first;
    const float* b = m.b + size_t(out) * m.rank;
    float sum = 0.0f;
#pragma unroll 4
    for (unsigned i = 0; i < m.rank; ++i) sum = fmaf(__ldcg(u + i), __ldg(b + i), sum);
    return m.scaling * sum;
}

/// The sums of `tiles` 16-row tiles of weights for up to NT * 8 rows of x, the eight warps' in shared memory.
template <int MT, int NT>
struct Sums {
    /// Of floats, between rows of x: threads of a fragment fall into different banks.
    static constexpr int STRIDE = MT * 16 + 4;
    static constexpr int BYTES = WARPS * NT * 8 * STRIDE * 4;

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
    const auto fill = [&](int stage, int step) {
        const unsigned k = (warp + WARPS * (step >> 1)) * CHUNK + (step & 1) * 32 + in_group * 8;
        const bool within = k < c.width;
#pragma unroll
        for (int i = 0; i < 2 * MT; ++i) {
            const bool second = other != nullptr && i >= MT;
            const unsigned row = first + (second ? i - MT : i) * 8 + group;
            const bool take = within && row < outs;
            const bf16* from = second ? other : weight;
            copy_16(own + slot(stage, i), from + (take ? size_t(row) * c.width + k : 0), take);
        }
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const unsigned row = n * 8 + group;
            const bool take = within && row < c.rows;
            copy_16(own + slot(stage, 2 * MT + n), c.x + (take ? size_t(row) * c.width + k : 0), take);
        }
    };

    float sums[MT][NT][4] = {};
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (stage < steps) fill(stage, stage);
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
        if (step + STAGES - 1 < steps) fill(ahead, step + STAGES - 1);
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
    if (blockIdx.x < c.low_blocks) return low_rank(c, m0, m1, m2, blockIdx.x);
    constexpr unsigned OUTS = MT * 16;
    unsigned tile = blockIdx.x - c.low_blocks, column = 0;
    Module m = m0;
    if (tile >= (m.outs + OUTS - 1) / OUTS) {
        tile -= (m.outs + OUTS - 1) / OUTS, column = m0.rank, m = m1;
        if (tile >= (m.outs + OUTS - 1) / OUTS) tile -= (m.outs + OUTS - 1) / OUTS, column += m1.rank, m = m2;
    }
    const unsigned first = tile * OUTS, all = m0.rank + m1.rank + m2.rank;
    multiply<MT, NT, STAGES>(c, m.weight, nullptr, m.outs, first, shared);
    if (m.rank > 0) await_low_rank(c);
    for (unsigned i = threadIdx.x; i < OUTS * NT * 8; i += FEW_THREADS) {
        const unsigned at = i % OUTS, row = i / OUTS, out = first + at;
        if (row >= c.rows || out >= m.outs) continue;
        float y = Sums<MT, NT>::of(reinterpret_cast<const float*>(shared), row, at);
        if (m.rank > 0) y += branch(c, m, column, all, row, out);
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
    if (blockIdx.x < c.low_blocks) return low_rank(c, gate, up, none, blockIdx.x);
    constexpr unsigned OUTS = MT * 8;
    const unsigned first = (blockIdx.x - c.low_blocks) * OUTS, all = gate.rank + up.rank;
    multiply<MT, NT, STAGES>(c, gate.weight, up.weight, gate.outs, first, shared);
    if (all > 0) await_low_rank(c);
    for (unsigned i = threadIdx.x; i < OUTS * NT * 8; i += FEW_THREADS) {
        const unsigned at = i % OUTS, row = i / OUTS, out = first + at;
        if (row >= c.rows || out >= gate.outs) continue;
        float g = Sums<MT, NT>::of(reinterpret_cast<const float*>(shared), row, at);
        float u = Sums<MT, NT>::of(reinterpret_cast<const float*>(shared), row, OUTS + at);
        if (gate.rank > 0) g += branch(c, gate, 0, all, row, out);
        if (up.rank > 0) u += branch(c, up, gate.rank, all, row, out);
        if (gate.bias != nullptr) g += gate.bias[out];
        if (up.bias != nullptr) u += up.bias[out];
        const float sigmoid = __fdividef(1.0f, 1.0f + __expf(-g));
        static_cast<bf16*>(gate.out)[size_t(row) * gate.outs + out] = anneal::to_bf16(g * sigmoid * u);
    }
}

}  // namespace linear_few
