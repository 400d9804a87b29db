//! Stage `tokenize`: turns questions into prompt ids, response ids and labels, for one model's tokenizer.
//!
//! Rendering, encoding and the label audit are `data::encode`; this file joins them to the engine and reports counts,
//! lengths and drops. Unaware of training.
use crate::artifact::{CHECKPOINT, DATASET, MODEL, TOKENS};
use crate::data::chat::ChatChoice;
use crate::data::dataset::Rows;
use crate::data::encode::{Options, encode_split, summarize};
use crate::data::encode_turns::{encode_rows, summarize_rows};
use crate::data::encoder::Encoder;
use crate::data::prompt::{PromptTemplate, ResponseForm};
use crate::data::token_set::{Split, TokenSet};
use crate::failure::OrFail;
use crate::llama::LlamaConfig;
use crate::text::Tokenizer;
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
use serde_json::Value;
use std::path::Path;

anneal_engine::params! {
    /// Parameters of `tokenize`.
    pub struct TokenizeParams {
        /// What the model is asked; TAT-QA only, an instruction row says it itself.
        template: PromptTemplate = "tat-qa";
        /// What it is taught to answer; TAT-QA only.
        response: ResponseForm = "tat-qa";
        /// How system prompt, question and answer become one text.
        chat: ChatChoice = "model";
        /// The system prompt; empty for none. An instruction row's own comes first.
        system: String = "You are a financial assistant. Always provide accurate and reliable information to the best of your abilities";
        /// Longest example, answer included. Where it is longer, trailing text paragraphs are left out; never the
        /// table, the question or the answer. Of an instruction row nothing is left out: it is an error.
        max_length: usize = 4096, in 8..=1048576, unit "tokens", memory "a step's activations grow linearly with the examples' lengths; no padding is stored";
    }
}

/// The stage kind `tokenize`.
#[derive(Debug)]
pub struct Tokenize;

const PORTS: &[Port] = &[
    Port {
        name: "model",
        accepts: &[MODEL, CHECKPOINT],
        required: true,
        doc: "its tokenizer and chat template are used",
    },
    Port { name: "dataset", accepts: &[DATASET], required: true, doc: "the questions" },
];

impl Stage for Tokenize {
    fn kind(&self) -> &'static str {
        "tokenize"
    }
    fn summary(&self) -> &'static str {
        "turns questions into ids and labels for one model's tokenizer, with a label audit"
    }
    /// 1: first.
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        TokenizeParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, _: &Value) -> &'static str {
        TOKENS
    }
    fn isolated(&self) -> bool {
        false
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: TokenizeParams = context.params()?;
        let model = &context.require("model")?.dir;
        let config = LlamaConfig::read(&model.join("config.json"))?;
        Tokenizer::read(model)?.check_vocabulary(&config)?;
        let encoder = Encoder::open(model, params.chat).or_fail()?;
        let TokenizeParams { template, response, system, max_length, .. } = params;
        if max_length > config.max_position_embeddings {
            context.warn(format!(
                "max_length is {max_length}, the model's positions end at {}: longer examples will be refused",
                config.max_position_embeddings
            ));
        }
        let options =
            Options { template, response, system, max_length: max_length.min(config.max_position_embeddings) };
        let dataset = &context.require("dataset")?.dir;
        let (train, train_rows) = encode(context, &encoder, dataset, Split::Train, &options)?.unzip();
        let (eval, eval_rows) = encode(context, &encoder, dataset, Split::Eval, &options)?.unzip();
        let summarize = if train_rows.or(eval_rows) == Some(true) { summarize_rows } else { summarize };
        summarize(&encoder, &options, train.as_ref(), eval.as_ref()).write(context.out).or_fail()
    }
}

/// Encodes and writes one split, if the data set has it; says also whether it holds instruction rows.
fn encode(
    context: &StageContext<'_>,
    encoder: &Encoder,
    dataset: &Path,
    split: Split,
    options: &Options,
) -> Result<Option<(TokenSet, bool)>, Failure> {
    let (set, rows) = match Rows::read(dataset, split).or_fail()? {
        None => return Ok(None),
        Some(Rows::TatQa(contexts)) => (encode_split(encoder, &contexts, options).or_fail()?, false),
        Some(Rows::Instruct(rows)) => (encode_rows(encoder, &rows, options).or_fail()?, true),
    };
    set.write(context.out, split).or_fail()?;
    let labelled = set.labelled.iter().map(|label| usize::from(*label)).sum::<usize>();
    let dropped: usize = set.examples.iter().map(|example| example.dropped).sum();
    let note =
        format!("{}: {} examples, {} tokens, {labelled} of them labelled", split.name(), set.len(), set.ids.len());
    context.note(if rows { note } else { format!("{note}, {dropped} paragraphs left out for max_length") });
    for (name, value) in [("examples", set.len()), ("tokens", set.ids.len()), ("labelled_tokens", labelled)] {
        context.metric(&format!("{}_{name}", split.name()), value as f64);
    }
    Ok(Some((set, rows)))
}
