//! The linear map, with an optional bias and a LoRA branch: `y = x W^T + bias + scaling * (dropout(x) A^T) B^T`.
//!
//! The product BA is never formed (Hu et al., "LoRA", 2021). Backward, with `d` the output's gradient, `x'` the
//! dropped-out input, `u = x' A^T` (saved, `[tokens, r]`) and `e = scaling * d B`:
//! `d_x += d W + dropout(e A)`, `d_A += e^T x'`, `d_B += scaling * d^T u`, and only if trainable `d_W += d^T x`,
//! `d_bias += sum of rows of d`. A frozen weight has no gradient; without a LoRA branch it does not even keep `x`.
//!
//! Modules of one input (q, k and v; gate and up) are one node, and a residual is added by the product itself: on a GPU
//! the first reads the input once for all A, and the second needs no pass of its own, forward or backward.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_branch;
#[cfg(feature = "cuda")]
pub(crate) mod cuda_few;
#[cfg(feature = "cuda")]
mod cuda_kernel;
mod few;
pub(crate) mod matvec;
mod products;
pub mod reference;
mod rows;
#[cfg(test)]
mod tests;

pub use few::{linear_few, linear_few_gated};
pub use rows::linear_rows;
pub(crate) use rows::row_products;

use std::rc::Rc;

use dfdx::prelude::{Gradients, PutTape, SplitTape};
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::add::put;
use crate::again::{Again, Kept};
use crate::backend::{Act, Backend, Buffer, Matrix, Memory, Vector, Weight};
use crate::profile::{node, span};
use crate::tape::{Grads, Record};

/// A linear layer's tensors and which of them learn.
#[derive(Debug)]
pub struct Linear<B: Memory> {
    /// W `[out, in]`.
    pub weight: Weight<B>,
    /// `[out]`.
    pub bias: Option<Vector<B>>,
    /// Whether weight and bias get gradients. A LoRA branch always does.
    pub trainable: bool,
    /// The low-rank branch.
    pub lora: Option<Lora<B>>,
}

impl<B: Memory> Clone for Linear<B> {
    fn clone(&self) -> Self {
        Self {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            trainable: self.trainable,
            lora: self.lora.clone(),
        }
    }
}

/// A low-rank branch.
#[derive(Debug)]
pub struct Lora<B: Memory> {
    /// A `[r, in]`.
    pub a: Matrix<B>,
    /// B `[out, r]`.
    pub b: Matrix<B>,
    /// Factor of the branch: alpha / r, or alpha / sqrt(r) with rsLoRA.
    pub scaling: f32,
    /// Probability of dropping an element of the branch's input, in `[0, 1)`.
    pub dropout: f32,
}

impl<B: Memory> Clone for Lora<B> {
    fn clone(&self) -> Self {
        Self { a: self.a.clone(), b: self.b.clone(), scaling: self.scaling, dropout: self.dropout }
    }
}

/// Dropout of one call: element `i` of the input is dropped if the hash of `(key, i)` falls below `probability`, and
/// kept elements grow by `1 / (1 - probability)`. No mask is stored: forward and backward compute it alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Distinguishes calls: a hash of seed, step, layer and module.
    pub key: u64,
    /// In `(0, 1)`.
    pub probability: f32,
}

/// Modules of one input, as one node of the tape has them.
pub struct Group<B: Memory> {
    /// At least one; all have the input's width.
    pub modules: Vec<Linear<B>>,
    /// Of each module's branch.
    pub dropout: Vec<Option<Dropout>>,
}

/// Where a group's backward adds its gradients.
pub struct Slots<'a, B: Memory> {
    /// Of weights that are trained.
    pub weights: &'a mut Gradients<B::Elem, B>,
    /// Of A, B and biases.
    pub params: &'a mut Gradients<f32, B>,
    /// The input's.
    pub input: &'a mut Buffer<B>,
    /// The input's holds anything so far: to be overwritten.
    pub input_unwritten: bool,
}

