//! The report: results side by side, and every stage with its time and memory. A pure function of a pipeline and of
//! what is known of its stages.
//!
//! Unaware of terminals, Markdown and HTML; `engine/cli` draws it.
mod columns;
pub mod query;
#[cfg(test)]
mod tests;

pub use columns::{COLUMNS, Column, Format, From};

use crate::Failure;
use crate::graph::{Pipeline, StageId};
use crate::key::Digest;
use crate::resolve::{Resolved, Status};
use crate::run::{Outcome, StageResult, Took};
use crate::store::{Miss, Record};
use crate::sweep::Axis;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
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
    /// It failed.
    Failed(Failure),
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
            Self::Broken(_) => f.write_str("broken"),
            Self::Failed(failure) if failure.inferred => write!(f, "{} (inferred)", failure.class.word()),
            Self::Failed(failure) => f.write_str(failure.class.word()),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Skipped(because) => write!(f, "skipped, {because} failed"),
        }
    }
}

impl StageState {
    /// What is behind the word, if there is more to say.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Broken(why) => Some(why),
            Self::Failed(failure) => Some(&failure.message),
            _ => None,
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
    /// What an execution that failed took.
    pub lost: Option<Took>,
}

impl std::convert::From<&Resolved> for Known {
    fn from(resolved: &Resolved) -> Self {
        let (state, lost) = match &resolved.status {
            Status::Cached(_) | Status::Dropped(_) => (StageState::Done, None),
            Status::Missing(Miss::Absent | Miss::Dropped(_)) => (StageState::Missing, None),
            Status::Missing(Miss::Damaged(why)) => (StageState::Broken(why.clone()), None),
            Status::Failed(row, _) => {
                let took = Took { seconds: row.seconds, peak_mib: row.peak_mib, last_step: row.last_step };
                (StageState::Failed(row.failure.clone()), Some(took))
            }
            Status::Inferred(failure) => (StageState::Failed(failure.clone()), None),
            Status::Unknown => (StageState::Waiting, None),
            Status::Unreadable(failure) => (StageState::Broken(failure.message.clone()), None),
        };
        Self { state, key: resolved.key, record: resolved.record().cloned(), lost }
    }
}

impl std::convert::From<&StageResult> for Known {
    fn from(result: &StageResult) -> Self {
        let (state, lost) = match &result.outcome {
            Outcome::Executed | Outcome::Cached => (StageState::Done, None),
            Outcome::Failed(failure, took) => (StageState::Failed(failure.clone()), Some(*took)),
            Outcome::Interrupted => (StageState::Interrupted, None),
            Outcome::Skipped { because } => (StageState::Skipped(because.clone()), None),
            Outcome::NotStarted => (StageState::Missing, None),
        };
        Self { state, key: result.key, record: result.record.clone(), lost }
    }
}

/// Two tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the experiment.
    pub experiment: String,
    /// What is swept: columns of `results`, as short as they are clear.
    pub axes: Vec<String>,
    /// The columns of `results` that have a value in some row.
    pub columns: Vec<Column>,
    /// A row for each result that no other stage takes, and for each that is still to come.
    pub results: Vec<ResultRow>,
    /// A row for each stage, in the order of the manifest.
    pub stages: Vec<StageRow>,
}

/// A result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResultRow {
    /// What to call it: the stage's parameter `label`, or its name in the manifest.
    pub label: String,
    /// The stage.
    pub stage: String,
    /// Name of the cell, in a sweep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    /// The swept parameters that reach it, by the names in [`Report::axes`]. One that an ablation left alone is absent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub setting: BTreeMap<String, Value>,
    /// The stage that trained what is measured here, if any did.
    pub trained_by: Option<String>,
    /// Values by name of column.
    pub values: BTreeMap<String, f64>,
    /// How the stage stands; of one that was not tried, the stage that failed.
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
    /// Last training step of an execution that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_step: Option<u64>,
    /// Action key.
    pub key: Option<Digest>,
    /// Digest of the output.
    pub output: Option<Digest>,
    /// All that it measured.
    pub metrics: BTreeMap<String, f64>,
}

