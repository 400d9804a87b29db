//! Backward of one (segment, query head) on the CPU, into buffers of its own, and the ordered merge of these.
//!
//! Unaware of tensors and tapes.

use std::ops::Range;

use crate::attention::block::ROWS;
use crate::attention::{Heads, Segment};
use crate::cpu::gemm::{Mat, On, gemm};
use crate::cpu::simd::{self, simd_fn};
use crate::cpu::threads;

/// The tensors of the whole batch, all heads side by side.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
    pub(super) d: &'a [f32],
}

/// Gradients that one (segment, query head) contributes.
pub(super) struct Part {
    pub(super) segment: Segment,
    pub(super) head: usize,
    /// `[segment rows, head_dim]`.
    q: Vec<f32>,
    /// `[prefix rows and segment rows, head_dim]`.
    k: Vec<f32>,
    /// As `k`.
    v: Vec<f32>,
}

/// Rows of one head out of rows of all heads.
fn gather(out: &mut Vec<f32>, all: &[f32], rows: Range<usize>, width: usize, at: usize, dim: usize) {
    for row in rows {
        out.extend_from_slice(&all[row * width + at..][..dim]);
    }
}

simd_fn! {
    /// `p = p * (d_p - delta) * scale`, in place.
    fn score_gradient(p: &mut [f32], d_p: &[f32], delta: f32, scale: f32) {
        for (p, d_p) in p.iter_mut().zip(d_p) {
            *p = *p * (*d_p - delta) * scale;
        }
    }
}

simd_fn! {
    fn probabilities(p: &mut [f32], lse: f32) {
        for p in p {
            *p = simd::exp::<FMA>(*p - lse);
        }
    }
}

/// The part of one segment and query head.
pub(super) fn part(inputs: Inputs, heads: Heads, segment: Segment, head: usize) -> Part {
    let (dim, q_width, kv_width) = (heads.head_dim, heads.q_width(), heads.kv_width());
    let (q_at, kv_at) = (head * dim, head / heads.group() * dim);
    let (prefix, keys) = (segment.prefix_len(), segment.prefix_len() + segment.len);
    let mut k = Vec::with_capacity(keys * dim);
    let mut v = Vec::with_capacity(keys * dim);
    for rows in [segment.prefix_rows(), segment.rows()] {
        gather(&mut k, inputs.k, rows.clone(), kv_width, kv_at, dim);
        gather(&mut v, inputs.v, rows, kv_width, kv_at, dim);
    }
    let mut part =
        Part { segment, head, q: vec![0.0; segment.len * dim], k: vec![0.0; keys * dim], v: vec![0.0; keys * dim] };
    let mut p = vec![0.0; ROWS.min(segment.len) * keys];
    let mut d_p = vec![0.0; ROWS.min(segment.len) * keys];
    for first in (0..segment.len).step_by(ROWS) {
        let rows = ROWS.min(segment.len - first);
        let seen = prefix + first + rows; // keys that the last row of the block sees
        let from = (segment.start + first) * q_width + q_at;
        let q = Mat::strided(&inputs.q[from..], rows, dim, q_width);
        let d = Mat::strided(&inputs.d[from..], rows, dim, q_width);
        let (k, v) = (Mat::new(&k, seen, dim), Mat::new(&v, seen, dim));
        gemm(&mut p, seen, false, heads.scale(), q, k.t(), On::Here);
        gemm(&mut d_p, seen, false, 1.0, d, v.t(), On::Here);
        for (i, p) in p.chunks_exact_mut(seen).take(rows).enumerate() {
            let (visible, hidden) = p.split_at_mut(prefix + first + i + 1);
            probabilities(visible, inputs.lse[(segment.start + first + i) * heads.n_heads + head]);
            hidden.fill(0.0);
        }
        gemm(&mut part.v, dim, true, 1.0, Mat::new(&p, rows, seen).t(), d, On::Here);
        for (i, (p, d_p)) in p.chunks_exact_mut(seen).zip(d_p.chunks_exact(seen)).take(rows).enumerate() {
            let at = from + i * q_width;
            let delta = simd::dot(&inputs.d[at..at + dim], &inputs.out[at..at + dim]);
            score_gradient(p, d_p, delta, heads.scale());
        }
        let d_s = Mat::new(&p, rows, seen);
        gemm(&mut part.q[first * dim..], dim, false, 1.0, d_s, k, On::Here);
        gemm(&mut part.k, dim, true, 1.0, d_s.t(), q, On::Here);
    }
    part
}

/// Which gradient of a part.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Q,
    K,
    V,
}

/// Adds the parts, in their order, to the gradient of the whole batch.
pub(super) fn merge(total: &mut [f32], parts: &[Part], heads: Heads, of: Of) {
    let dim = heads.head_dim;
    let width = if matches!(of, Of::Q) { heads.q_width() } else { heads.kv_width() };
    threads::for_rows(total, width, |first, piece| {
        let rows = first..first + piece.len() / width;
        for part in parts {
            let (values, at) = match of {
                Of::Q => (&part.q, part.head * dim),
                Of::K => (&part.k, part.head / heads.group() * dim),
                Of::V => (&part.v, part.head / heads.group() * dim),
            };
            let mut from = 0; // row of `values` where a source range begins
            let prefix = if matches!(of, Of::Q) { 0..0 } else { part.segment.prefix_rows() };
            for source in [prefix, part.segment.rows()] {
                for row in source.start.max(rows.start)..source.end.min(rows.end) {
                    let values = &values[(from + row - source.start) * dim..][..dim];
                    simd::add_assign(&mut piece[(row - first) * width + at..][..dim], values);
                }
                from += source.len();
            }
        }
    });
}
