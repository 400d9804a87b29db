//! Model FLOPs of a training step, and what a device could do in that time: their ratio is the MFU.
//!
//! A product of a matrix of N numbers with a token's row is 2N FLOPs; backward takes as many for the input's gradient
//! and as many again for the matrix's own. So a token costs 4N where matrices are frozen (LoRA) and 6N where they are
//! trained (FFT). N is the numbers in the linear modules and in the head (its labelled rows only): everything a token
//! is multiplied with, which leaves out the input embedding, norms, biases and LoRA's own A and B. Work that is done
//! again in backward is not counted, nor is what masks hide. Unaware of how time is measured.
use crate::llama::LlamaConfig;
use crate::llama::weights::linear_shapes;

/// FLOPs of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepFlops {
    /// 4 for LoRA, 6 for FFT.
    pub per_parameter: usize,
    /// N: numbers in the linear modules of all layers and in the head.
    pub matrix_parameters: usize,
    /// Those of the matrices: `per_parameter * N` a token, the head's share for labelled rows only.
    pub matrices: f64,
    /// Those of attention's scores and sums over values: forward 4 a pair of tokens and query element, backward twice
    /// that, causal pairs only.
    pub attention: f64,
}

impl StepFlops {
    /// Of `sequences` of `length` tokens, `labelled` of each with a labelled successor.
    pub fn of(config: &LlamaConfig, full: bool, sequences: usize, length: usize, labelled: usize) -> Self {
        let layer: usize = linear_shapes(config).iter().map(|(_, [out, input])| out * input).sum();
        let layers = layer * config.num_hidden_layers;
        let head = config.vocab_size * config.hidden_size;
        let per_parameter = if full { 6 } else { 4 };
        let rows = layers as f64 * length as f64 + head as f64 * labelled as f64;
        let pairs = length as f64 * (length as f64 + 1.0) / 2.0;
        let elements = (config.query_width() * config.num_hidden_layers) as f64;
        Self {
            per_parameter,
            matrix_parameters: layers + head,
            matrices: per_parameter as f64 * rows * sequences as f64,
            attention: 12.0 * pairs * elements * sequences as f64,
        }
    }
}

/// Dense bf16 peaks in TFLOP/s, without sparsity, by the name that the driver gives, less "NVIDIA ". From NVIDIA's data
/// sheets: H100, H200, A100, A40, A30, A10, L40S, L40, L4, RTX A6000, RTX 6000 Ada, and the white papers of the Ada and
/// Ampere GeForce cards (bf16 with f32 accumulation).
const PEAKS: &[(&str, f64)] = &[
    ("H100 80GB HBM3", 989.4),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H200", 989.4),
    ("H200 NVL", 835.0),
    ("GH200 480GB", 989.4),
    ("GH200 120GB", 989.4),
    ("A100-SXM4-40GB", 312.0),
    ("A100-SXM4-80GB", 312.0),
    ("A100-PCIE-40GB", 312.0),
    ("A100 80GB PCIe", 312.0),
    ("A100-SXM-64GB", 312.0),
    ("A40", 149.7),
    ("A30", 165.0),
    ("A10", 125.0),
    ("L40S", 362.1),
    ("L40", 181.0),
    ("L4", 121.0),
    ("RTX A6000", 154.8),
    ("RTX 6000 Ada Generation", 364.2),
    ("GeForce RTX 4090", 165.2),
    ("GeForce RTX 3090", 71.0),
];

/// Dense bf16 peak of a device by its full name, TFLOP/s. A part of a GPU (MIG) has none that is known.
pub fn peak_tflops(name: &str) -> Option<f64> {
    let name = name.strip_prefix("NVIDIA ").unwrap_or(name);
    PEAKS.iter().find(|(known, _)| *known == name).map(|(_, peak)| *peak)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::BenchModel;

    #[test]
    fn llama_3_8b_at_8_x_2048_by_hand() {
        let Ok(BenchModel::Shape(config)) = BenchModel::find("llama-3-8b") else { panic!("a shape") };
        let lora = StepFlops::of(&config, false, 8, 2048, 2048);
        // 8,030,261,248 less the embedding (128256 x 4096) and 65 norms of 4096.
        assert_eq!(lora.matrix_parameters, 8_030_261_248 - 128_256 * 4096 - 65 * 4096);
        assert_eq!(lora.matrices, 4.0 * 7_504_658_432.0 * 16_384.0);
        // 2048 * 2049 / 2 pairs, 32 heads of 128, 32 layers, 12 FLOPs, 8 sequences.
        assert_eq!(lora.attention, 12.0 * 2_098_176.0 * 4096.0 * 32.0 * 8.0);
        let full = StepFlops::of(&config, true, 8, 2048, 2048);
        assert_eq!((full.matrices, full.attention), (1.5 * lora.matrices, lora.attention));
    }

    #[test]
    fn the_head_counts_for_labelled_rows_only() {
        let Ok(BenchModel::Shape(config)) = BenchModel::find("smollm2-135m") else { panic!("a shape") };
        let (all, some) = (StepFlops::of(&config, true, 2, 100, 100), StepFlops::of(&config, true, 2, 100, 10));
        assert_eq!(all.matrices - some.matrices, 6.0 * 2.0 * 90.0 * (49_152.0 * 576.0));
        assert_eq!(all.attention, some.attention);
        // Tied embeddings are a head too.
        assert_eq!(all.matrix_parameters, 134_515_008 - 61 * 576);
    }

    #[test]
    fn peaks_are_known_by_the_drivers_whole_name() {
        assert_eq!(peak_tflops("NVIDIA H100 80GB HBM3"), Some(989.4));
        assert_eq!(peak_tflops("NVIDIA GeForce RTX 3090"), Some(71.0));
        for other in ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "Tesla T4", ""] {
            assert_eq!(peak_tflops(other), None, "{other}");
        }
        let mut names: Vec<_> = PEAKS.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), PEAKS.len());
    }
}
