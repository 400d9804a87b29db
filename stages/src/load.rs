//! Stage `load`: brings a model, an adapter or a data set into the store.
//!
//! What exists is checked and linked by content, never copied: weights stay where they are. Only a GGUF file is turned
//! into a folder, since no other stage reads its blocks. `init` makes a new model: random weights, and a tokenizer
//! trained on the data set. Unaware of training.
mod existing;
mod fresh;
mod gguf;

use crate::artifact::{ADAPTER, COMPANIONS, DATASET, MODEL};
use crate::gguf::is_gguf;
use crate::llama::{adapter, weights};
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, Param, ParamSet, Port, Source, Stage, StageContext};
use serde_json::Value;
use std::path::{Path, PathBuf};

anneal_engine::choices! {
    /// Format of a data set's files.
    pub enum DatasetFormat {
        /// TAT-QA's JSON: contexts of a table and paragraphs, with questions; the official files unchanged.
        TatQa = "tat-qa",
        /// JSON lines, or one JSON list, of `instruction`, `input`, `output`; of `messages` with several turns; or of prepared samples with their whole prompt (`user_prompt`, `resp`).
        Instruct = "instruct",
    }
}

anneal_engine::params! {
    /// A data set.
    pub struct DatasetParams {
        /// Format of its files.
        format: DatasetFormat = "tat-qa";
        /// File to train on.
        train: Option<PathBuf>;
        /// File to evaluate on.
        eval: Option<PathBuf>;
    }
}

anneal_engine::params! {
    /// Parameters of `load`; exactly one of `model`, `adapter`, `dataset` and `init`.
    pub struct LoadParams {
        /// A Hugging Face folder with a Llama-family model, or a GGUF file of one.
        model: Option<PathBuf>, memory "none here; the weights are mapped where they lie";
        /// A PEFT folder with a LoRA adapter.
        adapter: Option<PathBuf>;
        /// A data set.
        dataset: Option<DatasetParams>;
        /// A new model with random weights and a tokenizer trained on the connected data set.
        init: Option<fresh::InitParams>, memory "4 bytes a parameter while it is written";
    }
}

/// The stage kind `load`.
#[derive(Debug)]
pub struct Load;

const PORTS: &[Port] = &[Port {
    name: "dataset",
    accepts: &[DATASET],
    required: false,
    doc: "for `init` only: the tokenizer is trained on the prompts and answers of its train split",
}];

const WAYS: [&str; 4] = ["model", "adapter", "dataset", "init"];

/// The way this stage loads: the one of [`WAYS`] that is given.
fn ways(params: &Value) -> Vec<&'static str> {
    WAYS.into_iter().filter(|way| params.get(way).is_some_and(|value| !value.is_null())).collect()
}

