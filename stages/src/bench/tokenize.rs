//! Rendering and tokenizing of a TAT-QA file, as `tokenize` does it, label audit included.
//!
//! Unaware of models.
use crate::data::chat::ChatChoice;
use crate::data::encode::{Options, encode_split};
use crate::data::encoder::Encoder;
use crate::data::tatqa;
use crate::failure::OrFail;
use crate::tokenize::TokenizeParams;
use anneal_engine::{Failure, ParamSet};
use std::path::Path;
use std::time::Instant;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeMeasured {
    /// Questions in the file.
    pub questions: usize,
    /// Tokens of all of them, answers included.
    pub tokens: usize,
    /// Seconds to read the tokenizer and the data file.
    pub open_seconds: f64,
    /// Seconds of rendering, encoding and the audit, for each repetition.
    pub seconds: Vec<f64>,
}

/// Tokenizes `data` for the tokenizer in the folder `model`, with the chat template of this name, `repeats` times.
///
/// # Errors
/// A file cannot be read; the tokenizer or its chat template is refused; an example does not fit.
pub fn run(model: &Path, chat: &str, data: &Path, repeats: usize) -> Result<TokenizeMeasured, Failure> {
    let chat: ChatChoice = serde_json::from_value(chat.into()).map_err(|_| {
        Failure::user(format!("there is no chat template `{chat}`")).hint("`anneal stages tokenize` lists them")
    })?;
    let defaults = TokenizeParams::defaults().map_err(|e| Failure::bug(format!("`tokenize` has no defaults: {e}")))?;
    let TokenizeParams { template, response, system, max_length, .. } = defaults;
    let options = Options { template, response, system, max_length };
    let started = Instant::now();
    let encoder = Encoder::open(model, chat).or_fail()?;
    let contexts = tatqa::read(data).or_fail()?;
    let open_seconds = started.elapsed().as_secs_f64();
    let mut measured = TokenizeMeasured { questions: 0, tokens: 0, open_seconds, seconds: Vec::new() };
    for _ in 0..repeats.max(1) {
        let started = Instant::now();
        let set = encode_split(&encoder, &contexts, &options).or_fail()?;
        measured.seconds.push(started.elapsed().as_secs_f64());
        measured.questions = set.len();
        measured.tokens = (0..set.len()).map(|i| set.example(i).0.len()).sum();
    }
    Ok(measured)
}
