//! THE training loop, shared by LoRA and full fine-tuning: windows of micro-batches, AdamW, schedule, evaluation,
//! checkpoints, and a stop at any step from which the next run goes on bit for bit.
//!
//! The loss of a step is the sum over the labelled tokens of the whole accumulation window divided by their number,
//! so it does not depend on how the window is cut (transformers since 4.46). Unaware of what is saved in the end.
use super::checkpoint::{self, LogRow, Snapshot};
use super::evaluate::eval_loss;
use super::optimizer::Optimizer;
use super::order::Order;
use super::recipe::Recipe;
use super::schedule::Schedule;
use super::writer::Writer;
use crate::data::token_set::TokenSet;
use crate::failure::OrFail;
use crate::gpu::{Watch, watch};
use crate::llama::memory::{Ledger, logits_bytes};
use crate::llama::{Batch, Model};
use crate::random::Stream;
use anneal_engine::event::{Event, Step};
use anneal_engine::{Failure, FailureClass, StageContext, memory};
use anneal_ops::{Backend, Category, Grads, OpTape};
use std::time::{Duration, Instant};

/// What training leaves besides the model.
pub struct Trained<B: Backend> {
    /// A row a step and an evaluation.
    pub log: Vec<LogRow>,
    /// Moments and masters.
    pub optimizer: Optimizer<B>,
}

/// Trains `model` in place.
///
/// # Errors
/// A loss or gradient that is not finite (with step and sample), Ctrl+C (after writing a checkpoint), a full disk, no
/// memory.
pub fn train<B: Backend>(
    context: &StageContext<'_>,
    model: &mut Model<B>,
    recipe: &Recipe,
    train: &TokenSet,
    eval: Option<&TokenSet>,
    mut ledger: Ledger<B>,
) -> Result<Trained<B>, Failure> {
    model.set_checkpointing(recipe.checkpointing, recipe.full_layers);
    let order = Order::new(context.seed, train.len(), recipe.batch_size, recipe.gradient_accumulation_steps);
    let total_steps = recipe.max_steps.unwrap_or_else(|| order.total_steps(recipe.epochs));
    let schedule =
        Schedule { kind: recipe.schedule, peak: recipe.learning_rate, warmup_steps: recipe.warmup_steps, total_steps };
    let device = model.device().clone();
    let parameters = model.trainable_parameters();
    let optimizer = ledger.phase(Category::Optimizer, || Optimizer::new(&device, &parameters, recipe.clone()))?;
    let watch = watch(context);
    let mut run = Run {
        context,
        model,
        recipe,
        train,
        eval,
        order,
        schedule,
        optimizer,
        log: Vec::new(),
        seconds: 0.0,
        ledger,
        watch,
        writer: Writer::default(),
    };
    let first = run.resume().map_err(|failure| run.ledger.explain(failure))?;
    run.ledger.settle(Category::Optimizer)?;
    let steps = run.steps(first);
    steps.map_err(|failure| run.ledger.explain(failure))?;
    run.report();
    run.watch.finish(run.ledger.peak()?);
    for (name, mib) in run.ledger.finish()?.metrics() {
        context.metric(&name, mib);
    }
    Ok(Trained { log: run.log, optimizer: run.optimizer })
}

/// A packed micro-batch and the examples in it.
struct MicroBatch {
    examples: Vec<u32>,
    batch: Batch,
}

struct Run<'a, 'c, B: Backend> {
    context: &'a StageContext<'c>,
    model: &'a mut Model<B>,
    recipe: &'a Recipe,
    train: &'a TokenSet,
    eval: Option<&'a TokenSet>,
    order: Order,
    schedule: Schedule,
    optimizer: Optimizer<B>,
    ledger: Ledger<B>,
    log: Vec<LogRow>,
    watch: Watch<'a, 'c>,
    writer: Writer,
    /// Seconds of training so far, those before a resume included.
    seconds: f64,
}

impl<B: Backend> Run<'_, '_, B> {
    /// Goes back to the latest checkpoint of this key, if there is one. Returns the number of steps already taken.
    fn resume(&mut self) -> Result<u64, Failure> {
        let (found, unreadable) = checkpoint::latest(self.context.checkpoints)?;
        for failure in unreadable {
            self.context.warn(format!("a checkpoint was passed over: {failure}"));
        }
        let Some(snapshot) = found else { return Ok(0) };
        self.optimizer.restore(&mut self.model.trainable_parameters(), &snapshot.tensors)?;
        (self.context.emit)(Event::Checkpoint { step: snapshot.step, resumed: true });
        self.log = snapshot.log;
        self.seconds = snapshot.seconds;
        Ok(snapshot.step)
    }

