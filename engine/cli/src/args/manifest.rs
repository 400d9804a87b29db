//! What the commands on a manifest take: the manifest itself, where results are kept, and their options.
//!
//! Unaware of what the commands do.
use crate::command::completions::{set_keys, stage_names};
use anneal_engine::FailureClass;
use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;

/// A manifest and how to read it.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The manifest, a TOML file.
    pub(crate) manifest: PathBuf,
    /// Set a value of a stage or of the experiment for this time; the last of equal keys wins. Relative paths in it
    /// start at the current folder.
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE", add = ArgValueCompleter::new(set_keys))]
    pub(crate) sets: Vec<String>,
    /// Where to compute [default: what the manifest's `numerics` says].
    #[arg(long, value_enum, value_name = "DEVICE")]
    pub(crate) device: Option<Device>,
    /// Folder that relative paths in the manifest start from [default: the closest one above the manifest that has a
    /// folder `manifests` in it].
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// A sweep of more than 100,000 cells is meant.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Where tensors are computed; each has one class of numerics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// The processor, in f32.
    Cpu,
    /// An NVIDIA GPU, in bf16 with f32 sums; needs a build with the feature `cuda`.
    Cuda,
}

impl Device {
    /// The numerics class, as manifests and keys spell it.
    pub(crate) fn numerics(self) -> &'static str {
        match self {
            Self::Cpu => "cpu-f32",
            Self::Cuda => "cuda-bf16",
        }
    }
}

/// Where results are kept.
#[derive(Debug, Args)]
pub(crate) struct Outputs {
    /// Folder of the cache, the runs and the links to results [default: `outputs` in the project root].
    #[arg(long, value_name = "DIR")]
    pub(crate) outputs: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Stages to run at the same time [default: as many as there are cores and GPUs for].
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// Run only this stage and what it needs; may be repeated.
    #[arg(long, value_name = "STAGE", add = ArgValueCompleter::new(stage_names))]
    pub(crate) only: Vec<String>,
    /// Run only this cell of a sweep: its name as `report` tells it, or values such as `lora.batch_size=4,rank=8`; may be
    /// repeated.
    #[arg(long = "cell", value_name = "CELL")]
    pub(crate) cells: Vec<String>,
    /// Try again what failed in a way that would only repeat; may be repeated.
    #[arg(long, value_enum, value_name = "FAILURE", value_delimiter = ',')]
    pub(crate) retry: Vec<Retry>,
    /// Run this stage even if its result, or a failure that would only repeat, is known; may be repeated.
    #[arg(long, value_name = "STAGE", add = ArgValueCompleter::new(stage_names))]
    pub(crate) force: Vec<String>,
    /// Stop at the first failure, instead of finishing what does not depend on it.
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Record this run even if it has nothing to do, so that `diff` can compare with it.
    #[arg(long)]
    pub(crate) record: bool,
    /// Write events to standard output, one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Failures that stand until something changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Retry {
    /// Out of memory.
    Oom,
    /// A loss or gradient that was not a number.
    Nan,
    /// Ended at its `timeout`.
    Timeout,
}

impl Retry {
    /// As the engine calls it.
    pub(crate) fn class(self) -> FailureClass {
        match self {
            Self::Oom => FailureClass::Oom,
            Self::Nan => FailureClass::Nan,
            Self::Timeout => FailureClass::Timeout,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Plan only this stage and what it needs; may be repeated.
    #[arg(long, value_name = "STAGE", add = ArgValueCompleter::new(stage_names))]
    pub(crate) only: Vec<String>,
    /// Plan only this cell of a sweep: its name as `report` tells it, or values such as `lora.batch_size=4,rank=8`; may
    /// be repeated.
    #[arg(long = "cell", value_name = "CELL")]
    pub(crate) cells: Vec<String>,
    /// As if this failure were tried again although it would only repeat; may be repeated.
    #[arg(long, value_enum, value_name = "FAILURE", value_delimiter = ',')]
    pub(crate) retry: Vec<Retry>,
    /// As if this stage were run even if its result is known; may be repeated.
    #[arg(long, value_name = "STAGE", add = ArgValueCompleter::new(stage_names))]
    pub(crate) force: Vec<String>,
    /// List every instance of a stage, also where a sweep has very many.
    #[arg(long)]
    pub(crate) all: bool,
    /// Write JSON: every stage with its state, the first cause of it, its key and its output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The stage to explain; of a sweep one instance, such as `lora[batch_size=4]`, or a stage with --cell.
    #[arg(add = ArgValueCompleter::new(stage_names))]
    pub(crate) stage: String,
    /// The cell of the sweep that is meant: its name as `report` tells it, or values such as `lora.batch_size=4,rank=8`.
    #[arg(long = "cell", value_name = "CELL")]
    pub(crate) cell: Option<String>,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Graph {
    #[command(flatten)]
    pub(crate) source: Source,
    /// How to draw it.
    #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
    pub(crate) format: GraphFormat,
    /// Write JSON: every stage with its inputs, output type and resolved parameters.
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// For reading.
    Text,
    /// For Graphviz.
    Dot,
    /// For Markdown pages.
    Mermaid,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write Markdown tables.
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Also write a page with the tables and the loss curves to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Order the results by this column or swept parameter, the best first; `-KEY` the other way around.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
    /// Only results for which this holds, such as `state=done`, `batch_size>=4` or `gpu_peak_mib<=40 GiB`; may be
    /// repeated.
    #[arg(long, value_name = "CONDITION")]
    pub(crate) filter: Vec<String>,
    /// Name the best result that is done, by this column: `--best train_seconds --filter "peak_mib<=40 GiB"` is the
    /// fastest that fits.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) best: Option<String>,
}
