//! What was to be run, compared: parameters, options, kinds, sweeps, stages and who takes whose output.
//!
//! Paths below the two projects' roots are compared by where they are in the project, so that a fresh checkout elsewhere
//! differs in nothing. Unaware of what came of it.
use super::{Parameter, Presence, Rewired, Run};
use crate::key::{leaf_changes, leaves};
use crate::recording::{Resolved, ResolvedStage};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What differs.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) parameters: Vec<Parameter>,
    pub(super) stages: Vec<Presence>,
    pub(super) inputs: Vec<Rewired>,
}

type Leaves = BTreeMap<String, String>;

pub(super) fn compare(base: &Run, run: &Run) -> Asked {
    let mut asked = Asked::default();
    let (Some(old), Some(new)) = (&base.resolved, &run.resolved) else { return asked };
    asked.parameters = changed(None, &experiment(old), &experiment(new));
    for (name, stage) in &run.bases {
        match base.bases.get(name) {
            Some(before) => {
                let (was, is) = (parameters(old, name, before), parameters(new, name, stage));
                asked.parameters.extend(changed(Some(name), &was, &is));
                asked.inputs.extend(rewired(name, before, stage));
            }
            None => asked.stages.push(Presence { stage: name.clone(), kind: stage.kind.clone(), added: true }),
        }
    }
    for (name, stage) in base.bases.iter().filter(|(name, _)| !run.bases.contains_key(*name)) {
        asked.stages.push(Presence { stage: name.clone(), kind: stage.kind.clone(), added: false });
    }
    // In the order of the manifest, those that are gone last.
    let place = |name: &str| new.stages.keys().position(|stage| stage == name).unwrap_or(usize::MAX);
    asked
        .parameters
        .sort_by_key(|parameter| parameter.stage.as_deref().map_or(0, |name| place(name).saturating_add(1)));
    asked.stages.sort_by_key(|presence| place(&presence.stage));
    asked.inputs.sort_by_key(|rewired| place(&rewired.stage));
    asked
}

fn changed(stage: Option<&str>, old: &Leaves, new: &Leaves) -> Vec<Parameter> {
    let parameter = |change: crate::key::Change| Parameter {
        stage: stage.map(str::to_owned),
        name: change.path,
        old: change.old,
        new: change.new,
    };
    leaf_changes(old, new).into_iter().map(parameter).collect()
}

fn experiment(resolved: &Resolved) -> Leaves {
    let mut found = leaves(&json!({ "seed": resolved.seed, "numerics": resolved.numerics }));
    sweeps(resolved, None, &mut found);
    found
}

/// The parameters of a stage by path, with its kind, its options and what is swept in it.
pub(super) fn parameters(resolved: &Resolved, name: &str, stage: &ResolvedStage) -> Leaves {
    let mut params = stage.params.clone();
    relative(&mut params, &resolved.root);
    let mut found = leaves(&params);
    // A table without parameters is no leaf.
    found.remove("");
    found.extend(leaves(&json!({ "kind": stage.kind, "version": stage.version })));
    for (name, value) in &stage.options {
        found.insert(name.clone(), value.to_string());
    }
    sweeps(resolved, Some(name), &mut found);
    found
}

/// Swept values in place of the parameter's own; beside it where it has one all the same, as in an ablation.
fn sweeps(resolved: &Resolved, stage: Option<&str>, found: &mut Leaves) {
    for axis in resolved.axes.iter().filter(|axis| axis.stage.as_deref() == stage) {
        let values: Vec<String> = axis.values.iter().map(Value::to_string).collect();
        let values = format!("each of {}", values.join(", "));
        let name = axis.parameter();
        if stage.is_some() && found.contains_key(name) {
            found.insert(format!("{name} (swept)"), values);
        } else {
            found.insert(name.to_owned(), values);
        }
    }
}

/// Paths below the root without it.
fn relative(value: &mut Value, root: &Path) {
    match value {
        Value::String(text) if !root.as_os_str().is_empty() => {
            let path = Path::new(text.as_str());
            let inner =
                path.strip_prefix(root).ok().filter(|inner| path.is_absolute() && !inner.as_os_str().is_empty());
            if let Some(inner) = inner.and_then(Path::to_str).map(str::to_owned) {
                *text = inner;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| relative(item, root)),
        Value::Object(fields) => fields.values_mut().for_each(|field| relative(field, root)),
        _ => {}
    }
}

fn rewired(name: &str, old: &ResolvedStage, new: &ResolvedStage) -> Vec<Rewired> {
    let mut ports: Vec<&String> = old.inputs.keys().chain(new.inputs.keys()).collect();
    ports.sort();
    ports.dedup();
    let side = |stage: &ResolvedStage, port: &String| stage.inputs.get(port).cloned();
    ports
        .into_iter()
        .map(|port| (port, side(old, port), side(new, port)))
        .filter(|(_, old, new)| old != new)
        .map(|(port, old, new)| Rewired { stage: name.to_owned(), port: port.clone(), old, new })
        .collect()
}
