//! The Llama family: configuration, weights on disk, the forward pass, LoRA adapters, generation.
//!
//! Unaware of stages, keys and data sets.
pub mod adapter;
pub mod batch;
pub mod config;
pub mod footprint;
pub mod generate;
pub mod generate_batch;
pub mod init;
mod layer;
pub mod logits;
pub mod memory;
pub mod merge;
pub mod model;
mod read;
pub mod rope;
pub mod sampling;
pub mod save;
pub mod weights;

pub use adapter::AdapterConfig;
pub use batch::Batch;
pub use config::LlamaConfig;
pub use layer::Checkpointing;
pub use model::{Model, Parameters};
pub use weights::{WeightFiles, WeightSource};
