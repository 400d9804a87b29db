//! `anneal plan`: what a run would do, and why, without doing it.
//!
//! Unaware of how keys are made and of how stages run.
use super::Context;
use crate::args::Plan;
use crate::exit::{Error, Exit};
use crate::{output, render};
use anneal_engine::graph::{Node, Pipeline, StageId};
use anneal_engine::resolve::{Resolved, Status, reasons, resolve};
use anneal_engine::store::{Latest, Store};
use serde_json::{Value, json};

/// What a run would do with a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Take its result from the store.
    Cached,
    /// Execute it, for these reasons.
    Run(Vec<String>),
    /// Look again when these have run.
    After(Vec<String>),
    /// Report its known failure, which would only repeat.
    Failed(String),
    /// Nothing: one of its files cannot be read.
    Blocked(String),
}

pub(super) fn run(args: &Plan, context: &Context) -> Result<Exit, Error> {
    let pipeline = super::pipeline(&args.source, context)?;
    let store = super::store(&args.outputs, &pipeline)?;
    let found = resolve(&pipeline, &store, &super::host(&pipeline));
    let latest = Latest::of(&store, &pipeline.experiment);
    let states: Vec<State> = pipeline.ids().map(|id| state(&pipeline, id, &found, &latest, &store)).collect();
    if args.json {
        output::print_json(&as_json(&pipeline, &found, &states))?;
        return Ok(Exit::Ok);
    }
    let color = output::colored(context.color, &std::io::stderr());
    for missing in pipeline.stages.iter().flat_map(|node| node.missing.iter()) {
        output::say(&render::problem::diagnostic(&missing.clone().warning(), color));
    }
    output::print(&text(&pipeline, &states))?;
    Ok(Exit::Ok)
}

fn state(pipeline: &Pipeline, id: StageId, found: &[Resolved], latest: &Latest, store: &Store) -> State {
    let node = pipeline.node(id);
    let Resolved { keyed, status } = &found[id.index()];
    match (status, keyed) {
        (Status::Cached(_) | Status::Dropped(_), _) => State::Cached,
        (Status::Missing(miss), Some(keyed)) => State::Run(reasons(&node.name, keyed, miss, latest, store)),
        (Status::Failed(row, true), _) => State::Failed(format!("{}: {}", row.failure.class, row.failure.message)),
        (Status::Inferred(failure), _) => State::Failed(format!("{}: {}", failure.class, failure.message)),
        (Status::Failed(row, false), _) => {
            State::Run(vec![format!("its last attempt failed: {}", row.failure.message)])
        }
        (Status::Unreadable(failure), _) => State::Blocked(failure.message.clone()),
        (Status::Unknown | Status::Missing(_), _) => State::After(waits_for(pipeline, node, found)),
    }
}

/// The direct inputs that have no result yet, each once.
fn waits_for(pipeline: &Pipeline, node: &Node, found: &[Resolved]) -> Vec<String> {
    let mut names = Vec::new();
    for (_, from) in &node.inputs {
        let name = &pipeline.node(*from).name;
        if found[from.index()].record().is_none() && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn text(pipeline: &Pipeline, states: &[State]) -> String {
    let width = pipeline.stages.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for id in pipeline.order() {
        let (state, details) = match &states[id.index()] {
            State::Cached => ("cached".to_owned(), &[][..]),
            State::Run(reasons) => ("run".to_owned(), reasons.as_slice()),
            State::After(names) => (format!("after {}", names.join(", ")), &[][..]),
            State::Failed(why) => {
                ("failed before and would again; see `run --force`".to_owned(), std::slice::from_ref(why))
            }
            State::Blocked(why) => ("blocked".to_owned(), std::slice::from_ref(why)),
        };
        text += &format!("{:<width$}  {state}", pipeline.node(*id).name);
        match details {
            // A single short reason fits behind the word.
            [one] if !one.contains('\n') && one.chars().count() <= 80 => text += &format!(": {one}\n"),
            many => {
                text.push('\n');
                many.iter().for_each(|detail| text += &format!("{:width$}    {detail}\n", ""));
            }
        }
    }
    let count = |of: fn(&State) -> bool| states.iter().filter(|state| of(state)).count();
    let (cached, run) = (count(|s| *s == State::Cached), count(|s| matches!(s, State::Run(_))));
    let (after, stuck) =
        (count(|s| matches!(s, State::After(_))), count(|s| matches!(s, State::Failed(_) | State::Blocked(_))));
    text += &format!("\n{} stages: {cached} cached, {run} to run, {after} after these", states.len());
    if stuck > 0 {
        text += &format!(", {stuck} stuck");
    }
    text + "\n"
}

fn as_json(pipeline: &Pipeline, found: &[Resolved], states: &[State]) -> Value {
    let stage = |id: &StageId| {
        let (node, resolved) = (pipeline.node(*id), &found[id.index()]);
        let (state, details) = match &states[id.index()] {
            State::Cached => ("cached", json!([])),
            State::Run(reasons) => ("run", json!(reasons)),
            State::After(names) => ("after", json!(names)),
            State::Failed(why) => ("failed", json!([why])),
            State::Blocked(why) => ("blocked", json!([why])),
        };
        json!({
            "name": node.name,
            "kind": node.kind.kind(),
            "state": state,
            "why": details,
            "key": resolved.keyed.as_ref().map(|keyed| keyed.key),
            "output": resolved.record().map(|record| record.output),
            "problems": *node.missing,
        })
    };
    json!({ "experiment": pipeline.experiment, "stages": pipeline.order().iter().map(stage).collect::<Vec<_>>() })
}
