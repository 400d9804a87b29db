//! The global L2 norm of gradients, and scaling them. Sums in f64, parameters in the order given; a GPU sums all of
//! them in one launch.
//!
//! Unaware of names and of what the norm is for (clipping, logging).

mod cpu_kernel;
#[cfg(feature = "cuda")]
mod cuda_kernel;

use crate::OpError;
use crate::backend::{Backend, Buffer, Memory, ParamBuffer};
use crate::param::{Gradient, ParamRef};
use crate::profile::span;
use crate::tape::Grads;

/// What a device does for [`grad_norm`] and [`scale_grads`].
pub trait GradNormKernel: Sized {
    /// The sum of squares over the gradients of `params`, in f64: of each in an order that depends on its length only,
    /// then of all in the order given.
    fn square_sum(&self, grads: &mut Grads<Self>, params: &[ParamRef<Self>]) -> Result<f64, OpError>
    where
        Self: Backend;
    /// Multiplies a big weight's gradient by `factor` in place.
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
///
/// # Errors
/// Lack of memory, or the device failed.
pub fn grad_norm<B: Backend>(grads: &mut Grads<B>, params: &[ParamRef<B>]) -> Result<f64, OpError> {
    let Some(first) = params.first() else { return Ok(0.0) };
    let dev = first.device();
    span(&dev, "grad_norm", || Ok(dev.square_sum(grads, params)?.sqrt()))
}

/// Multiplies the gradients of all `params` by `factor`. To clip, rather pass `factor` to the optimizer as
/// `grad_scale`, which costs no pass over memory.
pub fn scale_grads<B: Backend>(grads: &mut Grads<B>, params: &[ParamRef<B>], factor: f32) -> Result<(), OpError> {
    for param in params {
        match param.gradient(grads)? {
            Gradient::Elems(d) => param.device().scale_buffer(d, factor)?,
            Gradient::Floats(d) => param.device().scale_params(d, factor)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{vector_from_vec, weight_from_vec};
    use crate::testing::{Owned, group, inputs, on_every_device, stored, wide};

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

    fn check_groups<B: Backend>(dev: B) {
        let (mut owned, mut grads) = (group(&dev), Grads::default());
        let params: Vec<ParamRef<B>> = owned.iter_mut().map(Owned::param).collect();
        let mut want = 0.0;
        for (i, param) in params.iter().enumerate().skip(1) {
            let values = inputs::<B>(i as u64, param.len());
            want += wide(&values).iter().map(|x| x * x).sum::<f64>();
            param.write_grad(&mut grads, &values).unwrap();
        }
        let all = dev.square_sum(&mut grads, &params).unwrap();
        assert!((all / want - 1.0).abs() < 1e-12, "{all} {want}");
        assert_eq!(dev.square_sum(&mut grads, &params).unwrap().to_bits(), all.to_bits(), "the same bits again");
        let alone = params.chunks(1).map(|param| dev.square_sum(&mut grads, param).unwrap());
        assert_eq!(alone.sum::<f64>().to_bits(), all.to_bits(), "those of one parameter after the other");
    }

    #[test]
    fn a_group_has_the_bits_of_one_parameter_after_the_other() {
        on_every_device!(check_groups);
    }

    #[test]
    fn the_norm_is_global_and_sees_nan() {
        on_every_device!(check);
        on_every_device!(check_long);
    }
}
