//! The weights of a Hugging Face folder: one safetensors file or several with an index.
//!
//! Knows which tensors a Llama has and their shapes; unaware of devices.
use super::config::LlamaConfig;
use crate::tensor_file::{TensorFile, is_float};
use anneal_engine::Failure;
use safetensors::Dtype;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the only weight file of a small model.
pub const SINGLE: &str = "model.safetensors";
/// Name of the index of several weight files.
pub const INDEX: &str = "model.safetensors.index.json";

/// The weight files of a folder, in the order of their names.
///
/// # Errors
/// There are none, the index cannot be read, or it names a file that is no plain name in this folder.
pub fn files_of(dir: &Path) -> Result<Vec<String>, Failure> {
    let index = dir.join(INDEX);
    if !index.exists() {
        if dir.join(SINGLE).exists() {
            return Ok(vec![SINGLE.to_owned()]);
        }
        return Err(Failure::user(format!("{}: neither {SINGLE} nor {INDEX} is there", dir.display()))
            .hint("anneal reads safetensors; convert pytorch_model.bin with transformers' save_pretrained"));
    }
    let text = std::fs::read_to_string(&index).map_err(|e| Failure::io("read", &index, &e))?;
    let parsed: Value = serde_json::from_str(&text)
        .map_err(|e| Failure::user(format!("{}:{}: not valid JSON: {e}", index.display(), e.line())))?;
    let map = parsed.get("weight_map").and_then(Value::as_object);
    let names = map.into_iter().flatten().map(|(_, file)| file.as_str()).collect::<Option<BTreeSet<_>>>();
    let names = names.filter(|names| !names.is_empty());
    let names = names.ok_or_else(|| Failure::user(format!("{}: no usable `weight_map`", index.display())))?;
    for name in &names {
        // An index may come from anywhere: it must not make us read outside the model's folder.
        if Path::new(name).components().count() != 1 || name.starts_with('.') {
            return Err(Failure::user(format!("{}: `{name}` is not a file of this folder", index.display())));
        }
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// Where a model's tensors come from.
pub trait WeightSource {
    /// Checks that every tensor of the configuration is there with its shape, reading no data. All problems at once.
    ///
    /// # Errors
    /// Tensors that are missing or do not fit.
    fn check(&self, config: &LlamaConfig) -> Result<(), Failure>;
    /// The tensor's bytes where they are bf16 of this shape as they are stored; [`WeightSource::read_f32`] has all others.
    fn bf16_bytes(&self, name: &str, shape: &[usize]) -> Option<&[u8]> {
        let _ = (name, shape);
        None
    }
    /// Says that the tensor's bytes were read and are not needed soon.
    fn release(&self, name: &str) {
        let _ = name;
    }
    /// A tensor by its checkpoint name as f32, checked to have this shape.
    ///
    /// # Errors
    /// It is absent, has another shape, or cannot be read.
    fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Failure>;
}

/// All tensors of a model, mapped.
#[derive(Debug)]
pub struct WeightFiles {
    files: Vec<TensorFile>,
    index: BTreeMap<String, usize>,
}

impl WeightFiles {
    /// Maps the weight files of a folder.
    ///
    /// # Errors
    /// A file is missing, truncated or no safetensors file, or two files hold a tensor of the same name.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let mut opened = Self { files: Vec::new(), index: BTreeMap::new() };
        for name in files_of(dir)? {
            opened.push(TensorFile::open(&dir.join(name))?)?;
        }
        Ok(opened)
    }

    fn push(&mut self, file: TensorFile) -> Result<(), Failure> {
        for name in file.names() {
            if self.index.insert(name.clone(), self.files.len()).is_some() {
                return Err(Failure::user(format!("{}: tensor `{name}` is in two files", file.path().display())));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Dtype and bytes of a tensor as they are stored.
    ///
    /// # Errors
    /// It is absent.
    pub fn stored(&self, name: &str) -> Result<(Dtype, &[u8]), Failure> {
        let file = self.index.get(name).map(|file| &self.files[*file]);
        match file.and_then(|file| Some((file, file.info(name)?))) {
            Some((file, info)) => Ok((info.dtype, file.bytes(name)?)),
            None => Err(Failure::user(format!("there is no tensor `{name}` in the model's weight files"))),
        }
    }

    /// Names of the tensors that no Llama of this configuration has, in alphabetical order.
    pub fn surplus(&self, config: &LlamaConfig) -> Vec<String> {
        let known: BTreeSet<String> = tensor_shapes(config).into_iter().map(|(name, _)| name).collect();
        self.index.keys().filter(|name| !known.contains(*name)).cloned().collect()
    }
}

impl WeightSource for WeightFiles {
    fn bf16_bytes(&self, name: &str, shape: &[usize]) -> Option<&[u8]> {
        let file = &self.files[*self.index.get(name)?];
        let info = file.info(name)?;
        if info.dtype == Dtype::BF16 && info.shape == shape { file.bytes(name).ok() } else { None }
    }

    fn release(&self, name: &str) {
        if let Some(file) = self.index.get(name) {
            self.files[*file].release(name);
        }
    }

    fn read_f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Failure> {
        match self.index.get(name) {
            Some(file) => self.files[*file].read_f32(name, shape),
            None => Err(Failure::user(format!(
                "{}: there is no tensor `{name}` in the model's {} weight file(s)",
                self.files.first().map_or_else(|| "?".into(), |f| f.path().display().to_string()),
                self.files.len()
            ))
            .hint("config.json and the weights belong to different models, or a shard is missing")),
        }
    }

    fn check(&self, config: &LlamaConfig) -> Result<(), Failure> {
        let mut problems = Vec::new();
        for (name, shape) in tensor_shapes(config) {
            match self.index.get(&name).and_then(|file| self.files[*file].info(&name)) {
                None => problems.push(format!("`{name}` is missing")),
                Some(info) if info.shape != shape => {
                    problems.push(format!("`{name}` has shape {:?}, expected {shape:?}", info.shape));
                }
                Some(info) if !is_float(info.dtype) => {
                    problems.push(format!("`{name}` is {}, expected F32, F16, BF16 or F64", info.dtype));
                }
                Some(_) => {}
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let place = self.files.first().map_or_else(|| "?".into(), |f| f.path().display().to_string());
        let shown = problems.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        Err(Failure::user(format!("{place}: {} tensor(s) do not fit config.json: {shown}", problems.len()))
            .hint("config.json and the weights belong to different models, or a shard is missing"))
    }
}

/// Names and shapes of a Llama's tensors, in checkpoint order. A tied model has no `lm_head.weight`.
pub fn tensor_shapes(config: &LlamaConfig) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden])];
    for layer in 0..config.num_hidden_layers {
        let prefix = format!("model.layers.{layer}");
        shapes.push((format!("{prefix}.input_layernorm.weight"), vec![hidden]));
        for (module, [out, input]) in linear_shapes(config) {
            let name = format!("{prefix}.{}.{module}", parent_of(module));
            shapes.push((format!("{name}.weight"), vec![out, input]));
            if has_bias(config, module) {
                shapes.push((format!("{name}.bias"), vec![out]));
            }
        }
        shapes.push((format!("{prefix}.post_attention_layernorm.weight"), vec![hidden]));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !config.tie_word_embeddings {
        shapes.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    shapes
}

/// The seven linear modules of a layer with their shapes [out, in].
pub fn linear_shapes(config: &LlamaConfig) -> [(&'static str, [usize; 2]); 7] {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (query, key_value) = (config.query_width(), config.key_value_width());
    [
        ("q_proj", [query, hidden]),
        ("k_proj", [key_value, hidden]),
        ("v_proj", [key_value, hidden]),
        ("o_proj", [hidden, query]),
        ("gate_proj", [inner, hidden]),
        ("up_proj", [inner, hidden]),
        ("down_proj", [hidden, inner]),
    ]
}

/// The part of a layer that a linear module belongs to.
pub fn parent_of(module: &str) -> &'static str {
    if matches!(module, "gate_proj" | "up_proj" | "down_proj") { "mlp" } else { "self_attn" }
}

/// Whether the configuration gives this linear module a bias.
pub fn has_bias(config: &LlamaConfig, module: &str) -> bool {
    if parent_of(module) == "mlp" { config.mlp_bias } else { config.attention_bias }
}
