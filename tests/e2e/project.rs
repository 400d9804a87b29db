//! A project folder of its own for every test, the program started in it, and what came of it.
//!
//! Unaware of what any test is about.
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program under test.
pub(crate) const ANNEAL: &str = env!("CARGO_BIN_EXE_anneal-under-test");

/// A folder with the tiny fixtures in it; gone with this value.
pub(crate) struct Project {
    _temp: tempfile::TempDir,
    dir: PathBuf,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    dir: PathBuf,
}

impl Project {
    pub(crate) fn new() -> Self {
        Self::named("project")
    }

    /// In a folder of this name.
    pub(crate) fn named(name: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(&dir).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny");
        for file in ["tiny.toml", "train.json", "eval.json"] {
            std::fs::copy(fixtures.join(file), dir.join(file)).unwrap();
        }
        Self { _temp: temp, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// A copy of the tiny manifest with one piece of text replaced.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = self.read("tiny.toml");
        assert_eq!(text.matches(from).count(), 1, "{from:?} must be in the manifest once");
        self.write("tiny.toml", text.replace(from, to));
    }

    /// The program with these arguments, in this folder, untouched by the tester's own settings.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(ANNEAL);
        command.args(args).current_dir(&self.dir).stdin(Stdio::null());
        for name in ["ANNEAL_FAILPOINT", "RAYON_NUM_THREADS", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        // Tests do not wait for each other's cores.
        command.env("ANNEAL_SLOTS", self.dir.with_extension("slots"));
        command
    }

    pub(crate) fn anneal(&self, args: &[&str]) -> Outcome {
        self.outcome(self.command(args))
    }

    pub(crate) fn outcome(&self, mut command: Command) -> Outcome {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            dir: self.dir.clone(),
        }
    }

    /// `run MANIFEST ...`, which must go well: how many stages were executed, and how many came from the cache.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> (usize, usize) {
        let outcome = self.anneal(&[&["run", "--json"], args].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let last: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
        let count = |key: &str| last["event"][key].as_u64().unwrap() as usize;
        (count("executed"), count("cached"))
    }

    /// The output digest of every stage that has one.
    #[track_caller]
    pub(crate) fn digests(&self, args: &[&str]) -> BTreeMap<String, String> {
        let outcome = self.anneal(&[&["plan", "--json"], args].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let plan: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let stages = plan["stages"].as_array().unwrap().iter();
        stages.filter_map(|s| Some((s["name"].as_str()?.to_owned(), s["output"].as_str()?.to_owned()))).collect()
    }

    /// The folder of a stage's newest result.
    pub(crate) fn artifact(&self, experiment: &str, stage: &str) -> PathBuf {
        self.path(&format!("outputs/latest/{experiment}/{stage}")).canonicalize().unwrap()
    }

    /// Copies a stage's newest result to a folder of the project, writable.
    pub(crate) fn copy_artifact(&self, stage: &str, to: &str) -> PathBuf {
        let target = self.path(to);
        std::fs::create_dir_all(&target).unwrap();
        for entry in std::fs::read_dir(self.artifact("tiny", stage)).unwrap() {
            let entry = entry.unwrap();
            std::fs::write(target.join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
        }
        target
    }
}

/// What is told in one case after the other, as one text to compare with.
#[derive(Default)]
pub(crate) struct Cases(String);

impl Cases {
    pub(crate) fn add(&mut self, name: &str, told: impl AsRef<str>) {
        self.0 += &format!("## {name}\n{}\n", told.as_ref());
    }
}

impl std::fmt::Display for Cases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Outcome {
    /// What a person must read to understand what went wrong: the code, and every line but those of progress, with
    /// this machine's paths, times and digests replaced.
    pub(crate) fn told(&self) -> String {
        let progress = Regex::new(r"^\S+ +(begins: |note: |done in |step \d+|\d+/\d+ answers|waits: )").unwrap();
        let mut text = format!("exit code {}\n", self.code.map_or("none".to_owned(), |code| code.to_string()));
        for line in self.stderr.lines().filter(|line| !progress.is_match(line)) {
            text += line.trim_end();
            text.push('\n');
        }
        self.filtered(&text)
    }

    /// Text with this machine's paths, times and digests replaced.
    pub(crate) fn filtered(&self, text: &str) -> String {
        let dir = self.dir.to_string_lossy().into_owned();
        let filters = [
            (r"\b[0-9a-f]{64}-\d+-[0-9a-f]+-\d+\b", "[WORK]"),
            (r"\b[0-9a-f]{64}\b", "[DIGEST]"),
            (r"\b[0-9a-f]{12}\b", "[DIGEST]"),
            (r"[0-9.]+ (ms|s|min)\b", "[TIME]"),
            (r"\d{8}-\d{6}-\d{3}-\w+-[0-9a-f]{4}", "[RUN]"),
        ];
        let text = text.replace(&dir, "[DIR]");
        filters
            .iter()
            .fold(text, |text, (pattern, with)| Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned())
    }

    /// The program's events, of `run --json`.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
