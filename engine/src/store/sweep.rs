//! Removes what killed processes left behind: their work, and checkpoints of what was published.
//!
//! Unaware of what it is; a free lease says that nobody works on it.
use super::{Store, stray};
use crate::failpoint::pass;
use crate::key::Digest;
use crate::lease::Leases;
use std::collections::HashMap;
use std::path::PathBuf;

impl Store {
    /// Removes the folders of work that nobody does any more, those of keys whose lease is free, and ends the programs
    /// that a killed run left at work in them. Says how many.
    pub fn sweep(&self) -> usize {
        let Ok(entries) = pass("sweep-begin").and_then(|()| std::fs::read_dir(self.base.join("tmp"))) else { return 0 };
        let leases = self.leases();
        let (mut left, mut held) = (Vec::new(), HashMap::new());
        for entry in entries.flatten() {
            let name = entry.file_name();
            let key = name.to_str().and_then(|name| name.get(..64)).and_then(|key| key.parse::<Digest>().ok());
            match key {
                // Another of the same key was found before.
                Some(key) if held.contains_key(&key) => left.push(entry.path()),
                // A folder is made under the lease of its key, so a free lease means that its maker is gone.
                Some(key) => {
                    if let Ok(Some(lease)) = leases.try_key(&key) {
                        left.push(entry.path());
                        held.insert(key, lease);
                    }
                }
                // An index about to replace the old one: whoever loses it does without, and mends it next time.
                None if name.to_str().is_some_and(|name| name.starts_with("index-")) => left.push(entry.path()),
                None => {}
            }
        }
        stray::end(&left);
        let remove = |path: &&PathBuf| {
            pass("sweep-remove")
                .and_then(|()| std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path)))
                .and_then(|()| pass("sweep-removed"))
                .is_ok()
        };
        let swept = left.iter().filter(remove).count();
        // Some of these keys may have checkpoints to sweep.
        drop(held);
        self.sweep_checkpoints(&leases);
        swept
    }

    /// Removes the checkpoints of keys that have a result: their process ended between publishing and removing them.
    fn sweep_checkpoints(&self, leases: &Leases) {
        let Ok(entries) = std::fs::read_dir(self.base.join("checkpoints")) else { return };
        for entry in entries.flatten() {
            let key = entry.file_name().to_str().and_then(|key| key.parse::<Digest>().ok());
            // Under the lease nobody writes any there; a forced execution holds it too.
            if let Some(key) = key.filter(|key| self.look_up(key).is_ok())
                && let Ok(Some(_lease)) = leases.try_key(&key)
            {
                let _ = pass("sweep-checkpoints").and_then(|()| std::fs::remove_dir_all(entry.path()));
            }
        }
    }
}
