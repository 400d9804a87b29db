//! The binary `anneal`: joins `anneal-engine` (what runs) and `anneal-stages` (how), and is the only one that prints.
#![forbid(unsafe_code)]
mod args;
mod command;
mod exit;
mod output;
mod render;

fn main() -> std::process::ExitCode {
    // The panic's own message is already on standard error; its code is the documented one, not Rust's 101.
    exit::code(std::panic::catch_unwind(command::main).unwrap_or(exit::Exit::Bug))
}
