//! `anneal stages [KIND]`: the kinds and their parameters, straight from the tables that check manifests.
//!
//! Unaware of every kind.
use super::Context;
use crate::args::Stages;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::manifest::shape_words;
use anneal_engine::{Failure, Param, Shape, Stage};
use serde_json::{Value, json};

/// Longest line of an explanation.
const WIDTH: usize = 100;

pub(super) fn run(args: &Stages, context: &Context) -> Result<Exit, Error> {
    let kinds = context.registry.kinds();
    let Some(name) = &args.kind else {
        let width = kinds.iter().map(|kind| kind.kind().len()).max().unwrap_or(0);
        let lines = kinds.iter().map(|kind| format!("{:<width$}  {}\n", kind.kind(), kind.summary()));
        if args.json {
            output::print_json(&kinds.iter().map(|kind| as_json(kind.as_ref())).collect())?;
        } else {
            output::print(&lines.collect::<String>())?;
        }
        return Ok(Exit::Ok);
    };
    let Some(kind) = context.registry.get(name) else {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.kind()).collect();
        let failure = Failure::user(format!("there is no stage kind `{name}`"));
        return Err(Error::Usage(failure.hint(format!("the kinds are: {}", names.join(", ")))));
    };
    if args.json {
        output::print_json(&as_json(kind.as_ref()))?;
    } else {
        output::print(&explain(kind.as_ref()))?;
    }
    Ok(Exit::Ok)
}

fn explain(kind: &dyn Stage) -> String {
    let mut text = format!("{}: {}\n", kind.kind(), kind.summary());
    if !kind.inputs().is_empty() || kind.open_inputs() {
        text += "\ninputs\n";
    }
    if kind.open_inputs() {
        let makes = match kind.open_accepts() {
            [] => ", whatever it makes".to_owned(),
            types => format!(" that makes {}", types.join(" or ")),
        };
        text += &format!("  ANY NAME = a stage{makes} (optional)\n");
    }
    for port in kind.inputs() {
        let need = if port.required { "required" } else { "optional" };
        text += &format!("  {} = a stage that makes {} ({need})\n", port.name, port.accepts.join(" or "));
        text += &wrap(port.doc, 6);
    }
    let params = kind.params();
    if !params.is_empty() {
        text += "\nparameters\n";
    }
    params.iter().for_each(|param| explain_param(param, 2, &mut text));
    text
}

fn explain_param(param: &Param, indent: usize, text: &mut String) {
    let default = match &param.default {
        None => ", required".to_owned(),
        Some(Value::Null) => ", optional".to_owned(),
        Some(value) => format!(", default {value}"),
    };
    let unit = if param.unit.is_empty() { String::new() } else { format!(" ({})", param.unit) };
    *text += &format!("{:indent$}{}: {}{unit}{default}\n", "", param.name, shape_words(&param.shape));
    *text += &wrap(&param.doc, indent + 4);
    if !param.memory.is_empty() {
        *text += &wrap(&format!("Memory: {}.", param.memory.trim_end_matches('.')), indent + 4);
    }
    match &param.shape {
        Shape::Table(params) => params.iter().for_each(|inner| explain_param(inner, indent + 4, text)),
        Shape::Choice(words) => {
            for (word, doc) in words.iter().filter(|(_, doc)| !doc.is_empty()) {
                *text += &wrap(&format!("\"{word}\": {doc}"), indent + 6);
            }
        }
        _ => {}
    }
}

/// Lines of at most [`WIDTH`] characters, each indented; a longer word has a line of its own.
fn wrap(text: &str, indent: usize) -> String {
    let mut lines = Vec::<String>::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if indent + line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| format!("{:indent$}{line}\n", "")).collect()
}

fn as_json(kind: &dyn Stage) -> Value {
    let ports: Vec<Value> = kind
        .inputs()
        .iter()
        .map(|port| json!({ "name": port.name, "accepts": port.accepts, "required": port.required, "doc": port.doc }))
        .collect();
    let params: Vec<Value> = kind.params().iter().map(param_json).collect();
    json!({
        "kind": kind.kind(),
        "summary": kind.summary(),
        "version": kind.version(),
        "inputs": ports,
        "open_inputs": kind.open_inputs(),
        "open_accepts": kind.open_accepts(),
        "params": params,
    })
}

fn param_json(param: &Param) -> Value {
    let mut value = json!({
        "name": param.name,
        "type": shape_words(&param.shape),
        "required": param.default.is_none(),
        "default": param.default,
        "unit": param.unit,
        "doc": param.doc,
        "memory": param.memory,
    });
    if let Shape::Table(params) = &param.shape {
        value["params"] = params.iter().map(param_json).collect();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    anneal_engine::params! {
        /// Parameters.
        pub struct Example {
            /// Rank of the update; a long explanation that does not fit into one line of a terminal, so that it is
            /// wrapped.
            rank: u32 = 16, in 1..=1024, unit "rows", memory "grows with rank";
            /// Where the model lies.
            model: std::path::PathBuf;
            /// Stop early.
            max_steps: Option<u64>, in 1..=1_000_000, unit "steps";
        }
    }

    #[test]
    fn parameters_are_explained_from_their_table() {
        let mut text = String::new();
        <Example as anneal_engine::ParamSet>::params().iter().for_each(|param| explain_param(param, 2, &mut text));
        insta::assert_snapshot!(text, @r"
    rank: an integer from 1 to 1024 (rows), default 16
        Rank of the update; a long explanation that does not fit into one line of a terminal, so that
        it is wrapped.
        Memory: grows with rank.
    model: the path of a file or folder, required
        Where the model lies.
    max_steps: an integer from 1 to 1000000 (steps), optional
        Stop early.
    ");
    }
}
