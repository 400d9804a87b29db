//! The board: the state of every stage, and every change of it, each told as an event.
//!
//! Unaware of threads, slots and channels; it decides nothing about when a stage runs.
use crate::event::{Event, Stamped};
use crate::graph::{Node, Pipeline, StageId};
use crate::hash::Stamp;
use crate::key::{Digest, Keyed};
use crate::resolve::{hash_sources, keyed, reasons};
use crate::store::{FailureRow, Latest, Limits, Miss, Record, Store};
use crate::worker::{Live, stamped};
use crate::{Failure, FailureClass, Source, StageInput};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

type Sources = Vec<(Source, Stamp, Digest)>;

/// How a stage ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was executed now.
    Executed,
    /// Its result was in the store.
    Cached,
    /// It failed.
    Failed(Failure),
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
    reasons: Vec<String>,
}

/// How an execution ended.
pub(super) struct Ended {
    /// The result, or the failure and the last lines of the log.
    pub(super) result: Result<Arc<Record>, (Failure, Vec<String>)>,
    pub(super) seconds: f64,
    pub(super) peak_mib: Option<f64>,
    pub(super) last_step: Option<u64>,
}

impl Ended {
    /// It could not even begin.
    pub(super) fn failure(failure: Failure) -> Self {
        Self { result: Err((failure, Vec::new())), seconds: 0.0, peak_mib: None, last_step: None }
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
    Failed(Failure),
    /// A stage that it needs failed.
    Skipped(String),
}

/// All stages of a run.
pub(super) struct Board<'a> {
    pipeline: &'a Pipeline,
    store: Arc<Store>,
    latest: Latest,
    limits: Limits,
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
    wanted: BTreeSet<StageId>,
    hashing: usize,
    running: usize,
    first_failed: Option<String>,
    /// Nothing new begins.
    closed: bool,
    warned: bool,
}

