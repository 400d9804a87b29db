//! Trains a small byte-level BPE tokenizer on given texts, with ChatML's special tokens, and writes it in the form that
//! Hugging Face tools load. The same texts and size give the same bytes. Unaware of data sets and models.

use std::collections::HashSet;
use std::path::Path;

use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use super::chat::CHATML;
use super::error::{DataError, write_file};

/// The special tokens; their ids are 0, 1 and 2.
pub const SPECIAL: [&str; 3] = [PAD, OPEN, END];
/// Padding; never labelled.
pub const PAD: &str = "<|endoftext|>";
/// Opens a turn.
pub const OPEN: &str = "<|im_start|>";
/// Closes a turn, and with it an answer.
pub const END: &str = "<|im_end|>";

/// The least vocabulary: the special tokens and the 256 bytes.
pub const MIN_VOCAB_SIZE: usize = SPECIAL.len() + 256;

/// Trains a tokenizer of at most `vocab_size` tokens; fewer if the texts hold fewer pairs to merge. Digits stand alone,
/// so that a number's tokens do not depend on how often it occurs.
///
/// # Errors
/// [`DataError::Training`] for a `vocab_size` below [`MIN_VOCAB_SIZE`] or no text.
pub fn train<'a>(texts: impl IntoIterator<Item = &'a str>, vocab_size: usize) -> Result<Tokenizer, DataError> {
    if vocab_size < MIN_VOCAB_SIZE {
        return Err(training(format!(
            "vocab_size = {vocab_size} cannot hold the 256 bytes and {} special tokens; set at least {MIN_VOCAB_SIZE}",
            SPECIAL.len()
        )));
    }
    let texts: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        return Err(training("there is no text to train on; give it a data set".to_owned()));
    }
    let special: Vec<AddedToken> = SPECIAL.iter().map(|token| AddedToken::from(*token, true)).collect();
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size)
        .special_tokens(special)
        // Every byte, seen or not: whatever text comes later can be encoded.
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .build();
    let mut trainer = TrainerWrapper::from(trainer);
    let mut tokenizer = Tokenizer::new(BPE::default());
    let byte_level = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(byte_level),
    ])));
    tokenizer.with_decoder(Some(byte_level));
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(|error| training(error.to_string()))?;
    Ok(tokenizer)
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into `dir`; transformers' `AutoTokenizer` loads the folder.
///
/// # Errors
/// [`DataError::Io`], or [`DataError::Training`] for a tokenizer that cannot be written.
pub fn write(tokenizer: &Tokenizer, dir: &Path) -> Result<(), DataError> {
    let text = tokenizer.to_string(true).map_err(|error| training(error.to_string()))?;
    write_file(&dir.join("tokenizer.json"), (text + "\n").as_bytes())?;
    let config = json!({
        "add_prefix_space": false,
        "bos_token": null,
        "chat_template": CHATML,
        "clean_up_tokenization_spaces": false,
        "eos_token": END,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    });
    let text = serde_json::to_string_pretty(&config).map_err(|error| training(error.to_string()))?;
    write_file(&dir.join("tokenizer_config.json"), (text + "\n").as_bytes())
}

fn training(problem: String) -> DataError {
    DataError::Training { problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::chat::ChatChoice;
    use crate::data::encoder::Encoder;

    const TEXTS: [&str; 4] = [
        "Net sales were $1,496.5 million in 2019 and $1,202.9 million in 2018.",
        "Net sales of fixed-price contracts were 44.1 % of net sales.",
        "the the the the then there; naïve café 漢字",
        "Net revenue, net income, net loss, net sales, net assets",
    ];

    fn bytes(vocab_size: usize) -> (Vec<u8>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        write(&train(TEXTS, vocab_size).unwrap(), dir.path()).unwrap();
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        (read("tokenizer.json"), read("tokenizer_config.json"))
    }

    #[test]
    fn equal_texts_give_equal_bytes() {
        // Hash maps inside the trainer are seeded anew in each run, so several runs would show a dependence on order.
        let first = bytes(400);
        for _ in 0..8 {
            assert!(bytes(400) == first);
        }
    }

    #[test]
    fn every_text_survives_and_digits_stand_alone() {
        let tokenizer = train(TEXTS, 320).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), 320);
        for text in TEXTS.into_iter().chain(["never seen: \u{1f642} \t\r\n"]) {
            let ids = tokenizer.encode(text, true).unwrap().get_ids().to_vec();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
        assert_eq!(tokenizer.encode("2019", false).unwrap().get_tokens(), ["2", "0", "1", "9"]);
        assert_eq!(tokenizer.encode("<|im_start|>", false).unwrap().get_ids(), [1]);
        assert_eq!(tokenizer.token_to_id(PAD), Some(0));
        assert_eq!(tokenizer.token_to_id(END), Some(2));
    }

    #[test]
    fn the_written_folder_is_a_model_folder() {
        let dir = tempfile::tempdir().unwrap();
        write(&train(TEXTS, 300).unwrap(), dir.path()).unwrap();
        let encoder = Encoder::open(dir.path(), ChatChoice::Model).unwrap();
        assert_eq!((encoder.end_token(), encoder.vocab_size()), (2, 300));
    }

    #[test]
    fn refuses_what_cannot_be_trained() {
        let check = |texts: &[&'static str], size| train(texts.iter().copied(), size).unwrap_err().to_string();
        assert!(check(&TEXTS, 258).contains("set at least 259"));
        assert!(check(&[""], 300).contains("no text"));
    }
}
