//! The work lists that the host makes from a layout (`plan.rs` has the same structures).
//!
//! Tiles begin at multiples of their size from the start of their segment, never from the start of the batch, and
//! blocks of keys begin at the start of the prefix or the segment: what a row computes does not depend on neighbours.
//! In absolute rows, query row i sees key row j only if j <= i, in prefixes too, as these lie before their segments.
#pragma once

namespace attention {

/// Query rows of one segment.
struct QueryTile {
    int q_first;       // row in q
    int rows;          // number of rows
    int key_first;     // the first row's own row in k; the same as q_first but for a cache
    int prefix_first;  // first row of the prefix in k
    int prefix_rows;   // 0 if there is none
    int own_first;     // first row of the segment in k
};

/// Key rows of one segment, with the entries of the segments that see them.
struct KeyTile {
    int first;
    int rows;
    int entry;    // index of the first entry
    int entries;  // number of entries, in row order of their queries
};

/// Query rows `q_first..q_end` that see the key rows `from..to` of a tile, each no later than itself.
struct KeyEntry {
    int q_first;
    int q_end;
    int from;
    int to;
};

/// Rows in a block of keys, and in a tile of keys.
constexpr int KEYS = 64;

/// A block of keys that a query tile sees: rows `first..min(first + KEYS, end)` of k. Blocks come in order: first those
/// of the prefix, then the segment's up to the tile's last row. It keeps two numbers only and reads the tile again
/// where the prefix ends, because the loops that use it have no register to spare.
struct KeyBlock {
    int first, end;

    __device__ __forceinline__ explicit KeyBlock(const QueryTile* tile) {
        const bool own = tile->prefix_rows == 0;
        first = own ? tile->own_first : tile->prefix_first;
        end = own ? tile->key_first + tile->rows : first + tile->prefix_rows;
    }
    /// Steps to the next block; false if there is none.
    __device__ __forceinline__ bool advance(const volatile QueryTile* tile) {
        first += KEYS;
        if (first < end) return true;
        const int own_end = tile->key_first + tile->rows;
        if (end == own_end) return false;  // a prefix ends before
        first = tile->own_first;
        end = own_end;
        return true;
    }
};

}  // namespace attention
