//! Training: one loop for LoRA and full fine-tuning; they differ in what is trainable and what is saved.
//!
//! Unaware of manifests, and of where the model and the tokens came from.
pub mod checkpoint;
pub mod evaluate;
pub mod optimizer;
pub mod order;
pub mod recipe;
pub mod run;
pub mod schedule;
mod writer;

pub use optimizer::Optimizer;
pub use recipe::Recipe;
