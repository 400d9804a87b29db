//! What a second model answers rightly that a first does not, and the reverse. Unaware of where answers come from.
use super::Samples;
use crate::data::prompt::ResponseForm;
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
    /// Right by the second, not by the first; in the order of the file.
    pub gained_samples: Vec<Pair>,
    /// Right by the first, not by the second; in the order of the file.
    pub lost_samples: Vec<Pair>,
}

impl Difference {
    /// Compares two models by name and answers; right is an exact match by `metric`. `None` if nothing was answered by both.
    #[must_use]
    pub fn new(
        samples: &Samples,
        metric: Metric,
        form: ResponseForm,
        first: (&str, &[Answer]),
        second: (&str, &[Answer]),
    ) -> Option<Self> {
        let by_sid = |answers: &'_ [Answer]| answers.iter().map(|answer| (answer.sid, answer.clone())).collect();
        let (before, after): (BTreeMap<u64, Answer>, BTreeMap<u64, Answer>) = (by_sid(first.1), by_sid(second.1));
        let mark =
            |answer: &Answer| samples.gold(answer.sid).map(|(uid, gold)| gold.mark(metric, form, uid, &answer.answer));
        let (mut pairs, mut marks): (Vec<Pair>, [Vec<Mark>; 2]) = (Vec::new(), [Vec::new(), Vec::new()]);
        for (sid, a) in &before {
            let Some(b) = after.get(sid) else { continue };
            let (Some(marked_a), Some(marked_b), Some(page)) = (mark(a), mark(b), samples.page(*sid, form)) else {
                continue;
            };
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
        Some(Self { comparison, both_right, neither, unpaired, gained_samples, lost_samples })
    }
}
