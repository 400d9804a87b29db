//! Attention on the CPU: blocks of query rows on all threads forward, (segment, head) pairs backward.

use std::sync::Arc;

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;
use rayon::prelude::*;

use super::backward::{self, Inputs, Of, Part};
use super::block::{self, Block, ROWS, Span};
use super::{AttentionKernel, Cached, Heads, Layout, Saved, Segment};
use crate::OpError;
use crate::backend::{Act, Buffer, Vector};
use crate::cpu::memory::{buffer, expect_len};
use crate::cpu::{slice, threads};

const OP: &str = "attention";

/// Multiply-adds below which one thread does all.
const ALONE: usize = 256 * 1024;

/// Key rows whose partial gradients are held at a time in backward, for all heads together.
const WAVE: usize = 4096;

/// Rows of a block behind a cache, and what its first row is a multiple of. Fewer than [`ROWS`]: those between the end of
/// a shared prefix and the multiple before it are computed again.
const CACHED_ROWS: usize = 16;

/// Keys and values so far, row after row; shared between clones until one appends.
#[derive(Debug, Clone, Default)]
pub struct CpuCache {
    k: Arc<Vec<f32>>,
    v: Arc<Vec<f32>>,
}

impl CpuCache {
    /// Writes rows of k and v behind the first `len` elements; makes room for `reserve` elements where it must grow.
    fn append(&mut self, new: [&[f32]; 2], len: usize, reserve: usize) {
        for (kept, new) in [&mut self.k, &mut self.v].into_iter().zip(new) {
            let needed = len + new.len();
            match Arc::get_mut(kept).filter(|own| own.capacity() >= needed) {
                Some(own) => {
                    own.truncate(len);
                    own.extend_from_slice(new);
                }
                None => {
                    // A quarter more, as nobody may have said how long it gets.
                    let mut larger =
                        Vec::with_capacity(reserve.max(needed + if reserve == 0 { needed / 4 } else { 0 }));
                    larger.extend_from_slice(&kept[..len]);
                    larger.extend_from_slice(new);
                    *kept = Arc::new(larger);
                }
            }
        }
    }
}

/// Blocks with their rows of output and log-sum-exp.
type Work<'a> = Vec<(Block<'a>, &'a mut [f32], &'a mut [f32])>;

fn run(mut work: Work, heads: Heads, cost: usize) {
    let one = |(block, out, lse): &mut (Block, &mut [f32], &mut [f32])| block::forward(block, heads, out, lse);
    if cost < ALONE || threads::count() == 1 {
        work.iter_mut().for_each(one);
    } else {
        work.par_iter_mut().with_max_len(1).for_each(one);
    }
}

impl AttentionKernel for Cpu {
    type Cache = CpuCache;
    type Table = ();
    const ALIGNED_ROWS: usize = CACHED_ROWS;

    fn attention_forward(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        layout: &Layout,
    ) -> Result<(Act<Self>, Vector<Self>), OpError> {
        let (tokens, q_width) = *q.shape();
        let (q, k, v) = (slice::matrix(OP, q)?, slice::matrix(OP, k)?, slice::matrix(OP, v)?);
        let kv_width = heads.kv_width();
        let span = |first: usize, rows: usize| Span {
            k: &k[first * kv_width..(first + rows) * kv_width],
            v: &v[first * kv_width..(first + rows) * kv_width],
            rows,
        };
        let mut out = vec![0.0; tokens * q_width];
        let mut lse = vec![0.0; tokens * heads.n_heads];
        let (mut out_rest, mut lse_rest) = (out.as_mut_slice(), lse.as_mut_slice());
        let mut work = Vec::new();
        let mut cost = 0;
        for segment in layout.segments() {
            let prefix = segment.prefix_rows();
            for first in (0..segment.len).step_by(ROWS) {
                let rows = ROWS.min(segment.len - first);
                let from = (segment.start + first) * q_width;
                let block = Block {
                    q: &q[from..from + rows * q_width],
                    heads: 0..heads.n_heads,
                    spans: [span(prefix.start, prefix.len()), span(segment.start, first + rows)],
                    seen: prefix.len() + first + 1,
                };
                cost += rows * (block.seen + rows) * q_width;
                let (block_out, block_lse);
                (block_out, out_rest) = out_rest.split_at_mut(rows * q_width);
                (block_lse, lse_rest) = lse_rest.split_at_mut(rows * heads.n_heads);
                work.push((block, block_out, block_lse));
            }
        }
        run(work, heads, cost);
        let len = lse.len();
        let out = self.try_tensor_from_vec(out, (tokens, q_width)).map_err(OpError::device)?;
        Ok((out, self.try_tensor_from_vec(lse, (len,)).map_err(OpError::device)?))
    }

