//! Activation checkpointing: a part of the model that saves only its input and runs again in backward.
//!
//! Unaware of what the part computes.

use dfdx::prelude::{Gradients, PutTape, SplitTape};

use crate::OpError;
use crate::backend::{Act, Backend};
use crate::tape::{OpTape, Record};

/// A part of a model that can run with and without a tape, twice with the same result.
pub trait Recompute<B: Backend> {
    /// Runs on `x`. A dropout key must be the same each time.
    fn run<T: Record<B>>(&self, x: Act<B, T>) -> Result<Act<B, T>, OpError>;
}

/// Runs `part` without a tape and records one node that runs it again with a tape of its own and backward through that.
///
/// Between forward and backward only `x` is held. Gradients are the same as without, bit for bit, because the same
/// kernels run on the same numbers in the same order.
pub fn recompute<B: Backend, T: Record<B>, P: Recompute<B> + 'static>(
    x: Act<B, T>,
    part: P,
) -> Result<Act<B, T>, OpError> {
    let (x, mut tape) = x.split_tape();
    let out = part.run(x.clone())?;
    if T::RECORDS {
        let (dev, out_ghost) = (out.device().clone(), out.ghost());
        tape.record(move |grads| {
            let d_out = dev.take(grads.acts.get_or_alloc_mut(&out_ghost).map_err(OpError::device)?)?;
            let (again, inner) = part.run(x.clone().put_tape(OpTape::default()))?.split_tape();
            let mut outer = std::mem::replace(&mut grads.acts, Gradients::leaky());
            *dev.unwritten(|| grads.acts.get_or_alloc_mut(&again)).0.map_err(OpError::device)? = d_out;
            drop(again);
            // What later ops already gave `x` goes in first, so that the part adds to it as it would have on one tape.
            let (d_x, unwritten) = dev.unwritten(|| outer.get_or_alloc_mut(&x));
            let d_x = dev.take(d_x.map_err(OpError::device)?)?;
            if !unwritten {
                *dev.unwritten(|| grads.acts.get_or_alloc_mut(&x)).0.map_err(OpError::device)? = d_x;
            }
            inner.run(grads)?;
            let d_x = dev.take(grads.acts.get_or_alloc_mut(&x).map_err(OpError::device)?)?;
            *outer.get_or_alloc_mut(&x).map_err(OpError::device)? = d_x;
            grads.acts = outer;
            Ok(())
        });
    }
    Ok(out.put_tape(tape))
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::Cpu;

    use super::*;
    use crate::add::add;
    use crate::host::{act_to_vec, matrix_from_vec, weight_from_vec};
    use crate::linear::{Linear, Lora, linear};
    use crate::param::ParamRef;
    use crate::swiglu::swiglu;
    use crate::tape::Grads;
    use crate::testing::{Leaf, backward, numbers};

    /// `x + swiglu(linear(x), x)`: uses its input three times and a parameter.
    #[derive(Clone)]
    struct Part<B: Backend>(Linear<B>);

    impl<B: Backend> Recompute<B> for Part<B> {
        fn run<T: Record<B>>(&self, x: Act<B, T>) -> Result<Act<B, T>, OpError> {
            let (kept, up) = (x.retaped::<T>(), x.retaped::<T>());
            let gate = linear(x, &self.0, Some(9))?;
            add(kept, swiglu(gate, up)?)
        }
    }

    fn check<B: Backend>(dev: B) {
        let mut part = Part(Linear {
            weight: weight_from_vec(&dev, numbers(1, 16), 4, 4).unwrap(),
            bias: None,
            trainable: true,
            lora: Some(Lora {
                a: matrix_from_vec(&dev, numbers(2, 8), 2, 4).unwrap(),
                b: matrix_from_vec(&dev, numbers(3, 8), 4, 2).unwrap(),
                scaling: 2.0,
                dropout: 0.25,
            }),
        });
        let mut runs = Vec::new();
        for checkpoint in [false, true] {
            let leaf = Leaf::new(&dev, numbers(4, 12), 3, 4);
            let outside = leaf.again();
            let (x, d_x) = leaf.split();
            let inner = if checkpoint { recompute(x, part.clone()) } else { part.run(x) }.unwrap();
            // x is used outside of the part as well.
            let out = add(inner, outside).unwrap();
            let (values, mut grads) = (act_to_vec::<B, _>(&out), Grads::default());
            backward(out, &numbers(5, 12), &mut grads);
            let lora = part.0.lora.as_mut().unwrap();
            let d_a = ParamRef::<B>::Matrix(&mut lora.a).read_grad(&mut grads).unwrap();
            let d_w = ParamRef::<B>::Weight(&mut part.0.weight).read_grad(&mut grads).unwrap();
            runs.push((values, d_x.read(), d_a, d_w));
        }
        assert!(runs[0].2.iter().any(|d| *d != 0.0) && runs[0] == runs[1]);
    }

    #[test]
    fn gradients_have_the_bits_of_a_run_without() {
        check(Cpu::default());
    }
}
