//! Stage `infer`: answers questions with a base, an adapted or a fine-tuned model.
//!
//! Prompt ids come from the tokens artifact, so they are those of training. A question's answer depends on its own prompt
//! and the stage's parameters only: not on the other questions, their order, the number of threads or of answers that are
//! decoded together, nor on what was shared. Unaware of scores.
mod base;
mod loss;
mod params;
mod select;
mod settings;
mod stop;

use crate::artifact::{ADAPTER, ANSWERS, CHECKPOINT, MODEL, TOKENS, read_lines, write_lines};
use crate::data::summary::Summary;
use crate::data::token_set::TokenSet;
use crate::device::on_device;
use crate::failure::OrFail;
use crate::gpu::{Watch, watch};
use crate::llama::adapter::Adapter;
use crate::llama::footprint::{Footprint, numbers_of};
use crate::llama::generate::{Ending, Generated, Limits, Request};
use crate::llama::generate_batch::generate;
use crate::llama::memory::{Ledger, load};
use crate::llama::{LlamaConfig, Model, WeightFiles};
use crate::split;
use crate::text::Tokenizer;
use anneal_engine::event::Event;
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, FailureClass, Param, ParamSet, Port, Stage, StageContext};
use anneal_ops::{Backend, BackendVisitor, Category};
pub use params::{Decoding, InferParams};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use settings::ModelSettings;
use std::time::Instant;

/// The file of an answers artifact.
const FILE: &str = "answers.jsonl";

/// One answered question, a line of `answers.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Position in the split's file.
    pub sid: u64,
    /// The question's own id.
    pub uid: String,
    /// The rendered prompt.
    pub prompt: String,
    /// What the model said, without the end token and without what it stopped at.
    pub answer: String,
    /// The reference answer.
    pub gold: Value,
    /// The answer ended with an end token or at a text to stop at: it was not cut off.
    pub ended: bool,
    /// Number of generated tokens.
    pub new_tokens: usize,
    /// Sum of the negative log-likelihoods of the reference answer's tokens, if the stage was asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_nll: Option<f64>,
    /// How many tokens the reference answer has, with its end; there if `gold_nll` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_tokens: Option<usize>,
}

/// The stage kind `infer`.
#[derive(Debug)]
pub struct Infer;

const PORTS: &[Port] = &[
    Port { name: "model", accepts: &[MODEL, CHECKPOINT], required: true, doc: "the model that answers" },
    Port { name: "adapter", accepts: &[ADAPTER], required: false, doc: "applied to the model" },
    Port { name: "tokens", accepts: &[TOKENS], required: true, doc: "the prompts' ids, as in training" },
];

impl Stage for Infer {
    fn kind(&self) -> &'static str {
        "infer"
    }
    fn summary(&self) -> &'static str {
        "answers questions with a base, adapted or fine-tuned model"
    }
    /// 3: on a GPU, products of tokens that decode are summed in another order.
    /// 2: answers no longer depend on what they were computed with, and the end tokens of generation_config.json count.
    /// 1: first.
    fn version(&self) -> u32 {
        3
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
    fn check(&self, params: &Value, _: &[&str]) -> Vec<Problem> {
        params::check(params)
    }
    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: InferParams = context.params()?;
        on_device(context, Work { context, params })?
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
        let chosen = select::choose(&params, &tokens)?;
        select::require_room(&chosen, &tokens, config.max_position_embeddings)?;
        let own = ModelSettings::read(dir)?;
        let decoding = settings::choose(&params, &own, context.seed)?;
        decoding.note.iter().for_each(|note| context.note(note));
        decoding.warning.iter().for_each(|warning| context.warn(warning));
        let tokenizer = Tokenizer::read(dir)?;
        let (model, mut ledger) = open(device, context, &params, &config)?;
        // Every id that ends an answer: those of the model's files and the one that training labelled.
        let mut end = config.eos_token_ids.clone();
        end.extend(own.end_tokens());
        end.push(Summary::read(tokens_dir).or_fail()?.end_token);
        let stops = |ids: &[u32]| Ok(stop::found(&tokenizer.decode(ids)?, &params.stop).is_some());
        let limits = Limits {
            max_new_tokens: params.max_new_tokens,
            end: &end,
            stop: if params.stop.is_empty() { None } else { Some(&stops) },
            sampling: decoding.sampling.as_ref(),
            sequences: sequences(context, &params, &model, &chosen, &tokens),
            prefix_sharing: params.prefix_sharing,
        };
        let watch = watch(context);
        let started = Instant::now();
        let generated =
            answer(context, &watch, &model, &tokens, &chosen, &limits).map_err(|failure| ledger.explain(failure))?;
        let seconds = started.elapsed().as_secs_f64();
        let losses = if params.eval_loss {
            loss::measure(context, &watch, &model, &tokens, &chosen).map_err(|failure| ledger.explain(failure))?
        } else {
            Vec::new()
        };
        watch.finish(ledger.peak()?);
        tell(context, &params, &generated, seconds);
        let mut answers = Vec::with_capacity(chosen.len());
        for (at, (index, generated)) in chosen.iter().zip(generated).enumerate() {
            let (example, loss) = (&tokens.examples[*index], losses.get(at));
            answers.push(Answer {
                sid: example.sid as u64,
                uid: example.uid.clone(),
                prompt: example.prompt.clone(),
                answer: stop::cut(tokenizer.decode(&generated.ids)?, &params.stop),
                gold: serde_json::to_value(&example.answer).unwrap_or_default(),
                ended: generated.ended(),
                new_tokens: generated.ids.len(),
                gold_nll: loss.map(|loss| loss.nll),
                gold_tokens: loss.map(|loss| loss.tokens),
            });
        }
        write_lines(&context.out.join(FILE), answers)
    }
}

