//! What can be typed: commands, options, and their help.
//!
//! Unaware of what the commands do.
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Runs declarative pipelines that fine-tune Llama models: what changed runs, everything else comes from the cache.
#[derive(Debug, Parser)]
#[command(name = "anneal", version, max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = crate::exit::table())]
pub(crate) struct Cli {
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

fn after(examples: &str) -> String {
    format!("Examples:\n{examples}\n\n{}", crate::exit::table())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run what changed in a manifest, and report.
    #[command(after_help = after("  anneal run manifests/quickstart.toml\n  anneal run manifests/quickstart.toml --set lora.rank=8 --jobs 2"))]
    Run(Run),
    /// Show what a run would do, and why, without doing it.
    #[command(after_help = after("  anneal plan manifests/quickstart.toml\n  anneal plan manifests/quickstart.toml --set lora.rank=8"))]
    Plan(Plan),
    /// Show what a stage's key is made of, and what changed since its last result.
    #[command(after_help = after("  anneal explain manifests/quickstart.toml lora"))]
    Explain(Explain),
    /// Draw a manifest's stages and what flows between them.
    #[command(after_help = after("  anneal graph manifests/quickstart.toml\n  anneal graph manifests/quickstart.toml --format dot | dot -Tsvg > graph.svg"))]
    Graph(Graph),
    /// Show loss, time, memory and scores of a manifest's stages, side by side.
    #[command(after_help = after("  anneal report manifests/quickstart.toml"))]
    Report(Report),
    /// Score predictions with the official TAT-QA metric.
    #[command(after_help = after("  anneal score --gold data/tatqa/dev.json --predictions predictions.json\n  anneal score --gold dev.json --predictions predictions.json --json"))]
    Score(Score),
    /// Turn a model in GGUF form into a Hugging Face folder; nothing of the file is lost.
    #[command(after_help = after("  anneal convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2"))]
    Convert(Convert),
    /// List the stage kinds, or explain one: its inputs and parameters with default, unit and effect on memory.
    #[command(after_help = after("  anneal stages\n  anneal stages train-lora"))]
    Stages(Stages),
    /// Run one stage in this process; `run` starts these.
    #[command(hide = true)]
    Worker(Worker),
}

/// A manifest and how to read it.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The manifest, a TOML file.
    pub(crate) manifest: PathBuf,
    /// Set a value of a stage or of the experiment for this time; the last of equal keys wins. Relative paths in it
    /// start at the current folder.
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Folder that relative paths in the manifest start from [default: the closest one above the manifest that has a
    /// folder `manifests` in it].
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
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
    /// Stages to run at the same time [default: as many as the machine has room for].
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// Run only this stage and what it needs; may be repeated.
    #[arg(long, value_name = "STAGE")]
    pub(crate) only: Vec<String>,
    /// Run this stage even if its result, or a failure that would only repeat, is known; may be repeated.
    #[arg(long, value_name = "STAGE")]
    pub(crate) force: Vec<String>,
    /// Stop at the first failure, instead of finishing what does not depend on it.
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Write events to standard output, one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The stage to explain.
    pub(crate) stage: String,
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
}

#[derive(Debug, Args)]
pub(crate) struct Score {
    /// The questions with their gold answers, in TAT-QA's format.
    #[arg(long, value_name = "FILE")]
    pub(crate) gold: PathBuf,
    /// The predictions, a JSON object `{"uid": [answer, scale], ...}`.
    #[arg(long, value_name = "FILE")]
    pub(crate) predictions: PathBuf,
    /// Write JSON at full precision.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// The model, a GGUF file with its tokenizer.
    #[arg(value_name = "FILE.gguf")]
    pub(crate) file: PathBuf,
    /// The folder to write; it must be absent or empty.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stages {
    /// Explain this kind.
    pub(crate) kind: Option<String>,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// The job that `run` wrote.
    pub(crate) job: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound_and_every_help_has_an_example_and_the_exit_codes() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("  anneal {}", command.get_name())), "{help}");
            assert!(help.contains("Exit codes:\n   0  everything went well"), "{help}");
        }
    }
}
