//! A ring of stages in shared memory between the warpgroup that copies and the two that compute: barriers and turns.
//!
//! Unaware of what a stage holds, but for blocks of keys that a tile of queries sees, which two kernels copy alike.
#pragma once

#include "tiles.cuh"
#include "wgmma.cuh"

namespace attention {

/// Threads of a block of the kernels with a ring: warpgroups 0 and 1 compute, 2 copies.
constexpr int HOPPER_THREADS = 3 * GROUP;

#ifdef ANNEAL_WGMMA

/// Place in a ring, and the parity of its turn.
template <int STAGES>
struct Turn {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/// The barriers at `barriers`, two a stage: one is passed when it is full, one when it is free.
template <int STAGES>
struct Ring {
    uint32_t barriers;

    __device__ __forceinline__ uint32_t full(int stage) const { return barriers + stage * 8; }
    __device__ __forceinline__ uint32_t free(int stage) const { return barriers + (STAGES + stage) * 8; }
    /// All threads of the block.
    __device__ __forceinline__ void begin() const {
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; ++i) {
                barrier_init(full(i), GROUP);
                barrier_init(free(i), 2 * GROUP / 32);  // the warps that compute
            }
        }
        __syncthreads();
    }
    __device__ __forceinline__ void wait_free(const Turn<STAGES>& turn) const {
        barrier_wait(free(turn.stage), turn.parity ^ 1);
    }
    __device__ __forceinline__ void wait_full(const Turn<STAGES>& turn) const {
        barrier_wait(full(turn.stage), turn.parity);
    }
    /// The warp is done with a stage. racecheck follows the barrier and not `__syncwarp` (NOTES.md).
    __device__ __forceinline__ void release(int stage) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(free(stage));
    }
    /// What this thread began to copy into a stage is on its way; the stage before, `last`, becomes full, if there was one.
    __device__ __forceinline__ void copying(int stage, int& last) const {
        copies_commit();
        if (last >= 0) {
            copies_wait_for_all_but<1>();
            publish();
            barrier_arrive(full(last));
        }
        last = stage;
    }
    /// The last stage that was copied becomes full.
    __device__ __forceinline__ void copied(int last) const {
        copies_wait();
        publish();
        barrier_arrive(full(last));
    }
};

/// Copies the blocks of keys and values that a tile of queries sees into the stages at `ring`. What this warpgroup began
/// to copy before comes with the first.
template <int D, int STAGES>
__device__ __forceinline__ void feed_blocks(const Ring<STAGES>& barriers, uint32_t ring, const QueryTile* tile,
                                            const bf16* k, const bf16* v, size_t k_stride, int dim) {
    using Keys = Panels<D, KEYS>;
    Turn<STAGES> turn;
    KeyBlock block(tile);
    int last = -1;
    for (bool more = true; more; turn.advance()) {
        barriers.wait_free(turn);
        const size_t at = block.first * k_stride;
        const uint32_t k_tile = ring + turn.stage * 2 * Keys::BYTES;
        load_panels<D, KEYS>(k_tile, k + at, k_stride, block.end - block.first, dim);
        load_panels<D, KEYS>(k_tile + Keys::BYTES, v + at, k_stride, block.end - block.first, dim);
        barriers.copying(turn.stage, last);
        more = block.advance(tile);
    }
    barriers.copied(last);
}

/// Lets a warpgroup pass by blocks that none of its rows sees: from `block`, if there is `more`, to the last.
template <int STAGES>
__device__ __forceinline__ void pass_blocks(const Ring<STAGES>& barriers, const QueryTile* tile, Turn<STAGES> turn,
                                            KeyBlock block, bool more) {
    for (; more; turn.advance()) {
        barriers.wait_full(turn);
        barriers.release(turn.stage);
        more = block.advance(tile);
    }
}

#endif  // ANNEAL_WGMMA

}  // namespace attention
