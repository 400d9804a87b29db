//! The official TAT-QA metric: exact match, F1 and scale, equal to the published evaluator in every question; and for
//! free text its comparison alone.
//! Unaware of the engine, of models and of how answers were generated.

pub mod exact;
mod normalize;
mod number;
pub mod predictions;
pub mod score;

pub use predictions::{Prediction, Predictions};
pub use score::{Pivot, QuestionScore, Scores, score, score_one};
