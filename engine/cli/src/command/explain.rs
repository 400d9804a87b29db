//! `anneal explain STAGE`: why a stage would run, from itself up to the first cause, what its key is made of, and all
//! that changed in it.
//!
//! Unaware of how keys are made and of how causes are found.
use super::Context;
use crate::args::Explain;
use crate::exit::{Error, Exit};
use crate::{output, render};
use anneal_engine::Failure;
use anneal_engine::cause::{Forecast, Outlook, Wish, forecast};
use anneal_engine::graph::{Pipeline, StageId};
use anneal_engine::key::{Change, changes};
use anneal_engine::resolve::{Status, document};
use anneal_engine::select::select;
use anneal_engine::store::{Latest, Store};
use serde_json::Value;

/// Instances that are named where several could be meant.
const NAMED: usize = 20;

pub(super) fn run(args: &Explain, context: &Context) -> Result<Exit, Error> {
    let pipeline = super::pipeline(&args.source, context)?;
    let id = the_stage(&pipeline, &args.stage, args.cell.as_deref()).map_err(Error::Usage)?;
    let store = super::store(&args.outputs, &pipeline)?;
    // With everything: whether its files are needed depends on the stages after it.
    let forecast = forecast(&pipeline, &store, &super::host(&pipeline), &Wish::all(&pipeline));
    let Some(outlook) = &forecast.outlooks[id.index()] else {
        return Err(Failure::bug(format!("nothing is known of `{}`", args.stage)).into());
    };
    let told = Told::new(&pipeline, &store, &forecast, id);
    if args.json {
        let mut value = super::plan::as_json(&pipeline, &forecast, id, outlook);
        value["stage"] = pipeline.node(id).name.clone().into();
        value["document"] = told.document;
        value["previous_key"] = told.before.map_or(Value::Null, |key| key.to_string().into());
        value["changes"] = serde_json::to_value(&told.changes).unwrap_or_default();
        value["chain"] = chain(&pipeline, id, outlook)
            .into_iter()
            .map(|(stage, what)| serde_json::json!({ "stage": stage, "what": what }))
            .collect();
        output::print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let node = pipeline.node(id);
    let mut text = format!("{} ({}): {}\n", node.name, node.kind.kind(), headline(&pipeline, &forecast, id, outlook));
    let chain = chain(&pipeline, id, outlook);
    if !chain.is_empty() {
        text += "\nwhy\n";
        let width = chain.iter().map(|(stage, _)| stage.chars().count()).max().unwrap_or(0);
        chain.iter().for_each(|(stage, what)| text += &format!("  {stage:<width$}  {what}\n"));
    }
    text += &match &forecast.found[id.index()].key {
        Some(key) => format!("\nkey {key}\n"),
        None => "\nkey not known yet\n".to_owned(),
    };
    render::document::lines(&told.shown, 2, &mut text);
    text += &difference(told.changes.as_deref());
    output::print(&text)?;
    Ok(Exit::Ok)
}

/// The one stage, or instance of it in a cell, that is meant.
fn the_stage(pipeline: &Pipeline, name: &str, cell: Option<&str>) -> Result<StageId, Failure> {
    let mut all = pipeline.find_all(name);
    if all.is_empty() {
        let names: Vec<&str> = pipeline.bases.iter().map(String::as_str).collect();
        let failure = Failure::user(format!("there is no stage `{name}` in {}", pipeline.manifest.display()));
        return Err(failure.hint(format!("the stages are: {}", names.join(", "))));
    }
    if let Some(cell) = cell {
        let selected = select(pipeline, &[name.to_owned()], &[cell.to_owned()])?;
        all.retain(|id| selected.contains(id));
    }
    match all.as_slice() {
        [id] => Ok(*id),
        [] => Err(Failure::user(format!("stage `{name}` has no instance in cell {}", cell.unwrap_or_default()))),
        many => {
            let names: Vec<&str> = many.iter().take(NAMED).map(|id| pipeline.node(*id).name.as_str()).collect();
            let more = many.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let failure = Failure::user(format!("stage `{name}` has {} instances", many.len()));
            Err(failure.hint(format!("name one, or add `--cell KEY=VALUE`: {}{more}", names.join(", "))))
        }
    }
}

/// A stage's documents.
struct Told {
    /// The present one, as far as it is known.
    document: Value,
    /// The same with words where something is not known.
    shown: Value,
    /// Key of its last result.
    before: Option<anneal_engine::key::Digest>,
    /// What differs from that result's document; none: there is no such result.
    changes: Option<Vec<Change>>,
}

impl Told {
    fn new(pipeline: &Pipeline, store: &Store, forecast: &Forecast, id: StageId) -> Self {
        // What a stage gives that runs first is not known.
        let output = |from: StageId| match &forecast.outlooks[from.index()] {
            Some(Outlook::Run(_) | Outlook::After(..)) if forecast.found[id.index()].key.is_none() => None,
            _ => forecast.found[from.index()].record().map(|record| record.output),
        };
        let document = document(pipeline, store, id, output);
        let node = pipeline.node(id);
        let before = Latest::of(store, &pipeline.experiment).key(&node.name).and_then(|key| store.record(&key));
        let mut shown = document.clone();
        for (port, _) in node.inputs.iter().filter(|(port, _)| document["inputs"].get(port).is_none()) {
            shown["inputs"][port] = Value::from("not known yet");
        }
        let changes = before.as_ref().map(|before| changes(&before.document, &shown));
        Self { document, shown, before: before.map(|record| record.key), changes }
    }
}

fn headline(pipeline: &Pipeline, forecast: &Forecast, id: StageId, outlook: &Outlook) -> String {
    let name = |id: &StageId| pipeline.node(*id).name.as_str();
    match outlook {
        Outlook::Cached => match &forecast.found[id.index()].status {
            Status::Dropped(record) => format!("its record is kept, its files are not: {}", record.output),
            status => match status {
                Status::Cached(record) => format!("its result is in the store: {}", record.output),
                _ => "its result is in the store".to_owned(),
            },
        },
        Outlook::Run(_) => "it would run".to_owned(),
        Outlook::After(waits, _) => {
            let names: Vec<&str> = waits.iter().map(name).collect();
            format!("its key holds the content of its inputs, so it is known after {}", names.join(", "))
        }
        Outlook::Failed(failure, again) => {
            let again = again.iter().map(|again| format!("\nto run it again: {again}")).collect::<String>();
            format!("it failed and would again ({}): {}{again}", failure.class, failure.message)
        }
        Outlook::Stuck(from) => format!("it cannot run: `{}` has no result", name(from)),
        Outlook::Blocked(failure) => format!("it cannot run: {}", failure.message),
    }
}

/// Every stage from this one up to the first cause, and what differs there.
fn chain(pipeline: &Pipeline, id: StageId, outlook: &Outlook) -> Vec<(String, String)> {
    let Some(cause) = outlook.cause() else { return Vec::new() };
    let name = |id: StageId| pipeline.node(id).name.clone();
    let mut found = Vec::new();
    let mut at = id;
    for from in &cause.via {
        let ports: Vec<&str> = pipeline.node(at).inputs.iter().filter(|(_, f)| f == from).map(|(p, _)| &**p).collect();
        found.push((name(at), format!("inputs.{}: from `{}`", ports.join(", inputs."), name(*from))));
        at = *from;
    }
    found.push((name(at), cause.reason.told(&name)));
    found.extend(cause.also.iter().map(|change| (name(id), format!("also {change}"))));
    found
}

fn difference(changed: Option<&[Change]>) -> String {
    match changed {
        None => "\nno earlier result to compare with\n".to_owned(),
        Some([]) => "\nnothing changed since its last result\n".to_owned(),
        Some(changes) => {
            let lines: String = changes.iter().map(|change| format!("  {change}\n")).collect();
            format!("\nchanged since its last result\n{lines}")
        }
    }
}
