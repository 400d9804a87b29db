//! The program `anneal` under another name, so that this crate's tests can start it: cargo tells a test only the
//! binaries of its own package.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    anneal::main()
}
