//! Decoding on tensor cores: a part's keys and values cross the memory once for up to eight query heads, all at once.
//!
//! Keys are the rows of m16n8k16, query heads its columns: S^T = K q^T, then O^T = V^T P^T, V's elements as rows. Whoever
//! has fewer heads leaves columns empty; the products are not what takes the time. As in the training forward P is
//! rounded to bf16, and sums are f32. What a block computes depends on its own part and heads only. The caches' rows are
//! on their way while the kernel ahead still makes the new ones. Same parts as decode.cuh, for head sizes that are
//! multiples of 8, up to D.
#pragma once

#include "decode.cuh"

namespace attention {

/// Query heads of a block.
constexpr int TILE_HEADS = 8;

/// Starts copying the first `held` rows of a part, of which `cache` is row 0, into a tile; zeros from row `keys` on.
template <int D>
__device__ __forceinline__ void load_part(uint32_t tile, const bf16* cache, size_t stride, int held, int keys,
                                          int dim) {
    constexpr int CHUNKS = D / 8;
    static_assert(PART_KEYS * CHUNKS % THREADS == 0, "every thread copies as much");
#pragma unroll
    for (int i = 0; i < PART_KEYS * CHUNKS / THREADS; ++i) {
        const int at = threadIdx.x + i * THREADS, row = at / CHUNKS, element = at % CHUNKS * 8;
        const bool take = row < held && element < dim;
        // The row between comes from elsewhere.
        if (row < held || row >= keys)
            copy_16(tile + row * Tile<D>::STRIDE + element * 2, take ? cache + row * stride + element : cache, take);
    }
}

/// Reads and leaves what `wide_decode` does. Grid: (splits, n_kv_heads * ceil(group / TILE_HEADS), sequences).
template <int D>
__device__ __forceinline__ void decode_tiles(const bf16* q, const bf16* k, const bf16* v, const Sequence* sequences,
                                             int step, float* parts, float2* stats, int n_heads, int n_kv_heads,
                                             int dim, float scale) {
    using T = Tile<D>;
    constexpr int WARPS = THREADS / 32, STRIDE = PART_KEYS + 8;
    static_assert(PART_KEYS == WARPS * 16, "a warp takes 16 keys");
    __shared__ __align__(16) char tiles[2 * T::bytes(PART_KEYS)];
    __shared__ __align__(16) bf16 weights[TILE_HEADS * STRIDE];
    __shared__ float tops[WARPS][TILE_HEADS], sums[WARPS][TILE_HEADS];
    const Sequence sequence = sequences[blockIdx.z];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row = lane >> 2, column = (lane & 3) * 2;
    const int group = n_heads / n_kv_heads, passes = (group + TILE_HEADS - 1) / TILE_HEADS;
    const int kv_head = blockIdx.y / passes, first_head = kv_head * group + blockIdx.y % passes * TILE_HEADS;
    const int heads = min(TILE_HEADS, (kv_head + 1) * group - first_head);
    const size_t head_at = static_cast<size_t>(blockIdx.z) * n_heads + first_head;

    const int len = static_cast<int>(sequence.len) + step, first = blockIdx.x * PART_KEYS;
    if (first > len) return anneal::await_earlier();  // a longer sequence's part
    // The last key of all has just been computed, and is not read from the cache, so all that is read there stays as it is
    // while this kernel runs.
    const int keys = min(PART_KEYS, len + 1 - first), fresh = len - first;
    const size_t stride = static_cast<size_t>(n_kv_heads) * dim, in_row = static_cast<size_t>(kv_head) * dim;
    const size_t at = first * stride + in_row, new_at = blockIdx.z * stride + in_row;
    const uint32_t k_tile = shared_address(tiles), v_tile = k_tile + T::bytes(PART_KEYS);
    const int held = min(PART_KEYS, fresh);
    // Older than the kernels ahead of this one, unlike what follows.
    load_part<D>(k_tile, sequence.k + at, stride, held, keys, dim);
    load_part<D>(v_tile, sequence.v + at, stride, held, keys, dim);
    anneal::await_earlier();
    const bool values = threadIdx.x >= THREADS / 2;  // one half of the threads has the new row's key, the other its value
    const int element = threadIdx.x % (THREADS / 2) * 8;
    if (fresh < PART_KEYS && element < D)
        copy_16((values ? v_tile : k_tile) + fresh * T::STRIDE + element * 2,
                (values ? v : k) + new_at + (element < dim ? element : 0), element < dim);

    // q as the right operand: this thread's pairs of head `row`.
    uint32_t query[D / 16][2];
    const bf16* const own = q + (head_at + row) * dim + column;
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
        const bool take = row < heads && i * 8 < dim;
        query[i / 2][i % 2] = take ? __ldcg(reinterpret_cast<const unsigned*>(own + i * 8)) : 0u;
    }

