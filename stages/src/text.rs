//! A model's tokenizer where no chat template is needed: ids to text, and whether it fits the model's embedding.
//!
//! Unaware of prompts; `data::encoder` makes those.
use crate::llama::LlamaConfig;
use anneal_engine::Failure;
use std::path::{Path, PathBuf};

/// A tokenizer read from a model's folder.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

/// Reads the content of a `tokenizer.json`.
///
/// # Errors
/// What is wrong with it. The crate `tokenizers` panics on some damaged files (0.23: a text that ends inside its decoder,
/// a normalizer's table that cannot be decoded): it gets whole JSON only, and its panic is an error like others.
pub(crate) fn parse(bytes: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| format!("not valid JSON: {e}"))?;
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(parsed) => parsed.map_err(|e| e.to_string()),
        Err(_) => Err("a part of it is damaged".to_owned()),
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a folder.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::user(format!("{}: the model has no tokenizer.json", path.display()))
                    .hint("put the one that it was trained with into the model's folder, beside config.json")
            }
            _ => Failure::io("read", &path, &e),
        })?;
        let inner = parse(&bytes).map_err(|problem| {
            Failure::user(format!("{}: not a tokenizer.json: {problem}", path.display()))
                .hint("copy the file again from where the model came from")
        })?;
        Ok(Self { path, inner })
    }

    /// The text of ids, special tokens left out.
    ///
    /// # Errors
    /// An id that the tokenizer cannot decode.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        self.inner.decode(ids, true).map_err(|e| Failure::user(format!("{}: cannot decode: {e}", self.path.display())))
    }

    /// The id of a token by its text.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Largest id plus one, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Checks that every id has a row in the model's embedding. Fewer ids than rows are usual (padded embeddings).
    ///
    /// # Errors
    /// The tokenizer has more entries than the model has rows.
    pub fn check_vocabulary(&self, config: &LlamaConfig) -> Result<(), Failure> {
        let size = self.vocab_size();
        if size <= config.vocab_size {
            return Ok(());
        }
        Err(Failure::user(format!(
            "{}: the tokenizer has {size} entries, the model's vocab_size is {}",
            self.path.display(),
            config.vocab_size
        ))
        .hint("the tokenizer belongs to another model"))
    }
}
