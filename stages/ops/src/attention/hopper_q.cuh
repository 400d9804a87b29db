//! As `backward_q.cuh`, with products of whole warpgroups: 128 query rows of one head, 64 a warpgroup, against blocks of
//! 64 keys that a third warpgroup copies into a ring of STAGES. Q and d stay in registers as left operands.
#pragma once

#include "ring.cuh"

namespace attention {

#ifdef ANNEAL_WGMMA

template <int D>
struct HopperQ {
    static constexpr int ROWS = 128, STAGES = 4;
    using Rows = Panels<D, ROWS>;
    using Keys = Panels<D, KEYS>;
    static constexpr int RING = 2 * Rows::BYTES;  // Q and d lie before it
    static constexpr int BARRIERS = RING + STAGES * 2 * Keys::BYTES;
};

template <int D>
__device__ __forceinline__ void hopper_q(const bf16* __restrict__ q, const bf16* __restrict__ k,
                                         const bf16* __restrict__ v, const bf16* __restrict__ d,
                                         const float2* __restrict__ stats, bf16* __restrict__ d_q,
                                         const QueryTile* __restrict__ tiles, int n_heads, int n_kv_heads, int dim,
                                         float scale) {
    using H = HopperQ<D>;
    using Rows = typename H::Rows;
    using Keys = typename H::Keys;
    extern __shared__ __align__(1024) char shared[];
    const uint32_t base = (shared_address(shared) + 1023) & ~1023u;
    const int warpgroup = threadIdx.x / GROUP;
    const int head = blockIdx.x % n_heads;
    const QueryTile* const tile = tiles + blockIdx.x / n_heads;
    const size_t q_stride = static_cast<size_t>(n_heads) * dim, k_stride = static_cast<size_t>(n_kv_heads) * dim;
    const size_t q_at = tile->q_first * q_stride + head * dim;
    const size_t k_at = static_cast<size_t>(head / (n_heads / n_kv_heads)) * dim;
    const uint32_t q_tile = base, d_tile = base + Rows::BYTES, ring = base + H::RING;
    const Ring<H::STAGES> barriers{base + H::BARRIERS};
    barriers.begin();

    if (warpgroup == 2) {
        leave_registers<24>();
        load_panels<D, H::ROWS>(q_tile, q + q_at, q_stride, tile->rows, dim);
        load_panels<D, H::ROWS>(d_tile, d + q_at, q_stride, tile->rows, dim);
        feed_blocks<D>(barriers, ring, tile, k + k_at, v + k_at, k_stride, dim);
        return;
    }

    take_registers<240>();
    if (tile->rows <= warpgroup * 64) {
        pass_blocks(barriers, tile, Turn<H::STAGES>(), KeyBlock(tile), true);
        return;
    }
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float2 stat[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = warp * 16 + lane / 4 + half * 8;
        stat[half] = row < tile->rows ? stats[(static_cast<size_t>(tile->q_first) + row) * n_heads + head]
                                     : make_float2(0.0f, 0.0f);
    }
    uint32_t q_left[D / 16][4], d_left[D / 16][4];
    barrier_wait(barriers.full(0), 0);  // with the first block come Q and d
    Rows::left(q_left, q_tile, warp * 16, lane);
    Rows::left(d_left, d_tile, warp * 16, lane);

    float dq[D / 8][4] = {}, p[KEYS / 8][4], ds[KEYS / 8][4];
    uint32_t left[KEYS / 16][4];
    const float factor = scale * LOG2_E;
    const int position = tile->key_first + warpgroup * 64;   // of the warpgroup's first row
    const int row = tile->key_first + warp * 16 + lane / 4;  // this thread's, and 8 below
    Turn<H::STAGES> turn;  // of the block whose scores are next
    KeyBlock block(tile);
    const auto k_of = [&](int stage) { return ring + stage * 2 * Keys::BYTES; };
    const auto scores = [&]() {
        products_begin();
#pragma unroll
        for (int i = 0; i < D / 16; ++i) multiply<0>(p, q_left[i], Keys::by_elements(k_of(turn.stage), 0, i), i > 0);
        products_end();
#pragma unroll
        for (int i = 0; i < D / 16; ++i)
            multiply<0>(ds, d_left[i], Keys::by_elements(k_of(turn.stage) + Keys::BYTES, 0, i), i > 0);
        products_end();
    };
    const auto gradients = [&](int stage) {
        pin(dq);
        pin(left);
        products_begin();
#pragma unroll
        for (int i = 0; i < KEYS / 16; ++i) multiply<1>(dq, left[i], Keys::by_rows(k_of(stage), i), 1);
        products_end();
    };
    const auto probabilities = [&]() {
        pin(p);
        if (block.first + KEYS > block.end || block.first + KEYS - 1 > position) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int key = block.first + n * 8 + lane % 4 * 2 + (i & 1);
                    if (key > row + (i >> 1) * 8 || key >= block.end) p[n][i] = -INFINITY;
                }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) p[n][i] = exp2_fast(at_most_0(p[n][i] * factor - stat[i >> 1].x));
    };
    const auto score_gradients = [&]() {
        pin(ds);
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) ds[n][i] = p[n][i] * (ds[n][i] - stat[i >> 1].y);
    };
    scores();
    products_wait<1>();
    probabilities();
    products_wait<0>();
    score_gradients();
    as_left(left, ds);
    bool more;
    int stage;
    for (;;) {
        stage = turn.stage;
        turn.advance();
        more = block.advance(tile);
        if (!more || block.first >= position + 64) break;
        barriers.wait_full(turn);
        scores();
        gradients(stage);
        products_wait<2>();
        probabilities();
        products_wait<1>();
        score_gradients();
        products_wait<0>();
        pin(dq);
        pin(left);
        barriers.release(stage);
        as_left(left, ds);
    }
    gradients(stage);
    products_wait<0>();
    pin(dq);
    barriers.release(stage);
    // What the other warpgroup sees and this one does not.
    pass_blocks(barriers, tile, turn, block, more);

    // The warp's rows of Q are its own, and in registers since.
    const float scales[2] = {scale, scale};
    store_panels<D, H::ROWS>(d_q + q_at + warp * 16 * q_stride, q_stride, tile->rows - warp * 16, dim, q_tile, warp * 16,
                             dq, scales);
}

#endif  // ANNEAL_WGMMA

}  // namespace attention
