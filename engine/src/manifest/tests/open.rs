//! Inputs of any name and parameters of any name, as a kind has them that runs whatever people wish.
use super::fake::Fake;
use crate::diagnostic::Diagnostics;
use crate::graph::Pipeline;
use crate::manifest::{LoadOptions, parse};
use crate::{Failure, Param, ParamSet, Port, Registry, Source, Stage, StageContext, stage::Problem};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

crate::params! {
    /// Parameters of any name.
    pub struct Open {
        /// Variables.
        env: BTreeMap<String, String> = {};
        /// Limits.
        limits: BTreeMap<String, u32> = {}, in 1..=9;
    }
}

struct Any;

impl Stage for Any {
    fn kind(&self) -> &'static str {
        "any"
    }
    fn summary(&self) -> &'static str {
        "takes anything"
    }
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        Open::params()
    }
    fn inputs(&self) -> &'static [Port] {
        &[Port { name: "zero", accepts: &["thing"], required: false, doc: "" }]
    }
    fn open_inputs(&self) -> bool {
        true
    }
    fn output(&self, _: &Value) -> &'static str {
        "stuff"
    }
    fn isolated(&self) -> bool {
        false
    }
    fn check(&self, params: &Value, _: &[&str]) -> Vec<Problem> {
        let at = vec!["env".to_owned(), "BAD".to_owned()];
        let bad = params["env"].get("BAD").is_some();
        let problem = Problem { at, message: "a bad variable".to_owned(), hint: None, missing_file: false };
        if bad { vec![problem] } else { Vec::new() }
    }
    fn sources_below(&self, root: &Path, _: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        Ok(vec![Source { name: "root".to_owned(), path: root.to_owned(), stamp: None }])
    }
    fn run(&self, _: &mut StageContext<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

fn load(stages: &str, sets: &[&str]) -> Result<Pipeline, Diagnostics> {
    let thing = Fake { kind: "thing", version: 1, params: Vec::new(), ports: &[], output: "thing" };
    let registry = Registry::new(vec![Box::new(Any), Box::new(thing)]);
    let text = format!("[experiment]\nname = \"e\"\n[stages.t]\nkind = \"thing\"\n{stages}");
    let sets = sets.iter().map(|set| (*set).to_owned()).collect();
    parse(&registry, text, Path::new("m.toml"), Path::new("/r"), &LoadOptions { sets, ..LoadOptions::default() })
}

fn problems(stages: &str, sets: &[&str]) -> String {
    load(stages, sets).map_or_else(|problems| problems.to_string(), |_| "(none)".to_owned())
}

#[test]
fn inputs_may_have_any_name_and_any_type() {
    let text = "[stages.a]\nkind = \"any\"\ninputs = { raw-x = \"t\", zero = \"t\", \"\u{e4}\" = \"b\", b = \"b\" }\n[stages.b]\nkind = \"any\"\n";
    let pipeline = load(text, &[]).unwrap();
    let node = pipeline.node(pipeline.find("a").unwrap());
    // The declared one first, the others by name.
    let names: Vec<&str> = node.inputs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["zero", "b", "raw-x", "\u{e4}"]);
    assert_eq!(*node.sources, [Source { name: "root".to_owned(), path: "/r".into(), stamp: None }]);
}

#[test]
fn names_and_types_are_checked_all_the_same() {
    let text = "[stages.a]\nkind = \"any\"\ninputs = { \"-x\" = \"t\", \"a/b\" = \"t\", zero = \"b\", c = \"nowhere\", d = 1 }\n[stages.b]\nkind = \"any\"\n";
    insta::assert_snapshot!(problems(text, &[]), @r"
    m.toml:7:12: error: an input cannot have the name `-x`: use letters, digits, `_` and, but not at first, `-`
    m.toml:7:24: error: an input cannot have the name `a/b`: use letters, digits, `_` and, but not at first, `-`
    m.toml:7:44: error: input `zero` takes `thing`, but stage `b` makes `stuff`: this is `stuff` (an input of any other name takes everything)
    m.toml:7:53: error: there is no stage `nowhere` (the other stages are: `b`, `t`)
    m.toml:7:68: error: input `d` cannot be an integer: expected the name of a stage in quotes
    ");
    let circle =
        "[stages.a]\nkind = \"any\"\ninputs = { x = \"b\" }\n[stages.b]\nkind = \"any\"\ninputs = { y = \"a\" }\n";
    insta::assert_snapshot!(problems(circle, &[]), @"m.toml:7:16: error: these stages need each other: a -> b -> a: this closes the circle (take one of these inputs away)");
}

#[test]
fn maps_take_any_key_and_check_every_value() {
    let text = "[stages.a]\nkind = \"any\"\nenv = { Z = \"1\", A = \"\", \"with space\" = \"x\" }\nlimits.cpu = 3\n";
    let sets = ["a.env.LANG=C", "a.env.Z=2", "a.limits.gpu=1"];
    let pipeline = load(text, &sets).unwrap();
    let params = &pipeline.node(pipeline.find("a").unwrap()).params;
    // Sorted, whatever the order in the text.
    let written = r#"{"env":{"A":"","LANG":"C","Z":"2","with space":"x"},"limits":{"cpu":3,"gpu":1}}"#;
    assert_eq!(params.to_string(), written);
    assert_eq!(*load("[stages.a]\nkind = \"any\"\n", &[]).unwrap().stages[1].params, json!({"env": {}, "limits": {}}));
    let wrong = "[stages.a]\nkind = \"any\"\nenv = { A = 1, B = [] }\nlimits = { cpu = 10, gpu = \"3\" }\n";
    insta::assert_snapshot!(problems(wrong, &[]), @r"
    m.toml:7:13: error: `A` cannot be an integer: expected text (put it in quotes)
    m.toml:7:20: error: `B` cannot be a list: expected text
    m.toml:8:18: error: `cpu` is out of range: expected an integer from 1 to 9
    m.toml:8:28: error: `gpu` cannot be text: expected an integer from 1 to 9 (leave out the quotes)
    ");
    insta::assert_snapshot!(problems("[stages.a]\nkind = \"any\"\nenv = [\"A=1\"]\n", &["a.limits=3"]), @r"
    m.toml:7:7: error: `env` cannot be a list: expected a table, each value text
    --set:1:16: error: `limits` cannot be an integer: expected a table, each value an integer from 1 to 9
    ");
    insta::assert_snapshot!(problems("[stages.a]\nkind = \"any\"\n[stages.a.env]\nBAD = \"1\"\n", &[]), @"m.toml:8:7: error: a bad variable");
}
