// One launch over a group of tensors: which of them a block works on, and on which part of it.
//
// A table (group.rs) is of 8-byte words: where each entry's blocks begin, with their total at the end, then the
// entries. Unaware of what entries hold and of how they are cut into blocks.
#pragma once

namespace anneal_group {

/// What a block works on: number `block` of the `blocks` of `entry`.
template <typename Entry>
struct Part {
    Entry entry;
    unsigned long long block, blocks;
};

/// This block's part. All threads of a warp must take part; blocks are of whole warps. Each warp searches by itself:
/// its lanes look at 32 places of what is left at once, so that a thousand entries take two reads one after the other.
template <typename Entry>
__device__ __forceinline__ Part<Entry> find(const unsigned long long* table, unsigned count) {
    static_assert(sizeof(Entry) % 8 == 0 && alignof(Entry) <= 8, "an entry is of whole words");
    const unsigned lane = threadIdx.x & 31;
    unsigned at = 0, left = count;
    while (left > 1) {
        const unsigned step = (left + 31) / 32, offset = lane * step;
        const bool begun = offset < left && table[at + offset] <= blockIdx.x;
        // Lane 0's entry has begun, and those that have are the first ones.
        const unsigned skipped = (__popc(__ballot_sync(0xffffffffu, begun)) - 1) * step;
        at += skipped;
        left = min(step, left - skipped);
    }
    const auto* entries = reinterpret_cast<const Entry*>(table + count + 1);
    return {entries[at], blockIdx.x - table[at], table[at + 1] - table[at]};
}

/// An entry's array, which lies in device memory: the compiler does not know that of an address from a table.
template <typename T>
__device__ __forceinline__ T* global(T* address) {
    __builtin_assume(__isGlobal(address));
    return address;
}

}  // namespace anneal_group
