//! AdamW, in the arithmetic and order of torch's (Loshchilov and Hutter, "Decoupled weight decay regularization").
//!
//! With g the gradient times `grad_scale`: `p *= 1 - lr * weight_decay`, `m += (1 - beta1) (g - m)`,
//! `v = beta2 v + (1 - beta2) g^2`, `p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`. Factors
//! that do not depend on the element are computed in f64. Everything is overwritten (`=`), in place; the gradient,
//! which is used up, with zeros. All parameters are given at once: a GPU takes those of a kind in one launch. Unaware
//! of schedules.
//!
//! Where big weights are bf16, their moments are f32 and the arithmetic runs on an f32 master of the weight, whose
//! rounded copy the weight is; or, to save memory, moments are bf16 too and there is no master ([`StateDtype`]).

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;
pub mod reference;
#[cfg(test)]
mod tests;

use dfdx::shapes::HasShape;
use dfdx::tensor::ZerosTensor;

use crate::OpError;
use crate::backend::{Backend, Memory, Transfer, Vector, Weight};
use crate::category::Category;
use crate::host::{vector_from_vec, vector_to_vec, weight_to_vec};
use crate::param::ParamRef;
use crate::profile::span;
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
    /// Decoupled weight decay, of the parameters that decay.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Multiplies every gradient element: 1, or the clipping factor `min(1, max_norm / (norm + 1e-6))`.
    pub grad_scale: f32,
}

/// [`AdamwHyper`] as the element loop takes it, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwFactors {
    /// `1 - lr * weight_decay`; 1 without decay.
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
    /// The factors of this step for a parameter that `decays` or does not.
    pub fn factors(&self, decays: bool) -> AdamwFactors {
        let t = self.step as f64;
        AdamwFactors {
            keep: if decays { (1.0 - self.lr * self.weight_decay) as f32 } else { 1.0 },
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

/// How a big weight's moments are stored. Those of f32 parameters are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateDtype {
    /// f32, and where weights are bf16 a master in f32: 12 bytes an element beside weight and gradient.
    #[default]
    F32,
    /// bf16 where weights are bf16 (the CPU's are f32, and so are these moments there), and no master: 4 bytes an
    /// element. Updates below half an ulp of the weight are lost.
    Bf16,
}

/// Both moments. `Short` is in the dtype of big weights, as one row.
enum Moments<B: Memory> {
    F32 { m: Vector<B>, v: Vector<B> },
    Short { m: Weight<B>, v: Weight<B> },
}

/// Moments of one parameter on its device, and its master if it has one.
pub struct AdamwState<B: Memory> {
    moments: Moments<B>,
    /// What the weight is the rounded copy of, where big weights are bf16; made from the weight at the first step.
    master: Option<Vector<B>>,
}

impl<B: Backend> AdamwState<B> {
    /// Zero moments in f32 for a parameter of `len` elements.
    pub fn new(dev: &B, len: usize) -> Result<Self, OpError> {
        let zeros = || ZerosTensor::<f32>::try_zeros_like(dev, &(len,)).map_err(OpError::device);
        Ok(Self { moments: Moments::F32 { m: zeros()?, v: zeros()? }, master: None })
    }

    /// Zero moments for `param`, in `dtype` if it is a big weight.
    pub fn for_param(dev: &B, param: &ParamRef<B>, dtype: StateDtype) -> Result<Self, OpError> {
        if dtype == StateDtype::F32 || !matches!(param, ParamRef::Weight(_)) {
            return Self::new(dev, param.len());
        }
        let zeros = || ZerosTensor::<B::Elem>::try_zeros_like(dev, &(1, param.len())).map_err(OpError::device);
        Ok(Self { moments: Moments::Short { m: zeros()?, v: zeros()? }, master: None })
    }

    /// Number of elements of each moment.
    pub fn len(&self) -> usize {
        match &self.moments {
            Moments::F32 { m, .. } => m.shape().0,
            Moments::Short { m, .. } => m.shape().1,
        }
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both moments `(m, v)`, exactly: what a checkpoint holds, with [`AdamwState::read_master`].
    pub fn read(&self) -> (Vec<f32>, Vec<f32>) {
        match &self.moments {
            Moments::F32 { m, v } => (vector_to_vec::<B>(m), vector_to_vec::<B>(v)),
            Moments::Short { m, v } => (weight_to_vec::<B>(m), weight_to_vec::<B>(v)),
        }
    }

    /// The f32 master of the parameter, if it has one. A checkpoint without it resumes from the rounded weight, which
    /// is another run.
    pub fn read_master(&self) -> Option<Vec<f32>> {
        self.master.as_ref().map(vector_to_vec::<B>)
    }

    /// Whether the parameter has an f32 master: it is known more exactly than it is stored.
    pub fn has_master(&self) -> bool {
        self.master.is_some()
    }

    /// Sets the master to what [`AdamwState::read_master`] returned. The parameter itself is the caller's to write.
    pub fn write_master(&mut self, dev: &B, master: &[f32]) -> Result<(), OpError> {
        if master.len() != self.len() {
            return Err(OpError::shape("adamw state", ("master", [master.len()]), ("parameter", [self.len()])));
        }
        self.master = Some(vector_from_vec(dev, master.to_vec())?);
        Ok(())
    }

    /// Overwrites both moments with what [`AdamwState::read`] returned.
    pub fn write(&mut self, m: &[f32], v: &[f32]) -> Result<(), OpError> {
        if m.len() != self.len() || v.len() != self.len() {
            return Err(OpError::shape("adamw state", ("m, v", (m.len(), v.len())), ("parameter", [self.len()])));
        }
        match &mut self.moments {
            Moments::F32 { m: to_m, v: to_v } => {
                let dev = to_m.device().clone();
                Transfer::<f32>::tensor_write(&dev, to_m, m)?;
                Transfer::<f32>::tensor_write(&dev, to_v, v)
            }
            Moments::Short { m: to_m, v: to_v } => {
                let dev = to_m.device().clone();
                Transfer::<B::Elem>::tensor_write(&dev, to_m, &B::elems_from_f32(m.to_vec()))?;
                Transfer::<B::Elem>::tensor_write(&dev, to_v, &B::elems_from_f32(v.to_vec()))
            }
        }
    }
}

/// A parameter and what a step of it needs besides its gradient.
pub struct AdamwPart<'a, B: Backend> {
    /// To be updated.
    pub param: ParamRef<'a, B>,
    /// Its moments and master.
    pub state: &'a mut AdamwState<B>,
    /// Whether [`AdamwHyper::weight_decay`] is for it: not for norms and biases, by custom.
    pub decays: bool,
}

impl<B: Backend> AdamwPart<'_, B> {
    fn check(&self) -> Result<(), OpError> {
        if self.state.len() != self.param.len() {
            return Err(OpError::shape("adamw", ("parameter", self.param.shape()), ("state", [self.state.len()])));
        }
        let short = matches!(self.state.moments, Moments::Short { .. });
        if short && !matches!(self.param, ParamRef::Weight(_)) {
            return Err(OpError::argument("adamw", "the state of a big weight came with an f32 parameter"));
        }
        Ok(())
    }
}

