//! A layer's keys and values on the GPU: room that grows by a quarter, shared between clones until one appends.
//!
//! Unaware of attention.

use std::sync::Arc;

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;

use crate::OpError;
use crate::cuda::{Arg, Bf16, Grid, Slice, launch, scratch, slice_addr};

/// Rows of a fresh cache beyond those it is made for, at least.
const SPARE_ROWS: usize = 128;

/// Keys and values so far, row after row, in allocations of one length.
#[derive(Debug, Default, Clone)]
pub struct CudaCache {
    store: Option<Arc<[Slice<Bf16>; 2]>>,
}

/// Copies `len` elements of keys and of values.
///
/// # Safety
/// All addresses are those of live allocations of at least `len` elements; the targets overlap no source.
unsafe fn copy(dev: &Cuda, from: [u64; 2], to: [u64; 2], len: usize) -> Result<(), OpError> {
    if len == 0 {
        return Ok(());
    }
    let mut grid = Grid::over(dev, len, 4);
    grid.blocks.1 = 2;
    let args = [
        Arg::Ptr(from[0]),    // const bf16* k
        Arg::Ptr(from[1]),    // const bf16* v
        Arg::Ptr(to[0]),      // bf16* to_k
        Arg::Ptr(to[1]),      // bf16* to_v
        Arg::U64(len as u64), // unsigned long long len
    ];
    // SAFETY: the caller's.
    unsafe { launch(dev, "anneal_attention_copy", grid, &args) }
}

impl CudaCache {
    /// Addresses of keys and values; zeros if it never held any.
    pub(super) fn addresses(&self) -> [u64; 2] {
        self.store.as_ref().map_or([0; 2], |store| [0, 1].map(|i| slice_addr(&store[i])))
    }

    /// Makes room for `rows` rows of `width` behind the first `len`. Where there is none, or another cache shares the
    /// memory, the first `len` rows move to memory of this cache's own, for `reserve` rows if that is more. Returns whether
    /// they moved.
    ///
    /// # Safety
    /// The cache holds `len` rows of `width`.
    ///
    /// # Errors
    /// If memory runs out or the device fails; the first `len` rows are still there then.
    pub(super) unsafe fn make_room(
        &mut self,
        dev: &Cuda,
        len: usize,
        rows: usize,
        width: usize,
        reserve: usize,
    ) -> Result<bool, OpError> {
        let (held, needed) = (len * width, (len + rows) * width);
        let room = |store: &mut Arc<[Slice<Bf16>; 2]>| Arc::get_mut(store).is_some_and(|own| own[0].len() >= needed);
        let moves = !self.store.as_mut().is_some_and(room);
        if moves {
            let spare = if reserve >= len + rows { 0 } else { (needed / 4).max(SPARE_ROWS * width) };
            let elements = (needed + spare).max(reserve * width);
            let larger = Self { store: Some(Arc::new([scratch(dev, elements)?, scratch(dev, elements)?])) };
            // SAFETY: the old allocations hold `held` elements (the caller's word; none at first), the new ones more.
            // The old are freed after the copy, in stream order.
            unsafe { copy(dev, self.addresses(), larger.addresses(), held)? };
            *self = larger;
        }
        Ok(moves)
    }

    /// Writes `rows` rows of `width` from the addresses of k and v behind the first `len` rows.
    ///
    /// # Safety
    /// `new` are addresses of live allocations of `rows * width` elements, and the cache holds `len` rows of `width` and
    /// has room for `rows` more.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) unsafe fn append(
        &self,
        dev: &Cuda,
        new: [u64; 2],
        len: usize,
        rows: usize,
        width: usize,
    ) -> Result<(), OpError> {
        let to = self.addresses().map(|address| address + (len * width * size_of::<Bf16>()) as u64);
        // SAFETY: the caller's.
        unsafe { copy(dev, new, to, rows * width) }
    }
}