/// What a device does for [`linear`] and its kin.
pub trait LinearKernel: Sized {
    /// What forward leaves of a group's LoRA branches for backward.
    type Branches: 'static;
    /// Each module's output; `onto`, of the shape of each, is added to them.
    fn linear_forward(
        &self,
        x: &Act<Self>,
        group: &Group<Self>,
        onto: Option<&Act<Self>>,
    ) -> Result<(Vec<Act<Self>>, Self::Branches), OpError>
    where
        Self: Memory;
    /// As [`LinearKernel::linear_forward`] without dropout, each row with the bits that it has alone.
    fn linear_rows(
        &self,
        x: &Act<Self>,
        group: &Group<Self>,
        onto: Option<&Act<Self>>,
    ) -> Result<Vec<Act<Self>>, OpError>
    where
        Self: Memory,
    {
        Ok(self.linear_forward(x, group, onto)?.0)
    }
    /// As [`LinearKernel::linear_rows`] within rounding, for few rows.
    fn linear_few(
        &self,
        x: &Act<Self>,
        group: &Group<Self>,
        onto: Option<&Act<Self>>,
    ) -> Result<Vec<Act<Self>>, OpError>
    where
        Self: Memory,
    {
        self.linear_rows(x, group, onto)
    }
    /// `silu(gate) * up` of a group of these two in one go, for few rows; `None` where the device has no way of its own.
    fn linear_few_gated(&self, x: &Act<Self>, group: &Group<Self>) -> Result<Option<Act<Self>>, OpError>
    where
        Self: Memory,
    {
        let _ = (x, group);
        Ok(None)
    }
    /// Adds to the gradients of whatever learns and of the input. `x` is there if a module learns or has a branch; `d`
    /// holds the gradient of each output.
    fn linear_backward(
        &self,
        x: Option<&Act<Self>>,
        group: &Group<Self>,
        branches: &Self::Branches,
        d: &[Buffer<Self>],
        slots: Slots<'_, Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
}

/// `x W^T + bias + scaling * (dropout(x) A^T) B^T` for `x [tokens, in]`; the result is `[tokens, out]`.
///
/// `dropout_key` names this call's mask; `None` turns dropout off (evaluation). The mask depends on the key and the
/// element's index only, so it is the same on any number of threads and when the call is repeated in backward.
///
/// # Errors
/// If shapes do not fit or the dropout probability is outside `[0, 1)`.
pub fn linear<B: Backend, T: Record<B>>(
    x: Act<B, T>,
    args: &Linear<B>,
    dropout_key: Option<u64>,
) -> Result<Act<B, T>, OpError> {
    let [out] = run(x, [(args, dropout_key)], None, None)?;
    Ok(out)
}

/// [`linear`] for several modules of one input, which is read once for all their A. With `again`, `x` is not held for
/// backward but made again then, with the bits it has now.
///
/// The first output carries the tape of `x`; every output must take part in what backward starts from.
///
/// # Errors
/// As [`linear`].
pub fn linear_group<B: Backend, T: Record<B>, const N: usize>(
    x: Act<B, T>,
    modules: [(&Linear<B>, Option<u64>); N],
    again: Option<&Rc<Again<B>>>,
) -> Result<[Act<B, T>; N], OpError> {
    run(x, modules, None, again)
}

/// `residual` + [`linear`], the addition done by the product. `again` as in [`linear_group`].
///
/// # Errors
/// As [`linear`], and if the residual has not the output's shape.
pub fn linear_onto<B: Backend, T: Record<B>>(
    x: Act<B, T>,
    residual: Act<B>,
    args: &Linear<B>,
    dropout_key: Option<u64>,
    again: Option<&Rc<Again<B>>>,
) -> Result<Act<B, T>, OpError> {
    let out = (x.shape().0, args.weight.shape().0);
    if *residual.shape() != out {
        return Err(OpError::shape("linear", ("residual", residual.shape()), ("output", out)));
    }
    let [out] = run(x, [(args, dropout_key)], Some(residual), again)?;
    Ok(out)
}

fn run<B: Backend, T: Record<B>, const N: usize>(
    x: Act<B, T>,
    modules: [(&Linear<B>, Option<u64>); N],
    onto: Option<Act<B>>,
    again: Option<&Rc<Again<B>>>,
) -> Result<[Act<B, T>; N], OpError> {
    for (args, _) in modules {
        check(x.shape(), args)?;
    }
    let mask = |(args, key): (&Linear<B>, Option<u64>)| {
        let probability = args.lora.as_ref().map_or(0.0, |lora| lora.dropout);
        key.filter(|_| probability > 0.0).map(|key| Dropout { key, probability })
    };
    let group = Group { modules: modules.map(|(args, _)| args.clone()).into(), dropout: modules.map(mask).into() };
    let (x, mut tape) = x.split_tape();
    let dev = x.device().clone();
    let (outs, branches) = span(&dev, "linear.forward", || dev.linear_forward(&x, &group, onto.as_ref()))?;
    if T::RECORDS {
        let ghosts: Vec<_> = outs.iter().map(|out| out.ghost()).collect();
        let (x_ghost, onto_ghost) = (x.ghost(), onto.as_ref().map(|onto| onto.ghost()));
        let learns = group.modules.iter().any(|args| args.trainable || args.lora.is_some());
        let saved = learns.then(|| Kept::new(x, again));
        tape.record(node(dev.clone(), "linear.backward", move |grads| {
            let mut d = Vec::with_capacity(N);
            for ghost in &ghosts {
                d.push(dev.take(grads.acts.get_or_alloc_mut(ghost).map_err(OpError::device)?)?);
            }
            let saved = saved.as_ref().map(Kept::get).transpose()?;
            let Grads { acts, weights, params } = &mut *grads;
            let (input, input_unwritten) = dev.unwritten(|| acts.get_or_alloc_mut(&x_ghost));
            let slots = Slots { weights, params, input: input.map_err(OpError::device)?, input_unwritten };
            dev.linear_backward(saved.as_ref(), &group, &branches, &d, slots)?;
            if let (Some(ghost), Some(d)) = (&onto_ghost, d.pop()) {
                let (slot, unwritten) = dev.unwritten(|| acts.get_or_alloc_mut(ghost));
                put(&dev, slot.map_err(OpError::device)?, unwritten, d)?;
            }
            Ok(())
        }));
    }
    // The group has a module for each of the N outputs.
    let mut outs = outs.into_iter();
    let mut tape = Some(tape);
    let mut next = || {
        let out = outs.next().ok_or_else(|| OpError::argument("linear", "the device left out an output"))?;
        Ok(out.put_tape(tape.take().unwrap_or_default()))
    };
    let mut all = Vec::with_capacity(N);
    for _ in 0..N {
        all.push(next()?);
    }
    all.try_into().map_err(|_| OpError::argument("linear", "the device left out an output"))
}

fn check<B: Backend>(x: &(usize, usize), args: &Linear<B>) -> Result<(), OpError> {
    let weight = args.weight.shape();
    if x.1 != weight.1 {
        return Err(OpError::shape("linear", ("x", x), ("weight", weight)));
    }
    if let Some(bias) = args.bias.as_ref().filter(|bias| bias.shape().0 != weight.0) {
        return Err(OpError::shape("linear", ("bias", bias.shape()), ("weight", weight)));
    }
    if let Some(lora) = &args.lora {
        let (a, b) = (lora.a.shape(), lora.b.shape());
        if a.1 != weight.1 {
            return Err(OpError::shape("linear", ("lora A", a), ("weight", weight)));
        }
        if b.0 != weight.0 {
            return Err(OpError::shape("linear", ("lora B", b), ("weight", weight)));
        }
        if a.0 != b.1 {
            return Err(OpError::shape("linear", ("lora A", a), ("lora B", b)));
        }
        if !(0.0..1.0).contains(&lora.dropout) {
            return Err(OpError::argument("linear", format!("dropout {} is not in [0, 1)", lora.dropout)));
        }
    }
    Ok(())
}
