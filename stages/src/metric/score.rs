//! Scores predictions against gold answers as the official TAT-QA evaluator does: exact match, F1 and scale,
//! per question, in total and by answer type and source. Unaware of files and of how answers came about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::normalize::{answer_text, as_f64, compare, unscaled_text};
use super::number::Edition;
use super::predictions::{Prediction, Predictions};
use crate::data::tatqa::{AnswerFrom, AnswerType, Question};

/// The scores of one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuestionScore {
    /// The question.
    pub uid: String,
    /// Exact match, 0 or 1.
    pub em: f64,
    /// F1 over sets of words, 0 to 1 in steps of 0.01; equal to `em` for arithmetic and count questions.
    pub f1: f64,
    /// Whether an answer was given and its scale is the gold one, 0 or 1.
    pub scale: f64,
}

/// Means over all questions of one answer type and source, in percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pivot {
    /// How the answers are made.
    pub answer_type: AnswerType,
    /// Where they are found.
    pub answer_from: AnswerFrom,
    /// How many questions.
    pub questions: usize,
    /// Mean exact match x 100.
    pub em: f64,
    /// Mean F1 x 100.
    pub f1: f64,
    /// Share of right scales x 100.
    pub scale: f64,
}

/// The scores of a prediction set. Every gold question counts in the denominators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// How many gold questions.
    pub questions: usize,
    /// How many of them have no prediction at all; each counts as 0.
    pub missing: usize,
    /// How many predictions belong to no gold question; they count nowhere.
    pub unknown: usize,
    /// Mean exact match x 100, not rounded.
    pub em: f64,
    /// Mean F1 x 100, not rounded.
    pub f1: f64,
    /// Share of right scales x 100, not rounded.
    pub scale: f64,
    /// By answer type, then source; only those that occur.
    pub pivots: Vec<Pivot>,
    /// In the order of the gold questions.
    pub per_question: Vec<QuestionScore>,
}

#[derive(Default)]
struct Sum {
    questions: usize,
    em: f64,
    f1: f64,
    scale: f64,
}

impl Sum {
    fn add(&mut self, score: &QuestionScore) {
        self.questions += 1;
        self.em += score.em;
        self.f1 += score.f1;
        self.scale += score.scale;
    }

    /// (em, f1, scale) in percent; 0 over no question.
    fn means(&self) -> (f64, f64, f64) {
        let count = as_f64(self.questions.max(1));
        (self.em / count * 100.0, self.f1 / count * 100.0, self.scale / count * 100.0)
    }
}

/// Scores `predictions` against `gold`.
pub fn score<'a>(gold: impl IntoIterator<Item = &'a Question>, predictions: &Predictions) -> Scores {
    let mut rows = Vec::new();
    let mut missing = 0;
    for question in gold {
        let prediction = predictions.get(&question.uid);
        missing += usize::from(prediction.is_none());
        let row = prediction.map_or_else(|| zero(question), |prediction| score_one(question, prediction));
        rows.push((question, row));
    }
    let unknown = predictions.len().saturating_sub(rows.len() - missing);
    Scores { missing, unknown, ..Scores::of(rows) }
}

impl Scores {
    /// Totals and pivots of scored questions, in their order.
    #[must_use]
    pub fn of<'a>(rows: impl IntoIterator<Item = (&'a Question, QuestionScore)>) -> Self {
        let mut per_question = Vec::new();
        let mut total = Sum::default();
        let mut pivots: BTreeMap<(AnswerType, AnswerFrom), Sum> = BTreeMap::new();
        for (question, row) in rows {
            total.add(&row);
            pivots.entry((question.answer_type, question.answer_from)).or_default().add(&row);
            per_question.push(row);
        }
        let pivots = pivots.into_iter().map(|((answer_type, answer_from), sum)| {
            let (em, f1, scale) = sum.means();
            Pivot { answer_type, answer_from, questions: sum.questions, em, f1, scale }
        });
        let (em, f1, scale) = total.means();
        let questions = total.questions;
        Self { questions, missing: 0, unknown: 0, em, f1, scale, pivots: pivots.collect(), per_question }
    }
}

fn zero(question: &Question) -> QuestionScore {
    QuestionScore { uid: question.uid.clone(), em: 0.0, f1: 0.0, scale: 0.0 }
}

/// Scores one answer. The better of its two readings counts, by exact match and then by F1.
#[must_use]
pub fn score_one(question: &Question, prediction: &Prediction) -> QuestionScore {
    if prediction.items.is_empty() {
        return zero(question);
    }
    let gold = answer_text(&gold_items(question), &question.scale, Edition::Official);
    let scale = prediction.scale.as_deref().unwrap_or("");
    let readings =
        [Some(answer_text(&prediction.items, scale, Edition::Official)), unscaled_text(&prediction.items, scale)];
    let (em, f1) = readings
        .iter()
        .flatten()
        .map(|reading| compare(reading, &gold, Edition::Official))
        .fold((0.0, 0.0), |best, pair| if pair > best { pair } else { best });
    let counted = matches!(question.answer_type, AnswerType::Arithmetic | AnswerType::Count);
    let right_scale = prediction.scale.as_deref() == Some(question.scale.as_str());
    QuestionScore {
        uid: question.uid.clone(),
        em,
        f1: if counted { em } else { f1 },
        scale: if right_scale { 1.0 } else { 0.0 },
    }
}

/// The gold answer's pieces; a count is a whole number ("04" counts as "4").
pub(super) fn gold_items(question: &Question) -> Vec<String> {
    let items = question.answer.items();
    if question.answer_type != AnswerType::Count {
        return items;
    }
    let whole = |item: String| item.trim().parse::<i64>().map_or(item, |count| count.to_string());
    items.into_iter().map(whole).collect()
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