/// Makes the report; `known` is in the order of [`Pipeline::stages`].
pub fn report(pipeline: &Pipeline, known: &[Known]) -> Report {
    let axes = axes(pipeline);
    let mut columns: Vec<Column> = COLUMNS.to_vec();
    columns.extend(measured_by_commands(pipeline, known).iter().map(|name| Column::of_command(name)));
    let rows = |id| result_rows(pipeline, known, &axes, &columns, id);
    let results: Vec<ResultRow> = pipeline.ids().flat_map(rows).collect();
    columns.retain(|column| results.iter().any(|row| row.values.contains_key(&*column.name)));
    let stages = pipeline.ids().map(|id| stage_row(pipeline, known, id)).collect();
    Report { experiment: pipeline.experiment.clone(), axes, columns, results, stages }
}

/// Metrics of the user's own programs that have no column yet: whoever measures something wants to see it.
fn measured_by_commands(pipeline: &Pipeline, known: &[Known]) -> BTreeSet<String> {
    let commands = pipeline.ids().filter(|id| pipeline.node(*id).kind.is_foreign());
    let metrics = commands.filter_map(|id| known[id.index()].record.as_ref()).flat_map(|record| record.metrics.keys());
    metrics.filter(|name| COLUMNS.iter().all(|column| column.name != **name)).cloned().collect()
}

/// `batch_size`, or `lora.batch_size` where several stages have a swept one.
fn axes(pipeline: &Pipeline) -> Vec<String> {
    let axes = &pipeline.sweep.axes;
    let name = |axis: &Axis| {
        let alike = axes.iter().filter(|other| other.parameter() == axis.parameter()).count();
        if alike == 1 { axis.parameter().to_owned() } else { axis.key.clone() }
    };
    axes.iter().map(name).collect()
}

/// The rows of a result: one, or of a stage that measured several of its inputs one for each.
fn result_rows(
    pipeline: &Pipeline,
    known: &[Known],
    axes: &[String],
    columns: &[Column],
    id: StageId,
) -> Vec<ResultRow> {
    let (node, stands) = (pipeline.node(id), &known[id.index()]);
    if !pipeline.dependents(id).is_empty() {
        return Vec::new();
    }
    // Of a sweep every cell has a row; else a stage that measures nothing is no result.
    let measured = stands.record.as_ref().is_none_or(|record| !record.metrics.is_empty());
    if !measured && pipeline.reach(id).is_empty() {
        return Vec::new();
    }
    let of_input = |(port, from): &(String, StageId)| {
        let own = stands.record.as_ref().map(|record| metrics_of(record, port)).filter(|own| !own.is_empty())?;
        let line: Vec<StageId> = std::iter::once(*from).chain(pipeline.ancestors(*from)).collect();
        Some(ResultRow { label: port.clone(), ..result_row(pipeline, known, axes, columns, id, &line, &own) })
    };
    let mut inputs: Vec<&(String, StageId)> = node.inputs.iter().filter(|_| !node.kind.is_foreign()).collect();
    // In the order of the manifest.
    inputs.sort_by_key(|(_, from)| *from);
    let several: Vec<ResultRow> = inputs.into_iter().filter_map(of_input).collect();
    if !several.is_empty() {
        return several;
    }
    let line: Vec<StageId> = std::iter::once(id).chain(pipeline.ancestors(id)).collect();
    vec![result_row(pipeline, known, axes, columns, id, &line, &BTreeMap::new())]
}

/// What a stage measured of one of its inputs: it put the input's name and a slash before the names of its metrics.
fn metrics_of(record: &Record, port: &str) -> BTreeMap<String, f64> {
    let own = |(name, value): (&String, &f64)| Some((name.strip_prefix(port)?.strip_prefix('/')?.to_owned(), *value));
    record.metrics.iter().filter_map(own).collect()
}

