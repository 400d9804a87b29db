//! `resolved.json`: what a manifest meant when it was run, all defaults filled in.
//!
//! A stage of the manifest is there once, with its parameters; of its instances in a sweep only their names and what the
//! sweep sets, a line each, so that a hundred thousand of them take megabytes. Fields are only added, each with a default.
use crate::graph::{Node, Pipeline};
use crate::stage::Source;
use crate::sweep::{Axis, Setting};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// What a manifest meant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolved {
    /// Name of the experiment.
    pub experiment: String,
    /// Seed where no sweep sets another.
    pub seed: u64,
    /// Numerics class.
    pub numerics: String,
    /// The manifest, as the user named it.
    pub manifest: PathBuf,
    /// Folder that relative paths start from.
    pub root: PathBuf,
    /// The `--set` arguments.
    pub overrides: Vec<String>,
    /// The stages of the manifest, in its order: see [`ResolvedStage`].
    pub stages: Map<String, Value>,
    /// What is swept.
    pub axes: Vec<ResolvedAxis>,
    /// By stage of the manifest: its instances and what is set in each. One that no sweep reaches is absent.
    pub instances: BTreeMap<String, Vec<(String, Setting)>>,
}

/// A stage of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolvedStage {
    /// Its kind.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// By port: the stage connected to it.
    pub inputs: BTreeMap<String, String>,
    /// Its parameters, without those that a sweep sets in every instance.
    pub params: Value,
    /// What it may use, as far as that was said.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub options: Map<String, Value>,
    /// Files outside the store that it reads, in a sweep those of one instance.
    pub sources: Vec<Source>,
}

/// A parameter that is swept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolvedAxis {
    /// As the manifest has it: `lora.batch_size`.
    pub key: String,
    /// Name of its stage; absent for one of the experiment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Its values.
    pub values: Vec<Value>,
}

impl ResolvedAxis {
    /// The parameter without its stage.
    pub fn parameter(&self) -> &str {
        self.key.split_once('.').map_or(&self.key, |(_, rest)| rest)
    }
}

/// Writes what a pipeline means, a line for each stage and each instance.
pub(super) fn write(pipeline: &Pipeline, out: &mut impl Write) -> std::io::Result<()> {
    let Pipeline { experiment, seed, numerics, manifest, root, overrides, .. } = pipeline;
    out.write_all(b"{")?;
    for (name, value) in [
        ("experiment", json!(experiment)),
        ("seed", json!(seed)),
        ("numerics", json!(numerics)),
        ("manifest", json!(manifest)),
        ("root", json!(root)),
        ("overrides", json!(overrides)),
    ] {
        write!(out, "\n\"{name}\": {value},")?;
    }
    let mut instances: Vec<Vec<&Node>> = vec![Vec::new(); pipeline.bases.len()];
    pipeline.stages.iter().for_each(|node| instances[node.base as usize].push(node));
    let bases = || pipeline.bases.iter().zip(&instances);
    out.write_all(b"\n\"stages\": {")?;
    for (i, (name, nodes)) in bases().enumerate() {
        if let Some(stage) = stage(pipeline, i, nodes) {
            line(out, i == 0)?;
            write!(out, "{}: {}", Value::String(name.clone()), serde_json::to_string(&stage)?)?;
        }
    }
    let axis = |axis: &Axis| ResolvedAxis {
        key: axis.key.clone(),
        stage: axis.stage.map(|at| pipeline.bases[at].clone()),
        values: axis.values.clone(),
    };
    let axes: Vec<ResolvedAxis> = pipeline.sweep.axes.iter().map(axis).collect();
    write!(out, "\n}},\n\"axes\": {},\n\"instances\": {{", serde_json::to_string(&axes)?)?;
    let mut first = true;
    for (name, nodes) in bases().filter(|(_, nodes)| nodes.iter().any(|node| !node.setting.is_empty())) {
        line(out, std::mem::take(&mut first))?;
        write!(out, "{}: [", Value::String(name.clone()))?;
        for (i, node) in nodes.iter().enumerate() {
            line(out, i == 0)?;
            serde_json::to_writer(&mut *out, &(&node.name, &node.setting))?;
        }
        out.write_all(b"]")?;
    }
    out.write_all(b"\n}\n}\n")
}

/// The next item of a list, on a line of its own.
pub(super) fn line(out: &mut impl Write, first: bool) -> std::io::Result<()> {
    out.write_all(if first { b"\n" } else { b",\n" })
}

fn stage(pipeline: &Pipeline, base: usize, nodes: &[&Node]) -> Option<ResolvedStage> {
    let own = |node: &Node| -> Vec<u32> {
        let of_base = |axis: &u32| pipeline.sweep.axes[*axis as usize].stage == Some(base);
        node.setting.iter().map(|(axis, _)| *axis).filter(of_base).collect()
    };
    // What even the instance with the fewest swept values has from the sweep, each instance has.
    let node = nodes.iter().min_by_key(|node| own(node).len())?;
    let mut params = node.resolved().into_owned();
    for axis in own(node) {
        remove(&mut params, pipeline.sweep.axes[axis as usize].parameter());
    }
    let from = |(port, from): &(String, crate::graph::StageId)| (port.clone(), pipeline.base(*from).to_owned());
    let options = &node.options;
    let said = [
        ("timeout", options.timeout.map(|time| json!(time.as_secs_f64()))),
        ("memory_limit_mib", options.memory_limit_mib.map(Value::from)),
        ("gpus", options.gpus.map(Value::from)),
        ("threads", options.threads.map(Value::from)),
        ("keep", (!options.keep.is_all()).then(|| json!(options.keep))),
    ];
    Some(ResolvedStage {
        kind: node.kind.kind().to_owned(),
        version: node.kind.version(),
        inputs: node.inputs.iter().map(from).collect(),
        params,
        options: said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        sources: node.sources.to_vec(),
    })
}

/// Takes a parameter out of a table, `init.vocab_size` out of the table in it.
fn remove(params: &mut Value, path: &str) {
    let (inner, name) = path.rsplit_once('.').map_or((None, path), |(inner, name)| (Some(inner), name));
    let mut at = Some(params);
    for part in inner.into_iter().flat_map(|inner| inner.split('.')) {
        at = at.and_then(|value| value.get_mut(part));
    }
    if let Some(table) = at.and_then(Value::as_object_mut) {
        table.shift_remove(name);
    }
}
