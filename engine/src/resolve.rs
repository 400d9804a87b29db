//! What the store knows of a pipeline: the key of every stage whose inputs are known, its result, or why there is none.
//!
//! Runs nothing and changes nothing but the stat cache; `plan`, `explain` and `report` stand on it, and `run` takes
//! its keys and reasons from here. Unaware of scheduling.
use crate::graph::{Node, Pipeline, StageId};
use crate::hash::Stamp;
use crate::host::Host;
use crate::key::{Digest, Keyed, action_digest, action_key, changes};
use crate::options::Keep;
use crate::store::{FailureRow, Glance, Lately, Latest, Miss, Record, Store, Whole};
use crate::{Failure, FailureClass, Source};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Fewer stages than this are not worth a second thread; also what one thread takes at a time.
const PIECE: usize = 256;

/// What the store knows of a stage.
#[derive(Debug, Clone)]
pub enum Status {
    /// There is a result, and it is whole.
    Cached(Arc<Record>),
    /// There is a result; of its files only the record was to be kept.
    Dropped(Arc<Record>),
    /// There is none; the stage would run.
    Missing(Miss),
    /// It failed the last time; whether it would only fail again.
    Failed(Box<FailureRow>, bool),
    /// It was not tried, and would not be: a smaller one ran out of memory.
    Inferred(Failure),
    /// Its key is unknown because a stage that it needs has no result yet.
    Unknown,
    /// One of its files cannot be read.
    Unreadable(Failure),
}

/// A stage with its key, if known.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The key. Its document is made when somebody asks, see [`document`]: of a large sweep hardly anyone does.
    pub key: Option<Digest>,
    /// What the store knows.
    pub status: Status,
}

impl Resolved {
    /// The result, if there is one.
    pub fn record(&self) -> Option<&Arc<Record>> {
        match &self.status {
            Status::Cached(record) | Status::Dropped(record) => Some(record),
            _ => None,
        }
    }
}

/// A stage's key and result.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its key.
    pub key: Digest,
    /// Digest of its artifact.
    pub output: Digest,
    /// What stays of it in the store.
    pub keep: Keep,
}

/// The results of these stages if there is nothing to do for any of them, in the order of [`Pipeline::stages`]; `None`
/// at the first for which there is, and also where a file would have to be read to know.
pub(crate) fn found_all(
    pipeline: &Pipeline,
    store: &Store,
    selected: &BTreeSet<StageId>,
) -> Option<Vec<Option<Found>>> {
    let mut found: Vec<Option<Found>> = vec![None; pipeline.stages.len()];
    let glance = Glance::new(store);
    for level in levels(pipeline, selected) {
        let piece = |ids: &[StageId]| {
            let (mut lately, mut files) = (Lately::default(), KnownFiles::default());
            let mut one = |id: &StageId| {
                let node = pipeline.node(*id);
                let mut inputs = BTreeMap::new();
                for (port, from) in &node.inputs {
                    inputs.insert(port.as_str(), found[from.index()].as_ref()?.output);
                }
                let key = action_digest(node, &inputs, &files.of(node, store)?, &pipeline.numerics);
                match glance.look(&key, &mut lately) {
                    Ok(Whole { output, keep, .. }) => Some(Found { key, output, keep }),
                    Err(Miss::Dropped(record)) if !node.options.keep.is_all() => {
                        Some(Found { key, output: record.output, keep: record.keep })
                    }
                    Err(_) => None,
                }
            };
            ids.iter().map(&mut one).collect::<Option<Vec<Found>>>()
        };
        let pieces: Option<Vec<Vec<Found>>> = if level.len() < PIECE {
            piece(&level).map(|found| vec![found])
        } else {
            level.par_chunks(PIECE).map(piece).collect()
        };
        for (id, result) in level.iter().zip(pieces?.into_iter().flatten()) {
            found[id.index()] = Some(result);
        }
    }
    Some(found)
}

/// The files of the stage that was asked about last: the cells of a sweep mostly read the same.
#[derive(Default)]
struct KnownFiles<'a> {
    of: Option<&'a Arc<[Source]>>,
    digests: Vec<(&'a str, Digest)>,
}