    fn steps(&mut self, first: u64) -> Result<(), Failure> {
        let total = self.schedule.total_steps;
        let mut grads = Grads::default();
        for index in first..total {
            let started = Instant::now();
            let (batches, labelled) = self.window(index)?;
            self.ledger.begin_step()?;
            let loss = self.accumulate(index, &batches, labelled, &mut grads)?;
            let rows = batches.iter().map(|micro| micro.batch.rows.len()).max().unwrap_or(0);
            self.ledger.after_backward(logits_bytes(self.model, rows, self.model.trains_base()))?;
            let learning_rate = self.schedule.learning_rate(index);
            let mut parameters = self.model.trainable_parameters();
            let grad_norm = self.optimizer.step(&mut parameters, &mut grads, learning_rate, index + 1)?;
            if !grad_norm.is_finite() {
                return Err(not_finite(format!("step {}: grad_norm is {grad_norm} (loss {loss})", index + 1)));
            }
            self.ledger.after_update()?;
            let step = index + 1;
            let seconds = started.elapsed().as_secs_f64();
            self.seconds += seconds;
            let epoch = step as f64 / self.order.steps_per_epoch().max(1) as f64;
            let (loss, learning_rate, norm) = (Some(loss), Some(learning_rate), Some(grad_norm));
            self.log.push(LogRow { step, epoch, loss, learning_rate, grad_norm: norm, eval_loss: None });
            self.emit_step(&batches, labelled, seconds);
            self.watch.poll();
            let written = self.writer.poll()?;
            self.announce(written);
            let last = step == total;
            if last || self.recipe.eval_every.is_some_and(|every| step.is_multiple_of(every)) {
                self.evaluate(step, epoch)?;
            }
            if !last && (self.context.stop)() {
                self.write_checkpoint(step)?;
                self.await_checkpoint()?;
                return Err(Failure::new(FailureClass::Interrupted, format!("stopped after step {step} of {total}"))
                    .hint("run the same command again: training goes on at the next batch"));
            }
            let remaining = Duration::try_from_secs_f64(seconds * (total - step) as f64).unwrap_or(Duration::MAX);
            if step.is_multiple_of(self.recipe.checkpoint_every) && !last && !self.writer.outlasts(remaining) {
                self.write_checkpoint(step)?;
            }
        }
        self.await_checkpoint()
    }

    /// The packed micro-batches of a step and the number of labelled tokens in all of them.
    fn window(&mut self, index: u64) -> Result<(Vec<MicroBatch>, usize), Failure> {
        let mut batches = Vec::new();
        let mut window = self.order.window(index);
        if let Some(limit) = self.recipe.batch_tokens {
            window = cut_by_tokens(&window.concat(), limit, |example| self.train.example(example as usize).0.len());
        }
        let longest = window.iter().flatten().map(|i| self.train.example(*i as usize).0.len()).max().unwrap_or(0);
        let every = vec![1; if self.recipe.completion_only_loss { 0 } else { longest }];
        let labels = |i: &u32| {
            let (ids, answers) = self.train.example(*i as usize);
            (ids, if self.recipe.completion_only_loss { answers } else { every.get(..ids.len()).unwrap_or_default() })
        };
        for examples in window {
            let batch = Batch::pack(examples.iter().map(labels))?;
            batches.push(MicroBatch { examples, batch });
        }
        let labelled = batches.iter().map(|micro| micro.batch.rows.len()).sum::<usize>();
        if labelled == 0 {
            return Err(Failure::user(format!("step {}: no example has a labelled token", index + 1)));
        }
        Ok((batches, labelled))
    }

    /// Forward and backward of a window; returns its loss.
    fn accumulate(
        &self,
        index: u64,
        batches: &[MicroBatch],
        labelled: usize,
        grads: &mut Grads<B>,
    ) -> Result<f64, Failure> {
        let mut sum = 0.0;
        for (number, MicroBatch { examples, batch }) in batches.iter().enumerate() {
            let label = format!("dropout of step {index}, micro-batch {number}");
            let dropout = Stream::new(self.context.seed, &label).key();
            let scale = 1.0 / labelled as f32;
            let (loss, tape) = self.model.loss(batch, scale, OpTape::default(), Some(dropout)).or_fail()?;
            if let Some(row) = loss.first_non_finite {
                let uid = self.uid_of_row(examples, batch.rows.get(row).copied().unwrap_or(0) as usize);
                return Err(not_finite(format!("step {}: the loss of sample {uid} is not finite", index + 1)));
            }
            tape.backward(grads).or_fail()?;
            sum += loss.sum;
        }
        Ok(sum / labelled as f64)
    }

    /// The sample that a row of a packed batch belongs to.
    fn uid_of_row(&self, examples: &[u32], row: usize) -> String {
        let mut end = 0;
        for example in examples {
            end += self.train.example(*example as usize).0.len();
            if row < end {
                return self.train.examples.get(*example as usize).map(|e| e.uid.clone()).unwrap_or_default();
            }
        }
        "?".to_owned()
    }

