//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Reads what PEFT 0.21 writes: updates of linear modules, of the head and of the embedding, ranks and alphas by
//! pattern, rsLoRA, whole modules. Unaware of devices and of how an adapter was trained.
mod config;
mod targets;
#[cfg(test)]
mod tests;
mod write;

use super::config::LlamaConfig;
use super::weights::{linear_shapes, parent_of, tensor_shapes};
use crate::random::Stream;
use crate::tensor_file::TensorFile;
use anneal_engine::Failure;
use std::collections::BTreeMap;
use std::path::Path;

pub use config::{AdapterConfig, CONFIG, Patterns};

/// Name of the weight file.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the base model's own names.
const PREFIX: &str = "base_model.model.";
/// The head's module.
const HEAD: &str = "lm_head";
/// The embedding's module.
const EMBEDDING: &str = "model.embed_tokens";

/// The update of one module: W becomes W + scaling * B A, for the embedding's table [vocabulary, hidden] too.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraWeights {
    /// Rows of A, columns of B.
    pub rank: usize,
    /// A, [rank, in].
    pub a: Vec<f32>,
    /// B, [out, rank].
    pub b: Vec<f32>,
    /// alpha / rank, or alpha / sqrt(rank).
    pub scaling: f32,
}

impl LoraWeights {
    /// Adds the update to a weight [out, in], row by row, in f32.
    pub fn merge(&self, weight: &mut [f32]) {
        use rayon::prelude::*;
        let input = self.a.len() / self.rank;
        weight.par_chunks_mut(input).zip(self.b.par_chunks(self.rank)).for_each(|(row, b)| {
            let mut update = vec![0.0_f32; input];
            for (b, a) in b.iter().zip(self.a.chunks(input)) {
                update.iter_mut().zip(a).for_each(|(update, a)| *update += b * a);
            }
            row.iter_mut().zip(update).for_each(|(w, update)| *w += self.scaling * update);
        });
    }
}

/// An adapter: updates by module name such as `model.layers.0.self_attn.q_proj`.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// What the file says.
    pub config: AdapterConfig,
    /// The updates.
    pub modules: BTreeMap<String, LoraWeights>,
    /// Whole tensors that replace the base's, by name (`modules_to_save`): values and shape. Updates come after them.
    pub saved: BTreeMap<String, (Vec<f32>, Vec<usize>)>,
}

impl Adapter {
    /// A fresh adapter: A uniform within 1/sqrt(in) (PEFT's kaiming_uniform with a = sqrt 5), B zero, so that it
    /// changes nothing yet.
    ///
    /// # Errors
    /// A target that no layer has.
    pub fn fresh(config: &LlamaConfig, adapter: AdapterConfig, targets: &[String], seed: u64) -> Result<Self, Failure> {
        let shapes = linear_shapes(config);
        if let Some(unknown) = targets.iter().find(|target| !shapes.iter().any(|(name, _)| name == target)) {
            let known = shapes.map(|(name, _)| name).join(", ");
            return Err(Failure::user(format!("target_modules: a Llama layer has no `{unknown}`"))
                .hint(format!("choose among {known}")));
        }
        let mut modules = BTreeMap::new();
        for layer in 0..config.num_hidden_layers {
            for (module, [out, input]) in shapes.iter().filter(|(name, _)| targets.iter().any(|t| t == name)) {
                let name = format!("model.layers.{layer}.{}.{module}", parent_of(module));
                let rank = adapter.rank(&name)?;
                let mut stream = Stream::new(seed, &format!("lora_A {name}"));
                let bound = 1.0 / (*input as f32).sqrt();
                let a = (0..rank * input).map(|_| (2.0 * stream.uniform() - 1.0) * bound).collect();
                let scaling = adapter.scaling(&name, rank)?;
                modules.insert(name, LoraWeights { rank, a, b: vec![0.0; out * rank], scaling });
            }
        }
        Ok(Self { config: adapter, modules, saved: BTreeMap::new() })
    }

    /// Reads a PEFT folder for a base of this configuration.
    ///
    /// # Errors
    /// A file is missing or damaged, the kind of adapter is not known, or a tensor does not fit the base. A tensor
    /// that would be ignored is an error too: a silently dropped update is worse than none. So is a module that the
    /// configuration names without an update: the adapter belongs to a base with fewer layers.
    pub fn read(dir: &Path, base: &LlamaConfig) -> Result<Self, Failure> {
        let config = AdapterConfig::read(dir)?;
        let file = TensorFile::open(&dir.join(WEIGHTS))?;
        let mut adapter = Self { config, modules: BTreeMap::new(), saved: BTreeMap::new() };
        for name in file.names() {
            adapter.take(&file, &name, base)?;
        }
        if adapter.modules.is_empty() && adapter.saved.is_empty() {
            return Err(Failure::user(format!("{}: holds no tensor", file.path().display()))
                .hint("copy the adapter again from where it came from, or train it anew"));
        }
        targets::check(dir, &adapter, base)?;
        Ok(adapter)
    }

    /// Updates of the head and of the embedding.
    pub fn outside_layers(&self) -> impl Iterator<Item = (&String, &LoraWeights)> {
        self.modules.iter().filter(|(module, _)| !module.starts_with("model.layers."))
    }

