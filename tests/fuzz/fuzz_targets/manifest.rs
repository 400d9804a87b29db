//! Any text as a manifest, and any as a `--set` argument: no panic, and every problem points into its text.
//!
//! `cargo +nightly fuzz run manifest` in `tests/`. Unaware of the file system: its kinds read no files.
#![no_main]

use anneal_engine::manifest::{LoadOptions, parse};
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, Param, ParamSet, Port, Registry, Source, Stage, StageContext};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::path::{Path, PathBuf};

anneal_engine::params! {
    /// A table inside the parameters.
    pub struct Inner {
        /// A file.
        train: PathBuf;
        /// A number.
        share: f64 = 0.5, in 0.0..=1.0;
    }
}

anneal_engine::params! {
    /// A parameter of every shape.
    pub struct Every {
        /// An integer.
        rank: u32 = 16, in 1..=1024;
        /// A flag.
        flag: bool = false;
        /// Words.
        modules: Vec<String> = ["q_proj"];
        /// A table.
        dataset: Option<Inner>;
        /// A file.
        model: Option<PathBuf>;
    }
}

struct Kind;

impl Stage for Kind {
    fn kind(&self) -> &'static str {
        "load"
    }
    fn summary(&self) -> &'static str {
        "does nothing"
    }
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        Every::params()
    }
    fn inputs(&self) -> &'static [Port] {
        &[Port { name: "model", accepts: &["model"], required: false, doc: "a model" }]
    }
    fn output(&self, _: &Value) -> &'static str {
        "model"
    }
    fn isolated(&self) -> bool {
        false
    }
    fn check(&self, params: &Value, _: &[&str]) -> Vec<Problem> {
        // What passed the checks fits the struct.
        let fits = serde_json::from_value::<Every>(params.clone());
        assert!(fits.is_ok(), "{params} {fits:?}");
        Vec::new()
    }
    fn sources(&self, _: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        Ok(Vec::new())
    }
    fn run(&self, _: &mut StageContext<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

fuzz_target!(|input: (String, Option<String>)| {
    let (text, set) = input;
    let registry = Registry::new(vec![Box::new(Kind)]);
    let options = LoadOptions { sets: set.into_iter().collect(), cwd: PathBuf::from("/here"), ..LoadOptions::default() };
    if let Err(problems) = parse(&registry, text, Path::new("m.toml"), Path::new("/root"), &options) {
        assert!(!problems.0.is_empty());
        for problem in &problems.0 {
            assert!(problem.place.source.text.get(problem.span()).is_some(), "{problem:?}");
        }
    }
});