/// Reads the rows of an answers artifact.
///
/// # Errors
/// The file cannot be read, or a line does not fit.
pub fn read_answers(folder: &std::path::Path) -> Result<Vec<Answer>, Failure> {
    read_lines(&folder.join(FILE))
}

/// The model, with its adapter if there is one.
fn open<B: Backend>(
    device: B,
    context: &StageContext<'_>,
    params: &InferParams,
    config: &LlamaConfig,
) -> Result<(Model<B>, Ledger<B>), Failure> {
    let dir = &context.require("model")?.dir;
    let adapter = context.input("adapter").map(|input| Adapter::read(&input.dir, config)).transpose()?;
    if let Some(warning) = context.input("adapter").and_then(|input| base::other(&input.dir, config)) {
        context.warn(warning);
    }
    if params.merge_adapter && adapter.is_none() {
        context.warn("merge_adapter has no effect: no adapter is connected");
    }
    let beside = adapter.as_ref().filter(|_| !params.merge_adapter);
    let need = Footprint::of::<B>(config).adapter(beside.map_or(0, numbers_of));
    let (mut model, mut ledger) = load(device, config, &WeightFiles::open(dir)?, false, &need)?;
    match &adapter {
        Some(adapter) if params.merge_adapter => model.attach_merged(adapter)?,
        Some(adapter) => ledger.phase(Category::Adapters, || model.attach(adapter))?,
        None => {}
    }
    Ok((model, ledger))
}

/// Of the memory that is free, what caches may take; the rest is for activations and logits.
const CACHE_SHARE: f64 = 0.8;

/// How many sequences decode together: as many as asked for, if their caches fit.
fn sequences<B: Backend>(
    context: &StageContext<'_>,
    params: &InferParams,
    model: &Model<B>,
    chosen: &[usize],
    tokens: &TokenSet,
) -> usize {
    let config = model.config();
    let prompt = chosen.iter().map(|index| tokens.prompt(*index).len()).max().unwrap_or(0);
    let rows = prompt.saturating_add(params.max_new_tokens).min(config.max_position_embeddings);
    let row = 2 * config.key_value_width() * config.num_hidden_layers * size_of::<B::Elem>();
    let Some(free) = model.device().memory_available() else { return params.batch_size };
    let fit = (free as f64 * CACHE_SHARE / (rows * row).max(1) as f64) as usize;
    // One more is kept for what prompts share.
    let fit = fit.saturating_sub(usize::from(params.prefix_sharing)).max(1);
    let wanted = params.batch_size.min(chosen.len());
    if fit < wanted {
        context.note(format!(
            "{fit} answers are decoded at a time instead of {wanted}: more caches do not fit into memory"
        ));
    }
    params.batch_size.min(fit)
}

/// The answers, in the order of `chosen`.
fn answer<B: Backend>(
    context: &StageContext<'_>,
    watch: &Watch<'_, '_>,
    model: &Model<B>,
    tokens: &TokenSet,
    chosen: &[usize],
    limits: &Limits<'_>,
) -> Result<Vec<Generated>, Failure> {
    let order = select::by_context(chosen, tokens);
    let request = |position: &usize| {
        let example = &tokens.examples[chosen[*position]];
        Request { prompt: tokens.prompt(chosen[*position]), group: example.context, key: &example.uid }
    };
    let requests: Vec<Request<'_>> = order.iter().map(request).collect();
    let mut told = 0;
    let generated = generate(model, &requests, limits, &mut |done| {
        if done > std::mem::replace(&mut told, done) {
            let (done, total) = (done as u64, chosen.len() as u64);
            (context.emit)(Event::Progress { done, total, unit: "answers".into() });
            watch.poll();
        }
        if (context.stop)() { Err(interrupted()) } else { Ok(()) }
    });
    let generated =
        generated.map_err(|(request, failure)| match request.and_then(|request| requests.get(request)) {
            Some(request) => Failure { message: format!("sample {}: {}", request.key, failure.message), ..failure },
            None => failure,
        })?;
    let mut answers: Vec<(usize, Generated)> = order.into_iter().zip(generated).collect();
    answers.sort_unstable_by_key(|(position, _)| *position);
    Ok(answers.into_iter().map(|(_, generated)| generated).collect())
}

fn interrupted() -> Failure {
    Failure::new(FailureClass::Interrupted, "stopped while answering")
        .hint("run the same command again; answers are computed anew")
}

/// Measurements and remarks.
fn tell(context: &StageContext<'_>, params: &InferParams, generated: &[Generated], seconds: f64) {
    let new_tokens: usize = generated.iter().map(|generated| generated.ids.len()).sum();
    let count = |ending: Ending| generated.iter().filter(|generated| generated.ending == ending).count();
    let (cut, window) = (count(Ending::Limit), count(Ending::Window));
    context.metric("answers", generated.len() as f64);
    context.metric("answers_cut", (cut + window) as f64);
    context.metric("new_tokens", new_tokens as f64);
    context.metric("reused_tokens", generated.iter().map(|generated| generated.reused).sum::<usize>() as f64);
    context.metric("infer_seconds", seconds);
    context.metric("generated_tokens_per_second", new_tokens as f64 / seconds.max(1e-9));
    if cut > 0 {
        context.warn(format!(
            "{cut} of {} answers reached max_new_tokens = {}",
            generated.len(),
            params.max_new_tokens
        ));
    }
    if window > 0 {
        context.warn(format!("{window} of {} answers reached the end of the model's window", generated.len()));
    }
}
