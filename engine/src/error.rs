//! How a stage, a worker or the engine itself can fail, as data: a class that decides what happens next, a message
//! that says what and where, and a hint that says what to do.
//!
//! Unaware of rendering and of exit codes; `engine/cli` owns both.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// Why something failed, by evidence. Decides whether the next run tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// Out of memory, on the host or on a device.
    Oom,
    /// A loss or gradient became NaN or infinite.
    Nan,
    /// A time limit was met.
    Timeout,
    /// The process was ended by a signal that nobody here sent.
    Signal,
    /// The input is at fault: a file, a value, a full disk, a missing permission.
    User,
    /// Asked to stop (Ctrl+C); the next run resumes.
    Interrupted,
    /// The program is at fault.
    Bug,
}

impl FailureClass {
    /// As reports and options spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Oom => "oom",
            Self::Nan => "nan",
            Self::Timeout => "timeout",
            Self::Signal => "signal",
            Self::User => "user",
            Self::Interrupted => "interrupted",
            Self::Bug => "bug",
        }
    }

    /// What to do about a failure of this class that stands from an earlier run.
    pub(crate) fn retry_hint(self, stage: &str) -> String {
        match self {
            Self::Oom => {
                format!("change a parameter or its memory_limit, or try again with --retry oom or --force {stage}")
            }
            Self::Timeout => format!("raise its timeout, or try again with --retry timeout or --force {stage}"),
            _ => format!("change a parameter, or try again with --retry nan or --force {stage}"),
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oom => "out of memory",
            Self::Nan => "not a number",
            Self::Timeout => "timeout",
            Self::Signal => "signal",
            Self::User => "error",
            Self::Interrupted => "interrupted",
            Self::Bug => "bug",
        })
    }
}

/// A failure: what happened, where, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, by evidence.
    pub class: FailureClass,
    /// What and where, a sentence without a final full stop; names the file and the line where there is one.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Nobody tried: it follows from another failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inferred: bool,
}

impl Failure {
    /// A failure of any class.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None, inferred: false }
    }

    /// The input is at fault.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(FailureClass::User, message)
    }

    /// The program is at fault: something that its own checks should have made impossible.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Bug, message)
    }

    /// Running out of memory, taken for granted because it happened to a smaller one.
    pub(crate) fn inferred_oom(smaller: &str, parameter: &str) -> Self {
        let message =
            format!("not tried: `{smaller}` ran out of memory, and `assume_monotone` takes `{parameter}` to need more");
        let hint = Some("take `assume_monotone` out of the manifest to try it".to_owned());
        Self { hint, inferred: true, ..Self::new(FailureClass::Oom, message) }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An operation on a file failed: names the operation, the path and the system's reason, and hints at the causes
    /// that people can mend at once (a full disk, a missing permission, a wrong path).
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{
            InvalidData, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull,
        };
        let failure = Self::user(format!("cannot {action} {}: {error}", path.display()));
        match error.kind() {
            StorageFull => failure.hint("the disk is full; free some space and run again: finished stages are kept"),
            PermissionDenied | ReadOnlyFilesystem => {
                failure.hint("check the permissions of that path, or choose another place with --outputs DIR")
            }
            NotFound => failure.hint("check the path; relative paths in a manifest start at the project root"),
            NotADirectory => failure.hint("a part of that path is a file; remove it, or choose another path"),
            InvalidData => failure.hint("the file is damaged or of another kind; check that it is the one you meant"),
            _ => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
