//! The head and the loss together: `sum over labelled rows of -log softmax(x[row] W^T)[target]`.
//!
//! What is fused: labelled rows are gathered, and logits of a few rows at a time exist only until their softmax has
//! been used, so `[tokens, vocabulary]` is never held. Gradients are computed in the forward, chunk by chunk, while
//! the probabilities p are there: `d_x[row] = scale * (p W - W[target])`, `d_W = scale * (p^T x - x at target)`.
//! Backward adds (`+=`) them. `scale` is 1 / (labelled tokens of the whole accumulation window). Unaware of labels
//! that are ignored: the caller lists the rows that count.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub mod reference;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(crate) use cuda_kernel::chunk_rows;

use dfdx::prelude::SplitTape;
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::backend::{Act, Backend, Buffer, Memory, Weight};
use crate::category::Category;
use crate::profile::{node, span};
use crate::tape::Record;

/// The loss of some labelled rows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LossSum {
    /// Sum of the rows' negative log-likelihoods, not multiplied by `scale`.
    pub sum: f64,
    /// Number of rows.
    pub count: usize,
    /// Index (into the list of rows) of the first one whose loss is NaN or infinite.
    pub first_non_finite: Option<usize>,
}

/// What a forward leaves for backward.
pub struct HeadGradients<B: Memory> {
    /// `[rows.len(), width]`, times `scale`.
    pub rows: Buffer<B>,
    /// `[vocabulary, width]`, times `scale`; only if the weight is trainable.
    pub weight: Option<Buffer<B>>,
}

/// Which gradients a forward computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Factor of all of them.
    pub scale: f32,
    /// Whether the weight's is among them.
    pub weight: bool,
}

/// What a device does for [`linear_cross_entropy`].
pub trait CrossEntropyKernel: Sized {
    /// The loss, and gradients if `wanted` and there are rows. Rows and targets are within their ranges.
    fn cross_entropy_forward(
        &self,
        x: &Act<Self>,
        rows: &[u32],
        targets: &[u32],
        weight: &Weight<Self>,
        wanted: Option<Wanted>,
    ) -> Result<(LossSum, Option<HeadGradients<Self>>), OpError>
    where
        Self: Memory;
    /// Bytes that [`CrossEntropyKernel::cross_entropy_forward`] holds at most beside its inputs and the gradients that
    /// it returns, for so many rows and a weight `[vocabulary, width]`.
    fn cross_entropy_held(&self, rows: usize, weight: (usize, usize), wanted: Option<Wanted>) -> usize;
    /// `d_x[rows[i]] += d_rows[i]`, in the order of `i`.
    fn cross_entropy_backward(
        &self,
        rows: &[u32],
        width: usize,
        d_rows: &Buffer<Self>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
}

/// Bytes that [`linear_cross_entropy`] takes for logits and what lives as long, for so many labelled rows: a chunk's
/// logits and inputs, the rows' gradients and, where the head is trained, its own.
pub fn cross_entropy_workspace<B: Backend>(dev: &B, rows: usize, weight: &Weight<B>, trainable: bool) -> usize {
    if rows == 0 {
        return 0;
    }
    let (vocabulary, width) = *weight.shape();
    let wanted = Wanted { scale: 1.0, weight: trainable };
    let returned = (rows + if trainable { vocabulary } else { 0 }) * width * size_of::<B::Elem>();
    returned + dev.cross_entropy_held(rows, (vocabulary, width), Some(wanted))
}

/// The summed negative log-likelihood of `targets[i]` after row `rows[i]` of `x [tokens, width]`, under the head
/// `weight [vocabulary, width]`, and the tape, whose gradients are those of `scale` times the sum.
///
/// With tied embeddings pass the embedding's weight itself: both ops then add to one gradient.
///
/// # Errors
/// If widths differ, the lists differ in length, or a row or target is out of range. A loss that is not finite is no
/// error but reported in [`LossSum::first_non_finite`].
pub fn linear_cross_entropy<B: Backend, T: Record<B>>(
    x: Act<B, T>,
    rows: &[u32],
    targets: &[u32],
    weight: &Weight<B>,
    trainable: bool,
    scale: f32,
) -> Result<(LossSum, T), OpError> {
    const OP: &str = "linear_cross_entropy";
    let (&(tokens, width), &(vocabulary, _)) = (x.shape(), weight.shape());
    if weight.shape().1 != width {
        return Err(OpError::shape(OP, ("x", x.shape()), ("weight", weight.shape())));
    }
    if rows.len() != targets.len() {
        return Err(OpError::shape(OP, ("rows", [rows.len()]), ("targets", [targets.len()])));
    }
    for (what, list, limit) in [("row", rows, tokens), ("target", targets, vocabulary)] {
        if let Some(index) = list.iter().find(|index| **index as usize >= limit) {
            return Err(OpError::OutOfRange { op: OP, what, index: *index as usize, limit });
        }
    }
    let (x, mut tape) = x.split_tape();
    let dev = x.device().clone();
    let wanted = T::RECORDS.then_some(Wanted { scale, weight: trainable });
    let forward = || dev.cross_entropy_forward(&x, rows, targets, weight, wanted);
    let forward = || forward().map_err(|error| error.lacking(Category::Logits));
    let (loss, gradients) = span(&dev, "cross_entropy.forward", forward)?;
    if let Some(HeadGradients { rows: d_rows, weight: d_weight }) = gradients {
        let (x, weight, rows) = (x.ghost(), weight.ghost(), rows.to_vec());
        tape.record(node(dev.clone(), "cross_entropy.backward", move |grads| {
            let d_x = grads.acts.get_or_alloc_mut(&x).map_err(OpError::device)?;
            dev.cross_entropy_backward(&rows, width, &d_rows, d_x)?;
            if let Some(d_weight) = d_weight {
                dev.accumulate(grads.weights.get_or_alloc_mut(&weight).map_err(OpError::gradient)?, &d_weight)?;
            }
            Ok(())
        }));
    }
    Ok((loss, tape))
}
