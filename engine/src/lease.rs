//! Leases: locks of the operating system on files in the store, so that a key is worked on once on this host, and no
//! more stages run at once than it has cores, however many drivers there are.
//!
//! The system frees a lock when the last process that holds the file open is gone, killed or not: there is nothing to
//! unlock by hand. Unaware of what is done under a lease.
use crate::Failure;
use crate::failpoint::pass;
use crate::key::Digest;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

/// Time between two looks at a lease that somebody else holds: far below any stage worth a lease, far above the cost
/// of a look (microseconds).
const PATIENCE: Duration = Duration::from_millis(10);

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A lease; ends when dropped, or, once given to a child as its standard input, when the child ends.
#[derive(Debug)]
pub struct Lease(File);

impl Lease {
    /// As the standard input of a child process, which from then on keeps the lease.
    pub fn into_stdio(self) -> std::process::Stdio {
        std::process::Stdio::from(self.0)
    }
}

/// The leases of a store.
#[derive(Debug, Clone)]
pub struct Leases {
    folder: PathBuf,
}

impl Leases {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The lease of a key, unless somebody holds it.
    ///
    /// # Errors
    /// The lock file cannot be opened, or the file system has no locks.
    pub fn try_key(&self, key: &Digest) -> Result<Option<Lease>, Failure> {
        self.attempt(&format!("{key}.lock"))
    }

    /// The lease of a key, waiting for it; `None` if told to stop meanwhile.
    ///
    /// # Errors
    /// As [`Leases::try_key`].
    pub fn wait_key(&self, key: &Digest, stop: &dyn Fn() -> bool) -> Result<Option<Lease>, Failure> {
        wait(stop, || self.try_key(key))
    }

    /// One of the host's slots for work, waiting for it; `None` if told to stop meanwhile.
    ///
    /// # Errors
    /// As [`Leases::try_key`].
    pub fn wait_slot(&self, slots: usize, stop: &dyn Fn() -> bool) -> Result<Option<Lease>, Failure> {
        wait(stop, || {
            for slot in 0..slots.max(1) {
                if let Some(lease) = self.attempt(&format!("cpu-{slot}.lock"))? {
                    return Ok(Some(lease));
                }
            }
            Ok(None)
        })
    }

    fn attempt(&self, name: &str) -> Result<Option<Lease>, Failure> {
        let path = self.folder.join(name);
        // Lock files stay: to remove one is to race with whoever has just opened it.
        let file = pass("lease-open")
            .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(&path))
            .and_then(|file| pass("lease-lock").map(|()| file))
            .map_err(|e| Failure::io("open", &path, &e))?;
        match file.try_lock() {
            Ok(()) => pass("lease-taken").map(|()| Some(Lease(file))).map_err(|e| Failure::io("lock", &path, &e)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Failure::io("lock", &path, &e)
                .hint("the outputs folder must be on a file system with locks; choose another with --outputs DIR")),
        }
    }
}

fn wait(
    stop: &dyn Fn() -> bool,
    mut attempt: impl FnMut() -> Result<Option<Lease>, Failure>,
) -> Result<Option<Lease>, Failure> {
    loop {
        if let Some(lease) = attempt()? {
            return Ok(Some(lease));
        }
        if stop() {
            return Ok(None);
        }
        std::thread::sleep(PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_excludes_until_it_is_dropped_or_its_child_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path().to_owned());
        let key = Digest::of(b"key");
        let lease = leases.try_key(&key).unwrap().unwrap();
        assert!(leases.try_key(&key).unwrap().is_none());
        assert!(leases.try_key(&Digest::of(b"other")).unwrap().is_some());
        assert!(leases.wait_key(&key, &|| true).unwrap().is_none());

        let mut command = std::process::Command::new("sleep");
        let mut child = command.arg("60").stdin(lease.into_stdio()).spawn().unwrap();
        drop(command);
        assert!(leases.try_key(&key).unwrap().is_none(), "the child holds it");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(leases.wait_key(&key, &|| false).unwrap().is_some());
    }

    #[test]
    fn there_are_as_many_slots_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path().to_owned());
        let first = leases.wait_slot(2, &|| false).unwrap().unwrap();
        let _second = leases.wait_slot(2, &|| false).unwrap().unwrap();
        assert!(leases.wait_slot(2, &|| true).unwrap().is_none());
        drop(first);
        assert!(leases.wait_slot(2, &|| true).unwrap().is_some());
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_with_a_path() {
        let leases = Leases::new("/nonexistent/locks".into());
        assert!(leases.try_key(&Digest::of(b"key")).unwrap_err().message.contains("/nonexistent/locks"));
    }
}
