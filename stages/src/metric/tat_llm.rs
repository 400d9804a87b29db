//! TAT-LLM's lenient reading of an answer (Zhu et al. 2024, arXiv 2401.13223, its published evaluation): the whole text
//! counts, whatever its form, and what is looked for in it depends on the kind of the *gold* answer. So it flatters:
//! of an answer with several numbers the last that comes near the gold one counts, up to sign, a factor of 100 and about
//! one percent.
//!
//! A response in steps (rows `| 1 | arithmetic |`, `| 2 | evidence |`, `| 3 | equation |`) is computed as its steps say.
//! Unaware of files and of totals.

use super::equation;
use super::normalize::{answer_text, compare};
use super::number::{Edition, all_numbers, is_space, to_number};
use super::predictions::Prediction;
use super::score::{QuestionScore, gold_items};
use crate::data::number::Number;
use crate::data::tatqa::{AnswerType, Question};

/// What precedes an answer.
const ANSWER: &str = "the answer is:";
/// What parts the answer from its scale.
const PARTED: &str = "####";
/// What precedes the scale.
const SCALE: &str = "and its corresponding scale is:";
/// The most characters that a number may have to be compared.
const LONGEST: usize = 20;

/// Scores a response. An empty one is read like any other.
#[must_use]
pub fn score_response(question: &Question, response: &str) -> QuestionScore {
    let Prediction { items, scale } = read(question, response);
    let scale = scale.unwrap_or_default();
    let edition = Edition::TatLlm;
    let gold = answer_text(&gold_items(question), &question.scale, edition);
    let (em, f1) = compare(&answer_text(&items, &scale, edition), &gold, edition);
    QuestionScore {
        uid: question.uid.clone(),
        em,
        f1: if counted(question) { em } else { f1 },
        scale: if scale == question.scale { 1.0 } else { 0.0 },
    }
}

/// Whether the answer is a number that was computed or counted.
fn counted(question: &Question) -> bool {
    matches!(question.answer_type, AnswerType::Arithmetic | AnswerType::Count)
}

/// What the response says, as this metric reads it.
fn read(question: &Question, response: &str) -> Prediction {
    let text = response.to_lowercase();
    let (mut answer, mut scale) = (strip(&text).to_owned(), String::new());
    if let Some(said) = text.split(ANSWER).nth(1) {
        let said = strip(said).replace("</s>", "");
        let mut parts = said.split(PARTED);
        answer = strip(parts.next().unwrap_or_default()).to_owned();
        scale = match parts.next() {
            Some(rest) => strip(&rest.replace(SCALE, "")).to_owned(),
            None if !question.scale.is_empty() && answer.contains(&question.scale) => question.scale.clone(),
            None => String::new(),
        };
        if scale == "none" {
            scale.clear();
        }
    }
    answer = by_steps(&text).unwrap_or(answer);
    let gold = gold_items(question);
    let items = match question.answer_type {
        AnswerType::Span => vec![answer; gold.len()],
        AnswerType::MultiSpan => answer.split('#').map(str::to_owned).collect(),
        AnswerType::Arithmetic | AnswerType::Count => {
            let gold = gold.first().and_then(|gold| to_number(&gold.to_lowercase(), Edition::TatLlm));
            let mut said = all_numbers(&answer);
            said.reverse();
            match gold.filter(|gold| said.iter().any(|number| near(gold, number))) {
                Some(gold) => vec![gold.to_string()],
                None => said.iter().map(Number::to_string).collect(),
            }
        }
    };
    Prediction { items, scale: Some(scale) }
}

/// As Python's `strip()`.
fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// The answer that a response in steps comes to; `None` if it has no steps, or they cannot be followed.
fn by_steps(text: &str) -> Option<String> {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for line in text.split('\n').filter(|line| line.contains('|')) {
        let mut cells = line.split('|').map(strip).filter(|cell| !cell.is_empty());
        // A row of one cell, and no step counts.
        rows.push((cells.next()?, cells.next()?));
    }
    // Of a step given twice the last counts.
    let step = |name: &str| rows.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value);
    match (step("1")?, step("2"), step("3")) {
        ("arithmetic", _, Some(equation)) => equation::value(equation),
        ("count", Some(evidence), _) => Some(evidence.split('#').count().to_string()),
        ("multiple spans" | "single span", Some(evidence), _) => Some(evidence.to_owned()),
        _ => None,
    }
}

/// Whether a number is near enough to the gold one.
fn near(gold: &Number, said: &Number) -> bool {
    if said.to_string().chars().count() > LONGEST {
        return false;
    }
    let (gold, said) = (gold.to_f64().abs(), said.to_f64().abs());
    let gap = [said, said * 100.0, said / 100.0].iter().map(|said| (gold - said).abs()).fold(f64::INFINITY, f64::min);
    let hundredths = gap <= 0.01 && (gold > 1.0 || gap < 0.001 || (gold != 0.0 && gap / gold < 0.01));
    gap == 0.0 || (gap < 1.0 && gold > 100.0) || (gap < 0.1 && gold > 10.0) || hundredths
}

#[cfg(test)]
#[path = "tat_llm_tests.rs"]
mod tests;
