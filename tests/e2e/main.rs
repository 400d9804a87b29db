//! End to end: the program as people start it, on a dozen questions and a model of 30 thousand weights, and a few
//! equivalences of the library that only whole models can show.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a test that cannot run here says so")]
mod project;

mod adapters;
mod answers;
mod bad_data;
mod bad_models;
mod bad_places;
mod cache;
mod ci_recipe;
mod command;
mod comparisons;
mod crash;
mod diff;
mod drivers;
mod equivalence;
mod generation;
mod manifests;
mod memo;
mod pins;
mod rows;
mod sweeps;
mod tensor_files;
mod trouble;
mod why;
