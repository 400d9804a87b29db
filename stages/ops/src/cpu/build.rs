//! New buffers whose every element the kernel writes, without a memset before. Unaware of tensors.

use std::mem::MaybeUninit;

use super::threads::for_rows;

/// A buffer of `rows * width` numbers that `fill(first_row, piece)` writes, on all threads if it is large.
///
/// # Safety
/// `fill` must initialise every element of every piece that it is given.
pub(crate) unsafe fn rows(rows: usize, width: usize, fill: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync) -> Vec<f32> {
    // SAFETY: one call covers all of the buffer with `for_rows`' pieces, each of which `fill` initialises.
    unsafe { whole(rows * width, |all| for_rows(all, width, fill)) }
}

/// A buffer of `len` numbers that `fill` writes.
///
/// # Safety
/// `fill` must initialise every element of the slice that it is given.
pub(crate) unsafe fn whole(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut buffer = Vec::with_capacity(len);
    fill(&mut buffer.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and `fill` initialised the first `len` elements (the caller's promise).
    unsafe { buffer.set_len(len) };
    buffer
}
