//! Exit codes: the one table, and which error leads to which.
//!
//! Unaware of commands.
use anneal_engine::diagnostic::Diagnostics;
use anneal_engine::{Failure, FailureClass};
use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Input = 3,
    Interrupted = 4,
    OutOfMemory = 5,
    NotANumber = 6,
    Bug = 70,
}

/// What each code means; printed by `--help`.
pub(crate) const TABLE: &[(Exit, &str)] = &[
    (Exit::Ok, "everything went well"),
    (Exit::Failed, "a stage failed: a timeout, a signal, or an unlike mixture of failures"),
    (Exit::Usage, "the command line is wrong"),
    (Exit::Input, "the manifest or an input file is at fault, or a file cannot be read or written"),
    (Exit::Interrupted, "interrupted; the same command goes on where it stopped"),
    (Exit::OutOfMemory, "a stage ran out of memory"),
    (Exit::NotANumber, "a loss or a gradient became NaN or infinite"),
    (Exit::Bug, "a bug in anneal; please report it with its message"),
];

impl Exit {
    /// For one failure.
    pub(crate) fn of(class: FailureClass) -> Self {
        match class {
            FailureClass::Oom => Self::OutOfMemory,
            FailureClass::Nan => Self::NotANumber,
            FailureClass::Timeout | FailureClass::Signal => Self::Failed,
            FailureClass::User => Self::Input,
            FailureClass::Interrupted => Self::Interrupted,
            FailureClass::Bug => Self::Bug,
        }
    }

    /// For the failures of several stages: their common code; an interruption and a bug outweigh the others.
    pub(crate) fn of_all(classes: impl IntoIterator<Item = FailureClass>) -> Self {
        let mut codes: Vec<Self> = classes.into_iter().map(Self::of).collect();
        codes.sort();
        codes.dedup();
        match codes.as_slice() {
            [] => Self::Ok,
            [one] => *one,
            many if many.contains(&Self::Bug) => Self::Bug,
            many if many.contains(&Self::Interrupted) => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

/// The table as text, the tail of every help.
pub(crate) fn table() -> String {
    let mut text = "Exit codes:".to_owned();
    for (exit, meaning) in TABLE {
        text += &format!("\n  {:>2}  {meaning}", *exit as u8);
    }
    text
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Error {
    /// The manifest has problems.
    Manifest(Diagnostics),
    /// Something failed.
    Failure(Failure),
    /// The arguments fit their grammar but not the manifest.
    Usage(Failure),
    /// Nobody reads the output any more, as in `anneal ... | head`: no error at all.
    ClosedPipe,
}

impl From<Diagnostics> for Error {
    fn from(problems: Diagnostics) -> Self {
        Self::Manifest(problems)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Error {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Manifest(_) => Exit::Input,
            Self::Failure(failure) => Exit::of(failure.class),
            Self::Usage(_) => Exit::Usage,
            Self::ClosedPipe => Exit::Ok,
        }
    }
}

pub(crate) fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code_once_in_order() {
        let codes: Vec<Exit> = TABLE.iter().map(|(exit, _)| *exit).collect();
        let mut sorted = codes.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(codes, sorted);
        use FailureClass::{Bug, Interrupted, Nan, Oom, Signal, Timeout, User};
        for class in [Oom, Nan, Timeout, Signal, User, Interrupted, Bug] {
            assert!(codes.contains(&Exit::of(class)));
        }
    }

    #[test]
    fn several_failures_have_one_code() {
        use FailureClass::{Bug, Interrupted, Nan, Oom};
        for (classes, exit) in [
            (vec![], Exit::Ok),
            (vec![Oom, Oom], Exit::OutOfMemory),
            (vec![Oom, Nan], Exit::Failed),
            (vec![Oom, Interrupted], Exit::Interrupted),
            (vec![Interrupted, Bug], Exit::Bug),
        ] {
            assert_eq!(Exit::of_all(classes), exit);
        }
    }
}
