//! Loss on the eval split: the mean over its labelled tokens, whatever the batch size.
//!
//! Unaware of answers and scores; stage `evaluate` has those.
use crate::data::token_set::TokenSet;
use crate::failure::OrFail;
use crate::llama::{Batch, Model};
use anneal_engine::Failure;
use anneal_ops::{Backend, NoneTape};

/// Mean negative log-likelihood of the labelled tokens of the first `examples` examples. Holds no logits of more than
/// a chunk of rows, so memory does not grow with the split.
///
/// # Errors
/// The loss is not finite; no memory.
pub fn eval_loss<B: Backend>(
    model: &Model<B>,
    tokens: &TokenSet,
    batch_size: usize,
    examples: usize,
) -> Result<f64, Failure> {
    let (mut sum, mut count) = (0.0, 0_usize);
    let examples: Vec<usize> = (0..tokens.len().min(examples)).collect();
    for chunk in examples.chunks(batch_size.max(1)) {
        let batch = Batch::pack(chunk.iter().map(|i| tokens.example(*i)))?;
        let (loss, _) = model.loss(&batch, 1.0, NoneTape, None).or_fail()?;
        sum += loss.sum;
        count += loss.count;
    }
    Ok(sum / count.max(1) as f64)
}
