//! The slow twin of `embedding`, by dfdx's `gather`. For tests.

use dfdx::prelude::{Cpu, GatherTo, Tape, Tensor, TensorFromVec};

use crate::backend::Act;

/// Rows `ids` of `weight`; the tape is the weight's.
pub fn embedding<T: Tape<f32, Cpu>>(ids: &[u32], weight: Tensor<(usize, usize), f32, Cpu, T>) -> Act<Cpu, T> {
    let dev = Cpu::default();
    let ids: Vec<usize> = ids.iter().map(|id| *id as usize).collect();
    let len = ids.len();
    weight.gather(dev.tensor_from_vec(ids, (len,)))
}
