//! The board: the state of every stage; what can be asked of it, and how all of it ends. Single changes are in `changes`,
//! files that come and go in `files`.
//!
//! Unaware of threads, slots and channels; it decides nothing about when a stage runs.
mod changes;
mod files;

use super::Options;
use crate::event::{Event, Stamped};
use crate::graph::{Node, Pipeline, StageId};
use crate::hash::Stamp;
use crate::key::{Digest, DigestMap, Keyed};
use crate::store::{Latest, Record, Store};
use crate::worker::{Live, Lost, stamped};
use crate::{Failure, FailureClass, Source, StageInput};
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

type Sources = Vec<(Source, Stamp, Digest)>;

/// How a stage ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was executed now.
    Executed,
    /// Its result was in the store.
    Cached,
    /// It failed; what its last attempt took, as far as that is known.
    Failed(Failure, Took),
    /// It was stopped on request; its checkpoints are kept.
    Interrupted,
    /// It was not tried because this stage failed.
    Skipped {
        /// The stage that failed.
        because: String,
    },
    /// It was not tried because the run was stopped, or was not asked for.
    NotStarted,
}

/// What an attempt that failed took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Took {
    /// Seconds.
    pub seconds: f64,
    /// Largest resident memory that is not a mapped file, MiB.
    pub peak_mib: Option<f64>,
    /// Last training step that was reported.
    pub last_step: Option<u64>,
}

/// What came of a stage.
#[derive(Debug, Clone)]
pub struct StageResult {
    /// Its name in the manifest.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Its key, if it was known.
    pub key: Option<Digest>,
    /// Its result, if there is one.
    pub record: Option<Arc<Record>>,
}

/// What is needed to execute a stage.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) keyed: Keyed,
    pub(super) sources: Sources,
    pub(super) seed: u64,
    pub(super) numerics: String,
    pub(super) root: PathBuf,
    reasons: Vec<String>,
}

/// How an execution ended.
pub(super) struct Ended {
    /// The result, or why there is none.
    pub(super) result: Result<Arc<Record>, Lost>,
    pub(super) seconds: f64,
    pub(super) last_step: Option<u64>,
}

impl Ended {
    /// It could not even begin.
    pub(super) fn failure(failure: Failure) -> Self {
        Self { result: Err(Lost::of(failure)), seconds: 0.0, last_step: None }
    }
}

/// Where a stage stands.
enum State {
    /// Some of its inputs are not there yet, or nobody asked for it.
    Blocked,
    /// All its inputs are there.
    Ready,
    /// Its files are being hashed.
    Hashing,
    /// It must be executed; whether it was told that another process holds its lease.
    Wanted(Box<Pending>, bool),
    /// Another stage of this manifest has the same key; whatever comes of that one comes of this one.
    Following,
    /// It is being executed.
    Running(Box<Pending>, Live),
    /// There is a result; whether it was made now.
    Done(Arc<Record>, bool),
    /// It failed.
    Failed(Failure, Took),
    /// A stage that it needs failed.
    Skipped(String),
}

/// All stages of a run.
pub(super) struct Board<'a> {
    pipeline: &'a Pipeline,
    store: Arc<Store>,
    latest: Latest,
    options: &'a Options,
    emit: &'a dyn Fn(&Stamped),
    forced: BTreeSet<StageId>,
    selected: BTreeSet<StageId>,
    states: Vec<State>,
    keys: Vec<Option<Digest>>,
    /// Inputs that are not there yet, by stage.
    missing: Vec<usize>,
    /// The first stage of each key that must be executed, and the others.
    leaders: HashMap<Digest, StageId>,
    followers: HashMap<StageId, Vec<StageId>>,
    ready: BTreeSet<StageId>,
    wanted: BTreeSet<(i64, StageId)>,
    /// Those of them that another process works on, as far as that was seen.
    elsewhere: BTreeSet<StageId>,
    /// Stages with a result whose files were removed.
    bare: BTreeSet<StageId>,
    /// Stages whose files may be removed, by what they made: equal files lie in one folder.
    removable: DigestMap<Vec<StageId>>,
    /// Stages whose files could not be removed when nobody here needed them any more, and the last try.
    lingering: BTreeSet<StageId>,
    lingered: Instant,
    /// Those of them that run again because somebody needs the files.
    remaking: BTreeSet<StageId>,
    /// Stages that wait for such files, and for how many of them.
    held: HashMap<StageId, usize>,
    /// Stages that ran out of memory.
    out_of_memory: Vec<StageId>,
    hashing: usize,
    running: BTreeSet<StageId>,
    /// Those of them that have computed their result.
    publishing: BTreeSet<StageId>,
    first_failed: Option<String>,
    /// Nothing new begins.
    closed: bool,
    warned: bool,
}