impl<'a> Board<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        store: Arc<Store>,
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
            limits: Limits::here(),
            states: pipeline.ids().map(state).collect(),
            keys: vec![None; missing.len()],
            leaders: HashMap::new(),
            followers: HashMap::new(),
            wanted: BTreeSet::new(),
            selected: selected.clone(),
            hashing: 0,
            running: 0,
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

    /// The stages to execute, in the order of the manifest.
    pub(super) fn wanted(&self) -> Vec<StageId> {
        self.wanted.iter().copied().collect()
    }

    /// How many stages execute now.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// A stage failed.
    pub(super) fn failed(&self) -> bool {
        self.first_failed.is_some()
    }

    /// Nothing runs, and nothing can begin.
    pub(super) fn idle(&self) -> bool {
        self.running == 0 && self.hashing == 0 && self.wanted.is_empty() && (self.closed || self.ready.is_empty())
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

    /// Computes the key of a stage and looks it up: done, known to fail, or to be executed.
    pub(super) fn settle(&mut self, id: StageId, hashed: Option<Result<Sources, Failure>>) {
        self.hashing -= usize::from(hashed.is_some());
        if self.closed {
            self.states[id.index()] = State::Blocked;
            return;
        }
        let sources = match hashed.unwrap_or_else(|| hash_sources(self.node(id), &self.store)) {
            Ok(sources) => sources,
            Err(failure) => return self.fail(id, failure, 0.0),
        };
        let outputs: Vec<Digest> = self.node(id).inputs.iter().filter_map(|(_, from)| self.output(*from)).collect();
        let keyed = keyed(self.pipeline, id, &outputs, &sources);
        let key = keyed.key;
        self.keys[id.index()] = Some(key);
        if let Some(leader) = self.leaders.get(&key).copied() {
            match &self.states[leader.index()] {
                State::Done(record, _) => self.found(id, Arc::clone(record)),
                State::Failed(failure) => self.fail(id, failure.clone(), 0.0),
                _ => {
                    self.followers.entry(leader).or_default().push(id);
                    self.states[id.index()] = State::Following;
                }
            }
            return;
        }
        let reasons = if self.forced.contains(&id) {
            vec!["asked for with --force".to_owned()]
        } else {
            match self.look_up(id, key) {
                None => return,
                Some(miss) => reasons(&self.node(id).name, &keyed, &miss, &self.latest, &self.store),
            }
        };
        let (seed, numerics) = (self.pipeline.seed, self.pipeline.numerics.clone());
        self.leaders.insert(key, id);
        self.wanted.insert(id);
        let pending = Pending { keyed, sources, seed, numerics, reasons };
        self.states[id.index()] = State::Wanted(Box::new(pending), false);
    }

    /// Looks a key up. If the store knows what comes of it, settles the stage and returns nothing.
    fn look_up(&mut self, id: StageId, key: Digest) -> Option<Miss> {
        match self.store.look_up(&key) {
            Ok(record) => {
                self.found(id, record);
                None
            }
            Err(miss) => {
                let Some(row) = self.store.failure(&key).filter(|row| row.is_final(&self.limits)) else {
                    return Some(miss);
                };
                let name = &self.node(id).name;
                let failure = Failure {
                    message: format!("{} (from an earlier run; not tried again)", row.failure.message),
                    hint: Some(format!("change a parameter, or try again with --force {name}")),
                    ..row.failure
                };
                self.fail(id, failure, 0.0);
                None
            }
        }
    }

    /// Looks up a stage whose lease was just taken; says whether that settled it.
    pub(super) fn settle_again(&mut self, id: StageId) -> bool {
        let Some(key) = self.keys[id.index()].filter(|_| !self.forced.contains(&id)) else { return false };
        self.look_up(id, key).is_none()
    }

    fn output(&self, id: StageId) -> Option<Digest> {
        match &self.states[id.index()] {
            State::Done(record, _) => Some(record.output),
            _ => None,
        }
    }

    /// Another process holds its lease.
    pub(super) fn waiting(&mut self, id: StageId) {
        if let State::Wanted(pending, told @ false) = &mut self.states[id.index()] {
            *told = true;
            let key = pending.keyed.key.to_string();
            self.tell(id, Event::StageWaiting { key });
        }
    }

    /// A thread took it over.
    pub(super) fn executing(&mut self, id: StageId, live: Live) {
        let state = std::mem::replace(&mut self.states[id.index()], State::Blocked);
        if let State::Wanted(pending, _) = state {
            self.wanted.remove(&id);
            self.running += 1;
            self.states[id.index()] = State::Running(pending, live);
        }
    }

    /// Its process has a number.
    pub(super) fn started(&mut self, id: StageId, pid: u32) {
        if let State::Running(pending, _) = &self.states[id.index()] {
            let (key, reasons) = (pending.keyed.key.to_string(), pending.reasons.clone());
            self.tell(id, Event::StageStarted { key, pid, reasons });
        }
    }

    /// Its execution ended.
    pub(super) fn ended(&mut self, id: StageId, ended: Ended) {
        self.wanted.remove(&id);
        let state = std::mem::replace(&mut self.states[id.index()], State::Blocked);
        self.running -= usize::from(matches!(state, State::Running(..)));
        let Ended { result, seconds, peak_mib, last_step } = ended;
        match result {
            Ok(record) => {
                let (key, output) = (record.key.to_string(), record.output.to_string());
                let (seconds, peak_mib, metrics) = (record.seconds, record.peak_mib, record.metrics.clone());
                self.tell(id, Event::StageFinished { key, output, seconds, peak_mib, metrics });
                self.complete(id, record, true);
            }
            Err((failure, log)) => {
                if let (State::Running(pending, _) | State::Wanted(pending, _), false) =
                    (state, failure.class == FailureClass::Interrupted)
                {
                    let node = self.node(id);
                    let recorded = self.store.record_failure(&FailureRow {
                        key: pending.keyed.key,
                        stage: node.name.clone(),
                        kind: node.kind.kind().to_owned(),
                        failure: failure.clone(),
                        seconds,
                        peak_mib,
                        last_step,
                        log,
                        time: crate::hash::now_nanos() as f64 / 1e9,
                        limits: self.limits.clone(),
                        document: pending.keyed.document,
                    });
                    self.warn(id, recorded);
                }
                self.fail(id, failure, seconds);
            }
        }
    }

    fn found(&mut self, id: StageId, record: Arc<Record>) {
        self.wanted.remove(&id);
        self.tell(id, Event::StageCached { key: record.key.to_string(), output: record.output.to_string() });
        self.complete(id, record, false);
    }

    fn complete(&mut self, id: StageId, record: Arc<Record>, executed: bool) {
        let linked = self.latest.link(&self.node(id).name, record.key, &record.output);
        self.warn(id, linked);
        self.states[id.index()] = State::Done(Arc::clone(&record), executed);
        for follower in self.followers.remove(&id).unwrap_or_default() {
            self.found(follower, Arc::clone(&record));
        }
        for next in self.pipeline.dependents(id) {
            self.missing[next.index()] -= 1;
            if self.missing[next.index()] == 0
                && self.selected.contains(next)
                && matches!(self.states[next.index()], State::Blocked)
            {
                self.states[next.index()] = State::Ready;
                self.ready.insert(*next);
            }
        }
    }

    fn fail(&mut self, id: StageId, failure: Failure, seconds: f64) {
        self.wanted.remove(&id);
        self.tell(id, Event::StageFailed { failure: failure.clone(), seconds });
        self.states[id.index()] = State::Failed(failure.clone());
        for follower in self.followers.remove(&id).unwrap_or_default() {
            self.fail(follower, failure.clone(), 0.0);
        }
        if failure.class == FailureClass::Interrupted {
            return;
        }
        let because = self.node(id).name.clone();
        let mut queue = self.pipeline.dependents(id).to_vec();
        while let Some(next) = queue.pop() {
            if self.selected.contains(&next) && matches!(self.states[next.index()], State::Blocked) {
                self.skip(next, &because);
                queue.extend(self.pipeline.dependents(next));
            }
        }
        self.first_failed.get_or_insert(because);
    }

    fn skip(&mut self, id: StageId, because: &str) {
        self.tell(id, Event::StageSkipped { because: because.to_owned() });
        self.states[id.index()] = State::Skipped(because.to_owned());
    }

    /// Trouble that costs a convenience, told once.
    fn warn(&mut self, id: StageId, result: Result<(), Failure>) {
        if let (Err(failure), false) = (result, self.warned) {
            self.warned = true;
            self.tell(id, Event::Note { warning: true, message: failure.to_string() });
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
        let saved = self.latest.save();
        if let (Err(_), Some(id)) = (&saved, self.pipeline.order().last()) {
            self.warn(*id, saved);
        }
        let outcome = |state: &State| match state {
            State::Done(_, true) => Outcome::Executed,
            State::Done(_, false) => Outcome::Cached,
            State::Failed(failure) if failure.class == FailureClass::Interrupted => Outcome::Interrupted,
            State::Failed(failure) => Outcome::Failed(failure.clone()),
            State::Skipped(because) => Outcome::Skipped { because: because.clone() },
            State::Running(..) => Outcome::Interrupted,
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
