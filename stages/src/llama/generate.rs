//! Greedy generation with a key-value cache that is kept from one prompt to the next as far as their ids agree.
//!
//! Questions on one context share most of their prompt, so only the rest is computed again. Unaware of text.
use super::model::{Cache, Model};
use crate::failure::OrFail;
use anneal_engine::{Failure, FailureClass};
use anneal_ops::{Backend, LayerCache, OpError, argmax};

/// Generates for one prompt after the other.
pub struct Generator<'a, B: Backend> {
    model: &'a Model<B>,
    cache: Cache<B>,
    /// Ids whose keys and values the cache holds.
    cached: Vec<u32>,
}

/// One generated answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The ids, without the end token.
    pub ids: Vec<u32>,
    /// An end token was reached, not the limit.
    pub ended: bool,
    /// Prompt tokens that were already in the cache.
    pub reused: usize,
}

impl<'a, B: Backend> Generator<'a, B> {
    /// A generator with an empty cache.
    pub fn new(model: &'a Model<B>) -> Self {
        Self { cache: model.empty_cache(), cached: Vec::new(), model }
    }

    /// The most likely continuation, token by token (ties: the lowest id), until one of `eos`, `max_new_tokens`, or
    /// the model's last position. `prompt` must not be empty.
    ///
    /// # Errors
    /// An id out of range, an empty prompt; logits that are not finite, which have no largest; no memory.
    pub fn greedy(&mut self, prompt: &[u32], max_new_tokens: usize, eos: &[u32]) -> Result<Generated, Failure> {
        let common = self.cached.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last prompt token is always computed: its logits are needed.
        let reused = common.min(prompt.len().saturating_sub(1));
        self.truncate(reused);
        let mut logits = self.feed(&prompt[reused..]).or_fail()?;
        let room = self.model.config().max_position_embeddings.saturating_sub(prompt.len());
        let mut ids = Vec::new();
        let mut ended = false;
        for step in 0..max_new_tokens.min(room) {
            if step > 0 {
                logits = self.feed(&ids[step - 1..]).or_fail()?;
            }
            if !logits.iter().all(|logit| logit.is_finite()) {
                let message = format!("the model's logits after {} tokens are not finite", prompt.len() + step);
                return Err(Failure::new(FailureClass::Nan, message).hint(
                    "its weights hold NaN or infinite numbers: look at the loss of the stage that made them, or copy \
                     the model again",
                ));
            }
            let id = argmax(&logits).or_fail()? as u32;
            if eos.contains(&id) {
                ended = true;
                break;
            }
            ids.push(id);
        }
        Ok(Generated { ids, ended, reused })
    }

    fn feed(&mut self, ids: &[u32]) -> Result<Vec<f32>, OpError> {
        let logits = self.model.next_logits(ids, &mut self.cache)?;
        self.cached.extend_from_slice(ids);
        Ok(logits)
    }

    fn truncate(&mut self, len: usize) {
        self.cached.truncate(len);
        self.cache.iter_mut().for_each(|layer: &mut LayerCache<B>| layer.truncate(len));
    }
}
