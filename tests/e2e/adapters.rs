//! Adapters that do not fit: for another base, damaged, or of a kind that is not supported.
use crate::project::{Cases, Project};
use serde_json::{Value, json};

const MANIFEST: &str = r#"[experiment]
name = "bad"

[stages.data]
kind = "load"
dataset = { train = "train.json", eval = "eval.json" }

[stages.base]
kind = "load"
inputs = { dataset = "data" }
init = { vocab_size = 400, hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2 }

[stages.adapter]
kind = "load"
adapter = "adapter"

[stages.merged]
kind = "consolidate"
inputs = { model = "base", adapter = "adapter" }
"#;

fn project() -> Project {
    let project = Project::new();
    project.run(&["tiny.toml", "--only", "lora"]);
    project.copy_artifact("lora", "adapter");
    project.write("bad.toml", MANIFEST);
    project.run(&["bad.toml"]);
    project
}

/// What a run with these options tells; afterwards, without them, nothing runs.
fn told(project: &Project, args: &[&str]) -> String {
    let outcome = project.anneal(&[&["run", "bad.toml", "--jobs", "1"], args].concat());
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    outcome.told()
}

#[test]
fn an_adapter_for_another_base() {
    let mut cases = Cases::default();
    let project = project();
    cases.add("a wider base", told(&project, &["--set", "base.init.hidden_size=64"]));
    cases.add("a base with fewer layers", told(&project, &["--set", "base.init.num_hidden_layers=1"]));
    assert_eq!(project.run(&["bad.toml"]), (0, 4));
    insta::assert_snapshot!(cases);
}

#[test]
fn an_adapter_that_is_damaged_or_of_another_kind() {
    let mut cases = Cases::default();
    let project = project();
    let (config, weights) = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors");
    let good = project.read(config);
    for (name, key, value) in [
        ("another kind of adapter", "peft_type", json!("LOHA")),
        ("dora", "use_dora", json!(true)),
        ("a rank that is no number", "r", json!("four")),
    ] {
        let mut value_of: Value = serde_json::from_str(&good).unwrap();
        value_of[key] = value;
        project.write(config, serde_json::to_string_pretty(&value_of).unwrap());
        cases.add(name, told(&project, &[]));
    }
    project.write(config, "{\n \"peft_type\": \"LORA\",\n \"r\": 4");
    cases.add("a damaged configuration", told(&project, &[]));
    project.write(config, &good);
    let bytes = std::fs::read(project.path(weights)).unwrap();
    project.write(weights, &bytes[..bytes.len() - 5]);
    cases.add("truncated updates", told(&project, &[]));
    std::fs::remove_file(project.path(weights)).unwrap();
    cases.add("no updates", told(&project, &[]));
    project.write(weights, bytes);
    assert_eq!(project.run(&["bad.toml"]), (0, 4));
    insta::assert_snapshot!(cases);
}
