//! A tokenizer joined to a chat template: the ids of a prompt, and of a prompt with its response and labels.
//! Every text has the ids of encoding it in one call, so a prompt is the same in training and in inference. Unaware of
//! data sets and of length limits.
//!
//! Labels are the response and its own end token, by construction: they begin where the prompt's ids end and stop at
//! the first end token after that. What a template adds behind it (a line break, the next turn) is not learnt.

use std::ops::Range;
use std::path::Path;

use tokenizers::Tokenizer;

use super::chat::{ChatChoice, ChatTemplate};
use super::error::DataError;
use super::shared_prefix::{SharedPrefix, is_cuttable};
use super::special::SpecialTokens;

/// Ids of one example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Prompt, response, end token, and what the template adds after it.
    pub ids: Vec<u32>,
    /// How many of them are prompt.
    pub prompt_length: usize,
    /// The positions that are learnt: the response and its end token.
    pub labels: Range<usize>,
}

/// A tokenizer and a chat template that fit each other.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    /// Whether the tokenizer adds its own BOS: only where the template does not write it.
    add_special: bool,
    /// Whether texts that begin alike may share the ids of their beginning.
    cuttable: bool,
    pub(super) bos: Option<u32>,
    pub(super) pad: Option<u32>,
    pub(super) end: u32,
    pub(super) end_text: String,
}

/// The stand-in for a response when a template is probed; no template writes it by itself.
const PROBE: &str = "anneal-probe-response";

impl Encoder {
    /// Opens the tokenizer of a Hugging Face model folder with the chosen template.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`], [`DataError::ChatTemplate`], [`DataError::Io`], [`DataError::Json`]: something is
    /// absent, malformed, or tokenizer and template do not fit.
    pub fn open(model: &Path, choice: ChatChoice) -> Result<Self, DataError> {
        let path = model.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| DataError::io("read", &path, source))?;
        let tokenizer = crate::text::parse(&bytes).map_err(|error| DataError::Tokenizer {
            place: path.display().to_string(),
            problem: format!("it is not a tokenizer.json that can be read here: {error}"),
        })?;
        let special = SpecialTokens::read(model, |id| tokenizer.id_to_token(id))?;
        let chat = ChatTemplate::choose(choice, model, special)?;
        Self::new(tokenizer, chat)
    }

    /// Joins a tokenizer and a template.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] or [`DataError::ChatTemplate`] if they do not fit: no end token, a BOS that the
    /// vocabulary lacks, a tokenizer that closes every text, a template whose prompt is not how its conversation begins.
    pub fn new(mut tokenizer: Tokenizer, chat: ChatTemplate) -> Result<Self, DataError> {
        // A tokenizer.json may carry both, and either would change ids without a word.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| misfit(format!("cannot switch truncation off: {error}")))?;
        let id_of = |token: &Option<String>| token.as_ref().and_then(|token| tokenizer.token_to_id(token));
        let added = encode(&tokenizer, "", true)?;
        let bos = id_of(&chat.special().bos).or(added.first().copied());
        let pad = id_of(&chat.special().pad);
        let probe = chat.prompt("", PROBE)?;
        let written = match bos.and_then(|id| tokenizer.id_to_token(id)) {
            Some(text) => probe.starts_with(&text),
            None => false,
        };
        let (end, end_text) = end_token(&tokenizer, &chat)?;
        let cuttable = is_cuttable(&tokenizer);
        let encoder = Self { tokenizer, chat, add_special: !written, cuttable, bos, pad, end, end_text };
        encoder.require_open_end()?;
        Ok(encoder)
    }

    /// A tokenizer that closes every text (BERT's `[SEP]`, T5's `</s>`) would close the prompt before the answer.
    fn require_open_end(&self) -> Result<(), DataError> {
        let (bare, with) = (encode(&self.tokenizer, "x", false)?, self.encode("x")?);
        if with.ends_with(&bare) {
            return Ok(());
        }
        let last = with.last().and_then(|&id| self.tokenizer.id_to_token(id)).unwrap_or_default();
        Err(misfit(format!(
            "its post-processor puts {last:?} after every text, which would end a prompt before its answer; \
             remove it from post_processor in tokenizer.json"
        )))
    }

    /// The ids of a text, in one call.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        encode(&self.tokenizer, text, self.add_special)
    }

    /// What the texts about one context share, if this tokenizer lets them: pass it on to the calls below.
    pub(super) fn shared(&self, system: &str, user: &str) -> Result<Option<SharedPrefix>, DataError> {
        let text = self.cuttable.then(|| self.chat.prompt(system, user)).transpose()?;
        text.map(|text| SharedPrefix::new(&self.tokenizer, text, self.add_special)).transpose()
    }

    /// The ids of [`Encoder::encode`], by way of a shared beginning.
    fn encode_sharing(&self, shared: Option<&SharedPrefix>, text: &str) -> Result<Vec<u32>, DataError> {
        match shared.map(|shared| shared.split(text)) {
            Some((head, at)) if at > 0 => {
                let rest = encode(&self.tokenizer, &text[at..], false)?;
                Ok([head, &rest].concat())
            }
            _ => self.encode(text),
        }
    }

    /// A prompt's text and its ids. An empty `system` is no system turn.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] or [`DataError::Tokenizer`].
    pub fn prompt(&self, system: &str, user: &str) -> Result<(String, Vec<u32>), DataError> {
        self.prompt_sharing(None, system, user)
    }

    pub(super) fn prompt_sharing(
        &self,
        shared: Option<&SharedPrefix>,
        system: &str,
        user: &str,
    ) -> Result<(String, Vec<u32>), DataError> {
        let text = self.chat.prompt(system, user)?;
        let ids = self.encode_sharing(shared, &text)?;
        Ok((text, ids))
    }

    /// The text of a whole conversation and its ids; plain text gets its end token as an id.
    pub(super) fn conversation(
        &self,
        shared: Option<&SharedPrefix>,
        system: &str,
        user: &str,
        answer: &str,
    ) -> Result<(String, Vec<u32>), DataError> {
        let text = self.chat.conversation(system, user, answer)?;
        let mut ids = self.encode_sharing(shared, &text)?;
        if self.chat.source().is_none() {
            ids.push(self.end);
        }
        Ok((text, ids))
    }

    /// Joins a prompt and the conversation that it begins into labelled ids.
    ///
    /// Where the conversation's ids begin with the prompt's, they are taken as they are. Where the tokenizer merges
    /// differently at the end of the prompt, the prompt's ids stay (inference will see them) and the tokens that begin
    /// after the prompt's last character follow.
    ///
    /// # Errors
    /// What is wrong, for the reader of an audit: a token across the boundary, no end token.
    pub(super) fn join(&self, prompt: (&str, &[u32]), full: (&str, Vec<u32>)) -> Result<Encoded, String> {
        let (prompt_text, prompt_ids) = prompt;
        let (full_text, full_ids) = full;
        if !full_text.starts_with(prompt_text) {
            return Err(format!(
                "the chat template {} does not begin the answered conversation with the prompt; choose another template",
                self.chat.name()
            ));
        }
        let ids = if full_ids.starts_with(prompt_ids) {
            full_ids
        } else {
            let rest = self.tokens_after(prompt_text.len(), full_text)?;
            let plain_end = self.chat.source().is_none().then_some(self.end);
            prompt_ids.iter().copied().chain(rest).chain(plain_end).collect()
        };
        let prompt_length = prompt_ids.len();
        let end = ids[prompt_length..].iter().position(|&id| id == self.end);
        let end = end.ok_or_else(|| format!("its end token {:?} is not among its ids", self.end_text))?;
        Ok(Encoded { ids, prompt_length, labels: prompt_length..prompt_length + end + 1 })
    }

    pub(super) fn tokens_after(&self, boundary: usize, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode(text, self.add_special).map_err(|error| error.to_string())?;
        let mut rest = Vec::new();
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if start >= boundary && end > boundary {
                rest.push(id);
            } else if end > boundary {
                let token = self.tokenizer.id_to_token(id).unwrap_or_default();
                return Err(format!(
                    "the token {token:?} covers both the prompt's end and the answer's beginning, so neither could be \
                     labelled alone; remove the white space that the answer begins with, or choose a chat \
                     template that separates them"
                ));
            }
        }
        Ok(rest)
    }

    /// The text of generated ids, up to the first end token.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] for ids that it cannot decode.
    pub fn decode_response(&self, ids: &[u32]) -> Result<String, DataError> {
        let end = ids.iter().position(|&id| id == self.end).unwrap_or(ids.len());
        self.decode(&ids[..end], true)
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        self.tokenizer.decode(ids, skip_special).map_err(|error| misfit(format!("cannot decode ids: {error}")))
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template.
    #[must_use]
    pub fn chat(&self) -> &ChatTemplate {
        &self.chat
    }

    /// The id of the token that ends an answer: generation stops at it.
    #[must_use]
    pub fn end_token(&self) -> u32 {
        self.end
    }

    /// The highest id of the vocabulary plus one.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        let highest = self.tokenizer.get_vocab(true).into_values().max();
        highest.map_or(0, |id| id as usize + 1)
    }
}

