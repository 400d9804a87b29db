//! What the engine knows of a stage kind, and what a running stage knows of the engine.
//!
//! Unaware of every concrete kind: `anneal-stages` implements [`Stage`], `engine/cli` joins the two.
use crate::event::Event;
use crate::hash::Stamp;
use crate::{Failure, Param};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An input of a stage kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Key under `inputs` in the manifest.
    pub name: &'static str,
    /// Artifact types it takes, such as `model`.
    pub accepts: &'static [&'static str],
    /// A stage without it is an error.
    pub required: bool,
    /// What it is for.
    pub doc: &'static str,
}

/// A file outside the project's store whose content is an input, such as a shard of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Source {
    /// What the stage calls it; enters the key together with the content's digest. Never a local path.
    pub name: String,
    /// Where it lies on this machine; never enters a key.
    pub path: PathBuf,
    /// What the system said of it when it was found, if it was asked: spares asking again at once. Links followed.
    #[serde(skip)]
    pub stamp: Option<Stamp>,
}

/// Something wrong with a stage's parameters, found before anything runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Keys from the stage's table down to the value at fault, e.g. `["dataset", "train"]`; empty: the stage itself.
    pub at: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// A file that is not there: fatal for `run`, a remark for `plan`.
    pub missing_file: bool,
}

/// A kind of stage: one implementor a kind, registered in `engine/cli`.
pub trait Stage: Send + Sync {
    /// Its name in a manifest's `kind`.
    fn kind(&self) -> &'static str;
    /// One line on what it does.
    fn summary(&self) -> &'static str;
    /// Part of the key: raised whenever the same inputs would give other output bytes.
    fn version(&self) -> u32;
    /// Its parameters.
    fn params(&self) -> Vec<Param>;
    /// Its inputs.
    fn inputs(&self) -> &'static [Port];
    /// Takes, besides [`Stage::inputs`], inputs of any name.
    fn open_inputs(&self) -> bool {
        false
    }
    /// Artifact types that these inputs may have; empty: any.
    fn open_accepts(&self) -> &'static [&'static str] {
        &[]
    }
    /// What it does is done by somebody else's program, so nothing that this process measures of itself tells of it.
    fn is_foreign(&self) -> bool {
        self.open_inputs() && self.open_accepts().is_empty()
    }
    /// Type of the artifact that a stage with these (resolved) parameters makes.
    fn output(&self, params: &Value) -> &'static str;
    /// Runs in a process of its own: long, memory-hungry or resumable work does.
    fn isolated(&self) -> bool;
    /// Computes on the device of the numerics class; on a GPU it needs one.
    fn computes(&self) -> bool {
        false
    }
    /// Checks beyond ranges: parameters that exclude each other, or that an input makes necessary.
    fn check(&self, params: &Value, connected: &[&str]) -> Vec<Problem> {
        let _ = (params, connected);
        Vec::new()
    }
    /// The files outside the store that it will read, in a fixed order. Paths in `params` are absolute by now.
    ///
    /// # Errors
    /// What is missing or unreadable, each with the parameter at fault.
    fn sources(&self, params: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        let _ = params;
        Ok(Vec::new())
    }
    /// As [`Stage::sources`], for a kind that names its files by where they lie below the project root (absolute).
    ///
    /// # Errors
    /// As [`Stage::sources`].
    fn sources_below(&self, root: &Path, params: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        let _ = root;
        self.sources(params)
    }
    /// [`Stage::check`] and, if that finds nothing wrong, [`Stage::sources_below`]: for a kind that reads its parameters
    /// once for both. `files`: whether to look for the files.
    ///
    /// # Errors
    /// What either finds.
    fn examine(
        &self,
        root: &Path,
        params: &Value,
        connected: &[&str],
        files: bool,
    ) -> Result<Vec<Source>, Vec<Problem>> {
        let found = self.check(params, connected);
        match (found.is_empty(), files) {
            (false, _) => Err(found),
            (true, false) => Ok(Vec::new()),
            (true, true) => self.sources_below(root, params),
        }
    }
    /// The parameters that decide about [`Stage::sources`], if not all may: the cells of a sweep that are alike in these
    /// share one answer.
    fn sources_depend_on(&self) -> Option<&'static [&'static str]> {
        None
    }
    /// Whether nothing that this kind says of a stage with these parameters can change while this program, the project's
    /// root and the stamps of these sources stay the same. If so, a run without work need not ask.
    fn follows_from_sources(&self, params: &Value, sources: &[Source]) -> bool {
        let _ = (params, sources);
        false
    }
    /// Does the work: reads inputs and sources, writes files into `context.out`.
    ///
    /// # Errors
    /// A classified failure; whatever was written so far is thrown away, checkpoints stay.
    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure>;
}

