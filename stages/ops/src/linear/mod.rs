//! The linear map, with an optional bias and a LoRA branch: `y = x W^T + bias + scaling * (dropout(x) A^T) B^T`.
//!
//! The product BA is never formed (Hu et al., "LoRA", 2021). Backward, with `d` the output's gradient, `x'` the
//! dropped-out input, `u = x' A^T` (saved, `[tokens, r]`) and `e = scaling * d B`:
//! `d_x += d W + dropout(e A)`, `d_A += e^T x'`, `d_B += scaling * d^T u`, and only if trainable `d_W += d^T x`,
//! `d_bias += sum of rows of d`. A frozen weight has no gradient; without a LoRA branch it does not even keep `x`.

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub(crate) mod matvec;
mod products;
pub mod reference;
mod rows;
#[cfg(test)]
mod tests;

pub use rows::linear_rows;
pub(crate) use rows::row_products;

use std::rc::Rc;

use dfdx::prelude::{PutTape, SplitTape};
use dfdx::shapes::HasShape;

use crate::OpError;
use crate::again::{Again, Kept};
use crate::backend::{Act, Backend, Buffer, Matrix, Memory, ParamBuffer, Vector, Weight};
use crate::profile::{node, span};
use crate::tape::Record;

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

/// What a device does for [`linear`].
pub trait LinearKernel: Sized {
    /// `y`, and `u` if there is a LoRA branch.
    fn linear_forward(
        &self,
        x: &Act<Self>,
        args: &Linear<Self>,
        dropout: Option<Dropout>,
    ) -> Result<(Act<Self>, Option<Matrix<Self>>), OpError>
    where
        Self: Memory;
    /// `y` without dropout, each row with the bits that it has alone.
    fn linear_rows(&self, x: &Act<Self>, args: &Linear<Self>) -> Result<Act<Self>, OpError>
    where
        Self: Memory,
    {
        Ok(self.linear_forward(x, args, None)?.0)
    }
    /// `e = scaling * d B`, `[rows, r]`.
    fn linear_branch_gradient(&self, lora: &Lora<Self>, d: &Buffer<Self>, rows: usize) -> Result<Matrix<Self>, OpError>
    where
        Self: Memory;
    /// `d_x += d W`, and `+= dropout(e A)` if there is a branch.
    fn linear_backward(
        &self,
        weight: &Weight<Self>,
        d: &Buffer<Self>,
        branch: Option<(&Lora<Self>, &Matrix<Self>)>,
        dropout: Option<Dropout>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
    /// `d_W += d^T x`.
    fn linear_backward_weight(
        &self,
        x: &Act<Self>,
        d: &Buffer<Self>,
        d_weight: &mut Buffer<Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
    /// `d_bias += sum of the rows of d`, in order.
    fn linear_backward_bias(&self, d: &Buffer<Self>, d_bias: &mut ParamBuffer<Self>) -> Result<(), OpError>
    where
        Self: Memory;
    /// `d_A += e^T x'`.
    fn linear_backward_a(
        &self,
        x: &Act<Self>,
        e: &Matrix<Self>,
        dropout: Option<Dropout>,
        d_a: &mut ParamBuffer<Self>,
    ) -> Result<(), OpError>
    where
        Self: Memory;
    /// `d_B += scaling * d^T u`.
    fn linear_backward_b(
        &self,
        lora: &Lora<Self>,
        u: &Matrix<Self>,
        d: &Buffer<Self>,
        d_b: &mut ParamBuffer<Self>,
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
    linear_again(x, args, dropout_key, None)
}

/// [`linear`] that does not hold `x` for backward but has it made `again` then, with the bits it has now.
///
/// # Errors
/// As [`linear`].
pub fn linear_again<B: Backend, T: Record<B>>(
    x: Act<B, T>,
    args: &Linear<B>,
    dropout_key: Option<u64>,
    again: Option<&Rc<Again<B>>>,
) -> Result<Act<B, T>, OpError> {
    check(x.shape(), args)?;
    let probability = args.lora.as_ref().map_or(0.0, |lora| lora.dropout);
    let dropout = dropout_key.filter(|_| probability > 0.0).map(|key| Dropout { key, probability });
    let (x, mut tape) = x.split_tape();
    let dev = x.device().clone();
    let (out, u) = span(&dev, "linear.forward", || dev.linear_forward(&x, args, dropout))?;
    if !T::RECORDS {
        return Ok(out.put_tape(tape));
    }
    let (args, rows, out_ghost, x_ghost) = (args.clone(), x.shape().0, out.ghost(), x.ghost());
    let saved = (args.trainable || args.lora.is_some()).then(|| Kept::new(x, again));
    tape.record(node(dev.clone(), "linear.backward", move |grads| {
        let d = dev.take(grads.acts.get_or_alloc_mut(&out_ghost).map_err(OpError::device)?)?;
        let saved = saved.as_ref().map(Kept::get).transpose()?;
        let e = args.lora.as_ref().map(|lora| dev.linear_branch_gradient(lora, &d, rows)).transpose()?;
        if let (Some(lora), Some(x), Some(u), Some(e)) = (&args.lora, &saved, &u, &e) {
            let d_a = grads.params.get_or_alloc_mut(&lora.a).map_err(OpError::gradient)?;
            dev.linear_backward_a(x, e, dropout, d_a)?;
            let d_b = grads.params.get_or_alloc_mut(&lora.b).map_err(OpError::gradient)?;
            dev.linear_backward_b(lora, u, &d, d_b)?;
        }
        if let (true, Some(x)) = (args.trainable, &saved) {
            let d_weight = grads.weights.get_or_alloc_mut(&args.weight).map_err(OpError::gradient)?;
            dev.linear_backward_weight(x, &d, d_weight)?;
            if let Some(bias) = &args.bias {
                dev.linear_backward_bias(&d, grads.params.get_or_alloc_mut(bias).map_err(OpError::gradient)?)?;
            }
        }
        let d_x = grads.acts.get_or_alloc_mut(&x_ghost).map_err(OpError::device)?;
        dev.linear_backward(&args.weight, &d, args.lora.as_ref().zip(e.as_ref()), dropout, d_x)
    }));
    Ok(out.put_tape(tape))
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
