//! `config.json` of a Llama-family model, in two steps: what the file says, with its old and new spellings, and what
//! it means with every default resolved.
//!
//! Keys and defaults: transformers' `LlamaConfig` (4.x and 5.x). Unaware of weights and tensors.
use crate::tensor_file::FloatType;
use anneal_engine::Failure;
use serde_json::{Map, Value};
use std::path::Path;

/// A Llama's shape and constants, total.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest sequence the positions allow.
    pub max_position_embeddings: usize,
    /// Added to the mean square under the root.
    pub rms_norm_eps: f64,
    /// The head shares the embedding's weight.
    pub tie_word_embeddings: bool,
    /// q, k, v and o have a bias.
    pub attention_bias: bool,
    /// gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Rescaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// First token of a text, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; the file may name one or several.
    pub eos_token_ids: Vec<u32>,
    /// Token for padding, if the model names one.
    pub pad_token_id: Option<u32>,
    /// Standard deviation of random initial weights.
    pub initializer_range: f64,
    /// The file as it was, so that what we do not interpret is carried along.
    pub raw: Map<String, Value>,
}

/// Rescaling of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by the factor.
    Linear {
        /// How much longer contexts become.
        factor: f64,
    },
    /// Llama 3.1's smooth rescaling of the low frequencies.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are fully rescaled.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` stay.
        high_freq_factor: f64,
        /// Context length of the pre-training.
        original_max_position_embeddings: f64,
    },
}

