//! What happens to a stage: it gets its key, is found, begins, ends, fails or is passed over, and what follows from that
//! for others.
//!
//! Unaware of threads and channels.
use super::{Board, Ended, Pending, Sources, State, Took};
use crate::event::Event;
use crate::graph::StageId;
use crate::key::Digest;
use crate::resolve::{hash_sources, keyed, reasons};
use crate::store::{FailureRow, Miss, Record};
use crate::worker::{Live, Lost};
use crate::{Failure, FailureClass};
use std::sync::Arc;

impl Board<'_> {
    /// Computes the key of a stage and looks it up: done, known to fail, or to be executed.
    pub(in crate::run) fn settle(&mut self, id: StageId, hashed: Option<Result<Sources, Failure>>) {
        self.hashing -= usize::from(hashed.is_some());
        if self.closed {
            self.states[id.index()] = State::Blocked;
            return;
        }
        let sources = match hashed.unwrap_or_else(|| hash_sources(self.node(id), &self.store)) {
            Ok(sources) => sources,
            Err(failure) => return self.fail(id, failure, Took::default()),
        };
        let outputs: Vec<Digest> = self.node(id).inputs.iter().filter_map(|(_, from)| self.output(*from)).collect();
        let keyed = keyed(self.pipeline, id, &outputs, &sources);
        let key = keyed.key;
        self.keys[id.index()] = Some(key);
        if let Some(leader) = self.leader(id, key) {
            match &self.states[leader.index()] {
                State::Done(record, _) => {
                    let record = Arc::clone(record);
                    return if self.bare.contains(&leader) {
                        self.found_bare(id, record)
                    } else {
                        self.found(id, record)
                    };
                }
                State::Failed(failure, took) => {
                    let (failure, took) = (failure.clone(), *took);
                    self.fail(id, failure, took);
                }
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
        if self.need_files(id) {
            return;
        }
        let (seed, numerics) = (self.node(id).seed, self.pipeline.numerics.clone());
        self.leaders.insert(key, id);
        self.want(id);
        let root = self.pipeline.root.clone();
        let pending = Pending { keyed, sources, seed, numerics, root, reasons };
        self.states[id.index()] = State::Wanted(Box::new(pending), false);
    }

    /// The other stage of this key whose result, whatever it will be, is that of this one too.
    fn leader(&self, id: StageId, key: Digest) -> Option<StageId> {
        let leader = *self.leaders.get(&key).filter(|leader| **leader != id && !self.remaking.contains(&id))?;
        // It may have ended without its files, which this one is to keep.
        (!self.bare.contains(&leader) || !self.node(id).options.keep.is_all()).then_some(leader)
    }

    /// Looks a key up. If the store knows what comes of it, settles the stage and returns nothing.
    pub(super) fn look_up(&mut self, id: StageId, key: Digest) -> Option<Miss> {
        match self.store.look_up(&key) {
            Ok(record) => {
                self.found(id, record);
                None
            }
            // The record is all that is asked for.
            Err(Miss::Dropped(record)) if !self.node(id).options.keep.is_all() && !self.remaking.contains(&id) => {
                self.found_bare(id, record);
                None
            }
            Err(miss) => {
                let limits = self.options.host.limits(self.pipeline, self.node(id));
                let stands =
                    |row: &FailureRow| row.is_final(&limits) && !self.options.retry.contains(&row.failure.class);
                let Some(row) = self.store.failure(&key).filter(stands) else {
                    return Some(miss);
                };
                let took = Took { seconds: row.seconds, peak_mib: row.peak_mib, last_step: row.last_step };
                let failure = Failure {
                    message: format!("{} (from an earlier run; not tried again)", row.failure.message),
                    hint: Some(row.failure.class.retry_hint(&self.node(id).name)),
                    ..row.failure
                };
                self.fail(id, failure, took);
                None
            }
        }
    }

    /// Looks up a stage whose lease was just taken; says whether that settled it.
    pub(in crate::run) fn settle_again(&mut self, id: StageId) -> bool {
        let Some(key) = self.keys[id.index()].filter(|_| !self.forced.contains(&id)) else { return false };
        self.look_up(id, key).is_none() || (self.remaking.contains(&id) && !self.still_needed(id))
    }

    /// Looks up the stages that another process works on.
    pub(in crate::run) fn look_again(&mut self) {
        // Not all that are wanted: this is asked after every result, of this process too.
        for id in self.elsewhere.clone() {
            if let (State::Wanted(_, true), Some(key)) = (&self.states[id.index()], self.keys[id.index()])
                && !self.forced.contains(&id)
            {
                self.look_up(id, key);
            }
        }
    }

    /// Another process holds its lease.
    pub(in crate::run) fn waiting(&mut self, id: StageId) {
        if let State::Wanted(pending, told @ false) = &mut self.states[id.index()] {
            *told = true;
            self.elsewhere.insert(id);
            let key = pending.keyed.key.to_string();
            self.tell(id, Event::StageWaiting { key });
        }
    }

    /// A thread took it over.
    pub(in crate::run) fn executing(&mut self, id: StageId, live: Live) {
        let state = std::mem::replace(&mut self.states[id.index()], State::Blocked);
        if let State::Wanted(pending, _) = state {
            self.unwant(id);
            self.running.insert(id);
            self.states[id.index()] = State::Running(pending, live);
        }
    }

    /// Its process has a number.
    pub(in crate::run) fn started(&mut self, id: StageId, pid: u32) {
        if let State::Running(pending, _) = &self.states[id.index()] {
            let (key, reasons) = (pending.keyed.key.to_string(), pending.reasons.clone());
            self.tell(id, Event::StageStarted { key, pid, reasons });
        }
    }

    /// It has computed its result. No more than `most` are passed over for others: a slow disk is waited for.
    pub(in crate::run) fn publishing(&mut self, id: StageId, most: usize) {
        if self.running.contains(&id) && self.publishing.len() < most {
            self.publishing.insert(id);
        }
    }

    /// Its execution ended.
    pub(in crate::run) fn ended(&mut self, id: StageId, ended: Ended) {
        self.unwant(id);
        let state = std::mem::replace(&mut self.states[id.index()], State::Blocked);
        self.running.remove(&id);
        self.publishing.remove(&id);
        let Ended { result, seconds, last_step } = ended;
        match result {
            Ok(record) => {
                let (key, output) = (record.key.to_string(), record.output.to_string());
                let (seconds, peak_mib, metrics) = (record.seconds, record.peak_mib, record.metrics.clone());
                self.tell(id, Event::StageFinished { key, output, seconds, peak_mib, metrics });
                self.complete(id, record, true);
            }
            Err(Lost { failure, log, peak_mib }) => {
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
                        limits: self.options.host.limits(self.pipeline, node),
                        document: pending.keyed.document,
                    });
                    self.warn(id, recorded);
                }
                self.fail(id, failure, Took { seconds, peak_mib, last_step });
            }
        }
    }

    pub(super) fn found(&mut self, id: StageId, record: Arc<Record>) {
        self.unwant(id);
        self.tell(id, Event::StageCached { key: record.key.to_string(), output: record.output.to_string() });
        self.complete(id, record, false);
    }

    fn complete(&mut self, id: StageId, record: Arc<Record>, executed: bool) {
        if record.keep.is_all() || self.node(id).options.keep.is_all() {
            let linked = self.latest.link(&self.node(id).name, record.key, &record.output);
            self.warn(id, linked);
        } else {
            // Its files go.
            self.latest.note(&self.pipeline.node(id).name, record.key);
        }
        self.done(id, record, executed);
    }

    /// There is a result, with or without its files.
    pub(super) fn done(&mut self, id: StageId, record: Arc<Record>, executed: bool) {
        self.states[id.index()] = State::Done(Arc::clone(&record), executed);
        self.note_removable(id, &record);
        for follower in self.followers.remove(&id).unwrap_or_default() {
            self.found(follower, Arc::clone(&record));
        }
        if self.remaking.remove(&id) {
            self.files_are_back(id);
        } else {
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
        self.let_go_around(id);
    }

    /// Fails a stage without trying it, if one that needs less memory ran out of it. Says whether it did.
    pub(in crate::run) fn infer(&mut self, id: StageId) -> bool {
        let Some(axis) = self.pipeline.sweep.monotone.filter(|_| !self.forced.contains(&id)) else { return false };
        let smaller = self.out_of_memory.iter().find(|other| self.pipeline.is_smaller(**other, id, axis));
        let Some(smaller) = smaller else { return false };
        let parameter = &self.pipeline.sweep.axes[axis as usize].key;
        let failure = Failure::inferred_oom(&self.node(*smaller).name, parameter);
        self.fail(id, failure, Took::default());
        true
    }

    fn fail(&mut self, id: StageId, failure: Failure, took: Took) {
        self.unwant(id);
        self.remaking.remove(&id);
        let Took { seconds, peak_mib, last_step } = took;
        self.tell(id, Event::StageFailed { failure: failure.clone(), seconds, peak_mib, last_step });
        self.states[id.index()] = State::Failed(failure.clone(), took);
        if failure.class == FailureClass::Oom && !failure.inferred {
            self.out_of_memory.push(id);
        }
        for follower in self.followers.remove(&id).unwrap_or_default() {
            self.fail(follower, failure.clone(), took);
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
        self.let_go_around(id);
    }

    pub(super) fn skip(&mut self, id: StageId, because: &str) {
        self.tell(id, Event::StageSkipped { because: because.to_owned() });
        self.states[id.index()] = State::Skipped(because.to_owned());
    }

    /// Trouble that costs a convenience, told once.
    pub(super) fn warn(&mut self, id: StageId, result: Result<(), Failure>) {
        if let (Err(failure), false) = (result, self.warned) {
            self.warned = true;
            self.tell(id, Event::Note { warning: true, message: failure.to_string() });
        }
    }
}
