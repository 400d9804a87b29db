//! `adapter_config.json`: what of it changes what an adapter computes, and what this engine refuses to guess at.
//!
//! Unaware of tensors.
use anneal_engine::Failure;
use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Name of the configuration file.
pub const CONFIG: &str = "adapter_config.json";

/// Values by module name or its suffix, each a regular expression; the first that matches counts, as in PEFT, so the
/// file's order is kept.
pub type Patterns<T> = Vec<(String, T)>;

/// The part of `adapter_config.json` that changes what an adapter computes; other keys are ignored on reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// `LORA`; other kinds of adapter are refused.
    pub peft_type: String,
    /// Rank where no pattern says otherwise.
    #[serde(default = "eight")]
    pub r: usize,
    /// The update is scaled by alpha / r.
    #[serde(default = "eight_alpha")]
    pub lora_alpha: f64,
    /// Dropout before A, in training only.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Scale by alpha / sqrt(r) instead (Kalajdzievski 2023, "rsLoRA").
    #[serde(default)]
    pub use_rslora: bool,
    /// `none`; trained biases are refused.
    #[serde(default = "no_bias")]
    pub bias: String,
    /// Rank by module.
    #[serde(default, deserialize_with = "patterns")]
    pub rank_pattern: Patterns<usize>,
    /// Alpha by module.
    #[serde(default, deserialize_with = "patterns")]
    pub alpha_pattern: Patterns<f64>,
}

// PEFT's own defaults, for files that leave a key out.
fn eight() -> usize {
    8
}
fn eight_alpha() -> f64 {
    8.0
}
fn no_bias() -> String {
    "none".to_owned()
}

/// A table in the order of the file; absent and null are empty.
fn patterns<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(from: D) -> Result<Patterns<T>, D::Error> {
    let table = Option::<Map<String, Value>>::deserialize(from)?.unwrap_or_default();
    let value = |(pattern, value): (String, Value)| match serde_json::from_value(value) {
        Ok(value) => Ok((pattern, value)),
        Err(error) => Err(serde::de::Error::custom(format!("pattern {pattern:?}: {error}"))),
    };
    table.into_iter().map(value).collect()
}

/// Keys that change the arithmetic where they are neither null, false nor empty.
const REFUSED: [&str; 13] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "target_parameters",
    "trainable_token_indices",
];

/// Ways to begin that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take their update out of the
/// base first, so that the adapter is right only beside a base that was changed in the same way.
const HARMLESS_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

impl AdapterConfig {
    /// A plain LoRA.
    pub fn lora(r: usize, lora_alpha: f64, lora_dropout: f64, use_rslora: bool) -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            r,
            lora_alpha,
            lora_dropout,
            use_rslora,
            bias: no_bias(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }

    /// Reads `adapter_config.json` of a folder.
    ///
    /// # Errors
    /// It is missing, malformed, or describes an adapter of another kind, which is named.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|e| Failure::io("read", &path, &e))?;
        let malformed = |e: serde_json::Error| {
            Failure::user(format!("{}:{}: not an adapter configuration: {e}", path.display(), e.line()))
                .hint("PEFT's save_pretrained writes it; copy the file again from where the adapter came from")
        };
        let raw: Value = serde_json::from_str(&text).map_err(malformed)?;
        let config: Self = serde_json::from_str(&text).map_err(malformed)?;
        if let Some(what) = config.refused(&raw) {
            return Err(Failure::user(format!("{}: {what} is not supported", path.display()))
                .hint("merge the adapter with PEFT's merge_and_unload and load the merged folder"));
        }
        if config.r == 0 || config.rank_pattern.iter().any(|(_, rank)| *rank == 0) {
            return Err(Failure::user(format!("{}: a rank is 0, expected at least 1", path.display())));
        }
        Ok(config)
    }

    /// The name of the base that a folder's adapter says it was made for, without the path to it; empty if it says none.
    pub fn base_name(dir: &Path) -> String {
        let text = std::fs::read_to_string(dir.join(CONFIG)).unwrap_or_default();
        let raw: Value = serde_json::from_str(&text).unwrap_or_default();
        let name = raw.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
        name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
    }

    fn refused(&self, raw: &Value) -> Option<String> {
        if self.peft_type != "LORA" {
            return Some(format!("peft_type {:?}", self.peft_type));
        }
        if self.bias != "none" {
            return Some(format!("bias {:?}", self.bias));
        }
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(table) => table.is_empty(),
            _ => false,
        };
        if let Some(key) = REFUSED.into_iter().find(|key| raw.get(key).is_some_and(|value| !off(value))) {
            return Some(format!("{key} = {}", raw[key]));
        }
        let init = raw.get("init_lora_weights").and_then(Value::as_str)?;
        (!HARMLESS_INITS.contains(&init)).then(|| format!("init_lora_weights {init:?} (it changes the base)"))
    }

    /// Rank of a module's update.
    ///
    /// # Errors
    /// A pattern is no regular expression.
    pub fn rank(&self, module: &str) -> Result<usize, Failure> {
        Ok(matching(&self.rank_pattern, module)?.unwrap_or(self.r))
    }

    /// Scale of B(A(x)) for a module of this rank.
    ///
    /// # Errors
    /// A pattern is no regular expression.
    pub fn scaling(&self, module: &str, rank: usize) -> Result<f32, Failure> {
        let alpha = matching(&self.alpha_pattern, module)?.unwrap_or(self.lora_alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((alpha / divisor) as f32)
    }
}

/// The value whose pattern matches the whole name or what follows a dot in it, as PEFT's `get_pattern_key` does.
fn matching<T: Copy>(patterns: &Patterns<T>, module: &str) -> Result<Option<T>, Failure> {
    for (pattern, value) in patterns {
        let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$")).map_err(|e| {
            Failure::user(format!("{CONFIG}: pattern {pattern:?} cannot be used here: {e}"))
                .hint("write it without look-around and back-references, or list the modules' names")
        })?;
        if regex.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
