//! Stage `infer`: answers questions greedily with a base, an adapted or a fine-tuned model.
//!
//! Prompt ids come from the tokens artifact, so they are those of training. Questions of one context are answered one
//! after the other with one cache, so their common prefix is computed once; contexts run in parallel. A question's
//! answer therefore depends on its own context alone, on any number of threads. Unaware of scores.
use crate::artifact::{ADAPTER, ANSWERS, CHECKPOINT, MODEL, TOKENS, write_lines};
use crate::data::summary::Summary;
use crate::data::token_set::{Split, TokenSet};
use crate::failure::OrFail;
use crate::llama::adapter::Adapter;
use crate::llama::generate::{Generated, Generator};
use crate::llama::{LlamaConfig, Model, WeightFiles};
use crate::split;
use crate::text::Tokenizer;
use anneal_engine::event::Event;
use anneal_engine::{Failure, FailureClass, Param, ParamSet, Port, Stage, StageContext};
use anneal_ops::{Backend, BackendVisitor, with_backend};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

anneal_engine::params! {
    /// Parameters of `infer`.
    pub struct InferParams {
        /// Samples to answer, by their position in the split's file, counted from 0; empty: all.
        sids: Vec<u64> = [], in 0..=1000000000;
        /// Split whose questions are answered.
        split: Split = "eval";
        /// Longest answer.
        max_new_tokens: usize = 128, in 1..=1000000, unit "tokens", memory "the key-value cache grows with prompt and answer";
    }
}

/// One answered question, a line of `answers.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Position in the split's file.
    pub sid: u64,
    /// The question's own id.
    pub uid: String,
    /// The rendered prompt.
    pub prompt: String,
    /// What the model said, without the end token.
    pub answer: String,
    /// The reference answer.
    pub gold: Value,
    /// The answer ended with an end token, not at the limit.
    pub ended: bool,
    /// Number of generated tokens.
    pub new_tokens: usize,
}

/// The stage kind `infer`.
#[derive(Debug)]
pub struct Infer;

const PORTS: &[Port] = &[
    Port { name: "model", accepts: &[MODEL, CHECKPOINT], required: true, doc: "the model that answers" },
    Port { name: "adapter", accepts: &[ADAPTER], required: false, doc: "applied to the model, unmerged" },
    Port { name: "tokens", accepts: &[TOKENS], required: true, doc: "the prompts' ids, as in training" },
];

impl Stage for Infer {
    fn kind(&self) -> &'static str {
        "infer"
    }
    fn summary(&self) -> &'static str {
        "answers questions greedily with a base, adapted or fine-tuned model"
    }
    /// 1: first.
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        InferParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, _: &Value) -> &'static str {
        ANSWERS
    }
    fn isolated(&self) -> bool {
        true
    }
    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: InferParams = context.params()?;
        with_backend(context.numerics, Work { context, params }).or_fail()?
    }
}

struct Work<'a, 'c> {
    context: &'a StageContext<'c>,
    params: InferParams,
}

impl BackendVisitor for Work<'_, '_> {
    type Out = Result<(), Failure>;

    fn visit<B: Backend>(self, device: B) -> Self::Out {
        let Self { context, params } = self;
        let dir = &context.require("model")?.dir;
        let config = LlamaConfig::read(&dir.join("config.json"))?;
        let tokens_dir = &context.require("tokens")?.dir;
        let tokens = split::require(tokens_dir, params.split, &config)?;
        let chosen = choose(&params, &tokens)?;
        let adapter = context.input("adapter").map(|input| Adapter::read(&input.dir, &config)).transpose()?;
        let tokenizer = Tokenizer::read(dir)?;
        let mut model = Model::read(device, &config, &WeightFiles::open(dir)?, false)?;
        if let Some(adapter) = &adapter {
            model.attach(adapter)?;
        }
        // Every id that ends an answer: those of the configuration and the one that training labelled.
        let mut end_tokens = config.eos_token_ids.clone();
        end_tokens.push(Summary::read(tokens_dir).or_fail()?.end_token);
        let started = Instant::now();
        let generated = answer_all(context, &model, &tokens, &chosen, params.max_new_tokens, &end_tokens)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut answers = Vec::with_capacity(chosen.len());
        for (index, generated) in chosen.iter().zip(generated) {
            let example = &tokens.examples[*index];
            answers.push(Answer {
                sid: example.sid as u64,
                uid: example.uid.clone(),
                prompt: example.prompt.clone(),
                answer: tokenizer.decode(&generated.ids)?,
                gold: serde_json::to_value(&example.answer).unwrap_or_default(),
                ended: generated.ended,
                new_tokens: generated.ids.len(),
            });
        }
        let new_tokens: usize = answers.iter().map(|answer| answer.new_tokens).sum();
        context.metric("answers", answers.len() as f64);
        context.metric("infer_seconds", seconds);
        context.metric("generated_tokens_per_second", new_tokens as f64 / seconds.max(1e-9));
        let cut = answers.iter().filter(|answer| !answer.ended).count();
        if cut > 0 {
            context.warn(format!(
                "{cut} of {} answers reached max_new_tokens = {}",
                answers.len(),
                params.max_new_tokens
            ));
        }
        write_lines(&context.out.join("answers.jsonl"), answers)
    }
}

