//! Everything observable while a manifest runs. Events are the only truth: the terminal, the log of a run and the
//! report are sinks that read them.
//!
//! One JSON object a line in `outputs/runs/<id>/events.jsonl` and on a worker's standard output. Unaware of who reads.
use crate::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An event with its time and, but for the run's own, its stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// Name of the stage in the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// A run of a manifest begins.
    RunStarted {
        /// Name of the run: its folder under `outputs/runs/`.
        run: String,
        /// Name of the experiment.
        experiment: String,
        /// Number of stages.
        stages: usize,
    },
    /// The stage's result was found in the store.
    StageCached {
        /// Action key, hexadecimal.
        key: String,
        /// Digest of the output, hexadecimal.
        output: String,
    },
    /// Another process holds the lease of this stage's key; its result will be used.
    StageWaiting {
        /// Action key, hexadecimal.
        key: String,
    },
    /// The stage begins to execute.
    StageStarted {
        /// Action key, hexadecimal.
        key: String,
        /// Process that executes it.
        pid: u32,
        /// Why it was not found in the store: one line for each changed leaf of the key document.
        reasons: Vec<String>,
    },
    /// A training step was taken.
    Step(Step),
    /// Loss on the evaluation split.
    EvalLoss {
        /// Optimizer steps taken so far.
        step: u64,
        /// Mean over labelled tokens.
        loss: f64,
        /// Seconds the evaluation took.
        seconds: f64,
    },
    /// What the device that a stage computes on does; about once a second.
    Device(Device),
    /// Work done in a stage that does not train.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted.
        unit: String,
    },
    /// Something worth reading once.
    Note {
        /// Whether it asks for attention.
        warning: bool,
        /// One sentence.
        message: String,
    },
    /// A checkpoint was written, or training went on from one.
    Checkpoint {
        /// Optimizer steps taken so far.
        step: u64,
        /// It was read, not written.
        resumed: bool,
    },
    /// The stage's output was published.
    StageFinished {
        /// Action key, hexadecimal.
        key: String,
        /// Digest of the output, hexadecimal.
        output: String,
        /// Seconds it took.
        seconds: f64,
        /// Largest resident memory that is not a mapped file, MiB; absent when the system does not tell.
        peak_mib: Option<f64>,
        /// Named results and measurements, for the report.
        metrics: BTreeMap<String, f64>,
    },
    /// The stage failed; what was already published stays.
    StageFailed {
        /// Why.
        failure: Failure,
        /// Seconds until then.
        seconds: f64,
        /// Largest resident memory that is not a mapped file, MiB, as far as it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_mib: Option<f64>,
        /// Last training step that was reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_step: Option<u64>,
    },
    /// The stage was not tried because one it needs failed.
    StageSkipped {
        /// The stage that failed.
        because: String,
    },
    /// The run ended.
    RunFinished {
        /// Stages executed now.
        executed: usize,
        /// Stages found in the store.
        cached: usize,
        /// Stages that failed.
        failed: usize,
        /// Stages not tried.
        skipped: usize,
        /// Asked to stop.
        interrupted: bool,
        /// Seconds it took.
        seconds: f64,
    },
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Counted from 1.
    pub step: u64,
    /// Steps in all.
    pub total: u64,
    /// Mean over the labelled tokens of the accumulation window.
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens in the window.
    pub tokens: u64,
    /// Labelled tokens in the window.
    pub labelled_tokens: u64,
    /// Seconds the step took.
    pub seconds: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Largest resident memory so far that is not a mapped file, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_mib: Option<f64>,
}

/// A device at one time. What it keeps to itself is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Memory in use, by all processes, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_mib: Option<f64>,
    /// Memory that it has, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_mib: Option<f64>,
    /// Share of the last moments in which it computed, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation_percent: Option<f64>,
    /// Power drawn, W.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f64>,
    /// Temperature, degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<f64>,
}
