//! Attention of any head size up to 256 on ordinary cores, f32 throughout: a warp a row, a key (or query) a lane.
//!
//! For head sizes that are no multiple of 8 or above 128. Right before fast. Same work lists as the fast kernels.
#pragma once

#include "mma.cuh"
#include "tiles.cuh"

namespace attention {

constexpr int WIDEST = 256;
constexpr int EACH = WIDEST / 32;  // elements of a head a lane owns: lane, lane + 32, ...

using anneal::warp_max;
using anneal::warp_sum;

/// A row of a head in shared memory as f32; the warp's own.
__device__ __forceinline__ void stage_row(float* to, const bf16* from, int dim, int lane) {
    for (int i = lane; i < dim; i += 32) to[i] = __bfloat162float(from[i]);
}

__device__ __forceinline__ float dot(const float* a, const bf16* b, int dim) {
    float sum = 0.0f;
    for (int i = 0; i < dim; ++i) sum += a[i] * __bfloat162float(b[i]);
    return sum;
}

/// into[lane's elements] += weight * row.
__device__ __forceinline__ void add_row(float (&into)[EACH], float weight, const bf16* row, int dim, int lane) {
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        if (lane + i * 32 < dim) into[i] += weight * __bfloat162float(row[lane + i * 32]);
}

__device__ __forceinline__ void store_row(bf16* to, const float (&from)[EACH], float factor, int dim, int lane) {
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        if (lane + i * 32 < dim) to[lane + i * 32] = __float2bfloat16_rn(from[i] * factor);
}

/// What the plain query kernels know of the row that a warp works on.
struct PlainRow {
    size_t q_stride, k_stride, k_at, q_at;
    int position;  // in the rows of k

