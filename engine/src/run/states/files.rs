//! Files that come and go: results of which only the record is kept, and what happens when somebody needs their files.
//!
//! Unaware of threads and channels.
use super::{Board, State};
use crate::event::Event;
use crate::graph::StageId;
use crate::key::Digest;
use crate::store::Record;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two tries to remove files that somebody uses.
const PATIENCE: Duration = Duration::from_secs(1);

impl Board<'_> {
    /// Its record was found; its files were removed, and so far nobody needs them.
    pub(super) fn found_bare(&mut self, id: StageId, record: Arc<Record>) {
        self.unwant(id);
        self.bare.insert(id);
        self.tell(id, Event::StageCached { key: record.key.to_string(), output: record.output.to_string() });
        self.latest.note(&self.pipeline.node(id).name, record.key);
        self.done(id, record, false);
    }

    /// Whether a stage must wait for files that were removed; then the stages that make them run again.
    pub(in crate::run) fn need_files(&mut self, id: StageId) -> bool {
        let mut inputs: Vec<StageId> = self.node(id).inputs.iter().map(|(_, from)| *from).collect();
        inputs.sort_unstable();
        inputs.dedup();
        let gone = |from: &StageId| match &self.states[from.index()] {
            State::Done(record, _) => {
                self.bare.contains(from) || (!record.keep.is_all() && !self.store.has_files(record))
            }
            // It runs again already, for another.
            _ => self.remaking.contains(from),
        };
        let gone: Vec<StageId> = inputs.into_iter().filter(gone).collect();
        if gone.is_empty() {
            return false;
        }
        self.unwant(id);
        self.states[id.index()] = State::Blocked;
        self.release_followers(id);
        if let Some(key) = self.keys[id.index()]
            && self.leaders.get(&key) == Some(&id)
        {
            self.leaders.remove(&key);
        }
        self.held.insert(id, gone.len());
        for from in gone {
            self.bare.remove(&from);
            if self.remaking.insert(from) {
                self.states[from.index()] = State::Ready;
                self.ready.insert(from);
            }
        }
        true
    }

    /// A stage is not made again after all: its files were needed, and are no longer.
    fn as_it_was(&mut self, id: StageId, record: Arc<Record>) {
        self.unwant(id);
        self.bare.insert(id);
        // Whoever waited for it may want the files.
        self.release_followers(id);
        self.done(id, record, false);
    }

    /// Those who waited for a stage of their key look for themselves.
    fn release_followers(&mut self, id: StageId) {
        for follower in self.followers.remove(&id).unwrap_or_default() {
            self.states[follower.index()] = State::Ready;
            self.ready.insert(follower);
        }
    }

    /// What waited for a stage's files can go on.
    pub(super) fn files_are_back(&mut self, id: StageId) {
        for next in self.pipeline.dependents(id) {
            let Some(waits) = self.held.get_mut(next) else { continue };
            *waits -= 1;
            if *waits == 0 {
                self.held.remove(next);
                if matches!(self.states[next.index()], State::Blocked) {
                    self.states[next.index()] = State::Ready;
                    self.ready.insert(*next);
                }
            }
        }
    }

    /// Whether anything still waits for the files of a stage that is to run again for them. Under its lease: another
    /// process may have made them meanwhile, done with them what waits here, and removed them. What has a result by now
    /// is settled, and a stage that nothing waits for is done as it was before.
    pub(super) fn still_needed(&mut self, id: StageId) -> bool {
        let Some(record) = self.keys[id.index()].and_then(|key| self.store.brief(&key)) else { return true };
        for &next in self.pipeline.dependents(id) {
            if !self.held.contains_key(&next) {
                continue;
            }
            let needed = if self.remaking.contains(&next) {
                self.still_needed(next)
            } else if matches!(self.states[next.index()], State::Blocked) {
                let key = self.keys[next.index()].filter(|_| !self.forced.contains(&next));
                key.is_none_or(|key| self.look_up(next, key).is_some())
            } else {
                // A stage that it needs too failed.
                false
            };
            if needed {
                return true;
            }
            self.held.remove(&next);
        }
        self.as_it_was(id, record);
        false
    }

    /// Outputs among a stage's inputs whose files somebody may remove.
    pub(in crate::run) fn removable_inputs(&self, id: StageId) -> Vec<Digest> {
        let output = |(_, from): &(String, StageId)| match &self.states[from.index()] {
            State::Done(record, _) if !record.keep.is_all() => Some(record.output),
            _ => None,
        };
        self.node(id).inputs.iter().filter_map(output).collect()
    }

    /// Removes the files of a stage, and of those that it took files from, as far as nothing in this run needs them.
    pub(super) fn let_go_around(&mut self, id: StageId) {
        let mut near = vec![id];
        near.extend(self.node(id).inputs.iter().map(|(_, from)| *from));
        for at in near {
            self.let_go(at);
        }
    }

    /// Notes whose files go when those of an equal result go.
    pub(super) fn note_removable(&mut self, id: StageId, record: &Record) {
        if !record.keep.is_all() && !self.bare.contains(&id) {
            self.removable.entry(record.output).or_default().push(id);
        }
    }

    /// Tries again to remove what could not be removed, but not all the time.
    pub(in crate::run) fn let_go_again(&mut self) {
        if !self.lingering.is_empty() && self.lingered.elapsed() > PATIENCE {
            self.lingered = Instant::now();
            std::mem::take(&mut self.lingering).into_iter().for_each(|id| self.let_go(id));
        }
    }

    /// The last try, when nothing else is left to do: somebody may be publishing just now.
    pub(super) fn let_go_at_last(&mut self) {
        let begun = Instant::now();
        while !self.lingering.is_empty() && begun.elapsed() < PATIENCE {
            std::mem::take(&mut self.lingering).into_iter().for_each(|id| self.let_go(id));
            if !self.lingering.is_empty() {
                std::thread::sleep(PATIENCE / 50);
            }
        }
    }

    fn let_go(&mut self, id: StageId) {
        let State::Done(record, _) = &self.states[id.index()] else { return };
        let record = Arc::clone(record);
        if self.node(id).options.keep.is_all() || record.keep.is_all() || self.bare.contains(&id) || self.closed {
            return;
        }
        let waits = |next: &StageId| {
            let ended = matches!(self.states[next.index()], State::Done(..) | State::Failed(..) | State::Skipped(_));
            self.selected.contains(next) && (!ended || self.remaking.contains(next))
        };
        let needed =
            |id: &StageId| self.node(*id).options.keep.is_all() || self.pipeline.dependents(*id).iter().any(waits);
        let equal = self.removable.get(&record.output).map(Vec::as_slice).unwrap_or_default();
        if let Some(at) = equal.iter().position(needed) {
            // The next look finds it first.
            self.removable.entry(record.output).and_modify(|equal| equal.swap(0, at));
            return;
        }
        // One that runs may have published already, and is about to be told of.
        let made = |id: &StageId| self.keys[id.index()].and_then(|key| self.store.brief(&key));
        let published = || self.running.iter().filter_map(made).any(|other| other.output == record.output);
        match self.store.drop_files(&record, &published) {
            Ok(true) => self.bare.extend(self.removable.remove(&record.output).into_iter().flatten()),
            // Somebody else reads them, and removes them in the end; or is just publishing.
            Ok(false) => drop(self.lingering.insert(id)),
            Err(failure) => self.warn(id, Err(failure)),
        }
    }
}
