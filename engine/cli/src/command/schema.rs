//! `anneal schema`: a JSON Schema (draft 2020-12) of manifests, from the tables that check them.
//!
//! Editors complete and explain by it; `anneal plan` stays the judge, because a schema cannot see whether stages fit one
//! another. Unaware of every kind.
use super::Context;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::manifest::Experiment;
use anneal_engine::options::Declared;
use anneal_engine::{Param, ParamSet, Port, Registry, Shape, Stage};
use serde_json::{Map, Value, json};

pub(super) fn run(context: &Context) -> Result<Exit, Error> {
    output::print_json(&schema(&context.registry))?;
    Ok(Exit::Ok)
}

/// The schema of manifests with these kinds.
fn schema(registry: &Registry) -> Value {
    let kinds = registry.kinds();
    let definitions: Map<String, Value> =
        kinds.iter().map(|kind| (kind.kind().to_owned(), definition(kind.as_ref()))).collect();
    let branch = |name: &str| {
        json!({
            "if": { "properties": { "kind": { "const": name } }, "required": ["kind"] },
            "then": { "$ref": format!("#/$defs/{name}") },
        })
    };
    let names: Vec<&str> = kinds.iter().map(|kind| kind.kind()).collect();
    let summaries: Vec<&str> = kinds.iter().map(|kind| kind.summary()).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A manifest of anneal",
        "description": "A pipeline that fine-tunes Llama models: an experiment and its stages.",
        "type": "object",
        "properties": {
            "experiment": experiment(registry),
            "sweep": sweep(),
            "stages": {
                "description": "The stages by name; `inputs` connect them.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": { "pattern": NAME, "not": { "enum": ["experiment", "sweep"] } },
                "additionalProperties": {
                    "type": "object",
                    "properties": {
                        "kind": {
                            "description": "What the stage does.",
                            "enum": names,
                            "enumDescriptions": summaries,
                            "x-taplo": { "docs": { "enumValues": summaries } },
                        },
                    },
                    "required": ["kind"],
                    "allOf": names.iter().map(|name| branch(name)).collect::<Vec<_>>(),
                },
            },
        },
        "required": ["experiment", "stages"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// What the engine accepts as the name of a stage.
const NAME: &str = r"^[\p{Alphabetic}\p{N}_][\p{Alphabetic}\p{N}_-]{0,99}$";
/// What the engine accepts as the name of an experiment.
const EXPERIMENT_NAME: &str = r"^[\p{Alphabetic}\p{N}_][\p{Alphabetic}\p{N}_.-]{0,99}$";

fn experiment(registry: &Registry) -> Value {
    let mut table = table(&Experiment::params(), Map::new());
    let properties = &mut table["properties"];
    properties["name"]["pattern"] = json!(EXPERIMENT_NAME);
    properties["numerics"]["enum"] = json!(registry.numerics());
    properties["numerics"]["default"] = json!(registry.numerics().first());
    table
}

/// What is swept; which parameters there are is left to the program, which tells them with their places.
fn sweep() -> Value {
    let lists = |description: &str, values: Value| json!({ "description": description, "type": "object", "additionalProperties": values });
    let list = || json!({ "description": "Its values.", "type": ["array", "object"] });
    json!({
        "description": "Parameters that take several values: a stage is run once for each combination that reaches it.",
        "type": "object",
        "properties": {
            "grid": lists("Every value with every other: \"STAGE.PARAMETER\" = [values].", list()),
            "zip": lists("Lists of one length that go together: the first of each, the second of each.", list()),
            "ablate": lists(
                "The manifest as it is, and then one change at a time: \"STAGE.PARAMETER\" = value, or [values].",
                json!({ "description": "What it is changed to." }),
            ),
            "assume_monotone": {
                "description": "A swept number of which a larger value needs more memory: once a value runs out of memory, larger ones count as out of memory without being tried.",
                "type": "string",
            },
        },
        "additionalProperties": false,
    })
}

/// The stages of one kind.
fn definition(kind: &dyn Stage) -> Value {
    let mut first = Map::new();
    first.insert("kind".to_owned(), json!({ "const": kind.kind(), "description": kind.summary() }));
    if !kind.inputs().is_empty() || kind.open_inputs() {
        let mut inputs = inputs(kind.inputs());
        if kind.open_inputs() {
            inputs["propertyNames"] = json!({ "pattern": NAME });
            let description = match kind.open_accepts() {
                [] => "The name of a stage; whatever it makes is taken.".to_owned(),
                types => format!("The name of a stage that makes {}.", types.join(" or ")),
            };
            inputs["additionalProperties"] = json!({ "type": "string", "description": description });
        }
        first.insert("inputs".to_owned(), inputs);
    }
    let mut params = kind.params();
    params.extend(Declared::params());
    let mut table = table(&params, first);
    table["description"] = json!(kind.summary());
    if let Some(required) = table["required"].as_array_mut() {
        required.push(json!("kind"));
        if kind.inputs().iter().any(|port| port.required) {
            required.push(json!("inputs"));
        }
    }
    table
}

fn inputs(ports: &[Port]) -> Value {
    let port = |port: &Port| {
        let doc = format!("The name of a stage that makes {}: {}.", port.accepts.join(" or "), port.doc);
        (port.name.to_owned(), json!({ "type": "string", "description": doc }))
    };
    let required: Vec<&str> = ports.iter().filter(|port| port.required).map(|port| port.name).collect();
    json!({
        "description": "Where this stage's inputs come from: port = \"stage\".",
        "type": "object",
        "properties": ports.iter().map(port).collect::<Map<_, _>>(),
        "required": required,
        "additionalProperties": false,
    })
}

/// A table of parameters after some other keys.
fn table(params: &[Param], mut properties: Map<String, Value>) -> Value {
    properties.extend(params.iter().map(|param| (param.name.to_owned(), property(param))));
    let required: Vec<&str> = params.iter().filter(|p| p.default.is_none()).map(|param| param.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn property(param: &Param) -> Value {
    let mut property = shape(&param.shape);
    let mut text = param.doc.clone();
    if !param.unit.is_empty() {
        text += &format!("\n\nUnit: {}.", param.unit);
    }
    match &param.default {
        None => text += "\n\nRequired.",
        Some(Value::Null) => text += "\n\nOptional.",
        Some(default) => {
            text += &format!("\n\nDefault: {default}.");
            property["default"] = default.clone();
        }
    }
    if !param.memory.is_empty() {
        text += &format!("\n\nMemory: {}.", param.memory.trim_end_matches('.'));
    }
    property["description"] = json!(text);
    property
}

fn shape(shape_of: &Shape) -> Value {
    match shape_of {
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Int { min, max } => {
            let mut integer = json!({ "type": "integer" });
            // Bounds of the number's type are none of the parameter's.
            if *min != i64::MIN {
                integer["minimum"] = json!(min);
            }
            if *max != i64::MAX {
                integer["maximum"] = json!(max);
            }
            integer
        }
        Shape::Float { min, max } => {
            let mut number = json!({ "type": "number" });
            if *min != f64::MIN {
                number["minimum"] = json!(min);
            }
            if *max != f64::MAX {
                number["maximum"] = json!(max);
            }
            number
        }
        Shape::Text => json!({ "type": "string" }),
        Shape::Path => json!({ "type": "string", "minLength": 1 }),
        Shape::Choice(words) => {
            let (words, docs): (Vec<_>, Vec<_>) = words.iter().copied().unzip();
            json!({ "enum": words, "enumDescriptions": docs, "x-taplo": { "docs": { "enumValues": docs } } })
        }
        Shape::List(item) => json!({ "type": "array", "items": shape(item) }),
        Shape::Map(item) => json!({ "type": "object", "additionalProperties": shape(item) }),
        Shape::Table(params) => table(params, Map::new()),
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
