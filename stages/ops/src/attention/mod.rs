//! Causal attention over packed sequences: `out = softmax(q k^T / sqrt(head_dim)) v`, with grouped key/value heads.
//!
//! Query head h reads key/value head `h / (n_heads / n_kv_heads)`. Which rows see which is a [`Layout`]'s business.
//! Saves q, k, v, out and the log-sum-exp of every (row, head), never the probabilities: backward computes them again
//! as `p = e^(s - lse)` (Dao et al., "FlashAttention", 2022). With `delta = sum(d * out)` of each (row, head):
//! `d_v += p^T d`, `d_s = p * (d v^T - delta)`, `d_q += d_s k / sqrt(head_dim)`, `d_k += d_s^T q / sqrt(head_dim)`.
//! Sums over blocks, heads of a group and segments that share a prefix run in a fixed order.

mod backward;
mod block;
mod cache;
mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_cache;
#[cfg(feature = "cuda")]
mod cuda_choice;
#[cfg(feature = "cuda")]
mod cuda_decode;
#[cfg(feature = "cuda")]
mod cuda_kernel;
mod decode;
#[cfg(test)]
mod decode_tests;
mod layout;
#[cfg(any(feature = "cuda", test))]
mod plan;
pub mod reference;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiled_tests;

use std::sync::Arc;

use dfdx::prelude::{PutTape, SplitTape};
use dfdx::shapes::HasShape;

pub use cache::LayerCache;
#[cfg(feature = "cuda")]
pub(crate) use cuda_cache::CudaCache;
#[cfg(feature = "cuda")]
pub(crate) use cuda_decode::{CudaTable, decode_at, decode_takes};
pub use decode::{DecodeTable, decode_attention};
pub use layout::{Layout, Prefix, Segment};

use crate::OpError;
use crate::add::put;
use crate::backend::{Act, Backend, Buffer, Memory, Vector};
use crate::profile::{node, span};
use crate::tape::Record;

/// Numbers of heads and their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
}

impl Heads {
    /// Width of queries and of the output.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of keys and of values.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Query heads a key/value head.
    pub fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f32 {
        (1.0 / (self.head_dim as f64).sqrt()) as f32
    }
}

/// What backward needs.
pub struct Saved<B: Memory> {
    /// Queries `[tokens, n_heads * head_dim]`.
    pub q: Act<B>,
    /// Keys `[tokens, n_kv_heads * head_dim]`.
    pub k: Act<B>,
    /// Values, as keys.
    pub v: Act<B>,
    /// The output, as queries.
    pub out: Act<B>,
    /// Log-sum-exp of the scaled scores, `[tokens * n_heads]`, heads of a row together.
    pub lse: Vector<B>,
}

