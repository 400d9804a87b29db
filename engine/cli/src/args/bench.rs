//! What can be typed behind `anneal bench`.
//!
//! Unaware of how anything is measured.
use super::Device;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    Train(BenchTrain),
    /// Prefill of random prompts and greedy decoding after them.
    Generate(BenchGenerate),
    /// From the file to the first logit.
    Load(BenchLoad),
    /// Rendering and tokenizing a TAT-QA file, label audit included.
    Tokenize(BenchTokenize),
}

/// A model, and how the result is shown.
#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// A model's folder, a GGUF file, a config.json, or a shape's name: the last two get random weights.
    #[arg(long, visible_alias = "shape", value_name = "MODEL")]
    pub(crate) model: String,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
    /// Seed of random weights and ids.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Write JSON, with every measurement.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Training steps on random ids: seconds a step, tokens a second, model FLOPs utilisation, time by op, peak memory by
/// category.
///
/// MFU is FLOPs a second over the device's dense bf16 peak. A token costs 4N FLOPs with LoRA and 6N with full
/// fine-tuning; N is the numbers in the linear modules of all layers and in the head (for labelled tokens only), that is
/// all parameters but the input embedding, norms and biases. Attention's scores are told apart, LoRA's own A and B and
/// what checkpointing runs again are not counted.
///
/// Time by op comes from two more steps in which the device is waited for around every op: their sum exceeds an ordinary
/// step's time.
#[derive(Debug, Args)]
pub(crate) struct BenchTrain {
    #[command(flatten)]
    pub(crate) options: BenchOptions,
    /// What is trained.
    #[arg(long, value_enum, default_value_t = BenchMethod::Lora)]
    pub(crate) method: BenchMethod,
    /// Rank of LoRA's updates, on all seven linear modules.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) rank: u32,
    /// Sequences in a step.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) batch_size: u32,
    /// Tokens in each sequence.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) sequence_length: u32,
    /// Share of the tokens that are labelled, at each sequence's end: above 0, up to 1.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
    pub(crate) labelled: f64,
    /// What forward keeps for backward.
    #[arg(long, value_enum, default_value_t = BenchCheckpointing::None)]
    pub(crate) checkpointing: BenchCheckpointing,
    /// Layers, from the first, that full checkpointing applies to; those behind them are selective [default: all].
    #[arg(long, value_name = "LAYERS", requires = "checkpointing")]
    pub(crate) full_layers: Option<u32>,
    /// How AdamW's moments of big weights are stored, for full fine-tuning on a GPU.
    #[arg(long, value_enum, default_value_t = BenchStates::F32)]
    pub(crate) optimizer_states: BenchStates,
    /// The device's dense bf16 peak, for MFU [default: known for common GPUs].
    #[arg(long, value_name = "TFLOPS")]
    pub(crate) peak_tflops: Option<f64>,
    /// Steps measured; the median is shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: u32,
    /// Steps before that.
    #[arg(long, default_value_t = 1)]
    pub(crate) warmup: u32,
}

/// What `bench train` keeps for backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchCheckpointing {
    /// Every input that backward needs.
    None,
    /// All but what is cheap to make again.
    Selective,
    /// The inputs of layers only.
    Full,
}

/// How `bench train` stores moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchStates {
    /// f32, with an f32 master of each bf16 weight.
    F32,
    /// bf16 where weights are, without masters.
    Bf16,
}

/// What `bench train` trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchMethod {
    /// Low-rank updates of a frozen model.
    Lora,
    /// Every weight.
    Full,
}

/// How generation is measured.
#[derive(Debug, Args)]
pub(crate) struct BenchGenerate {
    #[command(flatten)]
    pub(crate) options: BenchOptions,
    /// Prompts that are answered at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) sequences: u32,
    /// Tokens in each prompt.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt_tokens: u32,
    /// Tokens decoded for each prompt.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) new_tokens: u32,
    /// Rank of a random adapter of all linear modules, computed beside the weights [default: no adapter].
    #[arg(long, default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(..=1024))]
    pub(crate) adapter_rank: u32,
    /// Measure so many questions that share contexts instead, answered as `infer` does it.
    #[arg(long, value_name = "COUNT", conflicts_with = "prompt_tokens", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) questions: Option<u32>,
    /// Questions that share a context.
    #[arg(long, default_value_t = 6, requires = "questions", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) questions_per_context: u32,
    /// Tokens in each context.
    #[arg(long, default_value_t = 690, requires = "questions")]
    pub(crate) context_tokens: u32,
    /// Tokens in each question, behind its context.
    #[arg(long, default_value_t = 140, requires = "questions", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) question_tokens: u32,
    /// Rounds measured; the median is shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeats: u32,
}

/// How loading is measured.
#[derive(Debug, Args)]
pub(crate) struct BenchLoad {
    #[command(flatten)]
    pub(crate) options: BenchOptions,
}

/// How tokenizing is measured.
#[derive(Debug, Args)]
pub(crate) struct BenchTokenize {
    /// A folder with a tokenizer.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// A TAT-QA file.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// The chat template, as `tokenize` takes it: for folders that have none.
    #[arg(long, default_value = "model")]
    pub(crate) chat: String,
    /// Times; the median is shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeats: u32,
    /// Write JSON, with every measurement.
    #[arg(long)]
    pub(crate) json: bool,
}
