//! Model folders that are damaged or are none: each mistake is told with its place and what to do, costs nothing that
//! was good, and once mended the earlier result is used.
use crate::project::{Cases, Outcome, Project};
use serde_json::{Map, Value, json};

const MANIFEST: &str = r#"[experiment]
name = "bad"

[stages.data]
kind = "load"
dataset = { train = "train.json", eval = "eval.json" }

[stages.base]
kind = "load"
model = "model"

[stages.tokens]
kind = "tokenize"
inputs = { model = "base", dataset = "data" }
max_length = 1024

[stages.answers]
kind = "infer"
inputs = { model = "base", tokens = "tokens" }
sids = [0]
max_new_tokens = 2
"#;

/// A project with a good model in `model`, of which everything ran once.
fn project() -> Project {
    let project = Project::new();
    project.run(&["tiny.toml", "--only", "base"]);
    project.copy_artifact("base", "model");
    project.write("bad.toml", MANIFEST);
    assert_eq!(project.run(&["bad.toml"]), (4, 0));
    project
}

/// Runs with a mistake in one file of the model; afterwards the file is good again, and nothing runs.
fn mistake(project: &Project, file: &str, spoil: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) -> String {
    let path = project.path("model").join(file);
    let good = std::fs::read(&path).unwrap();
    match spoil(good.clone()) {
        Some(bad) => std::fs::write(&path, bad).unwrap(),
        None => std::fs::remove_file(&path).unwrap(),
    }
    let outcome = project.anneal(&["run", "bad.toml", "--jobs", "1"]);
    std::fs::write(&path, good).unwrap();
    assert_eq!(project.run(&["bad.toml"]), (0, 4), "the good results are still there");
    failures(&outcome)
}

/// The exit code and what is told of failures.
fn failures(outcome: &Outcome) -> String {
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    outcome.told().lines().filter(|line| !line.contains("skipped: ")).map(|line| format!("{line}\n")).collect()
}

/// Edits a JSON file.
fn edit(spoil: impl FnOnce(&mut Map<String, Value>)) -> impl FnOnce(Vec<u8>) -> Option<Vec<u8>> {
    |bytes| {
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        spoil(value.as_object_mut().unwrap());
        Some(serde_json::to_vec(&value).unwrap())
    }
}

fn set(key: &str, value: Value) -> impl FnOnce(Vec<u8>) -> Option<Vec<u8>> {
    edit(move |object| drop(object.insert(key.to_owned(), value)))
}

