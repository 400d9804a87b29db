//! As `backward_kv.cuh`, with products of whole warpgroups: 128 key rows of one key/value head, 64 a warpgroup.
//!
//! A third warpgroup copies blocks of 64 queries into a ring of STAGES, so that the two that compute drift apart: one
//! multiplies while the other has exponentials to take. S^T = K Q^T and V d^T read both sides from shared memory; the
//! probabilities they leave in registers are the left operand of dV += P^T d and dK += dS^T Q. Entries, the group's
//! heads and blocks of queries in a fixed order: no atomics.
#pragma once

#include "ring.cuh"

namespace attention {

/// Key rows of a tile.
constexpr int HOPPER_KEYS = 128;

#ifdef ANNEAL_WGMMA

/// The blocks of queries that a tile of keys is seen by, in their order.
struct QueryBlock {
    const KeyEntry* entries;
    int left, group;
    KeyEntry entry;
    int in_group, row;

    __device__ __forceinline__ QueryBlock(const KeyEntry* entries, int count, int group)
        : entries(entries), left(count), group(group), entry(entries[0]), in_group(0), row(entry.q_first) {}
    __device__ __forceinline__ bool more() const { return left > 0; }
    __device__ __forceinline__ void advance(int rows) {
        row += rows;
        if (row < entry.q_end) return;
        if (++in_group == group) {
            in_group = 0;
            if (--left > 0) entry = *++entries;
        }
        row = entry.q_first;
    }
};

/// Log2-sum and delta of two query rows, read again where they are used: registers are short.
__device__ __forceinline__ float4 statistics_of(uint32_t address) {
    const uint4 v = read_16(address);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}

/// Leaves a block of queries for the warpgroups that compute, so that they need no registers to follow the order of
/// blocks: first query, or -1 behind the last block, and the keys `from..to` that it sees.
__device__ __forceinline__ void leave_block(uint32_t address, int q_first, int from, int to) {
    asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %1};\n" ::"r"(address), "r"(q_first), "r"(from), "r"(to) : "memory");
}

template <int D>
struct HopperKv {
    static constexpr int QUERIES = 64, STAGES = 4;
    using Keys = Panels<D, HOPPER_KEYS>;
    using Queries = Panels<D, QUERIES>;
    static constexpr int RING = 2 * Keys::BYTES;                      // K and V lie before it
    static constexpr int STATS = RING + STAGES * 2 * Queries::BYTES;  // a stage of the ring: Q, d
    static constexpr int BLOCKS = STATS + STAGES * QUERIES * 8;       // of each stage: `leave_block`
    static constexpr int BARRIERS = BLOCKS + STAGES * 16;
};

