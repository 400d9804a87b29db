//! The ids of a model's special tokens, from the metadata. Unaware of their texts' use.
use super::metadata::Metadata;
use anneal_engine::Failure;
use serde_json::{Value, json};

/// Special ids that the file names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SpecialIds {
    pub(super) bos: Option<u64>,
    /// What ends a text: the end of sequence first, then the ends of a turn and of a message where they differ.
    pub(super) eos: Vec<u64>,
    pub(super) pad: Option<u64>,
    pub(super) unk: Option<u64>,
}

impl SpecialIds {
    /// Reads them; `tokens` is the size of the vocabulary, if the file has one.
    pub(super) fn read(meta: &Metadata, tokens: Option<usize>) -> Result<Self, Failure> {
        let read = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            let id = meta.integer(&key)?;
            match (id, tokens) {
                (Some(id), Some(count)) if id >= count as u64 => {
                    Err(meta.fault(&key, format!("is {id}, but there are {count} tokens")))
                }
                _ => Ok(id),
            }
        };
        // SentencePiece has fixed ids for these unless the file says otherwise.
        let piece = meta.text("tokenizer.ggml.model")? == Some("llama");
        let usual = |id: u64| (piece && tokens.is_some_and(|count| count > 2)).then_some(id);
        let mut eos = Vec::new();
        for id in [read("eos")?.or(usual(2)), read("eot")?, read("eom")?].into_iter().flatten() {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        Ok(Self { bos: read("bos")?.or(usual(1)), eos, pad: read("padding")?, unk: read("unknown")?.or(usual(0)) })
    }

    /// `bos_token_id`, `eos_token_id` (a number, or a list of several) and `pad_token_id`, as far as they are known.
    pub(super) fn json(&self) -> Vec<(String, Value)> {
        let eos = match self.eos.as_slice() {
            [] => None,
            [one] => Some(json!(one)),
            several => Some(json!(several)),
        };
        let all = [("bos", self.bos.map(Value::from)), ("eos", eos), ("pad", self.pad.map(Value::from))];
        all.into_iter().filter_map(|(name, value)| Some((format!("{name}_token_id"), value?))).collect()
    }
}
