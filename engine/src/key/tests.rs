//! Keys stay what they are, and change with everything that they must change with.
use super::*;
use crate::manifest::tests::fake::{Fake, MANIFEST, load_text, registry};
use crate::param::ParamSet;
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

fn digest(byte: u8) -> Digest {
    Digest::of(&[byte])
}

/// The key of a stage of a manifest, each input and source with a digest of its own.
fn keyed(text: &str, sets: &[&str], stage: &str) -> Keyed {
    let pipeline = load_text(text, sets).unwrap();
    let node = pipeline.node(pipeline.find(stage).unwrap());
    let inputs = node.inputs.iter().map(|(port, _)| (port.as_str(), Digest::of(port.as_bytes()))).collect();
    let sources: Vec<_> = node.sources.iter().map(|s| (s.name.as_str(), Digest::of(s.name.as_bytes()))).collect();
    action_key(node, &inputs, &sources, &pipeline.numerics)
}

fn key(text: &str, sets: &[&str], stage: &str) -> Digest {
    keyed(text, sets, stage).key
}

#[test]
fn literal_keys() {
    // A change of these makes every result that people have unreachable: raise SCHEMA and say so in the changelog.
    let data = ["data.dataset.train=\"t.json\""];
    insta::assert_snapshot!(key(MANIFEST, &[], "base"), @"ffed7d09aff892f7fcc8cb2f41c7d2a863d2fe1b5eae403bba79cc2da82127ff");
    insta::assert_snapshot!(key(MANIFEST, &data, "data"), @"1283e375d8e979ddb932b691e3e72ef79027d32c235b5bab1827c1ea19320ba4");
    insta::assert_snapshot!(key(MANIFEST, &[], "lora"), @"bcb6cb473bb47f3871cc615a9320678a0939b1af17c884898104819141abdad6");
    insta::assert_snapshot!(keyed(MANIFEST, &data, "data").document, @r#"{"schema":1,"kind":"load","version":1,"seed":42,"numerics":"cpu-f32","params":{"dataset":{"format":"tat-qa","train":"(file)"}},"inputs":{},"sources":[{"name":"train","digest":"4164c05580806a157d3dc6db8c3bc17c5625cc86cce39e4dd067048a2591795a"}]}"#);
    insta::assert_snapshot!(keyed(MANIFEST, &[], "lora").document, @r#"{"schema":1,"kind":"train-lora","version":1,"seed":42,"numerics":"cpu-f32","params":{"modules":["q_proj","v_proj"],"rank":8,"rate":1.0,"schedule":"linear"},"inputs":{"model":"ccca53791b024d98ee5d8c126d923e16f6cede945beb0b93c9abca301ed453e7","tokens":"181c2e9cfd8d68639a001ee001ca9d4e9deb14200daa251acf540fc17409b99d"},"sources":[]}"#);
}

#[test]
fn one_field_changed_is_another_key() {
    let base = key(MANIFEST, &[], "lora");
    let all = [
        "lora.rank=9",
        "lora.rate=2.0",
        "lora.rate=-0.0",
        "lora.modules=[\"v_proj\", \"q_proj\"]",
        "lora.modules=[\"q_proj\"]",
        "lora.modules=[\"q_projv_proj\"]",
        "lora.modules=[]",
        "lora.schedule=cosine",
        "lora.max_steps=1",
        "experiment.seed=43",
        "experiment.numerics=cuda-bf16",
    ];
    let mut keys: Vec<Digest> = all.iter().map(|set| key(MANIFEST, &[set], "lora")).collect();
    keys.push(base);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all.len() + 1);
}

#[test]
fn every_argument_of_the_key_matters() {
    let registry = registry();
    let node = |kind: &'static str, version: u32, rank: u64| {
        let fake =
            Fake { kind, version, params: crate::manifest::tests::fake::Lora::params(), ports: &[], output: "x" };
        let mut pipeline = load_text(MANIFEST, &[&format!("lora.rank={rank}")]).unwrap();
        let mut node = pipeline.stages.remove(3);
        node.kind = Arc::new(fake);
        node.declared = node.kind.params().into();
        node.seed = 5;
        node
    };
    assert!(registry.get("load").is_some());
    let inputs = |a: u8, b: u8| BTreeMap::from([("a", digest(a)), ("b", digest(b))]);
    let sources = |a: u8, b: u8| vec![("x", digest(a)), ("y", digest(b))];
    let renamed = vec![("x", digest(3)), ("z", digest(4))];
    let swapped: Vec<_> = sources(3, 4).into_iter().rev().collect();
    let other_ports = BTreeMap::from([("a", digest(1)), ("c", digest(2))]);
    let one = BTreeMap::from([("a", digest(1))]);
    let keys = [
        action_key(&node("k", 1, 8), &inputs(1, 2), &sources(3, 4), "n"),
        action_key(&node("l", 1, 8), &inputs(1, 2), &sources(3, 4), "n"),
        action_key(&node("k", 2, 8), &inputs(1, 2), &sources(3, 4), "n"),
        action_key(&node("k", 1, 7), &inputs(1, 2), &sources(3, 4), "n"),
        // Two inputs, two sources swapped.
        action_key(&node("k", 1, 8), &inputs(2, 1), &sources(3, 4), "n"),
        action_key(&node("k", 1, 8), &inputs(1, 2), &sources(4, 3), "n"),
        action_key(&node("k", 1, 8), &inputs(1, 2), &swapped, "n"),
        action_key(&node("k", 1, 8), &inputs(1, 2), &renamed, "n"),
        action_key(&node("k", 1, 8), &inputs(1, 2), &[], "n"),
        action_key(&node("k", 1, 8), &other_ports, &sources(3, 4), "n"),
        action_key(&node("k", 1, 8), &one, &sources(3, 4), "n"),
        action_key(&Node { seed: 6, ..node("k", 1, 8) }, &inputs(1, 2), &sources(3, 4), "n"),
        action_key(&node("k", 1, 8), &inputs(1, 2), &sources(3, 4), "m"),
    ];
    for (i, one) in keys.iter().enumerate() {
        for other in &keys[i + 1..] {
            assert_ne!(one.key, other.key);
            assert!(!changes(&one.document, &other.document).is_empty(), "{} {}", one.document, other.document);
        }
        assert!(changes(&one.document, &one.document).is_empty());
    }
}