fn encode(tokenizer: &Tokenizer, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
    let encoding = tokenizer.encode_fast(text, add_special);
    encoding
        .map(|encoding| encoding.get_ids().to_vec())
        .map_err(|error| misfit(format!("cannot encode a text of {} bytes: {error}", text.len())))
}

fn misfit(problem: String) -> DataError {
    DataError::Tokenizer { place: "of the model".to_owned(), problem }
}

/// The token that ends an answer: the first added token that the template puts after it; in plain text the
/// tokenizer's end of sequence.
fn end_token(tokenizer: &Tokenizer, chat: &ChatTemplate) -> Result<(u32, String), DataError> {
    if chat.source().is_none() {
        let eos = chat.special().eos.clone();
        return eos.and_then(|eos| Some((tokenizer.token_to_id(&eos)?, eos))).ok_or_else(|| {
            misfit(
                "it names no end-of-sequence token of its vocabulary; set eos_token in tokenizer_config.json"
                    .to_owned(),
            )
        });
    }
    let text = chat.conversation("", PROBE, PROBE)?;
    let after = text.rsplit_once(PROBE).map_or("", |(_, after)| after);
    let added = tokenizer.get_added_tokens_decoder();
    let found = added.iter().filter_map(|(&id, token)| Some((after.find(&token.content)?, id, &token.content)));
    // The earliest; of two that begin together the longer, then the lower id.
    let first = found.min_by_key(|&(at, id, content)| (at, std::cmp::Reverse(content.len()), id));
    first.map(|(_, id, content)| (id, content.clone())).ok_or_else(|| DataError::ChatTemplate {
        name: chat.name().to_owned(),
        problem: format!("it writes {after:?} after an answer, which is no special token of this tokenizer"),
        hint: "an answer needs an end token to be learnt: choose the template that the tokenizer was made for",
    })
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
mod tests;
