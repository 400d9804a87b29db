//! A block of query rows, for some or all heads, against the keys it sees, forward: the unit of work on the CPU.
//!
//! Unaware of tensors, segments and caches: it gets spans of keys and values.

use std::ops::Range;

use crate::attention::Heads;
use crate::cpu::gemm::{Mat, On, gemm};
use crate::cpu::lanes::Lanes;
use crate::cpu::simd::{self, LANES, dot_body, fma, simd_fn};

/// Query rows of a block. Scores of one head take `ROWS * keys` floats of scratch.
pub(super) const ROWS: usize = 64;

/// Up to this many query rows, dot products beat gemm, which packs its operands.
const FEW: usize = 4;

/// Consecutive rows of keys and values, all key/value heads side by side.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) rows: usize,
}

/// A block of queries: `q` holds its rows, of which row i sees the first `seen + i` keys of the spans together.
pub(super) struct Block<'a> {
    /// `[rows, heads.len() * head_dim]`.
    pub(super) q: &'a [f32],
    /// Which query heads the rows hold.
    pub(super) heads: Range<usize>,
    pub(super) spans: [Span<'a>; 2],
    pub(super) seen: usize,
}

/// Writes the block's rows of the output (laid out as `q`) and of the log-sum-exp `[rows, heads.len()]`.
pub(super) fn forward(block: &Block, heads: Heads, out: &mut [f32], lse: &mut [f32]) {
    let rows = block.q.len() / (block.heads.len() * heads.head_dim);
    let mut scores = vec![0.0; rows * (block.seen + rows - 1)];
    for index in 0..block.heads.len() {
        one_head(block, heads, index, rows, &mut scores, out, lse);
    }
}

/// The head at `index` of the block's.
fn one_head(
    block: &Block,
    heads: Heads,
    index: usize,
    rows: usize,
    scores: &mut [f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (dim, q_width, kv_width) = (heads.head_dim, block.heads.len() * heads.head_dim, heads.kv_width());
    let (q_at, kv_at) = (index * dim, (block.heads.start + index) / heads.group() * dim);
    let keys = block.seen + rows - 1;
    let mut column = 0;
    for span in block.spans.iter().filter(|span| span.rows > 0) {
        let k = &span.k[kv_at..];
        if rows <= FEW {
            for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let q = &block.q[row * q_width + q_at..][..dim];
                dots(&mut scores[column..column + span.rows], q, k, kv_width, heads.scale());
            }
        } else {
            let (q, k) =
                (Mat::strided(&block.q[q_at..], rows, dim, q_width), Mat::strided(k, span.rows, dim, kv_width));
            gemm(&mut scores[column..], keys, false, heads.scale(), q, k.t(), On::Here);
        }
        column += span.rows;
    }
    for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
        let (seen, hidden) = scores.split_at_mut(block.seen + row);
        let largest = simd::max(seen);
        let sum = simd::exp_shifted(seen, largest);
        hidden.fill(0.0);
        lse[row * block.heads.len() + index] = largest + sum.ln();
        // Dividing here, not the output after, keeps the probabilities what backward computes them to be.
        simd::scale(seen, 1.0 / sum);
    }
    let mut column = 0;
    for (i, span) in block.spans.iter().enumerate().filter(|(_, span)| span.rows > 0) {
        let (v, add) = (&span.v[kv_at..], i > 0 && column > 0);
        if rows <= FEW {
            for (row, scores) in scores.chunks_exact(keys).enumerate() {
                let out = &mut out[row * q_width + q_at..][..dim];
                weighted(out, &scores[column..column + span.rows], v, kv_width, add);
            }
        } else {
            let p = Mat::strided(&scores[column..], rows, span.rows, keys);
            gemm(&mut out[q_at..], q_width, add, 1.0, p, Mat::strided(v, span.rows, dim, kv_width), On::Here);
        }
        column += span.rows;
    }
}

simd_fn! {
    /// `out[j] = scale * q . k[j]`, rows of `k` `step` apart.
    fn dots(out: &mut [f32], q: &[f32], k: &[f32], step: usize, scale: f32) {
        for (j, o) in out.iter_mut().enumerate() {
            *o = scale * dot_body::<L>(q, &k[j * step..j * step + q.len()]);
        }
    }
}

/// The first `N` registers' worth of `weighted`.
#[inline(always)]
fn weighted_lanes<L: Lanes, const N: usize>(out: &mut [f32], p: &[f32], v: &[f32], step: usize, add: bool) {
    let mut sums = [L::splat(0.0); N];
    for (j, p) in p.iter().enumerate() {
        let p = L::splat(*p);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = p.fma(L::load(&v[j * step + i * LANES..]), *sum);
        }
    }
    for (out, sum) in out.chunks_exact_mut(LANES).zip(sums) {
        out.copy_from_slice(&if add { L::load(out).add(sum) } else { sum }.array());
    }
}

simd_fn! {
    /// `out = sum_j p[j] v[j]`, or `+=` if `add`; rows of `v` `step` apart, in order.
    fn weighted(out: &mut [f32], p: &[f32], v: &[f32], step: usize, add: bool) {
        let mut at = 0;
        while at + 4 * LANES <= out.len() {
            weighted_lanes::<L, 4>(&mut out[at..], p, &v[at..], step, add);
            at += 4 * LANES;
        }
        while at + LANES <= out.len() {
            weighted_lanes::<L, 1>(&mut out[at..], p, &v[at..], step, add);
            at += LANES;
        }
        for (out, at) in out[at..].iter_mut().zip(at..) {
            let mut sum = 0.0;
            for (j, p) in p.iter().enumerate() {
                sum = fma::<FMA>(*p, v[j * step + at], sum);
            }
            *out = if add { *out + sum } else { sum };
        }
    }
}