/// An input artifact of a running stage.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StageInput {
    /// Artifact type.
    pub artifact: String,
    /// Folder with its files, read-only.
    pub dir: PathBuf,
    /// Digest of its content, hexadecimal.
    pub digest: String,
}

/// Variable with [`StageContext::out`] that a stage sets for the programs it starts: by it they are found and ended when a
/// killed run left them behind.
pub const OUT_VARIABLE: &str = "ANNEAL_OUT";

/// What a stage needs that starts programs of its own.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// Folder that relative paths of the manifest start from; absolute.
    pub root: &'a Path,
    /// A path beside [`StageContext::out`] where nothing lies yet: whatever is put there goes with the execution.
    pub scratch: &'a Path,
    /// File to append what the programs say to; it may not exist yet.
    pub log: &'a Path,
    /// There if the stage runs beside others in one process. Its programs must then lead a process group whose number
    /// is told here, and `None` before that number may belong to somebody else, so that the engine can end the group
    /// in a hurry. Absent in a worker: its programs stay in its group, which the engine ends as a whole.
    pub adopt: Option<&'a dyn Fn(Option<u32>)>,
}

/// What a running stage sees of the engine.
pub struct StageContext<'a> {
    /// Name of the stage in the manifest; for messages, never for results.
    pub name: &'a str,
    /// Parameters with all defaults filled in and paths made absolute.
    pub params: &'a Value,
    /// The experiment's seed.
    pub seed: u64,
    /// Numerics class, such as `cpu-f32`.
    pub numerics: &'a str,
    /// Most memory of the device that the stage may take, MiB: for a stage that computes on a device which counts its own
    /// memory. That of the host is limited by the engine.
    pub device_memory_limit_mib: Option<u64>,
    /// Input artifacts by port.
    pub inputs: &'a BTreeMap<String, StageInput>,
    /// The files of [`Stage::sources`] with the BLAKE3 digest of each (hexadecimal).
    pub sources: &'a [(Source, String)],
    /// Empty folder to write the artifact's files into.
    pub out: &'a Path,
    /// Folder that belongs to this stage's key and survives crashes: checkpoints go here.
    pub checkpoints: &'a Path,
    /// What a stage needs that starts programs.
    pub launch: Launch<'a>,
    /// Where events go.
    pub emit: &'a dyn Fn(Event),
    /// Whether the user asked to stop.
    pub stop: &'a dyn Fn() -> bool,
    /// Largest resident memory of programs that the stage started, MiB, if it saw to that: then this is what the record
    /// tells, and not this process's own.
    pub programs_mib: Cell<Option<f64>>,
    /// Named results and measurements for the record and the report; never part of the artifact's digest.
    pub metrics: RefCell<BTreeMap<String, f64>>,
    /// Files of the artifact that stay where they are: name in the artifact, path, digest.
    pub references: RefCell<Vec<(String, PathBuf, String)>>,
}

impl StageContext<'_> {
    /// The parameters as the kind's own struct.
    ///
    /// # Errors
    /// A bug: the manifest's checks let something through that the struct refuses.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_value(self.params.clone())
            .map_err(|e| Failure::bug(format!("stage `{}`: parameters do not fit their struct: {e}", self.name)))
    }

    /// The input on a port, if connected.
    pub fn input(&self, port: &str) -> Option<&StageInput> {
        self.inputs.get(port)
    }

    /// The input on a required port.
    ///
    /// # Errors
    /// A bug: the graph lets no stage run without its required inputs.
    pub fn require(&self, port: &str) -> Result<&StageInput, Failure> {
        self.input(port).ok_or_else(|| Failure::bug(format!("stage `{}` runs without input `{port}`", self.name)))
    }

    /// The sources whose name begins with `prefix`.
    pub fn sources_of(&self, prefix: &str) -> impl Iterator<Item = &(Source, String)> {
        self.sources.iter().filter(move |(source, _)| source.name.starts_with(prefix))
    }

    /// Makes a source part of the artifact without copying it: it is linked and enters the digest by content.
    pub fn reference(&self, name: &str, source: &Source, digest: &str) {
        self.references.borrow_mut().push((name.to_owned(), source.path.clone(), digest.to_owned()));
    }

    /// Sends a remark.
    pub fn note(&self, message: impl Into<String>) {
        (self.emit)(Event::Note { warning: false, message: message.into() });
    }

    /// Sends a warning.
    pub fn warn(&self, message: impl Into<String>) {
        (self.emit)(Event::Note { warning: true, message: message.into() });
    }

    /// Records a named result or measurement.
    pub fn metric(&self, name: &str, value: f64) {
        self.metrics.borrow_mut().insert(name.to_owned(), value);
    }
}
