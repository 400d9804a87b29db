//! Attention of one new row of each of many sequences to what its cache holds: bound by reading the caches once.
//!
//! A block takes a part of PART_KEYS keys (counted from the sequence's start, so the cut does not depend on anything else)
//! of one key/value head, for some of its query heads, and leaves an unnormalised output with its largest score and
//! sum; `decode_merge` adds the parts in a fixed order. The new row of keys and values is read from where it was computed;
//! the block that it belongs to also writes (=) it to the cache. Here without tensor cores, for head sizes that are
//! multiples of 8, up to 256; decode_tiles.cuh is for the usual ones.
#pragma once

#include "mma.cuh"
#include "plain.cuh"

namespace attention {

/// So few that one sequence's parts occupy all multiprocessors from a thousand keys on.
constexpr int PART_KEYS = 64;
constexpr int MERGE_THREADS = 256;

/// A sequence: where its keys and values lie, and how many rows it had when the host made the table. Three 64-bit words.
struct Sequence {
    bf16* k;
    bf16* v;
    unsigned long long len;
};

/// Eight elements. Not as what stays the same while this kernel runs: it may have begun before the one that writes them
/// ended, and such reads are not held back.
__device__ __forceinline__ void widen(float (&to)[8], const bf16* from) {
    const uint4 raw = __ldcg(reinterpret_cast<const uint4*>(from));
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        to[2 * i] = __uint_as_float(words[i] << 16);
        to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

/// q: [sequences, n_heads, dim]; k, v: [sequences, n_kv_heads, dim], the new rows; `step`: rows that every sequence has
/// grown by since the table was made. parts: [sequences, n_heads, splits, dim], the outputs; stats: [sequences, n_heads,
/// splits], the largest score and the sum. Grid: (splits, n_kv_heads * ceil(group / HEADS), sequences).
template <int HEADS>
__device__ __forceinline__ void wide_decode(const bf16* q, const bf16* k, const bf16* v, const Sequence* sequences,
                                            int step, float* parts, float2* stats, int n_heads, int n_kv_heads,
                                            int dim, float scale) {
    constexpr int LANES = 32, KEY_GROUPS = THREADS / LANES;
    __shared__ float scores[HEADS][PART_KEYS];
    __shared__ float sums[HEADS][2];
    __shared__ float partial[KEY_GROUPS][LANES * 8 + 1];
    anneal::await_earlier();
    const Sequence sequence = sequences[blockIdx.z];
    const int len = static_cast<int>(sequence.len) + step, first = blockIdx.x * PART_KEYS;
    if (first > len) return;  // a longer sequence's part
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int part_lane = threadIdx.x % LANES, key_group = threadIdx.x / LANES;
    const int group = n_heads / n_kv_heads, passes = (group + HEADS - 1) / HEADS;
    const int kv_head = blockIdx.y / passes, first_head = kv_head * group + blockIdx.y % passes * HEADS;
    const int heads = min(HEADS, (kv_head + 1) * group - first_head);
    const int keys = min(PART_KEYS, len + 1 - first), fresh = len - first;
    const int splits = gridDim.x, element = part_lane * 8;
    const bool mine = element < dim;
    const size_t k_stride = static_cast<size_t>(n_kv_heads) * dim;
    const size_t at = first * k_stride + static_cast<size_t>(kv_head) * dim + element;
    const size_t new_at = blockIdx.z * k_stride + static_cast<size_t>(kv_head) * dim + element;
    // Row `key` of this part: the last one of all has just been computed, and is not read from the cache, so all that is
    // read there stays as it is while this kernel runs.
    const auto row = [&](float(&to)[8], const bf16* given, const bf16* cache, int key) {
        widen(to, key == fresh ? given + new_at : cache + at + key * k_stride);
    };

    float query[HEADS][8] = {};
    if (mine)
#pragma unroll
        for (int h = 0; h < HEADS; ++h)
            if (h < heads)
                widen(query[h], q + (static_cast<size_t>(blockIdx.z) * n_heads + first_head + h) * dim + element);
#pragma unroll 4
    for (int base = 0; base < PART_KEYS; base += KEY_GROUPS) {
        const int key = base + key_group;
        float row_k[8] = {};
        if (mine && key < keys) row(row_k, k, sequence.k, key);
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            float s = 0.0f;
#pragma unroll
            for (int i = 0; i < 8; ++i) s += query[h][i] * row_k[i];
#pragma unroll
            for (int apart = LANES / 2; apart > 0; apart /= 2) s += __shfl_xor_sync(~0u, s, apart);
            if (part_lane == 0) scores[h][key] = key < keys ? s * scale : -INFINITY;
        }
    }
    __syncthreads();
    if (warp < HEADS) {  // one warp a head
        float top = -INFINITY, sum = 0.0f;
        for (int i = lane; i < PART_KEYS; i += 32) top = fmaxf(top, scores[warp][i]);
        top = warp_max(top);
        const float base = top == -INFINITY ? 0.0f : top;
        for (int i = lane; i < PART_KEYS; i += 32) {
            const float p = exp2_fast((scores[warp][i] - base) * LOG2_E);
            scores[warp][i] = p;
            sum += p;
        }
        sum = warp_sum(sum);
        if (lane == 0) sums[warp][0] = top, sums[warp][1] = sum;
    }
    __syncthreads();
    float o[HEADS][8] = {};
#pragma unroll 4
    for (int key = key_group; key < keys; key += KEY_GROUPS) {
        float row_v[8] = {};
        if (mine) row(row_v, v, sequence.v, key);
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            const float p = scores[h][key];
#pragma unroll
            for (int i = 0; i < 8; ++i) o[h][i] += p * row_v[i];
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        if (h >= heads) break;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 8; ++i) partial[key_group][element + i] = o[h][i];
        __syncthreads();
        const size_t part =
            (static_cast<size_t>(blockIdx.z) * n_heads + first_head + h) * splits + blockIdx.x;
        for (int i = threadIdx.x; i < dim; i += THREADS) {
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < KEY_GROUPS; ++j) sum += partial[j][i];
            parts[part * dim + i] = sum;
        }
        if (threadIdx.x == 0) stats[part] = make_float2(sums[h][0], sums[h][1]);
    }
    // Of the blocks that share keys the first keeps the new row.
    if (fresh < PART_KEYS && blockIdx.y % passes == 0 && key_group == 0 && mine) {
        const size_t to = at + fresh * k_stride;
        *reinterpret_cast<uint4*>(sequence.k + to) = *reinterpret_cast<const uint4*>(k + new_at);
        *reinterpret_cast<uint4*>(sequence.v + to) = *reinterpret_cast<const uint4*>(v + new_at);
    }
}

