//! `x W^T` for a handful of rows: memory-bound, so every weight is read once, in order, on all threads.
//!
//! A matrix product packs its operands first, which costs more than the product itself when there are few rows.
//! Unaware of tensors.

use rayon::prelude::*;

use crate::cpu::lanes::Lanes;
use crate::cpu::simd::{LANES, simd_fn};
use crate::cpu::threads;

/// Up to this many rows of `x`, this way is faster than `gemm` (measured on 576 x 1536 and 576 x 49152).
pub(crate) const FEW: usize = 8;

/// Rows of a product that are transposed together.
const TURNED: usize = 32;

/// Weights a thread takes at a time.
const PIECE: usize = 64 * 1024;

/// Dot products of `R` rows of `x` with `O` rows of `weight`, to `out[o * steps.0 + r * steps.1]`. Each is summed over one register
/// of partial sums in order, so that it does not depend on which others it is computed with.
#[inline(always)]
fn tile<L: Lanes, const O: usize, const R: usize>(
    out: &mut [f32],
    steps: (usize, usize),
    x: &[f32],
    weight: &[f32],
    width: usize,
) {
    let mut sums = [[L::splat(0.0); R]; O];
    let whole = width / LANES * LANES;
    let x: [&[f32]; R] = std::array::from_fn(|r| &x[r * width..][..width]);
    let w: [&[f32]; O] = std::array::from_fn(|o| &weight[o * width..][..width]);
    for at in (0..whole).step_by(LANES) {
        let x: [L; R] = std::array::from_fn(|r| L::load(&x[r][at..]));
        for o in 0..O {
            let w = L::load(&w[o][at..]);
            for r in 0..R {
                sums[o][r] = x[r].fma(w, sums[o][r]);
            }
        }
    }
    if whole < width {
        for o in 0..O {
            for r in 0..R {
                let (x, w) = (L::load_part(&x[r][whole..], 0.0), L::load_part(&w[o][whole..], 0.0));
                sums[o][r] = x.fma(w, sums[o][r]);
            }
        }
    }
    for o in 0..O {
        for r in 0..R {
            out[o * steps.0 + r * steps.1] = sums[o][r].sum();
        }
    }
}

/// All rows of `x` with `O` rows of `weight`.
#[inline(always)]
fn strip<L: Lanes, const O: usize>(out: &mut [f32], steps: (usize, usize), x: &[f32], weight: &[f32], width: usize) {
    let (mut r, count) = (0, x.len() / width);
    while r + 4 <= count {
        tile::<L, O, 4>(&mut out[r * steps.1..], steps, &x[r * width..], weight, width);
        r += 4;
    }
    while r < count {
        tile::<L, O, 1>(&mut out[r * steps.1..], steps, &x[r * width..], weight, width);
        r += 1;
    }
}

simd_fn! {
    /// `out[o * steps.0 + t * steps.1] = x[t] . weight[o]` for whole rows of both.
    pub(super) fn rows(out: &mut [f32], steps: (usize, usize), x: &[f32], weight: &[f32], width: usize) {
        let (mut o, outs) = (0, weight.len() / width);
        while o + 4 <= outs {
            strip::<L, 4>(&mut out[o * steps.0..], steps, x, &weight[o * width..], width);
            o += 4;
        }
        while o < outs {
            strip::<L, 1>(&mut out[o * steps.0..], steps, x, &weight[o * width..], width);
            o += 1;
        }
    }
}

/// `x W^T`, `[rows, outs]`, for `x [rows, width]` and `weight [outs, width]`; at least one row. Fast up to about 64.
pub(crate) fn matvec(x: &[f32], weight: &[f32], width: usize, outs: usize) -> Vec<f32> {
    let count = x.len() / width;
    let mut columns = vec![0.0; outs * count];
    let each = (PIECE / width).max(1);
    if weight.len() <= PIECE || threads::count() == 1 {
        rows(&mut columns, (count, 1), x, weight, width);
    } else {
        columns
            .par_chunks_mut(each * count)
            .zip(weight.par_chunks(each * width))
            .for_each(|(out, weight)| rows(out, (count, 1), x, weight, width));
    }
    if count == 1 {
        return columns;
    }
    let mut out = vec![0.0; columns.len()];
    // A few columns at a time: a line of `columns` is read while it is in the nearest cache.
    for (first, some) in columns.chunks(TURNED * count).enumerate() {
        for (t, row) in out.chunks_exact_mut(outs).enumerate() {
            let to = &mut row[first * TURNED..];
            to.iter_mut().zip(some.iter().skip(t).step_by(count)).for_each(|(to, from)| *to = *from);
        }
    }
    out
}