impl<'a> KnownFiles<'a> {
    /// Names and digests of a stage's files; `None` if one is missing or would have to be read.
    fn of(&mut self, node: &'a Node, store: &Store) -> Option<Vec<(&'a str, Digest)>> {
        if !node.missing.is_empty() {
            return None;
        }
        if !self.of.is_some_and(|known| Arc::ptr_eq(known, &node.sources)) {
            let digest = |source: &'a Source| {
                // What the system said while the manifest was read is news still.
                let known = match &source.stamp {
                    Some(stamp) => store.digest_at(&source.path, stamp),
                    None => store.known_digest(&source.path),
                };
                Some((source.name.as_str(), known?))
            };
            self.digests = node.sources.iter().map(digest).collect::<Option<_>>()?;
            self.of = Some(&node.sources);
        }
        Some(self.digests.clone())
    }
}

/// Stages in groups: those of one need only those of earlier ones.
fn levels(pipeline: &Pipeline, selected: &BTreeSet<StageId>) -> Vec<Vec<StageId>> {
    let mut depth = vec![0; pipeline.stages.len()];
    let mut levels: Vec<Vec<StageId>> = Vec::new();
    for id in pipeline.order().iter().filter(|id| selected.contains(id)) {
        let below = pipeline.node(*id).inputs.iter().map(|(_, from)| depth[from.index()] + 1).max().unwrap_or(0);
        depth[id.index()] = below;
        if levels.len() <= below {
            levels.resize_with(below + 1, Vec::new);
        }
        levels[below].push(*id);
    }
    levels
}

/// Looks up every stage, in the order of [`Pipeline::stages`].
pub fn resolve(pipeline: &Pipeline, store: &Store, host: &Host) -> Vec<Resolved> {
    resolve_these(pipeline, store, host, &pipeline.ids().collect())
}

/// Looks up these stages, which are whole: with each all that it needs. The others stay unknown.
pub fn resolve_these(pipeline: &Pipeline, store: &Store, host: &Host, selected: &BTreeSet<StageId>) -> Vec<Resolved> {
    let mut found: Vec<Resolved> = pipeline.ids().map(|_| Resolved { key: None, status: Status::Unknown }).collect();
    let (failed, glance) = (store.failed_keys(), Glance::new(store));
    for level in levels(pipeline, selected) {
        let row = |key: &Digest| failed.contains(key).then(|| store.failure(key)).flatten();
        let piece = |ids: &[StageId]| {
            let mut eye = Eye { glance: &glance, lately: Lately::default(), files: HashedFiles::default() };
            let mut one = |id: &StageId| look_up(pipeline, store, host, *id, &found, &mut eye, row);
            ids.iter().map(&mut one).collect::<Vec<Resolved>>()
        };
        let pieces: Vec<Vec<Resolved>> =
            if level.len() < PIECE { vec![piece(&level)] } else { level.par_chunks(PIECE).map(piece).collect() };
        for (id, result) in level.iter().zip(pieces.into_iter().flatten()) {
            found[id.index()] = result;
        }
    }
    if let Some(axis) = pipeline.sweep.monotone {
        infer(pipeline, axis, &mut found);
    }
    found
}

/// How one thread looks at stages one after the other.
struct Eye<'a> {
    glance: &'a Glance<'a>,
    lately: Lately,
    files: HashedFiles<'a>,
}

/// The files of the stage that was asked about last: the cells of a sweep mostly read the same.
#[derive(Default)]
struct HashedFiles<'a> {
    of: Option<&'a Arc<[Source]>>,
    digests: Vec<(&'a str, Digest)>,
}

impl<'a> HashedFiles<'a> {
    /// Names and digests of a stage's files.
    fn of(&mut self, node: &'a Node, store: &Store) -> Result<&[(&'a str, Digest)], Failure> {
        // What is missing is told with the place in each stage.
        let known = node.missing.is_empty() && self.of.is_some_and(|known| Arc::ptr_eq(known, &node.sources));
        if !known {
            self.of = None;
            let hashed = hash_sources(node, store)?;
            self.digests = node.sources.iter().zip(hashed).map(|(s, (.., digest))| (s.name.as_str(), digest)).collect();
            self.of = Some(&node.sources);
        }
        Ok(&self.digests)
    }
}