    copies_wait();
    __syncthreads();  // K and V are here
    float s[4] = {};
    const uint32_t k_left = T::left(k_tile + T::bytes(warp * 16), lane);
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
        uint32_t left[4];
        ldmatrix(left, k_left + T::at(0, i));
        mma(s, left, query[i][0], query[i][1]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (warp * 16 + row + i / 2 * 8 >= keys) s[i] = -INFINITY;
#pragma unroll
    for (int head = 0; head < 2; ++head) {
        float top = fmaxf(s[head], s[head + 2]);
#pragma unroll
        for (int apart = 4; apart < 32; apart *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, apart));
        if (row == 0) tops[warp][column + head] = top;
    }
    __syncthreads();
    const auto largest = [&](int head) {
        float top = tops[0][head];
#pragma unroll
        for (int i = 1; i < WARPS; ++i) top = fmaxf(top, tops[i][head]);
        return top;
    };
#pragma unroll
    for (int head = 0; head < 2; ++head) {
        const float top = largest(column + head), base = top == -INFINITY ? 0.0f : top;
        float sum = 0.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float p = exp2_fast((s[head + half * 2] - base) * (scale * LOG2_E));
            weights[(column + head) * STRIDE + warp * 16 + row + half * 8] = __float2bfloat16_rn(p);
            sum += p;
        }
#pragma unroll
        for (int apart = 4; apart < 32; apart *= 2) sum += __shfl_xor_sync(~0u, sum, apart);
        if (row == 0) sums[warp][column + head] = sum;
    }
    __syncthreads();  // P is here

    const uint32_t v_left = T::right(v_tile, lane);  // transposed, its rows and columns change places
    for (int m = warp; m < D / 16; m += WARPS) {
        float o[4] = {};
#pragma unroll
        for (int i = 0; i < PART_KEYS / 16; ++i) {
            uint32_t left[4];
            ldmatrix_transposed(left, v_left + T::at(i, m));
            const bf16* const p = weights + row * STRIDE + i * 16 + column;
            mma(o, left, *reinterpret_cast<const uint32_t*>(p), *reinterpret_cast<const uint32_t*>(p + 8));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int head = column + i % 2, of_head = m * 16 + row + i / 2 * 8;
            if (head < heads && of_head < dim)
                parts[((head_at + head) * gridDim.x + blockIdx.x) * dim + of_head] = o[i];
        }
    }
    if (threadIdx.x < heads) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; ++i) sum += sums[i][threadIdx.x];
        stats[(head_at + threadIdx.x) * gridDim.x + blockIdx.x] = make_float2(largest(threadIdx.x) * scale, sum);
    }
    // Of the blocks that share keys the first keeps the new row.
    if (fresh < PART_KEYS && blockIdx.y % passes == 0 && element < dim) {
        const uint4 given = __ldcg(reinterpret_cast<const uint4*>((values ? v : k) + new_at + element));
        *reinterpret_cast<uint4*>((values ? sequence.v : sequence.k) + at + fresh * stride + element) = given;
    }
}

}  // namespace attention
