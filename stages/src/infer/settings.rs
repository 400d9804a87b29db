//! How answers are drawn and what ends them: the parameters beside the model's own `generation_config.json`.
//!
//! Unaware of prompts.
use super::params::{Decoding, InferParams};
use crate::llama::sampling::Sampling;
use anneal_engine::Failure;
use serde_json::{Map, Value};
use std::path::Path;

/// The model's own settings.
pub(super) const FILE: &str = "generation_config.json";

/// Keys of the file that are followed or mean nothing here, and values of others that change nothing.
const FOLLOWED: [&str; 6] = ["do_sample", "temperature", "top_k", "top_p", "eos_token_id", "bos_token_id"];
const NEUTRAL: [(&str, f64); 4] =
    [("repetition_penalty", 1.0), ("num_beams", 1.0), ("typical_p", 1.0), ("no_repeat_ngram_size", 0.0)];

/// What a `generation_config.json` says; empty without one.
#[derive(Debug, Default)]
pub(super) struct ModelSettings {
    values: Map<String, Value>,
}

impl ModelSettings {
    /// Reads the file of a model's folder, if there is one.
    ///
    /// # Errors
    /// It is no JSON object, or a setting of it that counts here makes no sense.
    pub(super) fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::io("read", &path, &error)),
        };
        let wrong = |why: String| {
            Failure::user(format!("{}: {why}", path.display()))
                .hint("copy the file again from where the model came from, or remove it")
        };
        match serde_json::from_str(&text) {
            Ok(Value::Object(values)) => Ok(Self { values }),
            Ok(_) => Err(wrong("expected a JSON object".to_owned())),
            Err(error) => Err(wrong(format!("not valid JSON: {error}"))),
        }
    }

    /// Tokens that end an answer: the file may name one or several.
    pub(super) fn end_tokens(&self) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.values.get("eos_token_id") {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn samples(&self) -> bool {
        self.values.get("do_sample").and_then(Value::as_bool).unwrap_or(false)
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.values.get(key).and_then(Value::as_f64)
    }

    /// Settings that would change answers and are not followed.
    fn not_followed(&self) -> Vec<String> {
        let neutral = |key: &str, value: &Value| {
            let known = NEUTRAL.iter().find(|(name, _)| *name == key);
            known.is_none_or(|(_, neutral)| value.is_null() || value.as_f64() == Some(*neutral))
        };
        let others = self.values.iter().filter(|(key, _)| !FOLLOWED.contains(&key.as_str()));
        others.filter(|(key, value)| !neutral(key, value)).map(|(key, value)| format!("{key} = {value}")).collect()
    }
}

/// How tokens are drawn, and what to say about it.
#[derive(Debug, PartialEq)]
pub(super) struct Chosen {
    /// `None`: the most likely.
    pub(super) sampling: Option<Sampling>,
    /// For the log.
    pub(super) note: Option<String>,
    /// Of settings that are not followed.
    pub(super) warning: Option<String>,
}

