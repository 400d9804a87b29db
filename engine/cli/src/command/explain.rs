//! `anneal explain STAGE`: what a stage's key is made of, and what changed since its last result.
//!
//! Unaware of how keys are made.
use super::Context;
use crate::args::Explain;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::Failure;
use anneal_engine::graph::{Node, Pipeline};
use anneal_engine::key::{Change, changes};
use anneal_engine::resolve::{Resolved, Status, resolve};
use anneal_engine::store::{Latest, Miss};
use serde_json::{Value, json};

pub(super) fn run(args: &Explain, context: &Context) -> Result<Exit, Error> {
    let pipeline = super::pipeline(&args.source, context)?;
    let Some(id) = pipeline.find(&args.stage) else {
        let names: Vec<&str> = pipeline.stages.iter().map(|node| node.name.as_str()).collect();
        let failure = Failure::user(format!("there is no stage `{}` in {}", args.stage, pipeline.manifest.display()));
        return Err(Error::Usage(failure.hint(format!("the stages are: {}", names.join(", ")))));
    };
    let store = super::store(&args.outputs, &pipeline)?;
    let found = resolve(&pipeline, &store, &super::host(&pipeline));
    let (node, resolved) = (pipeline.node(id), &found[id.index()]);
    let before = Latest::of(&store, &pipeline.experiment).key(&node.name).and_then(|key| store.record(&key));
    let document = resolved.keyed.as_ref().map(|keyed| &keyed.document);
    let changed = before.as_ref().zip(document).map(|(record, now)| changes(&record.document, now));
    if args.json {
        output::print_json(&json!({
            "stage": node.name,
            "kind": node.kind.kind(),
            "state": state_word(&resolved.status),
            "key": resolved.keyed.as_ref().map(|keyed| keyed.key),
            "document": document,
            "previous_key": before.as_ref().map(|record| record.key),
            "changes": changed,
        }))?;
        return Ok(Exit::Ok);
    }
    let mut text = headline(&pipeline, node, &found, resolved);
    if let Some(keyed) = &resolved.keyed {
        text += &format!("\nkey {}\n", keyed.key);
        describe(&keyed.document, 2, &mut text);
    }
    text += &difference(changed.as_deref());
    output::print(&text)?;
    Ok(Exit::Ok)
}

fn state_word(status: &Status) -> &'static str {
    match status {
        Status::Cached(_) | Status::Dropped(_) => "cached",
        Status::Missing(_) => "run",
        Status::Failed(..) | Status::Inferred(_) => "failed",
        Status::Unknown => "after",
        Status::Unreadable(_) => "blocked",
    }
}

fn headline(pipeline: &Pipeline, node: &Node, found: &[Resolved], resolved: &Resolved) -> String {
    let what = match &resolved.status {
        Status::Cached(record) => format!("its result is in the store: {}", record.output),
        Status::Dropped(record) => format!("its record is kept, its files are not: {}", record.output),
        Status::Missing(Miss::Dropped(_)) => "its files were removed, and it would run to make them again".to_owned(),
        Status::Inferred(failure) => failure.message.clone(),
        Status::Missing(Miss::Absent) => "it has no result for this key and would run".to_owned(),
        Status::Missing(Miss::Damaged(why)) => format!("its result is damaged, so it would run: {why}"),
        Status::Failed(row, _) => format!("its last attempt failed ({}): {}", row.failure.class, row.failure.message),
        Status::Unreadable(failure) => format!("it cannot run: {}", failure.message),
        Status::Unknown => {
            let missing = |(_, from): &&(String, anneal_engine::graph::StageId)| found[from.index()].record().is_none();
            let mut names: Vec<&str> =
                node.inputs.iter().filter(missing).map(|(_, from)| pipeline.node(*from).name.as_str()).collect();
            names.dedup();
            format!("its key holds the content of its inputs, so it is known after {}", names.join(", "))
        }
    };
    format!("{} ({}): {what}\n", node.name, node.kind.kind())
}

/// A document, one leaf a line, nested fields indented.
fn describe(value: &Value, indent: usize, text: &mut String) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                *text += &format!("{:indent$}{name}\n", "");
                describe(value, indent + 2, text);
            }
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
                *text += &format!("{:indent$}{name}\n", "");
                for item in items {
                    let part = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
                    *text += &format!("{:indent$}  {}: {}\n", "", part("name"), part("digest"));
                }
            }
            Value::Object(_) | Value::Array(_) if value.as_array().is_none_or(Vec::is_empty) => {
                *text += &format!("{:indent$}{name}: none\n", "");
            }
            Value::String(word) => *text += &format!("{:indent$}{name}: {word}\n", ""),
            leaf => *text += &format!("{:indent$}{name}: {leaf}\n", ""),
        }
    }
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
