//! Folders in which stages worked: emptied and used again, and what was in them removed when the run ends instead of one
//! by one.
//!
//! A file system without a journal does not give out an inode again soon after it was freed, and looks at each such one
//! whenever a file is made: a run of many short stages would slow itself down. Only small folders, and not too many, wait
//! here; after a crash the next run sweeps them as it sweeps all others. Unaware of stages.
use crate::Failure;
use crate::key::Digest;
use crate::lease::Lease;
use crate::store::Store;
use crate::worker::clear;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Folders that wait at most.
const FOLDERS: usize = 1000;
/// Entries of one, and bytes in its files, at most.
const ENTRIES: usize = 32;
const BYTES: u64 = 1 << 20;

/// Folders that wait for the end, or to be used again.
#[derive(Debug)]
pub(super) struct Leftovers {
    store: Arc<Store>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Names of what waits begin with this key, whose lease keeps others from sweeping it.
    own: Option<(Digest, Lease)>,
    /// Where things wait for the end.
    trash: Option<PathBuf>,
    /// How many do.
    count: usize,
    /// Empty folders.
    empty: Vec<PathBuf>,
}

impl Leftovers {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, waiting: Mutex::default() }
    }

    /// A folder for the work on a key, as [`Store::workspace`] makes them.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn workspace(&self, key: &Digest) -> Result<PathBuf, Failure> {
        let spare = self.waiting().empty.pop();
        self.store.workspace_from(key, spare.as_deref())
    }

    /// Takes the folder of a stage that ended, or removes it at once. The caller holds the lease of the stage's key.
    pub(super) fn take(&self, folder: &Path) {
        if self.keep(folder).is_none() {
            clear(folder);
        }
    }

    /// Empties a folder and keeps it. Of anything that is not as it should be, nothing: then it is removed.
    fn keep(&self, folder: &Path) -> Option<()> {
        let (mut entries, mut bytes) = (ENTRIES, BYTES);
        small(folder, &mut entries, &mut bytes)?;
        let mut waiting = self.waiting();
        if waiting.count >= FOLDERS {
            return None;
        }
        let (key, trash) = waiting.prepare(&self.store)?;
        for entry in std::fs::read_dir(folder).ok()? {
            let name = waiting.count.to_string();
            std::fs::rename(entry.ok()?.path(), trash.join(name)).ok()?;
            waiting.count += 1;
        }
        // A program may have changed who may use it.
        let mode = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.permissions().mode());
        if mode(folder)? != mode(&trash)? {
            return None;
        }
        let empty = self.store.unused(&key);
        std::fs::rename(folder, &empty).ok()?;
        waiting.empty.push(empty);
        Some(())
    }

    /// Removes them all.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.empty.iter().chain(&waiting.trash).for_each(|folder| clear(folder));
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The key of what waits, and the folder for it.
    fn prepare(&mut self, store: &Store) -> Option<(Digest, PathBuf)> {
        if self.own.is_none() {
            let key = Digest::of(store.unused(&Digest::of(b"leftovers")).as_os_str().as_encoded_bytes());
            self.own = Some((key, store.leases().try_key(&key).ok()??));
        }
        let (key, _) = self.own.as_ref()?;
        if self.trash.is_none() {
            let trash = store.unused(key);
            std::fs::create_dir(&trash).ok()?;
            self.trash = Some(trash);
        }
        Some((*key, self.trash.clone()?))
    }
}

/// Takes what lies in a folder away from what may; `None` once that is too little.
fn small(folder: &Path, entries: &mut usize, bytes: &mut u64) -> Option<()> {
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        *entries = entries.checked_sub(1)?;
        if entry.file_type().ok()?.is_dir() {
            small(&entry.path(), entries, bytes)?;
        } else {
            *bytes = bytes.checked_sub(entry.metadata().ok()?.len())?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_folders_are_emptied_and_used_again_and_large_ones_go_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let leftovers = Leftovers::new(Arc::clone(&store));
        let held = |name: &str| (Digest::of(name.as_bytes()), name.to_owned());
        let made = |(key, _): &(Digest, String), files: usize, bytes: usize| {
            let folder = leftovers.workspace(key).unwrap();
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
            std::fs::create_dir(folder.join("in")).unwrap();
            (0..files).for_each(|i| std::fs::write(folder.join("in").join(i.to_string()), vec![0; bytes]).unwrap());
            folder
        };
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let tmp = || std::fs::read_dir(dir.path().join("objects-v1/tmp")).unwrap().count();

        let small = made(&held("small"), 3, 10);
        let same = inode(&small);
        leftovers.take(&small);
        assert!(!small.exists());
        let (many, large) = (made(&held("many"), 40, 1), made(&held("large"), 2, 600 << 10));
        assert!(inode(&many) == same && inode(&large) != same);
        assert!(many.file_name().unwrap().to_str().unwrap().starts_with(&held("many").0.to_string()));
        leftovers.take(&many);
        leftovers.take(&large);
        // What waits, and nothing else; others leave it alone.
        assert_eq!(tmp(), 1);
        assert_eq!(Store::open(dir.path()).unwrap().sweep(), 0);
        let closed = made(&held("closed"), 1, 1);
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        leftovers.take(&closed);
        assert!(!closed.exists() && leftovers.waiting().empty.is_empty());
        leftovers.clear();
        assert_eq!(tmp(), 0);
        // What a killed run leaves, the next one sweeps.
        leftovers.take(&made(&held("small"), 1, 1));
        std::mem::forget(std::mem::take(&mut *leftovers.waiting()).trash);
        assert_eq!((tmp(), store.sweep(), tmp()), (2, 2, 0));
    }
}
