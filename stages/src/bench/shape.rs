//! The model that is measured: a folder, a GGUF file, or a shape alone, by name or configuration, with random weights.
//!
//! The named shapes are those of the published configurations; no weights are needed to know what a step costs.
//! Unaware of what is measured.
use crate::gguf::{Gguf, is_gguf};
use crate::llama::{LlamaConfig, Model, WeightFiles, WeightSource};
use anneal_engine::Failure;
use anneal_ops::Backend;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Names of the shapes that need no file, with their configurations as transformers writes them.
fn known() -> [(&'static str, Value); 5] {
    let llama =
        |vocab: u32, hidden: u32, inner: u32, layers: u32, heads: u32, groups: u32, positions: u32, theta: f64| {
            json!({
                "model_type": "llama", "hidden_act": "silu", "vocab_size": vocab, "hidden_size": hidden,
                "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
                "num_key_value_heads": groups, "max_position_embeddings": positions, "rms_norm_eps": 1e-5,
                "rope_theta": theta, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
            })
        };
    let mut smollm2 = llama(49152, 576, 1536, 30, 9, 3, 8192, 1e5);
    smollm2["tie_word_embeddings"] = json!(true);
    let mut llama_3_2 = llama(128_256, 2048, 8192, 16, 32, 8, 131_072, 5e5);
    llama_3_2["tie_word_embeddings"] = json!(true);
    llama_3_2["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    [
        ("smollm2-135m", smollm2),
        ("llama-3.2-1b", llama_3_2),
        ("tinyllama-1.1b", llama(32000, 2048, 5632, 22, 32, 4, 2048, 1e4)),
        ("llama-2-7b", llama(32000, 4096, 11008, 32, 32, 32, 4096, 1e4)),
        ("llama-3-8b", llama(128_256, 4096, 14336, 32, 32, 8, 8192, 5e5)),
    ]
}

/// The names that [`BenchModel::find`] knows.
pub fn shape_names() -> Vec<&'static str> {
    known().iter().map(|(name, _)| *name).collect()
}

/// A model to measure.
#[derive(Debug, Clone, PartialEq)]
pub enum BenchModel {
    /// A Hugging Face folder with weights.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A shape; its weights are random.
    Shape(Box<LlamaConfig>),
}

impl BenchModel {
    /// What `text` stands for: the name of a shape, a model's folder, a GGUF file, or a `config.json`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn find(text: &str) -> Result<Self, Failure> {
        if let Some((_, raw)) = known().into_iter().find(|(name, _)| *name == text) {
            let raw = raw.as_object().cloned().unwrap_or_default();
            let config = LlamaConfig::from_json(raw).map_err(|e| Failure::bug(format!("{text}: {}", e.join("; "))))?;
            return Ok(Self::Shape(Box::new(config)));
        }
        let path = Path::new(text);
        match path {
            _ if path.is_dir() => Ok(Self::Folder(path.to_owned())),
            _ if path.is_file() && is_gguf(path) => Ok(Self::Gguf(path.to_owned())),
            _ if path.is_file() => Ok(Self::Shape(Box::new(LlamaConfig::read(path)?))),
            _ => Err(Failure::user(format!("{text}: there is no such model folder, GGUF file or config.json"))
                .hint(format!("shapes known by name are: {}", shape_names().join(", ")))),
        }
    }

    /// Its configuration.
    ///
    /// # Errors
    /// What reading it finds wrong.
    pub fn config(&self) -> Result<LlamaConfig, Failure> {
        match self {
            Self::Folder(dir) => LlamaConfig::read(&dir.join("config.json")),
            Self::Gguf(path) => Ok(Gguf::open(path)?.direct()?.config().clone()),
            Self::Shape(config) => Ok((**config).clone()),
        }
    }

    /// The configuration and the model on `device`; `train_base` makes all its weights trainable.
    ///
    /// # Errors
    /// What reading it finds wrong; no memory.
    pub fn open<B: Backend>(&self, device: B, seed: u64, train_base: bool) -> Result<Model<B>, Failure> {
        match self {
            Self::Folder(dir) => {
                let config = LlamaConfig::read(&dir.join("config.json"))?;
                Model::read(device, &config, &WeightFiles::open(dir)?, train_base)
            }
            Self::Gguf(path) => {
                let file = Gguf::open(path)?;
                let weights = file.direct()?;
                Model::read(device, weights.config(), &weights, train_base)
            }
            Self::Shape(config) => Model::read(device, config, &RandomWeights { seed }, train_base),
        }
    }
}

/// Weights drawn as they are needed: norms are 1, biases 0, everything else uniform with the deviation 0.02.
#[derive(Debug, Clone, Copy)]
struct RandomWeights {
    seed: u64,
}

impl WeightSource for RandomWeights {
    fn check(&self, _: &LlamaConfig) -> Result<(), Failure> {
        Ok(())
    }

    fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Failure> {
        let count = shape.iter().product();
        if name.ends_with(".bias") {
            return Ok(vec![0.0; count]);
        }
        if shape.len() == 1 {
            return Ok(vec![1.0; count]);
        }
        let key = crate::random::Stream::new(self.seed, name).key();
        // Uniform on [-a, a) has the deviation a / sqrt(3). SplitMix64 of the index: eight billion numbers in seconds.
        let draw = |index: usize| {
            let mut z = key.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.02 * 3_f32.sqrt()
        };
        Ok((0..count).into_par_iter().with_min_len(1 << 16).map(draw).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_shapes_have_the_published_numbers_of_parameters() {
        for (name, millions) in [("smollm2-135m", 134.515), ("llama-2-7b", 6738.416), ("llama-3-8b", 8030.261)] {
            let Ok(BenchModel::Shape(config)) = BenchModel::find(name) else { panic!("{name} is a shape") };
            let shapes = crate::llama::weights::tensor_shapes(&config);
            let count: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert!((count as f64 / 1e6 - millions).abs() < 0.001, "{name}: {count}");
        }
        for name in shape_names() {
            assert!(matches!(BenchModel::find(name), Ok(BenchModel::Shape(_))), "{name}");
        }
    }

    #[test]
    fn what_is_no_model_is_told_with_the_known_names() {
        let failure = BenchModel::find("llama-9").unwrap_err();
        assert!(failure.hint.unwrap_or_default().contains("llama-3-8b"));
    }

    #[test]
    fn random_weights_have_the_deviation_of_an_initialised_model_and_differ_by_name() {
        let source = RandomWeights { seed: 3 };
        let a = source.read_f32("model.layers.0.mlp.up_proj.weight", &[64, 64]).unwrap();
        let deviation = (a.iter().map(|v| f64::from(v * v)).sum::<f64>() / a.len() as f64).sqrt();
        assert!((deviation - 0.02).abs() < 0.001, "{deviation}");
        assert_ne!(a, source.read_f32("model.layers.1.mlp.up_proj.weight", &[64, 64]).unwrap());
        assert_eq!(source.read_f32("model.norm.weight", &[2]).unwrap(), [1.0, 1.0]);
    }
}
