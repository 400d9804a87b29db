//! What people see of a bad manifest, and what the engine makes of a good one.
#[expect(unreachable_pub, reason = "the macros make what they declare public")]
pub(crate) mod fake;
mod hostile;
#[expect(unreachable_pub, reason = "the macros make what they declare public")]
mod open;
mod plain;
mod sweep;

use super::*;
use crate::graph::StageId;
use fake::{MANIFEST, all_problems, load_text, problems, registry};
use insta::assert_snapshot;
use serde_json::json;

#[test]
fn a_good_manifest_becomes_a_graph() {
    let pipeline = load_text(MANIFEST, &[]).unwrap();
    assert_eq!((pipeline.experiment.as_str(), pipeline.seed, pipeline.numerics.as_str()), ("demo", 42, "cpu-f32"));
    let names: Vec<_> = pipeline.order().iter().map(|id| pipeline.node(*id).name.as_str()).collect();
    assert_eq!(names, ["base", "data", "tokens", "lora"]);
    let lora = pipeline.node(pipeline.find("lora").unwrap());
    assert_eq!(
        *lora.params,
        json!({"rank": 8, "rate": 1.0, "modules": ["q_proj", "v_proj"], "schedule": "linear", "max_steps": null})
    );
    assert_eq!(lora.inputs, [("model".to_owned(), StageId(0)), ("tokens".to_owned(), StageId(2))]);
    let ancestors = pipeline.ancestors(pipeline.find("lora").unwrap());
    assert_eq!(
        ancestors.iter().map(|id| pipeline.node(*id).name.as_str()).collect::<Vec<_>>(),
        ["base", "tokens", "data"]
    );
    assert_eq!(pipeline.dependents(StageId(0)), [StageId(2), StageId(3)]);
    // Relative paths start at the root, also inside a table; a missing file is a remark.
    let data = pipeline.node(StageId(1));
    assert_eq!(data.params["dataset"], json!({"format": "tat-qa", "train": "/nowhere/train.json", "eval": null}));
    assert_snapshot!(data.missing[0].to_string(), @"m.toml:11:40: error: there is no file /nowhere/train.json (run `get-data`)");
}

