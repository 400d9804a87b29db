//! Encodes instruction rows: whole conversations into ids, with every assistant turn labelled. Nothing is ever cut off:
//! a row that is too long is an error with the length it needs. Unaware of files and of the engine.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::audit::{Bos, audit_labels, check_bos};
use super::chat::{Role, Turn};
use super::encode::{NAMED, Options, failed_audits, hash_texts, summarize};
use super::encoder::Encoder;
use super::error::DataError;
use super::instruct::Conversation;
use super::summary::Summary;
use super::tatqa::Answer;
use super::token_set::{Example, TokenSet};
use super::turns::Dialogue;

/// A row's ids, its length where it is too long, or what the audit found.
enum Outcome {
    Fits(Dialogue),
    Long(usize),
    Audit(String),
}

/// Encodes all rows in their order; of `options` only the system prompt (where a row has none) and `max_length` matter.
/// The same input gives the same set on any number of threads.
///
/// # Errors
/// [`DataError::TooLongRows`]; [`DataError::Audit`] or [`DataError::Audits`]; [`DataError::Tokenizer`],
/// [`DataError::ChatTemplate`].
pub fn encode_rows(encoder: &Encoder, rows: &[Conversation], options: &Options) -> Result<TokenSet, DataError> {
    let counts = bos_counts(encoder, rows, &options.system)?;
    let outcomes: Vec<Outcome> = rows
        .par_iter()
        .map(|row| {
            let turns = row.turns(&options.system);
            let bos = counts.get(&turns.len()).copied().unwrap_or(Bos(0));
            one(encoder, bos, &turns, options.max_length)
        })
        .collect::<Result<_, _>>()?;
    let mut set = TokenSet { cu_seqlens: vec![0], ..TokenSet::default() };
    let (mut long, mut audits) = (Vec::new(), Vec::new());
    for (row, outcome) in rows.iter().zip(outcomes) {
        match outcome {
            Outcome::Fits(dialogue) => add(&mut set, row, dialogue),
            Outcome::Long(length) => long.push((row.uid.as_str(), length)),
            Outcome::Audit(problem) => audits.push((row.uid.clone(), problem)),
        }
    }
    if let Some(needed) = long.iter().map(|&(_, length)| length).max() {
        let first: Vec<String> =
            long.iter().take(NAMED).map(|(uid, length)| format!("{uid} ({length} tokens)")).collect();
        let (count, rows, max_length) = (long.len(), rows.len(), options.max_length);
        return Err(DataError::TooLongRows { count, rows, max_length, first: first.join(", "), needed });
    }
    failed_audits(audits, rows.len()).map_or(Ok(set), Err)
}

fn one(encoder: &Encoder, bos: Bos, turns: &[Turn<'_>], max_length: usize) -> Result<Outcome, DataError> {
    let dialogue = match encoder.dialogue(turns)? {
        Ok(dialogue) => dialogue,
        Err(problem) => return Ok(Outcome::Audit(problem)),
    };
    if dialogue.ids.len() > max_length {
        return Ok(Outcome::Long(dialogue.ids.len()));
    }
    let answers = turns.iter().filter(|turn| turn.role == Role::Assistant);
    let parts = dialogue.labels.iter().zip(&dialogue.prompt_bytes).zip(answers).enumerate();
    let mut labelled = parts.map(|(number, ((labels, prompt), turn))| {
        let audited = audit_labels(encoder, &dialogue.ids, labels.clone(), &dialogue.text, *prompt, turn.content);
        audited.map_err(|problem| of_turn(number, dialogue.labels.len(), &problem))
    });
    let labelled = labelled.try_for_each(|audited| audited);
    match labelled.and_then(|()| check_bos(encoder, bos, &dialogue.ids)) {
        Ok(()) => Ok(Outcome::Fits(dialogue)),
        Err(problem) => Ok(Outcome::Audit(problem)),
    }
}

/// A problem with the answer of this number, from 0, where there are several.
pub(super) fn of_turn(number: usize, answers: usize, problem: &str) -> String {
    if answers == 1 { problem.to_owned() } else { format!("answer {} of {answers}: {problem}", number + 1) }
}

/// How often the BOS stands in a conversation of so many turns, counted in one about nothing. An odd number of turns
/// begins with the system's.
fn bos_counts(encoder: &Encoder, rows: &[Conversation], system: &str) -> Result<BTreeMap<usize, Bos>, DataError> {
    let mut counts = BTreeMap::new();
    for row in rows {
        let turns: Vec<Turn<'_>> =
            row.turns(system).iter().map(|turn| Turn { role: turn.role, content: "x" }).collect();
        if let std::collections::btree_map::Entry::Vacant(entry) = counts.entry(turns.len()) {
            let ids = encoder.dialogue_ids(&turns)?.1;
            entry.insert(Bos(ids.iter().filter(|&&id| Some(id) == encoder.bos).count()));
        }
    }
    Ok(counts)
}

fn add(set: &mut TokenSet, row: &Conversation, dialogue: Dialogue) {
    let (question, answer) = row.last();
    let example = Example {
        sid: set.len(),
        uid: row.uid.clone(),
        context: set.len(),
        answer: Answer::Text(answer.to_owned()),
        answer_type: None,
        answer_from: None,
        scale: String::new(),
        question: question.to_owned(),
        prompt: dialogue.prompt,
        dropped: 0,
        turns: row.pairs.len(),
    };
    set.push_turns(&dialogue.ids, dialogue.prompt_length, &dialogue.labels, example);
}

/// The artifact's summary for the splits at hand. Neither a prompt template nor a response form had a part in it.
#[must_use]
pub fn summarize_rows(
    encoder: &Encoder,
    options: &Options,
    train: Option<&TokenSet>,
    eval: Option<&TokenSet>,
) -> Summary {
    let texts = [encoder.chat().source().unwrap_or(""), &options.system, &encoder.end_text];
    let template_hash = hash_texts(&texts);
    Summary { template: None, response: None, template_hash, ..summarize(encoder, options, train, eval) }
}

#[cfg(test)]
#[path = "encode_turns_tests.rs"]
mod tests;
