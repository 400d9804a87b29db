//! Training steps on random ids: forward, backward, clipping and AdamW, as a training stage does them; then the same
//! again with every op timed, one after the other.
//!
//! Unaware of data sets and checkpoints.
use super::flops::{StepFlops, peak_tflops};
use super::{BenchModel, random_ids};
use crate::failure::OrFail;
use crate::llama::adapter::Adapter;
use crate::llama::footprint::{Footprint, lora_numbers};
use crate::llama::memory::{Ledger, MemoryPeak, logits_bytes};
use crate::llama::{AdapterConfig, Batch, Checkpointing, LlamaConfig, Model};
use crate::train::recipe::OptimizerStates;
use crate::train::{Optimizer, Recipe};
use crate::train_lora::TrainLoraParams;
use anneal_engine::{Failure, ParamSet};
use anneal_ops::profile::Profiler;
use anneal_ops::{Backend, BackendVisitor, Category, Grads, OpTape, StateDtype, with_backend};
use std::time::Instant;

pub use anneal_ops::profile::OpTime;

/// Steps whose ops are timed.
pub const PROFILED: usize = 2;

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Low-rank updates of this rank on these linear modules.
    Lora {
        /// Rows of A.
        rank: usize,
        /// Names as in `target_modules`.
        target_modules: Vec<String>,
    },
    /// Every weight.
    Full,
}

/// A measurement of training.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainBench {
    /// The model.
    pub model: BenchModel,
    /// Numerics class, such as `cpu-f32`.
    pub numerics: &'static str,
    /// What is trained.
    pub method: Method,
    /// What forward keeps for backward.
    pub checkpointing: Checkpointing,
    /// Layers, from the first, that full checkpointing applies to; `None`: all.
    pub full_layers: Option<usize>,
    /// How moments of big weights are stored.
    pub optimizer_states: OptimizerStates,
    /// Sequences in a step.
    pub batch_size: usize,
    /// Tokens in each sequence.
    pub sequence_length: usize,
    /// Share of the tokens that are labelled, those at each sequence's end; 1: all, the dearest case for the head.
    pub labelled: f64,
    /// Steps before measuring begins.
    pub warmup: usize,
    /// Steps measured.
    pub steps: usize,
    /// Seed of weights and ids.
    pub seed: u64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainMeasured {
    /// Numbers in the base.
    pub parameters: usize,
    /// Numbers that are trained.
    pub trainable_parameters: usize,
    /// Labelled tokens in a step.
    pub labelled_tokens: usize,
    /// Seconds to read or draw the weights.
    pub load_seconds: f64,
    /// Seconds of each measured step.
    pub step_seconds: Vec<f64>,
    /// Loss of each step, those of the warm-up included.
    pub losses: Vec<f64>,
    /// What the device is called, if it tells.
    pub device: Option<String>,
    /// Its dense bf16 peak, TFLOP/s, if it is known.
    pub peak_tflops: Option<f64>,
    /// FLOPs of a step.
    pub flops: StepFlops,
    /// Each op in [`PROFILED`] more steps, the longest first.
    pub ops: Vec<OpTime>,
    /// Seconds of these steps, with the device waited for around each op.
    pub profiled_seconds: f64,
    /// Peak memory of the steps before these.
    pub memory: MemoryPeak,
}

/// Runs the steps.
///
/// # Errors
/// What reading the model finds wrong; sequences longer than its positions; no memory.
pub fn run(bench: &TrainBench) -> Result<TrainMeasured, Failure> {
    with_backend(bench.numerics, Work { bench }).or_fail()?
}

struct Work<'a> {
    bench: &'a TrainBench,
}

impl BackendVisitor for Work<'_> {
    type Out = Result<TrainMeasured, Failure>;

    fn visit<B: Backend>(self, device: B) -> Self::Out {
        let Self { bench } = self;
        let full = bench.method == Method::Full;
        let config = bench.model.config()?;
        bench.check(&config)?;
        let mut ledger = Ledger::open(&device)?;
        ledger.expect(&bench.footprint::<B>(&config))?;
        let started = Instant::now();
        let mut model = ledger.phase(Category::Weights, || bench.model.open(device.clone(), bench.seed, full))?;
        model.set_checkpointing(bench.checkpointing, bench.full_layers);
        if let Method::Lora { rank, target_modules } = &bench.method {
            let lora = AdapterConfig::lora(*rank, 2.0 * *rank as f64, 0.0, false);
            let adapter = Adapter::fresh(&config, lora, target_modules, bench.seed)?;
            ledger.phase(Category::Adapters, || model.attach(&adapter))?;
        }
        device.synchronize().or_fail()?;
        let load_seconds = started.elapsed().as_secs_f64();
        let (parameters, recipe) = (model.base_parameters().count(), bench.recipe()?);
        let trainable = model.trainable_parameters();
        let trainable_parameters = trainable.count();
        let optimizer = ledger.phase(Category::Optimizer, || Optimizer::new(&device, &trainable, recipe))?;
        let mut steps = Steps { bench, device: &device, model, optimizer, grads: Grads::default(), index: 0 };
        let (mut step_seconds, mut losses) = (Vec::new(), Vec::new());
        for index in 0..bench.warmup + bench.steps {
            let (loss, seconds) = steps.step(Some(&mut ledger)).map_err(|failure| ledger.explain(failure))?;
            losses.push(loss);
            if index >= bench.warmup {
                step_seconds.push(seconds);
            }
        }
        let memory = ledger.finish()?;
        let profiler = Profiler::start();
        let mut profiled_seconds = 0.0;
        for _ in 0..PROFILED {
            profiled_seconds += steps.step(None)?.1;
        }
        let labelled = bench.labelled_rows();
        let name = device.device_name();
        Ok(TrainMeasured {
            parameters,
            trainable_parameters,
            labelled_tokens: labelled * bench.batch_size,
            load_seconds,
            step_seconds,
            losses,
            peak_tflops: name.as_deref().and_then(peak_tflops),
            device: name,
            flops: StepFlops::of(&config, full, bench.batch_size, bench.sequence_length, labelled),
            ops: profiler.finish(),
            profiled_seconds,
            memory,
        })
    }
}