/// Looks up a stage; `found` has what it needs, `failure` the rows of failures.
fn look_up<'a>(
    pipeline: &'a Pipeline,
    store: &Store,
    host: &Host,
    id: StageId,
    found: &[Resolved],
    eye: &mut Eye<'a>,
    failure: impl Fn(&Digest) -> Option<FailureRow>,
) -> Resolved {
    let node = pipeline.node(id);
    let mut inputs = BTreeMap::new();
    for (port, from) in &node.inputs {
        let Some(record) = found[from.index()].record() else { return Resolved { key: None, status: Status::Unknown } };
        inputs.insert(port.as_str(), record.output);
    }
    let key = match eye.files.of(node, store) {
        Ok(sources) => action_digest(node, &inputs, sources, &pipeline.numerics),
        Err(failure) => return Resolved { key: None, status: Status::Unreadable(failure) },
    };
    let seen = eye.glance.look(&key, &mut eye.lately);
    let status = match seen.and_then(|_| store.kept(&key).map_or_else(|| store.look_up(&key), Ok)) {
        Ok(record) => Status::Cached(record),
        Err(Miss::Dropped(record)) if !node.options.keep.is_all() => Status::Dropped(record),
        Err(miss) => match failure(&key) {
            Some(row) => {
                let stands = row.is_final(&host.limits(pipeline, node));
                Status::Failed(Box::new(row), stands)
            }
            None => Status::Missing(miss),
        },
    };
    Resolved { key: Some(key), status }
}

/// The key document of a stage as far as it is known: without the inputs that have no result yet, and without `sources`
/// if one cannot be read.
pub fn document(pipeline: &Pipeline, store: &Store, id: StageId, output: impl Fn(StageId) -> Option<Digest>) -> Value {
    let node = pipeline.node(id);
    let known = |(port, from): &(String, StageId)| output(*from).map(|output| (port.clone(), output));
    let inputs: Vec<(String, Digest)> = node.inputs.iter().filter_map(known).collect();
    let inputs = inputs.iter().map(|(port, output)| (port.as_str(), *output)).collect();
    let sources = hash_sources(node, store);
    let readable = sources.is_ok();
    let sources = sources.unwrap_or_default();
    let names: Vec<(&str, Digest)> =
        sources.iter().map(|(source, _, digest)| (source.name.as_str(), *digest)).collect();
    let mut document = action_key(node, &inputs, &names, &pipeline.numerics).document;
    if let (false, Some(fields)) = (readable, document.as_object_mut()) {
        fields.remove("sources");
    }
    document
}

/// Marks what a run would not try because something smaller ran out of memory.
fn infer(pipeline: &Pipeline, axis: u32, found: &mut [Resolved]) {
    let oom = |id: &StageId| matches!(&found[id.index()].status, Status::Failed(row, true) if row.failure.class == FailureClass::Oom);
    let out_of_memory: Vec<StageId> = pipeline.ids().filter(oom).collect();
    for id in pipeline.ids().filter(|_| !out_of_memory.is_empty()) {
        let smaller = out_of_memory.iter().find(|other| pipeline.is_smaller(**other, id, axis));
        if let (Status::Missing(_) | Status::Failed(_, false), Some(smaller)) = (&found[id.index()].status, smaller) {
            let parameter = &pipeline.sweep.axes[axis as usize].key;
            let failure = Failure::inferred_oom(&pipeline.node(*smaller).name, parameter);
            found[id.index()].status = Status::Inferred(failure);
        }
    }
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
    let inputs: BTreeMap<&str, Digest> =
        node.inputs.iter().zip(outputs).map(|((port, _), output)| (port.as_str(), *output)).collect();
    let sources: Vec<(&str, Digest)> =
        sources.iter().map(|(source, _, digest)| (source.name.as_str(), *digest)).collect();
    action_key(node, &inputs, &sources, &pipeline.numerics)
}

/// Why a stage has no usable result: a line for each leaf of its key document that changed since it last had one.
pub fn reasons(stage: &str, keyed: &Keyed, miss: &Miss, latest: &Latest, store: &Store) -> Vec<String> {
    match miss {
        Miss::Damaged(why) => return vec![why.clone()],
        Miss::Dropped(_) => return vec!["its files were removed (keep = \"metrics\"), and are needed now".to_owned()],
        Miss::Absent => {}
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
