//! Which samples are answered, in which order they are computed, and that their prompts fit the model.
//!
//! Unaware of how answers are made.
use super::params::InferParams;
use crate::data::token_set::TokenSet;
use anneal_engine::Failure;
use std::collections::BTreeMap;

/// Samples that a message names.
const NAMED: usize = 5;

/// Positions of the asked samples in the token set.
///
/// # Errors
/// A sample that is not there. (One that is asked for twice is refused before anything runs.)
pub(super) fn choose(params: &InferParams, tokens: &TokenSet) -> Result<Vec<usize>, Failure> {
    let by_sid: BTreeMap<u64, usize> = tokens.examples.iter().enumerate().map(|(i, e)| (e.sid as u64, i)).collect();
    if params.sids.is_empty() {
        return Ok((0..tokens.examples.len()).collect());
    }
    let unknown: Vec<String> = params.sids.iter().filter(|sid| !by_sid.contains_key(sid)).map(u64::to_string).collect();
    if !unknown.is_empty() {
        let (first, last) = (by_sid.keys().next().copied(), by_sid.keys().last().copied());
        return Err(Failure::user(format!(
            "sids: there is no sample {} in split `{}`",
            unknown.join(", "),
            params.split.name()
        ))
        .hint(format!("its samples are {} to {}", first.unwrap_or_default(), last.unwrap_or_default())));
    }
    Ok(params.sids.iter().filter_map(|sid| by_sid.get(sid).copied()).collect())
}

/// Refuses prompts that leave no room for an answer. A row without one would be scored as a wrong answer, which is worse
/// than none.
///
/// # Errors
/// The samples, their lengths and the model's window.
pub(super) fn require_room(chosen: &[usize], tokens: &TokenSet, window: usize) -> Result<(), Failure> {
    let long: Vec<&usize> = chosen.iter().filter(|index| tokens.prompt(**index).len() >= window).collect();
    if long.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = long
        .iter()
        .take(NAMED)
        .map(|index| format!("sample {} has {}", tokens.examples[**index].sid, tokens.prompt(**index).len()))
        .collect();
    let more = if long.len() > NAMED { format!(" and {} more", long.len() - NAMED) } else { String::new() };
    let message = format!(
        "{} of {} prompts leave no room for an answer: the model's window has {window} tokens, {}{more}",
        long.len(),
        chosen.len(),
        named.join(", ")
    );
    Err(Failure::user(message).hint(format!(
        "set max_length of the `tokenize` stage below {window}, so that long contexts are shortened, or leave these samples \
         out with sids"
    )))
}

/// Positions in `chosen` in the order in which they are computed: context by context.
pub(super) fn by_context(chosen: &[usize], tokens: &TokenSet) -> Vec<usize> {
    let mut order: Vec<usize> = (0..chosen.len()).collect();
    order.sort_by_key(|position| tokens.examples[chosen[*position]].context); // stable
    order
}
