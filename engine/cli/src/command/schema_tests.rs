//! The schema against every manifest of the repository, and against manifests that are wrong in one place.
use super::*;
use anneal_engine::manifest::{LoadOptions, parse};
use std::path::{Path, PathBuf};

fn validator() -> jsonschema::Validator {
    let schema = schema(&anneal_stages::registry());
    jsonschema::draft202012::meta::validate(&schema).expect("a schema");
    jsonschema::draft202012::new(&schema).expect("a schema that compiles")
}

fn value(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).expect("TOML")).expect("JSON")
}

fn manifests() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    let entries = std::fs::read_dir(folder).expect("manifests").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn every_manifest_of_the_repository_fits() {
    let validator = validator();
    let files = manifests();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a manifest");
        // Some manifests may use what the engine itself does not read yet.
        if text.contains("[sweep") {
            continue;
        }
        let problems: Vec<String> =
            validator.iter_errors(&value(&text)).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", file.display());
    }
}

const GOOD: &str = r#"
[experiment]
name = "e"
[stages.data]
kind = "load"
dataset = { train = "t.json" }
[stages.base]
kind = "load"
model = "m"
[stages.tokens]
kind = "tokenize"
inputs = { model = "base", dataset = "data" }
[stages.lora]
kind = "train-lora"
inputs = { model = "base", tokens = "tokens" }
rank = 8
alpha = 16
target_modules = ["q_proj"]
"#;

#[test]
fn what_the_engine_refuses_the_schema_refuses() {
    let (validator, registry) = (validator(), anneal_stages::registry());
    assert!(validator.is_valid(&value(GOOD)));
    for (from, to) in [
        ("name = \"e\"", ""),
        ("name = \"e\"", "name = \"-e\""),
        ("name = \"e\"", "name = \"e\"\nseed = -1"),
        ("name = \"e\"", "name = \"e\"\nnumerics = \"fp8\""),
        ("[experiment]", "[other]\n[experiment]"),
        ("[stages.data]", "[stages.\"-x\"]"),
        ("[stages.data]", "[stages.experiment]"),
        ("kind = \"tokenize\"", "kind = \"tokenise\""),
        ("kind = \"tokenize\"", ""),
        ("rank = 8", "rank = 0"),
        ("rank = 8", "rank = 4097"),
        ("rank = 8", "rank = 8.5"),
        ("rank = 8", "rank = \"8\""),
        ("rank = 8", "ranks = 8"),
        ("rank = 8", "rank = 8\ndropout = 1.5"),
        ("rank = 8", "rank = 8\nrslora = 1"),
        ("[\"q_proj\"]", "[1]"),
        ("[\"q_proj\"]", "\"q_proj\""),
        ("tokens = \"tokens\"", "token = \"tokens\""),
        ("tokens = \"tokens\"", "tokens = 1"),
        ("inputs = { model = \"base\", dataset = \"data\" }", ""),
        ("inputs = { model = \"base\", dataset = \"data\" }", "inputs = { model = \"base\" }"),
        ("train = \"t.json\"", "format = \"csv\""),
        ("train = \"t.json\"", "trian = \"t.json\""),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let engine = parse(&registry, text.clone(), Path::new("m.toml"), Path::new("/"), &LoadOptions::default());
        assert!(engine.is_err(), "the engine takes {to}");
        assert!(!validator.is_valid(&value(&text)), "the schema takes {to}");
    }
}

#[test]
fn a_parameter_carries_everything_that_is_known_of_it() {
    let schema = schema(&anneal_stages::registry());
    let rank = &schema["$defs"]["train-lora"]["properties"]["rank"];
    insta::assert_snapshot!(serde_json::to_string_pretty(rank).unwrap_or_default(), @r#"
    {
      "type": "integer",
      "minimum": 1,
      "maximum": 4096,
      "default": 16,
      "description": "Rank r of the update: A is [r, in], B is [out, r].\n\nUnit: rows.\n\nDefault: 16.\n\nMemory: parameters, gradients and moments of the update grow linearly with it; small beside the base."
    }
    "#);
    // Every table is closed, so that a misspelt key is underlined; every leaf says what it is for.
    let mut stack = vec![("", &schema)];
    let mut leaves = 0;
    while let Some((at, value)) = stack.pop() {
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            for (name, property) in properties.iter().filter(|(_, p)| p.get("properties").is_none()) {
                let described = property.get("description").is_some_and(|text| text != "") || at == "if";
                assert!(described, "{name} in {at} has no description");
                leaves += 1;
            }
            // Inputs of any name have a shape all the same.
            let more = value.get("additionalProperties");
            let closed = more == Some(&json!(false)) || more.is_some_and(|more| more.get("description").is_some());
            assert!(closed || at == "if" || at == "additionalProperties", "{at} is open");
        }
        match value {
            Value::Object(table) => stack.extend(table.iter().map(|(key, value)| (key.as_str(), value))),
            Value::Array(items) => stack.extend(items.iter().map(|item| (at, item))),
            _ => {}
        }
    }
    assert!(leaves > 50, "{leaves}");
}
