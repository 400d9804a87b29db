//! The examples of one split as token ids, in memory and as files: `<split>.tokens.safetensors` holds ids, label flags,
//! cumulative lengths and prompt lengths; `<split>.examples.jsonl` one object an example. What is read is checked
//! against itself, because trainers index by it. Unaware of tokenizers and templates.
//!
//! ```text
//! train.tokens.safetensors   ids U32 [total], labelled U8 [total], cu_seqlens I64 [examples+1], prompt_lengths U32 [examples]
//! train.examples.jsonl       sid, uid, context, answer, scale, question, prompt, dropped; of TAT-QA also answer_type and
//!                            answer_from; of conversations with more than one answer also turns
//! eval.*                     the same
//! summary.json               see `summary`
//! ```

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::error::{DataError, read_text, write_file};
use super::tatqa::{Answer, AnswerFrom, AnswerType};

/// The version of the files' form, kept in the tensors file's metadata.
const FORMAT: &str = "anneal-tokens-1";

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// To learn from.
    Train,
    /// To be measured on.
    Eval,
}

impl Split {
    /// Both, in the order of their files' names in a listing of the flow.
    pub const ALL: [Self; 2] = [Self::Train, Self::Eval];

    /// The stem of its files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }
}

/// What is known of an example besides its ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Its position, from 0, in the split's file order.
    pub sid: usize,
    /// The question's uid.
    pub uid: String,
    /// The position of its context in the file: examples of one context share most of their prompt.
    pub context: usize,
    /// The gold answer.
    pub answer: Answer,
    /// How the answer is made; only TAT-QA knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_type: Option<AnswerType>,
    /// Where it is found; only TAT-QA knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_from: Option<AnswerFrom>,
    /// "", "thousand", "million", "billion" or "percent".
    pub scale: String,
    /// The question's text.
    pub question: String,
    /// The rendered prompt, chat template included: the text of `prompt(i)`.
    pub prompt: String,
    /// How many text paragraphs were left out to fit `max_length`.
    pub dropped: usize,
    /// How many assistant turns it has; all but the last stand, labelled, in the prompt.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub turns: usize,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(turns: &usize) -> bool {
    *turns == 1
}

/// The examples of a split, in the order of its file, end to end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenSet {
    /// The ids of all examples: prompt, then response and end token, then what the template adds.
    pub ids: Vec<u32>,
    /// 1 where the id is to be learnt, else 0.
    pub labelled: Vec<u8>,
    /// Where each example starts in `ids`; one more entry than examples, the last being the total.
    pub cu_seqlens: Vec<usize>,
    /// How many ids of each example are prompt.
    pub prompt_lengths: Vec<u32>,
    /// One for each example.
    pub examples: Vec<Example>,
}

impl TokenSet {
    /// How many examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is no example.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The ids and label flags of example `i`.
    ///
    /// # Panics
    /// If `i` is not below [`TokenSet::len`].
    #[must_use]
    pub fn example(&self, i: usize) -> (&[u32], &[u8]) {
        let range = self.cu_seqlens[i]..self.cu_seqlens[i + 1];
        (&self.ids[range.clone()], &self.labelled[range])
    }

    /// The prompt's ids of example `i`: a prefix of its ids.
    ///
    /// # Panics
    /// If `i` is not below [`TokenSet::len`].
    #[must_use]
    pub fn prompt(&self, i: usize) -> &[u32] {
        &self.example(i).0[..self.prompt_lengths[i] as usize]
    }

    /// Appends an example whose ids from `labels.start` to `labels.end` are labelled.
    pub(crate) fn push(&mut self, ids: &[u32], prompt_length: usize, labels: Range<usize>, example: Example) {
        self.push_turns(ids, prompt_length, &[labels], example);
    }

    /// Appends an example whose ids in each of `labels` are labelled.
    pub(crate) fn push_turns(&mut self, ids: &[u32], prompt_length: usize, labels: &[Range<usize>], example: Example) {
        if self.cu_seqlens.is_empty() {
            self.cu_seqlens.push(0);
        }
        self.ids.extend_from_slice(ids);
        let labelled = |at: usize| labels.iter().any(|range| range.contains(&at));
        self.labelled.extend((0..ids.len()).map(|at| u8::from(labelled(at))));
        self.cu_seqlens.push(self.ids.len());
        // A prompt is bounded by max_length, far below 2^32.
        self.prompt_lengths.push(u32::try_from(prompt_length).unwrap_or(u32::MAX));
        self.examples.push(example);
    }

