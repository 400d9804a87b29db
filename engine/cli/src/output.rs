//! The two streams: results on standard output, everything else on standard error.
//!
//! A closed pipe on standard output ends a command quietly; standard error is written as well as it goes. Unaware of
//! what is written.
use crate::exit::Error;
use anneal_engine::Failure;
use std::io::{ErrorKind, IsTerminal, Write};

/// Writes a result, with a newline at its end.
///
/// # Errors
/// Nobody reads it any more, or it cannot be written.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let newline: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(newline)).and_then(|()| out.flush()).map_err(lost)
}

/// Writes a result piece by piece, so that a long one need not be there as a whole.
///
/// # Errors
/// As [`print`].
pub(crate) fn stream(pieces: impl Iterator<Item = String>) -> Result<(), Error> {
    let mut out = std::io::BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
    let written = pieces.into_iter().try_for_each(|piece| out.write_all(piece.as_bytes())).and_then(|()| out.flush());
    written.map_err(lost)
}

fn lost(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::BrokenPipe => Error::ClosedPipe,
        _ => Failure::user(format!("cannot write to standard output: {error}")).into(),
    }
}

/// Writes JSON, indented.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    print(&format!("{value:#}"))
}

/// Writes a message to standard error.
pub(crate) fn say(text: &str) {
    // Nobody could be told that nobody can be told.
    let _ = std::io::stderr().lock().write_all(format!("{}\n", text.trim_end_matches('\n')).as_bytes());
}

/// Whether to write in colour to a stream: as asked, or else if it is a terminal and `NO_COLOR` is not set.
pub(crate) fn colored(choice: crate::args::Color, stream: &impl IsTerminal) -> bool {
    let wanted = || {
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
    };
    match choice {
        crate::args::Color::Always => true,
        crate::args::Color::Never => false,
        crate::args::Color::Auto => stream.is_terminal() && wanted(),
    }
}
