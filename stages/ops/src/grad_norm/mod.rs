//! The global L2 norm of gradients, and scaling them. Sums in f64, parameters in the order given.
//!
//! Unaware of names and of what the norm is for (clipping, logging).

mod cpu_kernel;

use crate::OpError;
use crate::backend::{Backend, Buffer, Memory, ParamBuffer};
use crate::param::{ParamRef, slot};
use crate::tape::Grads;

/// What a device does for [`grad_norm`] and [`scale_grads`].
pub trait GradNormKernel: Sized {
    /// Sum of squares of a big weight's gradient, in f64 and in an order that depends on the length only.
    fn square_sum(&self, buffer: &Buffer<Self>) -> Result<f64, OpError>
    where
        Self: Memory;
    /// As `square_sum`, of an f32 gradient.
    fn square_sum_params(&self, buffer: &ParamBuffer<Self>) -> Result<f64, OpError>
    where
        Self: Memory;
    /// Multiplies a gradient by `factor` in place.
    fn scale_buffer(&self, buffer: &mut Buffer<Self>, factor: f32) -> Result<(), OpError>
    where
        Self: Memory;
    /// As `scale_buffer`, of an f32 gradient.
    fn scale_params(&self, buffer: &mut ParamBuffer<Self>, factor: f32) -> Result<(), OpError>
    where
        Self: Memory;
}

/// `sqrt(sum of squares)` over the gradients of all `params`. NaN or infinite if any element is.
///
/// A parameter that no backward reached counts as zero (its gradient is allocated).
pub fn grad_norm<B: Backend>(grads: &mut Grads<B>, params: &[ParamRef<B>]) -> Result<f64, OpError> {
    let mut sum = 0.0;
    for param in params {
        sum += match param {
            ParamRef::Weight(p) => p.device().square_sum(slot(&mut grads.weights, p)?)?,
            ParamRef::Matrix(p) => p.device().square_sum_params(slot(&mut grads.params, p)?)?,
            ParamRef::Vector(p) => p.device().square_sum_params(slot(&mut grads.params, p)?)?,
        };
    }
    Ok(sum.sqrt())
}

/// Multiplies the gradients of all `params` by `factor`. To clip, rather pass `factor` to the optimizer as
/// `grad_scale`, which costs no pass over memory.
pub fn scale_grads<B: Backend>(grads: &mut Grads<B>, params: &[ParamRef<B>], factor: f32) -> Result<(), OpError> {
    for param in params {
        match param {
            ParamRef::Weight(p) => p.device().scale_buffer(slot(&mut grads.weights, p)?, factor)?,
            ParamRef::Matrix(p) => p.device().scale_params(slot(&mut grads.params, p)?, factor)?,
            ParamRef::Vector(p) => p.device().scale_params(slot(&mut grads.params, p)?, factor)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{vector_from_vec, weight_from_vec};
    use dfdx::prelude::Cpu;

    fn check<B: Backend>(dev: B) {
        let mut weight = weight_from_vec(&dev, vec![0.0; 4], 2, 2).unwrap();
        let mut vector = vector_from_vec(&dev, vec![0.0; 100_000]).unwrap();
        let params = [ParamRef::<B>::Weight(&mut weight), ParamRef::Vector(&mut vector)];
        let mut grads = Grads::default();
        assert_eq!(grad_norm(&mut grads, &params).unwrap(), 0.0);
        params[0].write_grad(&mut grads, &[3.0, 0.0, 0.0, -4.0]).unwrap();
        assert_eq!(grad_norm(&mut grads, &params).unwrap(), 5.0);
        params[1].write_grad(&mut grads, &vec![1e-3; 100_000]).unwrap();
        let want = (25.0 + 0.1f64).sqrt();
        assert!((grad_norm(&mut grads, &params).unwrap() - want).abs() < 1e-8);
        scale_grads(&mut grads, &params, 0.5).unwrap();
        assert_eq!(params[0].read_grad(&mut grads).unwrap(), [1.5, 0.0, 0.0, -2.0]);
        params[0].write_grad(&mut grads, &[7e9, 7e9, 7e9, 7e9]).unwrap();
        assert!((grad_norm(&mut grads, &params).unwrap() / 1.4e10 - 1.0).abs() < 1e-6);
        params[0].write_grad(&mut grads, &[f32::NAN, 0.0, 0.0, 0.0]).unwrap();
        assert!(grad_norm(&mut grads, &params).unwrap().is_nan());
    }

    #[test]
    fn the_norm_is_global_and_sees_nan() {
        check(Cpu::default());
    }
}