/// Positions of the asked samples in the token set.
fn choose(params: &InferParams, tokens: &TokenSet) -> Result<Vec<usize>, Failure> {
    let by_sid: BTreeMap<u64, usize> = tokens.examples.iter().enumerate().map(|(i, e)| (e.sid as u64, i)).collect();
    if params.sids.is_empty() {
        return Ok((0..tokens.examples.len()).collect());
    }
    let unknown: Vec<String> = params.sids.iter().filter(|sid| !by_sid.contains_key(sid)).map(u64::to_string).collect();
    if !unknown.is_empty() {
        let (first, last) = (by_sid.keys().next().copied(), by_sid.keys().last().copied());
        return Err(Failure::user(format!(
            "sids: there is no sample {} in split `{}`",
            unknown.join(", "),
            params.split.name()
        ))
        .hint(format!("its samples are {} to {}", first.unwrap_or_default(), last.unwrap_or_default())));
    }
    Ok(params.sids.iter().filter_map(|sid| by_sid.get(sid).copied()).collect())
}

/// Answers the chosen questions, context by context; the result is in the order of `chosen`.
fn answer_all<B: Backend>(
    context: &StageContext<'_>,
    model: &Model<B>,
    tokens: &TokenSet,
    chosen: &[usize],
    max_new_tokens: usize,
    end_tokens: &[u32],
) -> Result<Vec<Generated>, Failure> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (position, index) in chosen.iter().enumerate() {
        groups.entry(tokens.examples[*index].context).or_default().push(position);
    }
    let groups: Vec<Vec<usize>> = groups.into_values().collect();
    let stopped = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let answer_group = |positions: &Vec<usize>, sender: &mpsc::Sender<()>| {
        let mut generator = Generator::new(model);
        let mut answers = Vec::with_capacity(positions.len());
        for position in positions {
            if stopped.load(Ordering::Relaxed) {
                return Err(Failure::new(FailureClass::Interrupted, "stopped while answering")
                    .hint("run the same command again; answers are computed anew"));
            }
            let prompt = tokens.prompt(chosen[*position]);
            let sample = |failure: Failure| {
                let uid = &tokens.examples[chosen[*position]].uid;
                Failure { message: format!("sample {uid}: {}", failure.message), ..failure }
            };
            answers.push((*position, generator.greedy(prompt, max_new_tokens, end_tokens).map_err(sample)?));
            // A closed channel only means that nobody counts any more.
            let _ = sender.send(());
        }
        Ok(answers)
    };
    // The engine's sinks belong to this thread: it reports while the pool works.
    let answers = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let sender = sender;
            groups.par_iter().map(|group| answer_group(group, &sender)).collect::<Result<Vec<_>, Failure>>()
        });
        for (done, ()) in receiver.into_iter().enumerate() {
            let (done, total) = (done as u64 + 1, chosen.len() as u64);
            (context.emit)(Event::Progress { done, total, unit: "answers".into() });
            if (context.stop)() {
                stopped.store(true, Ordering::Relaxed);
            }
        }
        worker.join().unwrap_or_else(|_| Err(Failure::bug("a thread that answers questions panicked")))
    })?;
    let mut answers: Vec<(usize, Generated)> = answers.into_iter().flatten().collect();
    answers.sort_unstable_by_key(|(position, _)| *position);
    Ok(answers.into_iter().map(|(_, generated)| generated).collect())
}
