//! Stage `infer`: answers questions greedily with a base, an adapted or a fine-tuned model.
//!
//! Prompt ids come from the tokens artifact, so they are those of training. Questions of one context are answered one
//! after the other with one cache, so their common prefix is computed once; contexts run in parallel. A question's
//! answer therefore depends on its own context alone, on any number of threads. Unaware of scores.
use crate::artifact::{ADAPTER, ANSWERS, CHECKPOINT, MODEL, TOKENS, write_lines};
use crate::data::summary::Summary;
use crate::data::token_set::{Split, TokenSet};
use crate::failure::OrFail;
use crate::gpu::{Watch, watch};
use crate::llama::adapter::Adapter;
use crate::llama::footprint::{Footprint, numbers_of};
use crate::llama::generate::{Generated, Generator};
use crate::llama::generate_batch::{Limits, greedy_batch};
use crate::llama::memory::load;
use crate::llama::{LlamaConfig, Model, WeightFiles};
use crate::split;
use crate::text::Tokenizer;
use anneal_engine::event::Event;
use anneal_engine::{Failure, FailureClass, Param, ParamSet, Port, Stage, StageContext};
use anneal_ops::{Backend, BackendVisitor, Category, with_backend};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// Sequences that a GPU answers at the same time.
const SEQUENCES: usize = 64;

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
    fn computes(&self) -> bool {
        true
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
        self.answer(device, answer_in_batches)
    }

    fn visit_threads<B: Backend + Send + Sync>(self, device: B) -> Self::Out {
        self.answer(device, answer_on_threads)
    }
}

/// What is asked of a model.
struct Asked<'a, 'c, B: Backend> {
    watch: &'a Watch<'a, 'c>,
    context: &'a StageContext<'c>,
    model: &'a Model<B>,
    tokens: &'a TokenSet,
    chosen: &'a [usize],
    max_new_tokens: usize,
    end_tokens: &'a [u32],
}

impl Work<'_, '_> {
    fn answer<B: Backend>(
        self,
        device: B,
        answer_all: impl Fn(&Asked<'_, '_, B>) -> Result<Vec<Generated>, Failure>,
    ) -> Result<(), Failure> {
        let Self { context, params } = self;
        let dir = &context.require("model")?.dir;
        let config = LlamaConfig::read(&dir.join("config.json"))?;
        let tokens_dir = &context.require("tokens")?.dir;
        let tokens = split::require(tokens_dir, params.split, &config)?;
        let chosen = choose(&params, &tokens)?;
        let adapter = context.input("adapter").map(|input| Adapter::read(&input.dir, &config)).transpose()?;
        let tokenizer = Tokenizer::read(dir)?;
        let need = Footprint::of::<B>(&config).adapter(adapter.as_ref().map_or(0, numbers_of));
        let (mut model, mut ledger) = load(device, &config, &WeightFiles::open(dir)?, false, &need)?;
        if let Some(adapter) = &adapter {
            ledger.phase(Category::Adapters, || model.attach(adapter))?;
        }
        // Every id that ends an answer: those of the configuration and the one that training labelled.
        let mut end_tokens = config.eos_token_ids.clone();
        end_tokens.push(Summary::read(tokens_dir).or_fail()?.end_token);
        let watch = watch(context);
        let started = Instant::now();
        let max_new_tokens = params.max_new_tokens;
        let asked = Asked {
            watch: &watch,
            context,
            model: &model,
            tokens: &tokens,
            chosen: &chosen,
            max_new_tokens,
            end_tokens: &end_tokens,
        };
        let generated = answer_all(&asked).map_err(|failure| ledger.explain(failure))?;
        let seconds = started.elapsed().as_secs_f64();
        watch.finish(ledger.peak()?);
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

impl<B: Backend> Asked<'_, '_, B> {
    /// Positions in `chosen`, context by context.
    fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (position, index) in self.chosen.iter().enumerate() {
            groups.entry(self.tokens.examples[*index].context).or_default().push(position);
        }
        groups.into_values().collect()
    }

    fn uid(&self, position: usize) -> &str {
        &self.tokens.examples[self.chosen[position]].uid
    }

    fn progress(&self, done: usize) {
        let (done, total) = (done as u64, self.chosen.len() as u64);
        (self.context.emit)(Event::Progress { done, total, unit: "answers".into() });
        self.watch.poll();
    }
}

fn interrupted() -> Failure {
    Failure::new(FailureClass::Interrupted, "stopped while answering")
        .hint("run the same command again; answers are computed anew")
}

fn of_sample(uid: &str) -> impl Fn(Failure) -> Failure + '_ {
    move |failure| Failure { message: format!("sample {uid}: {}", failure.message), ..failure }
}

/// Answers on a device that one thread drives: questions of several contexts at once, in the order of their contexts.
fn answer_in_batches<B: Backend>(asked: &Asked<'_, '_, B>) -> Result<Vec<Generated>, Failure> {
    let order: Vec<usize> = asked.groups().into_iter().flatten().collect();
    let prompts: Vec<&[u32]> = order.iter().map(|position| asked.tokens.prompt(asked.chosen[*position])).collect();
    let limits = Limits { max_new_tokens: asked.max_new_tokens, eos: asked.end_tokens, sequences: SEQUENCES };
    let mut told = 0;
    let mut generated = greedy_batch(asked.model, &prompts, &limits, &mut |done| {
        if done > std::mem::replace(&mut told, done) {
            asked.progress(done);
        }
        if (asked.context.stop)() { Err(interrupted()) } else { Ok(()) }
    })
    .map_err(|(prompt, failure)| match prompt.and_then(|prompt| order.get(prompt)) {
        Some(position) => of_sample(asked.uid(*position))(failure),
        None => failure,
    })?;
    let mut answers: Vec<(usize, Generated)> = order.into_iter().zip(generated.drain(..)).collect();
    answers.sort_unstable_by_key(|(position, _)| *position);
    Ok(answers.into_iter().map(|(_, generated)| generated).collect())
}

/// Answers on the CPU: a context's questions one after the other with one cache, contexts in parallel.
fn answer_on_threads<B: Backend + Send + Sync>(asked: &Asked<'_, '_, B>) -> Result<Vec<Generated>, Failure> {
    let groups = asked.groups();
    let Asked { context, model, tokens, chosen, max_new_tokens, end_tokens, .. } = *asked;
    let stopped = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let answer_group = |positions: &Vec<usize>, sender: &mpsc::Sender<()>| {
        let mut generator = Generator::new(model);
        let mut answers = Vec::with_capacity(positions.len());
        for position in positions {
            if stopped.load(Ordering::Relaxed) {
                return Err(interrupted());
            }
            let (prompt, uid) = (tokens.prompt(chosen[*position]), &tokens.examples[chosen[*position]].uid);
            let answer = generator.greedy(prompt, max_new_tokens, end_tokens);
            answers.push((*position, answer.map_err(of_sample(uid))?));
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
            asked.progress(done + 1);
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
