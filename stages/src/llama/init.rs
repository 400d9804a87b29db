//! Random weights for a Llama of any shape, reproducible from a seed.
//!
//! Unaware of devices and of the tokenizer whose vocabulary the model will have.
use super::config::LlamaConfig;
use crate::random::Stream;

/// Initial values of a tensor: norms are one, biases zero, everything else is normal with the configuration's
/// `initializer_range` (transformers: `LlamaPreTrainedModel._init_weights`). A tensor's values depend on the seed and
/// its name alone.
pub fn initial_values(config: &LlamaConfig, seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let len = shape.iter().product();
    if name.ends_with("norm.weight") {
        return vec![1.0; len];
    }
    if name.ends_with(".bias") {
        return vec![0.0; len];
    }
    let mut stream = Stream::new(seed, name);
    let scale = config.initializer_range as f32;
    (0..len).map(|_| stream.normal() * scale).collect()
}
