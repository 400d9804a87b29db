//! Failures as rows: why a key failed the last time, under which limits, and the last that was seen of it.
//!
//! Running out of memory, a NaN or a timeout would happen again: such a row stands until its key or its limits change
//! or the user asks. Everything else is tried again at the next run. Unaware of how a failure is classified.
use super::Store;
use super::scratch::Scratch;
use crate::failpoint::pass;
use crate::key::Digest;
use crate::options::StageOptions;
use crate::slots::Gpu;
use crate::{Failure, FailureClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

/// What a stage was allowed to use; a failure for want of it holds only as long as it stays the same.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of the host, MiB.
    pub host_memory_mib: Option<u64>,
    /// Memory of each GPU that it may use, MiB: of the smallest that it could have got.
    #[serde(default)]
    pub device_memory_mib: Option<u64>,
    /// The stage's own `memory_limit`, MiB.
    #[serde(default)]
    pub memory_limit_mib: Option<u64>,
    /// The stage's own `timeout`, seconds.
    #[serde(default)]
    pub timeout_seconds: Option<f64>,
}

impl Limits {
    /// Those of a machine with this host memory and these GPUs.
    pub fn of_machine(gpus: &[Gpu]) -> Self {
        let device_memory_mib = gpus.iter().filter_map(|gpu| gpu.memory_mib).min();
        Self { host_memory_mib: crate::memory::host_mib(), device_memory_mib, ..Self::default() }
    }

    /// Those of a stage on this machine; only one that needs a GPU is limited by a GPU's memory.
    #[must_use]
    pub fn of_stage(&self, options: &StageOptions, gpus: usize) -> Self {
        Self {
            device_memory_mib: self.device_memory_mib.filter(|_| gpus > 0),
            memory_limit_mib: options.memory_limit_mib,
            timeout_seconds: options.timeout.map(|timeout| timeout.as_secs_f64()),
            ..self.clone()
        }
    }

    /// Whether a stage has the same memory under both.
    fn same_memory(&self, other: &Self) -> bool {
        // Within a limit of its own the machine's memory does not matter, unless a GPU's is smaller.
        let host = self.memory_limit_mib.is_some() || self.host_memory_mib == other.host_memory_mib;
        host && self.memory_limit_mib == other.memory_limit_mib && self.device_memory_mib == other.device_memory_mib
    }
}

/// A failed execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureRow {
    /// Action key.
    pub key: Digest,
    /// Name of the stage in the manifest that ran it.
    pub stage: String,
    /// Stage kind.
    pub kind: String,
    /// Why.
    pub failure: Failure,
    /// Seconds until then.
    pub seconds: f64,
    /// Largest resident memory that is not a mapped file, MiB.
    pub peak_mib: Option<f64>,
    /// Last training step that was reported.
    pub last_step: Option<u64>,
    /// Last lines that the worker wrote.
    pub log: Vec<String>,
    /// When, seconds since the Unix epoch.
    pub time: f64,
    /// What it was allowed to use.
    pub limits: Limits,
    /// All that went into the key.
    #[serde(default)]
    pub document: Value,
}

impl FailureRow {
    /// Whether trying again under the same limits would only fail again.
    pub fn is_final(&self, limits: &Limits) -> bool {
        match self.failure.class {
            // A NaN comes from the numbers, whatever the limits.
            FailureClass::Nan => true,
            FailureClass::Oom => self.limits.same_memory(limits),
            FailureClass::Timeout => self.limits.timeout_seconds == limits.timeout_seconds,
            FailureClass::Signal | FailureClass::User | FailureClass::Interrupted | FailureClass::Bug => false,
        }
    }
}

impl Store {
    fn failure_path(&self, key: &Digest) -> PathBuf {
        self.base.join("failures").join(format!("{key}.json"))
    }

    /// Why a key failed the last time.
    pub fn failure(&self, key: &Digest) -> Option<FailureRow> {
        pass("failure-read").ok()?;
        serde_json::from_slice(&std::fs::read(self.failure_path(key)).ok()?).ok()
    }

    /// The keys that have a row: one look at the folder, where many keys are asked for.
    pub(crate) fn failed_keys(&self) -> HashSet<Digest> {
        let entries = std::fs::read_dir(self.base.join("failures")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok()).collect()
    }

    /// Writes a row down, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn record_failure(&self, row: &FailureRow) -> Result<(), Failure> {
        let path = self.failure_path(&row.key);
        let scratch = Scratch::new(&self.base, "failures")?;
        let fresh = &scratch.path;
        let write = || {
            pass("failure-create")?;
            let mut file = std::fs::File::create(fresh)?;
            pass("failure-write")?;
            serde_json::to_writer_pretty(&mut file, row)?;
            file.write_all(b"\n")?;
            pass("failure-sync")?;
            file.sync_all()?;
            pass("failure-rename")?;
            std::fs::rename(fresh, &path)?;
            pass("failure-renamed")
        };
        write().map_err(|e| Failure::io("write", &path, &e))
    }

    /// Forgets that a key failed.
    pub fn forget_failure(&self, key: &Digest) {
        // Not there is as good as removed.
        let _ = pass("failure-forget").and_then(|()| std::fs::remove_file(self.failure_path(key)));
    }
}
