//! Runs a pipeline: looks every stage up as soon as its inputs are known, executes what is missing, as many at once as
//! allowed, and tells everything as events.
//!
//! One thread owns all state and makes every decision; stages execute elsewhere and report over one channel. Unaware of
//! terminals, and of what a stage does.
mod leftovers;
mod states;
mod task;

pub use states::{Outcome, StageResult, Took};

use crate::event::{Event, Stamped};
use crate::graph::{Node, Pipeline, StageId};
use crate::host::Host;
use crate::recording::Recording;
use crate::resolve::{Found, found_all};
use crate::select::{named, select};
use crate::slots::Slots;
use crate::stop::Stop;
use crate::store::{Latest, Store};
use crate::worker::{WorkerCommand, stamped};
use crate::{Failure, FailureClass, lease};
use leftovers::Leftovers;
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
    /// Stages that compute at once; `None`: as many as cores. One that runs in this process and has computed its result
    /// leaves its place to another while the disk syncs it, unless this is 1.
    pub jobs: Option<usize>,
    /// Run only these stages and what they need; empty: all.
    pub only: Vec<String>,
    /// Run only these cells of a sweep, see [`select`]; empty: all.
    pub cells: Vec<String>,
    /// Execute these stages even if they have a result, or failed for good.
    pub force: Vec<String>,
    /// Try again what failed for good, if it failed so.
    pub retry: Vec<FailureClass>,
    /// This machine.
    pub host: Host,
    /// Folder of the locks of cores and GPUs; all drivers of a host should have the same.
    pub slots: PathBuf,
    /// After a failure, go on with what does not depend on it.
    pub keep_going: bool,
    /// Make a folder of the run even if there is nothing to do.
    pub record: bool,
    /// Up to so many stages, a run without work tells of each, by an event and in its summary; of more only how many.
    pub tell_each_up_to: usize,
    /// How to start workers.
    pub worker: WorkerCommand,
    /// The wish to stop.
    pub stop: Stop,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// Name of the run; empty if there was nothing to do.
    pub run: String,
    /// Its folder; none if there was nothing to do, which is not worth one.
    pub folder: Option<PathBuf>,
    /// Every stage, in the order of [`Pipeline::stages`]; none if there was nothing to do for more than anybody asked
    /// to be told of.
    pub stages: Vec<StageResult>,
    /// The results of all stages if there was nothing to do for any of them.
    pub found: Vec<Found>,
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
    let selected = select(pipeline, &options.only, &options.cells)?;
    let forced: BTreeSet<StageId> = named(pipeline, &options.force)?;
    let store = Arc::new(Store::open(&options.outputs)?);
    let complaint = store.complaint().map(|message| stamped(None, Event::Note { warning: true, message }));
    // Two folders to list if nothing was left behind.
    store.sweep();
    if forced.is_empty()
        && !options.record
        && let Some(found) = found_all(pipeline, &store, &selected)
    {
        complaint.iter().for_each(sink);
        return Ok(nothing_to_do(pipeline, &store, &found, options.tell_each_up_to, clock, sink));
    }
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
    claim(pipeline, &store, &emit);

    complaint.iter().for_each(emit);
    let cores = lease::cores();
    let jobs = options.jobs.unwrap_or(cores).max(1);
    let (send, receive) = channel();
    let slots = Slots::open(&options.slots, &store.slots_folder(), cores.max(jobs), options.host.gpus.clone());
    let leftovers = Arc::<Leftovers>::default();
    let store_too = Arc::clone(&store);
    let tasks =
        Tasks { pipeline, store: store_too, options, send, slots, jobs, cores, recording: &recording, leftovers };
    let mut board = Board::new(pipeline, Arc::clone(&store), options, &selected, forced, &emit);
    let mut seen = store.generation();
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
        // What another process has finished meanwhile needs no slot.
        let now = store.generation();
        if now != seen {
            seen = now;
            board.look_again();
        }
        board.let_go_again();
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
    tasks.leftovers.clear();
    // What a killed run left under a lease that was not free yet when this one began.
    store.sweep();
    let seconds = clock.elapsed().as_secs_f64();
    let interrupted = told > 0;
    let stages = board.results();
    let count = |test: fn(&Outcome) -> bool| stages.iter().filter(|stage| test(&stage.outcome)).count();
    let summary = RunSummary {
        run: id,
        folder: Some(folder),
        executed: count(|outcome| matches!(outcome, Outcome::Executed)),
        cached: count(|outcome| matches!(outcome, Outcome::Cached)),
        failed: count(|outcome| matches!(outcome, Outcome::Failed(..))),
        skipped: count(|outcome| matches!(outcome, Outcome::Skipped { .. } | Outcome::NotStarted)),
        interrupted,
        seconds,
        stages,
        found: Vec::new(),
    };
    let RunSummary { executed, cached, failed, skipped, .. } = summary;
    emit(&stamped(None, Event::RunFinished { executed, cached, failed, skipped, interrupted, seconds }));
    let flushed = recording.borrow_mut().flush();
    if let Err(failure) = flushed.and_then(|()| recording.borrow().finish(pipeline, &summary)) {
        sink(&stamped(None, Event::Note { warning: true, message: failure.to_string() }));
    }
    Ok(summary)
}

