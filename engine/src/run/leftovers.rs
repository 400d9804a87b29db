//! Folders in which stages worked, removed when the run ends instead of one by one.
//!
//! A file system without a journal does not give out an inode again soon after it was freed, and looks at each such one
//! whenever a file is made: a run of many short stages would slow itself down. Only small folders, and not too many, wait
//! here; after a crash the next run sweeps them as it sweeps all others. Unaware of stages.
use crate::worker::{clear, small};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Folders that wait at most.
const FOLDERS: usize = 1000;

/// Folders that wait for the end.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<Vec<PathBuf>>);

impl Leftovers {
    /// Takes the folder of a stage that ended, or removes it at once.
    pub(super) fn take(&self, folder: PathBuf) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < FOLDERS && small(&folder) {
            return waiting.push(folder);
        }
        drop(waiting);
        clear(&folder);
    }

    /// Removes them all.
    pub(super) fn clear(&self) {
        let waiting = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.iter().for_each(|folder| clear(folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_folders_wait_and_large_ones_go_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, files: usize, bytes: usize| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(folder.join("in")).unwrap();
            (0..files).for_each(|i| std::fs::write(folder.join("in").join(i.to_string()), vec![0; bytes]).unwrap());
            folder
        };
        let leftovers = Leftovers::default();
        let (small, many, large) = (folder("small", 3, 10), folder("many", 40, 1), folder("large", 2, 600 << 10));
        [&small, &many, &large].into_iter().for_each(|folder| leftovers.take(folder.clone()));
        assert!(small.exists() && !many.exists() && !large.exists());
        leftovers.clear();
        assert!(!small.exists());
    }
}