/// Steps one after the other.
struct Steps<'a, B: Backend> {
    bench: &'a TrainBench,
    device: &'a B,
    model: Model<B>,
    optimizer: Optimizer<B>,
    grads: Grads<B>,
    index: usize,
}

impl<B: Backend> Steps<'_, B> {
    /// One step: its loss and its seconds.
    fn step(&mut self, mut ledger: Option<&mut Ledger<B>>) -> Result<(f64, f64), Failure> {
        let batch = self.bench.batch(self.model.config(), self.index)?;
        self.index += 1;
        if let Some(ledger) = &mut ledger {
            ledger.begin_step()?;
        }
        let started = Instant::now();
        let scale = 1.0 / batch.rows.len() as f32;
        let (loss, tape) = self.model.loss(&batch, scale, OpTape::default(), None).or_fail()?;
        tape.backward(&mut self.grads).or_fail()?;
        if let Some(ledger) = &mut ledger {
            let full = self.bench.method == Method::Full;
            ledger.after_backward(logits_bytes(&self.model, batch.rows.len(), full))?;
        }
        let mut parameters = self.model.trainable_parameters();
        self.optimizer.step(&mut parameters, &mut self.grads, 1e-4, self.index as u64)?;
        self.device.synchronize().or_fail()?;
        let seconds = started.elapsed().as_secs_f64();
        if let Some(ledger) = &mut ledger {
            ledger.after_update()?;
        }
        Ok((loss.sum / loss.count.max(1) as f64, seconds))
    }
}

impl TrainBench {
    fn check(&self, config: &LlamaConfig) -> Result<(), Failure> {
        let (length, most) = (self.sequence_length, config.max_position_embeddings);
        if length < 2 || length > most {
            return Err(Failure::user(format!("a sequence of {length} tokens cannot be trained on by this model"))
                .hint(format!("give 2 to {most}")));
        }
        if self.batch_size == 0 || !(self.labelled > 0.0 && self.labelled <= 1.0) {
            return Err(Failure::user(format!("{} of {} sequences labelled", self.labelled, self.batch_size))
                .hint("give at least one sequence, and a share above 0 and up to 1"));
        }
        Ok(())
    }

    /// Labelled tokens of a sequence: at least one, and all but the first, which nothing predicts.
    fn labelled_rows(&self) -> usize {
        let rows = self.sequence_length.saturating_sub(1);
        ((rows as f64 * self.labelled).round() as usize).clamp(1, rows.max(1))
    }

    fn footprint<B: Backend>(&self, config: &LlamaConfig) -> Footprint {
        let footprint = Footprint::of::<B>(config);
        match &self.method {
            Method::Lora { rank, target_modules } => {
                footprint.adapter(lora_numbers(config, *rank, target_modules)).train_adapter()
            }
            Method::Full => footprint.train_base(match self.optimizer_states {
                OptimizerStates::F32 => StateDtype::F32,
                OptimizerStates::Bf16 => StateDtype::Bf16,
            }),
        }
    }

    /// A training stage's own defaults.
    fn recipe(&self) -> Result<Recipe, Failure> {
        let defaults = TrainLoraParams::defaults();
        let recipe = defaults.map_err(|e| Failure::bug(format!("`train-lora` has no defaults: {e}")))?.recipe();
        Ok(Recipe { optimizer_states: self.optimizer_states, ..recipe })
    }

    fn batch(&self, config: &LlamaConfig, step: usize) -> Result<Batch, Failure> {
        let length = self.sequence_length;
        let sequence = |i| random_ids(self.seed, &format!("step {step} sequence {i}"), length, config.vocab_size);
        let sequences: Vec<Vec<u32>> = (0..self.batch_size).map(sequence).collect();
        let mut labelled = vec![0; length];
        labelled[length - self.labelled_rows()..].fill(1);
        Batch::pack(sequences.iter().map(|ids| (ids.as_slice(), labelled.as_slice())))
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