    fn attention_backward(
        &self,
        saved: &Saved<Self>,
        d: &Buffer<Self>,
        heads: Heads,
        layout: &Layout,
    ) -> Result<[Buffer<Self>; 3], OpError> {
        let inputs = Inputs {
            q: slice::matrix(OP, &saved.q)?,
            k: slice::matrix(OP, &saved.k)?,
            v: slice::matrix(OP, &saved.v)?,
            out: slice::matrix(OP, &saved.out)?,
            lse: slice::vector(OP, &saved.lse)?,
            d,
        };
        expect_len(OP, d.len(), inputs.q.len())?;
        let mut totals = [vec![0.0; inputs.q.len()], vec![0.0; inputs.k.len()], vec![0.0; inputs.v.len()]];
        let mut rest = layout.segments();
        while !rest.is_empty() {
            let (wave, after) = rest.split_at(wave_len(rest));
            rest = after;
            let tasks: Vec<(Segment, usize)> =
                wave.iter().flat_map(|segment| (0..heads.n_heads).map(|head| (*segment, head))).collect();
            let cost: usize = wave.iter().map(|s| s.len * (s.prefix_len() + s.len) * heads.q_width()).sum();
            let one = |(segment, head): &(Segment, usize)| backward::part(inputs, heads, *segment, *head);
            let parts: Vec<Part> = if cost < ALONE || threads::count() == 1 {
                tasks.iter().map(one).collect()
            } else {
                tasks.par_iter().with_max_len(1).map(one).collect()
            };
            for (total, of) in totals.iter_mut().zip([Of::Q, Of::K, Of::V]) {
                backward::merge(total, &parts, heads, of);
            }
        }
        let [q, k, v] = totals;
        Ok([buffer(self, q)?, buffer(self, k)?, buffer(self, v)?])
    }

    fn attention_cached(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        sequences: &mut [Cached<'_, CpuCache>],
    ) -> Result<Act<Self>, OpError> {
        let &(tokens, q_width) = q.shape();
        let (mut q, mut k, mut v) = (slice::matrix(OP, q)?, slice::matrix(OP, k)?, slice::matrix(OP, v)?);
        let mut out = vec![0.0; tokens * q_width];
        let mut lse = vec![0.0; tokens * heads.n_heads];
        let kv_width = heads.kv_width();
        for sequence in sequences.iter_mut() {
            let (new_k, new_v);
            (new_k, k) = k.split_at(sequence.rows * kv_width);
            (new_v, v) = v.split_at(sequence.rows * kv_width);
            sequence.cache.append([new_k, new_v], sequence.len * kv_width, sequence.reserve * kv_width);
        }
        let (mut out_rest, mut lse_rest) = (out.as_mut_slice(), lse.as_mut_slice());
        let (mut work, mut cost) = (Vec::new(), 0);
        for sequence in sequences.iter() {
            let (of_q, of_out, of_lse);
            (of_q, q) = q.split_at(sequence.rows * q_width);
            (of_out, out_rest) = out_rest.split_at_mut(sequence.rows * q_width);
            (of_lse, lse_rest) = lse_rest.split_at_mut(sequence.rows * heads.n_heads);
            behind_cache(of_q, heads, sequence, of_out, of_lse, &mut work);
            cost += sequence.rows * (sequence.len + sequence.rows) * q_width;
        }
        run(work, heads, cost);
        self.try_tensor_from_vec(out, (tokens, q_width)).map_err(OpError::device)
    }

    fn attention_decode(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        sequences: &mut [Cached<'_, CpuCache>],
        (): &mut (),
    ) -> Result<Act<Self>, OpError> {
        self.attention_cached(q, k, v, heads, sequences)
    }
}

/// Blocks of attention of `q`, whose keys and values are the last rows of the cache, to the whole of it.
fn behind_cache<'a>(
    q: &'a [f32],
    heads: Heads,
    sequence: &'a Cached<'_, CpuCache>,
    out: &'a mut [f32],
    lse: &'a mut [f32],
    work: &mut Work<'a>,
) {
    let (q_width, kv_width) = (heads.q_width(), heads.kv_width());
    // A block of rows with all heads; or, of a single row, the heads that share keys, so that threads have work.
    let parts = if sequence.rows == 1 { heads.n_kv_heads } else { 1 };
    let (mut out, mut lse, mut first) = (out, lse, 0);
    while first < sequence.rows {
        let rows = (CACHED_ROWS - (sequence.len + first) % CACHED_ROWS).min(sequence.rows - first);
        let seen = sequence.len + first + 1;
        let visible = (seen + rows - 1) * kv_width;
        let span = Span { k: &sequence.cache.k[..visible], v: &sequence.cache.v[..visible], rows: seen + rows - 1 };
        let none = Span { k: &[], v: &[], rows: 0 };
        let each = heads.n_heads / parts;
        for part in 0..parts {
            let width = each * heads.head_dim;
            let (block_out, block_lse);
            (block_out, out) = out.split_at_mut(rows * width);
            (block_lse, lse) = lse.split_at_mut(rows * each);
            // With several parts there is one row, so a part of it is contiguous.
            let from = first * q_width + part * width;
            let block = Block {
                q: &q[from..from + rows * width],
                heads: part * each..(part + 1) * each,
                spans: [none, span],
                seen,
            };
            work.push((block, block_out, block_lse));
        }
        first += rows;
    }
}

/// How many of the segments go together: as many as see `WAVE` rows, at least one.
fn wave_len(segments: &[Segment]) -> usize {
    let mut seen = 0;
    let fits = segments.iter().take_while(|s| {
        seen += s.prefix_len() + s.len;
        seen <= WAVE
    });
    fits.count().max(1)
}
