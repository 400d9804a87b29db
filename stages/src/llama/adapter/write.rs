//! Writes an adapter as a PEFT folder, with the keys and tensor names that PEFT 0.21 writes.
//!
//! Unaware of devices and of how an adapter was trained.
use super::{Adapter, CONFIG, PREFIX, Part, WEIGHTS, module_shape};
use crate::llama::LlamaConfig;
use crate::tensor_file::{self, FloatType, OutTensor};
use anneal_engine::Failure;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The release of PEFT whose format this is; PEFT reads it to tell files of later releases from its own.
const PEFT_VERSION: &str = "0.21.2";

impl Adapter {
    /// Writes a PEFT folder. `base` is the base model's name; a path would make artifacts differ by machine.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write(&self, dir: &Path, config: &LlamaConfig, base: &str) -> Result<(), Failure> {
        let mut tensors = Vec::new();
        for (module, lora) in &self.modules {
            let (part, [out, input]) = module_shape(config, module)
                .ok_or_else(|| Failure::bug(format!("adapter module `{module}` is not in the base")))?;
            let store = |values: &[f32], shape: [usize; 2]| OutTensor::floats(values, &shape, FloatType::F32);
            let name = |suffix: &str| format!("{PREFIX}{module}.{suffix}");
            if part == Part::Embedding {
                // Held as an update of the table [vocabulary, hidden]; PEFT stores both factors the other way round.
                let (a, b) = (super::transposed(&lora.b, out), super::transposed(&lora.a, lora.rank));
                tensors.push((name("lora_embedding_A"), store(&a, [lora.rank, out])));
                tensors.push((name("lora_embedding_B"), store(&b, [input, lora.rank])));
            } else {
                tensors.push((name("lora_A.weight"), store(&lora.a, [lora.rank, input])));
                tensors.push((name("lora_B.weight"), store(&lora.b, [out, lora.rank])));
            }
        }
        for (name, (values, shape)) in &self.saved {
            tensors.push((format!("{PREFIX}{name}"), OutTensor::floats(values, shape, FloatType::F32)));
        }
        tensor_file::write(&dir.join(WEIGHTS), &tensors)?;
        let path = dir.join(CONFIG);
        let text = serde_json::to_string_pretty(&self.config_json(config, base)).unwrap_or_default() + "\n";
        std::fs::write(&path, text).map_err(|e| Failure::io("write", &path, &e))
    }

    /// The keys PEFT writes, in alphabetical order.
    fn config_json(&self, config: &LlamaConfig, base: &str) -> Value {
        let saved: Vec<&str> = self.saved.keys().filter_map(|name| name.strip_suffix(".weight")).collect();
        let saved = shortest(&saved, config);
        let updated: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        let ranks = self.config.rank_pattern.iter().map(|(pattern, rank)| (pattern.clone(), json!(rank)));
        let alphas = self.config.alpha_pattern.iter().map(|(pattern, alpha)| (pattern.clone(), whole(*alpha)));
        json!({
            "alpha_pattern": alphas.collect::<Map<_, _>>(),
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
            "peft_version": PEFT_VERSION,
            "r": self.config.r,
            "rank_pattern": ranks.collect::<Map<_, _>>(),
            "revision": null,
            "target_modules": shortest(&updated, config),
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_dora": false,
            "use_rslora": self.config.use_rslora,
        })
    }
}

/// Names by which PEFT finds exactly these modules: the last part alone where every layer has one, the whole name
/// elsewhere. A short name that some layers lack would make PEFT add fresh updates there.
fn shortest(modules: &[&str], config: &LlamaConfig) -> BTreeSet<String> {
    let last = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    modules.iter().for_each(|module| *counts.entry(last(module)).or_default() += 1);
    let name = |module: &&str| {
        let everywhere = !module.contains(".layers.") || counts[&last(module)] == config.num_hidden_layers;
        if everywhere { last(module) } else { (*module).to_owned() }
    };
    modules.iter().map(name).collect()
}

/// An alpha without a fraction is written as an integer, as PEFT does.
fn whole(alpha: f64) -> Value {
    if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) }
}
