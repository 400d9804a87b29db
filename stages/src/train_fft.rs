//! Stage `train-fft`: full-parameter fine-tuning; every weight of the model is trained.
//!
//! The loop is `train::run`; unaware of how it works.
use crate::artifact::{CHECKPOINT, MODEL, TOKENS, copy_companions, write_log};
use crate::data::token_set::Split;
use crate::device::on_device;
use crate::llama::footprint::Footprint;
use crate::llama::memory::load;
use crate::llama::save::{MAX_SHARD, write_config, write_weights};
use crate::llama::{LlamaConfig, Parameters, WeightFiles};
use crate::split;
use crate::tensor_file::{FloatType, OutTensor};
use crate::train::recipe::{self, OptimizerStates, Recipe, recipe_params};
use crate::train::run::{Trained, train};
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
use anneal_ops::{Backend, BackendVisitor};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;

recipe_params! {
    /// Parameters of `train-fft`.
    pub struct TrainFftParams {
        /// How AdamW's moments are stored on a GPU; on the CPU everything is f32.
        optimizer_states: OptimizerStates = "f32", memory "on a GPU 12 bytes a parameter for f32, 4 for bf16";
    }
    learning_rate = 5e-5
}

/// The stage kind `train-fft`.
#[derive(Debug)]
pub struct TrainFft;

const PORTS: &[Port] = &[
    Port { name: "model", accepts: &[MODEL, CHECKPOINT], required: true, doc: "where training starts" },
    Port {
        name: "tokens",
        accepts: &[TOKENS],
        required: true,
        doc: "its train split is learnt, its eval split measured",
    },
];

impl Stage for TrainFft {
    fn kind(&self) -> &'static str {
        "train-fft"
    }
    fn summary(&self) -> &'static str {
        "fine-tunes every weight of a model; saves a checkpoint in f32"
    }
    /// 1: first. 2: on a GPU, residuals are added by the product.
    fn version(&self) -> u32 {
        2
    }
    fn params(&self) -> Vec<Param> {
        TrainFftParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, _: &Value) -> &'static str {
        CHECKPOINT
    }
    fn computes(&self) -> bool {
        true
    }
    fn isolated(&self) -> bool {
        true
    }
    fn check(&self, params: &Value, _: &[&str]) -> Vec<Problem> {
        recipe::check(params)
    }
    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: TrainFftParams = context.params()?;
        on_device(context, Work { context, params })?
    }
}

struct Work<'a, 'c> {
    context: &'a StageContext<'c>,
    params: TrainFftParams,
}

impl BackendVisitor for Work<'_, '_> {
    type Out = Result<(), Failure>;

    fn visit<B: Backend>(self, device: B) -> Self::Out {
        let Self { context, params } = self;
        let base = &context.require("model")?.dir;
        let config = LlamaConfig::read(&base.join("config.json"))?;
        let tokens = &context.require("tokens")?.dir;
        let train_set = split::require(tokens, Split::Train, &config)?;
        let eval_set = split::optional(tokens, Split::Eval, &config)?;
        let need = Footprint::of::<B>(&config).train_base(params.optimizer_states.into());
        let (mut model, ledger) = load(device, &config, &WeightFiles::open(base)?, true, &need)?;
        context.metric("trainable_parameters", model.trainable_parameters().count() as f64);
        let recipe = Recipe { optimizer_states: params.optimizer_states, ..params.recipe() };
        let Trained { log, optimizer } = train(context, &mut model, &recipe, &train_set, eval_set.as_ref(), ledger)?;
        let Parameters { names, refs } = model.base_parameters();
        let parameters: BTreeMap<String, _> = names.into_iter().zip(refs).collect();
        // Each tensor in the narrowest type that loses nothing; f32 holds them all.
        write_config(context.out, &config, FloatType::F32)?;
        let size = |name: &str, shape: &[usize]| {
            let narrow = parameters.get(name).is_some_and(|parameter| optimizer.is_bf16(name, parameter));
            shape.iter().product::<usize>() * if narrow { 2 } else { 4 }
        };
        write_weights(context.out, &config, MAX_SHARD, size, |name, shape| {
            let parameter = parameters.get(name);
            let parameter = parameter.ok_or_else(|| Failure::bug(format!("the model has no tensor `{name}`")))?;
            Ok(match optimizer.exact_bf16(name, parameter)? {
                Some(bytes) => OutTensor::raw(Dtype::BF16, shape, bytes),
                None => OutTensor::floats(&optimizer.exact(name, parameter), shape, FloatType::F32),
            })
        })?;
        copy_companions(base, context.out)?;
        write_log(context.out, &log)
    }
}
