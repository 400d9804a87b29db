//! Why a worker ended without saying so: read from its exit status, its last words and the kernel's counters, never
//! guessed.
use crate::{Failure, FailureClass};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

/// Lines of a log that are kept with a failure.
const TAIL: usize = 20;
/// What Rust's runtime writes when the allocator has nothing left, before it aborts.
const NO_MEMORY: &str = "memory allocation of ";
/// What the system says of other things that it has no memory for, such as threads; evidence only where memory is
/// limited, because it also says so of other limits.
const NO_ROOM: [&str; 2] = ["Cannot allocate memory", "Resource temporarily unavailable"];
/// What it writes when the program finds itself at fault; the message is on the next line.
const PANIC: &str = "panicked at";

/// What is known of a worker's end.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// The last lines of its standard error.
    pub(super) log: &'a [String],
    /// The kernel killed something for want of memory while it ran.
    pub(super) oom_kill: bool,
    /// Its memory was limited.
    pub(super) limited: bool,
    /// The driver asked it to stop.
    pub(super) stopped: bool,
}

/// The class and the message that the evidence supports.
pub(super) fn classify(stage: &str, evidence: &Evidence<'_>) -> Failure {
    let last = |words: &str| evidence.log.iter().rposition(|line| line.contains(words));
    if let Some(at) = last(NO_MEMORY) {
        return Failure::new(FailureClass::Oom, format!("stage `{stage}`: {}", evidence.log[at]))
            .hint("lower batch_size or max_length, or use a machine with more memory");
    }
    if let (true, Some(at)) = (evidence.limited, NO_ROOM.iter().find_map(|words| last(words))) {
        return Failure::new(FailureClass::Oom, format!("stage `{stage}`: {}", evidence.log[at]))
            .hint("raise memory_limit, or lower batch_size or max_length");
    }
    match evidence.status.signal() {
        Some(9 | 15 | 2) if evidence.stopped => interrupted(stage),
        Some(9) if evidence.oom_kill => Failure::new(
            FailureClass::Oom,
            format!("stage `{stage}`: the system killed its worker because memory ran out"),
        )
        .hint("lower batch_size or max_length, or use a machine with more memory"),
        _ if last(PANIC).is_some() => {
            let at = last(PANIC).unwrap_or_default();
            let said = evidence.log[at..].iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" ");
            Failure::bug(format!("stage `{stage}`: its worker said: {said}"))
        }
        Some(signal) => {
            Failure::new(FailureClass::Signal, format!("stage `{stage}`: its worker was ended by signal {signal}"))
                .hint("run again: it goes on from its last checkpoint")
        }
        None => {
            let code = evidence.status.code().unwrap_or_default();
            Failure::bug(format!("stage `{stage}`: its worker ended with exit code {code} and without a result"))
        }
    }
}

/// The user's wish, not a fault.
fn interrupted(stage: &str) -> Failure {
    Failure::new(FailureClass::Interrupted, format!("stage `{stage}` was stopped"))
        .hint("run again: it goes on from its last checkpoint")
}

/// The end of a log, as lines; none if there is no log.
pub fn tail(path: &Path) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(path) {
        let length = file.metadata().map_or(0, |meta| meta.len());
        // Enough for any backtrace; a log may hold gigabytes.
        let read =
            file.seek(SeekFrom::Start(length.saturating_sub(64 << 10))).and_then(|_| file.read_to_end(&mut bytes));
        if read.is_err() {
            return Vec::new();
        }
    }
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// The lines of a log worth keeping with a failure; none if nothing was said.
pub(crate) fn last_words(log: &Path) -> Vec<String> {
    telling(tail(log))
}

/// The lines worth keeping with a failure: from the one that says why, else the last.
pub(super) fn telling(mut log: Vec<String>) -> Vec<String> {
    let why = log.iter().rposition(|line| line.contains(NO_MEMORY) || line.contains(PANIC));
    log.drain(..why.unwrap_or(log.len().saturating_sub(TAIL)));
    log.truncate(TAIL);
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: i32, log: &[&str], oom_kill: bool, stopped: bool) -> String {
        told(raw, log, oom_kill, stopped, false)
    }

    fn told(raw: i32, log: &[&str], oom_kill: bool, stopped: bool, limited: bool) -> String {
        let log: Vec<String> = log.iter().map(|line| (*line).to_owned()).collect();
        let evidence = Evidence { status: ExitStatus::from_raw(raw), log: &log, oom_kill, limited, stopped };
        let failure = classify("s", &evidence);
        format!("{:?}: {}", failure.class, failure.message)
    }

    #[test]
    fn an_end_is_what_the_evidence_says() {
        insta::assert_snapshot!(check(9, &[], false, false), @"Signal: stage `s`: its worker was ended by signal 9");
        insta::assert_snapshot!(check(9, &[], true, false), @"Oom: stage `s`: the system killed its worker because memory ran out");
        insta::assert_snapshot!(check(9, &[], true, true), @"Interrupted: stage `s` was stopped");
        insta::assert_snapshot!(check(15, &[], false, true), @"Interrupted: stage `s` was stopped");
        insta::assert_snapshot!(check(15, &[], false, false), @"Signal: stage `s`: its worker was ended by signal 15");
        let alloc = ["noise", "memory allocation of 8 bytes failed", "   0: frame"];
        insta::assert_snapshot!(check(6, &alloc, false, false), @"Oom: stage `s`: memory allocation of 8 bytes failed");
        let panic = ["thread 'main' panicked at a.rs:1:2:", "index out of bounds", "   0: frame"];
        insta::assert_snapshot!(check(6, &panic, false, false), @"Bug: stage `s`: its worker said: thread 'main' panicked at a.rs:1:2: index out of bounds");
        insta::assert_snapshot!(check(3 << 8, &[], false, false), @"Bug: stage `s`: its worker ended with exit code 3 and without a result");
        let thread = [
            "thread 'main' panicked at a.rs:1:2:",
            "failed to spawn thread: Resource temporarily unavailable (os error 11)",
        ];
        insta::assert_snapshot!(told(6, &thread, false, false, true), @"Oom: stage `s`: failed to spawn thread: Resource temporarily unavailable (os error 11)");
        assert!(told(6, &thread, false, false, false).starts_with("Bug"));
    }

    #[test]
    fn the_lines_that_say_why_are_kept() {
        let lines = |n: usize, why: Option<usize>| -> Vec<String> {
            (0..n).map(|i| if why == Some(i) { "panicked at x".to_owned() } else { i.to_string() }).collect()
        };
        assert_eq!(telling(lines(100, None))[0], "80");
        assert_eq!(telling(lines(100, Some(10)))[0], "panicked at x");
        assert_eq!(telling(lines(100, Some(10))).len(), 20);
        assert_eq!(telling(lines(3, None)).len(), 3);
    }
}