/// What a device does for [`attention`] and [`cached_attention`].
pub trait AttentionKernel: Sized {
    /// Storage of a [`LayerCache`].
    type Cache: Default + Clone + Send;
    /// What the device keeps of the sequences of a [`DecodeTable`] from one step to the next.
    type Table: Default;
    /// A cache that is cut to a multiple of so many rows and filled again gets the same bits whatever was cut: blocks of
    /// rows are laid out from multiples of it.
    const ALIGNED_ROWS: usize;
    /// The output and the log-sum-exp.
    fn attention_forward(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        layout: &Layout,
    ) -> Result<(Act<Self>, Vector<Self>), OpError>
    where
        Self: Memory;
    /// Gradients of q, k and v, to be added to what these have.
    fn attention_backward(
        &self,
        saved: &Saved<Self>,
        d: &Buffer<Self>,
        heads: Heads,
        layout: &Layout,
    ) -> Result<[Buffer<Self>; 3], OpError>
    where
        Self: Memory;
    /// For each sequence, whose rows of q, k and v follow those of the one before: writes its k and v as rows `len..` of
    /// its cache; then its row i of q sees rows `0..=len + i` of that.
    fn attention_cached(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        sequences: &mut [Cached<'_, Self::Cache>],
    ) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// As [`AttentionKernel::attention_cached`] for one row of each sequence; a sequence's numbers depend on its own row
    /// and cache only.
    fn attention_decode(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        sequences: &mut [Cached<'_, Self::Cache>],
        table: &mut Self::Table,
    ) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
}

/// A sequence that goes on behind what a cache holds.
pub struct Cached<'a, C> {
    /// Its cache.
    pub cache: &'a mut C,
    /// Rows of the cache that count.
    pub len: usize,
    /// Rows that are new.
    pub rows: usize,
    /// Rows to make room for where it must grow.
    pub reserve: usize,
}

/// Attention of `q [tokens, n_heads * head_dim]` to `k`, `v [tokens, n_kv_heads * head_dim]`.
///
/// # Errors
/// If widths do not fit the heads, rows do not fit the layout, or the heads do not divide.
pub fn attention<B: Backend, T: Record<B>>(
    q: Act<B, T>,
    k: Act<B, T>,
    v: Act<B, T>,
    heads: Heads,
    layout: &Arc<Layout>,
) -> Result<Act<B, T>, OpError> {
    check("attention", heads, q.shape(), k.shape(), v.shape())?;
    if q.shape().0 != layout.tokens() {
        return Err(OpError::shape("attention", ("q", q.shape()), ("layout of tokens", layout.tokens())));
    }
    let (q, q_tape) = q.split_tape();
    let (k, k_tape) = k.split_tape();
    let (v, v_tape) = v.split_tape();
    let mut tape = q_tape.merge(k_tape).merge(v_tape);
    let dev = q.device().clone();
    let (out, lse) = span(&dev, "attention.forward", || dev.attention_forward(&q, &k, &v, heads, layout))?;
    if T::RECORDS {
        let (saved, layout) = (Saved { q, k, v, out: out.clone(), lse }, layout.clone());
        tape.record(node(dev.clone(), "attention.backward", move |grads| {
            let d = dev.take(grads.acts.get_or_alloc_mut(&saved.out).map_err(OpError::device)?)?;
            let d_inputs = dev.attention_backward(&saved, &d, heads, &layout)?;
            drop(d);
            for (d_input, input) in d_inputs.into_iter().zip([&saved.q, &saved.k, &saved.v]) {
                let (slot, unwritten) = dev.unwritten(|| grads.acts.get_or_alloc_mut(input));
                put(&dev, slot.map_err(OpError::device)?, unwritten, d_input)?;
            }
            Ok(())
        }));
    }
    Ok(out.put_tape(tape))
}

/// Appends `k` and `v` to the cache and attends from `q` to everything in it, causally: for prefill and decoding.
///
/// The numbers are those of [`attention`] within rounding: blocks of rows are cut otherwise. Bit for bit they depend on the
/// sequence alone, not on how it was cut into calls, as long as every call begins at a multiple of
/// [`AttentionKernel::ALIGNED_ROWS`].
///
/// # Errors
/// If shapes do not fit each other or what the cache holds; the cache is unchanged then.
pub fn cached_attention<B: Backend>(
    q: Act<B>,
    k: Act<B>,
    v: Act<B>,
    heads: Heads,
    cache: &mut LayerCache<B>,
) -> Result<Act<B>, OpError> {
    let rows = k.shape().0;
    cached_attention_batch(q, k, v, heads, &mut [cache], &[rows])
}

/// [`cached_attention`] of several sequences at once: `rows[i]` rows of q, k and v, after those of the sequences before,
/// go on behind `caches[i]`. The numbers of a sequence are those that it has alone.
///
/// # Errors
/// As [`cached_attention`]; also if the rows are not those of q.
pub fn cached_attention_batch<B: Backend>(
    q: Act<B>,
    k: Act<B>,
    v: Act<B>,
    heads: Heads,
    caches: &mut [&mut LayerCache<B>],
    rows: &[usize],
) -> Result<Act<B>, OpError> {
    const OP: &str = "cached_attention";
    check(OP, heads, q.shape(), k.shape(), v.shape())?;
    let mut sequences = behind(OP, *k.shape(), caches, rows)?;
    let dev = q.device().clone();
    let out = span(&dev, "attention.cached", || dev.attention_cached(&q, &k, &v, heads, &mut sequences))?;
    grown(caches, rows, k.shape().1);
    Ok(out)
}

/// The sequences that `rows` rows of k `[tokens, width]` each go on behind.
pub(crate) fn behind<'a, B: Backend>(
    op: &'static str,
    (tokens, width): (usize, usize),
    caches: &'a mut [&mut LayerCache<B>],
    rows: &[usize],
) -> Result<Vec<Cached<'a, B::Cache>>, OpError> {
    if caches.len() != rows.len() || rows.iter().sum::<usize>() != tokens {
        return Err(OpError::argument(op, format!("{tokens} rows are not those of {} caches, {rows:?}", caches.len())));
    }
    if let Some(cache) = caches.iter().find(|cache| cache.len > 0 && cache.width != width) {
        return Err(OpError::shape(op, ("k", (tokens, width)), ("cache of width", cache.width)));
    }
    let of = |(cache, rows): (&'a mut &mut LayerCache<B>, &usize)| Cached {
        len: cache.len,
        reserve: cache.reserve,
        rows: *rows,
        cache: &mut cache.store,
    };
    Ok(caches.iter_mut().zip(rows).map(of).collect())
}

/// Notes that the caches hold so many rows more, of this width.
pub(crate) fn grown<B: Backend>(caches: &mut [&mut LayerCache<B>], rows: &[usize], width: usize) {
    for (cache, rows) in caches.iter_mut().zip(rows) {
        (cache.len, cache.width) = (cache.len + rows, width);
    }
}

fn check(
    op: &'static str,
    heads: Heads,
    q: &(usize, usize),
    k: &(usize, usize),
    v: &(usize, usize),
) -> Result<(), OpError> {
    if heads.head_dim == 0 || heads.n_kv_heads == 0 || !heads.n_heads.is_multiple_of(heads.n_kv_heads) {
        return Err(OpError::argument(op, format!("{heads:?} do not divide")));
    }
    if q.1 != heads.q_width() {
        return Err(OpError::shape(op, ("q", q), ("heads of width", heads.q_width())));
    }
    if k.1 != heads.kv_width() {
        return Err(OpError::shape(op, ("k", k), ("heads of width", heads.kv_width())));
    }
    if k != v || q.0 != k.0 {
        return Err(OpError::shape(op, ("q, k", (q, k)), ("v", v)));
    }
    Ok(())
}
