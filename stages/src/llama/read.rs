//! One weight from wherever a model's tensors come from to the device: as it is stored where it can, else through f32.
//!
//! Unaware of which weights a model has.
use super::weights::WeightSource;
use crate::failure::OrFail;
use anneal_engine::Failure;
use anneal_ops::{Backend, Weight, weight_from_vec};

/// The weight `name`, `[out, input]`.
///
/// # Errors
/// It is absent, has another shape, or cannot be read; no memory.
pub(super) fn read_weight<B: Backend>(
    device: &B,
    files: &dyn WeightSource,
    name: &str,
    [out, input]: [usize; 2],
) -> Result<Weight<B>, Failure> {
    if let Some(bytes) = files.bf16_bytes(name, &[out, input])
        && let Some(weight) = device.weight_from_bf16(bytes, out, input).or_fail()?
    {
        files.release(name);
        return Ok(weight);
    }
    weight_from_vec(device, files.read_f32(name, &[out, input])?, out, input).or_fail()
}
