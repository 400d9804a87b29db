//! Table look-up: `out[t] = weight[ids[t]]`. Backward adds (`+=`) each row's gradient to its id's row, in token order.
//!
//! Unaware of what the ids stand for.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub mod reference;

#[cfg(feature = "cuda")]
pub(crate) use cuda_kernel::{gather, scatter};

use dfdx::prelude::PutTape;
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::argmax::{ArgmaxKernel, NextIds};
use crate::backend::{Act, Backend, Buffer, Memory, Weight};
use crate::profile::{node, span};
use crate::tape::Record;

/// What a device does for [`embedding`].
pub trait EmbeddingKernel: ArgmaxKernel + Sized {
    /// Rows `ids` of `weight`; every id is below its number of rows.
    fn embedding_forward(&self, ids: &[u32], weight: &Weight<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// Rows of `weight` by ids that were chosen among its rows; row 0 for those of NaN.
    fn embedding_next(&self, ids: &Self::Ids, weight: &Weight<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory;
    /// `d_weight[ids[t]] += d[t]`, in the order of `t`.
    fn embedding_backward(
        &self,
        ids: &[u32],
        width: usize,
        d: &Buffer<Self>,
        d_weight: &mut Buffer<Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
}

/// The rows of `weight [vocabulary, width]` that `ids` names, which were chosen by a head of as many rows. They need not
/// have been read; an id of NaN becomes row 0, and shows when it is read.
///
/// # Errors
/// No memory, or the device failed.
pub fn embedding_next<B: Backend>(ids: &NextIds<B>, weight: &Weight<B>) -> Result<Act<B>, OpError> {
    let dev = weight.device();
    span(dev, "embedding.forward", || dev.embedding_next(&ids.ids, weight))
}

/// The rows `ids` of `weight [vocabulary, width]`, as `[ids.len(), width]`, carrying `tape`.
///
/// The weight gets a gradient (the size of the whole table) only if `trainable`.
///
/// # Errors
/// If an id is not below the vocabulary; the first such id is named.
pub fn embedding<B: Backend, T: Record<B>>(
    dev: &B,
    ids: &[u32],
    weight: &Weight<B>,
    trainable: bool,
    mut tape: T,
) -> Result<Act<B, T>, OpError> {
    let &(limit, width) = weight.shape();
    if let Some(id) = ids.iter().find(|id| **id as usize >= limit) {
        return Err(OpError::OutOfRange { op: "embedding", what: "token id", index: *id as usize, limit });
    }
    let out = span(dev, "embedding.forward", || dev.embedding_forward(ids, weight))?;
    if T::RECORDS && trainable {
        let (dev, ids, weight, out_ghost) = (dev.clone(), ids.to_vec(), weight.ghost(), out.ghost());
        tape.record(node(dev.clone(), "embedding.backward", move |grads| {
            let d = dev.take(grads.acts.get_or_alloc_mut(&out_ghost).map_err(OpError::device)?)?;
            let d_weight = grads.weights.get_or_alloc_mut(&weight).map_err(OpError::gradient)?;
            dev.embedding_backward(&ids, width, &d, d_weight)
        }));
    }
    Ok(out.put_tape(tape))
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::{Cpu, NoneTape};
    use proptest::prelude::*;

    use super::*;
    use crate::host::{act_to_vec, weight_from_vec};
    use crate::param::ParamRef;
    use crate::tape::{Grads, OpTape};
    use crate::testing::{backward, close, inputs, numbers, on_every_device, tolerance};

    fn check<B: Backend>(dev: B) {
        let mut weight = weight_from_vec(&dev, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 2).unwrap();
        let out = embedding(&dev, &[2, 0, 2], &weight, true, OpTape::default()).unwrap();
        assert_eq!(act_to_vec::<B, _>(&out), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        let mut grads = Grads::default();
        backward(out, &[1.0, 2.0, 3.0, 4.0, 10.0, 20.0], &mut grads);
        // The table used a second time, as with micro-batches: gradients accumulate.
        let out = embedding(&dev, &[0], &weight, true, OpTape::default()).unwrap();
        backward(out, &[100.0, 100.0], &mut grads);
        let frozen = embedding(&dev, &[1], &weight, false, OpTape::default()).unwrap();
        backward(frozen, &[7.0, 7.0], &mut grads);
        let grad = ParamRef::<B>::Weight(&mut weight).read_grad(&mut grads).unwrap();
        assert_eq!(grad, [103.0, 104.0, 0.0, 0.0, 11.0, 22.0]);
        let error = embedding(&dev, &[1, 3, 9], &weight, true, NoneTape).unwrap_err();
        assert_eq!(error.to_string(), "embedding: token id 3 is out of range: there are 3");
        assert_eq!(act_to_vec::<B, _>(&embedding(&dev, &[], &weight, true, NoneTape).unwrap()), []);
    }

    fn check_exact<B: Backend>(dev: B, ids: Vec<u32>, width: usize, seed: u64) {
        let (table, d) = (inputs::<B>(seed, 5 * width), inputs::<B>(seed ^ 1, ids.len() * width));
        let mut weight = weight_from_vec(&dev, table.clone(), 5, width).unwrap();
        let out = embedding(&dev, &ids, &weight, true, OpTape::default()).unwrap();
        let rows: Vec<f32> = ids.iter().flat_map(|id| table[*id as usize * width..][..width].to_vec()).collect();
        assert_eq!(act_to_vec::<B, _>(&out), rows);
        let (mut grads, mut want) = (Grads::default(), vec![0.0f64; 5 * width]);
        backward(out, &d, &mut grads);
        for (id, d) in ids.iter().zip(d.chunks(width)) {
            want[*id as usize * width..][..width].iter_mut().zip(d).for_each(|(w, d)| *w += f64::from(*d));
        }
        let got = ParamRef::<B>::Weight(&mut weight).read_grad(&mut grads).unwrap();
        close("d_weight", &got, &want, tolerance::<B>(1e-5));
    }

    #[test]
    fn rows_are_copied_and_gradients_add_up() {
        on_every_device!(check);
        // By vectors, and more of them than one block takes; one id in most of the rows.
        let ids: Vec<u32> = (0..300).map(|i| if i % 7 == 0 { i % 5 } else { 3 }).collect();
        on_every_device!(check_exact, ids, 1536usize, 1u64);
    }

    proptest! {
        #[test]
        fn the_twin_agrees(ids in prop::collection::vec(0u32..5, 1..20), width in 1usize..9, seed: u64) {
            on_every_device!(check_exact, ids, width, seed);
            let dev = Cpu::default();
            let mut weight = weight_from_vec(&dev, numbers(seed, 5 * width), 5, width).unwrap();
            let d = numbers(seed ^ 1, ids.len() * width);
            let mut grads = [Grads::<Cpu>::default(), Grads::default()];
            let ours = embedding(&dev, &ids, &weight, true, OpTape::default()).unwrap();
            let twin = reference::embedding(&ids, weight.retaped::<OpTape<Cpu>>());
            prop_assert_eq!(act_to_vec::<Cpu, _>(&ours), act_to_vec::<Cpu, _>(&twin));
            backward(ours, &d, &mut grads[0]);
            let got = ParamRef::<Cpu>::Weight(&mut weight).read_grad(&mut grads[0]).unwrap();
            // dfdx keys the twin's weight gradient among activations; read it from there before it is dropped.
            let (twin, mut tape) = dfdx::prelude::SplitTape::split_tape(twin);
            tape.record(move |grads| {
                Cpu::default().write_buffer(grads.acts.get_or_alloc_mut(&twin).map_err(OpError::device)?, &d)
            });
            tape.run(&mut grads[1]).unwrap();
            let want = grads[1].acts.get_or_alloc_mut(&weight).unwrap().to_vec();
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() <= 1e-5);
            }
        }
    }
}
