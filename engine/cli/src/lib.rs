//! The command line of `anneal`: arguments and rendering. Joins `anneal-engine` (what runs) and `anneal-stages` (how),
//! and is the only crate that prints.
//!
//! A library besides the binary, so that end-to-end tests of another crate can run the same program.
#![forbid(unsafe_code)]
mod args;
mod command;
mod exit;
mod output;
mod render;

/// Runs the program on the process's arguments and returns its documented exit code.
pub fn main() -> std::process::ExitCode {
    // The panic's own message is already on standard error; its code is the documented one, not Rust's 101.
    exit::code(std::panic::catch_unwind(command::main).unwrap_or(exit::Exit::Bug))
}
