//! What `answers` takes: a manifest, or a model and a data file; and which samples, or which two models.
//!
//! Unaware of what the command does.
use super::{Device, Outputs, Source};
use crate::command::completions::{set_keys, stage_names};
use anneal_stages::metric::Metric;
use clap::{ArgGroup, Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("from").required(true).args(["manifest", "model"]))]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["sids", "uids", "diff"]))]
pub(crate) struct Answers {
    /// The manifest, a TOML file: every model of it that answers is shown.
    #[arg(value_name = "MANIFEST")]
    pub(crate) manifest: Option<PathBuf>,
    /// A sample by its place in the evaluation file, counted from 0; may be repeated.
    #[arg(long = "sid", value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    pub(crate) sids: Vec<u64>,
    /// A sample by its uid, or by the beginning of one; may be repeated.
    #[arg(long = "uid", value_name = "UID", value_delimiter = ',')]
    pub(crate) uids: Vec<String>,
    /// List what the second of two models answers rightly and the first does not, and the reverse, over all samples that
    /// both answered; a model by its label, its stage, or the stage that made it.
    #[arg(long, value_name = "FIRST,SECOND", value_delimiter = ',', conflicts_with_all = ["sids", "uids", "model"])]
    pub(crate) diff: Vec<String>,
    /// Show only this model; may be repeated.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["diff", "model"], add = ArgValueCompleter::new(stage_names))]
    pub(crate) only: Vec<String>,
    /// How answers to TAT-QA are scored [default: as the manifest's `evaluate` scores them, else official].
    #[arg(long, value_enum, value_name = "METRIC")]
    pub(crate) metric: Option<MetricChoice>,
    /// Without a manifest: the model that answers, a Hugging Face folder or a GGUF file.
    #[arg(long, value_name = "MODEL", requires = "data")]
    pub(crate) model: Option<PathBuf>,
    /// Without a manifest: a PEFT folder with a LoRA adapter, applied unmerged.
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(crate) adapter: Option<PathBuf>,
    /// Without a manifest: the file with the samples, TAT-QA's JSON or instruction rows.
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(crate) data: Option<PathBuf>,
    /// Without a manifest: longest answer.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_new_tokens: u32,
    /// Set a value of a stage of the manifest for this time, as `run` does.
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE", conflicts_with = "model", add = ArgValueCompleter::new(set_keys))]
    pub(crate) sets: Vec<String>,
    /// Where to compute [default: what the manifest's `numerics` says; without a manifest the processor].
    #[arg(long, value_enum, value_name = "DEVICE")]
    pub(crate) device: Option<Device>,
    /// Folder that relative paths in the manifest start from, as for `run`.
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub(crate) root: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Models that answer at the same time [default: as many as there are cores and GPUs for].
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How answers are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MetricChoice {
    /// The data set's own evaluator.
    Official,
    /// TAT-LLM's lenient evaluation of the whole text.
    TatLlm,
}

impl MetricChoice {
    /// As the stages call it.
    pub(crate) fn metric(self) -> Metric {
        match self {
            Self::Official => Metric::Official,
            Self::TatLlm => Metric::TatLlm,
        }
    }
}

impl Answers {
    /// The manifest and how to read it, if there is one.
    pub(crate) fn source(&self) -> Option<Source> {
        Some(Source {
            manifest: self.manifest.clone()?,
            sets: self.sets.clone(),
            device: self.device,
            root: self.root.clone(),
            yes: false,
        })
    }
}