/// Edits the header of a safetensors file.
fn header(spoil: impl FnOnce(&mut Map<String, Value>)) -> impl FnOnce(Vec<u8>) -> Option<Vec<u8>> {
    |bytes| {
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        spoil(header.as_object_mut().unwrap());
        let header = serde_json::to_vec(&header).unwrap();
        Some([&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat())
    }
}

const WEIGHTS: &str = "model.safetensors";
const NORM: &str = "model.norm.weight";

#[test]
fn weights_that_are_missing_or_damaged() {
    let mut cases = Cases::default();
    let project = project();
    cases.add("missing weights", mistake(&project, WEIGHTS, |_| None));
    cases.add("truncated weights", mistake(&project, WEIGHTS, |b| Some(b[..b.len() / 2].to_vec())));
    cases.add("empty weights", mistake(&project, WEIGHTS, |_| Some(Vec::new())));
    cases.add("a huge header", mistake(&project, WEIGHTS, |b| Some([&u64::MAX.to_le_bytes()[..], &b[8..]].concat())));
    cases.add("overlapping tensors", mistake(&project, WEIGHTS, header(|h| h[NORM]["data_offsets"] = json!([0, 128]))));
    cases.add("an integer tensor", mistake(&project, WEIGHTS, header(|h| h[NORM]["dtype"] = json!("I32"))));
    cases.add(
        "an absent tensor",
        mistake(
            &project,
            WEIGHTS,
            header(|h| {
                let norm = h.remove(NORM).unwrap();
                h.insert("norm".to_owned(), norm);
            }),
        ),
    );
    insta::assert_snapshot!(cases);
}

#[test]
fn an_index_that_leads_nowhere() {
    let mut cases = Cases::default();
    let project = project();
    for (name, index) in [
        ("an index of a missing shard", json!({"weight_map": {"a": "model-00001-of-00002.safetensors"}})),
        ("an index of another folder", json!({"weight_map": {"a": "../model/model.safetensors"}})),
        ("an index without a map", json!({"metadata": {}})),
    ] {
        project.write("model/model.safetensors.index.json", index.to_string());
        cases.add(name, failures(&project.anneal(&["run", "bad.toml", "--jobs", "1"])));
    }
    project.write("model/model.safetensors.index.json", "{\n\"weight_map\": ");
    cases.add("a damaged index", failures(&project.anneal(&["run", "bad.toml", "--jobs", "1"])));
    std::fs::remove_file(project.path("model/model.safetensors.index.json")).unwrap();
    assert_eq!(project.run(&["bad.toml"]), (0, 4));
    insta::assert_snapshot!(cases);
}

#[test]
fn a_configuration_of_something_else() {
    let mut cases = Cases::default();
    let project = project();
    let config = "config.json";
    cases.add(
        "another architecture",
        mistake(
            &project,
            config,
            edit(|c| {
                c.insert("model_type".into(), json!("mistral"));
                c.insert("architectures".into(), json!(["MistralForCausalLM"]));
            }),
        ),
    );
    cases.add("malformed json", mistake(&project, config, |_| Some(b"{\n  \"model_type\": \"llama\",\n".to_vec())));
    cases.add("json that is no object", mistake(&project, config, |_| Some(b"[]".to_vec())));
    cases.add("another width", mistake(&project, config, set("hidden_size", json!(64))));
    cases.add(
        "no heads and too many layers",
        mistake(
            &project,
            config,
            edit(|c| {
                c.insert("num_attention_heads".into(), json!(0));
                c.insert("num_hidden_layers".into(), json!(2_000_000_000));
            }),
        ),
    );
    cases.add(
        "sizes that are no numbers",
        mistake(
            &project,
            config,
            edit(|c| {
                c.insert("hidden_size".into(), json!("32"));
                c.insert("rms_norm_eps".into(), json!(-1.0));
                c.insert("rope_theta".into(), json!(null));
            }),
        ),
    );
    insta::assert_snapshot!(cases);
}

#[test]
fn a_tokenizer_that_does_not_fit() {
    let mut cases = Cases::default();
    let project = project();
    let tokenizer = "tokenizer.json";
    cases.add("a tokenizer with more entries", mistake(&project, tokenizer, edit(|t| {
        let extra = json!({"id": 400, "content": "<extra>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        t["added_tokens"].as_array_mut().unwrap().push(extra);
    })));
    cases.add("a damaged tokenizer", mistake(&project, tokenizer, |b| Some(b[..999].to_vec())));
    cases.add("no tokenizer", mistake(&project, tokenizer, |_| None));
    insta::assert_snapshot!(cases);
}

#[test]
fn a_model_that_is_not_a_number() {
    let mut cases = Cases::default();
    let project = project();
    let train =
        "\n[stages.lora]\nkind = \"train-lora\"\ninputs = { model = \"base\", tokens = \"tokens\" }\nmax_steps = 2\n";
    project.write("bad.toml", MANIFEST.to_owned() + train);
    project.run(&["bad.toml"]);
    let good = std::fs::read(project.path("model/model.safetensors")).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - 8;
    bad[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    project.write("model/model.safetensors", &bad);
    let run = |args: &[&str]| project.anneal(&[&["run", "bad.toml", "--jobs", "1"], args].concat());
    cases.add("nan in training", failures(&run(&["--only", "lora"])));
    cases.add("nan in training, again", failures(&run(&["--only", "lora"])));
    cases.add("nan in answers", failures(&run(&["--only", "answers"])));
    project.write("model/model.safetensors", good);
    assert_eq!(project.run(&["bad.toml"]), (0, 5));
    insta::assert_snapshot!(cases);
}

/// Logits are computed from ids: neither a tokenizer nor a safetensors file that belongs to no model is looked at.
#[test]
fn logits_need_weights_and_a_configuration_alone() {
    let project = project();
    let logits = |out: &str| project.anneal(&["logits", "--model", "model", "--ids", "1,5,9", "--out", out]);
    assert_eq!(logits("whole.safetensors").code, Some(0));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::remove_file(project.path("model").join(name)).unwrap();
    }
    project.write("model/stray.safetensors", "no safetensors file");
    project.write(
        "model/model-00009-of-00009.safetensors",
        std::fs::read(project.path("model/model.safetensors")).unwrap(),
    );
    let outcome = logits("bare.safetensors");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let read = |name: &str| std::fs::read(project.path(name)).unwrap();
    assert!(read("whole.safetensors") == read("bare.safetensors"));
    // An index counts before a single file; what it does not name is not looked at either.
    std::fs::rename(project.path("model/model.safetensors"), project.path("model/part.safetensors")).unwrap();
    let header = read("model/part.safetensors");
    let length = u64::from_le_bytes(*header.first_chunk().unwrap()) as usize;
    let names: Map<String, Value> = serde_json::from_slice(&header[8..8 + length]).unwrap();
    let map: Map<String, Value> = names
        .keys()
        .filter(|name| *name != "__metadata__")
        .map(|name| (name.clone(), json!("part.safetensors")))
        .collect();
    project.write("model/model.safetensors.index.json", json!({"weight_map": map}).to_string());
    project.write("model/model.safetensors", "no safetensors file");
    assert_eq!(logits("index.safetensors").code, Some(0));
    assert!(read("whole.safetensors") == read("index.safetensors"));
}

/// A GGUF file of one tensor and no metadata.
fn gguf(tensors: u64, kind: u32) -> Vec<u8> {
    let name = b"blk.0.attn_q.weight";
    [
        &b"GGUF\x03\0\0\0"[..],
        &tensors.to_le_bytes(),
        &[0; 8],
        &(name.len() as u64).to_le_bytes(),
        name,
        &2_u32.to_le_bytes(),
        &256_u64.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &kind.to_le_bytes(),
        &[0; 8],
        // As many as an f32 row has, and those that align it.
        &[0; 1056],
    ]
    .concat()
}

#[test]
fn a_gguf_file_that_is_damaged_or_of_another_kind() {
    let project = project();
    for (name, bytes, parts) in [
        ("empty", Vec::new(), ["m.gguf: byte 0: expected the magic number", "copy it again and compare its sha256"]),
        ("text", b"<!DOCTYPE html>".to_vec(), ["m.gguf: byte 0: not a GGUF file", "copy the file again"]),
        ("a lie", gguf(1 << 60, 0), ["m.gguf: byte 8: 1152921504606846976 tensors should follow", "truncated"]),
        ("a quantisation", gguf(1, 10), ["the tensor `blk.0.attn_q.weight` is Q2_K", "take a file in one of F32"]),
        ("no metadata", gguf(1, 0), ["the metadata key `general.architecture` is missing", "no complete Llama model"]),
    ] {
        project.write("m.gguf", bytes);
        let convert = project.anneal(&["convert", "m.gguf", "converted"]);
        let run = project.anneal(&["run", "bad.toml", "--only", "base", "--set", "base.model=m.gguf"]);
        for outcome in [convert, run] {
            assert_eq!(outcome.code, Some(3), "{name}: {outcome:?}");
            let text = outcome.told().split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(parts.iter().all(|part| text.contains(part)), "{name}: {text}");
        }
        assert!(!project.path("converted").exists());
    }
}
