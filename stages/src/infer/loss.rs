//! The loss on the reference answers: what trainers measure on the eval split, for a model that nobody trained too.
//!
//! Sample by sample, so that a row's numbers depend on its own sample only. Unaware of generated answers.
use super::interrupted;
use crate::data::token_set::TokenSet;
use crate::failure::OrFail;
use crate::gpu::Watch;
use crate::llama::{Batch, Model};
use anneal_engine::event::Event;
use anneal_engine::{Failure, FailureClass, StageContext};
use anneal_ops::{Backend, NoneTape};

/// Of one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GoldLoss {
    /// Sum of the negative log-likelihoods of the reference answer's tokens.
    pub(super) nll: f64,
    /// How many there are.
    pub(super) tokens: usize,
}

/// The losses of the chosen samples, in their order; also records their mean over all tokens and its exponential.
///
/// # Errors
/// A loss is not finite; no memory; somebody asked to stop.
pub(super) fn measure<B: Backend>(
    context: &StageContext<'_>,
    watch: &Watch<'_, '_>,
    model: &Model<B>,
    tokens: &TokenSet,
    chosen: &[usize],
) -> Result<Vec<GoldLoss>, Failure> {
    let mut losses = Vec::with_capacity(chosen.len());
    for index in chosen {
        if (context.stop)() {
            return Err(interrupted());
        }
        let batch = Batch::pack([tokens.example(*index)])?;
        let (loss, _) = model.loss(&batch, 1.0, NoneTape, None).or_fail()?;
        if !loss.sum.is_finite() {
            let uid = &tokens.examples[*index].uid;
            let message = format!("sample {uid}: the loss on its reference answer is {}", loss.sum);
            return Err(Failure::new(FailureClass::Nan, message)
                .hint("the model's weights may be damaged; set eval_loss = false to answer without it"));
        }
        losses.push(GoldLoss { nll: loss.sum, tokens: loss.count });
        let (done, total) = (losses.len() as u64, chosen.len() as u64);
        (context.emit)(Event::Progress { done, total, unit: "losses".into() });
        watch.poll();
    }
    let nll: f64 = losses.iter().map(|loss| loss.nll).sum();
    let mean = nll / losses.iter().map(|loss| loss.tokens).sum::<usize>().max(1) as f64;
    context.metric("eval_loss", mean);
    context.metric("perplexity", mean.exp());
    Ok(losses)
}