/// A row: `line` has the stages that it is about, the nearest first, and `own` what was measured of them beyond their records.
fn result_row(
    pipeline: &Pipeline,
    known: &[Known],
    axes: &[String],
    columns: &[Column],
    id: StageId,
    line: &[StageId],
    own: &BTreeMap<String, f64>,
) -> ResultRow {
    let (node, stands) = (pipeline.node(id), &known[id.index()]);
    let record = |id: &StageId| known[id.index()].record.as_ref();
    let measured = |line: &[StageId], name: &str| {
        own.get(name)
            .copied()
            .or_else(|| line.iter().filter_map(record).find_map(|record| record.metrics.get(name).copied()))
    };
    // The nearest stage that trains, whether or not it is done: a column of training is never filled from further up.
    let trainer = line.iter().position(|id| columns::trains(pipeline.node(*id), record(id)));
    let since = &line[..trainer.map_or(line.len(), |at| at + 1)];
    let trainer = trainer.map(|at| &line[at]);
    let mut values = BTreeMap::new();
    for column in columns {
        let value = match column.from {
            From::Training => trainer.and_then(record).and_then(|record| column.of(record)),
            From::SinceTraining => measured(since, &column.name),
            From::Nearest => measured(line, &column.name),
        };
        value.map(|value| values.insert(column.name.to_string(), value));
    }
    let mut status = stands.state.clone();
    // A failure further up is this row's: it is why there is nothing to see.
    let failed = |id: &&StageId| matches!(known[id.index()].state, StageState::Failed(_));
    if let (StageState::Waiting | StageState::Skipped(_) | StageState::Failed(_), Some(at)) =
        (&stands.state, line.iter().find(failed))
    {
        status = known[at.index()].state.clone();
        if let Some(took) = known[at.index()].lost {
            let measured = [
                ("train_seconds", Some(took.seconds)),
                ("peak_mib", took.peak_mib),
                ("last_step", took.last_step.map(|step| step as f64)),
            ];
            values.extend(measured.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
    }
    let label = node.with_params(|params| params.get("label").and_then(|label| label.as_str()).map(str::to_owned));
    let label = label.unwrap_or_else(|| pipeline.base(id).to_owned());
    let trained_by = trainer.map(|id| pipeline.node(*id).name.clone());
    let set = |(axis, value): &(u32, u32)| {
        (axes[*axis as usize].clone(), pipeline.sweep.axes[*axis as usize].values[*value as usize].clone())
    };
    let setting = node.setting.iter().map(set).collect();
    ResultRow { label, stage: node.name.clone(), cell: pipeline.cell(id), setting, trained_by, values, status }
}

fn stage_row(pipeline: &Pipeline, known: &[Known], id: StageId) -> StageRow {
    let (node, stands) = (pipeline.node(id), &known[id.index()]);
    let (record, lost) = (stands.record.as_ref(), stands.lost);
    let failed = |id: &StageId| matches!(known[id.index()].state, StageState::Failed(_));
    let status = match (&stands.state, pipeline.ancestors(id).into_iter().find(failed)) {
        (StageState::Waiting, Some(at)) => StageState::Skipped(pipeline.node(at).name.clone()),
        (state, _) => state.clone(),
    };
    StageRow {
        name: node.name.clone(),
        kind: node.kind.kind(),
        status,
        seconds: record.map(|record| record.seconds).or(lost.map(|took| took.seconds)),
        peak_mib: record.and_then(|record| record.peak_mib).or(lost.and_then(|took| took.peak_mib)),
        last_step: lost.and_then(|took| took.last_step),
        key: stands.key,
        output: record.map(|record| record.output),
        metrics: record.map(|record| record.metrics.clone()).unwrap_or_default(),
    }
}
