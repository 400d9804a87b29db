//! `tokenizer.json` and `tokenizer_config.json` from the metadata, in the form that Hugging Face's tokenizers read.
//!
//! What is common to both kinds of vocabulary is here; `byte_level` and `sentence_piece` know the rest. A splitting rule
//! that is not known exactly is refused by name: other ids than the model was trained on would be worse than none.
mod byte_level;
mod sentence_piece;

use super::metadata::Metadata;
use super::special::SpecialIds;
use anneal_engine::Failure;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The two files.
#[derive(Debug)]
pub(super) struct Files {
    /// `tokenizer.json`.
    pub(super) tokenizer: Value,
    /// `tokenizer_config.json`.
    pub(super) config: Value,
    /// Entries of the vocabulary, unused ones included.
    pub(super) count: usize,
}

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";

/// What a token is for, as the file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of a file by id.
struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, usize>,
}

/// The files, or nothing if the model comes without a tokenizer.
pub(super) fn files(meta: &Metadata) -> Result<Option<Files>, Failure> {
    let Some(model) = meta.text(MODEL)?.filter(|model| !matches!(*model, "none" | "no_vocab")) else {
        return Ok(None);
    };
    let vocabulary = Vocabulary::read(meta)?;
    let special = SpecialIds::read(meta, Some(vocabulary.tokens.len()))?;
    let tokenizer = match model {
        "gpt2" => byte_level::tokenizer(meta, &vocabulary, &special)?,
        "llama" => sentence_piece::tokenizer(meta, &vocabulary, &special)?,
        other => {
            let what = format!("is {other:?}; known are \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece)");
            return Err(meta.fault(MODEL, what));
        }
    };
    let config = config(meta, &vocabulary, &special)?;
    Ok(Some(Files { tokenizer, config, count: vocabulary.tokens.len() }))
}

impl<'a> Vocabulary<'a> {
    fn read(meta: &'a Metadata) -> Result<Self, Failure> {
        let tokens = meta.require(TOKENS, meta.texts(TOKENS)?)?;
        let kinds = match meta.integers(KINDS)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(kinds) if kinds.len() != tokens.len() => {
                let what = format!("has {} entries for {} tokens", kinds.len(), tokens.len());
                return Err(meta.fault(KINDS, what));
            }
            Some(kinds) => kinds.iter().map(|kind| kind_of(meta, *kind)).collect::<Result<_, _>>()?,
        };
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate().filter(|(id, _)| kinds[*id] != Kind::Unused) {
            if let Some(first) = ids.insert(token.as_str(), id) {
                return Err(meta.fault(TOKENS, format!("has {token:?} twice, as {first} and as {id}")));
            }
        }
        Ok(Self { tokens, kinds, ids })
    }

    fn text(&self, id: Option<u64>) -> Option<&'a str> {
        self.tokens.get(usize::try_from(id?).ok()?).map(String::as_str)
    }

    /// Tokens that are in use, with their ids.
    fn used(&self) -> impl Iterator<Item = (usize, &'a str, Kind)> {
        self.tokens
            .iter()
            .zip(&self.kinds)
            .enumerate()
            .map(|(id, (token, kind))| (id, token.as_str(), *kind))
            .filter(|(_, _, kind)| *kind != Kind::Unused)
    }

    /// `model.vocab`. Added tokens are in it too: only so do they keep their ids.
    fn json(&self) -> Value {
        Value::Object(self.used().map(|(id, token, _)| (token.to_owned(), json!(id))).collect::<Map<_, _>>())
    }

    /// `added_tokens`: what is recognised in a text as a whole, before anything is split.
    fn added(&self) -> Value {
        let added = self.used().filter(|(.., kind)| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown));
        let entry = |(id, token, kind): (usize, &str, Kind)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind != Kind::UserDefined})
        };
        // An empty token would be found everywhere.
        added.filter(|(_, token, _)| !token.is_empty()).map(entry).collect()
    }
}

fn kind_of(meta: &Metadata, kind: i64) -> Result<Kind, Failure> {
    Ok(match kind {
        0 | 1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        other => return Err(meta.fault(KINDS, format!("has the unknown kind {other}"))),
    })
}

/// The step that adds BOS and EOS to a text, if the model wants them.
fn post_processor(
    meta: &Metadata,
    vocabulary: &Vocabulary<'_>,
    special: &SpecialIds,
    bos_by_default: bool,
) -> Result<Value, Failure> {
    let wanted = |name: &str, default: bool, id: Option<u64>| -> Result<Option<(u64, String)>, Failure> {
        let key = format!("tokenizer.ggml.add_{name}_token");
        let asked = meta.flag(&key)?;
        match (asked.unwrap_or(default), id.zip(vocabulary.text(id))) {
            (false, _) => Ok(None),
            (true, Some((id, text))) => Ok(Some((id, text.to_owned()))),
            (true, None) => Err(meta.fault(&key, format!("asks for a token that `{name}_token_id` does not name"))),
        }
    };
    let bos = wanted("bos", bos_by_default && special.bos.is_some(), special.bos)?;
    let eos = wanted("eos", false, special.eos.first().copied())?;
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let part = |token: &Option<(u64, String)>, kind: u8| {
        token.iter().map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": kind}})).collect::<Vec<_>>()
    };
    let sequence = |name: &str, kind: u8| {
        [part(&bos, kind), vec![json!({"Sequence": {"id": name, "type_id": kind}})], part(&eos, kind)].concat()
    };
    let names: Map<String, Value> = [&bos, &eos]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    Ok(json!({"type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": names}))
}

fn config(meta: &Metadata, vocabulary: &Vocabulary<'_>, special: &SpecialIds) -> Result<Value, Failure> {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    let named = [
        ("bos_token", special.bos),
        ("eos_token", special.eos.first().copied()),
        ("pad_token", special.pad),
        ("unk_token", special.unk),
    ];
    for (key, id) in named {
        if let Some(text) = vocabulary.text(id) {
            config.insert(key.into(), json!(text));
        }
    }
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    if let Some(length) = meta.integer("llama.context_length")? {
        config.insert("model_max_length".into(), json!(length));
    }
    if let Some(template) = meta.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), json!(template));
    }
    Ok(Value::Object(config))
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
