//! What came of a run's stages, told from its events: for a run that has no summary.
//!
//! What was found in the store says only its key; what was measured then is in its record, if that is still there.
//! Unaware of summaries.
use super::Run;
use crate::event::{Event, Stamped};
use crate::key::Digest;
use crate::recording::Row;
use crate::store::Record;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What the events tell.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) experiment: String,
    /// The stages that anything happened to, in that order.
    pub(super) stages: Vec<Row>,
    /// The run came to its end.
    pub(super) ended: bool,
    /// Lines that are no JSON, as a crash or a full disk leaves them.
    pub(super) unreadable: usize,
}

/// Reads the events of `run`; `record` finds a key's record.
pub(super) fn read(path: &Path, run: &Run, record: &dyn Fn(&Digest) -> Option<Record>) -> Result<Told, String> {
    let failed = |error: std::io::Error| format!("its events cannot be read ({error})");
    let mut told = Told::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut lines = BufReader::new(File::open(path).map_err(failed)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            return Ok(told);
        }
        let Ok(Stamped { stage, event, .. }) = serde_json::from_slice(&line) else {
            // An event of a later version is JSON all the same.
            told.unreadable += usize::from(serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_err());
            continue;
        };
        let Some(stage) = stage else {
            match event {
                Event::RunStarted { experiment, .. } => told.experiment = experiment,
                Event::RunFinished { .. } => told.ended = true,
                _ => {}
            }
            continue;
        };
        if matches!(event, Event::Step(_) | Event::EvalLoss { .. } | Event::Device(_) | Event::Progress { .. }) {
            continue;
        }
        let at = *places.entry(stage).or_insert_with_key(|name| {
            let kind = run.bases.get(run.base(name)).map(|base| base.kind.clone()).unwrap_or_default();
            told.stages.push(Row { name: name.clone(), kind, outcome: "not-started".to_owned(), ..Row::default() });
            told.stages.len() - 1
        });
        apply(&mut told.stages[at], event, record);
    }
}

fn apply(row: &mut Row, event: Event, record: &dyn Fn(&Digest) -> Option<Record>) {
    let outcome = match event {
        Event::StageStarted { key, .. } => {
            row.key = key.parse().ok();
            "cut off"
        }
        Event::StageCached { key, output } => {
            (row.key, row.output) = (key.parse().ok(), output.parse().ok());
            if let Some(record) = row.key.as_ref().and_then(record) {
                (row.seconds, row.peak_mib, row.metrics) = (Some(record.seconds), record.peak_mib, record.metrics);
            }
            "cached"
        }
        Event::StageFinished { key, output, seconds, peak_mib, metrics } => {
            (row.key, row.output) = (key.parse().ok(), output.parse().ok());
            (row.seconds, row.peak_mib, row.metrics) = (Some(seconds), peak_mib, metrics);
            "executed"
        }
        Event::StageFailed { failure, seconds, peak_mib, last_step } => {
            row.fail(&failure);
            (row.seconds, row.peak_mib, row.last_step) = (Some(seconds), peak_mib, last_step);
            "failed"
        }
        Event::StageSkipped { because } => {
            row.why = Some(because);
            "skipped"
        }
        _ => return,
    };
    outcome.clone_into(&mut row.outcome);
}
