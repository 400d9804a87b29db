//! Stages at work: takes slots and leases, starts threads and workers, and reports over the channel.
//!
//! A lease is only ever tried, never waited for, by the one thread that decides: a stage whose key somebody else works
//! on stays in the queue, and the slot goes to the next. Unaware of what follows from a result.
use super::Options;
use super::leftovers::Leftovers;
use super::states::{Board, Ended, Pending};
use crate::event::{Event, Stamped};
use crate::graph::{Node, Pipeline, StageId};
use crate::hash::Stamp;
use crate::key::Digest;
use crate::lease::Lease;
use crate::recording::Recording;
use crate::slots::{Demand, Slots, Taken};
use crate::store::Store;
use crate::worker::{Job, Live, Lost, Setting, execute, last_words, stamped, supervise};
use crate::{Failure, Source, StageInput};
use std::cell::{Cell, RefCell};
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
    /// A stage has computed its result, which is now made durable: another may have its slot.
    Publishing(StageId),
    /// A stage ended.
    Ended(StageId, Box<Ended>),
}

/// What every task needs.
pub(super) struct Tasks<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) store: Arc<Store>,
    pub(super) options: &'a Options,
    pub(super) send: Sender<Message>,
    pub(super) slots: Slots,
    pub(super) jobs: usize,
    pub(super) cores: usize,
    pub(super) recording: &'a RefCell<Recording>,
    pub(super) leftovers: Arc<Leftovers>,
}

