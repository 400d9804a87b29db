//! Stage `consolidate`: one Hugging Face folder that loads elsewhere, from a base and an adapter, or from a training
//! checkpoint.
//!
//! W + scaling * B A is computed in f32 and then rounded once, a tensor at a time. Unaware of devices.
use crate::artifact::{ADAPTER, CHECKPOINT, MODEL, copy_companions};
use crate::llama::adapter::{Adapter, LoraWeights};
use crate::llama::save::{MAX_SHARD, write_model};
use crate::llama::{LlamaConfig, WeightFiles};
use crate::tensor_file::FloatType;
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
use serde_json::Value;

anneal_engine::choices! {
    /// Dtype of the merged weights.
    pub enum Dtype {
        /// That of the base's config.json.
        Same = "same",
        /// 4 bytes a parameter.
        Float32 = "float32",
        /// 2 bytes a parameter, f32's range.
        Bfloat16 = "bfloat16",
        /// 2 bytes a parameter, a smaller range.
        Float16 = "float16",
    }
}

anneal_engine::params! {
    /// Parameters of `consolidate`.
    pub struct ConsolidateParams {
        /// Dtype of the weights in the folder.
        dtype: Dtype = "same", memory "on disk 4 or 2 bytes a parameter";
        /// Largest weight file before the weights are split.
        max_shard_bytes: usize = 5_000_000_000_u64, in 1_000..=1_000_000_000_000_u64, unit "bytes", memory "one shard is held while it is written";
    }
}

/// The stage kind `consolidate`.
#[derive(Debug)]
pub struct Consolidate;

const PORTS: &[Port] = &[
    Port { name: "model", accepts: &[MODEL, CHECKPOINT], required: true, doc: "the base of the adapter, or a training checkpoint" },
    Port { name: "adapter", accepts: &[ADAPTER], required: false, doc: "merged into the base" },
];

impl Stage for Consolidate {
    fn kind(&self) -> &'static str {
        "consolidate"
    }
    fn summary(&self) -> &'static str {
        "makes one Hugging Face folder of a base and an adapter, or of a training checkpoint"
    }
    /// 1: first.
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        ConsolidateParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, _: &Value) -> &'static str {
        MODEL
    }
    fn isolated(&self) -> bool {
        false
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: ConsolidateParams = context.params()?;
        let base = &context.require("model")?.dir;
        let config = LlamaConfig::read(&base.join("config.json"))?;
        let files = WeightFiles::open(base)?;
        files.check(&config)?;
        let adapter = context.input("adapter").map(|input| Adapter::read(&input.dir, &config)).transpose()?;
        let dtype = match params.dtype {
            Dtype::Same => config.dtype().unwrap_or(FloatType::F32),
            Dtype::Float32 => FloatType::F32,
            Dtype::Bfloat16 => FloatType::Bf16,
            Dtype::Float16 => FloatType::F16,
        };
        let mut merged = 0;
        write_model(context.out, &config, dtype, params.max_shard_bytes.min(MAX_SHARD), |name, shape| {
            let Some(adapter) = &adapter else { return files.read_f32(name, shape) };
            let mut values = match adapter.saved.get(name) {
                Some((values, _)) => values.clone(),
                None => files.read_f32(name, shape)?,
            };
            if let Some(lora) = name.strip_suffix(".weight").and_then(|module| adapter.modules.get(module)) {
                merge(&mut values, lora);
                merged += 1;
            }
            Ok(values)
        })?;
        // A merge that forgets modules gives a model that looks fine and answers worse: count them.
        let expected = adapter.as_ref().map_or(0, |adapter| adapter.modules.len());
        if merged != expected {
            return Err(Failure::bug(format!("merged {merged} of {expected} updates")));
        }
        copy_companions(base, context.out)?;
        context.note(format!("{} tensors as {}, {merged} updates merged", crate::llama::weights::tensor_shapes(&config).len(), dtype.torch_name()));
        Ok(())
    }
}

/// W += scaling * B A, row by row: W is [out, in], B [out, r], A [r, in].
fn merge(weight: &mut [f32], lora: &LoraWeights) {
    use rayon::prelude::*;
    let input = lora.a.len() / lora.rank;
    weight.par_chunks_mut(input).zip(lora.b.par_chunks(lora.rank)).for_each(|(row, b)| {
        let mut update = vec![0.0_f32; input];
        for (b, a) in b.iter().zip(lora.a.chunks(input)) {
            update.iter_mut().zip(a).for_each(|(update, a)| *update += b * a);
        }
        row.iter_mut().zip(update).for_each(|(w, update)| *w += lora.scaling * update);
    });
}
