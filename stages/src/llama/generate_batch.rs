//! Generation of many answers at once, without padding: prompts are prefilled in turn and join those that decode; where
//! one ends the next takes its place.
//!
//! The first prompt of a group is prefilled alone, behind what it shares with the group before; the others together,
//! behind what they share with it. What an answer is depends on its own prompt, key and limits only. Unaware of text.
use super::generate::{Ending, Generated, Limits, Request};
use super::model::{Cache, Decoder, Feed, Model};
use crate::failure::OrFail;
use anneal_engine::{Failure, FailureClass};
use anneal_ops::{Act, ArgmaxKernel, Backend, NextIds};
use std::collections::VecDeque;

/// Prompt tokens that one pass takes at most, unless a single prompt has more.
const PREFILL_TOKENS: usize = 2048;

/// A failure, with the request at fault where it is known.
pub type Fault = (Option<usize>, Failure);

/// Told after every pass how many answers are done; its error stops.
pub type Progress<'a> = &'a mut dyn FnMut(usize) -> Result<(), Failure>;

/// A prompt in a cache, for those that begin like it.
pub(super) struct Base<B: Backend> {
    ids: Vec<u32>,
    /// `None`: no further request belongs to it.
    group: Option<usize>,
    cache: Cache<B>,
}

impl<B: Backend> Base<B> {
    /// No further request is of this group.
    pub(super) fn close(&mut self) {
        self.group = None;
    }
}

/// A sequence that decodes.
struct Active<B: Backend> {
    request: usize,
    cache: Cache<B>,
    ids: Vec<u32>,
    reused: usize,
    /// Most new tokens, by the limit and by the model's positions.
    room: usize,
}

/// The answers to all requests, in their order. Requests of one group must follow one another.
///
/// # Errors
/// An id out of range, an empty prompt, one that is longer than the model's positions; logits that are not finite; no
/// memory; with the request at fault where it is known.
pub fn generate<B: Backend>(
    model: &Model<B>,
    requests: &[Request<'_>],
    limits: &Limits<'_>,
    progress: Progress<'_>,
) -> Result<Vec<Generated>, Fault> {
    run(model, requests, limits, &mut None, progress)
}

/// As [`generate`], with a base from before and for afterwards.
pub(super) fn run<B: Backend>(
    model: &Model<B>,
    requests: &[Request<'_>],
    limits: &Limits<'_>,
    base: &mut Option<Base<B>>,
    progress: Progress<'_>,
) -> Result<Vec<Generated>, Fault> {
    let waiting = (0..requests.len()).collect();
    let finished = requests.iter().map(|_| None).collect();
    let decoder = model.decoder().or_fail().map_err(alone)?;
    let mut work = Work { model, requests, limits, base, waiting, active: Vec::new(), finished, decoder };
    while !work.waiting.is_empty() || !work.active.is_empty() {
        while work.active.len() < limits.sequences.max(1) && !work.waiting.is_empty() {
            work.prefill()?;
            work.tell(progress)?;
        }
        if !work.active.is_empty() {
            work.decode()?;
            work.tell(progress)?;
        }
    }
    let answers = work.finished.into_iter().collect::<Option<Vec<_>>>();
    answers.ok_or_else(|| (None, Failure::bug("a prompt was left without an answer")))
}

fn alone(failure: Failure) -> Fault {
    (None, failure)
}

struct Work<'a, B: Backend> {
    model: &'a Model<B>,
    requests: &'a [Request<'a>],
    limits: &'a Limits<'a>,
    base: &'a mut Option<Base<B>>,
    waiting: VecDeque<usize>,
    active: Vec<Active<B>>,
    finished: Vec<Option<Generated>>,
    decoder: Decoder<'a, B>,
}

