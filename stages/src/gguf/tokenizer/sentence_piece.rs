//! SentencePiece's BPE as Llama and Llama 2 have it: blanks are "▁", what has no token is spelt in bytes.
//!
//! The file has a score for each piece, `tokenizer.json` wants a list of merges: every way to cut a piece in two pieces,
//! best score first. This is the list that Hugging Face's converter makes, so ids are those of Llama 2's own file.
use super::{Kind, Vocabulary, post_processor};
use crate::gguf::metadata::Metadata;
use crate::gguf::special::SpecialIds;
use anneal_engine::Failure;
use serde_json::{Value, json};

const SCORES: &str = "tokenizer.ggml.scores";
/// Longest piece that is looked at for merges, bytes; the work grows with its square. Trained vocabularies stop at 64.
const MAX_PIECE: usize = 256;
/// Most merges for each piece, on average: Llama 2 has two. Pieces that all are pieces of each other would have as many
/// as they have characters, and take far more memory than the file.
const MAX_MERGES: usize = 16;

/// `tokenizer.json`.
pub(super) fn tokenizer(meta: &Metadata, vocabulary: &Vocabulary<'_>, special: &SpecialIds) -> Result<Value, Failure> {
    for key in ["tokenizer.ggml.precompiled_charsmap"] {
        if meta.contains(key) {
            return Err(meta.fault(key, "is there; only tokenizers that leave characters as they are can be read"));
        }
    }
    if meta.flag("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
        let what = "is true; only tokenizers that keep white space can be read";
        return Err(meta.fault("tokenizer.ggml.remove_extra_whitespaces", what));
    }
    let prefix = meta.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let bytes = vocabulary.kinds.iter().filter(|kind| **kind == Kind::Byte).count();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": post_processor(meta, vocabulary, special, true)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": vocabulary.text(special.unk),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": bytes == 256,
            "ignore_merges": false,
            "vocab": vocabulary.json(),
            "merges": merges(meta, vocabulary)?,
        },
    }))
}

fn merges(meta: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, Failure> {
    let scores = meta.require(SCORES, meta.floats(SCORES)?)?;
    if scores.len() != vocabulary.tokens.len() {
        let what = format!("has {} entries for {} tokens", scores.len(), vocabulary.tokens.len());
        return Err(meta.fault(SCORES, what));
    }
    // Only normal pieces come about by merging; the others are recognised as a whole, or spelt.
    let normal = |piece: &str| vocabulary.ids.get(piece).copied().filter(|id| vocabulary.kinds[*id] == Kind::Normal);
    let mut merges = Vec::new();
    for (id, piece, _) in vocabulary.used().filter(|(.., kind)| *kind == Kind::Normal) {
        if piece.len() > MAX_PIECE {
            return Err(meta.fault("tokenizer.ggml.tokens", format!("has a piece of {} bytes at {id}", piece.len())));
        }
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let mut found: Vec<_> =
            cuts.filter_map(|(left, right)| Some(((normal(left)?, normal(right)?), left, right))).collect();
        found.sort_unstable_by_key(|(ids, ..)| *ids);
        merges.extend(found.into_iter().map(|(_, left, right)| (scores[id], left, right)));
        if merges.len() > MAX_MERGES * vocabulary.tokens.len() {
            let what = format!("can be merged in more than {} ways: no trained vocabulary", merges.len() - 1);
            return Err(meta.fault("tokenizer.ggml.tokens", what));
        }
    }
    // Of equal scores the longer left part comes first, then the longer right one; Llama 2's runs of blanks all have one
    // score. Stable, so of what is still equal the lower id.
    let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| lengths(b.1, b.2).cmp(&lengths(a.1, a.2))));
    Ok(merges.into_iter().map(|(_, left, right)| json!([left, right])).collect())
}
