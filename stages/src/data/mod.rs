//! Data: questions in, token ids out, answers back. Each file knows only those named before it:
//! `error`, `number`, `tatqa` (reading), `prompt` (text), `token_set` and `summary` (files), `special` and `chat`
//! (templates), `instruct` and `dataset` (reading the other format, and either), `prepared` (samples with their whole
//! prompt), `shared_prefix`, `encoder`, `turns`, `audit`, `encode` and `encode_turns` (ids and labels), `bpe` (a tokenizer
//! of one's own).
//! Unaware of the engine, of tensors and of the stages that join these parts.

mod audit;
pub mod bpe;
pub mod chat;
pub mod dataset;
pub mod encode;
pub mod encode_turns;
pub mod encoder;
pub mod error;
pub mod instruct;
pub mod number;
pub mod prepared;
pub mod prompt;
mod shared_prefix;
pub mod special;
pub mod summary;
pub mod tatqa;
pub mod token_set;
mod turns;

pub use error::DataError;

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of this folder share.

    use std::path::PathBuf;

    /// The folder of real data sets and oracles, or nothing where it is absent (the test then passes unrun).
    #[expect(clippy::print_stdout, reason = "a skipped test must say so")]
    pub(crate) fn data_dir() -> Option<PathBuf> {
        let dir = std::env::var_os("ANNEAL_TEST_DATA").map(PathBuf::from);
        if dir.is_none() {
            println!("skipped: ANNEAL_TEST_DATA is not set");
        }
        dir
    }
}
