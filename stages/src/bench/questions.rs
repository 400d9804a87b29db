//! A whole evaluation's worth of answers: questions that share contexts, some of them decoding at a time.
//!
//! Unaware of texts.
use super::random_ids;
use super::subject::Subject;
use crate::failure::OrFail;
use crate::llama::Model;
use crate::llama::generate::{Limits, Request};
use crate::llama::generate_batch::generate;
use crate::llama::memory::Ledger;
use anneal_engine::Failure;
use anneal_ops::{Backend, BackendVisitor, with_backend};
use std::time::Instant;

/// A measurement of many answers.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionsBench {
    /// What generates.
    pub subject: Subject,
    /// Questions in all.
    pub questions: usize,
    /// Questions that share a context.
    pub each_context: usize,
    /// Tokens of a context.
    pub context_tokens: usize,
    /// Tokens of a question behind its context.
    pub question_tokens: usize,
    /// Tokens of every answer.
    pub new_tokens: usize,
    /// Answers that decode together.
    pub sequences: usize,
    /// Times that all are answered.
    pub repeats: usize,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionsMeasured {
    /// Seconds to read or draw the weights.
    pub load_seconds: f64,
    /// Seconds from the first prompt to the last answer, for each time.
    pub seconds: Vec<f64>,
    /// Tokens of all prompts together, once.
    pub prompt_tokens: usize,
    /// Of those, tokens whose keys and values another question had left.
    pub reused_tokens: usize,
    /// Tokens of all answers together, once.
    pub answer_tokens: usize,
    /// Peak of the device's memory, or of this process's where the device does not count, MiB.
    pub peak_mib: Option<f64>,
}

/// Answers.
///
/// # Errors
/// What reading the model finds wrong; more tokens than its positions; no memory.
pub fn run(bench: &QuestionsBench) -> Result<QuestionsMeasured, Failure> {
    with_backend(bench.subject.numerics, Work { bench }).or_fail()?
}

struct Work<'a> {
    bench: &'a QuestionsBench,
}

impl BackendVisitor for Work<'_> {
    type Out = Result<QuestionsMeasured, Failure>;

    fn visit<B: Backend>(self, device: B) -> Self::Out {
        let Self { bench } = self;
        let mut ledger = Ledger::open(&device)?;
        let (model, load_seconds) = bench.subject.open(&device, &mut ledger)?;
        let most = model.config().max_position_embeddings;
        let needed = bench.context_tokens + bench.question_tokens + bench.new_tokens;
        if bench.question_tokens == 0 || needed > most {
            return Err(Failure::user(format!("{needed} tokens in all do not fit this model"))
                .hint(format!("context, question and answer together may be 2 to {most}")));
        }
        let prompts = bench.prompts(model.config().vocab_size);
        // The first of them alone, so that kernels are loaded and chosen.
        let few = prompts.len().min(2 * bench.each_context.max(1));
        bench.answer(&model, &prompts[..few]).map_err(|failure| ledger.explain(failure))?;
        let mut measured = QuestionsMeasured {
            load_seconds,
            seconds: Vec::new(),
            prompt_tokens: prompts.iter().map(Vec::len).sum(),
            reused_tokens: 0,
            answer_tokens: 0,
            peak_mib: None,
        };
        for _ in 0..bench.repeats {
            let started = Instant::now();
            let (reused, answered) = bench.answer(&model, &prompts).map_err(|failure| ledger.explain(failure))?;
            measured.seconds.push(started.elapsed().as_secs_f64());
            (measured.reused_tokens, measured.answer_tokens) = (reused, answered);
        }
        measured.peak_mib = ledger.finish()?.peak_mib;
        Ok(measured)
    }
}

impl QuestionsBench {
    fn group(&self, question: usize) -> usize {
        question / self.each_context.max(1)
    }

    fn prompts(&self, vocabulary: usize) -> Vec<Vec<u32>> {
        let draw = |label: String, count| random_ids(self.subject.seed, &label, count, vocabulary);
        let one = |question: usize| {
            let mut prompt = draw(format!("context {}", self.group(question)), self.context_tokens);
            prompt.extend(draw(format!("question {question}"), self.question_tokens));
            prompt
        };
        (0..self.questions).map(one).collect()
    }

    /// Tokens reused and answered.
    fn answer<B: Backend>(&self, model: &Model<B>, prompts: &[Vec<u32>]) -> Result<(usize, usize), Failure> {
        let requests: Vec<Request<'_>> = prompts
            .iter()
            .enumerate()
            .map(|(question, prompt)| Request { prompt, group: self.group(question), key: "" })
            .collect();
        let limits = Limits { sequences: self.sequences, ..Limits::greedy(self.new_tokens, &[]) };
        let answers = generate(model, &requests, &limits, &mut |_| Ok(())).map_err(|(_, failure)| failure)?;
        Ok((answers.iter().map(|answer| answer.reused).sum(), answers.iter().map(|answer| answer.ids.len()).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::BenchModel;
    use super::*;

    #[test]
    fn questions_of_one_context_share_it() {
        let raw = serde_json::json!({
            "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 160,
        });
        let config = crate::llama::LlamaConfig::from_json(raw.as_object().cloned().unwrap_or_default()).unwrap();
        let subject =
            Subject { model: BenchModel::Shape(Box::new(config)), numerics: "cpu-f32", adapter_rank: 0, seed: 1 };
        let bench = QuestionsBench {
            subject,
            questions: 7,
            each_context: 3,
            context_tokens: 128,
            question_tokens: 9,
            new_tokens: 4,
            sequences: 4,
            repeats: 2,
        };
        let measured = run(&bench).unwrap();
        assert_eq!((measured.seconds.len(), measured.prompt_tokens, measured.answer_tokens), (2, 7 * 137, 28));
        // Of each context but the last, which has one question, two of three find it there.
        assert_eq!(measured.reused_tokens, 4 * 128);
        let long = QuestionsBench { new_tokens: 24, ..bench };
        assert!(run(&long).unwrap_err().message.contains("161 tokens"));
    }
}
