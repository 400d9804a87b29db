//! The table of a launch over a group of tensors: an entry a tensor, and which blocks work on it (`group.cuh`).
//!
//! Unaware of what entries hold and of how tensors are cut into blocks.

use dfdx::prelude::Cuda;

use super::launch::Grid;
use super::memory::upload;
use super::{Arg, Slice, slice_addr};
use crate::OpError;

/// Entries of `WORDS` 8-byte words.
pub(crate) struct Table<const WORDS: usize> {
    /// First block of each entry, then the number of all blocks.
    starts: Vec<u64>,
    entries: Vec<[u64; WORDS]>,
}

impl<const WORDS: usize> Default for Table<WORDS> {
    fn default() -> Self {
        Self { starts: vec![0], entries: Vec::new() }
    }
}

impl<const WORDS: usize> Table<WORDS> {
    /// Adds an entry that `blocks` blocks work on, at least one.
    pub(crate) fn push(&mut self, entry: [u64; WORDS], blocks: usize) {
        self.starts.push((self.blocks() + blocks.max(1)) as u64);
        self.entries.push(entry);
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of blocks of all entries.
    pub(crate) fn blocks(&self) -> usize {
        self.starts.last().map_or(0, |blocks| *blocks as usize)
    }

    fn words(&self) -> Vec<u64> {
        [self.starts.as_slice(), self.entries.as_flattened()].concat()
    }

    /// The table on the device, for one launch or several. It is copied in stream order from a copy that the driver
    /// makes before this returns, and freed in stream order: it may be dropped right after the launch.
    ///
    /// # Errors
    /// More blocks than a launch may have, no memory, or the device failed.
    pub(crate) fn upload(&self, op: &'static str, dev: &Cuda) -> Result<Group, OpError> {
        let blocks = u32::try_from(self.blocks()).ok().filter(|blocks| *blocks <= i32::MAX as u32);
        let blocks = blocks.ok_or_else(|| OpError::argument(op, format!("{} blocks at once", self.blocks())))?;
        // No more entries than blocks.
        Ok(Group { words: upload(dev, &self.words())?, count: self.entries.len() as u32, blocks })
    }
}

/// A [`Table`] on the device.
pub(crate) struct Group {
    words: Slice<u64>,
    count: u32,
    blocks: u32,
}

impl Group {
    /// A block of `threads` for each that the entries want.
    pub(crate) fn grid(&self, threads: u32) -> Grid {
        Grid { blocks: (self.blocks, 1, 1), threads, shared_bytes: 0 }
    }

    /// A kernel's arguments `const unsigned long long* table, unsigned count`.
    pub(crate) fn args(&self) -> [Arg; 2] {
        [Arg::Ptr(slice_addr(&self.words)), Arg::U32(self.count)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_the_starts_with_their_end_and_the_entries() {
        let mut table = Table::default();
        assert_eq!((table.len(), table.blocks(), table.words()), (0, 0, vec![0]));
        table.push([10, 11], 3);
        table.push([20, 21], 0);
        table.push([30, 31], 5);
        assert_eq!((table.len(), table.blocks()), (3, 9));
        assert_eq!(table.words(), [0, 3, 4, 9, 10, 11, 20, 21, 30, 31]);
    }
}
