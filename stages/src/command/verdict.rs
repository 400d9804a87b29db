//! Why a program failed: from its exit status, its last words and the kernel's counters, never guessed.
//!
//! Unaware of how it was run.
use super::child::Ended;
use anneal_engine::manifest::nearest;
use anneal_engine::worker::tail;
use anneal_engine::{Failure, FailureClass, StageContext};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// Lines of the log that are shown.
const SHOWN: usize = 5;
/// Lines of the log in which an allocator's complaint counts.
const TELLING: usize = 40;
/// What allocators and the programs above them say when there is no memory left.
const NO_MEMORY: &[&str] = &[
    "MemoryError",
    "std::bad_alloc",
    "Cannot allocate memory",
    "CUDA out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "torch.OutOfMemoryError",
    "memory allocation of ",
    "java.lang.OutOfMemoryError",
    "virtual memory exhausted",
];

/// What an end means.
///
/// # Errors
/// The program did not end well.
pub(super) fn judge(context: &StageContext<'_>, program: &OsStr, ended: &Ended) -> Result<(), Failure> {
    // One that was asked to stop may end well with half of its work.
    if ended.status.success() && !ended.stopped {
        return Ok(());
    }
    let said = tail(context.launch.log);
    let failure = classify(context.name, &program.to_string_lossy(), ended, &said);
    Err(match &failure.hint {
        Some(_) => failure,
        None => failure.hint(last_words(context.launch.log, &said)),
    })
}

fn classify(stage: &str, program: &str, ended: &Ended, said: &[String]) -> Failure {
    if ended.stopped {
        return Failure::new(FailureClass::Interrupted, format!("stage `{stage}` was stopped")).hint("run again");
    }
    let how = match (ended.status.code(), ended.status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended without saying how".to_owned(),
    };
    let last = said.iter().rev().take(TELLING);
    if let Some(line) = last.into_iter().find(|line| NO_MEMORY.iter().any(|words| line.contains(words))) {
        return Failure::new(FailureClass::Oom, format!("stage `{stage}`: `{program}` {how}: {}", short(line)));
    }
    match ended.status.signal() {
        Some(9) if ended.oom_kill => {
            let message = format!("stage `{stage}`: the system killed `{program}` because memory ran out");
            Failure::new(FailureClass::Oom, message)
        }
        Some(_) => Failure::new(FailureClass::Signal, format!("stage `{stage}`: `{program}` {how}")),
        None => Failure::user(format!("stage `{stage}`: `{program}` {how}")),
    }
}

/// The end of the log, and where the rest is.
fn last_words(log: &Path, said: &[String]) -> String {
    let lines: Vec<&String> = said.iter().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default();
    if shown.is_empty() {
        return "it said nothing".to_owned();
    }
    let shown: String = shown.iter().map(|line| format!("\n    {}", short(line))).collect();
    format!("the end of {}:{shown}", log.display())
}

fn short(line: &str) -> String {
    const WIDTH: usize = 200;
    let cut: String = line.chars().take(WIDTH).collect();
    if line.chars().nth(WIDTH).is_some() { format!("{cut}...") } else { cut }
}

/// A program that could not be started.
pub(super) fn not_started(program: &OsStr, command: &Command, error: &std::io::Error) -> Failure {
    let (name, path) = (program.to_string_lossy(), Path::new(command.get_program()));
    let failure = |reason: &str| Failure::user(format!("cannot start `{name}`: {reason}"));
    match error.kind() {
        ErrorKind::NotFound if path.exists() => failure("the program that its first line names is not there")
            .hint("look at its line `#!...`, or name that program in `command` yourself"),
        ErrorKind::NotFound if name.contains('/') => failure("there is no such file")
            .hint("a program of the project must be among `files`; its path starts at the project root"),
        ErrorKind::NotFound => {
            let programs = programs(command);
            let near =
                nearest(&name, programs.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`? "));
            failure("there is no such program in PATH")
                .hint(format!("{}install it, or name it by its path", near.unwrap_or_default()))
        }
        ErrorKind::PermissionDenied => {
            failure("it may not be executed").hint(format!("`chmod +x {name}`, or name its interpreter in `command`"))
        }
        // ENOEXEC: neither a binary of this machine nor a script that says what reads it.
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => failure("it is not a program")
            .hint("give it a first line `#!/bin/sh`, or name its interpreter in `command`"),
        _ => failure(&error.to_string()),
    }
}

/// The names of what lies in the folders of the program's PATH.
fn programs(command: &Command) -> Vec<String> {
    let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    let mut found = Vec::new();
    for folder in std::env::split_paths(path.unwrap_or_default()) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        found.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    fn check(raw: i32, said: &[&str], oom_kill: bool, stopped: bool) -> String {
        let said: Vec<String> = said.iter().map(|line| (*line).to_owned()).collect();
        let status = ExitStatus::from_raw(raw);
        let ended = Ended { status, stopped, oom_kill, metrics: Default::default(), complaints: Vec::new() };
        let failure = classify("s", "p", &ended, &said);
        format!("{:?}: {}", failure.class, failure.message)
    }

    #[test]
    fn an_end_is_what_the_evidence_says() {
        assert_eq!(check(2 << 8, &["no"], false, false), "User: stage `s`: `p` ended with exit code 2");
        assert_eq!(check(137 << 8, &[], true, false), "User: stage `s`: `p` ended with exit code 137");
        assert_eq!(check(9, &[], false, false), "Signal: stage `s`: `p` was ended by signal 9");
        assert_eq!(check(11, &[], true, false), "Signal: stage `s`: `p` was ended by signal 11");
        assert_eq!(check(9, &[], true, false), "Oom: stage `s`: the system killed `p` because memory ran out");
        assert_eq!(check(0, &[], false, true), "Interrupted: stage `s` was stopped");
        assert_eq!(check(15, &[], false, true), "Interrupted: stage `s` was stopped");
        assert_eq!(check(1 << 8, &["MemoryError"], false, true), "Interrupted: stage `s` was stopped");
        let python = ["Traceback", "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 8 TiB", ""];
        assert_eq!(
            check(1 << 8, &python, false, false),
            "Oom: stage `s`: `p` ended with exit code 1: numpy.core._exceptions._ArrayMemoryError: Unable to allocate 8 TiB"
        );
        let aborted = ["terminate called after throwing an instance of 'std::bad_alloc'"];
        assert!(check(6, &aborted, false, false).starts_with("Oom: "));
        // Long ago is no evidence.
        let mut caught = vec!["MemoryError, trying a smaller batch"];
        caught.extend(["working"; TELLING]);
        assert!(check(1 << 8, &caught, false, false).starts_with("User: "));
    }
}
