//! `anneal-stages`: HOW each stage works. One file a stage kind; `data`, `llama` and `train` hold what they share.
//!
//! Unaware of manifests, keys, the store and the scheduler: it sees a stage's parameters, its inputs' folders and an
//! empty folder for its output.
#![forbid(unsafe_code)]

pub mod artifact;
pub mod bench;
pub mod command;
pub mod consolidate;
pub mod data;
mod device;
pub mod evaluate;
mod failure;
pub mod gguf;
pub mod gpu;
pub mod infer;
pub mod llama;
pub mod load;
pub mod metric;
pub mod random;
pub mod review;
mod split;
pub mod tensor_file;
pub mod text;
pub mod tokenize;
pub mod train;
pub mod train_fft;
pub mod train_lora;
mod words;

use anneal_engine::registry::Registry;

/// Threads that computation on the CPU uses.
pub fn threads() -> usize {
    anneal_ops::thread_count()
}

/// Every stage kind, in the order of a pipeline.
pub fn registry() -> Registry {
    Registry::new(vec![
        Box::new(load::Load),
        Box::new(tokenize::Tokenize),
        Box::new(train_lora::TrainLora),
        Box::new(train_fft::TrainFft),
        Box::new(consolidate::Consolidate),
        Box::new(infer::Infer),
        Box::new(evaluate::Evaluate),
        Box::new(command::RunCommand),
    ])
    .with_numerics(anneal_ops::backend_names().to_vec())
}
