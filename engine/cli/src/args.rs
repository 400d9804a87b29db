//! What can be typed: commands, options, and their help.
//!
//! Unaware of what the commands do.
mod answers;
mod bench;
mod diff;
mod manifest;

pub(crate) use answers::{Answers, MetricChoice};
pub(crate) use bench::{
    Bench, BenchCheckpointing, BenchGenerate, BenchLoad, BenchMethod, BenchOptions, BenchStates, BenchTokenize,
    BenchTrain,
};
pub(crate) use diff::Diff;
pub(crate) use manifest::{Device, Explain, Graph, GraphFormat, Outputs, Plan, Report, Run, Source};

use crate::command::completions::kinds;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;

/// Runs declarative pipelines that fine-tune Llama models: what changed runs, everything else comes from the cache.
#[derive(Debug, Parser)]
#[command(
    name = "anneal",
    bin_name = "anneal",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
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
    /// Show what a run would do, and the first cause of it, without doing it.
    #[command(after_help = after("  anneal plan manifests/quickstart.toml\n  anneal plan manifests/quickstart.toml --set lora.rank=8\n  anneal plan manifests/quickstart.toml --only lora --json"))]
    Plan(Plan),
    /// Show why a stage would run, up to the first cause, what its key is made of, and all that changed in it.
    #[command(after_help = after("  anneal explain manifests/quickstart.toml lora\n  anneal explain manifests/sweep.toml 'lora[batch_size=4]'\n  anneal explain manifests/sweep.toml lora --cell batch_size=4"))]
    Explain(Explain),
    /// Draw a manifest's stages and what flows between them.
    #[command(after_help = after("  anneal graph manifests/quickstart.toml\n  anneal graph manifests/quickstart.toml --format dot | dot -Tsvg > graph.svg"))]
    Graph(Graph),
    /// Show loss, time, memory and scores of a manifest's stages, side by side.
    #[command(after_help = after("  anneal report manifests/quickstart.toml"))]
    Report(Report),
    /// Show samples with every model's answer beside the sample answer, or what one model gained over another.
    ///
    /// What was not answered yet is answered now and kept. With --model and --data no manifest is needed.
    #[command(after_help = after("  anneal answers manifests/quickstart.toml --sid 3 --sid 14\n  anneal answers manifests/quickstart.toml --diff base,lora\n  anneal answers --model models/Llama-3-8B-Instruct --adapter adapters/tatqa --data dev.json --sid 100"))]
    Answers(Answers),
    /// Show what differs between two recorded runs: parameters, metrics, states, and why keys changed.
    #[command(after_help = after("  anneal diff previous latest\n  anneal diff 20261124-091502-118-tatqa-5f3c latest --markdown\n  anneal diff outputs/runs/A ../other/outputs/runs/B --json"))]
    Diff(Diff),
    /// Score predictions with the official TAT-QA metric, or with TAT-LLM's lenient one.
    #[command(after_help = after("  anneal score --gold data/tatqa/dev.json --predictions predictions.json\n  anneal score --gold dev.json --predictions predictions.json --json"))]
    Score(Score),
    /// Turn a model in GGUF form into a Hugging Face folder; nothing of the file is lost.
    #[command(after_help = after("  anneal convert SmolLM2-135M-Instruct.Q4_1.gguf smollm2"))]
    Convert(Convert),
    /// List the stage kinds, or explain one: its inputs and parameters with default, unit and effect on memory.
    #[command(after_help = after("  anneal stages\n  anneal stages train-lora"))]
    Stages(Stages),
    /// Write a starter manifest for a model folder and a data file, every parameter in it as a comment.
    #[command(after_help = after("  anneal init models/smollm2 data/train.jsonl --out manifests/mine.toml\n  anneal init models/smollm2 train.json --eval dev.json > mine.toml"))]
    Init(Init),
    /// Look at this machine, the outputs folder and the data files, and say what to do about each problem.
    #[command(after_help = after("  anneal doctor\n  anneal doctor --data ../data --json"))]
    Doctor(Doctor),
    /// Write the logits of token ids to a safetensors file, for comparison with another program.
    #[command(after_help = after("  anneal logits --model models/smollm2 --ids 1,26,109 --out logits.safetensors\n  anneal logits --model models/smollm2 --adapter adapter --ids-file ids.txt --out logits.safetensors"))]
    Logits(Logits),
    /// Measure training, generation, loading or tokenizing: a model of your own, or a shape with random weights.
    #[command(subcommand, after_help = after("  anneal bench train --model llama-3.2-1b --batch-size 1 --sequence-length 512\n  anneal bench generate --model models/smollm2 --prompt-tokens 512 --json\n  anneal bench load --model SmolLM2-135M-Instruct.Q4_1.gguf\n  anneal bench tokenize --model models/smollm2 --data dev.json"))]
    Bench(Bench),
    /// Print the JSON Schema of manifests, by which editors complete and explain them.
    ///
    /// For Taplo and Even Better TOML, write it to a file and put `#:schema PATH-OF-THAT-FILE` into a manifest's first line.
    #[command(after_help = after("  anneal schema > manifests/anneal.schema.json"))]
    Schema,
    /// Print what a shell needs to complete commands, stage names and `--set` keys on Tab.
    #[command(after_help = after("  anneal completions bash > ~/.local/share/bash-completion/completions/anneal\n  anneal completions zsh > ~/.zfunc/_anneal\n  anneal completions fish > ~/.config/fish/completions/anneal.fish"))]
    Completions(Completions),
    /// Run one stage in this process; `run` starts these.
    #[command(hide = true)]
    Worker(Worker),
}