/// What a device does for [`step`].
pub trait AdamwKernel: Sized {
    /// Overwrites parameters, moments and masters, and the gradients with zeros. A big weight's master, if weights are
    /// shorter than f32 and its moments are not, is made where there is none yet. Parts are checked.
    fn adamw(
        &self,
        parts: &mut [AdamwPart<'_, Self>],
        grads: &mut Grads<Self>,
        hyper: &AdamwHyper,
    ) -> Result<(), OpError>
    where
        Self: Backend;
}

/// One step of all `parts` along their gradients in `grads` (zeros where no backward reached), which are zeros
/// afterwards. Nothing else changes. What a parameter becomes does not depend on the others. Storage shared with a tape
/// would be copied first (on CUDA: changed too): drop the tape before.
///
/// # Errors
/// If a state is another parameter's, `step` is 0 or, on CUDA, a parameter is there twice (a tensor and its clone):
/// then no parameter has changed. Lack of memory, or the device failed.
pub fn step<B: Backend>(
    parts: &mut [AdamwPart<'_, B>],
    grads: &mut Grads<B>,
    hyper: &AdamwHyper,
) -> Result<(), OpError> {
    if hyper.step == 0 {
        return Err(OpError::argument("adamw", "steps are counted from 1"));
    }
    parts.iter().try_for_each(AdamwPart::check)?;
    let Some(first) = parts.first() else { return Ok(()) };
    let dev = first.param.device();
    span(&dev, "adamw", || dev.adamw(parts, grads, hyper).map_err(|error| error.lacking(Category::Optimizer)))
}