/// Everything was found: the names of results are brought up to date, and that is all.
fn nothing_to_do(
    pipeline: &Pipeline,
    store: &Store,
    found: &[Option<Found>],
    most: usize,
    clock: Instant,
    sink: &dyn Fn(&Stamped),
) -> RunSummary {
    let cached = found.iter().flatten().count();
    let started = Event::RunStarted { run: String::new(), experiment: pipeline.experiment.clone(), stages: cached };
    sink(&stamped(None, started));
    claim(pipeline, store, sink);
    let mut latest = latest(pipeline, store);
    let keys =
        pipeline.stages.iter().zip(found).filter_map(|(node, found)| Some((node.name.as_str(), found.as_ref()?)));
    if let Err(failure) = latest.bring_up_to_date(keys) {
        sink(&stamped(None, Event::Note { warning: true, message: failure.to_string() }));
    }
    let result = |(node, found): (&Node, &Option<Found>)| {
        let Some(Found { key, output, .. }) = *found else {
            return StageResult { name: node.name.clone(), outcome: Outcome::NotStarted, key: None, record: None };
        };
        let event = Event::StageCached { key: key.to_string(), output: output.to_string() };
        sink(&stamped(Some(&node.name), event));
        StageResult { name: node.name.clone(), outcome: Outcome::Cached, key: Some(key), record: store.kept(&key) }
    };
    let told = if found.len() > most { &[] } else { found };
    let stages: Vec<StageResult> = pipeline.stages.iter().zip(told).map(result).collect();
    let seconds = clock.elapsed().as_secs_f64();
    let skipped = found.len() - cached;
    let ended = Event::RunFinished { executed: 0, cached, failed: 0, skipped, interrupted: false, seconds };
    sink(&stamped(None, ended));
    let (run, folder, interrupted) = (String::new(), None, false);
    let found = if skipped == 0 { found.iter().flatten().copied().collect() } else { Vec::new() };
    RunSummary { run, folder, stages, found, executed: 0, cached, failed: 0, skipped, interrupted, seconds }
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
        Message::Publishing(id) => board.publishing(id, tasks.jobs),
        Message::Ended(id, ended) => board.ended(id, *ended),
    }
}

/// Tells of another manifest with the same experiment: results are kept by content, names are not.
fn claim(pipeline: &Pipeline, store: &Store, tell: &dyn Fn(&Stamped)) {
    let Some(other) = latest(pipeline, store).claim(&pipeline.manifest, &pipeline.root) else { return };
    let name = &pipeline.experiment;
    let message = format!(
        "{} is experiment `{name}` too: no result is lost, but the names in outputs/latest/{name} now lead to this \
         manifest's; give one of them another name",
        other.display()
    );
    tell(&stamped(None, Event::Note { warning: true, message }));
}

/// The newest results of the pipeline's experiment.
fn latest(pipeline: &Pipeline, store: &Store) -> Latest {
    Latest::of(store, &pipeline.experiment)
}
