//! Named points around every system call that matters, where a test may kill processes or make the disk fail.
//!
//! Chosen by the environment, so that the released program can be tested too: `ANNEAL_FAILPOINT` holds rules
//! `[driver:|worker:]NAME[@PASSAGE]=ACTION` with `;` between them. A worker inherits the rules of its driver, counts its
//! passages anew, and obeys those that name it or nobody. `ANNEAL_FAILPOINT_LOG` names a file to which every passage is
//! appended. Without either variable a point costs one atomic load. Unaware of what the points protect.
mod act;
mod points;
#[cfg(test)]
mod tests;

pub use points::{Area, POINTS, area};

use act::Failpoints;
use std::io::Result;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ARMED: OnceLock<Option<Failpoints>> = OnceLock::new();
static WORKER: AtomicBool = AtomicBool::new(false);

/// From now on this process is a worker to the rules.
pub(crate) fn this_is_a_worker() {
    WORKER.store(true, Ordering::Relaxed);
}

/// Passes a point. Stages have points of their own where they write what must survive a crash.
///
/// # Errors
/// The one that the environment asks for.
pub fn pass(name: &str) -> Result<()> {
    let Some(armed) = ARMED.get_or_init(Failpoints::from_environment) else { return Ok(()) };
    let worker = WORKER.load(Ordering::Relaxed);
    match armed.meet(name, worker) {
        Some(action) => action.take(worker),
        None => Ok(()),
    }
}
