//! Gradient of queries on tensor cores: 64 query rows of one head against blocks of 64 keys; each warp owns 16 rows.
//!
//! Q and d stay in registers as left operands. K and V of the next block are copied while this block is computed.
//! Also the statistics that both backward kernels read: (log2-sum-exp, delta = sum(d * out)) of each (row, head).
#pragma once

#include "mma.cuh"
#include "tiles.cuh"

namespace attention {

constexpr int BACKWARD_ROWS = 64;

template <int D>
__device__ __forceinline__ void backward_q(const bf16* __restrict__ q, const bf16* __restrict__ k,
                                           const bf16* __restrict__ v, const bf16* __restrict__ d,
                                           const float2* __restrict__ stats, bf16* __restrict__ d_q,
                                           const QueryTile* __restrict__ tiles, int n_heads, int n_kv_heads, int dim,
                                           float scale) {
    using T = Tile<D>;
    constexpr int NT = KEYS / 8;
    constexpr int STAGE = 2 * T::bytes(KEYS);  // K, V
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int head = blockIdx.x % n_heads;
    const QueryTile* const tile = tiles + blockIdx.x / n_heads;
    const size_t q_stride = static_cast<size_t>(n_heads) * dim, k_stride = static_cast<size_t>(n_kv_heads) * dim;
    const size_t q_at = tile->q_first * q_stride + head * dim;
    const size_t k_at = static_cast<size_t>(head / (n_heads / n_kv_heads)) * dim;
    const uint32_t stages = shared_address(shared);

    const auto load_block = [&](uint32_t stage, const KeyBlock& block) {
        const size_t at = block.first * k_stride + k_at;
        load_tile<D, KEYS>(stage, k + at, k_stride, block.end - block.first, dim);
        load_tile<D, KEYS>(stage + T::bytes(KEYS), v + at, k_stride, block.end - block.first, dim);
        copies_commit();
    };
    // Q and d come by way of the second stage, which is free until the first block is under way.
    load_tile<D, BACKWARD_ROWS>(stages + STAGE, q + q_at, q_stride, tile->rows, dim);
    load_tile<D, BACKWARD_ROWS>(stages + STAGE + T::bytes(KEYS), d + q_at, q_stride, tile->rows, dim);
    KeyBlock block(tile);
    load_block(stages, block);
    float2 stat[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = warp * 16 + lane / 4 + half * 8;
        stat[half] = row < tile->rows ? stats[(static_cast<size_t>(tile->q_first) + row) * n_heads + head]
                                     : make_float2(0.0f, 0.0f);
    }
    copies_wait();
    __syncthreads();
    uint32_t q_left[D / 16][4], d_left[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
        const uint32_t own = stages + STAGE + warp * T::bytes(16);
        ldmatrix(q_left[i], T::left(own, lane) + T::at(0, i));
        ldmatrix(d_left[i], T::left(own + T::bytes(KEYS), lane) + T::at(0, i));
    }

    float dq[1][D / 8][4] = {};
    const float factor = scale * LOG2_E;
    const int position = tile->key_first + warp * 16;
    bool more = true;
    for (int turn = 0; more; turn ^= 1) {
        const uint32_t k_tile = stages + turn * STAGE, v_tile = k_tile + T::bytes(KEYS);
        const int first = block.first, end = block.end;
        copies_wait();
        __syncthreads();  // this block is here, and nobody reads the other stage any more
        more = block.advance(tile);
        if (more) load_block(stages + (turn ^ 1) * STAGE, block);
        if (first > position + 15) continue;
        float p[NT][4] = {}, ds[1][NT][4] = {};
        product<D, NT>(p, q_left, T::right(k_tile, lane));
        if (first + KEYS > end || first + KEYS - 1 > position) {
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int key = first + n * 8 + lane % 4 * 2 + (i & 1);
                    if (key > position + lane / 4 + (i >> 1) * 8 || key >= end) p[n][i] = -INFINITY;
                }
        }
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) p[n][i] = exp2_fast(at_most_0(p[n][i] * factor - stat[i >> 1].x));
        product<D, NT>(ds[0], d_left, T::right(v_tile, lane));
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) ds[0][n][i] = p[n][i] * (ds[0][n][i] - stat[i >> 1].y);
        product<D>(dq, Packed<1, NT>(ds), T::right_transposed(k_tile, lane));
    }
    __syncthreads();  // the rows for the output are others' K
    const float scales[1][2] = {{scale, scale}};
    store_rows<D, 1>(d_q + q_at + warp * 16 * q_stride, q_stride, tile->rows - warp * 16, dim,
                     shared + warp * T::bytes(16), dq, scales);
}

/// stats[row * n_heads + head] = (lse * log2(e), sum(d * out)). A warp takes one (row, head), or,
/// where they are `WIDE`, that is dim a multiple of 8, eight lanes do.
template <bool WIDE>
__device__ __forceinline__ void statistics(const bf16* __restrict__ out, const bf16* __restrict__ d,
                                           const float* __restrict__ lse, float2* __restrict__ stats, size_t pairs,
                                           int dim) {
    constexpr int LANES = WIDE ? 8 : 32;
    const size_t pair = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) / LANES;
    const int lane = threadIdx.x % LANES;
    float sum = 0.0f;
    if (pair < pairs) {
        const bf16 *a = out + pair * dim, *b = d + pair * dim;
        if (WIDE) {
            for (int i = lane * 8; i < dim; i += LANES * 8) {
                const uint4 x = *reinterpret_cast<const uint4*>(a + i), y = *reinterpret_cast<const uint4*>(b + i);
                const auto *u = reinterpret_cast<const bf16*>(&x), *w = reinterpret_cast<const bf16*>(&y);
#pragma unroll
                for (int j = 0; j < 8; ++j) sum += __bfloat162float(u[j]) * __bfloat162float(w[j]);
            }
        } else {
            for (int i = lane; i < dim; i += LANES) sum += __bfloat162float(a[i]) * __bfloat162float(b[i]);
        }
    }
#pragma unroll
    for (int apart = LANES / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(~0u, sum, apart);
    if (pair < pairs && lane == 0) stats[pair] = make_float2(lse[pair] * LOG2_E, sum);
}

}  // namespace attention