impl LlamaConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// The file cannot be read, is no JSON (with line), is no Llama, or has values that make no sense; all problems of
    /// the file in one message.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| {
            Failure::user(format!("{}:{}:{}: not valid JSON: {e}", path.display(), e.line(), e.column()))
                .hint("copy the file again from where the model came from")
        })?;
        let Value::Object(raw) = value else {
            return Err(Failure::user(format!("{}: expected a JSON object", path.display()))
                .hint("copy the file again from where the model came from"));
        };
        Self::from_json(raw).map_err(|problems| {
            Failure::user(format!("{}: {}", path.display(), problems.join("; ")))
                .hint("anneal fine-tunes models of architecture LlamaForCausalLM")
        })
    }

    /// Interprets the content of a `config.json`.
    ///
    /// # Errors
    /// Every problem found.
    pub fn from_json(raw: Map<String, Value>) -> Result<Self, Vec<String>> {
        let mut reader = Reader { raw: &raw, problems: Vec::new() };
        reader.require_llama();
        let hidden_size = reader.size("hidden_size", Some(4096));
        let num_attention_heads = reader.size("num_attention_heads", Some(32));
        let num_key_value_heads = reader.size("num_key_value_heads", Some(num_attention_heads));
        let head_dim = reader.size("head_dim", Some(hidden_size / num_attention_heads.max(1)));
        let (rope_theta, rope_scaling) = reader.rope();
        let config = Self {
            vocab_size: reader.size("vocab_size", Some(32000)),
            hidden_size,
            intermediate_size: reader.size("intermediate_size", Some(11008)),
            num_hidden_layers: reader.size("num_hidden_layers", Some(32)),
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: reader.size("max_position_embeddings", Some(2048)),
            rms_norm_eps: reader.number("rms_norm_eps", 1e-6),
            tie_word_embeddings: reader.flag("tie_word_embeddings"),
            attention_bias: reader.flag("attention_bias"),
            mlp_bias: reader.flag("mlp_bias"),
            rope_theta,
            rope_scaling,
            bos_token_id: reader.ids("bos_token_id").first().copied(),
            eos_token_ids: reader.ids("eos_token_id"),
            pad_token_id: reader.ids("pad_token_id").first().copied(),
            initializer_range: reader.number("initializer_range", 0.02),
            raw: Map::new(),
        };
        let mut problems = reader.problems;
        problems.extend(config.inconsistencies());
        if problems.is_empty() { Ok(Self { raw, ..config }) } else { Err(problems) }
    }

    fn inconsistencies(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.num_key_value_heads == 0 || !self.num_attention_heads.is_multiple_of(self.num_key_value_heads.max(1)) {
            problems.push(format!(
                "num_attention_heads ({}) is not a multiple of num_key_value_heads ({})",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            problems.push(format!("head_dim ({}) is odd; rotary positions need pairs", self.head_dim));
        }
        problems
    }

    /// The model's name for an adapter's `base_model_name_or_path`. Never a local path: only its last component, so
    /// that artifacts do not differ by machine.
    pub fn name(&self) -> String {
        let name = self.raw.get("_name_or_path").and_then(Value::as_str).unwrap_or_default();
        let name = name.rsplit('/').find(|part| !part.is_empty()).unwrap_or("llama");
        name.to_owned()
    }

    /// Dtype of the weights by `dtype` (5.x) or `torch_dtype` (4.x).
    pub fn dtype(&self) -> Option<FloatType> {
        match self.raw.get("dtype").or_else(|| self.raw.get("torch_dtype"))?.as_str()? {
            "float32" => Some(FloatType::F32),
            "bfloat16" => Some(FloatType::Bf16),
            "float16" => Some(FloatType::F16),
            _ => None,
        }
    }

    /// Width of the queries: heads times head width.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of keys and of values.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// Reads values and gathers what is wrong with them.
struct Reader<'a> {
    raw: &'a Map<String, Value>,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// Mistral's weights have Llama's names too, but its sliding window would be ignored silently: refused.
    fn require_llama(&mut self) {
        let model_type = self.raw.get("model_type").and_then(Value::as_str);
        let architecture = self.raw.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let fits = match (model_type, architecture) {
            (Some(model_type), _) => model_type == "llama",
            (None, Some(architecture)) => architecture.starts_with("Llama"),
            (None, None) => false,
        };
        if !fits {
            self.problems.push(format!(
                "no Llama model: model_type is {}, architectures[0] is {}",
                model_type.map_or("absent".into(), |t| format!("{t:?}")),
                architecture.map_or("absent".into(), |a| format!("{a:?}")),
            ));
        }
        if let Some(act) = self.raw.get("hidden_act").and_then(Value::as_str).filter(|act| *act != "silu") {
            self.problems.push(format!("hidden_act is {act:?}, only \"silu\" is known"));
        }
    }

    /// A size from 1 to 2^31, a number of layers to 2^16; null counts as absent.
    fn size(&mut self, key: &str, default: Option<usize>) -> usize {
        // Every layer has tensors with names: a number like 2^31 would fill the memory before any is looked for.
        let largest: u64 = if key == "num_hidden_layers" { 1 << 16 } else { 1 << 31 };
        match self.raw.get(key).filter(|value| !value.is_null()) {
            None => default.unwrap_or_else(|| {
                self.problems.push(format!("`{key}` is missing"));
                1
            }),
            Some(value) => match value.as_u64() {
                Some(n) if (1..=largest).contains(&n) => n as usize,
                _ => {
                    self.problems.push(format!("`{key}` is {value}, expected an integer from 1 to {largest}"));
                    1
                }
            },
        }
    }

    fn number(&mut self, key: &str, default: f64) -> f64 {
        match self.raw.get(key).filter(|value| !value.is_null()) {
            None => default,
            Some(value) => value.as_f64().filter(|n| n.is_finite() && *n > 0.0).unwrap_or_else(|| {
                self.problems.push(format!("`{key}` is {value}, expected a positive number"));
                default
            }),
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.raw.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(value) => {
                self.problems.push(format!("`{key}` is {value}, expected true or false"));
                false
            }
        }
    }

    /// One id or a list of ids.
    fn ids(&mut self, key: &str) -> Vec<u32> {
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.raw.get(key) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(list)) => list.iter().map(one).collect::<Option<Vec<_>>>(),
            Some(value) => one(value).map(|id| vec![id]),
        };
        ids.unwrap_or_else(|| {
            self.problems.push(format!("`{key}` is neither a token id nor a list of token ids"));
            Vec::new()
        })
    }

    /// v4 writes `rope_theta` and `rope_scaling` (with `type`, later `rope_type`); v5 one table `rope_parameters`.
    fn rope(&mut self) -> (f64, RopeScaling) {
        let v5 = self.raw.get("rope_parameters").and_then(Value::as_object);
        let table = v5.or_else(|| self.raw.get("rope_scaling").and_then(Value::as_object));
        let number = |key: &str| table.and_then(|t| t.get(key)).and_then(Value::as_f64);
        let theta = match v5.and_then(|t| t.get("rope_theta")).and_then(Value::as_f64) {
            Some(theta) => theta,
            None => self.number("rope_theta", 10_000.0),
        };
        let kind = table.and_then(|t| t.get("rope_type").or_else(|| t.get("type"))).and_then(Value::as_str);
        let scaling = match kind {
            None | Some("default") => Some(RopeScaling::Default),
            Some("linear") => number("factor").map(|factor| RopeScaling::Linear { factor }),
            Some("llama3") => (|| {
                Some(RopeScaling::Llama3 {
                    factor: number("factor")?,
                    low_freq_factor: number("low_freq_factor")?,
                    high_freq_factor: number("high_freq_factor")?,
                    original_max_position_embeddings: number("original_max_position_embeddings")?,
                })
            })(),
            Some(other) => {
                self.problems.push(format!("rope_type {other:?} is not known (default, linear, llama3)"));
                return (theta, RopeScaling::Default);
            }
        };
        (
            theta,
            scaling.unwrap_or_else(|| {
                self.problems.push(format!("rope_type {:?} lacks its numbers", kind.unwrap_or_default()));
                RopeScaling::Default
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<LlamaConfig, Vec<String>> {
        let Value::Object(raw) = value else { panic!("an object") };
        LlamaConfig::from_json(raw)
    }

    #[test]
    fn old_and_new_spellings_mean_the_same() {
        let old = read(json!({"model_type": "llama", "rope_theta": 5e5, "eos_token_id": 2,
            "rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}))
        .unwrap();
        let new = read(json!({"architectures": ["LlamaForCausalLM"], "eos_token_id": [2],
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}))
        .unwrap();
        assert_eq!(LlamaConfig { raw: Map::new(), ..old.clone() }, LlamaConfig { raw: Map::new(), ..new });
        assert_eq!((old.num_key_value_heads, old.head_dim, old.rope_theta), (32, 128, 5e5));
    }

    #[test]
    fn all_problems_come_at_once() {
        let problems = read(json!({"model_type": "gpt2", "hidden_size": -1, "num_attention_heads": 6,
            "num_key_value_heads": 4, "head_dim": 7, "rope_scaling": {"type": "yarn"}}))
        .unwrap_err()
        .join("\n");
        for part in ["gpt2", "hidden_size", "multiple of num_key_value_heads", "odd", "yarn"] {
            assert!(problems.contains(part), "{part} not in {problems}");
        }
    }
}