/// What parameters, model and the experiment's seed come to.
///
/// # Errors
/// The model's temperature or top-p is outside what they can be.
pub(super) fn choose(params: &InferParams, model: &ModelSettings, seed: u64) -> Result<Chosen, Failure> {
    let given = |defaults: [f64; 3]| Sampling {
        temperature: params.temperature.unwrap_or(defaults[0]),
        top_k: params.top_k.unwrap_or(defaults[1] as usize),
        top_p: params.top_p.unwrap_or(defaults[2]),
        seed: params.seed.unwrap_or(seed),
    };
    let told = |sampling: &Sampling| {
        format!("temperature {}, top_k {}, top_p {}", sampling.temperature, sampling.top_k, sampling.top_p)
    };
    // Where the file is silent, transformers' own defaults hold.
    let own = given([
        model.number("temperature").unwrap_or(1.0),
        model.number("top_k").unwrap_or(50.0),
        model.number("top_p").unwrap_or(1.0),
    ]);
    Ok(match params.decoding {
        Decoding::Greedy => {
            let note = model.samples().then(|| {
                format!(
                    "the model's {FILE} asks for sampling ({}); answers are greedy, decoding = \"model\" would follow it",
                    told(&own)
                )
            });
            Chosen { sampling: None, note, warning: None }
        }
        Decoding::Sample => Chosen { sampling: Some(given([1.0, 0.0, 1.0])), note: None, warning: None },
        Decoding::Model => {
            let left = model.not_followed();
            let warning =
                (!left.is_empty()).then(|| format!("of the model's {FILE} this is not followed: {}", left.join(", ")));
            if !model.samples() {
                let note = format!("the model's {FILE} does not ask for sampling; answers are greedy");
                return Ok(Chosen { sampling: None, note: Some(note), warning });
            }
            // JSON has no NaN.
            if own.temperature <= 0.0 || own.top_p <= 0.0 || own.top_p > 1.0 {
                return Err(Failure::user(format!("the model's {FILE} makes no sense: {}", told(&own))).hint(
                    "give temperature (above 0) and top_p (above 0, at most 1) here, or set decoding = \"greedy\"",
                ));
            }
            let note = format!("answers are drawn as the model's {FILE} says: {}", told(&own));
            Chosen { sampling: Some(own), note: Some(note), warning }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anneal_engine::ParamSet;
    use serde_json::json;

    fn model(values: Value) -> ModelSettings {
        let Value::Object(values) = values else { panic!("an object") };
        ModelSettings { values }
    }

    fn params(decoding: Decoding, top_p: Option<f64>) -> InferParams {
        InferParams { decoding, top_p, ..InferParams::defaults().unwrap() }
    }

    /// What Llama-2-chat and Llama-3-Instruct ship.
    fn chat() -> ModelSettings {
        model(json!({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [128001, 128009],
            "max_length": 4096, "repetition_penalty": 1.0}))
    }

    #[test]
    fn greedy_is_greedy_whatever_the_model_says_and_the_log_tells() {
        let chosen = choose(&params(Decoding::Greedy, None), &chat(), 1).unwrap();
        assert_eq!(chosen.sampling, None);
        let note = chosen.note.unwrap();
        assert!(note.contains("temperature 0.6, top_k 50, top_p 0.9") && note.contains("are greedy"), "{note}");
        let plain = choose(&params(Decoding::Greedy, None), &ModelSettings::default(), 1).unwrap();
        assert_eq!(plain, Chosen { sampling: None, note: None, warning: None });
    }

    #[test]
    fn the_models_settings_count_when_asked_for_and_parameters_go_before_them() {
        let chosen = choose(&params(Decoding::Model, Some(0.5)), &chat(), 3).unwrap();
        assert_eq!(chosen.sampling, Some(Sampling { temperature: 0.6, top_k: 50, top_p: 0.5, seed: 3 }));
        assert_eq!(chosen.warning, None);
        let own = model(json!({"do_sample": true, "repetition_penalty": 1.1}));
        let chosen = choose(&InferParams { seed: Some(9), ..params(Decoding::Model, None) }, &own, 3).unwrap();
        assert_eq!(chosen.sampling, Some(Sampling { temperature: 1.0, top_k: 50, top_p: 1.0, seed: 9 }));
        assert!(chosen.warning.unwrap().contains("repetition_penalty = 1.1"));
        let quiet = choose(&params(Decoding::Model, None), &model(json!({"temperature": 0.6})), 3).unwrap();
        assert!(quiet.sampling.is_none() && quiet.note.unwrap().contains("greedy"));
        let zero = choose(&params(Decoding::Model, None), &model(json!({"do_sample": true, "temperature": 0})), 3);
        assert!(zero.unwrap_err().message.contains("temperature 0"));
        let sample = choose(&params(Decoding::Sample, None), &chat(), 3).unwrap();
        assert_eq!(sample.sampling, Some(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 }));
    }

    #[test]
    fn one_or_several_end_tokens_are_read_and_a_damaged_file_is_named() {
        assert_eq!(chat().end_tokens(), [128_001, 128_009]);
        assert_eq!(model(json!({"eos_token_id": 2})).end_tokens(), [2]);
        assert!(model(json!({"eos_token_id": null})).end_tokens().is_empty());
        let dir = tempfile::tempdir().unwrap();
        assert!(ModelSettings::read(dir.path()).unwrap().end_tokens().is_empty());
        std::fs::write(dir.path().join(FILE), "[1]").unwrap();
        assert!(ModelSettings::read(dir.path()).unwrap_err().message.contains("expected a JSON object"));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(ModelSettings::read(dir.path()).unwrap_err().message.contains("not valid JSON"));
    }
}
