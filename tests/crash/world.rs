//! What schedules start from: projects with manifests of small stages that do real work, the results of undisturbed
//! runs, and outputs folders to copy.
//!
//! Unaware of failpoints and of what is checked.
use crate::inspect::inspect;
use crate::plan::{Driver, Start, Work};
use crate::process::{Program, run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

/// Loads, tokenizes, answers in two workers, scores and converts; the model's files stay outside the store.
const LIGHT: &str = r#"
[experiment]
name = "light"
seed = 7
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
max_new_tokens = 3
[stages.more]
kind = "infer"
inputs = { model = "converted", tokens = "tokens" }
sids = [1]
max_new_tokens = 3
[stages.converted]
kind = "consolidate"
inputs = { model = "base" }
dtype = "bfloat16"
[stages.score]
kind = "evaluate"
inputs = { answers = "answers", dataset = "data" }
"#;

/// Trains with a checkpoint after each step and merges what was trained.
const TRAIN: &str = r#"
[experiment]
name = "train"
seed = 7
[stages.data]
kind = "load"
dataset = { train = "train.json", eval = "eval.json" }
[stages.base]
kind = "load"
inputs = { dataset = "data" }
init = { vocab_size = 400, hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1, max_position_embeddings = 1024 }
[stages.tokens]
kind = "tokenize"
inputs = { model = "base", dataset = "data" }
max_length = 1024
[stages.lora]
kind = "train-lora"
inputs = { model = "base", tokens = "tokens" }
rank = 2
alpha = 4
dropout = 0.1
learning_rate = 1e-3
batch_size = 1
max_steps = 5
checkpoint_every = 1
eval_examples = 1
[stages.merged]
kind = "consolidate"
inputs = { model = "base", adapter = "lora" }
"#;

/// A pipeline and what an undisturbed run of it makes.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) program: Program,
    /// Output of every key.
    pub(crate) outputs: BTreeMap<String, String>,
    fresh: PathBuf,
    finished: PathBuf,
}

/// Both pipelines.
#[derive(Debug)]
pub(crate) struct World {
    light: Pipeline,
    train: Pipeline,
}

impl World {
    /// Prepares everything in a folder, with the program at `path`.
    pub(crate) fn prepare(dir: &Path, path: &Path) -> Result<Self> {
        let project = dir.join("project");
        fs::create_dir_all(&project)?;
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny");
        for file in ["train.json", "eval.json"] {
            fs::copy(fixtures.join(file), project.join(file))?;
        }
        fs::write(project.join("train.toml"), TRAIN)?;
        fs::write(project.join("light.toml"), LIGHT)?;
        let program = |manifest| Program { path: path.to_owned(), project: project.clone(), manifest };
        let train = Pipeline::prepare(program("train.toml"), &dir.join("train"), &["data", "base", "tokens"])?;
        copy(&fs::canonicalize(train.finished.join("latest/train/base"))?, &project.join("model"))?;
        let light = Pipeline::prepare(program("light.toml"), &dir.join("light"), &[])?;
        Ok(Self { light, train })
    }

    /// The pipeline of a schedule.
    pub(crate) fn of(&self, work: Work) -> &Pipeline {
        if work == Work::Train { &self.train } else { &self.light }
    }
}

impl Pipeline {
    /// Runs it undisturbed; `before` are the stages whose results a schedule begins with.
    fn prepare(program: Program, dir: &Path, before: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let undisturbed = [Driver::default()];
        let said = run(&program, dir, "undisturbed", &undisturbed)?.pop().unwrap_or_default();
        if said.code != Some(0) {
            return Err(Error::other(format!("an undisturbed run fails: {:?} {}", said.code, said.stderr)));
        }
        let (finished, fresh) = (dir.join("outputs"), dir.join("fresh"));
        let found = inspect(&finished, &BTreeSet::new());
        if let Some(wrong) = found.wrong.first() {
            return Err(Error::other(format!("an undisturbed run leaves something wrong: {wrong}")));
        }
        let outputs = found.records.iter().map(|(key, record)| (key.clone(), field(record, "output"))).collect();
        // A record alone makes a result: without the others, the rest of the stages has none.
        copy(&finished, &fresh)?;
        if before.is_empty() {
            fs::remove_dir_all(&fresh)?;
            fs::create_dir_all(&fresh)?;
        }
        let name: BTreeMap<String, String> = said
            .of("stage-finished")
            .filter_map(|event| Some((event["event"]["key"].as_str()?.to_owned(), event["stage"].as_str()?.to_owned())))
            .collect();
        for key in found.records.keys().filter(|_| !before.is_empty()) {
            let stage = name.get(key).map_or("", String::as_str);
            if !before.contains(&stage) {
                fs::remove_file(fresh.join("objects-v1/records").join(format!("{key}.json")))?;
                fs::remove_file(fresh.join(format!("latest/train/{stage}")))?;
            }
        }
        Ok(Self { program, outputs, fresh, finished })
    }

    /// Makes the outputs folder that a schedule begins with; returns the trees that are damaged.
    pub(crate) fn begin(&self, outputs: &Path, start: Start, index: u64) -> Result<BTreeSet<String>> {
        copy(if start == Start::Fresh { &self.fresh } else { &self.finished }, outputs)?;
        let mut damaged = BTreeSet::new();
        match start {
            Start::Fresh => {}
            Start::NoIndex => fs::remove_file(outputs.join("objects-v1/index"))?,
            Start::Damaged => {
                let trees: Vec<&String> = self.outputs.values().collect();
                let tree = trees[index as usize % trees.len()];
                let folder = outputs.join("objects-v1/trees").join(tree);
                if let Some(file) = fs::read_dir(&folder)?.flatten().next() {
                    fs::remove_file(file.path())?;
                }
                damaged.insert(tree.clone());
            }
        }
        Ok(damaged)
    }
}

/// A text of a record.
pub(crate) fn field(record: &[u8], name: &str) -> String {
    let record: Value = serde_json::from_slice(record).unwrap_or_default();
    record[name].as_str().unwrap_or_default().to_owned()
}

/// Copies a folder with its links and permissions.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (from, to) = (entry.as_ref().map(fs::DirEntry::path).unwrap_or_default(), to.join(entry?.file_name()));
        if from.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
