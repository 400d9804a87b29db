//! One model's answers, marked, and what they come to. Unaware of other models and of files.
use super::{EvaluateParams, by_uid};
use crate::infer::Answer;
use crate::metric::statistics::{Interval, Resampled};
use crate::metric::{Gold, Mark, Metric, Pivot, QuestionScore, Scores};
use anneal_engine::Failure;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};

/// The answers of a model in the order of the data set, each with its mark by either metric.
#[derive(Debug)]
pub struct Marked<'a> {
    /// Name of the model: that of its input.
    pub name: &'a str,
    /// The answers.
    pub answers: Vec<Answer>,
    gold: Vec<&'a Gold>,
    marks: Vec<Mark>,
    others: Vec<Mark>,
}

/// A line of `per_question.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row<'a> {
    sid: u64,
    uid: &'a str,
    em: f64,
    f1: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f64>,
    /// The answer has the asked form.
    #[serde(skip_serializing_if = "Option::is_none")]
    formed: Option<bool>,
    /// The answer reached `max_new_tokens` or the end of the window.
    cut_off: bool,
}

impl<'a> Marked<'a> {
    /// Marks answers. Only what was asked is scored: three sids are three questions, not three of 1,668.
    ///
    /// # Errors
    /// The data set does not have a question, or one was answered twice.
    pub fn new(
        name: &'a str,
        mut answers: Vec<Answer>,
        gold: &'a [(String, Gold)],
        params: &EvaluateParams,
    ) -> Result<Self, Failure> {
        let places = by_uid(gold);
        let mut seen = HashSet::new();
        if let Some(twice) = answers.iter().find(|answer| !seen.insert(answer.uid.clone())) {
            return Err(Failure::user(format!(
                "{name}: question {} (sid {}) was answered twice",
                twice.uid, twice.sid
            ))
            .hint("name each sample once in the `sids` of the stage that answered"));
        }
        let found = answers.iter().filter(|answer| places.contains_key(answer.uid.as_str())).count();
        if found < answers.len() {
            return Err(foreign(answers.len(), found, params));
        }
        let place = |answer: &Answer| places.get(answer.uid.as_str()).copied().unwrap_or(0);
        answers.sort_by_key(place);
        let gold: Vec<&Gold> = answers.iter().map(|answer| &gold[place(answer)].1).collect();
        let mark = |metric: Metric| {
            let pairs = answers.iter().zip(&gold);
            pairs.map(|(answer, gold)| gold.mark(metric, params.response, &answer.uid, &answer.answer)).collect()
        };
        let (marks, others) = (mark(params.metric), mark(other(params.metric)));
        Ok(Self { name, answers, gold, marks, others })
    }

    /// Every answer's mark.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.answers.iter().zip(&self.marks).map(|(answer, mark)| Row {
            sid: answer.sid,
            uid: &answer.uid,
            em: mark.em,
            f1: mark.f1,
            scale: mark.scale,
            formed: mark.formed,
            cut_off: !answer.ended,
        })
    }

    /// The marks.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// What was said, in the official format; free text as it is.
    pub fn predictions(&self) -> Value {
        let pairs = self.answers.iter().zip(&self.marks);
        let said = |(answer, mark): (&Answer, &Mark)| {
            let said = match &mark.prediction {
                Some(prediction) => json!([prediction.items, prediction.scale]),
                None => json!(answer.answer),
            };
            (answer.uid.clone(), said)
        };
        Value::Object(pairs.map(said).collect::<Map<_, _>>())
    }
}

fn other(metric: Metric) -> Metric {
    match metric {
        Metric::Official => Metric::TatLlm,
        Metric::TatLlm => Metric::Official,
    }
}

/// Answers of questions that the data set does not have.
fn foreign(asked: usize, found: usize, params: &EvaluateParams) -> Failure {
    let split = params.split.name();
    Failure::user(format!(
        "{asked} answers, but only {found} of their questions are in split `{split}` of the data set"
    ))
    .hint("connect the data set that the answers' tokens were made of")
}

/// Totals by one metric, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Totals {
    /// Mean exact match x 100.
    pub em: f64,
    /// Mean F1 x 100.
    pub f1: f64,
    /// Share of right scales x 100; free text has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
}

impl Totals {
    fn of(marks: &[Mark]) -> Self {
        let mean = |of: &dyn Fn(&Mark) -> f64| 100.0 * marks.iter().map(of).sum::<f64>() / marks.len().max(1) as f64;
        let scaled = marks.iter().any(|mark| mark.scale.is_some());
        let scale = scaled.then(|| mean(&|mark| mark.scale.unwrap_or(0.0)));
        Self { em: mean(&|mark| mark.em), f1: mean(&|mark| mark.f1), scale }
    }
}