    fn take(&mut self, file: &TensorFile, name: &str, base: &LlamaConfig) -> Result<(), Failure> {
        let refuse = |why: &str| Failure::user(format!("{}: tensor `{name}` {why}", file.path().display()));
        let inner = name.strip_prefix(PREFIX).ok_or_else(|| refuse("does not begin with `base_model.model.`"))?;
        for (first, second) in [(".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")] {
            if let Some(module) = inner.strip_suffix(first) {
                let lora = self.update(file, module, name, &format!("{PREFIX}{module}{second}"), base)?;
                self.modules.insert(module.to_owned(), lora);
                return Ok(());
            }
            if let Some(module) = inner.strip_suffix(second) {
                let partner = file.info(&format!("{PREFIX}{module}{first}"));
                return if partner.is_some() { Ok(()) } else { Err(refuse("has no A beside it")) };
            }
        }
        // An embedding with an update is stored with the table that it updates.
        let inner = inner.replace(".base_layer.", ".");
        let shared = [EMBEDDING, HEAD].iter().any(|module| inner.strip_suffix(".weight") == Some(module));
        if base.tie_word_embeddings && shared {
            return Err(tied(&refuse, "replaces the embedding or the head"));
        }
        let (known, shape) = tensor_shapes(base).into_iter().find(|(known, _)| *known == inner).ok_or_else(|| {
            let known = refuse("is neither a LoRA update nor a tensor of the base");
            known.hint("the adapter was made for another base, or is of a kind that has to be merged with PEFT first")
        })?;
        self.saved.insert(known, (file.read_f32(name, &shape)?, shape));
        Ok(())
    }

    /// The update of one module from its two tensors.
    fn update(
        &self,
        file: &TensorFile,
        module: &str,
        first: &str,
        second: &str,
        base: &LlamaConfig,
    ) -> Result<LoraWeights, Failure> {
        let refuse = |why: &str| Failure::user(format!("{}: tensor `{first}` {why}", file.path().display()));
        let (part, [out, input]) = module_shape(base, module).ok_or_else(|| {
            refuse("belongs to no module of the base").hint("the adapter was made for a base of another shape")
        })?;
        if part != Part::Linear && base.tie_word_embeddings {
            return Err(tied(&refuse, "updates the embedding or the head"));
        }
        let stored = file.info(first).map(|info| info.shape.clone()).unwrap_or_default();
        if stored.first().is_none_or(|rows| *rows == 0) {
            return Err(refuse("is empty").hint("a ZeRO-3 checkpoint leaves empty tensors: consolidate it first"));
        }
        let rank = self.config.rank(module)?;
        if stored[0] != rank {
            return Err(refuse(&format!("has rank {}, {CONFIG} says {rank}", stored[0]))
                .hint("the two files belong to different adapters"));
        }
        let scaling = self.config.scaling(module, rank)?;
        let read = |name: &str, shape: [usize; 2]| {
            let other_base = |failure: Failure| match file.info(name) {
                // Here the shape is the base's, not that of a configuration beside the file.
                Some(info) if info.shape != shape => failure.hint("the adapter was made for a base of another shape"),
                _ => failure,
            };
            file.read_f32(name, &shape).map_err(other_base)
        };
        if part == Part::Embedding {
            // PEFT looks columns of A up: the update of the table [vocabulary, hidden] is (B A) transposed.
            let (a, b) = (read(second, [input, rank])?, read(first, [rank, out])?);
            return Ok(LoraWeights { rank, a: transposed(&a, input), b: transposed(&b, rank), scaling });
        }
        Ok(LoraWeights { rank, a: read(first, [rank, input])?, b: read(second, [out, rank])?, scaling })
    }
}

/// The parts of a model that can have an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A linear module of a layer.
    Linear,
    /// The head.
    Head,
    /// The embedding.
    Embedding,
}

/// A tied weight is used at both ends; an adapter of one end alone would have to untie them.
fn tied(refuse: &dyn Fn(&str) -> Failure, does: &str) -> Failure {
    refuse(&format!("{does}, which this base shares between both (tie_word_embeddings); this is not supported"))
        .hint("merge the adapter with PEFT's merge_and_unload and load the merged folder")
}

/// A matrix of `rows` rows, its rows as columns.
fn transposed(matrix: &[f32], rows: usize) -> Vec<f32> {
    let columns = matrix.len() / rows.max(1);
    (0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])).collect()
}

/// Kind and shape [out, in] of a module by its full name, if the base has it.
fn module_shape(config: &LlamaConfig, module: &str) -> Option<(Part, [usize; 2])> {
    let table = [config.vocab_size, config.hidden_size];
    match module {
        HEAD => return Some((Part::Head, table)),
        EMBEDDING => return Some((Part::Embedding, table)),
        _ => {}
    }
    let (layer, rest) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (parent, name) = rest.split_once('.')?;
    let (_, shape) = linear_shapes(config).into_iter().find(|(known, _)| *known == name)?;
    (layer < config.num_hidden_layers && parent == parent_of(name)).then_some((Part::Linear, shape))
}
