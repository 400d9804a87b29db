//! Byte-level BPE: a rule that splits a text, then merges inside each part.
//!
//! The rules are those that the models' own `tokenizer.json` files have; the file only names them.
use super::{Vocabulary, post_processor};
use crate::gguf::metadata::Metadata;
use crate::gguf::special::SpecialIds;
use anneal_engine::Failure;
use serde_json::{Value, json};

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// How Llama 3 splits: contractions, words with what stands before them, up to three digits, punctuation, white space.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What the name of a splitting rule stands for.
struct Rule {
    pre_tokenizer: Value,
    /// A part that is a token as it stands is that token, whatever the merges would make of it.
    ignore_merges: bool,
    /// A text begins with BOS unless the file says otherwise.
    adds_bos: bool,
}

fn rule(meta: &Metadata) -> Result<Rule, Failure> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let sequence = |first: Value, bytes: Value| json!({"type": "Sequence", "pretokenizers": [first, bytes]});
    match meta.text(PRE)? {
        Some("smollm") => Ok(Rule {
            pre_tokenizer: sequence(json!({"type": "Digits", "individual_digits": true}), bytes(true)),
            ignore_merges: false,
            adds_bos: false,
        }),
        Some("llama-bpe" | "llama3" | "llama-v3") => {
            let split = json!({"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false});
            Ok(Rule { pre_tokenizer: sequence(split, bytes(false)), ignore_merges: true, adds_bos: true })
        }
        other => {
            let what = format!(
                "is {}; known are \"smollm\" and \"llama-bpe\"",
                other.map_or("absent".to_owned(), |name| format!("{name:?}"))
            );
            let hint = "use the Hugging Face folder of this model, whose tokenizer.json says how texts are split";
            Err(meta.fault(PRE, what).hint(hint))
        }
    }
}

/// `tokenizer.json`.
pub(super) fn tokenizer(meta: &Metadata, vocabulary: &Vocabulary<'_>, special: &SpecialIds) -> Result<Value, Failure> {
    let rule = rule(meta)?;
    let listed = meta.require(MERGES, meta.texts(MERGES)?)?;
    let mut merges = Vec::with_capacity(listed.len());
    for (number, merge) in listed.iter().enumerate() {
        // The byte-level alphabet has no blank, so there is exactly one: the one between the two parts.
        let parts = merge.split_once(' ').filter(|(left, right)| {
            let joined = || vocabulary.ids.contains_key([*left, *right].concat().as_str());
            vocabulary.ids.contains_key(left) && vocabulary.ids.contains_key(right) && joined()
        });
        let Some((left, right)) = parts else {
            let what = format!("has at {number} {merge:?}, which does not join two tokens into a third");
            return Err(meta.fault(MERGES, what));
        };
        merges.push(json!([left, right]));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": null,
        "pre_tokenizer": rule.pre_tokenizer,
        "post_processor": post_processor(meta, vocabulary, special, rule.adds_bos)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rule.ignore_merges,
            "vocab": vocabulary.json(),
            "merges": merges,
        },
    }))
}
