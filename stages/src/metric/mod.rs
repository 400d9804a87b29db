//! Scores of answers: the official TAT-QA metric (exact match, F1 and scale, equal to the published evaluator in every
//! question), TAT-LLM's lenient one, and for free text the official comparison alone; intervals and a test between models.
//! Unaware of the engine, of models and of how answers were generated.

mod equation;
pub mod exact;
pub mod marking;
mod normalize;
mod number;
pub mod predictions;
pub mod score;
pub mod statistics;
pub mod tat_llm;

pub use marking::{Gold, Mark, Metric};
pub use predictions::{Prediction, Predictions};
pub use score::{Pivot, QuestionScore, Scores, score, score_one};
