//! The parameters that LoRA and full fine-tuning share.
//!
//! Defaults are transformers' TrainingArguments (4.57) unless the text says why not. Unaware of LoRA.
use super::schedule::ScheduleKind;
use crate::llama::Checkpointing;
use anneal_engine::stage::Problem;
use serde_json::Value;

anneal_engine::choices! {
    /// How AdamW's moments of big weights are stored.
    pub enum OptimizerStates {
        /// f32; where weights are bf16 also an f32 master of each, which the checkpoint then holds.
        F32 = "f32",
        /// bf16 where weights are bf16, without a master: updates below half a unit in the last place are lost.
        Bf16 = "bf16",
    }
}

impl From<OptimizerStates> for anneal_ops::StateDtype {
    fn from(states: OptimizerStates) -> Self {
        match states {
            OptimizerStates::F32 => Self::F32,
            OptimizerStates::Bf16 => Self::Bf16,
        }
    }
}

/// What the loop needs to know, whoever trains.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Shape of the schedule.
    pub schedule: ScheduleKind,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's decay of the first moment.
    pub adam_beta1: f64,
    /// AdamW's decay of the second moment.
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    pub adam_epsilon: f64,
    /// Largest global L2 norm of the gradient; 0: no clipping.
    pub max_grad_norm: f64,
    /// Examples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Most tokens in a micro-batch; it then holds as many of the step's examples as fit, whatever `batch_size` says.
    pub batch_tokens: Option<usize>,
    /// Only answers are learnt; otherwise every token but a sequence's first.
    pub completion_only_loss: bool,
    /// What forward keeps for backward.
    pub checkpointing: Checkpointing,
    /// Layers, from the first, that `Full` applies to; those behind them are selective. `None`: all.
    pub full_layers: Option<usize>,
    /// How the moments of big weights are stored.
    pub optimizer_states: OptimizerStates,
    /// Passes over the training split.
    pub epochs: f64,
    /// Optimizer steps, instead of epochs.
    pub max_steps: Option<u64>,
    /// Examples in an evaluation batch.
    pub eval_batch_size: usize,
    /// Steps between evaluations; `None`: at the end only.
    pub eval_every: Option<u64>,
    /// Evaluate the first examples only.
    pub eval_examples: Option<usize>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

/// What ranges cannot say of a trainer's parameters.
pub fn check(params: &Value) -> Vec<Problem> {
    let given = |name: &str| params.get(name).filter(|value| !value.is_null());
    if given("full_layers").is_none() || given("checkpointing").and_then(Value::as_str) == Some("full") {
        return Vec::new();
    }
    vec![Problem {
        at: vec!["full_layers".to_owned()],
        message: "`full_layers` says where checkpointing = \"full\" ends, and that is not set".to_owned(),
        hint: Some("set checkpointing = \"full\", or leave `full_layers` out".to_owned()),
        missing_file: false,
    }]
}