template <int D>
__device__ __forceinline__ void hopper_kv(const bf16* __restrict__ q, const bf16* __restrict__ k,
                                          const bf16* __restrict__ v, const bf16* __restrict__ d,
                                          const float2* __restrict__ stats, bf16* __restrict__ d_k,
                                          bf16* __restrict__ d_v, const KeyTile* __restrict__ tiles,
                                          const KeyEntry* __restrict__ all_entries, int n_heads, int n_kv_heads,
                                          int dim, float scale) {
    using H = HopperKv<D>;
    using Keys = typename H::Keys;
    using Queries = typename H::Queries;
    extern __shared__ __align__(1024) char shared[];
    const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
    const int warpgroup = threadIdx.x / GROUP;
    const int kv_head = blockIdx.x % n_kv_heads, group = n_heads / n_kv_heads;
    const KeyTile tile = tiles[blockIdx.x / n_kv_heads];
    const size_t q_stride = static_cast<size_t>(n_heads) * dim, k_stride = static_cast<size_t>(n_kv_heads) * dim;
    const size_t k_at = tile.first * k_stride + kv_head * dim;
    const uint32_t k_tile = base, v_tile = base + Keys::BYTES;
    const auto q_of = [&](int stage) { return base + H::RING + stage * 2 * Queries::BYTES; };
    const Ring<H::STAGES> ring{base + H::BARRIERS};
    ring.begin();
    Turn<H::STAGES> turn;

    if (warpgroup == 2) {
        leave_registers<24>();
        load_panels<D, HOPPER_KEYS>(k_tile, k + k_at, k_stride, tile.rows, dim);
        load_panels<D, HOPPER_KEYS>(v_tile, v + k_at, k_stride, tile.rows, dim);
        QueryBlock block(all_entries + tile.entry, tile.entries, group);
        int last = -1;
        const int thread = threadIdx.x & (GROUP - 1);
        for (; block.more(); block.advance(H::QUERIES), turn.advance()) {
            ring.wait_free(turn.stage);
            const int head = kv_head * group + block.in_group, rows = block.entry.q_end - block.row;
            const size_t at = block.row * q_stride + head * dim;
            const uint32_t q_tile = q_of(turn.stage);
            load_panels<D, H::QUERIES>(q_tile, q + at, q_stride, rows, dim);
            load_panels<D, H::QUERIES>(q_tile + Queries::BYTES, d + at, q_stride, rows, dim);
            if (thread < H::QUERIES) {
                const bool take = thread < rows;
                const float2* from = stats + (static_cast<size_t>(block.row) + (take ? thread : 0)) * n_heads + head;
                copy_8(base + H::STATS + (turn.stage * H::QUERIES + thread) * 8, from, take);
            }
            if (thread == 0)
                leave_block(base + H::BLOCKS + turn.stage * 16, block.row, block.entry.from, block.entry.to);
            ring.copying(turn.stage, last);
        }
        ring.copied(last);
        ring.wait_free(turn.stage);
        if (thread == 0) leave_block(base + H::BLOCKS + turn.stage * 16, -1, 0, 0);
        barrier_arrive(ring.full(turn.stage));
        ring.drain();
        return;
    }

    take_registers<240>();
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int own = warpgroup * 64;  // first of its rows in the tile
    const int first_key = tile.first + own;
    const int key = tile.first + warp * 16 + lane / 4;  // this thread's, and 8 below
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    const float factor = scale * LOG2_E;
    for (;; turn.advance()) {
        const uint32_t q_tile = q_of(turn.stage), d_tile = q_tile + Queries::BYTES;
        ring.wait_full(turn);
        const uint4 block = read_16(base + H::BLOCKS + turn.stage * 16);
        const int q_first = block.x, from = block.y, to = block.z;
        if (q_first < 0) {
            ring.release(turn.stage);
            break;
        }
        if (q_first + H::QUERIES > first_key && to > first_key) {
            float p[H::QUERIES / 8][4], ds[H::QUERIES / 8][4];
            products_begin();
#pragma unroll
            for (int i = 0; i < D / 16; ++i)
                multiply(p, Keys::by_elements(k_tile, own, i), Queries::by_elements(q_tile, 0, i), i > 0);
            products_end();
#pragma unroll
            for (int i = 0; i < D / 16; ++i)
                multiply(ds, Keys::by_elements(v_tile, own, i), Queries::by_elements(d_tile, 0, i), i > 0);
            products_end();
            products_wait<1>();
            pin(p);
            if (from > tile.first || to < tile.first + HOPPER_KEYS || q_first < first_key + 63) {
#pragma unroll
                for (int n = 0; n < H::QUERIES / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int row = key + (i >> 1) * 8, query = q_first + n * 8 + lane % 4 * 2 + (i & 1);
                        if (row > query || row < from || row >= to) p[n][i] = -INFINITY;
                    }
            }
            const uint32_t pairs = base + H::STATS + turn.stage * H::QUERIES * 8 + lane % 4 * 16;
#pragma unroll
            for (int n = 0; n < H::QUERIES / 8; ++n) {
                const float4 pair = statistics_of(pairs + n * 64);
                // A probability is at most 1; without the bound, rounding at scores of 1e9 would overflow.
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    p[n][i] = exp2_fast(at_most_0(p[n][i] * factor - ((i & 1) ? pair.z : pair.x)));
            }
            uint32_t left[H::QUERIES / 16][4];
            as_left(left, p);
            pin(left);
            products_begin();
#pragma unroll
            for (int i = 0; i < H::QUERIES / 16; ++i) multiply<1>(dv, left[i], Queries::by_rows(d_tile, i), 1);
            products_end();
            products_wait<1>();
            pin(ds);
#pragma unroll
            for (int n = 0; n < H::QUERIES / 8; ++n) {
                const float4 pair = statistics_of(pairs + n * 64);
#pragma unroll
                for (int i = 0; i < 4; ++i) ds[n][i] = p[n][i] * (ds[n][i] - ((i & 1) ? pair.w : pair.y));
            }
            uint32_t left_ds[H::QUERIES / 16][4];
            as_left(left_ds, ds);
            pin(left_ds);
            products_begin();
#pragma unroll
            for (int i = 0; i < H::QUERIES / 16; ++i) multiply<1>(dk, left_ds[i], Queries::by_rows(q_tile, i), 1);
            products_end();
            products_wait<0>();
            pin(dv);
            pin(dk);
            pin(left);
            pin(left_ds);
        }
        ring.release(turn.stage);
    }

    group_sync(warpgroup);  // all four warps are done with K and V, of which no other reads these rows
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    const int rows = tile.rows - warp * 16;
    const size_t at = k_at + warp * 16 * k_stride;
    store_panels<D, HOPPER_KEYS>(d_k + at, k_stride, rows, dim, k_tile, warp * 16, dk, scales);
    store_panels<D, HOPPER_KEYS>(d_v + at, k_stride, rows, dim, v_tile, warp * 16, dv, ones);
}

#endif  // ANNEAL_WGMMA

}  // namespace attention
