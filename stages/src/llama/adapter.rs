//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys and tensor names as PEFT 0.21 writes them. Unaware of devices and of how an adapter was trained.
use super::config::LlamaConfig;
use super::weights::{linear_shapes, parent_of};
use crate::random::Stream;
use crate::tensor_file::{self, FloatType, OutTensor, TensorFile};
use anneal_engine::Failure;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the configuration file.
pub const CONFIG: &str = "adapter_config.json";
/// Name of the weight file.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the base model's own names.
const PREFIX: &str = "base_model.model.";

/// The part of `adapter_config.json` that changes what an adapter computes; other keys are ignored on reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// `LORA`; other kinds of adapter are refused.
    pub peft_type: String,
    /// Rank where no pattern says otherwise.
    pub r: usize,
    /// The update is scaled by alpha / r.
    pub lora_alpha: f64,
    /// Dropout before A, in training only.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Scale by alpha / sqrt(r) instead (Kalajdzievski 2023, "rsLoRA").
    #[serde(default)]
    pub use_rslora: bool,
    /// Weight-decomposed adapters; refused.
    #[serde(default)]
    pub use_dora: bool,
    /// Weights are stored transposed; refused, no Llama does.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// `none`; trained biases are refused.
    #[serde(default = "no_bias")]
    pub bias: String,
    /// Rank by module name or its suffix (a regular expression).
    #[serde(default)]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alpha by module name or its suffix (a regular expression).
    #[serde(default)]
    pub alpha_pattern: BTreeMap<String, f64>,
}

fn no_bias() -> String {
    "none".to_owned()
}

impl AdapterConfig {
    /// A plain LoRA.
    pub fn lora(r: usize, lora_alpha: f64, lora_dropout: f64, use_rslora: bool) -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            r,
            lora_alpha,
            lora_dropout,
            use_rslora,
            use_dora: false,
            fan_in_fan_out: false,
            bias: no_bias(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }

    /// Scale of B(A(x)) for a module of this rank.
    pub fn scaling(&self, module: &str, rank: usize) -> Result<f32, Failure> {
        let alpha = matching(&self.alpha_pattern, module)?.unwrap_or(self.lora_alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((alpha / divisor) as f32)
    }

    fn refuse_unknown(&self) -> Option<String> {
        let refused = [
            (self.peft_type != "LORA", format!("peft_type {:?}", self.peft_type)),
            (self.use_dora, "use_dora".to_owned()),
            (self.fan_in_fan_out, "fan_in_fan_out".to_owned()),
            (self.bias != "none", format!("bias {:?}", self.bias)),
        ];
        refused.into_iter().find(|(refused, _)| *refused).map(|(_, what)| what)
    }
}

/// The value whose pattern matches the whole name or what follows a dot in it, as PEFT's `get_pattern_key` does.
fn matching<T: Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Result<Option<T>, Failure> {
    for (pattern, value) in patterns {
        let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$"))
            .map_err(|e| Failure::user(format!("{CONFIG}: pattern {pattern:?} is no regular expression: {e}")))?;
        if regex.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// The update of one linear module.
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

/// An adapter: updates by module name such as `model.layers.0.self_attn.q_proj`.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// What the file says.
    pub config: AdapterConfig,
    /// The updates.
    pub modules: BTreeMap<String, LoraWeights>,
    /// Whole tensors that replace the base's, by name (`modules_to_save`): values and shape.
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
                let rank = matching(&adapter.rank_pattern, &name)?.unwrap_or(adapter.r);
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
    /// that would be ignored is an error too: a silently dropped update is worse than none.
    pub fn read(dir: &Path, base: &LlamaConfig) -> Result<Self, Failure> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|e| Failure::io("read", &path, &e))?;
        let config: AdapterConfig = serde_json::from_str(&text)
            .map_err(|e| Failure::user(format!("{}:{}: not an adapter configuration: {e}", path.display(), e.line())))?;
        if let Some(what) = config.refuse_unknown() {
            return Err(Failure::user(format!("{}: {what} is not supported", path.display()))
                .hint("merge the adapter with PEFT's merge_and_unload and load the merged folder"));
        }
        let file = TensorFile::open(&dir.join(WEIGHTS))?;
        let mut adapter = Self { config, modules: BTreeMap::new(), saved: BTreeMap::new() };
        for name in file.names() {
            adapter.take(&file, &name, base)?;
        }
        if adapter.modules.is_empty() && adapter.saved.is_empty() {
            return Err(Failure::user(format!("{}: holds no tensor", file.path().display())));
        }
        Ok(adapter)
    }

