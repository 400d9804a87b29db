//! Training steps on random ids: forward, backward, clipping and AdamW, as a training stage does them.
//!
//! Every token is labelled, which is the dearest case for the head. Unaware of data sets and checkpoints.
use super::{BenchModel, random_ids};
use crate::failure::OrFail;
use crate::llama::adapter::Adapter;
use crate::llama::{AdapterConfig, Batch, Model};
use crate::train::{Optimizer, Recipe};
use crate::train_lora::TrainLoraParams;
use anneal_engine::{Failure, ParamSet, memory};
use anneal_ops::{Backend, BackendVisitor, Grads, OpTape, with_backend};
use std::time::Instant;

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
    /// Sequences in a step.
    pub batch_size: usize,
    /// Tokens in each sequence.
    pub sequence_length: usize,
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
    /// Seconds to read or draw the weights.
    pub load_seconds: f64,
    /// Seconds of each measured step.
    pub step_seconds: Vec<f64>,
    /// Loss of each step, those of the warm-up included.
    pub losses: Vec<f64>,
    /// Peak of this process's memory, MiB.
    pub peak_mib: Option<f64>,
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
        let sampler = memory::Sampler::start();
        let started = Instant::now();
        let full = bench.method == Method::Full;
        let mut model = bench.model.open(device.clone(), bench.seed, full)?;
        if let Method::Lora { rank, target_modules } = &bench.method {
            let config = AdapterConfig::lora(*rank, 2.0 * *rank as f64, 0.0, false);
            let adapter = Adapter::fresh(model.config(), config, target_modules, bench.seed)?;
            model.attach(&adapter)?;
        }
        device.synchronize().or_fail()?;
        let load_seconds = started.elapsed().as_secs_f64();
        let parameters = model.base_parameters().count();
        let trainable_parameters = model.trainable_parameters().count();
        let recipe = recipe()?;
        let mut optimizer = Optimizer::new(&device, &model.trainable_parameters(), recipe)?;
        let (mut step_seconds, mut losses, mut grads) = (Vec::new(), Vec::new(), Grads::default());
        for index in 0..bench.warmup + bench.steps {
            let batch = batch(bench, &model, index)?;
            let started = Instant::now();
            let scale = 1.0 / batch.rows.len() as f32;
            let (loss, tape) = model.loss(&batch, scale, OpTape::default(), None).or_fail()?;
            tape.backward(&mut grads).or_fail()?;
            optimizer.step(&mut model.trainable_parameters(), &mut grads, 1e-4, index as u64 + 1)?;
            device.synchronize().or_fail()?;
            losses.push(loss.sum / loss.count.max(1) as f64);
            if index >= bench.warmup {
                step_seconds.push(started.elapsed().as_secs_f64());
            }
        }
        let peak_mib = sampler.finish();
        Ok(TrainMeasured { parameters, trainable_parameters, load_seconds, step_seconds, losses, peak_mib })
    }
}

/// A training stage's own defaults.
fn recipe() -> Result<Recipe, Failure> {
    let defaults = TrainLoraParams::defaults();
    Ok(defaults.map_err(|e| Failure::bug(format!("`train-lora` has no defaults: {e}")))?.recipe())
}

fn batch<B: Backend>(bench: &TrainBench, model: &Model<B>, step: usize) -> Result<Batch, Failure> {
    let (config, length) = (model.config(), bench.sequence_length);
    if length < 2 || length > config.max_position_embeddings {
        return Err(Failure::user(format!("a sequence of {length} tokens cannot be trained on by this model"))
            .hint(format!("give 2 to {}", config.max_position_embeddings)));
    }
    let sequence = |i| random_ids(bench.seed, &format!("step {step} sequence {i}"), length, config.vocab_size);
    let sequences: Vec<Vec<u32>> = (0..bench.batch_size.max(1)).map(sequence).collect();
    let labelled = vec![1; length];
    Batch::pack(sequences.iter().map(|ids| (ids.as_slice(), labelled.as_slice())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(method: Method) -> TrainBench {
        let raw = serde_json::json!({
            "model_type": "llama", "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
        });
        let config = crate::llama::LlamaConfig::from_json(raw.as_object().cloned().unwrap_or_default()).unwrap();
        let model = BenchModel::Shape(Box::new(config));
        let (numerics, seed) = ("cpu-f32", 5);
        TrainBench { model, numerics, method, batch_size: 2, sequence_length: 32, warmup: 1, steps: 2, seed }
    }

    #[test]
    fn steps_of_both_methods_are_measured_and_begin_at_chance() {
        let lora = Method::Lora { rank: 4, target_modules: vec!["q_proj".into(), "down_proj".into()] };
        for (method, trainable) in [(lora, 2 * (4 * 32 + 4 * 40)), (Method::Full, 0)] {
            let measured = run(&bench(method.clone())).unwrap();
            assert_eq!((measured.step_seconds.len(), measured.losses.len()), (2, 3));
            assert!((measured.losses[0] - 97_f64.ln()).abs() < 0.2, "{:?}", measured.losses);
            let expected = if method == Method::Full { measured.parameters } else { trainable };
            assert_eq!(measured.trainable_parameters, expected);
        }
    }

    #[test]
    fn a_sequence_that_is_too_long_is_refused() {
        let long = TrainBench { sequence_length: 33, ..bench(Method::Full) };
        assert!(run(&long).unwrap_err().hint.unwrap_or_default().contains("32"));
    }
}
