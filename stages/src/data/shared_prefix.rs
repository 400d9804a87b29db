//! Encodes many texts that begin alike at the cost of one: the ids of the common beginning are taken over, and only the
//! rest is encoded. The ids equal those of encoding each text whole, in one call; where that cannot be shown from the
//! tokenizer's parts, each text is encoded whole. Unaware of templates and data sets.
//!
//! Why it is exact. A tokenizer without a normalizer first cuts out its added tokens, then splits each piece into words
//! by a pattern that is matched from left to right, and merges bytes within a word only. A pattern without look-behind
//! and anchors, restarted where a word begins, goes on as it would have. So a text may be cut where a word begins, if
//! the words before it are the same in both texts: a match looks no further than the end of the run of alike characters
//! that it stands in and one character on, which lies well within the [`MARGIN`] of words that both texts still share.

use serde_json::Value;
use tokenizers::Tokenizer;

use super::error::DataError;

/// How many whole words after the cut both texts must share. A run of white space, the longest thing that a pattern
/// looks through, becomes at most three words.
const MARGIN: usize = 8;

/// A text with its ids and the places where it may be cut.
#[derive(Debug)]
pub(super) struct SharedPrefix {
    text: String,
    ids: Vec<u32>,
    /// (byte, position among the ids) where each word begins that joins the one before without a gap.
    words: Vec<(usize, usize)>,
}

impl SharedPrefix {
    /// Encodes `text` in one call and notes its words.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`].
    pub(super) fn new(tokenizer: &Tokenizer, text: String, add_special: bool) -> Result<Self, DataError> {
        let encoding = tokenizer.encode(text.as_str(), add_special).map_err(|error| DataError::Tokenizer {
            place: "of the model".to_owned(),
            problem: format!("cannot encode a text of {} bytes: {error}", text.len()),
        })?;
        let (offsets, words) = (encoding.get_offsets(), encoding.get_word_ids());
        let begins = (1..offsets.len()).filter(|&at| {
            let new_word = matches!((words[at - 1], words[at]), (Some(before), Some(here)) if before != here);
            // A gap means that offsets were trimmed of white space, which is then in no token's range.
            new_word && offsets[at - 1].1 == offsets[at].0
        });
        let words = begins.map(|at| (offsets[at].0, at)).collect();
        Ok(Self { ids: encoding.get_ids().to_vec(), text, words })
    }

    /// The ids that begin `other`, and the byte of it from which the rest has to be encoded (without a BOS). Both are
    /// zero where too little is shared.
    pub(super) fn split<'a>(&'a self, other: &str) -> (&'a [u32], usize) {
        let common = self.text.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        // The word that holds the first difference is not shared as a whole, nor is the one that may end there.
        let begun = self.words.partition_point(|&(byte, _)| byte < common);
        match begun.checked_sub(MARGIN + 2).and_then(|at| self.words.get(at)) {
            Some(&(byte, at)) if other.is_char_boundary(byte) => (&self.ids[..at], byte),
            _ => (&[], 0),
        }
    }
}

/// Whether the argument above holds for a tokenizer; what is not known to be safe is not.
pub(super) fn is_cuttable(tokenizer: &Tokenizer) -> bool {
    let whole = serde_json::to_value(tokenizer).unwrap_or_default();
    let plain = |token: &Value| ["lstrip", "rstrip", "single_word"].iter().all(|key| token[key] == false);
    whole["normalizer"].is_null()
        && whole["model"]["type"] == "BPE"
        && whole["model"]["dropout"].is_null()
        && whole["added_tokens"].as_array().is_some_and(|tokens| tokens.iter().all(plain))
        && splits_locally(&whole["pre_tokenizer"])
}

fn splits_locally(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("Digits") => true,
        Some("ByteLevel") => pre_tokenizer["add_prefix_space"] == false,
        Some("Split") => {
            let pattern = pre_tokenizer["pattern"]["Regex"].as_str();
            pre_tokenizer["behavior"] == "Isolated" && pre_tokenizer["invert"] == false && pattern.is_some_and(is_local)
        }
        Some("Sequence") => {
            let parts = pre_tokenizer["pretokenizers"].as_array();
            parts.is_some_and(|parts| parts.iter().all(splits_locally))
        }
        _ => false,
    }
}