#[derive(Debug, Args)]
pub(crate) struct Score {
    /// The questions with their gold answers, in TAT-QA's format.
    #[arg(long, value_name = "FILE")]
    pub(crate) gold: PathBuf,
    /// The predictions, a JSON object `{"uid": [answer, scale], ...}`.
    #[arg(long, value_name = "FILE")]
    pub(crate) predictions: PathBuf,
    /// How they are scored; the lenient metric reads them as the sentence that models are asked for.
    #[arg(long, value_enum, value_name = "METRIC", default_value_t = MetricChoice::Official)]
    pub(crate) metric: MetricChoice,
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
    #[arg(add = ArgValueCompleter::new(kinds))]
    pub(crate) kind: Option<String>,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// A Hugging Face model's folder.
    #[arg(value_name = "MODEL_FOLDER")]
    pub(crate) model: PathBuf,
    /// The file to train on: TAT-QA's JSON, or JSON lines of `instruction`, `input`, `output` or of `messages`.
    #[arg(value_name = "DATA_FILE")]
    pub(crate) data: PathBuf,
    /// A file of the same format to evaluate on.
    #[arg(long, value_name = "FILE")]
    pub(crate) eval: Option<PathBuf>,
    /// Write the manifest to this file, which must not exist [default: standard output].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Folder in which the files of data/sources.toml are looked for [default: `data/big` in the project root].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("tokens").required(true).args(["ids", "ids_file"]))]
pub(crate) struct Logits {
    /// A Hugging Face model's folder, which needs no tokenizer, or a GGUF file.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// A PEFT folder with a LoRA adapter, applied unmerged.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Token ids of one sequence, parted by commas.
    #[arg(long, value_name = "IDS")]
    pub(crate) ids: Option<String>,
    /// A file with the token ids, parted by commas or white space.
    #[arg(long, value_name = "FILE")]
    pub(crate) ids_file: Option<PathBuf>,
    /// The file to write: `logits`, f32 [tokens, vocabulary], and `ids`, i64 [tokens].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// A shell that can be completed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// Bash.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
    /// Elvish.
    Elvish,
    /// PowerShell.
    Powershell,
}

impl Shell {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 5] = [Self::Bash, Self::Zsh, Self::Fish, Self::Elvish, Self::Powershell];

    /// Its name as the completion library spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
            Self::Elvish => "elvish",
            Self::Powershell => "powershell",
        }
    }
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