    __device__ __forceinline__ PlainRow(const QueryTile& tile, int row, int head, int n_heads, int n_kv_heads, int dim)
        : q_stride(static_cast<size_t>(n_heads) * dim),
          k_stride(static_cast<size_t>(n_kv_heads) * dim),
          k_at(static_cast<size_t>(head / (n_heads / n_kv_heads)) * dim),
          q_at((static_cast<size_t>(tile.q_first) + row) * q_stride + static_cast<size_t>(head) * dim),
          position(tile.key_first + row) {}
};

__device__ __forceinline__ void plain_forward(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse,
                                              const QueryTile* tiles, int n_heads, int n_kv_heads, int dim,
                                              float scale) {
    __shared__ float staged[THREADS / 32][WIDEST];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, head = blockIdx.x % n_heads;
    const QueryTile tile = tiles[blockIdx.x / n_heads];
    for (int row = warp; row < tile.rows; row += THREADS / 32) {
        const PlainRow at(tile, row, head, n_heads, n_kv_heads, dim);
        __syncwarp();
        stage_row(staged[warp], q + at.q_at, dim, lane);
        __syncwarp();
        float o[EACH] = {}, largest = -INFINITY, sum = 0.0f;
        KeyBlock block(&tile);
        do {
            const int end = min(block.end, at.position + 1);
            for (int first = block.first; first < min(block.first + KEYS, end); first += 32) {
                const bool mine = first + lane < end;
                const size_t key = first * at.k_stride + at.k_at;
                const float s =
                    mine ? dot(staged[warp], k + key + lane * at.k_stride, dim) * scale : -INFINITY;
                const float top = fmaxf(largest, warp_max(s));
                const float base = top == -INFINITY ? 0.0f : top;
                const float shrink = exp2_fast((largest - base) * LOG2_E);
                const float p = exp2_fast((s - base) * LOG2_E);
                largest = top;
                sum = sum * shrink + warp_sum(p);
#pragma unroll
                for (int i = 0; i < EACH; ++i) o[i] *= shrink;
                for (int j = 0; j < min(32, end - first); ++j)
                    add_row(o, __shfl_sync(~0u, p, j), v + key + j * at.k_stride, dim, lane);
            }
        } while (block.advance(&tile));
        store_row(out + at.q_at, o, __fdividef(1.0f, sum), dim, lane);
        if (lse != nullptr && lane == 0)
            lse[(static_cast<size_t>(tile.q_first) + row) * n_heads + head] = largest + __logf(sum);
    }
}

__device__ __forceinline__ void plain_backward_q(const bf16* q, const bf16* k, const bf16* v, const bf16* d,
                                                 const float2* stats, bf16* d_q, const QueryTile* tiles, int n_heads,
                                                 int n_kv_heads, int dim, float scale) {
    __shared__ float staged[THREADS / 32][2][WIDEST];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, head = blockIdx.x % n_heads;
    const QueryTile tile = tiles[blockIdx.x / n_heads];
    for (int row = warp; row < tile.rows; row += THREADS / 32) {
        const PlainRow at(tile, row, head, n_heads, n_kv_heads, dim);
        const float2 stat = stats[(static_cast<size_t>(tile.q_first) + row) * n_heads + head];
        __syncwarp();
        stage_row(staged[warp][0], q + at.q_at, dim, lane);
        stage_row(staged[warp][1], d + at.q_at, dim, lane);
        __syncwarp();
        float dq[EACH] = {};
        KeyBlock block(&tile);
        do {
            const int end = min(block.end, at.position + 1);
            for (int first = block.first; first < min(block.first + KEYS, end); first += 32) {
                const size_t key = first * at.k_stride + at.k_at;
                float ds = 0.0f;
                if (first + lane < end) {
                    const size_t mine = key + lane * at.k_stride;
                    const float s = dot(staged[warp][0], k + mine, dim) * scale;
                    const float p = exp2_fast(at_most_0(s * LOG2_E - stat.x));
                    ds = p * (dot(staged[warp][1], v + mine, dim) - stat.y);
                }
                for (int j = 0; j < min(32, end - first); ++j)
                    add_row(dq, __shfl_sync(~0u, ds, j), k + key + j * at.k_stride, dim, lane);
            }
        } while (block.advance(&tile));
        store_row(d_q + at.q_at, dq, scale, dim, lane);
    }
}

__device__ __forceinline__ void plain_backward_kv(const bf16* q, const bf16* k, const bf16* v, const bf16* d,
                                                  const float2* stats, bf16* d_k, bf16* d_v, const KeyTile* tiles,
                                                  const KeyEntry* entries, int n_heads, int n_kv_heads, int dim,
                                                  float scale) {
    __shared__ float staged[THREADS / 32][2][WIDEST];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const int kv_head = blockIdx.x % n_kv_heads, group = n_heads / n_kv_heads;
    const KeyTile tile = tiles[blockIdx.x / n_kv_heads];
    const size_t q_stride = static_cast<size_t>(n_heads) * dim, k_stride = static_cast<size_t>(n_kv_heads) * dim;
    for (int key = tile.first + warp; key < tile.first + tile.rows; key += THREADS / 32) {
        const size_t at = key * k_stride + static_cast<size_t>(kv_head) * dim;
        __syncwarp();
        stage_row(staged[warp][0], k + at, dim, lane);
        stage_row(staged[warp][1], v + at, dim, lane);
        __syncwarp();
        float dk[EACH] = {}, dv[EACH] = {};
        for (int index = 0; index < tile.entries; ++index) {
            const KeyEntry entry = entries[tile.entry + index];
            if (key < entry.from || key >= entry.to) continue;
            for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
                for (int first = max(entry.q_first, key); first < entry.q_end; first += 32) {
                    const size_t row = first * q_stride + static_cast<size_t>(head) * dim;
                    float p = 0.0f, ds = 0.0f;
                    if (first + lane < entry.q_end) {
                        const float2 stat = stats[(static_cast<size_t>(first) + lane) * n_heads + head];
                        const float s = dot(staged[warp][0], q + row + lane * q_stride, dim) * scale;
                        p = exp2_fast(at_most_0(s * LOG2_E - stat.x));
                        ds = p * (dot(staged[warp][1], d + row + lane * q_stride, dim) - stat.y);
                    }
                    for (int j = 0; j < min(32, entry.q_end - first); ++j) {
                        add_row(dv, __shfl_sync(~0u, p, j), d + row + j * q_stride, dim, lane);
                        add_row(dk, __shfl_sync(~0u, ds, j), q + row + j * q_stride, dim, lane);
                    }
                }
            }
        }
        store_row(d_k + at, dk, scale, dim, lane);
        store_row(d_v + at, dv, 1.0f, dim, lane);
    }
}

}  // namespace attention
