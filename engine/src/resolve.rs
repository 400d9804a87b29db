//! What the store knows of a pipeline: the key of every stage whose inputs are known, its result, or why there is none.
//!
//! Runs nothing and changes nothing but the stat cache; `plan`, `explain` and `report` stand on it, and `run` takes
//! its keys and reasons from here. Unaware of scheduling.
use crate::graph::{Node, Pipeline, StageId};
use crate::hash::Stamp;
use crate::key::{Digest, Keyed, action_key, changes};
use crate::store::{FailureRow, Latest, Miss, Record, Store};
use crate::{Failure, Source};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the store knows of a stage.
#[derive(Debug, Clone)]
pub enum Status {
    /// There is a result, and it is whole.
    Cached(Arc<Record>),
    /// There is none; the stage would run.
    Missing(Miss),
    /// It failed the last time; whether it would run again depends on the row ([`FailureRow::is_final`]).
    Failed(Box<FailureRow>),
    /// Its key is unknown because a stage that it needs has no result yet.
    Unknown,
    /// One of its files cannot be read.
    Unreadable(Failure),
}

/// A stage with its key, if known.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The key and its document.
    pub keyed: Option<Keyed>,
    /// What the store knows.
    pub status: Status,
}

impl Resolved {
    /// The result, if there is one.
    pub fn record(&self) -> Option<&Arc<Record>> {
        match &self.status {
            Status::Cached(record) => Some(record),
            _ => None,
        }
    }
}

/// Looks up every stage, in the order of [`Pipeline::stages`].
pub fn resolve(pipeline: &Pipeline, store: &Store) -> Vec<Resolved> {
    let mut found: Vec<Resolved> = pipeline.ids().map(|_| Resolved { keyed: None, status: Status::Unknown }).collect();
    for &id in pipeline.order() {
        let node = pipeline.node(id);
        let outputs: Option<Vec<Digest>> =
            node.inputs.iter().map(|(_, from)| found[from.index()].record().map(|record| record.output)).collect();
        let Some(outputs) = outputs else { continue };
        found[id.index()] = match hash_sources(node, store) {
            Ok(sources) => {
                let keyed = keyed(pipeline, id, &outputs, &sources);
                let status = store.look_up(&keyed.key).map_or_else(
                    |miss| store.failure(&keyed.key).map_or(Status::Missing(miss), |row| Status::Failed(Box::new(row))),
                    Status::Cached,
                );
                Resolved { keyed: Some(keyed), status }
            }
            Err(failure) => Resolved { keyed: None, status: Status::Unreadable(failure) },
        };
    }
    found
}

/// The digests of a stage's files outside the store.
pub(crate) fn hash_sources(node: &Node, store: &Store) -> Result<Vec<(Source, Stamp, Digest)>, Failure> {
    if let Some(missing) = node.missing.first() {
        let place = format!("{}:{}:{}", missing.file(), missing.line, missing.column);
        let failure = Failure::user(format!("{place}: {}", missing.message));
        return Err(Failure { hint: missing.hint.clone(), ..failure });
    }
    let one = |source: &Source| store.digest(&source.path).map(|(stamp, digest)| (source.clone(), stamp, digest));
    node.sources.iter().map(one).collect()
}

/// The key of a stage; `outputs` are the digests of its inputs, in the order of [`Node::inputs`].
pub(crate) fn keyed(
    pipeline: &Pipeline,
    id: StageId,
    outputs: &[Digest],
    sources: &[(Source, Stamp, Digest)],
) -> Keyed {
    let node = pipeline.node(id);
    let inputs: BTreeMap<String, Digest> =
        node.inputs.iter().zip(outputs).map(|((port, _), output)| (port.clone(), *output)).collect();
    let sources: Vec<(String, Digest)> =
        sources.iter().map(|(source, _, digest)| (source.name.clone(), *digest)).collect();
    action_key(node, &inputs, &sources, node.seed, &pipeline.numerics)
}

/// Why a stage has no usable result: a line for each leaf of its key document that changed since it last had one.
pub fn reasons(stage: &str, keyed: &Keyed, miss: &Miss, latest: &Latest, store: &Store) -> Vec<String> {
    if let Miss::Damaged(why) = miss {
        return vec![why.clone()];
    }
    let Some(before) = latest.key(stage).and_then(|key| store.record(&key)) else {
        return vec!["it has no earlier result".to_owned()];
    };
    let changes = changes(&before.document, &keyed.document);
    if changes.is_empty() {
        return vec!["its result is gone from the store".to_owned()];
    }
    changes.iter().map(ToString::to_string).collect()
}
