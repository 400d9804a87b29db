//! Prefill of prompts and greedy decoding after them, as `infer` does them, without stopping at an end token; then the
//! same once more with every op timed.
//!
//! Unaware of texts.
use super::random_ids;
use super::subject::Subject;
use crate::failure::OrFail;
use crate::llama::Model;
use crate::llama::generate::{Generated, Limits, Request};
use crate::llama::generate_batch::generate;
use crate::llama::memory::Ledger;
use anneal_engine::Failure;
use anneal_ops::profile::Profiler;
use anneal_ops::{ArgmaxKernel, Backend, BackendVisitor, with_backend};
use std::time::Instant;

pub use anneal_ops::profile::OpTime;

/// A measurement of generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateBench {
    /// What generates.
    pub subject: Subject,
    /// Prompts that are answered at the same time.
    pub sequences: usize,
    /// Tokens in each prompt.
    pub prompt_tokens: usize,
    /// Tokens decoded after each prompt's first, which the prefill yields.
    pub new_tokens: usize,
    /// Rounds before measuring begins.
    pub warmup: usize,
    /// Rounds measured.
    pub repeats: usize,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateMeasured {
    /// Seconds to read or draw the weights.
    pub load_seconds: f64,
    /// Seconds from the prompts to their first new tokens, for each round.
    pub prefill_seconds: Vec<f64>,
    /// Decoded tokens a second after that, of all sequences together, for each round.
    pub decode_tokens_per_second: Vec<f64>,
    /// What each op took in one more round, the device waited for around each.
    pub ops: Vec<OpTime>,
    /// Peak of the device's memory, or of this process's where the device does not count, MiB.
    pub peak_mib: Option<f64>,
}

/// Generates.
///
/// # Errors
/// What reading the model finds wrong; more tokens than its positions; no memory.
pub fn run(bench: &GenerateBench) -> Result<GenerateMeasured, Failure> {
    with_backend(bench.subject.numerics, Work { bench }).or_fail()?
}

struct Work<'a> {
    bench: &'a GenerateBench,
}

impl BackendVisitor for Work<'_> {
    type Out = Result<GenerateMeasured, Failure>;

    fn visit<B: Backend>(self, device: B) -> Self::Out {
        let Self { bench } = self;
        let mut ledger = Ledger::open(&device)?;
        let (model, load_seconds) = bench.subject.open(&device, &mut ledger)?;
        let (needed, most) = (bench.prompt_tokens + 1 + bench.new_tokens, model.config().max_position_embeddings);
        if bench.prompt_tokens == 0 || needed > most {
            return Err(Failure::user(format!("{needed} tokens in all do not fit this model"))
                .hint(format!("prompt and new tokens together may be 2 to {most}")));
        }
        let (mut prefill_seconds, mut decode_tokens_per_second) = (Vec::new(), Vec::new());
        // The host looks at tokens after so many passes.
        let decoding = bench.new_tokens.div_ceil(<B as ArgmaxKernel>::READ_EVERY);
        for round in 0..bench.warmup + bench.repeats {
            let (answers, passes) = bench.round(&model, round).map_err(|failure| ledger.explain(failure))?;
            let decoded: usize = answers.iter().map(|answer| answer.ids.len() - 1).sum();
            let (first, last) = (passes.len().checked_sub(decoding + 1), passes.last());
            let (Some(prefill), Some(all)) = (first.and_then(|first| passes.get(first)), last) else {
                return Err(Failure::bug(format!("decoded {decoded} tokens in {} passes", passes.len())));
            };
            if round >= bench.warmup {
                prefill_seconds.push(*prefill);
                decode_tokens_per_second.push(decoded as f64 / (all - prefill).max(1e-9));
            }
        }
        let peak_mib = ledger.finish()?.peak_mib;
        let profiler = Profiler::start();
        bench.round(&model, 0)?;
        let ops = profiler.finish();
        Ok(GenerateMeasured { load_seconds, prefill_seconds, decode_tokens_per_second, ops, peak_mib })
    }
}

impl GenerateBench {
    /// The answers to fresh prompts, and when each pass was done, in seconds.
    fn round<B: Backend>(&self, model: &Model<B>, round: usize) -> Result<(Vec<Generated>, Vec<f64>), Failure> {
        let prompt = |index: usize| {
            let label = format!("prompt {}", round * self.sequences + index);
            random_ids(self.subject.seed, &label, self.prompt_tokens, model.config().vocab_size)
        };
        let prompts: Vec<Vec<u32>> = (0..self.sequences).map(prompt).collect();
        let request = |(group, prompt)| Request { prompt, group, key: "" };
        let requests: Vec<Request<'_>> = prompts.iter().map(Vec::as_slice).enumerate().map(request).collect();
        let (sequences, new_tokens) = (self.sequences, self.new_tokens + 1);
        let limits = Limits { sequences, prefix_sharing: false, ..Limits::greedy(new_tokens, &[]) };
        let (started, mut passes) = (Instant::now(), Vec::new());
        let answers = generate(model, &requests, &limits, &mut |_| {
            passes.push(started.elapsed().as_secs_f64());
            Ok(())
        });
        Ok((answers.map_err(|(_, failure)| failure)?, passes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::BenchModel;
    use super::*;

    #[test]
    fn prefill_and_decode_are_told_apart() {
        let raw = serde_json::json!({
            "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
        });
        let config = crate::llama::LlamaConfig::from_json(raw.as_object().cloned().unwrap_or_default()).unwrap();
        let model = BenchModel::Shape(Box::new(config));
        let bench = GenerateBench {
            subject: Subject { model, numerics: "cpu-f32", adapter_rank: 2, seed: 1 },
            sequences: 3,
            prompt_tokens: 20,
            new_tokens: 8,
            warmup: 1,
            repeats: 3,
        };
        let measured = run(&bench).unwrap();
        assert_eq!((measured.prefill_seconds.len(), measured.decode_tokens_per_second.len()), (3, 3));
        let calls = |op: &str| measured.ops.iter().find(|known| known.op == op).map_or(0, |known| known.calls);
        assert_eq!((calls("decoder"), calls("attention.cached")), (8, 1), "{:?}", measured.ops);
        let long = GenerateBench { new_tokens: 12, ..bench };
        assert!(run(&long).unwrap_err().message.contains("33 tokens"));
    }
}