    /// Writes the two files of `split` into `dir`. Equal sets give equal bytes.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn write(&self, dir: &Path, split: Split) -> Result<(), DataError> {
        let (tensors, examples) = paths(dir, split);
        let bytes = self.tensor_bytes().map_err(|error| damaged(&tensors, error.to_string()))?;
        write_file(&tensors, &bytes)?;
        let mut lines = Vec::new();
        for example in &self.examples {
            serde_json::to_writer(&mut lines, example).map_err(|error| damaged(&examples, error.to_string()))?;
            lines.push(b'\n');
        }
        write_file(&examples, &lines)
    }

    fn tensor_bytes(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let ids = little_endian(&self.ids);
        let prompts = little_endian(&self.prompt_lengths);
        let zero = [0];
        let ends = if self.cu_seqlens.is_empty() { &zero } else { self.cu_seqlens.as_slice() };
        let ends: Vec<u8> = ends.iter().flat_map(|&end| (end as u64).to_le_bytes()).collect();
        let tensors = [
            ("ids", TensorView::new(Dtype::U32, vec![self.ids.len()], &ids)?),
            ("labelled", TensorView::new(Dtype::U8, vec![self.labelled.len()], &self.labelled)?),
            ("cu_seqlens", TensorView::new(Dtype::I64, vec![ends.len() / 8], &ends)?),
            ("prompt_lengths", TensorView::new(Dtype::U32, vec![self.prompt_lengths.len()], &prompts)?),
        ];
        let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned())]);
        safetensors::serialize(tensors, Some(metadata))
    }

    /// Reads the two files of `split`; `None` if the split is absent.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::TokenSet`] where a file is truncated or contradicts itself or the other.
    pub fn read(dir: &Path, split: Split) -> Result<Option<Self>, DataError> {
        let (tensors, lines) = paths(dir, split);
        if !tensors.exists() && !lines.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&tensors).map_err(|source| DataError::io("read", &tensors, source))?;
        let examples = read_examples(&lines)?;
        let set = Self::from_bytes(&bytes, examples).map_err(|problem| damaged(&tensors, problem))?;
        Ok(Some(set))
    }

    fn from_bytes(bytes: &[u8], examples: Vec<Example>) -> Result<Self, String> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let format = metadata.metadata().as_ref().and_then(|entries| entries.get("format"));
        if format.map(String::as_str) != Some(FORMAT) {
            return Err(format!("its format is {format:?}, not {FORMAT}"));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let cu_seqlens = tensor(&file, "cu_seqlens", Dtype::I64)?
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| usize::try_from(i64::from_le_bytes(*bytes)).map_err(|_| "cu_seqlens has a negative entry"))
            .collect::<Result<_, _>>()?;
        let set = Self {
            ids: u32s(tensor(&file, "ids", Dtype::U32)?),
            labelled: tensor(&file, "labelled", Dtype::U8)?.to_vec(),
            cu_seqlens,
            prompt_lengths: u32s(tensor(&file, "prompt_lengths", Dtype::U32)?),
            examples,
        };
        set.check()?;
        Ok(set)
    }

    /// Whether the parts fit each other; afterwards no index into the set can fail.
    fn check(&self) -> Result<(), String> {
        let (total, count) = (self.ids.len(), self.examples.len());
        let require = |holds: bool, problem: String| if holds { Ok(()) } else { Err(problem) };
        require(self.labelled.len() == total, format!("{total} ids, but {} label flags", self.labelled.len()))?;
        require(
            self.cu_seqlens.len() == count + 1 && self.prompt_lengths.len() == count,
            format!(
                "{count} examples, but {} cumulative lengths and {} prompt lengths",
                self.cu_seqlens.len(),
                self.prompt_lengths.len()
            ),
        )?;
        let ends = (self.cu_seqlens.first(), self.cu_seqlens.last());
        require(ends == (Some(&0), Some(&total)), format!("cumulative lengths run {ends:?}, not from 0 to {total}"))?;
        require(self.cu_seqlens.is_sorted(), "cumulative lengths go down".to_owned())?;
        for (i, example) in self.examples.iter().enumerate() {
            let (ids, flags) = self.example(i);
            let prompt = self.prompt_lengths[i] as usize;
            let name = format!("example {i} ({})", example.uid);
            require(example.sid == i, format!("{name} has sid {}", example.sid))?;
            require(prompt > 0 && prompt < ids.len(), format!("{name}: prompt of {prompt} in {} ids", ids.len()))?;
            require(flags.iter().all(|&flag| flag <= 1), format!("{name} has label flags other than 0 and 1"))?;
            let unlabelled = flags[..prompt].iter().all(|&flag| flag == 0);
            require(unlabelled || example.turns > 1, format!("{name} has labels in its prompt"))?;
            require(flags[prompt..].contains(&1), format!("{name} has no labelled token"))?;
        }
        Ok(())
    }
}

fn paths(dir: &Path, split: Split) -> (PathBuf, PathBuf) {
    let name = split.name();
    (dir.join(format!("{name}.tokens.safetensors")), dir.join(format!("{name}.examples.jsonl")))
}

pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::TokenSet { path: path.to_owned(), problem: problem.into() }
}

fn read_examples(path: &Path) -> Result<Vec<Example>, DataError> {
    let text = read_text(path)?;
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| damaged(path, format!("line {}: {error}", at + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

fn tensor<'a>(file: &SafeTensors<'a>, name: &str, dtype: Dtype) -> Result<&'a [u8], String> {
    let view = file.tensor(name).map_err(|error| format!("tensor {name}: {error}"))?;
    if view.dtype() != dtype || view.shape().len() != 1 {
        return Err(format!("tensor {name} is {:?} {:?}, not a list of {dtype:?}", view.dtype(), view.shape()));
    }
    Ok(view.data())
}

fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

fn little_endian(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
#[path = "token_set_tests.rs"]
mod tests;
