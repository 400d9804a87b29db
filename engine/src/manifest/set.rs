//! `--set stage.key=value`: an override becomes a text of its own, is parsed like a piece of a manifest, and is put
//! into the manifest's tree before anything is checked, so that the same checks see it.
//!
//! Unaware of kinds and parameters.
use super::tree::{self, Item, Table, Tree};
use super::words::{nearest, suggest};
use crate::diagnostic::{Diagnostic, Place, SourceText};
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

const PREFIX: &str = "--set ";

/// Puts one override into a manifest's root table. `order` counts the overrides from 1.
pub(super) fn apply(argument: &str, order: usize, root: &mut Table, problems: &mut Vec<Diagnostic>) {
    let text = format!("{PREFIX}{argument}");
    let source = Arc::new(SourceText { name: "--set".to_owned(), text, order });
    let whole = Place::new(&source, PREFIX.len()..source.text.len());
    let Some((path, at)) = key(argument, &source) else {
        let problem = Diagnostic::error(&whole, "an override must have the form `stage.key=value`");
        problems.push(problem.hint("for example `--set lora.rank=8`, or `--set experiment.seed=7`".to_owned()));
        return;
    };
    let [(first, first_place), _, ..] = path.as_slice() else {
        let problem = Diagnostic::error(&whole, "this names no key of a stage");
        problems.push(problem.hint("write `--set stage.key=value`".to_owned()));
        return;
    };
    let item = value(argument, at, &source, problems);
    if first == "experiment" || first == "sweep" {
        root.put(&path, item);
        return;
    }
    let stages = root.get("stages").and_then(|entry| entry.item.table());
    if stages.is_some_and(|stages| stages.get(first).is_some()) {
        let mut full = vec![("stages".to_owned(), first_place.clone())];
        full.extend(path);
        root.put(&full, item);
        return;
    }
    let names: Vec<&str> = stages.map(|table| table.0.iter().map(|e| e.key.as_str()).collect()).unwrap_or_default();
    let hint = match (first.as_str(), path.get(1)) {
        ("stages", Some((second, _))) if names.contains(&second.as_str()) => {
            Some(format!("leave out `stages.`: `--set {second}.key=value`"))
        }
        _ if nearest(first, ["experiment"]).is_some() => Some("did you mean `experiment`?".to_owned()),
        _ => suggest(first, "the stages are", &names),
    };
    problems.push(Diagnostic::error(first_place, format!("there is no stage `{first}` to set a value of")).hint(hint));
}

/// The dotted key before the first `=` that can end one, and the byte after that `=`.
fn key(argument: &str, source: &Arc<SourceText>) -> Option<(Vec<(String, Place)>, usize)> {
    // A `=` may be part of a quoted key, but nobody quotes many.
    for (at, _) in argument.match_indices('=').take(8) {
        let text = argument.get(..at)?;
        let document = format!("{text}=0");
        if text.contains(['\n', '\r', '#', '[']) {
            continue;
        }
        if let Ok(table) = DeTable::parse(&document) {
            let mut path = Vec::new();
            let mut level = Some(table.get_ref());
            while let Some((key, value)) = level.and_then(|table| table.iter().next()) {
                let span = key.span().start + PREFIX.len()..key.span().end + PREFIX.len();
                path.push((key.get_ref().to_string(), Place::new(source, span)));
                level = value.get_ref().as_table();
            }
            return Some((path, at + 1));
        }
    }
    None
}

/// The value: TOML if it reads as TOML, text as it stands otherwise (`--set a.template=tat-qa` needs no quotes).
fn value(argument: &str, at: usize, source: &Arc<SourceText>, problems: &mut Vec<Diagnostic>) -> Item {
    let rest = argument.get(at..).unwrap_or_default();
    let text = rest.trim();
    let offset = PREFIX.len() + at + (rest.len() - rest.trim_start().len());
    if let Ok(parsed) = DeValue::parse(text) {
        return tree::value(source, offset, &parsed, problems);
    }
    Item { place: Place::new(source, offset..offset + text.len()), tree: Tree::Text(text.to_owned()) }
}
