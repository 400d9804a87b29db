//! AdamW, in the arithmetic and order of torch's (Loshchilov and Hutter, "Decoupled weight decay regularization").
//!
//! With g the gradient times `grad_scale`: `p *= 1 - lr * weight_decay`, `m += (1 - beta1) (g - m)`,
//! `v = beta2 v + (1 - beta2) g^2`, `p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`. Factors that do
//! not depend on the element are computed in f64. Everything is overwritten (`=`), in place. Unaware of schedules.

mod cpu_kernel;
pub mod reference;
#[cfg(test)]
mod tests;

use dfdx::shapes::HasShape;
use dfdx::tensor::CopySlice;

use crate::OpError;
use crate::backend::{Backend, Buffer, Matrix, Memory, ParamBuffer, Vector, Weight};
use crate::host::{vector_from_vec, vector_to_vec};
use crate::param::{ParamRef, slot};
use crate::tape::Grads;

/// One step's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwHyper {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay; 0 for norms and biases, by custom.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Multiplies every gradient element: 1, or the clipping factor `min(1, max_norm / (norm + 1e-6))`.
    pub grad_scale: f32,
}

/// [`AdamwHyper`] as the element loop takes it, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwFactors {
    /// `1 - lr * weight_decay`.
    pub keep: f32,
    /// `1 - beta1`.
    pub fresh1: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`.
    pub fresh2: f32,
    /// `lr / (1 - beta1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub correction2: f32,
    /// As in [`AdamwHyper`].
    pub eps: f32,
    /// As in [`AdamwHyper`].
    pub grad_scale: f32,
}

impl AdamwHyper {
    /// The factors of this step.
    pub fn factors(&self) -> AdamwFactors {
        let t = self.step as f64;
        AdamwFactors {
            keep: (1.0 - self.lr * self.weight_decay) as f32,
            fresh1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            fresh2: (1.0 - self.beta2) as f32,
            step_size: (self.lr / (1.0 - self.beta1.powf(t))) as f32,
            correction2: (1.0 - self.beta2.powf(t)).sqrt() as f32,
            eps: self.eps as f32,
            grad_scale: self.grad_scale,
        }
    }
}

/// Moments of one parameter, f32 on its device.
pub struct AdamwState<B: Backend> {
    m: Vector<B>,
    v: Vector<B>,
}

impl<B: Backend> AdamwState<B> {
    /// Zero moments for a parameter of `len` elements.
    pub fn new(dev: &B, len: usize) -> Result<Self, OpError> {
        Ok(Self { m: vector_from_vec(dev, vec![0.0; len])?, v: vector_from_vec(dev, vec![0.0; len])? })
    }

    /// Number of elements of each moment.
    pub fn len(&self) -> usize {
        self.m.shape().0
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both moments `(m, v)`, exactly: what a checkpoint holds.
    pub fn read(&self) -> (Vec<f32>, Vec<f32>) {
        (vector_to_vec::<B>(&self.m), vector_to_vec::<B>(&self.v))
    }

    /// Overwrites both moments with what [`AdamwState::read`] returned.
    pub fn write(&mut self, m: &[f32], v: &[f32]) -> Result<(), OpError> {
        if m.len() != self.len() || v.len() != self.len() {
            return Err(OpError::shape("adamw state", ("m, v", (m.len(), v.len())), ("parameter", [self.len()])));
        }
        <B as CopySlice<f32>>::copy_from(&mut self.m, m);
        <B as CopySlice<f32>>::copy_from(&mut self.v, v);
        Ok(())
    }
}

/// What a device does for [`step`]: all three overwrite parameter and moments.
pub trait AdamwKernel: Sized {
    /// For a big weight.
    fn adamw_weight(
        &self,
        param: &mut Weight<Self>,
        grad: &Buffer<Self>,
        moments: (&mut Vector<Self>, &mut Vector<Self>),
        factors: AdamwFactors,
    ) -> Result<(), OpError>
    where
        Self: Memory;
    /// For an f32 matrix.
    fn adamw_matrix(
        &self,
        param: &mut Matrix<Self>,
        grad: &ParamBuffer<Self>,
        moments: (&mut Vector<Self>, &mut Vector<Self>),
        factors: AdamwFactors,
    ) -> Result<(), OpError>
    where
        Self: Memory;
    /// For an f32 vector.
    fn adamw_vector(
        &self,
        param: &mut Vector<Self>,
        grad: &ParamBuffer<Self>,
        moments: (&mut Vector<Self>, &mut Vector<Self>),
        factors: AdamwFactors,
    ) -> Result<(), OpError>
    where
        Self: Memory;
}

/// One step of `param` along its gradient in `grads` (zeros if no backward reached it). Nothing but `param` and
/// `state` changes. Storage shared with a tape would be copied first: drop the tape before.
///
/// # Errors
/// If the state is another parameter's size or `step` is 0.
pub fn step<B: Backend>(
    param: &mut ParamRef<B>,
    grads: &mut Grads<B>,
    state: &mut AdamwState<B>,
    hyper: &AdamwHyper,
) -> Result<(), OpError> {
    if state.len() != param.len() {
        return Err(OpError::shape("adamw", ("parameter", param.shape()), ("state", [state.len()])));
    }
    if hyper.step == 0 {
        return Err(OpError::argument("adamw", "steps are counted from 1"));
    }
    let (factors, moments) = (hyper.factors(), (&mut state.m, &mut state.v));
    match param {
        ParamRef::Weight(p) => {
            let dev = p.device().clone();
            dev.adamw_weight(p, slot(&mut grads.weights, p)?, moments, factors)
        }
        ParamRef::Matrix(p) => {
            let dev = p.device().clone();
            dev.adamw_matrix(p, slot(&mut grads.params, p)?, moments, factors)
        }
        ParamRef::Vector(p) => {
            let dev = p.device().clone();
            dev.adamw_vector(p, slot(&mut grads.params, p)?, moments, factors)
        }
    }
}
