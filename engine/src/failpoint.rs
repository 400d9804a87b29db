//! Named points where a test may kill the process or make the disk fail: the steps of the commit protocol.
//!
//! Chosen by the environment, `ANNEAL_FAILPOINT=NAME=kill|enospc|eacces` (`NAME@3=…`: at the third passage), so that
//! the released binary can be tested too; without the variable a point costs one atomic load. Unaware of the protocol.
use std::io::{Error, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every point, in the order in which publishing passes them.
pub const POINTS: &[&str] = &[
    "begin",
    "file-hashed",
    "file-synced",
    "tree-synced",
    "sources-checked",
    "tree-renamed",
    "trees-synced",
    "record-created",
    "record-synced",
    "record-renamed",
    "records-synced",
    "indexed",
    "checkpoints-removed",
];

struct Armed {
    name: String,
    action: String,
    passages_left: AtomicUsize,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

fn parse(text: &str) -> Option<Armed> {
    let (name, action) = text.split_once('=')?;
    let (name, passage) = name.split_once('@').unwrap_or((name, "1"));
    let passages_left = AtomicUsize::new(passage.parse().ok()?);
    Some(Armed { name: name.to_owned(), action: action.to_owned(), passages_left })
}

/// Passes a point.
///
/// # Errors
/// The one that the environment asks for.
pub(crate) fn pass(name: &str) -> Result<()> {
    let Some(armed) = ARMED.get_or_init(|| parse(&std::env::var("ANNEAL_FAILPOINT").ok()?)) else { return Ok(()) };
    if armed.name != name || armed.passages_left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return Ok(());
    }
    match armed.action.as_str() {
        "enospc" => Err(Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())),
        "eacces" => Err(Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error())),
        _ => {
            // As a power cut or `kill -9` would: no destructor runs, nothing is flushed.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Ok(())
        }
    }
}
