//! Greedy generation of many prompts at once: one forward pass a token for all of them, as a GPU wants it.
//!
//! A prompt is prefilled by itself, behind as much of the one before as their ids agree, and joins those that decode;
//! where one ends the next takes its place. Unaware of text.
use super::generate::Generated;
use super::model::{Cache, Model};
use crate::failure::OrFail;
use anneal_engine::Failure;
use anneal_ops::{Backend, LayerCache, OpError};
use std::collections::VecDeque;

/// When generation ends.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Ids that end an answer and are no part of it.
    pub eos: &'a [u32],
    /// Most sequences that decode together; their caches are in memory at once.
    pub sequences: usize,
}

/// A sequence that decodes.
struct Active<B: Backend> {
    prompt: usize,
    cache: Cache<B>,
    ids: Vec<u32>,
    reused: usize,
    /// Most new tokens, by the limit and by the model's positions.
    room: usize,
}

/// The most likely continuation of every prompt, in their order (ties: the lowest id). `progress` is told after every token how
/// many are done; its error stops. None of the prompts may be empty.
///
/// # Errors
/// An id out of range, an empty prompt; logits that are NaN; no memory; with the prompt at fault where it is known.
pub fn greedy_batch<B: Backend>(
    model: &Model<B>,
    prompts: &[&[u32]],
    limits: &Limits<'_>,
    progress: &mut dyn FnMut(usize) -> Result<(), Failure>,
) -> Result<Vec<Generated>, (Option<usize>, Failure)> {
    let mut waiting: VecDeque<usize> = (0..prompts.len()).collect();
    let mut active: Vec<Active<B>> = Vec::new();
    let mut finished: Vec<Option<Generated>> = prompts.iter().map(|_| None).collect();
    let mut before: Option<(usize, Cache<B>)> = None;
    while !waiting.is_empty() || !active.is_empty() {
        while active.len() < limits.sequences.max(1)
            && let Some(index) = waiting.pop_front()
        {
            let ids = prompts[index];
            let (mut cache, reused) = match &before {
                Some((earlier, cache)) => behind(cache, prompts[*earlier], ids),
                None => (model.empty_cache(), 0),
            };
            let next = model.next_tokens(&[&ids[reused..]], &mut [&mut cache]).or_fail();
            let next = next.map_err(|failure| (Some(index), failure))?;
            before = Some((index, cache.clone()));
            let room = model.config().max_position_embeddings.saturating_sub(ids.len()).min(limits.max_new_tokens);
            let sequence = Active { prompt: index, cache, ids: Vec::new(), reused, room };
            take(sequence, next[0], limits, &mut active, &mut finished);
        }
        let last: Vec<[u32; 1]> = active.iter().filter_map(|sequence| sequence.ids.last().map(|id| [*id])).collect();
        let feeds: Vec<&[u32]> = last.iter().map(|id| id.as_slice()).collect();
        if !feeds.is_empty() {
            let mut caches: Vec<&mut Cache<B>> = active.iter_mut().map(|sequence| &mut sequence.cache).collect();
            let next = model.next_tokens(&feeds, &mut caches).or_fail().map_err(|failure| (None, failure))?;
            for (sequence, id) in std::mem::take(&mut active).into_iter().zip(next) {
                take(sequence, id, limits, &mut active, &mut finished);
            }
        }
        progress(finished.iter().flatten().count()).map_err(|failure| (None, failure))?;
    }
    let answers = finished.into_iter().collect::<Option<Vec<_>>>();
    answers.ok_or_else(|| (None, Failure::bug("a prompt was left without an answer")))
}

/// A copy of a cache that holds `earlier`, cut to what `prompt` begins with, and its length. The last token of a prompt
/// is always computed: its logits are needed.
fn behind<B: Backend>(cache: &Cache<B>, earlier: &[u32], prompt: &[u32]) -> (Cache<B>, usize) {
    let common = earlier.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    let reused = common.min(prompt.len().saturating_sub(1));
    let mut cache = cache.clone();
    cache.iter_mut().for_each(|layer: &mut LayerCache<B>| layer.truncate(reused));
    (cache, reused)
}

/// Takes the next id of a sequence, which then goes on or has finished.
fn take<B: Backend>(
    mut sequence: Active<B>,
    id: u32,
    limits: &Limits<'_>,
    active: &mut Vec<Active<B>>,
    finished: &mut [Option<Generated>],
) {
    let ended = limits.eos.contains(&id) && sequence.room > 0;
    if !ended && sequence.ids.len() < sequence.room {
        sequence.ids.push(id);
    }
    if !ended && sequence.ids.len() < sequence.room {
        active.push(sequence);
    } else if let Some(slot) = finished.get_mut(sequence.prompt) {
        *slot = Some(Generated { ids: sequence.ids, ended, reused: sequence.reused });
    }
}

impl<B: Backend> Model<B> {
    /// Feeds more tokens of several sequences, each with its cache, and returns the most likely token after the last of
    /// each. Logits never leave the device.
    ///
    /// # Errors
    /// A sequence without a token, an id out of range, more tokens than positions; NaN among the logits; no memory.
    pub fn next_tokens(&self, feeds: &[&[u32]], caches: &mut [&mut Cache<B>]) -> Result<Vec<u32>, OpError> {
        let mut rows = Vec::with_capacity(feeds.len());
        let (mut ids, mut positions, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for (feed, cache) in feeds.iter().zip(caches.iter()) {
            if feed.is_empty() {
                return Err(OpError::argument("next_tokens", "a sequence has no new token"));
            }
            let seen = cache.first().map_or(0, LayerCache::len) as u32;
            ids.extend_from_slice(feed);
            positions.extend(seen..seen + feed.len() as u32);
            last.push(ids.len() as u32 - 1);
            rows.push(feed.len());
        }
        let x = self.hidden_cached(&ids, &positions, caches, &rows)?;
        self.most_likely(&x, &last)
    }
}