/// out[sequence, head] (=) the parts' outputs, each as far as its largest score is from the largest of all, over their
/// sums. Warp w takes parts w, w + 8, ...; dim a multiple of 8, up to 256. Grid: (n_heads, sequences), MERGE_THREADS.
__device__ __forceinline__ void decode_merge(const float* parts, const float2* stats, const Sequence* sequences,
                                             int step, bf16* out, int n_heads, int dim, int splits) {
    constexpr int WARPS = MERGE_THREADS / 32;
    __shared__ float scratch[32];
    __shared__ __align__(16) float partial[WARPS][WIDEST];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const size_t pair = static_cast<size_t>(blockIdx.y) * n_heads + blockIdx.x;
    const float* const from = parts + pair * splits * dim;
    const float2* const own = stats + pair * splits;
    // Parts beyond what this sequence has were not written.
    const int seen = (static_cast<int>(sequences[blockIdx.y].len) + step) / PART_KEYS + 1;
    float largest = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x; i < seen; i += MERGE_THREADS) largest = fmaxf(largest, own[i].x);
    largest = anneal::block_max(largest, scratch);
    const float base = largest == -INFINITY ? 0.0f : largest;
    const auto weight = [&](int part) { return exp2_fast((own[part].x - base) * LOG2_E); };
    for (int i = threadIdx.x; i < seen; i += MERGE_THREADS) sum += weight(i) * own[i].y;
    for (int element = lane * 4; element < dim; element += 128) {
        float4 o = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
        for (int i = warp; i < seen; i += WARPS) {
            const float w = weight(i);
            const float4 part = *reinterpret_cast<const float4*>(from + static_cast<size_t>(i) * dim + element);
            o.x += w * part.x, o.y += w * part.y, o.z += w * part.z, o.w += w * part.w;
        }
        *reinterpret_cast<float4*>(&partial[warp][element]) = o;
    }
    sum = anneal::block_sum(sum, scratch);  // and everybody's outputs are here
    if (threadIdx.x < dim) {
        float o = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; ++i) o += partial[i][threadIdx.x];
        out[pair * dim + threadIdx.x] = __float2bfloat16_rn(__fdividef(o, sum));
    }
}

/// Rows that join a cache, or move to a larger one: k by blocks with blockIdx.y 0, v by those with 1. Grid-stride.
__device__ __forceinline__ void copy(const bf16* __restrict__ k, const bf16* __restrict__ v, bf16* __restrict__ to_k,
                                     bf16* __restrict__ to_v, size_t len) {
    const bf16* from = blockIdx.y == 0 ? k : v;
    bf16* to = blockIdx.y == 0 ? to_k : to_v;
    const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += step) to[i] = from[i];
}

}  // namespace attention
