//! Which stages a run is about: stages by name with all they need, and cells of a sweep.
//!
//! Unaware of what will run.
use crate::Failure;
use crate::graph::{Pipeline, StageId};
use std::collections::BTreeSet;

/// What a cell must have: an axis, and the value on it; `None`: the manifest's own.
type Wish = Vec<(u32, Option<u32>)>;

/// The stages of these names.
///
/// # Errors
/// A name is none of the manifest's.
pub fn named(pipeline: &Pipeline, names: &[String]) -> Result<BTreeSet<StageId>, Failure> {
    let mut found = BTreeSet::new();
    for name in names {
        let all = pipeline.find_all(name);
        if all.is_empty() {
            let known: Vec<&str> = pipeline.bases.iter().map(String::as_str).take(30).collect();
            return Err(Failure::user(format!("{} has no stage `{name}`", pipeline.manifest.display()))
                .hint(format!("its stages are {}", known.join(", "))));
        }
        found.extend(all);
    }
    Ok(found)
}

/// The named stages, in the named cells, and all they need. No name: all stages; no cell: all cells.
///
/// A cell is named by its eight digits, or the first of them, or by values: `lora.batch_size=4,rank=8`. What the values
/// say nothing of is not restricted.
///
/// # Errors
/// There is no such stage or cell.
pub fn select(pipeline: &Pipeline, only: &[String], cells: &[String]) -> Result<BTreeSet<StageId>, Failure> {
    let mut selected = if only.is_empty() { pipeline.ids().collect() } else { named(pipeline, only)? };
    if !cells.is_empty() {
        let wishes = cells.iter().map(|cell| wish(pipeline, cell)).collect::<Result<Vec<Wish>, Failure>>()?;
        selected.retain(|id| wishes.iter().any(|wish| !contradicts(pipeline, *id, wish)));
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

/// A stage that an axis cannot reach belongs to every cell.
fn contradicts(pipeline: &Pipeline, id: StageId, wish: &Wish) -> bool {
    let (reach, setting) = (pipeline.reach(id), &pipeline.node(id).setting);
    let value = |axis: u32| setting.iter().find(|(at, _)| *at == axis).map(|(_, value)| *value);
    wish.iter().any(|(axis, wanted)| reach.contains(axis) && value(*axis) != *wanted)
}

fn wish(pipeline: &Pipeline, cell: &str) -> Result<Wish, Failure> {
    let none = |why: String| {
        let keys: Vec<&str> = pipeline.sweep.axes.iter().map(|axis| axis.key.as_str()).collect();
        let failure = Failure::user(format!("--cell {cell}: {why}"));
        if keys.is_empty() {
            return failure.hint(format!("{} sweeps over nothing", pipeline.manifest.display()));
        }
        failure.hint(format!("swept are {}; `anneal report` lists the cells", keys.join(", ")))
    };
    if !cell.contains('=') {
        let hex = cell.len() >= 4 && cell.bytes().all(|b| b.is_ascii_hexdigit());
        let found = pipeline.ids().find(|id| hex && pipeline.cell(*id).is_some_and(|known| known.starts_with(cell)));
        let id = found.ok_or_else(|| none("there is no such cell".to_owned()))?;
        let setting = &pipeline.node(id).setting;
        let value = |axis: &u32| (*axis, setting.iter().find(|(at, _)| at == axis).map(|(_, value)| *value));
        return Ok(pipeline.reach(id).iter().map(value).collect());
    }
    let mut wish = Wish::new();
    for part in cell.split(',') {
        let (key, word) = part.split_once('=').ok_or_else(|| none(format!("`{part}` is no `KEY=VALUE`")))?;
        let axes = || pipeline.sweep.axes.iter().enumerate();
        let matching: Vec<_> = axes().filter(|(_, axis)| axis.key == key || axis.parameter() == key).collect();
        let [(at, axis)] = matching.as_slice() else {
            let why = if matching.is_empty() { "is not swept" } else { "is swept in several stages" };
            return Err(none(format!("`{key}` {why}")));
        };
        let value = (0..axis.values.len() as u32).find(|value| axis.label(*value) == word);
        let value = value.ok_or_else(|| {
            let labels: Vec<&str> = (0..axis.values.len() as u32).map(|value| axis.label(value)).take(30).collect();
            none(format!("`{key}` takes {}", labels.join(", ")))
        })?;
        wish.push((*at as u32, Some(value)));
    }
    Ok(wish)
}
