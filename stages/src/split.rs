//! Reads a split of a tokens artifact for a model, checking that the two belong together.
//!
//! Unaware of what the tokens will be used for.
use crate::data::summary::Summary;
use crate::data::token_set::{Split, TokenSet};
use crate::failure::OrFail;
use crate::llama::LlamaConfig;
use anneal_engine::Failure;
use std::path::Path;

/// A split that must be there and hold something.
///
/// # Errors
/// It is absent or empty, damaged, or made with a tokenizer of a larger vocabulary than the model's.
pub(crate) fn require(dir: &Path, split: Split, config: &LlamaConfig) -> Result<TokenSet, Failure> {
    let found = optional(dir, split, config)?;
    found.ok_or_else(|| {
        Failure::user(format!("the tokens have no `{}` split", split.name()))
            .hint(format!("give the data set a file for `{}`", split.name()))
    })
}

/// A split, if it is there and holds something.
///
/// # Errors
/// It is damaged, or made with a tokenizer of a larger vocabulary than the model's.
pub(crate) fn optional(dir: &Path, split: Split, config: &LlamaConfig) -> Result<Option<TokenSet>, Failure> {
    let summary = Summary::read(dir).or_fail()?;
    let found = TokenSet::read(dir, split).or_fail()?.filter(|set| !set.is_empty());
    let largest = found.as_ref().and_then(|set| set.ids.iter().max()).copied().unwrap_or(0) as usize;
    if largest >= config.vocab_size {
        return Err(Failure::user(format!(
            "the tokens hold id {largest}, the model has {} embeddings (their tokenizer has {} entries)",
            config.vocab_size, summary.vocab_size
        ))
        .hint("tokenize with the model that is trained: inputs = { model = … } of both stages must agree"));
    }
    Ok(found)
}
