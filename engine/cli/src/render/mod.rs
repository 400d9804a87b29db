//! How things look: problems with their carets, progress, tables, differences, samples with their answers.
//!
//! Unaware of where the text goes.
pub(crate) mod answers;
pub(crate) mod diff;
pub(crate) mod document;
pub(crate) mod gains;
pub(crate) mod plan;
pub(crate) mod problem;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod text;
