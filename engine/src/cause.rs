//! What a run would do with every stage, and the first cause of it: the one leaf, in the order in which data flows, that
//! differs from the last time.
//!
//! Runs nothing. Pure on top of `resolve`: the store and the names of the newest results are read, nothing is written.
//! Unaware of how any of it is shown.
mod trace;
mod words;

use crate::graph::{Pipeline, StageId};
use crate::host::Host;
use crate::key::Change;
use crate::resolve::{Resolved, Status, resolve_these};
use crate::store::{Latest, Miss, Store};
use crate::{Failure, FailureClass};
use std::collections::BTreeSet;
use trace::Tracer;

/// What a run would be asked for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Its stages, each with all that it needs; see [`select`](crate::select::select).
    pub selected: BTreeSet<StageId>,
    /// Those that run whatever is known of them.
    pub forced: BTreeSet<StageId>,
    /// Failures that are tried again although they would only repeat.
    pub retry: Vec<FailureClass>,
}

impl Wish {
    /// Every stage.
    pub fn all(pipeline: &Pipeline) -> Self {
        Self { selected: pipeline.ids().collect(), ..Self::default() }
    }
}

/// What a run would do with a stage.
#[derive(Debug, Clone, PartialEq)]
pub enum Outlook {
    /// Take its result from the store.
    Cached,
    /// Execute it.
    Run(Cause),
    /// Look again when these have run; why it may have to run then.
    After(Vec<StageId>, Cause),
    /// Report its failure, which would only repeat; what would make it run again.
    Failed(Failure, Option<String>),
    /// Nothing: this stage, which it needs, will not have a result.
    Stuck(StageId),
    /// Nothing: one of its files cannot be read.
    Blocked(Failure),
}

impl Outlook {
    /// Why it would run, if it would.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Run(cause) | Self::After(_, cause) => Some(cause),
            _ => None,
        }
    }
}

/// Why a stage runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// From the stage, without it, up to where it began, the nearest first; empty: in the stage itself.
    pub via: Vec<StageId>,
    /// What happened there.
    pub reason: Reason,
    /// Leaves of the stage's own that changed besides.
    pub also: Vec<Change>,
}

/// What happened to a stage.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// A leaf of its key document changed.
    Changed(Change),
    /// An input comes from another stage now; `None`: it is not connected.
    Rewired {
        /// The input.
        port: String,
        /// The stage that it came from, or the digest of what came.
        before: Option<String>,
        /// The stage that it comes from.
        now: Option<String>,
    },
    /// What comes from this input differs, and nothing is known of what it was made of.
    Content(String),
    /// It never ran here.
    New,
    /// Other cells of it ran here, this one never did.
    NewCell,
    /// It ran here, and its record is gone.
    Gone,
    /// Its result is no longer whole.
    Damaged(String),
    /// Its files were removed, and now all of it is to be kept.
    Dropped,
    /// Its files were removed, and this stage needs them.
    Needed(StageId),
    /// It failed the last time, and is tried again.
    Failed(FailureClass, String),
    /// It was asked for.
    Forced,
}

impl Cause {
    /// In the stage itself.
    fn own(reason: Reason) -> Self {
        Self { via: Vec::new(), reason, also: Vec::new() }
    }
}

/// What a run would do.
#[derive(Debug)]
pub struct Forecast {
    /// What the store knows, in the order of [`Pipeline::stages`].
    pub found: Vec<Resolved>,
    /// What a run would do with each; `None`: nobody asked for it.
    pub outlooks: Vec<Option<Outlook>>,
}

/// What a run would do with each stage, and why.
pub fn forecast(pipeline: &Pipeline, store: &Store, host: &Host, wish: &Wish) -> Forecast {
    let found = resolve_these(pipeline, store, host, &wish.selected);
    let latest = Latest::of(store, &pipeline.experiment);
    let mut tracer = Tracer::new(pipeline, store, &latest, &found);
    for &id in pipeline.order().iter().filter(|id| wish.selected.contains(id)) {
        let outlook = outlook(&tracer, wish, id);
        tracer.outlooks[id.index()] = Some(outlook);
    }
    let mut outlooks = tracer.outlooks;
    need_files(pipeline, &found, &mut outlooks);
    Forecast { found, outlooks }
}

/// What would become of a stage; of all that it needs this is known.
fn outlook(tracer: &Tracer<'_>, wish: &Wish, id: StageId) -> Outlook {
    let node = tracer.pipeline.node(id);
    let forced = wish.forced.contains(&id);
    let mut waits = Vec::new();
    for (_, from) in &node.inputs {
        match &tracer.outlooks[from.index()] {
            Some(Outlook::Failed(..) | Outlook::Blocked(_)) => return Outlook::Stuck(*from),
            Some(Outlook::Stuck(origin)) => return Outlook::Stuck(*origin),
            Some(Outlook::Run(_) | Outlook::After(..)) if !waits.contains(from) => waits.push(*from),
            _ => {}
        }
    }
    if !waits.is_empty() {
        let cause = if forced { Cause::own(Reason::Forced) } else { tracer.cause(id) };
        return Outlook::After(waits, cause);
    }
    let own = |reason| Outlook::Run(Cause::own(reason));
    let again = |class: FailureClass| forced || wish.retry.contains(&class);
    match &tracer.found[id.index()].status {
        Status::Unreadable(failure) => Outlook::Blocked(failure.clone()),
        _ if forced => own(Reason::Forced),
        Status::Cached(_) | Status::Dropped(_) => Outlook::Cached,
        Status::Failed(row, true) if !again(row.failure.class) => {
            let hint = row.failure.class.retry_hint(&node.name);
            Outlook::Failed(row.failure.clone(), Some(hint))
        }
        Status::Failed(row, _) => own(Reason::Failed(row.failure.class, row.failure.message.clone())),
        Status::Inferred(failure) if !again(failure.class) => Outlook::Failed(failure.clone(), failure.hint.clone()),
        Status::Missing(Miss::Damaged(why)) => own(Reason::Damaged(why.clone())),
        Status::Missing(Miss::Dropped(_)) => own(Reason::Dropped),
        Status::Missing(Miss::Absent) | Status::Inferred(_) | Status::Unknown => Outlook::Run(tracer.cause(id)),
    }
}

/// Results whose files were removed are made again for stages that will run; as `run` does, see `run::states::files`.
fn need_files(pipeline: &Pipeline, found: &[Resolved], outlooks: &mut [Option<Outlook>]) {
    for &id in pipeline.order().iter().rev() {
        // For one that runs only perhaps, they are made only perhaps.
        let waits = match &outlooks[id.index()] {
            Some(Outlook::Run(_)) => None,
            Some(Outlook::After(waits, _)) => Some(waits.clone()),
            _ => continue,
        };
        for (_, from) in &pipeline.node(id).inputs {
            if !matches!(found[from.index()].status, Status::Dropped(_)) {
                continue;
            }
            let cause = Cause::own(Reason::Needed(id));
            match (&outlooks[from.index()], &waits) {
                (Some(Outlook::Cached), Some(waits)) => {
                    outlooks[from.index()] = Some(Outlook::After(waits.clone(), cause));
                }
                (Some(Outlook::Cached | Outlook::After(..)), None) => {
                    outlooks[from.index()] = Some(Outlook::Run(cause));
                }
                _ => {}
            }
        }
    }
}
