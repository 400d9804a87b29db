//! Leases: locks of the operating system on files, so that a key is worked on once on this host and a file is not
//! removed while somebody reads it, however many drivers there are. Cores and GPUs are leased in `slots`.
//!
//! The system frees a lock when the last process that holds the file open is gone, killed or not: there is nothing to
//! unlock by hand. Unaware of what is done under a lease.
use crate::Failure;
use crate::failpoint::pass;
use crate::key::Digest;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Time between two looks at a lease that somebody else holds: far below any stage worth a lease, far above the cost
/// of a look (microseconds).
const PATIENCE: Duration = Duration::from_millis(10);

/// Lock that stands for every artifact until somebody removes one. What it stands for is told by the file's length, which
/// a full disk does not keep from growing.
const TREES: &str = "trees.lock";
/// Nobody removed any so far: a share in this file is one in all.
const UNTOUCHED: u64 = 0;
/// Somebody is about to: who publishes takes a share in the artifact's own lock.
const TOLD: u64 = 1;
/// And nobody has a share in all of them any more.
const REMOVING: u64 = 2;

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A lease; ends when dropped, or, once given to a child as its standard input, when the child ends.
#[derive(Debug)]
pub struct Lease(File);

impl Lease {
    /// A lock on a file that excludes every other, unless somebody has one.
    pub(crate) fn try_exclusive(path: &Path, file: File) -> Result<Option<Self>, Failure> {
        match file.try_lock() {
            Ok(()) => pass("lease-taken").map(|()| Some(Self(file))).map_err(|e| Failure::io("lock", path, &e)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(no_locks(path, &e)),
        }
    }

    /// Leases as the standard input of a child process, which from then on keeps them, whether or not it knows of them,
    /// until it ends or closes its standard input.
    ///
    /// They lie in the queue of a socket whose reading end the child gets. Nothing is inherited by any other child, as
    /// would be the case with descriptors that outlive `exec`.
    ///
    /// # Errors
    /// The system has no socket or descriptor to spare.
    pub fn into_stdio(leases: Vec<Self>) -> std::io::Result<Stdio> {
        let (theirs, ours) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        for lease in leases {
            let files = [lease.0.as_fd()];
            let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = SendAncillaryBuffer::new(&mut room);
            message.push(SendAncillaryMessage::ScmRights(&files));
            sendmsg(&ours, &[IoSlice::new(b"L")], &mut message, SendFlags::NOSIGNAL)?;
        }
        Ok(Stdio::from(theirs))
    }
}

fn length(path: &Path, file: &File) -> Result<u64, Failure> {
    file.metadata().map(|meta| meta.len()).map_err(|e| Failure::io("read", path, &e))
}

fn no_locks(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io("lock", path, error)
        .hint("the outputs folder must be on a file system with locks; choose another with --outputs DIR")
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

    /// A share in an artifact: as long as somebody has one, nobody removes its files. Waits while they are removed.
    ///
    /// # Errors
    /// As [`Leases::try_key`].
    pub fn share_tree(&self, output: &Digest) -> Result<Lease, Failure> {
        let (path, file) = self.open(&format!("tree-{output}.lock"))?;
        file.lock_shared().map_err(|e| no_locks(&path, &e))?;
        Ok(Lease(file))
    }

    /// A share in an artifact that is about to be published. In a store where nobody ever removed one, it is a share in
    /// all of them, which takes no file for each.
    ///
    /// # Errors
    /// As [`Leases::try_key`].
    pub fn share_new_tree(&self, output: &Digest) -> Result<Lease, Failure> {
        let (path, file) = self.open(TREES)?;
        file.lock_shared().map_err(|e| no_locks(&path, &e))?;
        if length(&path, &file)? == UNTOUCHED {
            return Ok(Lease(file));
        }
        drop(file);
        self.share_tree(output)
    }

    /// An artifact for oneself, to remove its files, unless somebody has a share in it, or is publishing in a store where
    /// none was ever removed: such are not waited for, and after them nobody takes a share in all any more.
    ///
    /// # Errors
    /// As [`Leases::try_key`].
    pub fn try_tree(&self, output: &Digest) -> Result<Option<Lease>, Failure> {
        let (path, file) = self.open(TREES)?;
        let set = |length| file.set_len(length).map_err(|e| Failure::io("write", &path, &e));
        if length(&path, &file)? != REMOVING {
            // From now on all take a share in what they publish.
            set(TOLD)?;
            match file.try_lock() {
                // Two may come here, one after the other.
                Ok(()) => set(REMOVING)?,
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(no_locks(&path, &e)),
            }
        }
        drop(file);
        self.attempt(&format!("tree-{output}.lock"))
    }

    fn attempt(&self, name: &str) -> Result<Option<Lease>, Failure> {
        let (path, file) = self.open(name)?;
        Lease::try_exclusive(&path, file)
    }

    fn open(&self, name: &str) -> Result<(PathBuf, File), Failure> {
        let path = self.folder.join(name);
        // Lock files stay: to remove one is to race with whoever has just opened it.
        let file = pass("lease-open")
            .and_then(|()| OpenOptions::new().create(true).truncate(false).write(true).open(&path))
            .and_then(|file| pass("lease-lock").map(|()| file))
            .map_err(|e| Failure::io("open", &path, &e))?;
        Ok((path, file))
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
        let other = leases.try_key(&Digest::of(b"second")).unwrap().unwrap();
        let mut child = command.arg("60").stdin(Lease::into_stdio(vec![lease, other]).unwrap()).spawn().unwrap();
        drop(command);
        assert!(leases.try_key(&key).unwrap().is_none(), "the child holds it");
        assert!(leases.try_key(&Digest::of(b"second")).unwrap().is_none(), "the child holds both");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(leases.wait_key(&key, &|| false).unwrap().is_some());
    }

    #[test]
    fn an_artifact_is_shared_by_readers_and_removed_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path().to_owned());
        let tree = Digest::of(b"tree");
        let (first, second) = (leases.share_tree(&tree).unwrap(), leases.share_tree(&tree).unwrap());
        assert!(leases.try_tree(&tree).unwrap().is_none());
        drop((first, second));
        assert!(leases.try_tree(&tree).unwrap().is_some());
    }

    #[test]
    fn the_first_to_remove_an_artifact_comes_after_all_who_publish() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path().to_owned());
        let tree = Digest::of(b"tree");
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let publishing = leases.share_new_tree(&tree).unwrap();
        assert_eq!(names(), 1, "no file of its own");
        assert!(leases.try_tree(&tree).unwrap().is_none());
        // Who comes now has a lock of its own, and is not waited for.
        let later = leases.share_new_tree(&Digest::of(b"later")).unwrap();
        assert_eq!(names(), 2);
        assert!(leases.try_tree(&tree).unwrap().is_none());
        drop(publishing);
        assert!(leases.try_tree(&tree).unwrap().is_some());
        assert!(leases.try_tree(&Digest::of(b"later")).unwrap().is_none());
        drop(later);
        // Then each has a lock of its own.
        let publishing = leases.share_new_tree(&tree).unwrap();
        assert!(leases.try_tree(&tree).unwrap().is_none());
        assert!(leases.try_tree(&Digest::of(b"other")).unwrap().is_some());
        drop(publishing);
        assert!(leases.try_tree(&tree).unwrap().is_some());
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_with_a_path() {
        let leases = Leases::new("/nonexistent/locks".into());
        assert!(leases.try_key(&Digest::of(b"key")).unwrap_err().message.contains("/nonexistent/locks"));
    }
}
