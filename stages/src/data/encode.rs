//! Encodes a split: every question of every context into prompt ids, response ids and labels, within a length limit
//! that only ever costs text paragraphs, and audited. Unaware of files and of the engine.

use rayon::prelude::*;

use super::audit::{Bos, audit};
use super::encoder::{Encoded, Encoder};
use super::error::DataError;
use super::prompt::{PromptTemplate, ResponseForm};
use super::shared_prefix::SharedPrefix;
use super::summary::{SplitSummary, Summary};
use super::tatqa::{Context, Question};
use super::token_set::{Example, TokenSet};

/// How many offending questions an error names.
pub(super) const NAMED: usize = 3;

/// How examples are rendered and limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The prompt template.
    pub template: PromptTemplate,
    /// The response form.
    pub response: ResponseForm,
    /// The system prompt, "" for none.
    pub system: String,
    /// The most ids an example may have, response included.
    pub max_length: usize,
}

/// Why a question could not be encoded.
enum Failure {
    /// Too long even without text: its length with all of it, and without.
    Long { whole: usize, least: usize },
    /// It failed the audit.
    Audit(String),
    /// Template or tokenizer failed; this concerns more than one question.
    Other(DataError),
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::Other(error)
    }
}

/// An encoded example with its texts.
struct Fitted {
    encoded: Encoded,
    prompt: String,
    dropped: usize,
}

/// A text and its ids.
type TextIds = (String, Vec<u32>);

/// A question and what became of it.
type Outcome<'a> = (&'a Question, Result<Fitted, Failure>);

/// Encodes all questions of `contexts`, in their order. The same input gives the same set on any number of threads.
///
/// Where an example is longer than `max_length`, its last text paragraphs are left out until it fits; table, question
/// and answer never are.
///
/// # Errors
/// [`DataError::TooLong`] with all questions that cannot fit counted; [`DataError::Audit`] or [`DataError::Audits`];
/// [`DataError::Tokenizer`], [`DataError::ChatTemplate`].
pub fn encode_split(encoder: &Encoder, contexts: &[Context], options: &Options) -> Result<TokenSet, DataError> {
    let bos = bos_count(encoder, options)?;
    let encoded: Vec<Vec<Outcome<'_>>> =
        contexts.par_iter().map(|context| encode_context(encoder, bos, context, options)).collect::<Result<_, _>>()?;
    let mut set = TokenSet { cu_seqlens: vec![0], ..TokenSet::default() };
    let mut long = Vec::new();
    let mut audits = Vec::new();
    for (context, questions) in encoded.into_iter().enumerate() {
        for (question, result) in questions {
            match result {
                Ok(fitted) => add(&mut set, context, question, fitted),
                Err(Failure::Long { whole, least }) => long.push((question.uid.as_str(), whole, least)),
                Err(Failure::Audit(problem)) => audits.push((question.uid.clone(), problem)),
                Err(Failure::Other(error)) => return Err(error),
            }
        }
    }
    let questions = set.len() + long.len() + audits.len();
    if let Some(error) = too_long(&long, questions, options.max_length).or_else(|| failed_audits(audits, questions)) {
        return Err(error);
    }
    Ok(set)
}

/// Encodes the questions of one context. All of them begin with its table and texts.
fn encode_context<'a>(
    encoder: &Encoder,
    bos: Bos,
    context: &'a Context,
    options: &Options,
) -> Result<Vec<Outcome<'a>>, DataError> {
    let Some(first) = context.questions.first() else { return Ok(Vec::new()) };
    let user = options.template.render(context, first, context.paragraphs.len());
    let shared = encoder.shared(&options.system, &user)?;
    let one = |question| (question, fit(encoder, shared.as_ref(), bos, context, question, options));
    Ok(context.questions.iter().map(one).collect())
}

/// How often the BOS stands in a conversation under these options, counted in one about nothing.
fn bos_count(encoder: &Encoder, options: &Options) -> Result<Bos, DataError> {
    let (_, ids) = encoder.conversation(None, &options.system, "x", "x")?;
    Ok(Bos(ids.iter().filter(|&&id| Some(id) == encoder.bos).count()))
}

