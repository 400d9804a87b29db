//! The report: results side by side, and every stage with its time and memory. A pure function of a pipeline and of
//! what is known of its stages.
//!
//! Unaware of terminals, Markdown and HTML; `engine/cli` draws it.
mod columns;
#[cfg(test)]
mod tests;

pub use columns::{COLUMNS, Column, Format, From};

use crate::graph::{Pipeline, StageId};
use crate::key::Digest;
use crate::resolve::{Resolved, Status};
use crate::run::{Outcome, StageResult};
use crate::store::{Miss, Record};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a stage stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum StageState {
    /// It has a result.
    Done,
    /// It has no result for its key.
    Missing,
    /// It has no result and none of the stages that it waits for has.
    Waiting,
    /// Its result is damaged, or a file that it reads cannot be read.
    Broken(String),
    /// It failed: its class and message.
    Failed(String),
    /// It was stopped.
    Interrupted,
    /// It was not tried because this stage failed.
    Skipped(String),
}

impl std::fmt::Display for StageState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Missing => f.write_str("not run"),
            Self::Waiting => f.write_str("waiting"),
            Self::Broken(why) => write!(f, "broken: {why}"),
            Self::Failed(why) => write!(f, "failed, {why}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Skipped(because) => write!(f, "skipped, {because} failed"),
        }
    }
}

/// What is known of a stage, from a store or from a run.
#[derive(Debug, Clone)]
pub struct Known {
    /// How it stands.
    pub state: StageState,
    /// Its key.
    pub key: Option<Digest>,
    /// Its result.
    pub record: Option<Arc<Record>>,
    /// Seconds and MiB of an execution that failed.
    pub lost: (Option<f64>, Option<f64>),
}

impl std::convert::From<&Resolved> for Known {
    fn from(resolved: &Resolved) -> Self {
        let (state, lost) = match &resolved.status {
            Status::Cached(_) => (StageState::Done, (None, None)),
            Status::Missing(Miss::Absent) => (StageState::Missing, (None, None)),
            Status::Missing(Miss::Damaged(why)) => (StageState::Broken(why.clone()), (None, None)),
            Status::Failed(row) => (failed(&row.failure), (Some(row.seconds), row.peak_mib)),
            Status::Unknown => (StageState::Waiting, (None, None)),
            Status::Unreadable(failure) => (StageState::Broken(failure.message.clone()), (None, None)),
        };
        let key = resolved.keyed.as_ref().map(|keyed| keyed.key);
        Self { state, key, record: resolved.record().cloned(), lost }
    }
}

impl std::convert::From<&StageResult> for Known {
    fn from(result: &StageResult) -> Self {
        let state = match &result.outcome {
            Outcome::Executed | Outcome::Cached => StageState::Done,
            Outcome::Failed(failure) => failed(failure),
            Outcome::Interrupted => StageState::Interrupted,
            Outcome::Skipped { because } => StageState::Skipped(because.clone()),
            Outcome::NotStarted => StageState::Missing,
        };
        Self { state, key: result.key, record: result.record.clone(), lost: (None, None) }
    }
}

fn failed(failure: &crate::Failure) -> StageState {
    StageState::Failed(format!("{}: {}", failure.class, failure.message))
}

/// Two tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the experiment.
    pub experiment: String,
    /// The columns of `results` that have a value in some row.
    pub columns: Vec<&'static Column>,
    /// A row for each result that no other stage takes, and for each that is still to come.
    pub results: Vec<ResultRow>,
    /// A row for each stage, in the order of the manifest.
    pub stages: Vec<StageRow>,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultRow {
    /// What to call it: the stage's parameter `label`, or its name.
    pub label: String,
    /// The stage.
    pub stage: String,
    /// The stage that trained what is measured here, if any did.
    pub trained_by: Option<String>,
    /// Values by name of column.
    pub values: BTreeMap<&'static str, f64>,
    /// How the stage stands.
    pub status: StageState,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageRow {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// How it stands.
    pub status: StageState,
    /// Seconds its execution took, whenever that was.
    pub seconds: Option<f64>,
    /// Largest resident memory that is not a mapped file, MiB.
    pub peak_mib: Option<f64>,
    /// Action key.
    pub key: Option<Digest>,
    /// Digest of the output.
    pub output: Option<Digest>,
    /// All that it measured.
    pub metrics: BTreeMap<String, f64>,
}

/// Makes the report; `known` is in the order of [`Pipeline::stages`].
pub fn report(pipeline: &Pipeline, known: &[Known]) -> Report {
    let results: Vec<ResultRow> = pipeline.ids().filter_map(|id| result_row(pipeline, known, id)).collect();
    let used = |column: &&'static Column| results.iter().any(|row| row.values.contains_key(column.name));
    let columns = COLUMNS.iter().filter(used).collect();
    let stages = pipeline.ids().map(|id| stage_row(pipeline, known, id)).collect();
    Report { experiment: pipeline.experiment.clone(), columns, results, stages }
}

fn result_row(pipeline: &Pipeline, known: &[Known], id: StageId) -> Option<ResultRow> {
    let (node, stands) = (pipeline.node(id), &known[id.index()]);
    let measured = stands.record.as_ref().is_none_or(|record| !record.metrics.is_empty());
    if !pipeline.dependents(id).is_empty() || !measured {
        return None;
    }
    let line: Vec<StageId> = std::iter::once(id).chain(pipeline.ancestors(id)).collect();
    let record = |id: &StageId| known[id.index()].record.as_ref();
    // The nearest stage that trains, whether or not it is done: a column of training is never filled from further up.
    let trainer = line.iter().find(|id| columns::trains(pipeline.node(**id), record(id)));
    let mut values = BTreeMap::new();
    for column in COLUMNS {
        let value = match column.from {
            From::Training => trainer.and_then(record).and_then(|record| column.of(record)),
            From::Nearest => line.iter().filter_map(record).find_map(|record| record.metrics.get(column.name).copied()),
        };
        value.map(|value| values.insert(column.name, value));
    }
    let label = node.params.get("label").and_then(|label| label.as_str()).unwrap_or(&node.name).to_owned();
    let trained_by = trainer.map(|id| pipeline.node(*id).name.clone());
    Some(ResultRow { label, stage: node.name.clone(), trained_by, values, status: stands.state.clone() })
}

fn stage_row(pipeline: &Pipeline, known: &[Known], id: StageId) -> StageRow {
    let (node, stands) = (pipeline.node(id), &known[id.index()]);
    let record = stands.record.as_ref();
    StageRow {
        name: node.name.clone(),
        kind: node.kind.kind(),
        status: stands.state.clone(),
        seconds: record.map(|record| record.seconds).or(stands.lost.0),
        peak_mib: record.and_then(|record| record.peak_mib).or(stands.lost.1),
        key: stands.key,
        output: record.map(|record| record.output),
        metrics: record.map(|record| record.metrics.clone()).unwrap_or_default(),
    }
}
