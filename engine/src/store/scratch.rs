//! Small files on their way into place: written in `tmp/` under a lease of their own, then renamed.
//!
//! Named like work in progress, with a digest in front, so that the sweep removes what a crash left of them and leaves
//! alone what a living process is about to rename. Unaware of what is written.
use crate::Failure;
use crate::key::Digest;
use crate::lease::{Lease, Leases};
use std::path::{Path, PathBuf};

/// A name in `tmp/` that nobody else uses or sweeps; whatever still lies there is removed with this value.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Where to write.
    pub(super) path: PathBuf,
    _lease: Lease,
}

impl Scratch {
    /// One for a purpose; writers of one purpose take turns, each for as long as one small file takes.
    ///
    /// # Errors
    /// The lease cannot be had.
    pub(super) fn new(base: &Path, purpose: &str) -> Result<Self, Failure> {
        let key = Digest::of(purpose.as_bytes());
        let lease = Leases::new(base.join("locks")).wait_key(&key, &|| false)?;
        let lease = lease.ok_or_else(|| Failure::bug(format!("the lease for writing {purpose} was given up")))?;
        Ok(Self { path: base.join("tmp").join(format!("{key}-{}", super::unique())), _lease: lease })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After the rename there is nothing under this name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}
