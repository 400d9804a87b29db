//! Stage `consolidate`: one Hugging Face folder that loads elsewhere, from a base and an adapter, or from a training
//! checkpoint.
//!
//! W + scaling * B A is computed in f32 and then rounded once, a tensor at a time. Unaware of devices.
use crate::artifact::{ADAPTER, CHECKPOINT, MODEL, copy_companions};
use crate::llama::adapter::Adapter;
use crate::llama::save::{write_config, write_weights};
use crate::llama::weights::tensor_shapes;
use crate::llama::{LlamaConfig, WeightFiles, WeightSource};
use crate::tensor_file::{FloatType, OutTensor};
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
use serde_json::Value;

anneal_engine::choices! {
    /// Dtype of the merged weights.
    pub enum Dtype {
        /// That of each of the base's tensors; what an adapter does not change keeps its very bytes.
        Same = "same",
        /// 4 bytes a parameter.
        Float32 = "float32",
        /// 2 bytes a parameter, f32's range.
        Bfloat16 = "bfloat16",
        /// 2 bytes a parameter, a smaller range.
        Float16 = "float16",
    }
}

impl Dtype {
    /// The one dtype of all tensors; `None` for each its own.
    fn float_type(self) -> Option<FloatType> {
        match self {
            Self::Same => None,
            Self::Float32 => Some(FloatType::F32),
            Self::Bfloat16 => Some(FloatType::Bf16),
            Self::Float16 => Some(FloatType::F16),
        }
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
    Port {
        name: "model",
        accepts: &[MODEL, CHECKPOINT],
        required: true,
        doc: "the base of the adapter, or a training checkpoint",
    },
    Port { name: "adapter", accepts: &[ADAPTER], required: false, doc: "merged into the base" },
];

impl Stage for Consolidate {
    fn kind(&self) -> &'static str {
        "consolidate"
    }
    fn summary(&self) -> &'static str {
        "makes one Hugging Face folder of a base and an adapter, or of a training checkpoint"
    }
    /// 1: first. 2: `same` is each tensor's own dtype, not that of config.json; shards may be larger than 5 GB.
    fn version(&self) -> u32 {
        2
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
        let dtype = params.dtype.float_type();
        let mut merged = 0;
        let tensor = |name: &str, shape: &[usize]| {
            let saved = adapter.as_ref().and_then(|adapter| adapter.saved.get(name));
            let update = adapter.as_ref().and_then(|adapter| adapter.modules.get(name.strip_suffix(".weight")?));
            let (stored, bytes) = files.stored(name)?;
            let target = match dtype {
                Some(dtype) => dtype,
                // What nothing changes keeps its very bytes.
                None if saved.is_none() && update.is_none() => {
                    return Ok(OutTensor::raw(stored, shape, bytes.to_vec()));
                }
                None => FloatType::of(stored).unwrap_or(FloatType::F32),
            };
            let mut values = saved.map_or_else(|| files.read_f32(name, shape), |(values, _)| Ok(values.clone()))?;
            if let Some(update) = update {
                update.merge(&mut values);
                merged += 1;
            }
            Ok(OutTensor::floats(&values, shape, target))
        };
        let size = |name: &str, shape: &[usize]| match dtype {
            Some(dtype) => dtype.size() * shape.iter().product::<usize>(),
            None => files.stored(name).map_or(0, |(_, bytes)| bytes.len()),
        };
        write_config(context.out, &config, dtype)?;
        write_weights(context.out, &config, params.max_shard_bytes, size, tensor)?;
        // A merge that forgets modules gives a model that looks fine and answers worse: count them.
        let expected = adapter.as_ref().map_or(0, |adapter| adapter.modules.len());
        if merged != expected {
            return Err(Failure::bug(format!("merged {merged} of {expected} updates")));
        }
        copy_companions(base, context.out)?;
        let left = files.surplus(&config);
        if !left.is_empty() {
            context.note(format!("left out, no part of this model: {}", left.join(", ")));
        }
        let as_dtype = dtype.map_or("in their own dtype".to_owned(), |dtype| format!("as {}", dtype.torch_name()));
        context.note(format!("{} tensors {as_dtype}, {merged} updates merged", tensor_shapes(&config).len()));
        Ok(())
    }
}
