//! As `forward.cuh`, with products of whole warpgroups: 128 query rows of one head, 64 a warpgroup, against blocks of 64
//! keys that a third warpgroup copies into a ring. Q stays in registers. The scores of the next block are on their way
//! while this block's become probabilities.
#pragma once

#include "ring.cuh"

namespace attention {

#ifdef ANNEAL_WGMMA

template <int D>
struct HopperForward {
    static constexpr int ROWS = 128, STAGES = D == 128 ? 5 : 6;
    using Rows = Panels<D, ROWS>;
    using Keys = Panels<D, KEYS>;
    static constexpr int RING = Rows::BYTES;  // Q lies before it
    static constexpr int BARRIERS = RING + STAGES * 2 * Keys::BYTES;
};

/// Scores become probabilities relative to the largest score so far; `shrink` is what outputs so far are to be
/// multiplied by.
template <int NT>
__device__ __forceinline__ void probabilities(float (&s)[NT][4], float (&largest)[2], float (&sum)[2],
                                              float (&shrink)[2], float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float top = largest[half];
#pragma unroll
        for (int n = 0; n < NT; ++n) top = fmaxf(top, fmaxf(s[n][half * 2], s[n][half * 2 + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float base = top == -INFINITY ? 0.0f : top;
        shrink[half] = exp2_fast((largest[half] - base) * factor);
        largest[half] = top;
        // Difference first: a product with the factor rounds, which at scores of 1e9 is more than exp can take.
        float total = 0.0f;
#pragma unroll
        for (int n = 0; n < NT; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float& p = s[n][half * 2 + i];
                p = exp2_fast((p - base) * factor);
                total += p;
            }
        sum[half] = sum[half] * shrink[half] + total;
    }
}

template <int D>
__device__ __forceinline__ void hopper_forward(const bf16* __restrict__ q, const bf16* __restrict__ k,
                                               const bf16* __restrict__ v, bf16* __restrict__ out,
                                               float* __restrict__ lse, const QueryTile* __restrict__ tiles,
                                               int n_heads, int n_kv_heads, int dim, float scale) {
    using H = HopperForward<D>;
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
    const uint32_t q_tile = base, ring = base + H::RING;
    const Ring<H::STAGES> barriers{base + H::BARRIERS};
    barriers.begin();

    if (warpgroup == 2) {
        leave_registers<40>();
        load_panels<D, H::ROWS>(q_tile, q + q_at, q_stride, tile->rows, dim);
        feed_blocks<D>(barriers, ring, tile, k + k_at, v + k_at, k_stride, dim);
        return;
    }

    take_registers<232>();
    if (tile->rows <= warpgroup * 64) {
        pass_blocks(barriers, tile, Turn<H::STAGES>(), KeyBlock(tile), true);
        return;
    }
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    uint32_t q_left[D / 16][4];
    barrier_wait(barriers.full(0), 0);  // with the first block comes Q
    Rows::left(q_left, q_tile, warp * 16, lane);
    const float factor = scale * LOG2_E;
    const int position = tile->key_first + warpgroup * 64;
    const int row = tile->key_first + warp * 16 + lane / 4;

    float o[D / 8][4] = {}, s[KEYS / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {}, shrink[2];
    uint32_t p[KEYS / 16][4];
    Turn<H::STAGES> turn;  // of the block whose scores are next
    KeyBlock block(tile);
    const auto k_of = [&](int stage) { return ring + stage * 2 * Keys::BYTES; };
    const auto scores = [&]() {
        products_begin();
#pragma unroll
        for (int i = 0; i < D / 16; ++i) multiply<0>(s, q_left[i], Keys::by_elements(k_of(turn.stage), 0, i), i > 0);
        products_end();
    };
    // Scores of `block` become probabilities, while a product of earlier ones with V may still run.
    const auto soften = [&]() {
        pin(s);
        if (block.first + KEYS > block.end || block.first + KEYS - 1 > position) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int key = block.first + n * 8 + lane % 4 * 2 + (i & 1);
                    if (key > row + (i >> 1) * 8 || key >= block.end) s[n][i] = -INFINITY;
                }
        }
        probabilities(s, largest, sum, shrink, factor);
    };
    scores();
    products_wait<0>();
    soften();
    as_left(p, s);
    const auto outputs = [&](int stage) {
        pin(o);
        pin(p);
        products_begin();
#pragma unroll
        for (int i = 0; i < KEYS / 16; ++i) multiply<1>(o, p[i], Keys::by_rows(k_of(stage) + Keys::BYTES, i), 1);
        products_end();
    };
    bool more;
    int stage;
    for (;;) {
        stage = turn.stage;
        turn.advance();
        more = block.advance(tile);
        if (!more || block.first >= position + 64) break;
        barriers.wait_full(turn);
        scores();
        outputs(stage);
        products_wait<1>();
        soften();
        products_wait<0>();
        pin(o);
        pin(p);
        barriers.release(stage);
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) o[n][i] *= shrink[i >> 1];
        as_left(p, s);
    }
    outputs(stage);
    products_wait<0>();
    pin(o);
    barriers.release(stage);
    // What the other warpgroup sees and this one does not.
    pass_blocks(barriers, tile, turn, block, more);

    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float total = sum[half];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        inverse[half] = __fdividef(1.0f, total);
        const int at = warp * 16 + half * 8 + lane / 4;
        if (lse != nullptr && lane % 4 == 0 && at < tile->rows)
            lse[(static_cast<size_t>(tile->q_first) + at) * n_heads + head] = largest[half] * scale + __logf(total);
    }
    // The warp's rows of Q are its own, and in registers since.
    store_panels<D, H::ROWS>(out + q_at + warp * 16 * q_stride, q_stride, tile->rows - warp * 16, dim, q_tile, warp * 16,
                             o, inverse);
}

#endif  // ANNEAL_WGMMA

}  // namespace attention
