//! Runs a pipeline: looks every stage up as soon as its inputs are known, executes what is missing, as many at once as
//! allowed, and tells everything as events.
//!
//! One thread owns all state and makes every decision; stages execute elsewhere and report over one channel. Unaware of
//! terminals, and of what a stage does.
mod states;
mod task;

pub use states::{Outcome, StageResult};

use crate::event::{Event, Stamped};
use crate::graph::{Pipeline, StageId};
use crate::recording::Recording;
use crate::stop::Stop;
use crate::store::{Latest, Store};
use crate::worker::{WorkerCommand, stamped};
use crate::{Failure, lease};
use states::Board;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use task::{Message, Tasks};

/// How long the loop sleeps at most: what a person waits for the answer to Ctrl+C, and a stage for a lease that
/// another process gives back.
const TICK: Duration = Duration::from_millis(20);

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The outputs folder.
    pub outputs: PathBuf,
    /// Stages at once; `None`: as many as cores.
    pub jobs: Option<usize>,
    /// Run only these stages and what they need; empty: all.
    pub only: Vec<String>,
    /// Execute these stages even if they have a result, or failed for good.
    pub force: Vec<String>,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// How to start workers.
    pub worker: WorkerCommand,
    /// The wish to stop.
    pub stop: Stop,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// Name of the run.
    pub run: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Every stage, in the order of [`Pipeline::stages`].
    pub stages: Vec<StageResult>,
    /// Stages executed now.
    pub executed: usize,
    /// Stages found in the store.
    pub cached: usize,
    /// Stages that failed.
    pub failed: usize,
    /// Stages not tried.
    pub skipped: usize,
    /// Somebody asked to stop.
    pub interrupted: bool,
    /// Seconds it took.
    pub seconds: f64,
}

/// Runs a pipeline. Every event goes into the run's folder and to `sink`, in one order, on this thread.
///
/// # Errors
/// What stops a run before its first stage: an outputs folder that cannot be written, a stage name that is not in the
/// manifest. Failures of stages are in the summary.
pub fn run(pipeline: &Pipeline, options: &Options, sink: &dyn Fn(&Stamped)) -> Result<RunSummary, Failure> {
    let clock = Instant::now();
    let selected = select(pipeline, &options.only)?;
    let forced: BTreeSet<StageId> = named(pipeline, &options.force)?;
    let store = Arc::new(Store::open(&options.outputs)?);
    store.sweep();
    let recording = RefCell::new(Recording::start(store.outputs(), pipeline)?);
    let emit = |event: &Stamped| {
        let recorded = recording.borrow_mut().write(event);
        sink(event);
        if let Err(failure) = recorded {
            let message = format!("{failure}; the rest of this run is not recorded");
            sink(&stamped(None, Event::Note { warning: true, message }));
        }
    };
    let (id, folder) = (recording.borrow().id.clone(), recording.borrow().folder.clone());
    let experiment = pipeline.experiment.clone();
    emit(&stamped(None, Event::RunStarted { run: id.clone(), experiment, stages: selected.len() }));

    let cores = lease::cores();
    let jobs = options.jobs.unwrap_or(cores).max(1);
    let (send, receive) = channel();
    let tasks = Tasks { store: Arc::clone(&store), options, send, jobs, cores, recording: &recording };
    let mut board = Board::new(pipeline, Arc::clone(&store), &selected, forced, &emit);
    let mut told = 0;
    loop {
        // 1. Whatever has all its inputs gets its key, and its result if there is one.
        while let Some(id) = board.next_ready() {
            if board.can_settle_now(id) {
                board.settle(id, None);
            } else {
                tasks.hash(id, pipeline.node(id), &mut board);
            }
        }
        // 2. Somebody asked to stop: nothing new begins; what runs is told once, and ended at the second wish.
        let wishes = options.stop.count();
        if wishes > told {
            board.stop(wishes > 1);
            told = wishes;
        }
        if wishes > 1 {
            break;
        }
        // 3. What has no result begins, as far as slots and leases allow.
        if !options.keep_going && board.failed() {
            board.give_up();
        }
        tasks.start(&mut board);
        // 4. Nothing runs and nothing waits: done.
        if board.idle() {
            break;
        }
        // 5. Sleep until something happens.
        // A full disk was reported when it was met; this is only the last buffer.
        let _ = recording.borrow_mut().flush();
        match receive.recv_timeout(TICK) {
            Ok(message) => {
                let mut next = Some(message);
                while let Some(message) = next {
                    handle(message, &mut board, &tasks, &emit);
                    next = receive.try_recv().ok();
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
    let seconds = clock.elapsed().as_secs_f64();
    let interrupted = told > 0;
    let stages = board.results();
    let count = |test: fn(&Outcome) -> bool| stages.iter().filter(|stage| test(&stage.outcome)).count();
    let summary = RunSummary {
        run: id,
        folder,
        executed: count(|outcome| matches!(outcome, Outcome::Executed)),
        cached: count(|outcome| matches!(outcome, Outcome::Cached)),
        failed: count(|outcome| matches!(outcome, Outcome::Failed(_))),
        skipped: count(|outcome| matches!(outcome, Outcome::Skipped { .. } | Outcome::NotStarted)),
        interrupted,
        seconds,
        stages,
    };
    let RunSummary { executed, cached, failed, skipped, .. } = summary;
    emit(&stamped(None, Event::RunFinished { executed, cached, failed, skipped, interrupted, seconds }));
    let flushed = recording.borrow_mut().flush();
    if let Err(failure) = flushed {
        sink(&stamped(None, Event::Note { warning: true, message: failure.to_string() }));
    }
    Ok(summary)
}

fn handle(message: Message, board: &mut Board<'_>, tasks: &Tasks<'_>, emit: &dyn Fn(&Stamped)) {
    match message {
        Message::Hashed(id, sources) => board.settle(id, Some(sources)),
        Message::Started(id, pid) => {
            board.started(id, pid);
            // It may have been asked to stop before it had a number.
            if tasks.options.stop.requested() {
                board.stop(false);
            }
        }
        Message::Event(event) => emit(&event),
        Message::Ended(id, ended) => board.ended(id, *ended),
    }
}

/// The stages of these names.
fn named(pipeline: &Pipeline, names: &[String]) -> Result<BTreeSet<StageId>, Failure> {
    let find = |name: &String| {
        pipeline.find(name).ok_or_else(|| {
            let known: Vec<&str> = pipeline.stages.iter().map(|node| node.name.as_str()).collect();
            Failure::user(format!("{} has no stage `{name}`", pipeline.manifest.display()))
                .hint(format!("its stages are {}", known.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// The named stages and all they need; all stages if none is named.
fn select(pipeline: &Pipeline, only: &[String]) -> Result<BTreeSet<StageId>, Failure> {
    let mut selected = named(pipeline, only)?;
    if only.is_empty() {
        return Ok(pipeline.ids().collect());
    }
    let mut queue: Vec<StageId> = selected.iter().copied().collect();
    while let Some(id) = queue.pop() {
        for (_, from) in &pipeline.node(id).inputs {
            if selected.insert(*from) {
                queue.push(*from);
            }
        }
    }
    Ok(selected)
}

/// The newest results of the pipeline's experiment.
fn latest(pipeline: &Pipeline, store: &Store) -> Latest {
    Latest::of(store, &pipeline.experiment)
}