/// What a model's answers come to: `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelScores {
    /// The metric of all that follows, where there is a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<&'static str>,
    /// How many questions were answered.
    pub questions: usize,
    /// Totals.
    #[serde(flatten)]
    pub totals: Totals,
    /// 95 % interval of the mean exact match x 100, see `metric::statistics`.
    pub em_interval: Option<Interval>,
    /// 95 % interval of the mean F1 x 100.
    pub f1_interval: Option<Interval>,
    /// Answers that lack the asked form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_failures: Option<usize>,
    /// Answers that were cut off.
    pub cut_off: usize,
    /// Mean negative log-likelihood of the tokens of the reference answers, if `infer` measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Its exponential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Totals by either metric, where there is a choice.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_metric: BTreeMap<&'static str, Totals>,
    /// By answer type, then source; only TAT-QA's own files know them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pivots: Vec<Pivot>,
}

impl ModelScores {
    /// Counts the marks. `pivoted`: answer types and sources are known.
    pub fn of(marked: &Marked<'_>, metric: Metric, pivoted: bool) -> Self {
        let marks = &marked.marks;
        let totals = Totals::of(marks);
        let choice = marks.iter().any(|mark| mark.formed.is_some());
        let series = |of: fn(&Mark) -> f64| marks.iter().map(|mark| 100.0 * of(mark)).collect::<Vec<f64>>();
        let resampled = Resampled::new(&[series(|mark| mark.em), series(|mark| mark.f1)]);
        let unformed = marks.iter().filter(|mark| mark.formed == Some(false)).count();
        let by_metric =
            [(metric.name(), totals), (other(metric).name(), Totals::of(&marked.others))].into_iter().collect();
        let loss = eval_loss(&marked.answers);
        Self {
            metric: choice.then(|| metric.name()),
            questions: marks.len(),
            totals,
            em_interval: resampled.mean(0),
            f1_interval: resampled.mean(1),
            format_failures: choice.then_some(unformed),
            cut_off: marked.answers.iter().filter(|answer| !answer.ended).count(),
            eval_loss: loss,
            perplexity: loss.map(f64::exp),
            by_metric: if choice { by_metric } else { BTreeMap::new() },
            pivots: if pivoted { pivots(marked) } else { Vec::new() },
        }
    }

    /// Named results for the record.
    pub(super) fn metrics(&self) -> Vec<(&'static str, f64)> {
        let formed = |failures: usize| {
            let share = 100.0 * (self.questions - failures) as f64 / self.questions.max(1) as f64;
            [("formed", share), ("format_failures", failures as f64)]
        };
        let mut found = vec![("em", self.totals.em), ("f1", self.totals.f1), ("answers", self.questions as f64)];
        found.extend(self.totals.scale.map(|scale| ("scale", scale)));
        found.extend(self.format_failures.into_iter().flat_map(formed));
        found.extend(self.eval_loss.map(|loss| ("eval_loss", loss)));
        found.extend(self.perplexity.map(|perplexity| ("perplexity", perplexity)));
        found
    }

    /// The totals in a line, by both metrics.
    pub(super) fn told(&self) -> String {
        let with = |value: f64, interval: Option<Interval>| match interval {
            Some(Interval { low, high }) => format!("{value:.2} (95 % interval {low:.2} to {high:.2})"),
            None => format!("{value:.2}"),
        };
        let Totals { em, f1, .. } = self.totals;
        let own = format!("EM {}, F1 {}", with(em, self.em_interval), with(f1, self.f1_interval));
        let others = self.by_metric.iter().filter(|(name, _)| Some(**name) != self.metric);
        let others = others.map(|(name, totals)| format!("; {name}: EM {:.2}, F1 {:.2}", totals.em, totals.f1));
        let metric = self.metric.map(|metric| format!("{metric}: ")).unwrap_or_default();
        format!("{metric}{own}{}", others.collect::<String>())
    }

    /// What somebody who reads the scores must know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let questions = self.questions;
        let failures = self.format_failures.filter(|failures| *failures > 0);
        failures
            .map(|failures| format!("{failures} of {questions} answers do not have the asked form"))
            .into_iter()
            .collect()
    }
}

/// Over the answers that were measured.
fn eval_loss(answers: &[Answer]) -> Option<f64> {
    let measured = answers.iter().filter_map(|answer| answer.gold_nll.zip(answer.gold_tokens));
    let (sum, tokens) = measured.fold((0.0, 0), |(sum, tokens), (nll, count)| (sum + nll, tokens + count));
    (tokens > 0).then(|| sum / tokens as f64)
}

fn pivots(marked: &Marked<'_>) -> Vec<Pivot> {
    let rows = marked.gold.iter().zip(&marked.marks).filter_map(|(gold, mark)| match gold {
        Gold::Question(question) => {
            let scale = mark.scale.unwrap_or(0.0);
            Some((question, QuestionScore { uid: question.uid.clone(), em: mark.em, f1: mark.f1, scale }))
        }
        Gold::Text(_) => None,
    });
    Scores::of(rows).pivots
}