    fn emit_step(&self, batches: &[MicroBatch], labelled: usize, seconds: f64) {
        let Some(row) = self.log.last() else { return };
        let tokens = batches.iter().map(|micro| micro.batch.ids.len() as u64).sum();
        (self.context.emit)(Event::Step(Step {
            step: row.step,
            total: self.schedule.total_steps,
            loss: row.loss.unwrap_or_default(),
            learning_rate: row.learning_rate.unwrap_or_default(),
            grad_norm: row.grad_norm.unwrap_or_default(),
            tokens,
            labelled_tokens: labelled as u64,
            seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            peak_mib: memory::peak_mib(),
        }));
    }

    fn evaluate(&mut self, step: u64, epoch: f64) -> Result<(), Failure> {
        let examples = self.recipe.eval_examples.unwrap_or(usize::MAX);
        let Some(eval) = self.eval.filter(|_| examples > 0) else { return Ok(()) };
        let started = Instant::now();
        let loss = eval_loss(self.model, eval, self.recipe.eval_batch_size, examples)?;
        if !loss.is_finite() {
            return Err(not_finite(format!("after step {step}: the loss on the eval split is {loss}")));
        }
        let (none, eval_loss) = (None, Some(loss));
        self.log.push(LogRow { step, epoch, loss: none, learning_rate: none, grad_norm: none, eval_loss });
        (self.context.emit)(Event::EvalLoss { step, loss, seconds: started.elapsed().as_secs_f64() });
        Ok(())
    }

    /// Starts one, after the one before.
    fn write_checkpoint(&mut self, step: u64) -> Result<(), Failure> {
        self.await_checkpoint()?;
        let tensors = self.optimizer.snapshot(&self.model.trainable_parameters());
        let snapshot = Snapshot { step, log: self.log.clone(), seconds: self.seconds, tensors };
        self.writer.start(self.context.checkpoints, snapshot)
    }

    fn await_checkpoint(&mut self) -> Result<(), Failure> {
        let written = self.writer.finish()?;
        self.announce(written);
        Ok(())
    }

    fn announce(&self, written: Option<u64>) {
        if let Some(step) = written {
            (self.context.emit)(Event::Checkpoint { step, resumed: false });
        }
    }

    /// Results and measurements for the record.
    fn report(&mut self) {
        let losses: Vec<f64> = self.log.iter().filter_map(|row| row.loss).collect();
        // The mean over the last tenth: one window's loss says little about a run.
        let tail = &losses[losses.len() - losses.len().div_ceil(10)..];
        self.context.metric("train_loss", tail.iter().sum::<f64>() / tail.len().max(1) as f64);
        if let Some(loss) = self.log.iter().rev().find_map(|row| row.eval_loss) {
            self.context.metric("eval_loss", loss);
            self.context.metric("perplexity", loss.exp());
        }
        self.context.metric("train_steps", self.schedule.total_steps as f64);
        self.context.metric("train_seconds", self.seconds);
        let windows = (0..self.schedule.total_steps).flat_map(|step| self.order.window(step)).flatten();
        let tokens: usize = windows.map(|example| self.train.example(example as usize).0.len()).sum();
        self.context.metric("tokens_per_second", tokens as f64 / self.seconds.max(1e-9));
    }
}

/// Examples in their order, cut into micro-batches of at most `limit` tokens; a longer example stands alone.
fn cut_by_tokens(examples: &[u32], limit: usize, tokens: impl Fn(u32) -> usize) -> Vec<Vec<u32>> {
    let mut batches: Vec<Vec<u32>> = Vec::new();
    let mut filled = 0;
    for example in examples {
        let length = tokens(*example);
        match batches.last_mut() {
            Some(batch) if filled + length <= limit => batch.push(*example),
            _ => {
                batches.push(vec![*example]);
                filled = 0;
            }
        }
        filled += length;
    }
    batches
}

fn not_finite(message: String) -> Failure {
    Failure::new(FailureClass::Nan, message)
        .hint("lower learning_rate, raise warmup_steps, or lower max_grad_norm; see grad_norm in the run's events")
}

#[cfg(test)]
mod tests {
    use super::cut_by_tokens;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn micro_batches_fit_and_none_could_take_the_next(lengths in prop::collection::vec(1..40_usize, 0..30), limit in 1..90_usize) {
            let examples: Vec<u32> = (0..lengths.len() as u32).collect();
            let tokens = |example: u32| lengths[example as usize];
            let batches = cut_by_tokens(&examples, limit, tokens);
            prop_assert_eq!(batches.concat(), examples);
            let total = |batch: &[u32]| batch.iter().map(|example| tokens(*example)).sum::<usize>();
            for (i, batch) in batches.iter().enumerate() {
                prop_assert!(total(batch) <= limit || batch.len() == 1);
                if let Some(next) = batches.get(i + 1) {
                    prop_assert!(total(batch) + tokens(next[0]) > limit);
                }
            }
        }
    }
}
