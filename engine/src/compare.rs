//! What differs between two recorded runs: what was asked (parameters, inputs, sweeps), why keys changed, and what came
//! of it (metrics, time, memory, states). A pure function of two records.
//!
//! `load` finds and reads runs, `asked` compares what was to be run, `why` finds the first reason of a new key. Unaware
//! of tables; `engine/cli` draws them.
mod asked;
mod events;
mod load;
#[cfg(test)]
mod tests;
mod why;

pub use load::{Run, document, find, load};

use crate::key::{Change, Digest};
use crate::recording::Row;
use crate::report::{COLUMNS, Column, Format};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Two runs side by side; every list is empty where nothing differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Name of the run that is compared with.
    pub base: String,
    /// Name of the run that is looked at.
    pub run: String,
    /// What a reader must know: different experiments, a run without an end, a damaged file.
    pub remarks: Vec<String>,
    /// Parameters that differ, those of the experiment first.
    pub parameters: Vec<Parameter>,
    /// Stages that only one of the runs has; a stage of the manifest once, not by its instances.
    pub stages: Vec<Presence>,
    /// Ports that are connected to another stage.
    pub inputs: Vec<Rewired>,
    /// Measurements that differ, of stages that are done in both, in the order of the manifest.
    pub results: Vec<Measured>,
    /// Stages that ended differently.
    pub states: Vec<StateChange>,
    /// Stages with another key.
    pub keys: Vec<KeyChange>,
    /// Stages whose key is the same and whose bytes are not: another machine, or a kind that is not deterministic.
    pub outputs: Vec<String>,
}

/// A parameter that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its stage in the manifest; absent for the experiment's.
    pub stage: Option<String>,
    /// Its path: `init.vocab_size`.
    pub name: String,
    /// Before, as JSON, or `each of ...` for a swept one; absent if it is new.
    pub old: Option<String>,
    /// Now.
    pub new: Option<String>,
}

/// A stage, or an instance of one, that only one of the runs has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Presence {
    /// Its name.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// It is new; otherwise it is gone.
    pub added: bool,
}

/// A port that is connected to another stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rewired {
    /// The stage in the manifest that has the port.
    pub stage: String,
    /// The port.
    pub port: String,
    /// The stage before.
    pub old: Option<String>,
    /// The stage now.
    pub new: Option<String>,
}

/// A measurement that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The stage.
    pub stage: String,
    /// What was measured; `seconds` and `peak_mib` are the whole stage's.
    pub metric: String,
    /// Before.
    pub old: Option<f64>,
    /// Now.
    pub new: Option<f64>,
    /// How much more it is.
    pub difference: Option<f64>,
    /// How much more of what it was, percent; absent where it was zero.
    pub percent: Option<f64>,
}

/// A stage that ended differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateChange {
    /// The stage.
    pub stage: String,
    /// Before, as the report says it: `done`, `oom`, `not run`.
    pub old: String,
    /// Now.
    pub new: String,
    /// Why it is no longer done, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A stage with another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyChange {
    /// The stage.
    pub stage: String,
    /// Key before.
    pub old: Digest,
    /// Key now.
    pub new: Digest,
    /// The first leaf of the key's document that changed, if it is known.
    pub first: Option<Change>,
    /// How many more leaves changed.
    pub more: usize,
    /// The output is the same all the same, so nothing after it had to run.
    pub same_output: bool,
}

impl Comparison {
    /// Nothing differs. What was compared may still be incomplete; see [`Comparison::remarks`].
    pub fn is_empty(&self) -> bool {
        let Self { base: _, run: _, remarks: _, parameters, stages, inputs, results, states, keys, outputs } = self;
        parameters.is_empty()
            && stages.is_empty()
            && inputs.is_empty()
            && results.is_empty()
            && states.is_empty()
            && keys.is_empty()
            && outputs.is_empty()
    }
}

impl Measured {
    fn new(stage: &str, metric: &str, old: Option<f64>, new: Option<f64>) -> Self {
        let difference = old.zip(new).map(|(old, new)| new - old);
        let percent = difference.zip(old).and_then(|(by, old)| (old != 0.0).then(|| 100.0 * by / old.abs()));
        Self { stage: stage.to_owned(), metric: metric.to_owned(), old, new, difference, percent }
    }

    /// How its numbers are written: as in the report where it has a column. Otherwise whole numbers whole, and with
    /// enough decimals that the two differ.
    pub fn format(&self) -> Format {
        let column = COLUMNS.iter().find(|column| column.name == self.metric);
        let usual = match (column, self.metric.as_str()) {
            (Some(Column { format, .. }), _) => *format,
            (None, "seconds") => Format::Decimals(1),
            _ if [self.old, self.new].iter().flatten().all(|value| value.fract() == 0.0) => Format::Count,
            _ => Format::Decimals(2),
        };
        let told = |format: &Format| match (self.old, self.new) {
            (Some(old), Some(new)) => format.text(old) != format.text(new),
            _ => true,
        };
        let closer = [2, 4, 6, 9, 12, 17].map(Format::Decimals);
        std::iter::once(usual).chain(closer).find(told).unwrap_or(usual)
    }

