//! Stages at work: takes slots and leases, starts threads and workers, and reports over the channel.
//!
//! A lease is only ever tried, never waited for, by the one thread that decides: a stage whose key somebody else works
//! on stays in the queue, and the slot goes to the next. Unaware of what follows from a result.
use super::Options;
use super::states::{Board, Ended, Pending};
use crate::event::{Event, Stamped};
use crate::graph::{Node, StageId};
use crate::hash::Stamp;
use crate::key::Digest;
use crate::lease::Lease;
use crate::recording::Recording;
use crate::store::Store;
use crate::worker::{Job, Live, Setting, clear, execute, stamped, supervise};
use crate::{Failure, Source, StageInput};
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// What a thread reports.
pub(super) enum Message {
    /// The digests of a stage's files.
    Hashed(StageId, Result<Vec<(Source, Stamp, Digest)>, Failure>),
    /// A stage begins; the number of its process.
    Started(StageId, u32),
    /// An event of a running stage.
    Event(Stamped),
    /// A stage ended.
    Ended(StageId, Box<Ended>),
}

/// What every task needs.
pub(super) struct Tasks<'a> {
    pub(super) store: Arc<Store>,
    pub(super) options: &'a Options,
    pub(super) send: Sender<Message>,
    pub(super) jobs: usize,
    pub(super) cores: usize,
    pub(super) recording: &'a RefCell<Recording>,
}

impl Tasks<'_> {
    /// Hashes a stage's files on a thread of its own: they may be tens of gigabytes.
    pub(super) fn hash(&self, id: StageId, node: &Node, board: &mut Board<'_>) {
        let (store, send, node) = (Arc::clone(&self.store), self.send.clone(), node.clone());
        board.hashing(id);
        self.spawn(move || {
            // The receiver is gone only when the run ended in a hurry.
            let _ = send.send(Message::Hashed(id, crate::resolve::hash_sources(&node, &store)));
        });
    }

    /// Starts what can start.
    pub(super) fn start(&self, board: &mut Board<'_>) {
        let mut slot = None;
        for id in board.wanted() {
            if board.running() >= self.jobs {
                break;
            }
            match self.try_start(id, &mut slot, board) {
                Ok(true) => {}
                // No slot on this host: none for the others either.
                Ok(false) => break,
                Err(failure) => board.ended(id, Ended::failure(failure)),
            }
        }
    }

    /// Returns whether it is worth trying the next stage.
    fn try_start(&self, id: StageId, slot: &mut Option<Lease>, board: &mut Board<'_>) -> Result<bool, Failure> {
        let leases = self.store.leases();
        if slot.is_none() {
            *slot = leases.wait_slot(self.cores.max(self.jobs), &|| true)?;
        }
        if slot.is_none() {
            return Ok(false);
        }
        let Some(pending) = board.pending(id) else { return Ok(true) };
        let Some(lease) = leases.try_key(&pending.keyed.key)? else {
            board.waiting(id);
            return Ok(true);
        };
        // Between the look-up and the lease another process may have finished, or failed.
        if board.settle_again(id) {
            return Ok(true);
        }
        let Some(slot) = slot.take() else { return Ok(false) };
        // Cores are shared by what runs and what is about to.
        let threads = (self.cores / (board.running() + board.wanted().len()).clamp(1, self.jobs)).max(1);
        self.execute(id, pending, lease, slot, threads, board)?;
        Ok(true)
    }

    fn execute(
        &self,
        id: StageId,
        pending: Pending,
        lease: Lease,
        slot: Lease,
        threads: usize,
        board: &mut Board<'_>,
    ) -> Result<(), Failure> {
        let node = board.node(id);
        let job = self.job(node, pending, board.inputs(id))?;
        let live = Live::default();
        let (kind, isolated) = (Arc::clone(&node.kind), node.kind.isolated());
        let (store, send, stop) = (Arc::clone(&self.store), self.send.clone(), self.options.stop.clone());
        let (command, log): (_, PathBuf) = (self.options.worker.clone(), self.recording.borrow().log(&job.stage));
        board.executing(id, live.clone());
        self.spawn(move || {
            let _slot = slot;
            let clock = Instant::now();
            // A receiver that is gone is no reason to stop: the result is published all the same.
            let tell = |message| drop(send.send(message));
            let (mut last_step, mut peak_mib) = (None, None);
            let mut watch = |event: Stamped| {
                if let Event::Step(step) = &event.event {
                    (last_step, peak_mib) = (Some(step.step), step.peak_mib.or(peak_mib));
                }
                tell(Message::Event(event));
            };
            let result = if isolated {
                let setting = Setting { command: &command, threads, log: &log, stop: &stop };
                let started = |pid| tell(Message::Started(id, pid));
                supervise(&job, lease, &store, &setting, &live, started, watch)
            } else {
                let _lease = lease;
                tell(Message::Started(id, std::process::id()));
                let watch = RefCell::new(&mut watch);
                let emit = |event| (*watch.borrow_mut())(stamped(Some(&job.stage), event));
                let result = execute(&job, &*kind, &store, &emit, &|| stop.requested());
                // Left behind, it would be swept by the next run.
                clear(&job.folder);
                result.map_err(|failure| (failure, Vec::new()))
            };
            let seconds = clock.elapsed().as_secs_f64();
            tell(Message::Ended(id, Box::new(Ended { result, seconds, peak_mib, last_step })));
        });
        Ok(())
    }

    fn job(&self, node: &Node, pending: Pending, inputs: Vec<(String, StageInput)>) -> Result<Job, Failure> {
        Ok(Job {
            stage: node.name.clone(),
            kind: node.kind.kind().to_owned(),
            version: node.kind.version(),
            artifact: node.output.to_owned(),
            params: node.params.clone(),
            seed: pending.seed,
            numerics: pending.numerics,
            inputs: inputs.into_iter().collect(),
            sources: pending.sources,
            key: pending.keyed.key,
            document: pending.keyed.document,
            outputs: self.store.outputs().to_owned(),
            folder: self.store.workspace(&pending.keyed.key)?,
        })
    }

    /// Runs something on a thread of its own; without a thread to spare, here.
    fn spawn(&self, body: impl FnOnce() + Send + 'static) {
        let body = Arc::new(std::sync::Mutex::new(Some(body)));
        let take = |body: &std::sync::Mutex<Option<_>>| body.lock().ok().and_then(|mut body| body.take());
        let theirs = Arc::clone(&body);
        let run = move || {
            if let Some(body) = take(&theirs) {
                body();
            }
        };
        if std::thread::Builder::new().spawn(run).is_err()
            && let Some(body) = take(&body)
        {
            body();
        }
    }
}
