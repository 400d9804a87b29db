//! Executing one stage: what is to be done as data ([`Job`]), doing it in this process, and doing it in a process of
//! its own.
//!
//! A worker holds the lease of its key as its standard input and publishes its result itself: when its driver dies, it
//! finishes its work, and the next driver waits for it and uses it. Unaware of the graph and of scheduling.
mod evidence;
mod execute;
mod supervise;
mod watch;

pub(crate) use evidence::last_words;
pub use evidence::tail;
pub(crate) use execute::execute;
pub(crate) use supervise::{Live, Lost, Setting, supervise};

use crate::event::{Event, Stamped};
use crate::failpoint::{self, pass};
use crate::hash::{Stamp, now_nanos};
use crate::key::Digest;
use crate::options::Keep;
use crate::registry::Registry;
use crate::stop::Stop;
use crate::store::Store;
use crate::{Failure, Source, Stage, StageInput};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// One execution of a stage: all that the executing process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Name of the stage in the manifest.
    pub stage: String,
    /// Stage kind.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// Type of the artifact it makes.
    pub artifact: String,
    /// Parameters, complete.
    pub params: Value,
    /// The experiment's seed.
    pub seed: u64,
    /// Numerics class.
    pub numerics: String,
    /// Input artifacts by port.
    pub inputs: BTreeMap<String, StageInput>,
    /// Files outside the store, as they were when the key was computed.
    pub sources: Vec<(Source, Stamp, Digest)>,
    /// Action key.
    pub key: Digest,
    /// All that went into the key.
    pub document: Value,
    /// The outputs folder.
    pub outputs: PathBuf,
    /// The folder to work in, from [`Store::workspace`].
    pub folder: PathBuf,
    /// Folder that relative paths of the manifest start from.
    pub root: PathBuf,
    /// Where what the stage's processes say is kept.
    pub log: PathBuf,
    /// What stays in the store.
    #[serde(default)]
    pub keep: Keep,
    /// Most memory that it may take, MiB.
    #[serde(default)]
    pub memory_limit_mib: Option<u64>,
}

impl Job {
    /// The limit, if this job's memory is the host's: it computes on the processor, or nothing.
    fn host_limit_mib(&self, kind: &dyn Stage) -> Option<u64> {
        self.memory_limit_mib.filter(|_| !self.on_device(kind))
    }

    /// The limit, if the memory that matters is that of a device which counts its own.
    fn device_limit_mib(&self, kind: &dyn Stage) -> Option<u64> {
        self.memory_limit_mib.filter(|_| self.on_device(kind))
    }

    fn on_device(&self, kind: &dyn Stage) -> bool {
        kind.computes() && !self.numerics.starts_with("cpu")
    }
}

/// How to start a worker: a program and the arguments before the path of the job's file.
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

impl WorkerCommand {
    /// This program itself, as `PROGRAM worker JOB`.
    ///
    /// # Errors
    /// The system does not tell where this program lies.
    pub fn this_program() -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|e| Failure::bug(format!("cannot find this program's own file to start workers: {e}")))?;
        Ok(Self { program, args: vec!["worker".into()] })
    }
}

/// An event of a stage, with the time now.
pub(crate) fn stamped(stage: Option<&str>, event: Event) -> Stamped {
    Stamped { time: now_nanos() as f64 / 1e9, stage: stage.map(str::to_owned), event }
}

/// The whole life of a worker process: reads the job, does it, publishes, and writes events to `out`, the last of which
/// is `stage-finished` or `stage-failed`. Returns the exit code. SIGTERM asks the stage to stop.
pub fn serve(job: &Path, registry: &Registry, out: impl Write + Send) -> u8 {
    failpoint::this_is_a_worker();
    let out = Mutex::new(out);
    let begin = std::time::Instant::now();
    // A reader that is gone is no reason to stop: the result is published all the same.
    let send = |stage: &str, event: Event| {
        if let (Ok(mut line), Ok(mut out)) = (serde_json::to_string(&stamped(Some(stage), event)), out.lock()) {
            line.push('\n');
            let _ = pass("worker-tell").and_then(|()| out.write_all(line.as_bytes())).and_then(|()| out.flush());
        }
    };
    let mut name = String::new();
    let result = read(job).and_then(|job| {
        name.clone_from(&job.stage);
        let kind = registry.get(&job.kind).ok_or_else(|| Failure::bug(format!("no stage kind `{}`", job.kind)))?;
        if let Some(mib) = job.host_limit_mib(&**kind) {
            limit_memory(mib)?;
        }
        let stop = Stop::on_signals()?;
        let store = Store::open(&job.outputs)?;
        let done = execute(&job, &**kind, &store, None, &|event| send(&job.stage, event), &|| stop.requested(), &|| ());
        // Left behind, it would be swept by the next run.
        clear(&job.folder);
        done
    });
    match result {
        Ok(record) => {
            let (key, output) = (record.key.to_string(), record.output.to_string());
            let (seconds, peak_mib, metrics) = (record.seconds, record.peak_mib, record.metrics.clone());
            send(&name, Event::StageFinished { key, output, seconds, peak_mib, metrics });
            0
        }
        Err(failure) => {
            let seconds = begin.elapsed().as_secs_f64();
            // Memory and steps are known to whoever reads these events.
            send(&name, Event::StageFailed { failure, seconds, peak_mib: None, last_step: None });
            1
        }
    }
}

/// Lets this process and its children have so much private memory each, and no more (`RLIMIT_DATA`): what asks for
/// more is told that there is none.
fn limit_memory(mib: u64) -> Result<(), Failure> {
    let bytes = Some(mib.saturating_mul(1 << 20));
    setrlimit(Resource::Data, Rlimit { current: bytes, maximum: bytes })
        .map_err(|e| Failure::bug(format!("cannot limit memory to {mib} MiB: {e}")))
}

/// Removes the folder of a job that ended, well or not. What stays behind is swept by the next run.
pub(crate) fn clear(folder: &Path) {
    let removed = pass("workspace-remove").and_then(|()| std::fs::remove_dir_all(folder));
    let _ = removed.and_then(|()| pass("workspace-removed"));
}

/// Whether a folder has few entries and few bytes in its files.
pub(crate) fn small(folder: &Path) -> bool {
    const ENTRIES: usize = 32;
    const BYTES: u64 = 1 << 20;
    take(folder, &mut { ENTRIES }, &mut { BYTES }).is_some()
}

/// Takes what lies in a folder away from what may; `None` once that is too little.
fn take(folder: &Path, entries: &mut usize, bytes: &mut u64) -> Option<()> {
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        *entries = entries.checked_sub(1)?;
        if entry.file_type().ok()?.is_dir() {
            take(&entry.path(), entries, bytes)?;
        } else {
            *bytes = bytes.checked_sub(entry.metadata().ok()?.len())?;
        }
    }
    Some(())
}

fn read(path: &Path) -> Result<Job, Failure> {
    let text = pass("job-read").and_then(|()| std::fs::read(path)).map_err(|e| Failure::io("read", path, &e))?;
    serde_json::from_slice(&text).map_err(|e| {
        Failure::user(format!("{} is not a job: {e}", path.display()))
            .hint("`anneal worker` is started by `anneal run`, not by people")
    })
}