#[test]
fn all_problems_come_at_once() {
    let text = r#"
[experiment]
nam = "demo"
seed = -1
numerics = "cuda-bf61"

[stages.base]
kind = "laod"

[stages.data]
kind = "load"
dataset = { format = "tatqa", train = 3, extra = 1 }

[stages.tokens]
kind = "tokenize"
inputs = { modle = "base", dataset = "base2" }

[stages.lora]
kind = "train-lora"
inputs = { tokens = "data" }
rnak = 8
rate = "0.1"
modules = "q_proj"
max_steps = 0

[stages.odd]
rank = 1

[sweep.grid]
"lora.rank" = [1, 2]
"#;
    assert_snapshot!(problems(text, &[]), @r#"
    m.toml:3:1: error: unknown key `nam`: not a key of table `experiment` (did you mean `name`?)
    m.toml:4:8: error: `seed` is out of range: expected an integer of at least 0
    m.toml:5:12: error: `numerics` cannot be `cuda-bf61`: expected one of `cpu-f32`, `cuda-bf16` (did you mean `cuda-bf16`?)
    m.toml:8:8: error: there is no stage kind `laod` (did you mean `load`?)
    m.toml:12:22: error: `format` cannot be `tatqa`: expected one of `tat-qa`, `json-lines` (did you mean `tat-qa`?)
    m.toml:12:39: error: `train` cannot be an integer: expected the path of a file or folder (put it in quotes)
    m.toml:12:42: error: unknown key `extra`: not a key of table `dataset` (keys not yet used: `eval`)
    m.toml:16:12: error: stage kind `tokenize` has no input `modle` (did you mean `model`?)
    m.toml:16:38: error: there is no stage `base2` (did you mean `base`?)
    m.toml:20:1: error: stage `lora` needs input `model`: input `model` is not connected (it takes `model` (what it works on), which no stage here makes)
    m.toml:21:1: error: unknown key `rnak`: not a key of stage kind `train-lora` (keys not yet used: `schedule`, `timeout`, `memory_limit`, `gpus`, `threads`, `keep`)
    m.toml:22:8: error: `rate` cannot be text: expected a number from 0 to 10 (leave out the quotes)
    m.toml:23:11: error: `modules` cannot be text: expected a list, each item text (a list of one is written `["q_proj"]`)
    m.toml:24:13: error: `max_steps` is out of range: expected an integer from 1 to 1000000 (steps)
    m.toml:26:9: error: stage `odd` has no `kind`: `kind` is missing (add `kind = "..."`, one of `load`, `tokenize`, `train-lora`, `pass`)
    "#);
}

#[test]
fn overrides_go_through_the_same_checks() {
    let set = |sets: &[&str]| problems(MANIFEST, sets);
    assert_snapshot!(set(&["lora.rank=0", "lora.rnak=1", "lroa.rank=1", "lora", "rank=3", "stages.lora.rank=1"]), @r"
    --set:1:17: error: `rank` is out of range: expected an integer from 1 to 1024
    --set:1:12: error: unknown key `rnak`: not a key of stage kind `train-lora` (did you mean `rank`?)
    --set:1:7: error: there is no stage `lroa` to set a value of (did you mean `lora`?)
    --set:1:7: error: an override must have the form `stage.key=value` (for example `--set lora.rank=8`, or `--set experiment.seed=7`)
    --set:1:7: error: this names no key of a stage (write `--set stage.key=value`)
    --set:1:7: error: there is no stage `stages` to set a value of (leave out `stages.`: `--set lora.key=value`)
    ");
    assert_snapshot!(set(&["experiment.sede=1", "exprm.seed=1", "lora.inputs.tokens=lora", "data.dataset.train="]), @r"
    --set:1:18: error: unknown key `sede`: not a key of table `experiment` (did you mean `seed`?)
    --set:1:7: error: there is no stage `exprm` to set a value of (the stages are: `base`, `data`, `tokens`, `lora`)
    --set:1:26: error: input `tokens` takes `tokens`, but stage `lora` makes `adapter`: this is `adapter` (no input of `train-lora` takes `adapter`)
    --set:1:26: error: these stages need each other: lora -> lora: this closes the circle (take one of these inputs away)
    --set:1:26: error: `train` is empty: expected a path
    ");
}

#[test]
fn overrides_replace_and_add() {
    let sets = [
        "lora.rank=16",
        "lora.rank = 32",
        "lora.schedule=cosine",
        "data.dataset.eval=sub/ä b.json",
        "base.model=123",
        "lora.modules=[\"k_proj\"]",
        "experiment.seed=7",
        "lora.inputs.model = \"base\"",
    ];
    let pipeline = load_text(MANIFEST, &sets).unwrap();
    let params = |name: &str| pipeline.node(pipeline.find(name).unwrap()).params.clone();
    assert_eq!(params("lora")["rank"], 32);
    assert_eq!(params("lora")["schedule"], "cosine");
    assert_eq!(params("lora")["modules"], json!(["k_proj"]));
    // In an override, relative paths start at the current folder.
    assert_eq!(params("data")["dataset"]["eval"], "/here/sub/ä b.json");
    assert_eq!(params("data")["dataset"]["train"], "/nowhere/train.json");
    assert_eq!(params("base")["model"], "/here/123");
    assert_eq!(pipeline.seed, 7);
    assert_eq!(pipeline.overrides, sets);
}

#[test]
fn cycles_are_printed_as_a_path() {
    let text = r#"
[experiment]
name = "demo"
[stages.a]
kind = "pass"
inputs = { in = "c" }
[stages.b]
kind = "pass"
inputs = { in = "a" }
[stages.c]
kind = "pass"
inputs = { in = "b" }
[stages.self]
kind = "pass"
inputs = { in = "self" }
"#;
    assert_snapshot!(problems(text, &[]), @r"
    m.toml:6:17: error: these stages need each other: a -> b -> c -> a: this closes the circle (take one of these inputs away)
    m.toml:15:17: error: these stages need each other: self -> self: this closes the circle (take one of these inputs away)
    ");
}

#[test]
fn port_types_must_fit() {
    assert_snapshot!(problems(MANIFEST, &["lora.inputs.model=data", "tokens.inputs.model=lora"]), @r"
    --set:1:25: error: input `model` takes `model`, but stage `data` makes `dataset`: this is `dataset` (no input of `train-lora` takes `dataset`)
    --set:1:27: error: input `model` takes `model`, but stage `lora` makes `adapter`: this is `adapter` (no input of `tokenize` takes `adapter`)
    --set:1:27: error: these stages need each other: tokens -> lora -> tokens: this closes the circle (take one of these inputs away)
    ");
    let missing = MANIFEST.replace("inputs = { model = \"base\", tokens = \"tokens\" }", "");
    assert_snapshot!(problems(&missing, &[]), @r#"
    m.toml:17:9: error: stage `lora` needs input `model`: input `model` is not connected (add `inputs = { model = "base" }`)
    m.toml:17:9: error: stage `lora` needs input `tokens`: input `tokens` is not connected (add `inputs = { tokens = "tokens" }`)
    "#);
}

#[test]
fn missing_files_are_told_with_the_other_problems() {
    assert_snapshot!(all_problems(MANIFEST, &[]), @"(none)");
    assert_snapshot!(all_problems(MANIFEST, &["lora.rank=0"]), @r"
    m.toml:11:40: error: there is no file /nowhere/train.json (run `get-data`)
    --set:1:17: error: `rank` is out of range: expected an integer from 1 to 1024
    ");
}

#[test]
fn a_kinds_own_checks_point_at_the_value() {
    assert_snapshot!(problems(MANIFEST, &["lora.rank=13"]), @"--set:1:17: error: rank 13 is unlucky");
    let text = MANIFEST.replace("rank = 8", "rank = 13");
    assert_snapshot!(problems(&text, &[]), @"m.toml:20:8: error: rank 13 is unlucky");
    // The value at fault is absent: its stage is named.
    assert_snapshot!(problems(MANIFEST, &["base.model=broken"]), @"m.toml:5:9: error: the model needs a revision");
}

#[test]
fn broken_toml_keeps_what_is_sure() {
    let text = "[experiment]\nname = \"x\nseed = 1\nseed = 2\n[stages.a]\nkind = \"laod\"\n[stages.b\nkind = 3\n";
    assert_snapshot!(problems(text, &[]), @r#"
    m.toml:2:10: error: not valid TOML: invalid basic string, expected `"`
    m.toml:4:1: error: not valid TOML: duplicate key
    m.toml:6:8: error: there is no stage kind `laod` (did you mean `load`?)
    m.toml:7:10: error: not valid TOML: unclosed table, expected `]`
    "#);
}

#[test]
fn empty_and_sparse_manifests() {
    assert_snapshot!(problems("", &[]), @r#"
    m.toml: error: this manifest has no `experiment` (add `[experiment]` with `name = "..."`)
    m.toml: error: this manifest has no `stages` (add `[stages.NAME]`)
    "#);
    assert_snapshot!(problems("stages = 3\n[experiment]\nname = \"../x\"\n", &[]), @r"
    m.toml:1:10: error: `stages` cannot be an integer: expected a table
    m.toml:3:8: error: an experiment cannot have the name `../x`: use letters, digits, `_` and, but not at first, `-`
    ");
    assert_snapshot!(problems("[experiment]\nname = 'x'\n[stages]\nexperiment = { kind = 'pass' }\n\"a b\" = 1\n", &[]), @r"
    m.toml:4:1: error: a stage cannot have the name `experiment`: `--set NAME.KEY=VALUE` would be ambiguous
    m.toml:4:1: error: stage `experiment` needs input `in`: input `in` is not connected (it takes `thing` (what it works on), which no stage here makes)
    m.toml:5:1: error: a stage cannot have the name `a b`: use letters, digits, `_` and, but not at first, `-`
    m.toml:5:9: error: stage `a b` cannot be an integer (write a table `[stages.a b]` with a `kind`)
    ");
}

#[test]
fn files_that_are_no_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let options = LoadOptions { cwd: folder.path().to_owned(), ..LoadOptions::default() };
        load(&registry(), Path::new(name), &options).map(|p| p.experiment).map_err(|e| e.to_string())
    };
    assert_snapshot!(file("latin.toml", b"[experiment]\nname = \"M\xfcnchen\"\n").unwrap_err(), @"latin.toml:2:10: error: this byte is not UTF-8 (save the manifest as UTF-8)");
    let crlf = format!("\u{feff}{}", MANIFEST.replace('\n', "\r\n"));
    assert_eq!(file("bom.toml", crlf.as_bytes()), Ok("demo".to_owned()));
    std::fs::create_dir(folder.path().join("dir")).unwrap();
    std::fs::write(folder.path().join("dir/inner.toml"), "").unwrap();
    let options = LoadOptions { cwd: folder.path().to_owned(), ..LoadOptions::default() };
    let error = |name: &str| load(&registry(), Path::new(name), &options).unwrap_err().to_string();
    assert_snapshot!(error("dir"), @"dir: error: this is a folder, not a manifest (name a file in it, such as dir/inner.toml)");
    assert_snapshot!(error("latim.toml"), @"latim.toml: error: cannot read this manifest: No such file or directory (os error 2) (did you mean `latin.toml`?)");
}

#[test]
fn the_root_is_the_closest_folder_with_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().canonicalize().unwrap();
    std::fs::create_dir_all(top.join("project/manifests/deep")).unwrap();
    std::fs::create_dir_all(top.join("project/other")).unwrap();
    assert_eq!(project_root(&top.join("project/manifests/a.toml")), top.join("project"));
    assert_eq!(project_root(&top.join("project/manifests/deep/a.toml")), top.join("project"));
    assert_eq!(project_root(&top.join("project/other/../manifests/a.toml")), top.join("project"));
    assert_eq!(project_root(&top.join("a.toml")), top);
}
