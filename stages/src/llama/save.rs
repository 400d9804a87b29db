//! Writes a Hugging Face model folder: weights in shards, their index, and `config.json` with the dtype they have.
//!
//! Unaware of devices; tensors come from a callback, one at a time, so that no second copy of a model is held.
use super::config::LlamaConfig;
use super::weights::{INDEX, SINGLE, tensor_shapes};
use crate::tensor_file::{self, FloatType, OutTensor};
use anneal_engine::Failure;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest shard, bytes: transformers' default of 5 GB.
pub const MAX_SHARD: usize = 5_000_000_000;

/// Writes `config.json` and the weights, all as `dtype`; `read` gives a tensor's values by its checkpoint name.
///
/// # Errors
/// A tensor cannot be read, or a file cannot be written.
pub fn write_model(
    dir: &Path,
    config: &LlamaConfig,
    dtype: FloatType,
    max_shard: usize,
    mut read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Failure>,
) -> Result<(), Failure> {
    write_config(dir, config, Some(dtype))?;
    let size = |_: &str, shape: &[usize]| shape.iter().product::<usize>() * dtype.size();
    write_weights(dir, config, max_shard, size, |name, shape| Ok(OutTensor::floats(&read(name, shape)?, shape, dtype)))
}

/// Writes the weights, each tensor as it comes; `size` says beforehand how many bytes it will have.
///
/// # Errors
/// A tensor cannot be read, or a file cannot be written.
pub fn write_weights(
    dir: &Path,
    config: &LlamaConfig,
    max_shard: usize,
    size: impl Fn(&str, &[usize]) -> usize,
    mut read: impl FnMut(&str, &[usize]) -> Result<OutTensor, Failure>,
) -> Result<(), Failure> {
    let mut shards: Vec<Vec<(String, Vec<usize>)>> = vec![Vec::new()];
    let mut filled = 0;
    for (name, shape) in tensor_shapes(config) {
        let bytes = size(&name, &shape);
        if filled > 0 && filled + bytes > max_shard {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push((name, shape));
        }
    }
    let count = shards.len();
    let mut index = BTreeMap::new();
    let (mut total_size, mut total_parameters) = (0, 0);
    for (number, shard) in shards.into_iter().enumerate() {
        let file = if count == 1 { SINGLE.to_owned() } else { shard_name(number + 1, count) };
        let mut tensors = Vec::with_capacity(shard.len());
        for (name, shape) in shard {
            let tensor = read(&name, &shape)?;
            total_size += tensor.byte_len();
            total_parameters += shape.iter().product::<usize>();
            index.insert(name.clone(), file.clone());
            tensors.push((name, tensor));
        }
        tensor_file::write(&dir.join(&file), &tensors)?;
    }
    if count > 1 {
        let metadata = json!({"total_parameters": total_parameters, "total_size": total_size});
        write_json(&dir.join(INDEX), &json!({"metadata": metadata, "weight_map": index}))?;
    }
    Ok(())
}

fn shard_name(number: usize, count: usize) -> String {
    format!("model-{number:05}-of-{count:05}.safetensors")
}

/// Writes `config.json`: what the model came with, its dtype brought up to date in the spelling it used; without a
/// dtype what it says stays.
///
/// # Errors
/// The file cannot be written.
pub fn write_config(dir: &Path, config: &LlamaConfig, dtype: impl Into<Option<FloatType>>) -> Result<(), Failure> {
    let mut raw: Map<String, Value> = config.raw.clone();
    if let Some(dtype) = dtype.into() {
        let spelling = if raw.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        raw.insert(spelling.to_owned(), json!(dtype.torch_name()));
    }
    raw.entry("architectures").or_insert_with(|| json!(["LlamaForCausalLM"]));
    raw.entry("model_type").or_insert_with(|| json!("llama"));
    write_json(&dir.join("config.json"), &Value::Object(raw))
}

fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    std::fs::write(path, text).map_err(|e| Failure::io("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::{WeightFiles, WeightSource};

    fn config() -> LlamaConfig {
        let json = json!({"model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 4, "tie_word_embeddings": false});
        let Value::Object(raw) = json else { panic!("an object") };
        LlamaConfig::from_json(raw).unwrap()
    }

    #[test]
    fn shards_hold_what_one_file_holds() {
        let config = config();
        let value = |name: &str, shape: &[usize]| {
            let first = f32::from(name.bytes().map(u16::from).sum::<u16>());
            Ok((0..shape.iter().product::<usize>()).map(|i| first + i as f32).collect())
        };
        let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_model(one.path(), &config, FloatType::F32, MAX_SHARD, value).unwrap();
        write_model(many.path(), &config, FloatType::F32, 1500, value).unwrap();
        assert!(one.path().join(SINGLE).exists() && !one.path().join(INDEX).exists());
        assert!(many.path().join(INDEX).exists() && !many.path().join(SINGLE).exists());
        let (one, many) = (WeightFiles::open(one.path()).unwrap(), WeightFiles::open(many.path()).unwrap());
        for (name, shape) in tensor_shapes(&config) {
            assert_eq!(one.read_f32(&name, &shape).unwrap(), many.read_f32(&name, &shape).unwrap(), "{name}");
        }
    }
}