impl<'a> Board<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        store: Arc<Store>,
        options: &'a Options,
        selected: &BTreeSet<StageId>,
        forced: BTreeSet<StageId>,
        emit: &'a dyn Fn(&Stamped),
    ) -> Self {
        let distinct = |node: &Node| node.inputs.iter().map(|(_, from)| from).collect::<BTreeSet<_>>().len();
        let missing: Vec<usize> = pipeline.stages.iter().map(distinct).collect();
        let ready: BTreeSet<StageId> = selected.iter().copied().filter(|id| missing[id.index()] == 0).collect();
        let state = |id: StageId| if ready.contains(&id) { State::Ready } else { State::Blocked };
        Self {
            latest: super::latest(pipeline, &store),
            options,
            bare: BTreeSet::new(),
            removable: DigestMap::default(),
            lingering: BTreeSet::new(),
            lingered: Instant::now(),
            remaking: BTreeSet::new(),
            held: HashMap::new(),
            out_of_memory: Vec::new(),
            elsewhere: BTreeSet::new(),
            states: pipeline.ids().map(state).collect(),
            keys: vec![None; missing.len()],
            leaders: HashMap::new(),
            followers: HashMap::new(),
            wanted: BTreeSet::new(),
            selected: selected.clone(),
            hashing: 0,
            running: BTreeSet::new(),
            publishing: BTreeSet::new(),
            first_failed: None,
            closed: false,
            warned: false,
            pipeline,
            store,
            emit,
            forced,
            missing,
            ready,
        }
    }

    fn tell(&self, id: StageId, event: Event) {
        (self.emit)(&stamped(Some(&self.node(id).name), event));
    }

    pub(super) fn node(&self, id: StageId) -> &'a Node {
        self.pipeline.node(id)
    }

    /// Takes a stage whose inputs are all there.
    pub(super) fn next_ready(&mut self) -> Option<StageId> {
        if self.closed { None } else { self.ready.pop_first() }
    }

    /// How many stages are to be executed.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// The next stage to execute after one, or the first: in the order of the manifest; along an axis whose larger
    /// values need more memory, the smaller first.
    pub(super) fn next_wanted(&self, after: Option<StageId>) -> Option<StageId> {
        let begin = after.map_or(Bound::Unbounded, |id| Bound::Excluded((self.rank(id), id)));
        self.wanted.range((begin, Bound::Unbounded)).next().map(|(_, id)| *id)
    }

    /// Orders stages by what they set along the monotone axis.
    fn rank(&self, id: StageId) -> i64 {
        let Some(axis) = self.pipeline.sweep.monotone else { return 0 };
        let set = self.node(id).setting.iter().find(|(at, _)| *at == axis);
        let value = set.and_then(|(_, value)| self.pipeline.sweep.axes[axis as usize].values[*value as usize].as_f64());
        // The bits of a float as an integer that has its order, as `f64::total_cmp` does it.
        let bits = value.unwrap_or(f64::NEG_INFINITY).to_bits() as i64;
        bits ^ (((bits >> 63) as u64) >> 1) as i64
    }

    /// It is to be executed.
    fn want(&mut self, id: StageId) {
        let rank = self.rank(id);
        self.wanted.insert((rank, id));
    }

    /// It is not, or no longer.
    fn unwant(&mut self, id: StageId) {
        let rank = self.rank(id);
        self.wanted.remove(&(rank, id));
        self.elsewhere.remove(&id);
    }

    /// How many stages compute now.
    pub(super) fn running(&self) -> usize {
        self.running.len() - self.publishing.len()
    }

    /// A stage failed.
    pub(super) fn failed(&self) -> bool {
        self.first_failed.is_some()
    }

    /// Nothing runs, and nothing can begin.
    pub(super) fn idle(&self) -> bool {
        // Nobody waits for digests that nobody will use.
        let nothing_to_come = self.closed || (self.hashing == 0 && self.ready.is_empty());
        self.running.is_empty() && self.wanted.is_empty() && nothing_to_come
    }

    /// What a stage needs to execute, if it is still to be executed.
    pub(super) fn pending(&self, id: StageId) -> Option<Pending> {
        match &self.states[id.index()] {
            State::Wanted(pending, _) => Some(Pending::clone(pending)),
            _ => None,
        }
    }

    /// The artifacts that a stage takes, by port.
    pub(super) fn inputs(&self, id: StageId) -> Vec<(String, StageInput)> {
        let input = |(port, from): &(String, StageId)| {
            let State::Done(record, _) = &self.states[from.index()] else { return None };
            let artifact = self.node(*from).output.to_owned();
            let (dir, digest) = (self.store.tree(&record.output), record.output.to_string());
            Some((port.clone(), StageInput { artifact, dir, digest }))
        };
        self.node(id).inputs.iter().filter_map(input).collect()
    }

    /// Whether the key of a stage is known without reading its files.
    pub(super) fn can_settle_now(&self, id: StageId) -> bool {
        let node = self.node(id);
        !node.missing.is_empty() || node.sources.iter().all(|source| self.store.digest_is_known(&source.path))
    }

    /// Its files are being hashed.
    pub(super) fn hashing(&mut self, id: StageId) {
        self.hashing += 1;
        self.states[id.index()] = State::Hashing;
    }

    /// The digest of what a stage made; of one that runs again for its files, as it was.
    fn output(&self, id: StageId) -> Option<Digest> {
        match &self.states[id.index()] {
            State::Done(record, _) => Some(record.output),
            _ if self.remaking.contains(&id) => Some(self.store.brief(&self.keys[id.index()]?)?.output),
            _ => None,
        }
    }

    /// Begins nothing new, and asks what runs to stop, or ends it.
    pub(super) fn stop(&mut self, hurry: bool) {
        self.closed = true;
        self.wanted.clear();
        for state in &self.states {
            if let State::Running(_, live) = state {
                live.stop(hurry);
            }
        }
    }

    /// Begins nothing new because a stage failed.
    pub(super) fn give_up(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        let because = self.first_failed.clone().unwrap_or_default();
        self.wanted.clear();
        for id in self.selected.clone() {
            if matches!(self.states[id.index()], State::Blocked | State::Ready | State::Wanted(..)) {
                self.skip(id, &because);
            }
        }
    }

    /// How everything ended. Also writes down which key each stage had.
    pub(super) fn results(&mut self) -> Vec<StageResult> {
        self.let_go_at_last();
        let saved = self.latest.save();
        if let (Err(_), Some(id)) = (&saved, self.pipeline.order().last()) {
            self.warn(*id, saved);
        }
        let outcome = |state: &State| match state {
            State::Done(_, true) => Outcome::Executed,
            State::Done(_, false) => Outcome::Cached,
            State::Failed(failure, _) if failure.class == FailureClass::Interrupted => Outcome::Interrupted,
            State::Failed(failure, took) => Outcome::Failed(failure.clone(), *took),
            State::Skipped(because) => Outcome::Skipped { because: because.clone() },
            State::Running(..) => Outcome::Interrupted,
            State::Following if !self.closed => {
                let message = "it waited for a stage of the same key, which ended without it";
                Outcome::Failed(Failure::bug(message), Took::default())
            }
            State::Blocked | State::Ready | State::Hashing | State::Wanted(..) | State::Following => {
                Outcome::NotStarted
            }
        };
        let result = |id: StageId| StageResult {
            name: self.node(id).name.clone(),
            outcome: outcome(&self.states[id.index()]),
            key: self.keys[id.index()],
            record: match &self.states[id.index()] {
                State::Done(record, _) => Some(Arc::clone(record)),
                _ => None,
            },
        };
        self.pipeline.ids().map(result).collect()
    }
}