impl<B: Backend> Work<'_, B> {
    fn tell(&self, progress: &mut dyn FnMut(usize) -> Result<(), Failure>) -> Result<(), Fault> {
        progress(self.finished.iter().flatten().count()).map_err(alone)
    }

    /// How many tokens of a prompt the base has. The last is always computed: its logits are needed.
    fn reused(&self, prompt: &[u32]) -> usize {
        let Some(base) = self.base.as_ref().filter(|_| self.limits.prefix_sharing) else { return 0 };
        let common = base.ids.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        common.min(prompt.len().saturating_sub(1)) / Model::<B>::aligned() * Model::<B>::aligned()
    }

    /// Whether the request that waits at `index` is the first of a group whose others wait behind it.
    fn leads(&self, index: usize) -> bool {
        let group = |index: usize| self.waiting.get(index).map(|request| self.requests[*request].group);
        let base = self.base.as_ref().map(|base| base.group);
        base != Some(group(index)) && (group(index) == group(index + 1) || self.requests.len() == 1)
    }

    /// Takes the requests that go next off the queue, and says whether they are one that others will share.
    fn wave(&mut self) -> (Vec<usize>, bool) {
        if self.limits.prefix_sharing && self.leads(0) {
            return (self.waiting.pop_front().into_iter().collect(), true);
        }
        let free = self.limits.sequences.max(1) - self.active.len();
        let (mut wave, mut tokens) = (Vec::new(), 0);
        while wave.len() < free
            && let Some(next) = self.waiting.front()
            && !(self.limits.prefix_sharing && self.leads(0))
        {
            let prompt = self.requests[*next].prompt;
            tokens += prompt.len() - self.reused(prompt);
            if tokens > PREFILL_TOKENS && !wave.is_empty() {
                break;
            }
            wave.extend(self.waiting.pop_front());
        }
        (wave, false)
    }

    /// Prefills what goes next and takes its first tokens.
    fn prefill(&mut self) -> Result<(), Fault> {
        let (wave, shared) = self.wave();
        let (mut sequences, mut feeds) = (Vec::new(), Vec::new());
        let window = self.model.config().max_position_embeddings;
        for request in wave {
            let prompt = self.requests[request].prompt;
            let Some(left) = window.checked_sub(prompt.len()) else {
                let message = format!("the prompt has {} tokens, the model's window {window}", prompt.len());
                return Err((Some(request), Failure::user(message)));
            };
            let room = left.min(self.limits.max_new_tokens);
            let sequence = Active { request, cache: self.model.empty_cache(), ids: Vec::new(), reused: 0, room };
            if room == 0 {
                self.finish(sequence);
                continue;
            }
            let reused = self.reused(prompt);
            let mut cache = match self.base.as_ref().filter(|_| reused > 0) {
                Some(base) => base.cache.clone(),
                None => sequence.cache,
            };
            for layer in &mut cache {
                layer.truncate(reused);
                layer.reserve(prompt.len() + room);
            }
            sequences.push(Active { cache, reused, ..sequence });
            feeds.push(&prompt[reused..]);
        }
        if sequences.is_empty() {
            return Ok(());
        }
        // Which is at fault can be told only where there is one.
        let at = if feeds.len() == 1 { sequences.first().map(|sequence| sequence.request) } else { None };
        let mut caches: Vec<&mut Cache<B>> = sequences.iter_mut().map(|sequence| &mut sequence.cache).collect();
        let rows = self.model.prefill(&feeds, &mut caches).or_fail().map_err(|failure| (at, failure))?;
        if shared && let Some(sequence) = sequences.first() {
            let Request { prompt, group, .. } = self.requests[sequence.request];
            *self.base = Some(Base { ids: prompt.to_vec(), group: Some(group), cache: sequence.cache.clone() });
        }
        let ids = self.choose(&rows, &sequences)?;
        for (sequence, id) in sequences.into_iter().zip(ids) {
            self.take(sequence, &[id])?;
        }
        Ok(())
    }

    /// The next token of each of these sequences, on the host.
    fn choose(&self, rows: &Act<B>, sequences: &[Active<B>]) -> Result<Vec<Option<u32>>, Fault> {
        let Some(sampling) = self.limits.sampling else {
            return self.model.most_likely(rows).and_then(|next| next.read_each()).or_fail().map_err(alone);
        };
        let logits = self.model.head_logits(rows).or_fail().map_err(alone)?;
        let each = logits.chunks(self.model.config().vocab_size.max(1)).zip(sequences);
        Ok(each.map(|(row, of)| sampling.choose(row, self.requests[of.request].key, of.ids.len())).collect())
    }

    /// Some steps of all active sequences; the host looks at their tokens after the last. A sequence that has ended before
    /// goes on until then, and what it says is not looked at.
    fn decode(&mut self) -> Result<(), Fault> {
        let room = self.active.iter().map(|sequence| sequence.room - sequence.ids.len()).min().unwrap_or(1);
        let steps = if self.limits.sampling.is_some() { 1 } else { room.min(<B as ArgmaxKernel>::READ_EVERY) };
        let last: Vec<u32> = self.active.iter().filter_map(|sequence| sequence.ids.last().copied()).collect();
        let mut active = std::mem::take(&mut self.active);
        let mut caches: Vec<&mut Cache<B>> = active.iter_mut().map(|sequence| &mut sequence.cache).collect();
        let mut chosen: Vec<NextIds<B>> = Vec::with_capacity(steps);
        let mut rows = None;
        for _ in 0..steps.max(1) {
            let feed = chosen.last().map_or(Feed::Ids(&last), Feed::Next);
            let next = self.decoder.step(feed, &mut caches).or_fail().map_err(alone)?;
            if self.limits.sampling.is_none() {
                chosen.push(self.model.most_likely(&next).or_fail().map_err(alone)?);
            }
            rows = Some(next);
        }
        let mut ids: Vec<Vec<Option<u32>>> = Vec::with_capacity(steps);
        for next in &chosen {
            ids.push(next.read_each().or_fail().map_err(alone)?);
        }
        if let (Some(rows), true) = (&rows, self.limits.sampling.is_some()) {
            ids.push(self.choose(rows, &active)?);
        }
        for (at, sequence) in active.into_iter().enumerate() {
            let own: Vec<Option<u32>> = ids.iter().map(|step| step.get(at).copied().flatten()).collect();
            self.take(sequence, &own)?;
        }
        Ok(())
    }

    /// Takes the next tokens of a sequence, which then goes on or has finished.
    fn take(&mut self, mut sequence: Active<B>, ids: &[Option<u32>]) -> Result<(), Fault> {
        for id in ids {
            let request = sequence.request;
            let Some(id) = *id else {
                let tokens = self.requests[request].prompt.len() + sequence.ids.len();
                return Err((Some(request), not_finite(tokens)));
            };
            if self.limits.end.contains(&id) {
                self.done(sequence, Ending::Token);
                return Ok(());
            }
            sequence.ids.push(id);
            if let Some(stop) = self.limits.stop
                && stop(&sequence.ids).map_err(|failure| (Some(request), failure))?
            {
                self.done(sequence, Ending::Stop);
                return Ok(());
            }
            if sequence.ids.len() >= sequence.room {
                self.finish(sequence);
                return Ok(());
            }
        }
        self.active.push(sequence);
        Ok(())
    }

    /// The sequence has all the tokens that it may have.
    fn finish(&mut self, sequence: Active<B>) {
        let ending = if sequence.room < self.limits.max_new_tokens { Ending::Window } else { Ending::Limit };
        self.done(sequence, ending);
    }

    fn done(&mut self, sequence: Active<B>, ending: Ending) {
        if let Some(slot) = self.finished.get_mut(sequence.request) {
            *slot = Some(Generated { ids: sequence.ids, ending, reused: sequence.reused });
        }
    }
}

fn not_finite(tokens: usize) -> Failure {
    let message = format!("the model's logits after {tokens} tokens are not finite");
    Failure::new(FailureClass::Nan, message).hint(
        "its weights hold NaN or infinite numbers: look at the loss of the stage that made them, or copy the model again",
    )
}
