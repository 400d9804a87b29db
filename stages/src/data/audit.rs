//! The label audit: what must hold of every example before a model may learn from it. Unaware of data sets.

use std::ops::Range;

use super::encoder::{Encoded, Encoder};

/// How often the BOS must stand in an example: as often as the template and tokenizer put it around empty turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bos(pub(super) usize);

/// Checks one example; `text` is the conversation's, `prompt_bytes` the length of the prompt's text within it.
///
/// # Errors
/// What is wrong and what to do next.
pub(super) fn audit(
    encoder: &Encoder,
    bos: Bos,
    example: &Encoded,
    text: &str,
    prompt_bytes: usize,
    response: &str,
) -> Result<(), String> {
    check_bos(encoder, bos, &example.ids)?;
    audit_labels(encoder, &example.ids, example.labels.clone(), text, prompt_bytes, response)
}

/// Checks that the labelled ids are `response` and its end token, which begin at byte `prompt_bytes` of `text`.
///
/// # Errors
/// What is wrong and what to do next.
pub(super) fn audit_labels(
    encoder: &Encoder,
    ids: &[u32],
    labels: Range<usize>,
    text: &str,
    prompt_bytes: usize,
    response: &str,
) -> Result<(), String> {
    let labelled = &ids[labels];
    let end = encoder.end;
    if labelled.len() < 2 || labelled.last() != Some(&end) {
        return Err("no token of its answer is labelled; its response is empty".to_owned());
    }
    if let Some(pad) = encoder.pad.filter(|&pad| pad != end && labelled.contains(&pad)) {
        return Err(format!("its answer holds the padding token (id {pad}); padding must not be learnt"));
    }

    // What the template made of the response, up to and with its end token (which plain text has only as an id).
    let after = text.get(prompt_bytes..).unwrap_or("");
    let lead = after.len() - after.trim_start().len();
    let rest = after[lead..].strip_prefix(response.trim()).ok_or("the chat template changes its response")?;
    let gap = rest.split(encoder.end_text.as_str()).next().unwrap_or("");
    let body = &after[..after.len() - rest.len() + gap.len()];
    let decoded = encoder.decode(labelled, false).map_err(|error| error.to_string())?;
    let expected = format!("{body}{}", encoder.end_text);
    // Llama 2's decoder takes one space off the front of whatever it decodes.
    let same = decoded == expected || Some(decoded.as_str()) == expected.strip_prefix(' ');
    if !same || !gap.trim().is_empty() {
        return Err(format!(
            "its labels read {decoded:?}, not {expected:?}; the tokenizer loses part of the answer, or the answer \
             holds a special token"
        ));
    }
    Ok(())
}

/// Checks that the BOS stands where and as often as it should.
///
/// # Errors
/// What is wrong and what to do next.
pub(super) fn check_bos(encoder: &Encoder, Bos(expected): Bos, ids: &[u32]) -> Result<(), String> {
    let Some(bos) = encoder.bos else { return Ok(()) };
    let found = ids.iter().filter(|&&id| id == bos).count();
    if found != expected {
        return Err(format!(
            "the beginning-of-text token (id {bos}) stands {found} times in it where the template has {expected}; \
             remove the token's text from the question or its context"
        ));
    }
    if expected > 0 && (ids.first() != Some(&bos) || ids.get(1) == Some(&bos)) {
        return Err(format!(
            "it does not begin with exactly one beginning-of-text token (id {bos}); correct the chat template"
        ));
    }
    Ok(())
}
