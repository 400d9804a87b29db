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

/// The named barrier of a ring's first stage: 0 is `__syncthreads`, 1 and 2 are `group_sync`'s.
constexpr int FIRST_FREE = 3;

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

/// Stages that are copied into, then computed with, in turn. `barriers` has one barrier a stage, passed when it is full.
/// The barrier that is passed when a stage is free is a named one: a warp arrives as a whole there, and racecheck follows it.
template <int STAGES>
struct Ring {
    uint32_t barriers;

    static_assert(FIRST_FREE + STAGES <= 16);  // so many named barriers are there
    // A stage becomes full when the next is being copied to, and is free when the next was waited for.
    static_assert(STAGES >= 3);
    __device__ __forceinline__ uint32_t full(int stage) const { return barriers + stage * 8; }
    /// All threads of the block. Every stage is free.
    __device__ __forceinline__ void begin() const {
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; ++i) barrier_init(full(i), GROUP);
        }
        __syncthreads();
        if (threadIdx.x < 2 * GROUP) {
            for (int i = 0; i < STAGES; ++i) release(i);
        }
    }
    __device__ __forceinline__ void wait_free(int stage) const { named_sync(FIRST_FREE + stage, HOPPER_THREADS); }
    __device__ __forceinline__ void wait_full(const Turn<STAGES>& turn) const {
        barrier_wait(full(turn.stage), turn.parity);
    }
    /// The warp, which computes, is done with a stage.
    __device__ __forceinline__ void release(int stage) const { named_arrive(FIRST_FREE + stage, HOPPER_THREADS); }
    /// The warpgroup that copies waits until no stage is in use: no barrier is left half passed.
    __device__ __forceinline__ void drain() const {
        for (int i = 0; i < STAGES; ++i) wait_free(i);
    }
    /// What this thread began to copy into a stage is on its way; the stage before, `last`, becomes full, if there was one.
    __device__ __forceinline__ void copying(int stage, int& last) const {
        copies_commit();
        if (last >= 0) {
            copies_wait_for_all_but<1>();
            fence_for_products();
            barrier_arrive(full(last));
        }
        last = stage;
    }
    /// The last stage that was copied, of one at least, becomes full.
    __device__ __forceinline__ void copied(int last) const {
        copies_wait();
        fence_for_products();
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
        barriers.wait_free(turn.stage);
        const size_t at = block.first * k_stride;
        const uint32_t k_tile = ring + turn.stage * 2 * Keys::BYTES;
        load_panels<D, KEYS>(k_tile, k + at, k_stride, block.end - block.first, dim);
        load_panels<D, KEYS>(k_tile + Keys::BYTES, v + at, k_stride, block.end - block.first, dim);
        barriers.copying(turn.stage, last);
        more = block.advance(tile);
    }
    barriers.copied(last);
    barriers.drain();
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