/// What a stage runs with.
struct Place {
    /// The lease of its key, and shares in artifacts that could be removed.
    leases: Vec<Lease>,
    slot: Taken,
    threads: usize,
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
        // A slot that was taken for a stage which then could not start serves the next of equal needs.
        let mut spare: Option<(Demand, Taken)> = None;
        let mut full: Vec<Demand> = Vec::new();
        let mut at = None;
        while let Some(id) = board.next_wanted(at) {
            at = Some(id);
            if board.running() >= self.jobs {
                break;
            }
            let demand = self.options.host.demand(self.pipeline, self.pipeline.node(id));
            if full.contains(&demand) {
                continue;
            }
            match self.try_start(id, demand, &mut spare, board) {
                Ok(true) => {}
                // None on this host: none for others that need as much either.
                Ok(false) => full.push(demand),
                Err(failure) => board.ended(id, Ended::failure(failure)),
            }
            if full.iter().any(|demand| demand.cores <= 1 && demand.gpus == 0) {
                break;
            }
        }
    }

    /// Returns whether there was a slot.
    fn try_start(
        &self,
        id: StageId,
        demand: Demand,
        spare: &mut Option<(Demand, Taken)>,
        board: &mut Board<'_>,
    ) -> Result<bool, Failure> {
        let here = self.slots.gpus().len();
        if demand.gpus > here {
            let name = &self.pipeline.node(id).name;
            let message = format!("stage `{name}` needs {} GPUs, and this host has {here}", demand.gpus);
            return Err(Failure::user(message).hint("lower `gpus`, or run on another host; `anneal doctor` lists GPUs"));
        }
        if board.infer(id) {
            return Ok(true);
        }
        let slot = match spare.take() {
            Some((of, slot)) if of == demand => Some(slot),
            // Given back before another is taken.
            _ => self.slots.try_take(demand)?,
        };
        let Some(slot) = slot else { return Ok(false) };
        let Some(pending) = board.pending(id) else {
            *spare = Some((demand, slot));
            return Ok(true);
        };
        let leases = self.store.leases();
        let Some(lease) = leases.try_key(&pending.keyed.key)? else {
            board.waiting(id);
            *spare = Some((demand, slot));
            return Ok(true);
        };
        // Between the look-up and the lease another process may have finished, or failed.
        if board.settle_again(id) {
            *spare = Some((demand, slot));
            return Ok(true);
        }
        let mut held = vec![lease];
        for output in board.removable_inputs(id) {
            held.push(leases.share_tree(&output)?);
        }
        // With a share in them nobody removes them any more; somebody may have done so before.
        if board.need_files(id) {
            *spare = Some((demand, slot));
            return Ok(true);
        }
        // Cores are shared by what runs and what is about to.
        let share = self.cores / (board.running() + board.wanted()).clamp(1, self.jobs);
        let threads = self.pipeline.node(id).options.threads.map_or(share, |threads| threads as usize).max(1);
        self.execute(id, pending, Place { leases: held, slot, threads }, board)?;
        Ok(true)
    }

    fn execute(&self, id: StageId, pending: Pending, place: Place, board: &mut Board<'_>) -> Result<(), Failure> {
        let node = board.node(id);
        let Place { leases, slot: Taken { leases: slot, gpus }, threads } = place;
        let job = self.job(node, pending, board.inputs(id))?;
        let live = Live::default();
        let asks = node.options.threads.is_some() || !gpus.is_empty() || node.options.need_a_process();
        let (kind, isolated) = (Arc::clone(&node.kind), node.kind.isolated() || asks);
        let (store, send, stop) = (Arc::clone(&self.store), self.send.clone(), self.options.stop.clone());
        let (command, leftovers) = (self.options.worker.clone(), Arc::clone(&self.leftovers));
        // Where GPUs are handed out, a stage that got none sees none.
        let ids: Vec<&str> = gpus.iter().map(|gpu| gpu.id.as_str()).collect();
        let gpus = (!self.slots.gpus().is_empty()).then(|| ids.join(","));
        // Somebody who asks for one stage at a time gets no other beside it.
        let (timeout, several) = (node.options.timeout, self.jobs > 1);
        board.executing(id, live.clone());
        self.spawn(move || {
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
                let setting = Setting { command: &command, threads, gpus, timeout, log: &job.log, stop: &stop };
                let started = |pid| tell(Message::Started(id, pid));
                // The worker keeps its slots too, so that an orphan on a GPU is not disturbed.
                let leases = leases.into_iter().chain(slot).collect();
                supervise(&job, leases, &store, &setting, &live, started, watch)
            } else {
                let (_held, slot) = (leases, Cell::new(slot));
                // A disk takes as long to sync a result as a short stage took to make it, and needs no core for that.
                let computed = || {
                    if several {
                        drop(slot.take());
                        tell(Message::Publishing(id));
                    }
                };
                tell(Message::Started(id, std::process::id()));
                let watch = RefCell::new(&mut watch);
                let emit = |event| (*watch.borrow_mut())(stamped(Some(&job.stage), event));
                let adopt = |group| live.adopt(group);
                let result = execute(&job, &*kind, &store, Some(&adopt), &emit, &|| stop.requested(), &computed);
                leftovers.take(job.folder);
                result.map_err(|failure| Lost { log: last_words(&job.log), ..Lost::of(failure) })
            };
            let seconds = clock.elapsed().as_secs_f64();
            let result = result.map_err(|lost| Lost { peak_mib: larger(peak_mib, lost.peak_mib), ..lost });
            tell(Message::Ended(id, Box::new(Ended { result, seconds, last_step })));
        });
        Ok(())
    }

    fn job(&self, node: &Node, pending: Pending, inputs: Vec<(String, StageInput)>) -> Result<Job, Failure> {
        Ok(Job {
            stage: node.name.clone(),
            kind: node.kind.kind().to_owned(),
            version: node.kind.version(),
            artifact: node.output.to_owned(),
            params: node.resolved().into_owned(),
            seed: pending.seed,
            numerics: pending.numerics,
            inputs: inputs.into_iter().collect(),
            sources: pending.sources,
            key: pending.keyed.key,
            document: pending.keyed.document,
            outputs: self.store.outputs().to_owned(),
            folder: self.store.workspace(&pending.keyed.key)?,
            keep: node.options.keep,
            memory_limit_mib: node.options.memory_limit_mib,
            root: pending.root,
            log: self.recording.borrow().log(&node.name),
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

/// The larger of two measurements that may be missing.
fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}
