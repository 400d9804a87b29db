//! The slow twin of `swiglu`, composed of stock dfdx. For tests.

use dfdx::prelude::{Cpu, Tape, Tensor, WithEmptyTape};

use crate::backend::Act;

/// `gate * sigmoid(gate) * up` by dfdx.
pub fn swiglu<T: Tape<f32, Cpu>>(
    gate: Tensor<(usize, usize), f32, Cpu, T>,
    up: Tensor<(usize, usize), f32, Cpu, T>,
) -> Act<Cpu, T> {
    gate.with_empty_tape() * gate.sigmoid() * up
}
