//! Stage kinds that do nothing, and a manifest of them, for tests of everything that handles manifests.
use crate::manifest::{LoadOptions, parse};
use crate::{Failure, Param, ParamSet, Port, Source, Stage, StageContext, stage::Problem};
use crate::{diagnostic::Diagnostics, graph::Pipeline, registry::Registry};
use serde_json::Value;
use std::path::{Path, PathBuf};

crate::params! {
    /// A data set.
    pub struct Dataset {
        /// Format of the files.
        format: Format;
        /// File to train on.
        train: PathBuf;
        /// File to evaluate on.
        eval: Option<PathBuf>;
    }
}
crate::choices! {
    /// Formats.
    pub enum Format {
        /// As published.
        TatQa = "tat-qa",
        /// One object a line.
        JsonLines = "json-lines",
    }
}
crate::params! {
    /// Parameters of `load`.
    pub struct Load {
        /// Folder of the model.
        model: Option<PathBuf>;
        /// The data set.
        dataset: Option<Dataset>;
    }
}
crate::choices! {
    /// Schedules.
    pub enum Schedule {
        /// Falls in a line.
        Linear = "linear",
        /// Falls in a half wave.
        Cosine = "cosine",
    }
}
crate::params! {
    /// Parameters of `train-lora`.
    pub struct Lora {
        /// Rank of the update.
        rank: u32, in 1..=1024;
        /// Learning rate.
        rate: f64 = 1e-4, in 0.0..=10.0;
        /// Modules to adapt.
        modules: Vec<String> = ["q_proj", "v_proj"];
        /// How the rate moves.
        schedule: Schedule = "linear";
        /// Stop early.
        max_steps: Option<u64>, in 1..=1_000_000, unit "steps";
    }
}
crate::params! {
    /// No parameters.
    pub struct Nothing {}
}

/// A kind given by data.
pub(crate) struct Fake {
    pub(crate) kind: &'static str,
    pub(crate) version: u32,
    pub(crate) params: Vec<Param>,
    pub(crate) ports: &'static [Port],
    pub(crate) output: &'static str,
}

impl Stage for Fake {
    fn kind(&self) -> &'static str {
        self.kind
    }
    fn summary(&self) -> &'static str {
        "does nothing"
    }
    fn version(&self) -> u32 {
        self.version
    }
    fn params(&self) -> Vec<Param> {
        self.params.clone()
    }
    fn inputs(&self) -> &'static [Port] {
        self.ports
    }
    fn output(&self, params: &Value) -> &'static str {
        if params.get("dataset").is_some_and(Value::is_object) { "dataset" } else { self.output }
    }
    fn computes(&self) -> bool {
        self.kind == "train-lora"
    }
    fn isolated(&self) -> bool {
        false
    }
    fn check(&self, params: &Value, _: &[&str]) -> Vec<Problem> {
        let problem = |at: &[&str], message: &str| Problem {
            at: at.iter().map(|key| (*key).to_owned()).collect(),
            message: message.to_owned(),
            hint: None,
            missing_file: false,
        };
        let mut found = Vec::new();
        if params["rank"] == 13 {
            found.push(problem(&["rank"], "rank 13 is unlucky"));
        }
        if params["model"].as_str().is_some_and(|path| path.ends_with("broken")) {
            found.push(problem(&["revision", "x"], "the model needs a revision"));
        }
        found
    }
    fn sources(&self, params: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        match params["dataset"]["train"].as_str() {
            Some(path) if path.starts_with("/nowhere") => Err(vec![Problem {
                at: vec!["dataset".to_owned(), "train".to_owned()],
                message: format!("there is no file {path}"),
                hint: Some("run `get-data`".to_owned()),
                missing_file: true,
            }]),
            Some(path) => Ok(vec![Source { name: "train".to_owned(), path: path.into(), stamp: None }]),
            None => Ok(Vec::new()),
        }
    }
    fn run(&self, _: &mut StageContext<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

const fn port(name: &'static str, accepts: &'static [&'static str], required: bool) -> Port {
    Port { name, accepts, required, doc: "what it works on" }
}

/// `load`, `tokenize`, `train-lora`, `pass`.
pub(crate) fn registry() -> Registry {
    let fake =
        |kind, params, ports, output| -> Box<dyn Stage> { Box::new(Fake { kind, version: 1, params, ports, output }) };
    const TOKENIZE: &[Port] = &[port("model", &["model"], true), port("dataset", &["dataset"], true)];
    const LORA: &[Port] = &[port("model", &["model"], true), port("tokens", &["tokens"], true)];
    const PASS: &[Port] = &[port("in", &["thing"], true)];
    Registry::new(vec![
        fake("load", Load::params(), &[], "model"),
        fake("tokenize", Nothing::params(), TOKENIZE, "tokens"),
        fake("train-lora", Lora::params(), LORA, "adapter"),
        fake("pass", Nothing::params(), PASS, "thing"),
    ])
    .with_numerics(vec!["cpu-f32", "cuda-bf16"])
}

pub(crate) const MANIFEST: &str = r#"# A comment.
[experiment]
name = "demo"

[stages.base]
kind = "load"
model = "models/base"

[stages.data]
kind = "load"
dataset = { format = "tat-qa", train = "train.json" }

[stages.tokens]
kind = "tokenize"
inputs = { model = "base", dataset = "data" }

[stages.lora]
kind = "train-lora"
inputs = { model = "base", tokens = "tokens" }
rank = 8
rate = 1
"#;

/// A text as the manifest `m.toml` of a project in `/nowhere`, with overrides typed in `/here`.
pub(crate) fn load_text(text: &str, sets: &[&str]) -> Result<Pipeline, Diagnostics> {
    let sets = sets.iter().map(|set| (*set).to_owned()).collect();
    let options = LoadOptions { sets, cwd: PathBuf::from("/here"), ..LoadOptions::default() };
    parse(&registry(), text.to_owned(), Path::new("m.toml"), Path::new("/nowhere"), &options)
}

/// The problems of a text, one a line.
pub(crate) fn problems(text: &str, sets: &[&str]) -> String {
    let told = all_problems(text, sets);
    // `MANIFEST` names a file that is nowhere, which every one of its other problems would be told with.
    let others: Vec<&str> =
        told.lines().filter(|line| !line.contains("there is no file /nowhere/train.json")).collect();
    others.join("\n")
}

/// All problems, missing files included.
pub(crate) fn all_problems(text: &str, sets: &[&str]) -> String {
    match load_text(text, sets) {
        Ok(_) => "(none)".to_owned(),
        Err(problems) => problems.to_string(),
    }
}
