//! `summary.json` of a tokens artifact: what was rendered how, and the lengths that came out of it.
//! Unaware of tokenizers; it counts what a token set holds.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{DataError, read_text, write_file};
use super::prompt::{PromptTemplate, ResponseForm};
use super::token_set::{Split, TokenSet, damaged};

/// The name of the file.
const FILE: &str = "summary.json";

/// How the examples were made, and figures of each split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The prompt template; instruction rows have none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub template: Option<PromptTemplate>,
    /// The response form; instruction rows have none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub response: Option<ResponseForm>,
    /// The chat template's name.
    pub chat: String,
    /// The system prompt, "" for none.
    pub system: String,
    /// BLAKE3 of all template text in effect, in hexadecimal: two artifacts with one hash render alike.
    pub template_hash: String,
    /// The limit on an example's ids.
    pub max_length: usize,
    /// How many rows an embedding needs for these ids: the highest id of the vocabulary plus one.
    pub vocab_size: usize,
    /// The id of the token that ends an answer.
    pub end_token: u32,
    /// Figures of the training split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub train: Option<SplitSummary>,
    /// Figures of the evaluation split.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval: Option<SplitSummary>,
}

/// Figures of one split; lengths in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitSummary {
    /// How many examples.
    pub examples: usize,
    /// How many contexts they belong to.
    pub contexts: usize,
    /// All ids.
    pub tokens: usize,
    /// Ids that are learnt.
    pub labelled_tokens: usize,
    /// Mean length.
    pub mean_length: f64,
    /// The length that half of the examples do not exceed.
    pub median_length: usize,
    /// The length that 90 % of the examples do not exceed.
    pub p90_length: usize,
    /// The longest.
    pub max_length: usize,
    /// The longest prompt.
    pub max_prompt_length: usize,
    /// Examples that lost text paragraphs to `max_length`.
    pub shortened_examples: usize,
    /// How many paragraphs they lost together.
    pub dropped_paragraphs: usize,
}

impl SplitSummary {
    /// Counts a split.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    pub fn of(set: &TokenSet) -> Self {
        let mut lengths: Vec<usize> = (0..set.len()).map(|i| set.example(i).0.len()).collect();
        lengths.sort_unstable();
        let mut contexts: Vec<usize> = set.examples.iter().map(|example| example.context).collect();
        contexts.dedup();
        // The nearest rank: the smallest length that at least this share of the examples does not exceed.
        let rank = |percent: usize| lengths.get((lengths.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self {
            examples: set.len(),
            contexts: contexts.len(),
            tokens: set.ids.len(),
            labelled_tokens: set.labelled.iter().map(|&flag| usize::from(flag)).sum(),
            mean_length: set.ids.len() as f64 / set.len().max(1) as f64,
            median_length: rank(50).unwrap_or(0),
            p90_length: rank(90).unwrap_or(0),
            max_length: rank(100).unwrap_or(0),
            max_prompt_length: set.prompt_lengths.iter().max().map_or(0, |&length| length as usize),
            shortened_examples: set.examples.iter().filter(|example| example.dropped > 0).count(),
            dropped_paragraphs: set.examples.iter().map(|example| example.dropped).sum(),
        }
    }
}

impl Summary {
    /// Writes `summary.json` into `dir`.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn write(&self, dir: &Path) -> Result<(), DataError> {
        let path = dir.join(FILE);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| damaged(&path, error.to_string()))?;
        bytes.push(b'\n');
        write_file(&path, &bytes)
    }

    /// Reads `summary.json` from `dir`.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::TokenSet`] where it is not what [`Summary::write`] writes.
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(FILE);
        serde_json::from_str(&read_text(&path)?).map_err(|error| damaged(&path, error.to_string()))
    }

    /// The figures of a split, if the artifact has it.
    #[must_use]
    pub fn split(&self, split: Split) -> Option<&SplitSummary> {
        match split {
            Split::Train => self.train.as_ref(),
            Split::Eval => self.eval.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tatqa::{Answer, AnswerFrom, AnswerType};
    use crate::data::token_set::Example;

    fn set() -> TokenSet {
        let mut set = TokenSet::default();
        for sid in 0..10 {
            let example = Example {
                sid,
                uid: sid.to_string(),
                context: sid / 4,
                answer: Answer::Text("x".to_owned()),
                answer_type: Some(AnswerType::Count),
                answer_from: Some(AnswerFrom::Text),
                scale: String::new(),
                question: String::new(),
                prompt: String::new(),
                dropped: usize::from(sid > 7) * 2,
                turns: 1,
            };
            set.push(&vec![7; sid + 3], 1, 1..3, example);
        }
        set
    }

    #[test]
    fn counts_lengths_labels_and_drops() {
        let summary = SplitSummary::of(&set());
        assert_eq!((summary.examples, summary.contexts, summary.tokens), (10, 3, 75));
        assert_eq!((summary.labelled_tokens, summary.shortened_examples, summary.dropped_paragraphs), (20, 2, 4));
        assert_eq!((summary.median_length, summary.p90_length, summary.max_length), (7, 11, 12));
        assert!((summary.mean_length - 7.5).abs() < 1e-12);
        assert_eq!(SplitSummary::of(&TokenSet::default()).max_length, 0);
    }

    #[test]
    fn round_trips_and_refuses_damage() {
        let dir = tempfile::tempdir().unwrap();
        let summary = Summary {
            template: Some(PromptTemplate::Brief),
            response: Some(ResponseForm::Plain),
            chat: "chatml".to_owned(),
            system: String::new(),
            template_hash: "00".to_owned(),
            max_length: 4096,
            vocab_size: 49152,
            end_token: 2,
            train: Some(SplitSummary::of(&set())),
            eval: None,
        };
        summary.write(dir.path()).unwrap();
        assert_eq!(Summary::read(dir.path()).unwrap(), summary);
        assert!(summary.split(Split::Train).is_some() && summary.split(Split::Eval).is_none());
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        let text = Summary::read(dir.path()).unwrap_err().to_string();
        assert!(text.contains("missing field") && text.contains("summary.json"), "{text}");
    }
}
