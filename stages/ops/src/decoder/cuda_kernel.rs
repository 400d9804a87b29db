//! A block on CUDA: nine launches between addresses in one allocation, no tensors but its input and output.
//!
//! A tensor costs an allocation and, for its address, a text; of a small model these would take longer than the kernels.
//! Unaware of what the kernels compute.

use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::{BlockWeights, DecoderKernel};
use crate::OpError;
use crate::attention::{Cached, CudaCache, CudaTable, Heads, decode_at, decode_takes};
use crate::backend::Act;
use crate::cuda::{Bf16, addr, new_act, scratch, slice_addr};
use crate::linear::cuda_few::{Few, FewModule, few, fits};
use crate::profile::span;
use crate::rms_norm::normalize;
use crate::rope::{Pair, rotate_pair};

/// Elements between the beginnings of parts of the allocation, so that all are at multiples of 256 bytes.
const ALIGNED: usize = 128;

/// Where a block's weights lie.
#[derive(Debug, Clone, Copy)]
struct Places {
    norms: [u64; 2],
    qkv: [FewModule; 3],
    o: FewModule,
    gate_up: [FewModule; 2],
    down: FewModule,
    cos: u64,
    sin: u64,
}

impl Places {
    fn of(weights: &BlockWeights<Cuda>) -> Result<Self, OpError> {
        let [q, k, v] = weights.qkv.each_ref().map(FewModule::of);
        let (cos, sin) = weights.rope.tables();
        Ok(Self {
            norms: [addr(&weights.input_norm)?, addr(&weights.post_norm)?],
            qkv: [q?, k?, v?],
            o: FewModule::of(&weights.o)?,
            gate_up: [FewModule::of(&weights.gate)?, FewModule::of(&weights.up)?],
            down: FewModule::of(&weights.down)?,
            cos: addr(cos)?,
            sin: addr(sin)?,
        })
    }
}

/// Addresses of the weights, found once.
#[derive(Debug, Default)]
pub struct CudaBlock(Option<Places>);

/// Whether the kernels take these sizes.
fn takes(weights: &BlockWeights<Cuda>) -> bool {
    let (hidden, inner) = (weights.input_norm.shape().0, weights.gate.weight.shape().0);
    let heads = weights.heads;
    [hidden, inner, heads.q_width()].into_iter().all(fits) && decode_takes(heads) && heads.head_dim.is_multiple_of(16)
}

impl DecoderKernel for Cuda {
    type Prepared = CudaBlock;

    fn decoder_block(
        &self,
        x: &Act<Self>,
        weights: &BlockWeights<Self>,
        prepared: &mut CudaBlock,
        positions: &[u32],
        sequences: &mut [Cached<'_, CudaCache>],
        table: &mut CudaTable,
    ) -> Result<Option<Act<Self>>, OpError> {
        let &(rows, hidden) = x.shape();
        if rows == 0 || !takes(weights) {
            return Ok(None);
        }
        let places = match prepared.0 {
            Some(places) => places,
            None => *prepared.0.insert(Places::of(weights)?),
        };
        let (dev, heads): (&Self, Heads) = (self, weights.heads);
        let (q_width, kv_width, inner) = (heads.q_width(), heads.kv_width(), weights.gate.weight.shape().0);
        let mut elements = 0;
        let mut part = |width: usize| {
            let at = elements;
            elements += (rows * width).next_multiple_of(ALIGNED);
            at
        };
        let ranks = [&places.qkv[..], &[places.o], &places.gate_up, &[places.down]]
            .map(|modules| modules.iter().map(|module| module.rank).sum::<usize>());
        let rank = ranks.into_iter().max().unwrap_or(0);
        // The norm's statistic and the branches' first products are f32: two elements each.
        let parts = [hidden, q_width, kv_width, kv_width, q_width, hidden, inner, 2, 2 * rank].map(&mut part);
        let room = scratch::<Bf16>(dev, elements)?;
        let [h, q, k, v, mixed, middle, gated, r, u] = parts.map(|at| slice_addr(&room) + 2 * at as u64);
        let out = new_act(dev, rows, hidden)?;
        let (from, to) = (addr(x)?, addr(&out)?);
        let angles = weights.rope.positions(dev, positions)?;
        let map = |op: &'static str, x: u64, width: usize, modules: &[FewModule], outs: &[u64], onto: u64| {
            let call =
                Few { x, onto, u, rows, width, modules, outs, gated: modules.len() == 2, wide: false, early: true };
            // SAFETY: `DecoderBlock` checked that the modules fit together, and owns the weights of these addresses; the
            // others are parts of `room` of the sizes above, x, or the output, which has its size. The weights are older than
            // the first norm.
            span(dev, op, || unsafe { few(dev, &call) })
        };
        let norm = |x: u64, weight: u64, early: bool| {
            let sizes = (rows, hidden, weights.eps);
            // SAFETY: x and h have `rows * hidden` elements, the weight `hidden`, r `rows` f32.
            span(dev, "decoder.norm", || unsafe { normalize(dev, (h, r, x, weight), sizes, early) })
        };
        // The others begin early, and so do their weights' reads: whatever wrote these must have ended before.
        norm(from, places.norms[0], false)?;
        map("decoder.qkv", h, hidden, &places.qkv, &[q, k, v], 0)?;
        let pair = Pair { q, k, cos: places.cos, sin: places.sin, positions: slice_addr(&angles), heads };
        // SAFETY: q and k have `rows` rows of their heads; `DecoderBlock` checked the positions and the table's width.
        span(dev, "decoder.rope", || unsafe { rotate_pair(dev, &pair, rows) })?;
        // SAFETY: q, k, v and `mixed` have a row for each sequence, which `DecoderBlock` checked against the caches; what these
        // hold is older than the first norm.
        span(dev, "attention.decode", || unsafe { decode_at(dev, [q, k, v, mixed], heads, sequences, table, true) })?;
        map("decoder.o", mixed, q_width, &[places.o], &[middle], from)?;
        norm(middle, places.norms[1], true)?;
        map("decoder.gate_up", h, hidden, &places.gate_up, &[gated], 0)?;
        map("decoder.down", gated, inner, &[places.down], &[to], middle)?;
        Ok(Some(out))
    }
}
