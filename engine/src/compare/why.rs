//! Why a key changed: the first leaf of its document that differs.
//!
//! The documents lie in the store. Where they are gone, or are too many to read, the reason is taken from what was asked
//! and from the outputs of the stages that this one takes. Unaware of files.
use super::asked::parameters;
use super::{KeyChange, Run};
use crate::key::{Change, Digest, changes, leaf_changes};
use crate::recording::Row;
use serde_json::Value;
use std::collections::HashMap;

/// How many pairs of documents are read: a file each, and in a sweep they say the same again and again.
const DOCUMENTS: usize = 200;

/// The pairs of rows whose keys differ, each with its first reason.
pub(super) fn keys<'a>(
    base: &Run,
    run: &Run,
    pairs: impl Iterator<Item = (&'a Row, &'a Row)>,
    documents: &dyn Fn(&Run, &Digest) -> Option<Value>,
) -> Vec<KeyChange> {
    let (before, now) = (Outputs::of(base), Outputs::of(run));
    let mut asked: HashMap<String, Vec<Change>> = HashMap::new();
    let mut read = 0;
    let mut found = Vec::new();
    for (old_row, new_row) in pairs {
        let (Some(old), Some(new)) = (old_row.key, new_row.key) else { continue };
        if old == new {
            continue;
        }
        let mut reasons = Vec::new();
        if read < DOCUMENTS {
            read += 1;
            if let (Some(was), Some(is)) = (documents(base, &old), documents(run, &new)) {
                reasons = changes(&was, &is);
            }
        }
        if reasons.is_empty() {
            let name = run.base(&new_row.name);
            reasons.clone_from(asked.entry(name.to_owned()).or_insert_with(|| own(base, run, name)));
            reasons.extend(inputs(run, &new_row.name, &before, &now));
        }
        reasons.sort_by_key(|change| rank(&change.path));
        let more = reasons.len().saturating_sub(1);
        let same_output = old_row.output.is_some() && old_row.output == new_row.output;
        let first = reasons.into_iter().next();
        found.push(KeyChange { stage: new_row.name.clone(), old, new, first, more, same_output });
    }
    found
}

/// What people changed themselves comes before what follows from it.
fn rank(path: &str) -> usize {
    let order = ["kind", "version", "params", "sources", "numerics", "seed", "schema"];
    let top = path.split(['.', '[']).next().unwrap_or(path);
    order.iter().position(|name| *name == top).unwrap_or(order.len())
}

/// What was asked differently of a stage itself, by the paths of key documents.
fn own(base: &Run, run: &Run, name: &str) -> Vec<Change> {
    let (Some(old), Some(new)) = (&base.resolved, &run.resolved) else { return Vec::new() };
    let mut found = Vec::new();
    if let (Some(was), Some(is)) = (base.bases.get(name), run.bases.get(name)) {
        for change in leaf_changes(&parameters(old, name, was), &parameters(new, name, is)) {
            let path = match change.path.as_str() {
                "kind" | "version" => change.path,
                // What a stage may use is no part of its key.
                path if was.options.contains_key(path) || is.options.contains_key(path) => continue,
                path => format!("params.{path}"),
            };
            found.push(Change { path, ..change });
        }
    }
    let of_all = [
        ("numerics", Value::from(old.numerics.as_str()).to_string(), Value::from(new.numerics.as_str()).to_string()),
        ("seed", old.seed.to_string(), new.seed.to_string()),
    ];
    let differs = of_all.into_iter().filter(|(_, old, new)| old != new);
    found.extend(differs.map(|(path, old, new)| Change { path: path.to_owned(), old: Some(old), new: Some(new) }));
    found
}

/// The inputs of an instance whose content differs.
fn inputs(run: &Run, name: &str, before: &Outputs<'_>, now: &Outputs<'_>) -> Vec<Change> {
    let Some(stage) = run.bases.get(run.base(name)) else { return Vec::new() };
    let changed = |(port, from): (&String, &String)| {
        let upstream = run.upstream(name, from)?;
        let output = |side: &Outputs<'_>| side.0.get(upstream).map(|digest| format!("\"{digest}\""));
        let (old, new) = (output(before), output(now));
        (old != new).then(|| Change { path: format!("inputs.{port}"), old, new })
    };
    stage.inputs.iter().filter_map(changed).collect()
}

/// The output of every stage that has one.
struct Outputs<'a>(HashMap<&'a str, Digest>);

impl<'a> Outputs<'a> {
    fn of(run: &'a Run) -> Self {
        Self(run.stages.iter().filter_map(|row| Some((row.name.as_str(), row.output?))).collect())
    }
}
