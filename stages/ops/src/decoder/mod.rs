//! One transformer block for the newest token of each of several sequences: norms, attention and MLP.
//!
//! `x += o(attention(rope(q), rope(k), v))` of the norm of x, then `x += down(silu(gate) * up)` of its norm. The ops are
//! those of this crate; a device may run the block as one op, without tensors between its parts. A sequence's numbers
//! depend on its own row and cache only, bit for bit. Unaware of the blocks around it and of which token is chosen.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
#[cfg(test)]
mod tests;

use dfdx::shapes::HasShape;

use crate::OpError;
use crate::attention::{Cached, DecodeTable, Heads, LayerCache, behind, decode_attention, grown};
use crate::backend::{Act, Backend, Memory, Vector};
use crate::linear::{Linear, linear_few, linear_few_gated};
use crate::profile::span;
use crate::rms_norm::rms_norm;
use crate::rope::{RopeTable, rope};

const OP: &str = "decoder";

/// A block's weights and sizes.
pub struct BlockWeights<B: Backend> {
    /// Of the norm before attention.
    pub input_norm: Vector<B>,
    /// Queries, keys and values.
    pub qkv: [Linear<B>; 3],
    /// Of attention's output.
    pub o: Linear<B>,
    /// Of the norm before the MLP.
    pub post_norm: Vector<B>,
    /// The MLP's gate.
    pub gate: Linear<B>,
    /// What the gate multiplies.
    pub up: Linear<B>,
    /// Back to the residual stream.
    pub down: Linear<B>,
    /// Of attention.
    pub heads: Heads,
    /// Of both norms.
    pub eps: f32,
    /// Of all positions.
    pub rope: RopeTable<B>,
}

/// What a device does for [`DecoderBlock`].
pub trait DecoderKernel: Sized {
    /// What it keeps of a block's weights from one step to the next. It is made from the same weights every time.
    type Prepared: Default;
    /// The block as one op: the new residual stream. Keys and values join the caches, whose lengths are the caller's to
    /// note. `None`: the device has none for these sizes, and nothing has changed.
    fn decoder_block(
        &self,
        x: &Act<Self>,
        weights: &BlockWeights<Self>,
        prepared: &mut Self::Prepared,
        positions: &[u32],
        sequences: &mut [Cached<'_, Self::Cache>],
        table: &mut Self::Table,
    ) -> Result<Option<Act<Self>>, OpError>
    where
        Self: Backend,
    {
        let _ = (x, weights, prepared, positions, sequences, table);
        Ok(None)
    }
}

/// A block that decodes, with what the device keeps of it and of the sequences that decode together.
pub struct DecoderBlock<B: Backend> {
    weights: BlockWeights<B>,
    /// Made from `weights`, which do not change.
    prepared: B::Prepared,
    table: DecodeTable<B>,
}

/// Whether a module maps `from` numbers to `to`.
fn fits<B: Memory>(args: &Linear<B>, from: usize, to: usize) -> bool {
    let branch = args.lora.as_ref().is_none_or(|lora| {
        let (a, b) = (lora.a.shape(), lora.b.shape());
        (a.1, b.0) == (from, to) && a.0 == b.1
    });
    *args.weight.shape() == (to, from) && branch && args.bias.as_ref().is_none_or(|bias| bias.shape().0 == to)
}

impl<B: Backend> DecoderBlock<B> {
    /// A block of these weights.
    ///
    /// # Errors
    /// If their shapes do not fit together.
    pub fn new(weights: BlockWeights<B>) -> Result<Self, OpError> {
        let (hidden, inner) = (weights.input_norm.shape().0, weights.gate.weight.shape().0);
        let Heads { n_heads, n_kv_heads, head_dim } = weights.heads;
        let (q, kv) = (weights.heads.q_width(), weights.heads.kv_width());
        let heads = head_dim > 0 && n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads);
        let rope = weights.rope.tables().0.shape().1 * 2 == head_dim;
        let qkv = weights.qkv.iter().zip([q, kv, kv]).all(|(args, to)| fits(args, hidden, to));
        let mlp = fits(&weights.gate, hidden, inner) && fits(&weights.up, hidden, inner);
        let back = fits(&weights.o, q, hidden) && fits(&weights.down, inner, hidden);
        if !(heads && rope && qkv && mlp && back && weights.post_norm.shape().0 == hidden) {
            return Err(OpError::argument(OP, "the weights of a block do not fit together"));
        }
        Ok(Self { weights, prepared: B::Prepared::default(), table: DecodeTable::default() })
    }

    /// The residual stream `x`, a row for each sequence, after this block; keys and values join the caches. `positions` are
    /// those of the rows. The same sequences in the same order as in the step before save the device's time.
    ///
    /// # Errors
    /// If rows, positions and caches do not fit each other, or a position is outside the table; no memory.
    pub fn step(&mut self, x: Act<B>, positions: &[u32], caches: &mut [&mut LayerCache<B>]) -> Result<Act<B>, OpError> {
        let (rows, kv_width, limit) = (x.shape().0, self.weights.heads.kv_width(), self.weights.rope.max_positions());
        if x.shape().1 != self.weights.input_norm.shape().0 || positions.len() != rows {
            return Err(OpError::shape(OP, ("x", x.shape()), ("positions", [positions.len()])));
        }
        if let Some(position) = positions.iter().find(|position| **position as usize >= limit) {
            return Err(OpError::OutOfRange { op: OP, what: "position", index: *position as usize, limit });
        }
        let each = vec![1; caches.len()];
        let mut sequences = behind(OP, (rows, kv_width), caches, &each)?;
        let (dev, Self { weights, prepared, table }) = (x.device().clone(), self);
        let table_of = &mut table.0;
        let whole =
            span(&dev, "decoder", || dev.decoder_block(&x, weights, prepared, positions, &mut sequences, table_of))?;
        drop(sequences);
        if let Some(x) = whole {
            grown(caches, &each, kv_width);
            return Ok(x);
        }
        composed(x, weights, positions, caches, table)
    }
}

/// The block op by op.
fn composed<B: Backend>(
    x: Act<B>,
    weights: &BlockWeights<B>,
    positions: &[u32],
    caches: &mut [&mut LayerCache<B>],
    table: &mut DecodeTable<B>,
) -> Result<Act<B>, OpError> {
    let h = rms_norm(x.clone(), &weights.input_norm, weights.eps, false)?;
    let [q, k, v] = linear_few(&h, weights.qkv.each_ref(), None)?;
    let turned = |x| rope(x, weights.heads.head_dim, &weights.rope, positions);
    let mixed = decode_attention(&turned(q)?, &turned(k)?, &v, weights.heads, caches, table)?;
    let [x] = linear_few(&mixed, [&weights.o], Some(&x))?;
    let h = rms_norm(x.clone(), &weights.post_norm, weights.eps, false)?;
    let [out] = linear_few(&linear_few_gated(&h, &weights.gate, &weights.up)?, [&weights.down], Some(&x))?;
    Ok(out)
}
