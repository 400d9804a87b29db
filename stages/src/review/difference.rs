//! What a second model answers rightly that a first does not, and the reverse. Unaware of where answers come from.
use super::Samples;
use crate::data::prompt::ResponseForm;
use crate::data::tatqa::{AnswerFrom, AnswerType};
use crate::evaluate::Comparison;
use crate::infer::Answer;
use crate::metric::{Mark, Metric};
use serde::Serialize;
use std::collections::BTreeMap;

/// A sample that both models answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// Its place in the file.
    pub sid: u64,
    /// Its uid.
    pub uid: String,
    /// What is asked.
    pub question: String,
    /// The sample answer.
    pub sample_answer: String,
    /// The first model's answer.
    pub first: String,
    /// The second model's.
    pub second: String,
}

/// Both models on the samples of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kind {
    /// How the answers are made.
    pub answer_type: AnswerType,
    /// Where they are found.
    pub answer_from: AnswerFrom,
    /// How many samples.
    pub questions: usize,
    /// The first model's mean exact match x 100.
    pub first_em: f64,
    /// The second model's.
    pub second_em: f64,
}

/// An answer without the sentence around it; as it is where it has another form, and whether it has.
#[must_use]
pub fn essence(form: ResponseForm, text: &str) -> (String, bool) {
    match form.parse_answer(text) {
        Some((items, scale)) => (format!("{} {scale}", items.join(" # ")).trim().to_owned(), true),
        None => (text.to_owned(), false),
    }
}

/// Two models on the samples that both answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// In numbers.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// Right by both.
    pub both_right: usize,
    /// Right by neither.
    pub neither: usize,
    /// Samples that only one of the models answered; they count nowhere.
    pub unpaired: usize,
    /// By answer type, then source; only TAT-QA's own files know them.
    pub kinds: Vec<Kind>,
    /// Right by the second, not by the first; in the order of the file.
    pub gained_samples: Vec<Pair>,
    /// Right by the first, not by the second; in the order of the file.
    pub lost_samples: Vec<Pair>,
}

impl Difference {
    /// Compares two models by name and answers, each in the form that it was asked for; right is an exact match by
    /// `metric`. Sample answers are in the first's form. `None` if nothing was answered by both.
    #[must_use]
    pub fn new(
        samples: &Samples,
        metric: Metric,
        forms: [ResponseForm; 2],
        first: (&str, &[Answer]),
        second: (&str, &[Answer]),
    ) -> Option<Self> {
        let by_sid = |answers: &'_ [Answer]| answers.iter().map(|answer| (answer.sid, answer.clone())).collect();
        let (before, after): (BTreeMap<u64, Answer>, BTreeMap<u64, Answer>) = (by_sid(first.1), by_sid(second.1));
        let mark = |form, answer: &Answer| {
            samples.gold(answer.sid).map(|(uid, gold)| gold.mark(metric, form, uid, &answer.answer))
        };
        let (mut pairs, mut marks): (Vec<Pair>, [Vec<Mark>; 2]) = (Vec::new(), [Vec::new(), Vec::new()]);
        let mut sums: BTreeMap<(AnswerType, AnswerFrom), (usize, [f64; 2])> = BTreeMap::new();
        for (sid, a) in &before {
            let Some(b) = after.get(sid) else { continue };
            let page = samples.page(*sid, forms[0]);
            let (Some(marked_a), Some(marked_b), Some(page)) = (mark(forms[0], a), mark(forms[1], b), page) else {
                continue;
            };
            if let Some(kind) = page.answer_type.zip(page.answer_from) {
                let (count, [first, second]) = sums.entry(kind).or_default();
                *count += 1;
                *first += marked_a.em;
                *second += marked_b.em;
            }
            marks[0].push(marked_a);
            marks[1].push(marked_b);
            pairs.push(Pair {
                sid: *sid,
                uid: page.uid,
                question: page.question,
                sample_answer: page.sample_answer,
                first: a.answer.clone(),
                second: b.answer.clone(),
            });
        }
        let kind = |((answer_type, answer_from), (questions, sums)): ((AnswerType, AnswerFrom), (usize, [f64; 2]))| {
            let [first_em, second_em] = sums.map(|sum| 100.0 * sum / questions as f64);
            Kind { answer_type, answer_from, questions, first_em, second_em }
        };
        let kinds = sums.into_iter().map(kind).collect();
        let references: Vec<Vec<&Mark>> = marks.iter().map(|marks| marks.iter().collect()).collect();
        let comparison = Comparison::of_marks(&[first.0, second.0], &references).pop().filter(|_| !pairs.is_empty())?;
        let unpaired = before.len() + after.len() - 2 * pairs.len();
        let right = |at: usize| marks.each_ref().map(|marks| marks[at].em > 0.5);
        let (mut both_right, mut neither) = (0, 0);
        let (mut gained_samples, mut lost_samples) = (Vec::new(), Vec::new());
        for (at, pair) in pairs.into_iter().enumerate() {
            match right(at) {
                [true, true] => both_right += 1,
                [false, false] => neither += 1,
                [false, true] => gained_samples.push(pair),
                [true, false] => lost_samples.push(pair),
            }
        }
        Some(Self { comparison, both_right, neither, unpaired, kinds, gained_samples, lost_samples })
    }
}