    /// The change as people read it: `-0.0123 (-1.2%)`; nothing where one side is missing.
    pub fn change(&self) -> Option<String> {
        let signed = |text: String| if text.starts_with('-') { text } else { format!("+{text}") };
        let by = signed(self.format().text(self.difference?));
        Some(match self.percent {
            Some(percent) => format!("{by} ({})", signed(format!("{percent:.1}%"))),
            None => by,
        })
    }
}

/// Compares two runs; `documents` finds the document of a key of one of them, if it still exists.
pub fn compare(base: &Run, run: &Run, documents: &dyn Fn(&Run, &Digest) -> Option<Value>) -> Comparison {
    let mut remarks = Vec::new();
    if base.experiment != run.experiment {
        remarks.push(format!("these are different experiments: `{}` and `{}`", base.experiment, run.experiment));
    }
    for side in [base, run] {
        remarks.extend(side.remarks.iter().map(|remark| format!("{}: {remark}", side.id)));
    }
    remarks.dedup();
    let asked = asked::compare(base, run);
    let before: HashMap<&str, &Row> = base.stages.iter().map(|row| (row.name.as_str(), row)).collect();
    let pairs = || run.stages.iter().filter_map(|row| Some((*before.get(row.name.as_str())?, row)));
    let mut stages = asked.stages;
    stages.extend(instances(base, run, &stages));
    Comparison {
        base: base.id.clone(),
        run: run.id.clone(),
        remarks,
        parameters: asked.parameters,
        stages,
        inputs: asked.inputs,
        results: pairs().flat_map(|(old, new)| measured(old, new)).collect(),
        states: pairs().filter_map(|(old, new)| state(old, new)).collect(),
        keys: why::keys(base, run, pairs(), documents),
        outputs: pairs().filter(|(old, new)| nondeterministic(old, new)).map(|(_, new)| new.name.clone()).collect(),
    }
}

fn state(old: &Row, new: &Row) -> Option<StateChange> {
    let (was, is) = (old.state(), new.state());
    let why = new.class.as_ref().and(new.why.clone());
    (was != is).then(|| StateChange { stage: new.name.clone(), old: was, new: is, why })
}

/// What was measured differently: the report's columns in its order, the rest by name, then time and memory.
fn measured(old: &Row, new: &Row) -> Vec<Measured> {
    // Without an output on both sides there is nothing to compare, but what was lost: that is a change of state.
    if old.output.is_none() || new.output.is_none() {
        return Vec::new();
    }
    let mut names: Vec<&str> =
        COLUMNS.iter().map(|column| column.name.as_ref()).filter(|name| *name != "peak_mib").collect();
    let others: BTreeSet<&str> = old.metrics.keys().chain(new.metrics.keys()).map(String::as_str).collect();
    let others = others.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>();
    names.extend(others);
    let metric = |row: &Row, name: &str| row.metrics.get(name).copied();
    let mut all: Vec<_> = names.iter().map(|name| (*name, metric(old, name), metric(new, name))).collect();
    all.push(("seconds", old.seconds, new.seconds));
    all.push(("peak_mib", old.peak_mib, new.peak_mib));
    all.into_iter()
        .filter(|(_, old, new)| old != new)
        .map(|(name, before, now)| Measured::new(&new.name, name, before, now))
        .collect()
}

/// Equal keys promise equal bytes, on one machine.
fn nondeterministic(old: &Row, new: &Row) -> bool {
    old.key.is_some() && old.key == new.key && old.output.is_some() && new.output.is_some() && old.output != new.output
}

/// Instances that only one of the runs has, of stages that both have.
fn instances(base: &Run, run: &Run, told: &[Presence]) -> Vec<Presence> {
    let names = |run: &Run| -> BTreeMap<String, String> {
        run.stages.iter().map(|row| (row.name.clone(), row.kind.clone())).collect()
    };
    let (before, now) = (names(base), names(run));
    let told: BTreeSet<&str> = told.iter().map(|presence| presence.stage.as_str()).collect();
    let only = |one: &Run, other: &BTreeMap<String, String>, added: bool| -> Vec<Presence> {
        let missing = one.stages.iter().filter(|row| !other.contains_key(&row.name));
        missing
            .filter(|row| !told.contains(one.base(&row.name)) && !told.contains(row.name.as_str()))
            .map(|row| Presence { stage: row.name.clone(), kind: row.kind.clone(), added })
            .collect()
    };
    [only(run, &before, true), only(base, &now, false)].concat()
}
