//! Rotary frequencies of a Llama configuration.
//!
//! Unaware of tensors: `anneal-ops` turns frequencies into cosines and sines.
use super::config::{LlamaConfig, RopeScaling};
use std::f32::consts::PI;

/// `theta^(-2i/head_dim)` for i in 0..head_dim/2, rescaled as the configuration asks; f32 like transformers, which
/// computes them in that precision (modeling_rope_utils.py: `_compute_llama3_parameters`).
pub fn inv_freq(config: &LlamaConfig) -> Vec<f32> {
    let plain = (0..config.head_dim / 2).map(|i| {
        let exponent = (2 * i) as f32 / config.head_dim as f32;
        1.0 / (config.rope_theta as f32).powf(exponent)
    });
    match config.rope_scaling {
        RopeScaling::Default => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / factor as f32).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let (factor, low, high, original) = (
                factor as f32,
                low_freq_factor as f32,
                high_freq_factor as f32,
                original_max_position_embeddings as f32,
            );
            plain
                .map(|f| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength > original / low {
                        f / factor
                    } else if wavelength < original / high {
                        f
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                })
                .collect()
        }
    }
}
