//! `summary.json`: what came of every stage of a run, a line each; written in one step when the run ends, so that a run
//! without it is one that did not end.
//!
//! Fields are only added, each with a default. Unaware of what anybody compares.
use super::resolved::line;
use crate::graph::{Node, Pipeline};
use crate::key::Digest;
use crate::run::{Outcome, RunSummary, StageResult};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Name of the experiment.
    pub experiment: String,
    /// Somebody asked to stop.
    pub interrupted: bool,
    /// Seconds it took.
    pub seconds: f64,
    /// Every stage and instance, in the order of the manifest.
    pub stages: Vec<Row>,
}

/// What came of a stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Its name, in a sweep with what is set in it.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// `executed`, `cached`, `failed`, `interrupted`, `skipped` or `not-started`; another word is a later version's.
    pub outcome: String,
    /// Of a failed one, the failure's class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Of a failed one: nobody tried, it follows from another failure.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inferred: bool,
    /// Of a failed one the message, of a skipped one the stage that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Action key, if it was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Digest>,
    /// Digest of the output, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Digest>,
    /// Seconds that its execution took, whenever that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Largest resident memory that is not a mapped file, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_mib: Option<f64>,
    /// Last training step of one that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_step: Option<u64>,
    /// All that it measured. Numbers that JSON has no word for are absent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

impl Row {
    /// What came of a stage.
    pub fn new(node: &Node, result: &StageResult) -> Self {
        let mut row = Self { name: result.name.clone(), kind: node.kind.kind().to_owned(), ..Self::default() };
        row.key = result.key;
        if let Some(record) = &result.record {
            row.output = Some(record.output);
            row.seconds = Some(record.seconds);
            row.peak_mib = record.peak_mib;
            let finite = record.metrics.iter().filter(|(_, value)| value.is_finite());
            row.metrics = finite.map(|(name, value)| (name.clone(), *value)).collect();
        }
        let outcome = match &result.outcome {
            Outcome::Executed => "executed",
            Outcome::Cached => "cached",
            Outcome::Failed(failure, took) => {
                row.fail(failure);
                (row.seconds, row.peak_mib, row.last_step) = (Some(took.seconds), took.peak_mib, took.last_step);
                "failed"
            }
            Outcome::Interrupted => "interrupted",
            Outcome::Skipped { because } => {
                row.why = Some(because.clone());
                "skipped"
            }
            Outcome::NotStarted => "not-started",
        };
        outcome.clone_into(&mut row.outcome);
        row
    }

    /// Notes a failure.
    pub(crate) fn fail(&mut self, failure: &crate::Failure) {
        self.class = Some(failure.class.word().to_owned());
        self.inferred = failure.inferred;
        self.why = Some(failure.message.clone());
    }

    /// How the stage stands, in the words of the report: made now or found, it is done.
    pub fn state(&self) -> String {
        let why = self.why.as_deref().unwrap_or("another");
        match (self.outcome.as_str(), &self.class) {
            ("executed" | "cached", _) => "done".to_owned(),
            ("failed", Some(class)) if self.inferred => format!("{class} (inferred)"),
            ("failed", Some(class)) => class.clone(),
            ("skipped", _) => format!("skipped, {why} failed"),
            ("not-started", _) => "not run".to_owned(),
            (other, _) => other.to_owned(),
        }
    }
}

/// Writes a summary, a line for each stage.
pub(super) fn write(pipeline: &Pipeline, summary: &RunSummary, out: &mut impl Write) -> std::io::Result<()> {
    let RunSummary { run, executed, cached, failed, skipped, interrupted, seconds, .. } = summary;
    let head = json!({
        "run": run, "experiment": pipeline.experiment, "executed": executed, "cached": cached, "failed": failed,
        "skipped": skipped, "interrupted": interrupted, "seconds": seconds,
    })
    .to_string();
    write!(out, "{},\n\"stages\": [", head.trim_end_matches('}'))?;
    for (i, (node, result)) in pipeline.stages.iter().zip(&summary.stages).enumerate() {
        line(out, i == 0)?;
        serde_json::to_writer(&mut *out, &Row::new(node, result))?;
    }
    out.write_all(b"\n]}\n")
}
