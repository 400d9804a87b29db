//! Matrix products on f32 slices through the `gemm` crate, checked for extent, cut for threads by shape only.
//!
//! Unaware of tensors and tapes.

use std::mem::MaybeUninit;

use gemm::Parallelism;

use super::build;
use super::threads::gemm_parallelism;

/// A strided view: element (i, j) is `data[i * row_step + j * col_step]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_step: usize,
    col_step: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `cols` numbers one after the other.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Rows of `cols` numbers that begin `row_step` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_step: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_step), "BUG: a matrix view exceeds its data");
        Self { data, rows, cols, row_step, col_step: 1 }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_step: self.col_step, col_step: self.row_step, ..self }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_step: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row_step + cols <= len
}

/// Whether a product runs on all threads of the pool or stays on this one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// All threads, if it is large.
    Pool,
    /// This thread only: the caller is one of many.
    Here,
}

/// `dst = scale * a b`, or `dst += scale * a b` if `add`. `dst` has rows of `b.cols` that begin `dst_step` apart.
pub(crate) fn gemm(dst: &mut [f32], dst_step: usize, add: bool, scale: f32, a: Mat, b: Mat, on: On) {
    assert!(fits(dst.len(), a.rows, b.cols, dst_step), "BUG: a product exceeds its destination");
    // SAFETY: `run` writes within the extent just checked, and reads `dst` (initialised) only if `add`.
    unsafe { run(dst.as_mut_ptr(), dst_step, add, scale, a, b, on) }
}

/// A new buffer `scale * a b`, rows one after the other.
pub(crate) fn product(scale: f32, a: Mat, b: Mat, on: On) -> Vec<f32> {
    let (rows, cols) = (a.rows, b.cols);
    // SAFETY: without `add`, `run` writes every element of the `rows * cols` destination and reads none.
    unsafe {
        build::whole(rows * cols, |dst: &mut [MaybeUninit<f32>]| {
            run(dst.as_mut_ptr().cast(), cols, false, scale, a, b, on);
        })
    }
}

/// # Safety
/// `dst` must be valid for writes of `a.rows` rows of `b.cols` numbers `dst_step` apart, initialised if `add`.
unsafe fn run(dst: *mut f32, dst_step: usize, add: bool, scale: f32, a: Mat, b: Mat, on: On) {
    assert_eq!(a.cols, b.rows, "BUG: a product's inner sizes differ");
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    let parallelism = if on == On::Pool { gemm_parallelism() } else { Parallelism::None };
    let alpha = if add { 1.0 } else { 0.0 };
    // SAFETY: the views of `a` and `b` were checked against their slices when made, `dst` by the caller; neither can
    // overlap `dst`, which is borrowed mutably or new.
    unsafe {
        gemm::gemm(
            a.rows,              // m
            b.cols,              // n
            a.cols,              // k
            dst,                 //
            1,                   // dst column stride
            dst_step as isize,   // dst row stride
            add,                 // read dst
            a.data.as_ptr(),     //
            a.col_step as isize, //
            a.row_step as isize, //
            b.data.as_ptr(),     //
            b.col_step as isize, //
            b.row_step as isize, //
            alpha,               // factor of dst
            scale,               // factor of the product
            false,               // no conjugates: the numbers are real
            false,               //
            false,               //
            parallelism,
        );
    }
}
