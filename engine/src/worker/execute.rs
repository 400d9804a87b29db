//! Does a job in this process: runs the stage with all that it may see, measures it, publishes its result.
use super::Job;
use crate::event::Event;
use crate::failpoint::pass;
use crate::memory::Sampler;
use crate::store::{Draft, Record, Store};
use crate::{Failure, Launch, Source, Stage, StageContext};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Runs a stage and publishes what it made. The caller holds the lease of the key. `adopt`: see [`Launch::adopt`];
/// `computed` is called when the stage itself is done, and all that is left is to make a small result durable.
pub(crate) fn execute(
    job: &Job,
    kind: &dyn Stage,
    store: &Store,
    adopt: Option<&dyn Fn(Option<u32>)>,
    emit: &dyn Fn(Event),
    stop: &dyn Fn() -> bool,
    computed: &dyn Fn(),
) -> Result<Arc<Record>, Failure> {
    let checkpoints = store.checkpoints(&job.key);
    // Somebody else's program knows nothing of it.
    if !kind.is_foreign() {
        pass("checkpoints-make")
            .and_then(|()| std::fs::create_dir_all(&checkpoints))
            .map_err(|e| Failure::io("create", &checkpoints, &e))?;
    }
    let sources: Vec<(Source, String)> =
        job.sources.iter().map(|(s, _, digest)| (s.clone(), digest.to_string())).collect();
    let mut context = StageContext {
        name: &job.stage,
        params: &job.params,
        seed: job.seed,
        numerics: &job.numerics,
        device_memory_limit_mib: job.device_limit_mib(kind),
        inputs: &job.inputs,
        sources: &sources,
        out: &job.folder.join("out"),
        checkpoints: &checkpoints,
        launch: Launch { root: &job.root, scratch: &job.folder.join("scratch"), log: &job.log, adopt },
        emit,
        stop,
        programs_mib: Cell::new(None),
        metrics: RefCell::default(),
        references: RefCell::default(),
    };
    // Of a stage that runs somebody else's program this process's memory says nothing.
    let sampler = (!kind.is_foreign()).then(Sampler::start);
    let (started, clock) = (crate::hash::now_nanos() as f64 / 1e9, Instant::now());
    // A panic says that an invariant of the stage broke; its context and its folder are thrown away.
    let outcome = catch_unwind(AssertUnwindSafe(|| kind.run(&mut context)));
    let (seconds, peak_mib) = (clock.elapsed().as_secs_f64(), sampler.and_then(Sampler::finish));
    outcome.unwrap_or_else(|panic| Err(panicked(&job.stage, &*panic)))?;
    // Digests of much take the cores as the stage did.
    if super::small(context.out) {
        computed();
    }
    store.publish(Draft {
        key: job.key,
        document: job.document.clone(),
        kind: job.kind.clone(),
        version: job.version,
        artifact: job.artifact.clone(),
        folder: job.folder.clone(),
        references: context.references.into_inner(),
        sources: job.sources.clone(),
        keep: job.keep,
        metrics: context.metrics.into_inner(),
        started,
        seconds,
        peak_mib: context.programs_mib.get().or(peak_mib),
    })
}

fn panicked(stage: &str, panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    Failure::bug(format!("stage `{stage}` panicked: {}", text.unwrap_or("without a message")))
}