impl Stage for Load {
    fn kind(&self) -> &'static str {
        "load"
    }
    fn summary(&self) -> &'static str {
        "brings a model, an adapter or a data set into the store, or makes a random model"
    }
    /// 1: first.
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        LoadParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, params: &Value) -> &'static str {
        match ways(params).first() {
            Some(&"adapter") => ADAPTER,
            Some(&"dataset") => DATASET,
            _ => MODEL,
        }
    }
    fn isolated(&self) -> bool {
        false
    }

    fn check(&self, params: &Value, connected: &[&str]) -> Vec<Problem> {
        let problem = |at: &[&str], message: String, hint: &str| Problem {
            at: at.iter().map(ToString::to_string).collect(),
            message,
            hint: Some(hint.to_owned()),
            missing_file: false,
        };
        let given = ways(params);
        let mut problems = Vec::new();
        if given.len() != 1 {
            let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
            let message = format!("needs exactly one of {}; {found} is given", WAYS.join(", "));
            problems.push(problem(&[], message, "give each model, adapter and data set a `load` stage of its own"));
        }
        let has_dataset = connected.contains(&"dataset");
        match (given.contains(&"init"), has_dataset) {
            (true, false) => problems.push(problem(
                &["init"],
                "has no data set to train its tokenizer on".into(),
                "add inputs = { dataset = \"…\" } to this stage",
            )),
            (false, true) => problems.push(problem(
                &[],
                "takes the input `dataset` with `init` only".into(),
                "remove the input, or load with `init`",
            )),
            _ => {}
        }
        let dataset = params.get("dataset").filter(|value| !value.is_null());
        let absent = |split: &str| dataset.and_then(|d| d.get(split)).is_none_or(Value::is_null);
        if dataset.is_some() && absent("train") && absent("eval") {
            let message = "names neither `train` nor `eval`".to_owned();
            problems.push(problem(&["dataset"], message, "name at least one file"));
        }
        problems.extend(fresh::check(params));
        problems
    }

    fn sources(&self, params: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        let path = |keys: &[&str]| {
            let value = keys.iter().try_fold(params, |value, key| value.get(key))?;
            value.as_str().map(PathBuf::from)
        };
        let mut sources = Vec::new();
        let mut problems = Vec::new();
        for (way, config) in [("model", "config.json"), ("adapter", adapter::CONFIG)] {
            let Some(dir) = path(&[way]) else { continue };
            if way == "model" && is_gguf(&dir) && dir.is_file() {
                sources.push(Source { name: gguf::SOURCE.to_owned(), path: dir, stamp: None });
                continue;
            }
            match folder_sources(way, &dir, config) {
                Ok(found) => sources.extend(found),
                Err(message) => problems.push(missing(&[way], message)),
            }
        }
        for split in ["train", "eval"] {
            let Some(file) = path(&["dataset", split]) else { continue };
            if file.is_file() {
                sources.push(Source { name: format!("dataset/{split}"), path: file, stamp: None });
            } else {
                let what = match (file.is_dir(), file.exists()) {
                    (true, _) => "is a folder, expected a file",
                    (_, true) => "is a device or a pipe, expected a file",
                    _ => "there is no such file",
                };
                problems.push(missing(&["dataset", split], format!("{}: {what}", file.display())));
            }
        }
        if problems.is_empty() { Ok(sources) } else { Err(problems) }
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: LoadParams = context.params()?;
        match (params.model, params.adapter, params.dataset, params.init) {
            (Some(_), ..) if context.sources_of(gguf::SOURCE).next().is_some() => gguf::model(context),
            (Some(_), ..) => existing::model(context),
            (_, Some(_), ..) => existing::adapter(context),
            (_, _, Some(dataset), _) => existing::dataset(context, dataset.format),
            (.., Some(init)) => fresh::model(context, &init),
            _ => Err(Failure::bug("`load` has nothing to load")),
        }
    }
}

fn missing(at: &[&str], message: String) -> Problem {
    Problem {
        at: at.iter().map(ToString::to_string).collect(),
        message,
        hint: Some(
            "see data/sources.toml and the README for where files come from; --set STAGE.KEY=PATH sets a path".into(),
        ),
        missing_file: true,
    }
}

/// The files of a model's or an adapter's folder that are read, in a fixed order.
fn folder_sources(way: &str, dir: &Path, config: &str) -> Result<Vec<Source>, String> {
    if !dir.is_dir() {
        let what = match (dir.exists(), way) {
            (true, "model") => "is a file, expected a folder or a .gguf file",
            (true, _) => "is a file, expected a folder",
            (false, _) if is_gguf(dir) => "there is no such file",
            (false, _) => "there is no such folder",
        };
        return Err(format!("{}: {what}", dir.display()));
    }
    let mut names = vec![config.to_owned()];
    if way == "model" {
        names.extend(COMPANIONS.iter().filter(|name| dir.join(name).is_file()).map(ToString::to_string));
        if dir.join(weights::INDEX).is_file() {
            names.push(weights::INDEX.to_owned());
        }
        names.extend(weights::files_of(dir).map_err(|failure| failure.message)?);
    } else {
        names.push(adapter::WEIGHTS.to_owned());
    }
    if let Some(absent) = names.iter().find(|name| !dir.join(name).is_file()) {
        return Err(format!("{}: there is no file {absent} in this folder", dir.display()));
    }
    Ok(names
        .into_iter()
        .map(|name| Source { path: dir.join(&name), name: format!("{way}/{name}"), stamp: None })
        .collect())
}