fn fit(
    encoder: &Encoder,
    shared: Option<&SharedPrefix>,
    bos: Bos,
    context: &Context,
    question: &Question,
    options: &Options,
) -> Result<Fitted, Failure> {
    let response = options.response.render(question);
    let all = context.paragraphs.len();
    let user = |kept: usize| options.template.render(context, question, kept);
    let full = |kept: usize| encoder.conversation(shared, &options.system, &user(kept), &response);
    let mut kept = all;
    let mut whole = full(all)?;
    let whole_length = whole.1.len();
    if whole_length > options.max_length {
        match longest_fitting(all, options.max_length, full)? {
            Some(found) => (kept, whole) = found,
            None => return Err(Failure::Long { whole: whole_length, least: full(0)?.1.len() }),
        }
    }
    let (prompt, prompt_ids) = encoder.prompt_sharing(shared, &options.system, &user(kept))?;
    let (text, ids) = whole;
    let encoded = encoder.join((&prompt, &prompt_ids), (&text, ids)).map_err(Failure::Audit)?;
    if encoded.ids.len() > options.max_length {
        // Only where prompt and conversation merge differently at their boundary, by a token or two.
        return Err(Failure::Long { whole: whole_length, least: encoded.ids.len() });
    }
    audit(encoder, bos, &encoded, &text, prompt.len(), &response).map_err(Failure::Audit)?;
    Ok(Fitted { encoded, prompt, dropped: all - kept })
}

/// The largest number of paragraphs below `all` whose conversation fits, with that conversation. Lengths grow with the
/// number, so halving finds it.
fn longest_fitting(
    all: usize,
    max_length: usize,
    full: impl Fn(usize) -> Result<TextIds, DataError>,
) -> Result<Option<(usize, TextIds)>, DataError> {
    let (mut low, mut high) = (0, all);
    let mut best = None;
    while low < high {
        let middle = usize::midpoint(low, high);
        let candidate = full(middle)?;
        if candidate.1.len() <= max_length {
            best = Some((middle, candidate));
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(best)
}

fn add(set: &mut TokenSet, context: usize, question: &Question, fitted: Fitted) {
    let example = Example {
        sid: set.len(),
        uid: question.uid.clone(),
        context,
        answer: question.answer.clone(),
        answer_type: Some(question.answer_type),
        answer_from: Some(question.answer_from),
        scale: question.scale.clone(),
        question: question.question.clone(),
        prompt: fitted.prompt,
        dropped: fitted.dropped,
        turns: 1,
    };
    let Encoded { ids, prompt_length, labels } = fitted.encoded;
    set.push(&ids, prompt_length, labels, example);
}

fn too_long(long: &[(&str, usize, usize)], questions: usize, max_length: usize) -> Option<DataError> {
    let needed = long.iter().map(|&(_, _, least)| least).max()?;
    let name = |(uid, whole, least): &(&str, usize, usize)| format!("{uid} ({whole} tokens, {least} without text)");
    let first: Vec<String> = long.iter().take(NAMED).map(name).collect();
    Some(DataError::TooLong { count: long.len(), questions, max_length, first: first.join(", "), needed })
}

pub(super) fn failed_audits(mut audits: Vec<(String, String)>, questions: usize) -> Option<DataError> {
    if audits.len() < 2 {
        return audits.pop().map(|(uid, problem)| DataError::Audit { uid, problem });
    }
    let first: Vec<String> = audits.iter().take(NAMED).map(|(uid, problem)| format!("{uid}: {problem}")).collect();
    Some(DataError::Audits { count: audits.len(), questions, first: first.join("; ") })
}

/// The artifact's summary for the splits at hand.
#[must_use]
pub fn summarize(encoder: &Encoder, options: &Options, train: Option<&TokenSet>, eval: Option<&TokenSet>) -> Summary {
    Summary {
        template: Some(options.template),
        response: Some(options.response),
        chat: encoder.chat().name().to_owned(),
        system: options.system.clone(),
        template_hash: template_hash(encoder, options),
        max_length: options.max_length,
        vocab_size: encoder.vocab_size(),
        end_token: encoder.end_token(),
        train: train.map(SplitSummary::of),
        eval: eval.map(SplitSummary::of),
    }
}

/// BLAKE3, in hexadecimal, of every text that templates put around a question: each preceded by its length, so that
/// moving a character from one to the next changes the hash.
#[must_use]
pub fn template_hash(encoder: &Encoder, options: &Options) -> String {
    let texts = [
        options.template.fixed_text(),
        &options.response.render_answer(&["a".to_owned(), "b".to_owned()], "million"),
        encoder.chat().source().unwrap_or(""),
        &options.system,
        &encoder.end_text,
    ];
    hash_texts(&texts)
}

/// BLAKE3, in hexadecimal, of texts with their lengths.
pub(super) fn hash_texts(texts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
