//! What is asked of generation and what comes of it, and a generator of one answer at a time.
//!
//! Unaware of text.
use super::generate_batch::{Base, run};
use super::model::Model;
use super::sampling::Sampling;
use anneal_engine::Failure;
use anneal_ops::Backend;

/// One prompt to go on from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its ids; at least one.
    pub prompt: &'a [u32],
    /// Prompts of one group share most of their beginning, and follow one another.
    pub group: usize,
    /// Names its random numbers.
    pub key: &'a str,
}

/// Says whether an answer with these ids has reached its end.
pub type Stop<'a> = dyn Fn(&[u32]) -> Result<bool, Failure> + 'a;

/// How generation goes and when it ends.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Ids that end an answer and are no part of it.
    pub end: &'a [u32],
    /// Asked after every token whether the answer so far has reached its end.
    pub stop: Option<&'a Stop<'a>>,
    /// Draws tokens; without it each is the most likely (ties: the lowest id).
    pub sampling: Option<&'a Sampling>,
    /// Most sequences that decode together; their caches are in memory at once. Changes no answer.
    pub sequences: usize,
    /// What prompts of a group share is computed once. Changes no answer.
    pub prefix_sharing: bool,
}

impl<'a> Limits<'a> {
    /// The most likely tokens, up to so many and to one of `end`.
    pub fn greedy(max_new_tokens: usize, end: &'a [u32]) -> Self {
        Self { max_new_tokens, end, stop: None, sampling: None, sequences: 64, prefix_sharing: true }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With an end token.
    Token,
    /// [`Limits::stop`] said so.
    Stop,
    /// It has [`Limits::max_new_tokens`].
    Limit,
    /// The model has no position for another token.
    Window,
}

/// One generated answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The ids, without the end token.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub ending: Ending,
    /// Prompt tokens that were already in a cache.
    pub reused: usize,
}

impl Generated {
    /// It came to an end by itself: nothing was cut off.
    pub fn ended(&self) -> bool {
        matches!(self.ending, Ending::Token | Ending::Stop)
    }
}

/// Generates for one prompt after the other; what a prompt shares with the one before is not computed again.
pub struct Generator<'a, B: Backend> {
    model: &'a Model<B>,
    base: Option<Base<B>>,
}

impl<'a, B: Backend> Generator<'a, B> {
    /// A generator with an empty cache.
    pub fn new(model: &'a Model<B>) -> Self {
        Self { model, base: None }
    }

    /// The most likely continuation (ties: the lowest id), until one of `end`, `max_new_tokens`, or the model's last
    /// position. `prompt` must not be empty.
    ///
    /// # Errors
    /// An id out of range, an empty prompt; logits that are not finite, which have no largest; no memory.
    pub fn greedy(&mut self, prompt: &[u32], max_new_tokens: usize, end: &[u32]) -> Result<Generated, Failure> {
        let request = Request { prompt, group: 0, key: "" };
        // Another group's base is cut where this prompt differs, and replaced.
        self.base.iter_mut().for_each(Base::close);
        let generated =
            run(self.model, &[request], &Limits::greedy(max_new_tokens, end), &mut self.base, &mut |_| Ok(()));
        let answer = generated.map_err(|(_, failure)| failure)?.pop();
        answer.ok_or_else(|| Failure::bug("a prompt was left without an answer"))
    }
}