#[test]
fn how_a_manifest_is_written_does_not_matter() {
    let other = r#"
stages.lora = { rate = 1.0, schedule = "linear", rank = 0x8, inputs = { tokens = "t", model = "base" }, kind = "train-lora" }
[stages.t]   # renamed
inputs.dataset = "data"
inputs.model = 'base'
kind = "tokenize"
[stages.data]
kind = "load"
[stages.data.dataset]
train = "elsewhere/train.json"
format = "tat-qa"
[stages.base]
kind = "load"
model = "other/place"
[experiment]
seed = 42
name = "other"
"#;
    let other = format!("\u{feff}{}", other.replace('\n', "\r\n"));
    for stage in ["lora", "base"] {
        assert_eq!(keyed(&other, &[], stage), keyed(MANIFEST, &[], stage));
    }
    assert_eq!(key(&other, &[], "t"), key(MANIFEST, &[], "tokens"));
}

#[test]
fn paths_never_enter_keys_or_documents() {
    let one = keyed(MANIFEST, &["data.dataset.train=/a/t.json"], "data");
    let other = keyed(MANIFEST, &["data.dataset.train=/b/u.json"], "data");
    assert_eq!(one, other);
    assert!(!one.document.to_string().contains('/'), "{}", one.document);
    // That a path is given at all matters, whatever lies there.
    let both = keyed(MANIFEST, &["data.dataset.train=/a/t.json", "data.dataset.eval=/a/e.json"], "data");
    assert_ne!(one.key, both.key);
}

#[test]
fn a_new_optional_parameter_keeps_old_keys() {
    let mut pipeline = load_text(MANIFEST, &[]).unwrap();
    let mut node = pipeline.stages.remove(3);
    let old = action_key(&node, &BTreeMap::new(), &[], "n");
    let mut params = node.kind.params();
    let mut added = params[4].clone();
    added.name = "later";
    params.push(added);
    node.kind = Arc::new(Fake { kind: "train-lora", version: 1, params, ports: &[], output: "adapter" });
    node.declared = node.kind.params().into();
    assert_eq!(action_key(&node, &BTreeMap::new(), &[], "n"), old);
    Arc::make_mut(&mut node.params)["later"] = json!(3);
    assert_ne!(action_key(&node, &BTreeMap::new(), &[], "n"), old);
}

#[test]
fn changes_name_the_leaf_with_both_values() {
    let old = keyed(MANIFEST, &[], "lora").document;
    let new = keyed(
        MANIFEST,
        &["lora.rank=16", "lora.max_steps=3", "lora.modules=[\"k_proj\"]", "experiment.seed=1"],
        "lora",
    );
    let mut new = new.document;
    new["inputs"]["model"] = json!(digest(9));
    let lines: Vec<String> = changes(&old, &new).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    inputs.model: ccca53791b02 -> 7219aa1099ce
    params.max_steps: (absent) -> 3
    params.modules: ["q_proj","v_proj"] -> ["k_proj"]
    params.rank: 8 -> 16
    seed: 42 -> 1
    "#);
}

#[test]
fn digests_have_one_spelling() {
    let text = digest(1).to_string();
    assert_eq!(text.parse(), Ok(digest(1)));
    assert_eq!(serde_json::from_value::<Digest>(json!(digest(1))).unwrap(), digest(1));
    for wrong in [text.to_uppercase(), text[1..].to_owned(), format!("{text}0"), "ä".repeat(32), String::new()] {
        assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
    }
}

fn json_tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z.]{0,3}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("name|digest|[ab.\\[\\]0]{1,3}", inner, 0..4)
                .prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_changes_if_and_only_if_equal(old in json_tree(), new in json_tree()) {
        prop_assert_eq!(changes(&old, &new).is_empty(), old == new);
        prop_assert!(changes(&old, &old).is_empty());
    }
}
