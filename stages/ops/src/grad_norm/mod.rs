//! The global L2 norm of gradients, and scaling them. Sums in f64, parameters in the order given.
//!
//! Unaware of names and of what the norm is for (clipping, logging).

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use crate::OpError;
use crate::backend::{Backend, Buffer, Memory, ParamBuffer};
use crate::param::{ParamRef, slot};
use crate::profile::span;
use crate::tape::Grads;

/// What a device does for [`grad_norm`] and [`scale_grads`].
pub trait GradNormKernel: Sized {
    /// Sums of squares under way: the host need not wait for each.
    type SquareSums;
    /// None yet, of at most `tensors` tensors.
    fn square_sums(&self, tensors: usize) -> Result<Self::SquareSums, OpError>;
    /// Adds the squares of a big weight's gradient, in f64 and in an order that depends on the length only.
    fn add_squares(&self, sums: &mut Self::SquareSums, buffer: &Buffer<Self>) -> Result<(), OpError>
    where
        Self: Memory;
    /// As `add_squares`, of an f32 gradient.
    fn add_squares_params(&self, sums: &mut Self::SquareSums, buffer: &ParamBuffer<Self>) -> Result<(), OpError>
    where
        Self: Memory;
    /// The sum of all, tensors in the order in which they were added.
    fn finish_squares(&self, sums: Self::SquareSums) -> Result<f64, OpError>;
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
    let Some(first) = params.first() else { return Ok(0.0) };
    let dev = first.device();
    span(&dev, "grad_norm", || {
        let mut sums = dev.square_sums(params.len())?;
        for param in params {
            match param {
                ParamRef::Weight(p) => dev.add_squares(&mut sums, slot(&mut grads.weights, p)?)?,
                ParamRef::Matrix(p) => dev.add_squares_params(&mut sums, slot(&mut grads.params, p)?)?,
                ParamRef::Vector(p) => dev.add_squares_params(&mut sums, slot(&mut grads.params, p)?)?,
            }
        }
        Ok(dev.finish_squares(sums)?.sqrt())
    })
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
    use crate::testing::{on_every_device, stored};

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
        let big = stored::<B>(vec![7e9])[0];
        params[0].write_grad(&mut grads, &[big; 4]).unwrap();
        assert!((grad_norm(&mut grads, &params).unwrap() / (2.0 * f64::from(big)) - 1.0).abs() < 1e-6);
        params[0].write_grad(&mut grads, &[f32::NAN, 0.0, 0.0, 0.0]).unwrap();
        assert!(grad_norm(&mut grads, &params).unwrap().is_nan());
        assert_eq!(grad_norm::<B>(&mut grads, &[]).unwrap(), 0.0);
    }

    /// Longer than all the partial sums a device makes at once, with a rest; the same bits again.
    fn check_long<B: Backend>(dev: B) {
        let len = 17_000_003;
        let mut vector = vector_from_vec(&dev, vec![0.0; len]).unwrap();
        let (params, mut grads) = ([ParamRef::<B>::Vector(&mut vector)], Grads::default());
        let values: Vec<f32> = (0..len).map(|i| if i + 1 == len { 3.0 } else { 1e-3 * (i % 3) as f32 }).collect();
        params[0].write_grad(&mut grads, &values).unwrap();
        let want = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        let got = grad_norm(&mut grads, &params).unwrap();
        // The want itself is a plain sum of millions.
        assert!((got / want - 1.0).abs() < 1e-10, "{got} {want}");
        assert_eq!(grad_norm(&mut grads, &params).unwrap(), got);
    }

    #[test]
    fn the_norm_is_global_and_sees_nan() {
        on_every_device!(check);
        on_every_device!(check_long);
    }
}
