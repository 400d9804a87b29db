//! End to end: the program as people start it, on a dozen questions and a model of 30 thousand weights, and a few
//! equivalences of the library that only whole models can show.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod project;

mod cache;
