//! Which layouts of a store an outputs folder holds: one that a newer anneal made is left alone.
//!
//! Unaware of what is in them.
use super::FOLDER;
use crate::Failure;
use std::path::Path;

/// What the names of all layouts begin with; a number follows.
const PREFIX: &str = "objects-v";

/// Refuses an outputs folder that a newer anneal uses: this one would execute again what is there, and keep names and
/// failures that the other has no use for.
pub(super) fn check(outputs: &Path) -> Result<(), Failure> {
    let version = |name: &str| name.strip_prefix(PREFIX).and_then(|number| number.parse::<u64>().ok());
    let ours = version(FOLDER);
    // A folder that cannot be listed is told of when it is written to; one that is not there has no newer layout.
    let entries = std::fs::read_dir(outputs).into_iter().flatten().flatten();
    let newer = entries
        .filter(|entry| entry.file_name().to_str().and_then(version) > ours)
        .min_by_key(std::fs::DirEntry::file_name);
    let Some(newer) = newer else { return Ok(()) };
    Err(Failure::user(format!("{} was made by a newer anneal; this one uses {FOLDER}", newer.path().display()))
        .hint("use the newer anneal, or another folder: --outputs DIR"))
}

#[cfg(test)]
mod tests {
    use crate::store::Store;

    #[test]
    fn what_a_newer_anneal_made_is_refused_and_left_alone() {
        for present in [&["objects-v2"][..], &["objects-v1", "objects-v10", "objects-v2"]] {
            let dir = tempfile::tempdir().unwrap();
            present.iter().for_each(|name| std::fs::create_dir(dir.path().join(name)).unwrap());
            let failure = Store::open(dir.path()).unwrap_err();
            assert!(failure.message.contains("objects-v"), "{failure}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), present.len(), "nothing was made");
        }
        let dir = tempfile::tempdir().unwrap();
        ["objects-v0", "objects-vx", "objects-v2.old", "runs"]
            .iter()
            .for_each(|name| std::fs::create_dir(dir.path().join(name)).unwrap());
        assert!(Store::open(dir.path()).is_ok());
    }
}
