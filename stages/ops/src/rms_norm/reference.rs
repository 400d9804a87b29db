//! The slow twin of `rms_norm`, composed of stock dfdx. For tests.

use dfdx::prelude::{Axis, BroadcastTo, Cpu, HasShape, MeanTo, Tape, Tensor, WithEmptyTape};

use crate::backend::Act;

/// `x / sqrt(mean(x^2) + eps) * weight` by dfdx.
pub fn rms_norm<T: Tape<f32, Cpu>>(
    x: Tensor<(usize, usize), f32, Cpu, T>,
    weight: Tensor<(usize,), f32, Cpu, T>,
    eps: f32,
) -> Act<Cpu, T> {
    let shape = *x.shape();
    let r = (x.with_empty_tape().square().mean::<(usize,), Axis<1>>() + eps).sqrt();
    x / r.broadcast_like::<_, Axis<1>>(&shape) * weight.broadcast_like::<_, Axis<0>>(&shape)
}