/// Declares a trainer's parameters: its own, then those of [`Recipe`].
macro_rules! recipe_params {
    ($(#[$meta:meta])* pub struct $name:ident { $($own:tt)* } learning_rate = $learning_rate:literal) => {
        ::anneal_engine::params! {
            $(#[$meta])*
            pub struct $name {
                $($own)*
                /// Peak learning rate.
                learning_rate: f64 = $learning_rate, in 0.0..=10.0;
                /// How the learning rate moves after warm-up.
                schedule: $crate::train::schedule::ScheduleKind = "linear";
                /// Steps over which the learning rate rises from zero.
                warmup_steps: u64 = 0, in 0..=1_000_000_000, unit "steps";
                /// Decoupled weight decay; not applied to norms and biases.
                weight_decay: f64 = 0.0, in 0.0..=1.0;
                /// AdamW's decay of the first moment.
                adam_beta1: f64 = 0.9, in 0.0..=0.999999;
                /// AdamW's decay of the second moment.
                adam_beta2: f64 = 0.999, in 0.0..=0.999999;
                /// Added to the root of the second moment.
                adam_epsilon: f64 = 1e-8, in 0.0..=1.0;
                /// Largest global L2 norm of the gradient; 0 does not clip.
                max_grad_norm: f64 = 1.0, in 0.0..=1e9;
                /// Examples in a micro-batch.
                batch_size: usize = 8, in 1..=65536, unit "examples", memory "activations grow linearly with it";
                /// Micro-batches in an optimizer step; the loss is that of one batch of their product.
                gradient_accumulation_steps: usize = 1, in 1..=65536, unit "micro-batches", memory "none: a larger effective batch for time instead of memory";
                /// Most tokens in a micro-batch, instead of batch_size examples: a step's examples are cut into micro-batches that fit, an example longer than that goes alone. The step, its loss and its gradients stay those of batch_size x gradient_accumulation_steps examples.
                batch_tokens: Option<usize>, in 1..=16_777_216, unit "tokens", memory "activations grow linearly with it, however long the examples are";
                /// Whether the loss is that of the answers alone, as it is unless this is false; otherwise of prompts too, of every token but an example's first. The loss on the eval split is always that of the answers.
                completion_only_loss: Option<bool>, memory "false: logits and their gradient for all tokens instead of the answers', in chunks; time grows with them";
                /// What forward keeps for backward. It changes time and memory, not one bit of the result.
                checkpointing: $crate::llama::Checkpointing = "none", memory "activations of a layer: none keeps all, selective about two thirds, full its input only";
                /// Layers, from the first, that checkpointing = "full" applies to; those behind them are selective. Without it all are: fewer use what memory is left for less time. It changes not one bit of the result.
                full_layers: Option<usize>, in 0..=65536, unit "layers", memory "activations of every layer beyond it, as with selective";
                /// Passes over the training split; need not be whole.
                epochs: f64 = 3.0, in 0.0..=100000.0, unit "epochs";
                /// Optimizer steps, instead of `epochs`.
                max_steps: Option<u64>, in 1..=1_000_000_000, unit "steps";
                /// Examples in an evaluation batch.
                eval_batch_size: usize = 8, in 1..=65536, unit "examples", memory "activations of one layer grow linearly with it";
                /// Steps between evaluations on the eval split; without it there is one, at the end.
                eval_every: Option<u64>, in 1..=1_000_000_000, unit "steps";
                /// Evaluate on the first examples of the eval split only; 0 evaluates nothing.
                eval_examples: Option<usize>, in 0..=1_000_000_000, unit "examples";
                /// Steps between checkpoints; one is also written on Ctrl+C. They are gone once the stage has finished.
                checkpoint_every: u64 = 100, in 1..=1_000_000_000, unit "steps", memory "none; on disk three f32 numbers a trainable parameter";
            }
        }

        impl $name {
            /// The part the loop needs.
            pub fn recipe(&self) -> $crate::train::Recipe {
                $crate::train::Recipe {
                    learning_rate: self.learning_rate,
                    schedule: self.schedule,
                    warmup_steps: self.warmup_steps,
                    weight_decay: self.weight_decay,
                    adam_beta1: self.adam_beta1,
                    adam_beta2: self.adam_beta2,
                    adam_epsilon: self.adam_epsilon,
                    max_grad_norm: self.max_grad_norm,
                    batch_size: self.batch_size,
                    gradient_accumulation_steps: self.gradient_accumulation_steps,
                    batch_tokens: self.batch_tokens,
                    // Absent by default, so that keys from before it are found.
                    completion_only_loss: self.completion_only_loss.unwrap_or(true),
                    checkpointing: self.checkpointing,
                    full_layers: self.full_layers,
                    optimizer_states: $crate::train::recipe::OptimizerStates::F32,
                    epochs: self.epochs,
                    max_steps: self.max_steps,
                    eval_batch_size: self.eval_batch_size,
                    eval_every: self.eval_every,
                    eval_examples: self.eval_examples,
                    checkpoint_every: self.checkpoint_every,
                }
            }
        }
    };
}
pub(crate) use recipe_params;