/// Whether a pattern neither looks behind nor is anchored, and looks ahead only for the next character's kind.
fn is_local(pattern: &str) -> bool {
    let foreign = ["(?<", "\\b", "\\B", "\\A", "\\G", "\\z", "\\Z", "\\K", "$", "(?=", "^"];
    // "[^" negates a class, and "(?!\S)" is the one look-ahead in use.
    let rest = pattern.replace("[^", "").replace("(?!\\S)", "");
    !foreign.iter().any(|part| rest.contains(part)) && !rest.contains("(?!")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::bpe;
    use crate::data::testing::data_dir;

    // GPT-2's pattern, and the one of Llama 3's family in its outline: both end in a look-ahead for white space.
    const LLAMA3: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+\
                          [\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

    fn tokenizers() -> [Tokenizer; 2] {
        let texts = ["the net sales were 1234.5 % of it's  \n\n total\t\t, we'll  see ### x\n\n\n", "a  b\n c ## d"];
        let ours = bpe::train(texts, 330).unwrap();
        let mut json = serde_json::to_value(&ours).unwrap();
        json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
        [ours, Tokenizer::from_bytes(json.to_string()).unwrap()]
    }

    fn check(tokenizer: &Tokenizer, first: &str, second: &str) -> usize {
        assert!(is_cuttable(tokenizer));
        let shared = SharedPrefix::new(tokenizer, first.to_owned(), false).unwrap();
        let (head, at) = shared.split(second);
        let rest = tokenizer.encode_fast(&second[at..], false).unwrap();
        let joined: Vec<u32> = head.iter().chain(rest.get_ids()).copied().collect();
        assert_eq!(joined, tokenizer.encode_fast(second, false).unwrap().get_ids(), "{first:?} {second:?}");
        at
    }

    #[test]
    fn a_long_beginning_is_shared() {
        for tokenizer in &tokenizers() {
            let begin = "net sales were 12345 of the total, we'll see\n\n\n\n ".repeat(5);
            for (a, b) in
                [("x", "y"), ("", "more"), ("\n", " \n"), ("<|im_end|>", "<|im_start|>"), ("é", "è"), ("", "")]
            {
                let at = check(tokenizer, &format!("{begin}{a}"), &format!("{begin}{b}"));
                assert!(at > begin.len() - 60, "shares only {at} of {}", begin.len());
            }
            assert_eq!(check(tokenizer, "abc", "abd"), 0);
        }
    }

    #[test]
    fn only_what_is_known_to_be_safe_is_cut() {
        let ours = bpe::train(["a b c"], 260).unwrap();
        let with = |part: &str, value: Value| {
            let mut json = serde_json::to_value(&ours).unwrap();
            json[part] = value;
            is_cuttable(&Tokenizer::from_bytes(json.to_string()).unwrap())
        };
        assert!(is_cuttable(&ours));
        assert!(!with("normalizer", serde_json::json!({"type": "NFC"})));
        assert!(!with("pre_tokenizer", Value::Null));
        assert!(!with(
            "pre_tokenizer",
            serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})
        ));
        assert!(is_local(LLAMA3) && !is_local("(?<=a)b") && !is_local("a$") && !is_local("^a") && !is_local("a(?!bc)"));
    }

    #[test]
    fn the_real_tokenizers_are_told_apart() {
        let Some(data) = data_dir() else { return };
        let cuttable = |dir: &str| is_cuttable(&Tokenizer::from_file(data.join(dir).join("tokenizer.json")).unwrap());
        assert!(cuttable("models/smollm2-135m-instruct"));
        // Its words are whole texts: merges may reach anywhere.
        assert!(!cuttable("tokenizers/llama2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn joined_ids_equal_those_of_one_call(
            begin in "([ \n\t]{1,6}|[a-z]{1,4}|[0-9]{1,4}|[#'.,%]{1,3}|é|<\\|im_end\\|>|it's){10,60}",
            a in "([ \n]{1,4}|[a-z0-9]{1,3}|#|<\\|im_end\\|>){0,5}",
            b in "([ \n]{1,4}|[a-z0-9]{1,3}|#|'ll|<\\|im_start\\|>){0,5}",
        ) {
            for tokenizer in &tokenizers() {
                check(tokenizer, &format!("{begin}{a}"), &format!("{begin}{b}"));
            }
        }
    }
}
