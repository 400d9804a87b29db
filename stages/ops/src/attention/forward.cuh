//! Forward on tensor cores: 128 query rows of one head against blocks of 64 keys, online softmax in registers.
//!
//! Each of the four warps owns 32 query rows, so a fragment of K or V read from shared memory feeds two products.
//! V of a block is copied while Q K^T and softmax run, K of the next block while P V runs: started earlier, the copy's
//! addresses do not fit into 255 registers beside the scores.
//! Dao, "FlashAttention-2", 2023, algorithm 1. Unaware of backward.
#pragma once

#include "mma.cuh"
#include "tiles.cuh"

namespace attention {

constexpr int FORWARD_ROWS = 128;

/// Scores become probabilities relative to the largest score so far; outputs and sums so far shrink to match.
template <int D>
__device__ __forceinline__ void soften(float (&s)[2][KEYS / 8][4], float (&o)[2][D / 8][4], float (&largest)[2][2],
                                       float (&sum)[2][2], float factor) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = largest[m][half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) top = fmaxf(top, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            const float base = top == -INFINITY ? 0.0f : top;
            const float shrink = exp2_fast((largest[m][half] - base) * factor);
            largest[m][half] = top;
            // Difference first: a product with the factor rounds, which at scores of 1e9 is more than exp can take.
            float total = 0.0f;
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& p = s[m][n][half * 2 + i];
                    p = exp2_fast((p - base) * factor);
                    total += p;
                }
            sum[m][half] = sum[m][half] * shrink + total;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                o[m][n][half * 2] *= shrink;
                o[m][n][half * 2 + 1] *= shrink;
            }
        }
}

template <int D>
__device__ __forceinline__ void forward(const bf16* __restrict__ q, const bf16* __restrict__ k,
                                        const bf16* __restrict__ v, bf16* __restrict__ out, float* __restrict__ lse,
                                        const QueryTile* __restrict__ tiles, int n_heads, int n_kv_heads, int dim,
                                        float scale) {
    using T = Tile<D>;
    constexpr int NT = KEYS / 8;
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int head = blockIdx.x % n_heads;
    const QueryTile* const tile = tiles + blockIdx.x / n_heads;
    const size_t q_stride = static_cast<size_t>(n_heads) * dim, k_stride = static_cast<size_t>(n_kv_heads) * dim;
    const size_t k_at = static_cast<size_t>(head / (n_heads / n_kv_heads)) * dim;
    const uint32_t q_tile = shared_address(shared);
    const uint32_t k_tile = q_tile + T::bytes(FORWARD_ROWS), v_tile = k_tile + T::bytes(KEYS);
    const uint32_t q_left = T::left(q_tile + warp * T::bytes(32), lane);
    const uint32_t k_right = T::right(k_tile, lane), v_right = T::right_transposed(v_tile, lane);

    load_tile<D, FORWARD_ROWS>(q_tile, q + tile->q_first * q_stride + head * dim, q_stride, tile->rows, dim);
    const auto load_block = [&](uint32_t to, const bf16* from, const KeyBlock& block) {
        load_tile<D, KEYS>(to, from + block.first * k_stride + k_at, k_stride, block.end - block.first, dim);
        copies_commit();
    };
    KeyBlock block(tile);
    load_block(k_tile, k, block);

    float o[2][D / 8][4] = {};
    float largest[2][2], sum[2][2] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m) largest[m][0] = largest[m][1] = -INFINITY;
    const float factor = scale * LOG2_E;
    const int position = tile->key_first + warp * 32;  // of the warp's first row

    for (bool more = true; more;) {
        const int first = block.first, end = block.end;
        const bool sees = first <= position + 31;  // of causal blocks the upper warps may see nothing
        copies_wait();
        __syncthreads();  // K is here, and nobody reads V any more
        load_block(v_tile, v, block);
        float s[2][NT][4] = {};
        if (sees) product<D, 2, NT>(s, q_left, k_right);
        if (sees) {
            if (first + KEYS > end || first + KEYS - 1 > position) {
#pragma unroll
                for (int m = 0; m < 2; ++m)
#pragma unroll
                    for (int n = 0; n < NT; ++n)
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            const int key = first + n * 8 + lane % 4 * 2 + (i & 1);
                            const int row = position + m * 16 + lane / 4 + (i >> 1) * 8;
                            if (key > row || key >= end) s[m][n][i] = -INFINITY;
                        }
            }
            soften<D>(s, o, largest, sum, factor);
        }
        const Packed<2, NT> p(s);  // before the copies, which need registers
        copies_wait();
        __syncthreads();  // V is here, and nobody reads K any more
        more = block.advance(tile);
        if (more) load_block(k_tile, k, block);
        if (sees) product<D>(o, p, v_right);
    }

    float inverse[2][2];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float total = sum[m][half];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            inverse[m][half] = __fdividef(1.0f, total);
            const int row = warp * 32 + m * 16 + half * 8 + lane / 4;
            if (lse != nullptr && lane % 4 == 0 && row < tile->rows)
                lse[(static_cast<size_t>(tile->q_first) + row) * n_heads + head] =
                    largest[m][half] * scale + __logf(total);
        }
    // The warp's rows of Q are its own and no longer needed.
    bf16* const out_rows = out + (static_cast<size_t>(tile->q_first) + warp * 32) * q_stride + head * dim;
    store_rows<D, 2>(out_rows, q_stride, tile->rows - warp * 32, dim, shared + warp * T::bytes(32), o, inverse);
}

}  // namespace attention
