//! How things look: problems with their carets, progress, tables, differences.
//!
//! Unaware of where the text goes.
pub(crate) mod diff;
pub(crate) mod problem;
pub(crate) mod progress;
pub(crate) mod table;
