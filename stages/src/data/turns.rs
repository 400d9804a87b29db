//! Ids and labels of a conversation of any number of turns: `Encoder` for instruction data. The ids of the whole text
//! are those of encoding it in one call, and the last prompt's ids are those that inference will see. Unaware of data
//! sets and of length limits.
//!
//! Labels are each assistant turn's text and its own end token, by construction: they begin where the prompt that leads
//! to the turn ends, as text and as ids, and stop at the first end token after that.

use std::ops::Range;

use super::chat::{Role, Turn};
use super::encoder::{Encoded, Encoder};
use super::error::DataError;

/// Ids of one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dialogue {
    /// All turns, and what the template adds after the last.
    pub(super) ids: Vec<u32>,
    /// How many of them lead to the last answer.
    pub(super) prompt_length: usize,
    /// The positions that are learnt, turn by turn.
    pub(super) labels: Vec<Range<usize>>,
    /// The text of the whole conversation.
    pub(super) text: String,
    /// Where each assistant turn begins in the text, in bytes.
    pub(super) prompt_bytes: Vec<usize>,
    /// The text that leads to the last answer.
    pub(super) prompt: String,
}

impl Encoder {
    /// The text of a whole conversation and its ids; plain text gets its end token as an id.
    pub(super) fn dialogue_ids(&self, turns: &[Turn<'_>]) -> Result<(String, Vec<u32>), DataError> {
        let text = self.chat().render(turns, false)?;
        let mut ids = self.encode(&text)?;
        if self.chat().source().is_none() {
            ids.push(self.end);
        }
        Ok((text, ids))
    }

    /// Encodes a conversation that ends with the assistant's turn. The inner error is what is wrong with this
    /// conversation, for the reader of an audit.
    ///
    /// # Errors
    /// [`DataError::ChatTemplate`] or [`DataError::Tokenizer`].
    pub(super) fn dialogue(&self, turns: &[Turn<'_>]) -> Result<Result<Dialogue, String>, DataError> {
        let (text, ids) = self.dialogue_ids(turns)?;
        let answers = turns.iter().enumerate().filter(|(_, turn)| turn.role == Role::Assistant).map(|(at, _)| at);
        let prompts = answers.map(|at| self.chat().render(&turns[..at], true)).collect::<Result<Vec<_>, _>>()?;
        let Some((prompt, earlier)) = prompts.split_last() else {
            return Ok(Err("it has no answer; add an assistant's turn".to_owned()));
        };
        let prompt_ids = self.encode(prompt)?;
        let mut labels = Vec::with_capacity(prompts.len());
        for (number, before) in earlier.iter().enumerate() {
            let turn_ids = self.encode(before)?;
            match self.turn_labels((before, &turn_ids), (prompt, &prompt_ids)) {
                Ok(range) => labels.push(range),
                Err(problem) => return Ok(Err(format!("answer {} of {}: {problem}", number + 1, prompts.len()))),
            }
        }
        let joined = self.join((prompt, &prompt_ids), (&text, ids));
        Ok(joined.map(|Encoded { ids, prompt_length, labels: last }| {
            labels.push(last);
            let prompt_bytes = prompts.iter().map(String::len).collect();
            Dialogue { ids, prompt_length, labels, text, prompt_bytes, prompt: prompt.clone() }
        }))
    }

    /// The labels of an earlier turn among the ids of the last prompt, which holds that turn.
    fn turn_labels(&self, before: (&str, &[u32]), prompt: (&str, &[u32])) -> Result<Range<usize>, String> {
        let ((before_text, before_ids), (text, ids)) = (before, prompt);
        if !text.starts_with(before_text) {
            return Err(format!(
                "the chat template {} writes it differently once the conversation goes on, so it cannot be learnt \
                 there; give each turn a row of its own, or choose another template",
                self.chat().name()
            ));
        }
        // Where the tokenizer merges differently at the boundary, the tokens that begin after it are the turn's.
        let start = if ids.starts_with(before_ids) {
            before_ids.len()
        } else {
            ids.len() - self.tokens_after(before_text.len(), text)?.len()
        };
        let end = ids[start..].iter().position(|&id| id == self.end);
        let end = end.ok_or_else(|| format!("its end token {:?} is not among its ids", self.end_text))?;
        Ok(start..start + end + 1)
    }
}
