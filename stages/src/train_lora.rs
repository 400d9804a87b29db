//! Stage `train-lora`: fine-tunes a low-rank update of a frozen model and saves it as a PEFT adapter.
//!
//! LoRA: Hu et al. 2021. The loop is `train::run`; unaware of how it works and of what the adapter will be used for.
use crate::artifact::{ADAPTER, MODEL, TOKENS, write_log};
use crate::data::token_set::Split;
use crate::device::on_device;
use crate::llama::adapter::{Adapter, LoraWeights};
use crate::llama::footprint::{Footprint, numbers_of};
use crate::llama::memory::load;
use crate::llama::{AdapterConfig, LlamaConfig, Model, WeightFiles};
use crate::split;
use crate::train::recipe::{self, recipe_params};
use crate::train::run::{Trained, train};
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
use anneal_ops::{Backend, BackendVisitor, Category};
use serde_json::Value;

recipe_params! {
    /// Parameters of `train-lora`.
    pub struct TrainLoraParams {
        /// Rank r of the update: A is [r, in], B is [out, r].
        rank: usize = 16, in 1..=4096, unit "rows", memory "parameters, gradients and moments of the update grow linearly with it; small beside the base";
        /// The update is scaled by alpha / rank.
        alpha: f64 = 32.0, in 0.0..=1000000.0;
        /// Dropout on the update's input, in training only.
        dropout: f64 = 0.0, in 0.0..=0.99;
        /// Scale by alpha / sqrt(rank) instead (rsLoRA).
        rslora: bool = false;
        /// Linear modules that get an update.
        target_modules: Vec<String> = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], memory "fewer modules, fewer parameters and saved inputs";
    }
    learning_rate = 2e-4
}

/// The linear modules of a layer, which an update may have.
pub const MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The stage kind `train-lora`.
#[derive(Debug)]
pub struct TrainLora;

const PORTS: &[Port] = &[
    Port { name: "model", accepts: &[MODEL], required: true, doc: "the base; stays frozen" },
    Port {
        name: "tokens",
        accepts: &[TOKENS],
        required: true,
        doc: "its train split is learnt, its eval split measured",
    },
    Port {
        name: "adapter",
        accepts: &[ADAPTER],
        required: false,
        doc: "an adapter to go on from; rank and alpha are its own",
    },
];

impl Stage for TrainLora {
    fn kind(&self) -> &'static str {
        "train-lora"
    }
    fn summary(&self) -> &'static str {
        "fine-tunes a low-rank update of a frozen model; saves a PEFT adapter"
    }
    /// 1: first. 2: the adapter's configuration names the PEFT release whose format it has. 3: on a GPU, modules
    /// of one input are one sum.
    fn version(&self) -> u32 {
        3
    }
    fn params(&self) -> Vec<Param> {
        TrainLoraParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, _: &Value) -> &'static str {
        ADAPTER
    }
    fn computes(&self) -> bool {
        true
    }
    fn isolated(&self) -> bool {
        true
    }
    fn check(&self, params: &Value, _: &[&str]) -> Vec<Problem> {
        let mut problems = recipe::check(params);
        let Some(targets) = params.get("target_modules").and_then(Value::as_array) else { return problems };
        let unknown = |target: &&Value| !target.as_str().is_some_and(|name| MODULES.contains(&name));
        let message = match targets.iter().find(unknown) {
            Some(target) => format!("a Llama layer has no linear module {target}"),
            None if targets.is_empty() => "`target_modules` is empty: nothing would be trained".to_owned(),
            None => return problems,
        };
        problems.push(Problem {
            at: vec!["target_modules".into()],
            message,
            hint: Some(format!("choose among {}", MODULES.join(", "))),
            missing_file: false,
        });
        problems
    }
    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: TrainLoraParams = context.params()?;
        on_device(context, Work { context, params })?
    }
}

struct Work<'a, 'c> {
    context: &'a StageContext<'c>,
    params: TrainLoraParams,
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
        let mut adapter = match context.input("adapter") {
            Some(adapter) => {
                let adapter = Adapter::read(&adapter.dir, &config)?;
                let frozen: Vec<&str> = adapter.outside_layers().map(|(module, _)| module.as_str()).collect();
                let frozen = [frozen, adapter.saved.keys().map(String::as_str).collect()].concat().join(", ");
                if !frozen.is_empty() {
                    context.warn(format!("only updates of linear modules are trained; {frozen} stay as they came"));
                }
                adapter
            }
            None => {
                let lora = AdapterConfig::lora(params.rank, params.alpha, params.dropout, params.rslora);
                Adapter::fresh(&config, lora, &params.target_modules, context.seed)?
            }
        };
        let need = Footprint::of::<B>(&config).adapter(numbers_of(&adapter)).train_adapter();
        let (mut model, mut ledger) = load(device, &config, &WeightFiles::open(base)?, false, &need)?;
        ledger.phase(Category::Adapters, || model.attach(&adapter))?;
        context.metric("trainable_parameters", model.trainable_parameters().count() as f64);
        let Trained { log, .. } = train(context, &mut model, &params.recipe(), &train_set, eval_set.as_ref(), ledger)?;
        collect(&mut model, &mut adapter)?;
        adapter.write(context.out, &config, &config.name())?;
        write_log(context.out, &log)
    }
}

/// Takes the trained A and B back from the device.
fn collect<B: Backend>(model: &mut Model<B>, adapter: &mut Adapter) -> Result<(), Failure> {
    let parameters = model.lora_parameters();
    for (name, parameter) in parameters.iter() {
        let part = |suffix: &str| name.strip_suffix(suffix).map(str::to_owned);
        let (module, is_a) = match (part(".lora_A"), part(".lora_B")) {
            (Some(module), _) => (module, true),
            (_, Some(module)) => (module, false),
            _ => return Err(Failure::bug(format!("`{name}` is no part of an adapter"))),
        };
        let lora = adapter.modules.get_mut(&module);
        let lora: &mut LoraWeights = lora.ok_or_else(|| Failure::bug(format!("no update of `{module}`")))?;
        *(if is_a { &mut lora.a } else { &mut lora.b }) = parameter.read();
    }
    Ok(())
}
