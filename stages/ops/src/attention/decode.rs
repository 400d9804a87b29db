//! Decoding: attention of one new row of each of several sequences to everything in its cache.
//!
//! On a GPU this is one pass over all sequences whatever their number and lengths. Unaware of positions and of which
//! sequences decode together.

use dfdx::shapes::HasShape;

use super::{Heads, LayerCache, behind, check, grown};
use crate::OpError;
use crate::backend::{Act, Backend};
use crate::profile::span;

/// What a device keeps of one layer's caches from one step of decoding to the next. It follows whatever caches it is used
/// with, so it is never wrong; to use it with the same ones in the same order saves the device's time.
pub struct DecodeTable<B: Backend>(pub(crate) B::Table);

impl<B: Backend> Default for DecodeTable<B> {
    fn default() -> Self {
        Self(B::Table::default())
    }
}

/// Appends row i of `k` and `v` to `caches[i]` and attends from row i of `q` to everything in it.
///
/// The numbers are those of [`super::cached_attention`] within rounding. Those of a sequence have the same bits whichever
/// others are beside it.
///
/// # Errors
/// If shapes do not fit each other or what a cache holds; the caches are unchanged then.
pub fn decode_attention<B: Backend>(
    q: &Act<B>,
    k: &Act<B>,
    v: &Act<B>,
    heads: Heads,
    caches: &mut [&mut LayerCache<B>],
    table: &mut DecodeTable<B>,
) -> Result<Act<B>, OpError> {
    const OP: &str = "decode_attention";
    check(OP, heads, q.shape(), k.shape(), v.shape())?;
    let rows = vec![1; caches.len()];
    let mut sequences = behind(OP, *k.shape(), caches, &rows)?;
    let dev = q.device();
    let out = span(dev, "attention.decode", || dev.attention_decode(q, k, v, heads, &mut sequences, &mut table.0))?;
    drop(sequences);
    grown(caches, &rows, k.shape().1);
    Ok(out)
}