    fn take(&mut self, file: &TensorFile, name: &str, base: &LlamaConfig) -> Result<(), Failure> {
        let refuse = |why: &str| Failure::user(format!("{}: tensor `{name}` {why}", file.path().display()));
        let inner = name.strip_prefix(PREFIX).ok_or_else(|| refuse("does not begin with `base_model.model.`"))?;
        let shape = file.info(name).map(|info| info.shape.clone()).unwrap_or_default();
        if let Some(module) = inner.strip_suffix(".lora_A.weight") {
            let [out, input] = module_shape(base, module).ok_or_else(|| refuse("belongs to no module of the base"))?;
            let rank = shape.first().copied().unwrap_or(0);
            let a = file.read_f32(name, &[rank, input])?;
            let b = file.read_f32(&format!("{PREFIX}{module}.lora_B.weight"), &[out, rank])?;
            if rank == 0 {
                return Err(refuse("is empty").hint("a ZeRO-3 checkpoint leaves empty tensors: consolidate it first"));
            }
            let scaling = self.config.scaling(module, rank)?;
            self.modules.insert(module.to_owned(), LoraWeights { rank, a, b, scaling });
            return Ok(());
        }
        if let Some(module) = inner.strip_suffix(".lora_B.weight") {
            let partner = format!("{PREFIX}{module}.lora_A.weight");
            return if file.info(&partner).is_some() { Ok(()) } else { Err(refuse("has no lora_A beside it")) };
        }
        let known = super::weights::tensor_shapes(base).into_iter().find(|(known, _)| known == inner);
        let (known, shape) = known.ok_or_else(|| refuse("is neither a LoRA update nor a tensor of the base"))?;
        self.saved.insert(known, (file.read_f32(name, &shape)?, shape));
        Ok(())
    }

    /// Writes a PEFT folder. `base` is the base model's name; a path would make artifacts differ by machine.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write(&self, dir: &Path, config: &LlamaConfig, base: &str) -> Result<(), Failure> {
        let mut tensors = Vec::new();
        for (module, lora) in &self.modules {
            let [out, input] = module_shape(config, module)
                .ok_or_else(|| Failure::bug(format!("adapter module `{module}` is not in the base")))?;
            let store = |values: &[f32], shape: [usize; 2]| OutTensor::floats(values, &shape, FloatType::F32);
            tensors.push((format!("{PREFIX}{module}.lora_A.weight"), store(&lora.a, [lora.rank, input])));
            tensors.push((format!("{PREFIX}{module}.lora_B.weight"), store(&lora.b, [out, lora.rank])));
        }
        for (name, (values, shape)) in &self.saved {
            tensors.push((format!("{PREFIX}{name}"), OutTensor::floats(values, shape, FloatType::F32)));
        }
        tensor_file::write(&dir.join(WEIGHTS), &tensors)?;
        let path = dir.join(CONFIG);
        let text = serde_json::to_string_pretty(&self.config_json(base)).unwrap_or_default() + "\n";
        std::fs::write(&path, text).map_err(|e| Failure::io("write", &path, &e))
    }

    /// The keys PEFT writes, in alphabetical order.
    fn config_json(&self, base: &str) -> Value {
        let last = |name: &String| name.rsplit('.').next().unwrap_or_default().to_owned();
        let distinct = |names: Vec<String>| names.into_iter().collect::<std::collections::BTreeSet<_>>();
        let saved = distinct(self.saved.keys().filter_map(|n| n.strip_suffix(".weight").map(|n| last(&n.to_owned()))).collect());
        json!({
            "alpha_pattern": self.config.alpha_pattern,
            "auto_mapping": null,
            "base_model_name_or_path": base,
            "bias": self.config.bias,
            "corda_config": null,
            "eva_config": null,
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": whole(self.config.lora_alpha),
            "lora_bias": false,
            "lora_dropout": self.config.lora_dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
            "peft_type": "LORA",
            "r": self.config.r,
            "rank_pattern": self.config.rank_pattern,
            "revision": null,
            "target_modules": distinct(self.modules.keys().map(last).collect()),
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_dora": false,
            "use_rslora": self.config.use_rslora,
        })
    }
}

/// An alpha without a fraction is written as an integer, as PEFT does.
fn whole(alpha: f64) -> Value {
    if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) }
}

/// Shape [out, in] of a linear module by its full name, if the base has it.
fn module_shape(config: &LlamaConfig, module: &str) -> Option<[usize; 2]> {
    let (layer, rest) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (parent, name) = rest.split_once('.')?;
    let (_, shape) = linear_shapes(config).into_iter().find(|(known, _)| *known == name)?;
    (layer < config.num_hidden_layers && parent == parent_of(name)).then_some(shape)
}
