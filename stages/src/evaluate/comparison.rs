//! Two models that answered the same questions: by how much one is better, and how sure that is; `metric::statistics` says
//! how intervals and p come about. Unaware of files.
use super::model::Marked;
use crate::metric::Mark;
use crate::metric::statistics::{Interval, Resampled, mcnemar};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt;

/// What changes from the first model to the second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The first model.
    pub first: String,
    /// The second.
    pub second: String,
    /// How many questions both (and all other models of the stage) answered.
    pub questions: usize,
    /// Mean exact match x 100.
    pub em: Change,
    /// Mean F1 x 100.
    pub f1: Change,
    /// Questions with an exact match by the second only.
    pub gained: usize,
    /// Questions with an exact match by the first only.
    pub lost: usize,
    /// Two-sided p of McNemar's exact test on these.
    pub mcnemar_p: f64,
}

/// A difference and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Second minus first.
    pub difference: f64,
    /// By the paired bootstrap; none without questions.
    pub interval: Option<Interval>,
}

impl Comparison {
    /// Every two of these models, the earlier first, on the questions that all of them answered.
    pub fn of_all(models: &[Marked<'_>]) -> Vec<Self> {
        let uids = |model: &Marked<'_>| model.answers.iter().map(|answer| answer.uid.clone()).collect::<HashSet<_>>();
        let shared = models.iter().map(uids).reduce(|all, some| all.intersection(&some).cloned().collect());
        let shared = shared.unwrap_or_default();
        // Each model's answers are in the order of the data set, so equal places are equal questions.
        let marks: Vec<Vec<&Mark>> = models
            .iter()
            .map(|model| {
                let pairs = model.answers.iter().zip(model.marks());
                pairs.filter(|(answer, _)| shared.contains(&answer.uid)).map(|(_, mark)| mark).collect()
            })
            .collect();
        let names: Vec<&str> = models.iter().map(|model| model.name).collect();
        Self::of_marks(&names, &marks)
    }

    /// Every two of these models by their marks on the same questions.
    pub fn of_marks(names: &[&str], marks: &[Vec<&Mark>]) -> Vec<Self> {
        let series = |of: fn(&Mark) -> f64| -> Vec<Vec<f64>> {
            marks.iter().map(|marks| marks.iter().map(|mark| 100.0 * of(mark)).collect()).collect()
        };
        let (em, f1) = (series(|mark| mark.em), series(|mark| mark.f1));
        // One set of draws for both.
        let resampled = Resampled::new(&[em.as_slice(), f1.as_slice()].concat());
        let mut found = Vec::new();
        for (a, first) in names.iter().enumerate() {
            for (b, second) in names.iter().enumerate().skip(a + 1) {
                let change = |values: &[Vec<f64>], offset: usize| {
                    let sum = |series: &[f64]| series.iter().sum::<f64>() / series.len().max(1) as f64;
                    let interval = resampled.difference(offset + a, offset + b);
                    Change { difference: sum(&values[b]) - sum(&values[a]), interval }
                };
                let count = |better: usize, worse: usize| {
                    marks[better].iter().zip(&marks[worse]).filter(|(x, y)| x.em > 0.5 && y.em <= 0.5).count()
                };
                let (gained, lost) = (count(b, a), count(a, b));
                found.push(Self {
                    first: (*first).to_owned(),
                    second: (*second).to_owned(),
                    questions: marks[a].len(),
                    em: change(&em, 0),
                    f1: change(&f1, names.len()),
                    gained,
                    lost,
                    mcnemar_p: mcnemar(gained, lost),
                });
            }
        }
        found
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.2}", self.difference)?;
        match self.interval {
            Some(Interval { low, high }) => write!(f, " (95 % interval {low:+.2} to {high:+.2})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second, em, f1, gained, lost, mcnemar_p, .. } = self;
        write!(f, "{first} -> {second}: EM {em}, F1 {f1}; {gained} gained, {lost} lost, McNemar {}", p_text(*mcnemar_p))
    }
}

/// A p as people write it.
#[must_use]
pub fn p_text(p: f64) -> String {
    if p < 0.0001 { "p < 0.0001".to_owned() } else { format!("p = {p:.4}") }
}
