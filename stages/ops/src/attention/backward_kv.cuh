//! Gradients of keys and values on tensor cores: 64 key rows of one key/value head against every query that sees them.
//!
//! Scores are computed transposed (K Q^T, V d^T): each warp owns 16 key rows, and the probabilities it has in
//! registers are at once the left operand of dV += P^T d and dK += dS^T Q. The loop runs over entries, the group's
//! query heads and blocks of 64 queries, in that fixed order, and the sums stay in registers: no atomics.
//! Q, d and the statistics of the next block are copied while this block is computed, if shared memory has room for
//! two blocks (`stages` 2; GPUs with 100 KiB have none at head size 128).
#pragma once

#include "mma.cuh"
#include "tiles.cuh"

namespace attention {

/// Query rows of a block.
constexpr int QUERIES = 64;

template <int D>
__device__ __forceinline__ void backward_kv(const bf16* __restrict__ q, const bf16* __restrict__ k,
                                            const bf16* __restrict__ v, const bf16* __restrict__ d,
                                            const float2* __restrict__ stats, bf16* __restrict__ d_k,
                                            bf16* __restrict__ d_v, const KeyTile* __restrict__ tiles,
                                            const KeyEntry* __restrict__ all_entries, int n_heads, int n_kv_heads,
                                            int dim, float scale, int stages) {
    using T = Tile<D>;
    constexpr int NT = QUERIES / 8;
    constexpr int STAGE = 2 * T::bytes(QUERIES) + QUERIES * 8;  // Q, d, statistics
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int kv_head = blockIdx.x % n_kv_heads, group = n_heads / n_kv_heads;
    const KeyTile tile = tiles[blockIdx.x / n_kv_heads];
    const KeyEntry* entries = all_entries + tile.entry;
    const size_t q_stride = static_cast<size_t>(n_heads) * dim, k_stride = static_cast<size_t>(n_kv_heads) * dim;
    const size_t k_at = tile.first * k_stride + kv_head * dim;
    const uint32_t k_tile = shared_address(shared), v_tile = k_tile + T::bytes(KEYS);
    const uint32_t first_stage = v_tile + T::bytes(KEYS);
    const uint32_t k_left = T::left(k_tile + warp * T::bytes(16), lane);
    const uint32_t v_left = T::left(v_tile + warp * T::bytes(16), lane);

    // The block to load next: entry, head of the group, first query row.
    KeyEntry entry = entries[0];
    int index = 0, in_group = 0, row = entry.q_first;
    const auto load_next = [&](uint32_t stage) {
        const int head = kv_head * group + in_group, rows = entry.q_end - row;
        const size_t at = row * q_stride + head * dim;
        load_tile<D, QUERIES>(stage, q + at, q_stride, rows, dim);
        load_tile<D, QUERIES>(stage + T::bytes(QUERIES), d + at, q_stride, rows, dim);
        if (threadIdx.x < QUERIES) {
            const bool take = threadIdx.x < rows;
            const float2* from = stats + (static_cast<size_t>(row) + (take ? threadIdx.x : 0)) * n_heads + head;
            copy_8(stage + 2 * T::bytes(QUERIES) + threadIdx.x * 8, from, take);
        }
        copies_commit();
    };
    const auto advance = [&]() {
        row += QUERIES;
        if (row < entry.q_end) return;
        if (++in_group == group) {
            in_group = 0;
            if (++index < tile.entries) entry = entries[index];
        }
        row = entry.q_first;
    };
    load_tile<D, KEYS>(k_tile, k + k_at, k_stride, tile.rows, dim);
    load_tile<D, KEYS>(v_tile, v + k_at, k_stride, tile.rows, dim);
    load_next(first_stage);

    float dk[1][D / 8][4] = {}, dv[1][D / 8][4] = {};
    const float factor = scale * LOG2_E;
    for (int turn = 0; index < tile.entries; turn = stages - 1 - turn) {
        const int q_first = row, from = entry.from, to = entry.to;
        const uint32_t stage = first_stage + turn * STAGE;
        advance();
        copies_wait();
        __syncthreads();  // this block is here, and nobody reads the other stage any more
        if (stages == 2 && index < tile.entries) load_next(first_stage + (turn ^ 1) * STAGE);
        const uint32_t d_tile = stage + T::bytes(QUERIES);
        const float4* pairs = reinterpret_cast<const float4*>(shared + (stage - k_tile) + 2 * T::bytes(QUERIES));

        float p[1][NT][4] = {}, ds[1][NT][4] = {};
        product<D, 1, NT>(p, k_left, T::right(stage, lane));
        if (from > tile.first || to < tile.first + tile.rows || q_first < tile.first + KEYS - 1) {
#pragma unroll
            for (int n = 0; n < NT; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int key = tile.first + warp * 16 + lane / 4 + (i >> 1) * 8;
                    const int query = q_first + n * 8 + lane % 4 * 2 + (i & 1);
                    if (key > query || key < from || key >= to) p[0][n][i] = -INFINITY;
                }
        }
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const float4 pair = pairs[n * 4 + lane % 4];  // log2-sum and delta of two query rows
            // A probability is at most 1; without the bound, rounding at scores of 1e9 would overflow.
#pragma unroll
            for (int i = 0; i < 4; ++i)
                p[0][n][i] = exp2_fast(at_most_0(p[0][n][i] * factor - ((i & 1) ? pair.z : pair.x)));
        }
        product<D>(dv, Packed<1, NT>(p), T::right_transposed(d_tile, lane));
        product<D, 1, NT>(ds, v_left, T::right(d_tile, lane));
#pragma unroll
        for (int n = 0; n < NT; ++n) {
            const float4 pair = pairs[n * 4 + lane % 4];
#pragma unroll
            for (int i = 0; i < 4; ++i) ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - ((i & 1) ? pair.w : pair.y));
        }
        product<D>(dk, Packed<1, NT>(ds), T::right_transposed(stage, lane));
        if (stages == 1 && index < tile.entries) {
            __syncthreads();  // nobody reads the stage any more
            load_next(first_stage);
        }
    }

    // The warp's rows of K and V are its own and no longer needed.
    const float scales[1][2] = {{scale, scale}}, ones[1][2] = {{1.0f, 1.0f}};
    const int rows = tile.rows - warp * 16;
    const size_t at = k_at + warp * 16 * k_stride;
    store_rows<D, 1>(d_k + at, k_stride, rows, dim, shared + warp * T::bytes(16), dk, scales);
    store_rows<D, 1>(d_v + at, k_stride, rows, dim, shared + T::bytes(KEYS) + warp * T::bytes(16), dv, ones);
}

}  // namespace attention
