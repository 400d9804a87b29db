//! The binary `anneal`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    anneal::main()
}
