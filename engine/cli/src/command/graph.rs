//! `anneal graph`: the stages of a manifest and what flows between them.
//!
//! Unaware of the store.
use super::Context;
use crate::args::{Graph, GraphFormat};
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::graph::Pipeline;
use serde_json::{Value, json};

pub(super) fn run(args: &Graph, context: &Context) -> Result<Exit, Error> {
    let pipeline = super::pipeline(&args.source, context)?;
    if args.json {
        output::print_json(&as_json(&pipeline))?;
        return Ok(Exit::Ok);
    }
    output::print(&match args.format {
        GraphFormat::Text => text(&pipeline),
        GraphFormat::Dot => dot(&pipeline),
        GraphFormat::Mermaid => mermaid(&pipeline),
    })?;
    Ok(Exit::Ok)
}

fn as_json(pipeline: &Pipeline) -> Value {
    let stage = |id: &anneal_engine::graph::StageId| {
        let node = pipeline.node(*id);
        let inputs: serde_json::Map<String, Value> =
            node.inputs.iter().map(|(port, from)| (port.clone(), pipeline.node(*from).name.clone().into())).collect();
        json!({ "name": node.name, "kind": node.kind.kind(), "output": node.output, "inputs": inputs, "params": *node.resolved() })
    };
    json!({
        "experiment": pipeline.experiment,
        "seed": pipeline.seed,
        "numerics": pipeline.numerics,
        "stages": pipeline.order().iter().map(stage).collect::<Vec<_>>(),
    })
}

fn text(pipeline: &Pipeline) -> String {
    let width = |of: fn(&anneal_engine::graph::Node) -> usize| pipeline.stages.iter().map(of).max().unwrap_or(0);
    let names = width(|node| node.name.chars().count());
    let kinds = width(|node| node.kind.kind().len());
    let mut text = format!("{}: {} stages\n", pipeline.experiment, pipeline.stages.len());
    for id in pipeline.order() {
        let node = pipeline.node(*id);
        let inputs: Vec<String> =
            node.inputs.iter().map(|(port, from)| format!("{port} = {}", pipeline.node(*from).name)).collect();
        let inputs = if inputs.is_empty() { String::new() } else { format!("  ({})", inputs.join(", ")) };
        text += &format!("  {:<names$}  {:<kinds$}  -> {}{inputs}\n", node.name, node.kind.kind(), node.output);
    }
    text
}

fn dot(pipeline: &Pipeline) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quote(&pipeline.experiment));
    for node in &pipeline.stages {
        let label = format!("{}\n{}", node.name, node.kind.kind());
        text += &format!("  {} [label={}];\n", quote(&node.name), quote(&label).replace('\n', "\\n"));
    }
    for node in &pipeline.stages {
        for (port, from) in &node.inputs {
            let from = &pipeline.node(*from).name;
            text += &format!("  {} -> {} [label={}];\n", quote(from), quote(&node.name), quote(port));
        }
    }
    text + "}\n"
}

fn mermaid(pipeline: &Pipeline) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for (i, node) in pipeline.stages.iter().enumerate() {
        text += &format!("  s{i}[\"{}<br/>{}\"]\n", node.name, node.kind.kind());
    }
    for (i, node) in pipeline.stages.iter().enumerate() {
        for (port, from) in &node.inputs {
            text += &format!("  s{} -->|{port}| s{i}\n", from.index());
        }
    }
    text
}
