//! Rules of failpoints: reading them, counting passages, and doing what a rule says.
//!
//! Unaware of which points exist.
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{Error, Result, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// This process ends as by a power cut or `kill -9`: no destructor runs, nothing is flushed.
    Kill,
    /// So do its driver and its workers.
    KillAll,
    /// The system call fails with this error.
    Fail(Errno),
}

impl Action {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "kill" => Self::Kill,
            "kill-all" => Self::KillAll,
            "enospc" => Self::Fail(Errno::NOSPC),
            "eio" => Self::Fail(Errno::IO),
            "eacces" => Self::Fail(Errno::ACCESS),
            _ => return None,
        })
    }

    /// Does it; `worker` says what this process is.
    pub(super) fn take(self, worker: bool) -> Result<()> {
        match self {
            Self::Fail(errno) => return Err(Error::from_raw_os_error(errno.raw_os_error())),
            Self::KillAll => relatives(worker).into_iter().for_each(end),
            Self::Kill => {}
        }
        end(getpid());
        Ok(())
    }
}

fn end(pid: Pid) {
    // Whoever is gone already needs no signal.
    let _ = kill_process(pid, Signal::KILL);
}

/// The driver of this worker, or the workers of this driver: those that run the same program.
fn relatives(worker: bool) -> Vec<Pid> {
    let program = |pid: Pid| std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok();
    let this = std::fs::read_link("/proc/self/exe").ok();
    let mut found: Vec<Pid> = getppid().filter(|_| worker).into_iter().collect();
    // Each thread has children of its own.
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)));
    }
    // An orphan's parent is a stranger, and so is a child that is no worker.
    found.retain(|pid| this.is_some() && program(*pid) == this);
    found
}

/// A rule: where, for whom, at which passage, what.
#[derive(Debug)]
pub(super) struct Rule {
    name: String,
    /// For workers only, for drivers only, for both.
    worker: Option<bool>,
    passages_left: AtomicUsize,
    action: Action,
}

impl Rule {
    /// `[driver:|worker:]NAME[@PASSAGE]=ACTION`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (point, action) = text.trim().split_once('=')?;
        let (worker, point) = match point.split_once(':') {
            Some(("driver", point)) => (Some(false), point),
            Some(("worker", point)) => (Some(true), point),
            Some(_) => return None,
            None => (None, point),
        };
        let (name, passage) = point.split_once('@').unwrap_or((point, "1"));
        let passages_left = AtomicUsize::new(passage.parse().ok().filter(|passage| *passage > 0)?);
        Some(Self { name: name.to_owned(), worker, passages_left, action: Action::parse(action)? })
    }

    /// Counts a passage; says what to do if it is the one.
    pub(super) fn meet(&self, name: &str, worker: bool) -> Option<Action> {
        let meant = self.name == name && self.worker.is_none_or(|only| only == worker);
        (meant && self.passages_left.fetch_sub(1, Ordering::Relaxed) == 1).then_some(self.action)
    }
}

/// What the environment asks for.
#[derive(Debug)]
pub(super) struct Failpoints {
    rules: Vec<Rule>,
    log: Option<File>,
}

impl Failpoints {
    pub(super) fn from_environment() -> Option<Self> {
        let rules = std::env::var("ANNEAL_FAILPOINT").unwrap_or_default();
        let log = std::env::var_os("ANNEAL_FAILPOINT_LOG");
        Self::new(&rules, log.as_ref().map(Path::new))
    }

    pub(super) fn new(rules: &str, log: Option<&Path>) -> Option<Self> {
        let rules: Vec<Rule> = rules.split(';').filter_map(Rule::parse).collect();
        let log = log.and_then(|path| OpenOptions::new().append(true).create(true).open(path).ok());
        (!rules.is_empty() || log.is_some()).then_some(Self { rules, log })
    }

    /// Passes a point: every rule counts it, the first that is due is obeyed.
    pub(super) fn meet(&self, name: &str, worker: bool) -> Option<Action> {
        let due: Vec<Action> = self.rules.iter().filter_map(|rule| rule.meet(name, worker)).collect();
        if let Some(mut log) = self.log.as_ref() {
            let who = if worker { "worker" } else { "driver" };
            let what = due.first().map_or(String::new(), |action| format!(" {action:?}"));
            // One write a line, so that lines of several processes do not mix; a log that is full is no reason to stop.
            let _ = log.write_all(format!("{} {who} {name}{what}\n", std::process::id()).as_bytes());
        }
        due.first().copied()
    }
}
