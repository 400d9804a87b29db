//! Digests of files and of folders, and the stat cache that spares reading a file twice.
//!
//! Unaware of stages and keys. A file is read in large pieces, not mapped: a mapping of a file that somebody truncates
//! meanwhile kills the process with SIGBUS, and no run may die of its input.
use crate::Failure;
use crate::failpoint::pass;
use crate::key::Digest;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of one read; also the smallest file worth more than one thread.
const PIECE: usize = 4 << 20;
/// A file larger than this is read ahead of its hashing.
const LARGE: u64 = 4 * PIECE as u64;
/// Pieces that may be read before they are hashed.
const AHEAD: usize = 4;

/// What the system says of a file without opening it. Equal stamps mean equal content, but for the racy moments that
/// [`Stamp::settled`] excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since the Unix epoch.
    pub mtime: i64,
    /// Last change of the inode, likewise; `touch -d` cannot set it.
    pub ctime: i64,
}

impl Stamp {
    /// Of what a path leads to, links followed.
    ///
    /// # Errors
    /// The system's.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        std::fs::metadata(path).map(|meta| Self::from(&meta))
    }

    /// Whether a later write would be sure to change the stamp: the last one lies further back than the clock of the
    /// file system is coarse. Without this, a file written twice within one tick keeps its stamp (git calls it racy).
    pub fn settled(&self, now: i64) -> bool {
        let last = self.mtime.max(self.ctime);
        // Whole seconds in both times hint at a file system that keeps no more; kernels tick in at most 10 ms.
        let coarse = self.mtime % 1_000_000_000 == 0 && self.ctime % 1_000_000_000 == 0;
        now.saturating_sub(last) > if coarse { 2_000_000_000 } else { 50_000_000 }
    }
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        let nanos = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// BLAKE3 of a file's content, and its size. All cores help with a large file.
///
/// # Errors
/// The system's, for instance a path that is a folder.
pub fn file(path: &Path) -> std::io::Result<(Digest, u64)> {
    reader(File::open(path)?)
}

fn reader(mut file: File) -> std::io::Result<(Digest, u64)> {
    let expected = file.metadata()?.len();
    if expected > LARGE {
        // A disk that is asked for one piece at a time idles while the piece is hashed. Only advice: it may fail.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        return ahead(file);
    }
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    let mut buffer = vec![0; usize::try_from(expected).unwrap_or(PIECE).clamp(4096, PIECE)];
    loop {
        let filled = fill(&mut file, &mut buffer)?;
        if filled == 0 {
            return Ok((Digest::from(hasher.finalize()), size));
        }
        size += filled as u64;
        update(&mut hasher, &buffer[..filled]);
    }
}

/// Reads the next pieces on another thread while one is hashed.
fn ahead(mut file: File) -> std::io::Result<(Digest, u64)> {
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    std::thread::scope(|scope| {
        let (full, pieces) = std::sync::mpsc::sync_channel(AHEAD);
        let (back, empty) = std::sync::mpsc::channel();
        (0..AHEAD).for_each(|_| drop(back.send(vec![0; PIECE])));
        let read = move || {
            // Ends with the file, at an error, or when nobody takes pieces any more.
            while let Ok(mut buffer) = empty.recv() {
                let filled = fill(&mut file, &mut buffer);
                let last = !matches!(filled, Ok(1..));
                if full.send(filled.map(|filled| (buffer, filled))).is_err() || last {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("read".to_owned()).spawn_scoped(scope, read)?;
        for piece in pieces {
            let (buffer, filled) = piece?;
            size += filled as u64;
            update(&mut hasher, &buffer[..filled]);
            let _ = back.send(buffer);
        }
        Ok((Digest::from(hasher.finalize()), size))
    })
}

fn update(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    if bytes.len() < PIECE {
        hasher.update(bytes)
    } else {
        hasher.update_rayon(bytes)
    };
}

/// Reads until the buffer is full or the file ends; says how much.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Digest of a folder: a Merkle tree of one level over (name, size, content), sorted by name. Every part has its length
/// in front, so that no two folders have one encoding.
pub fn tree<'a>(files: impl IntoIterator<Item = (&'a str, u64, &'a Digest)>) -> Digest {
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable_by_key(|(name, ..)| *name);
    let mut hasher = blake3::Hasher::new_derive_key("anneal 2026 artifact tree v1");
    hasher.update(&(files.len() as u64).to_le_bytes());
    for (name, size, digest) in files {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&size.to_le_bytes());
        hasher.update(digest.as_bytes());
    }
    Digest::from(hasher.finalize())
}

/// A file that was read once: where it lay, what the system said of it then, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where.
    pub path: PathBuf,
    /// What the system said before and after reading.
    pub stamp: Stamp,
    /// BLAKE3 of the content.
    pub digest: Digest,
}

/// Digests of files by path, valid as long as the file's stamp stays.
#[derive(Debug, Default)]
pub struct StatCache {
    seen: Mutex<HashMap<PathBuf, (Stamp, Digest)>>,
}

impl StatCache {
    /// Takes over what an earlier process saw.
    pub fn insert(&self, seen: Seen) {
        self.lock().insert(seen.path, (seen.stamp, seen.digest));
    }

    /// What was seen of a file, whatever it is now.
    pub(crate) fn get(&self, path: &Path) -> Option<(Stamp, Digest)> {
        let seen = self.lock();
        // To hash a path costs more than to see that there is none.
        (!seen.is_empty()).then(|| seen.get(path).copied())?
    }

    /// The digest, if the file need not be read for it: one `stat`.
    pub fn peek(&self, path: &Path) -> Option<(Stamp, Digest)> {
        let (stamp, digest) = self.get(path)?;
        (Stamp::of(path).ok()? == stamp).then_some((stamp, digest))
    }

    /// The digest of a file, read only if its stamp is new. Also returns what to write down for the next process, if
    /// there is something new to remember.
    ///
    /// # Errors
    /// The file cannot be read, or was written to while it was read.
    pub fn digest(&self, path: &Path) -> Result<(Stamp, Digest, Option<Seen>), Failure> {
        if let Some((stamp, digest)) = self.peek(path) {
            return Ok((stamp, digest, None));
        }
        let read = |e: std::io::Error| Failure::io("read", path, &e);
        let file = pass("source-open").and_then(|()| File::open(path)).map_err(read)?;
        let before = Stamp::from(&file.metadata().map_err(read)?);
        let started = now_nanos();
        let (digest, _) = pass("source-read").and_then(|()| reader(file)).map_err(read)?;
        if Stamp::of(path).map_err(read)? != before {
            return Err(Failure::user(format!("{} changed while it was read", path.display()))
                .hint("wait until it is complete, then run again"));
        }
        let seen = before.settled(started).then(|| Seen { path: path.to_owned(), stamp: before, digest });
        if let Some(seen) = &seen {
            self.insert(seen.clone());
        }
        Ok((before, digest, seen))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, Digest)>> {
        // A panic elsewhere leaves the map whole: every change to it is one insertion.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_hashes_like_its_bytes_whatever_its_size() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, 4095, 4096, 4097, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 77, 4 * PIECE + 1, 9 * PIECE] {
            let path = dir.path().join("file");
            let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let (digest, length) = file(&path).unwrap();
            assert_eq!((digest.as_bytes(), length), (blake3::hash(&bytes).as_bytes(), size as u64));
        }
    }

    #[test]
    fn a_folder_is_an_error_not_a_digest() {
        let dir = tempfile::tempdir().unwrap();
        let failure = StatCache::default().digest(dir.path()).unwrap_err();
        assert_eq!(failure.class, crate::FailureClass::User);
    }

    #[test]
    fn a_fresh_file_is_not_trusted_and_an_old_one_is() {
        let stamp = Stamp { dev: 1, ino: 1, size: 1, mtime: 5_000_000_001, ctime: 5_000_000_001 };
        assert!(!stamp.settled(5_010_000_000));
        assert!(stamp.settled(5_060_000_000));
        let coarse = Stamp { mtime: 5_000_000_000, ctime: 5_000_000_000, ..stamp };
        assert!(!coarse.settled(6_900_000_000));
        assert!(coarse.settled(7_100_000_000));
        let future = Stamp { mtime: i64::MAX, ..stamp };
        assert!(!future.settled(7_100_000_000));
    }

    #[test]
    fn a_rewrite_of_equal_size_is_seen_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let cache = StatCache::default();
        for text in ["one", "two", "one", "six"] {
            std::fs::write(&path, text).unwrap();
            let (_, digest, _) = cache.digest(&path).unwrap();
            assert_eq!(digest.as_bytes(), blake3::hash(text.as_bytes()).as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_settled_file_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(70));
        let cache = StatCache::default();
        let (_, digest, seen) = cache.digest(&path).unwrap();
        assert_eq!(seen.map(|s| s.digest), Some(digest));
        assert_eq!(cache.peek(&path).map(|(_, d)| d), Some(digest));
        assert!(cache.digest(&path).unwrap().2.is_none());
    }

    proptest! {
        #[test]
        fn a_tree_depends_on_every_part_and_not_on_order(
            files in proptest::collection::btree_map("[a-c/]{1,3}", (0u64..3, 0u8..3), 1..5),
            pick in any::<proptest::sample::Index>(),
        ) {
            let list: Vec<_> = files.iter().map(|(n, (s, b))| (n.clone(), *s, Digest::new([*b; 32]))).collect();
            let digest = |list: &[(String, u64, Digest)]| tree(list.iter().map(|(n, s, d)| (n.as_str(), *s, d)));
            let reversed: Vec<_> = list.iter().rev().cloned().collect();
            prop_assert_eq!(digest(&list), digest(&reversed));
            let at = pick.index(list.len());
            let mut other = list.clone();
            other[at].0.push('z');
            prop_assert_ne!(digest(&list), digest(&other));
            let mut other = list.clone();
            other[at].1 += 1;
            prop_assert_ne!(digest(&list), digest(&other));
            let mut other = list.clone();
            other[at].2 = Digest::new([9; 32]);
            prop_assert_ne!(digest(&list), digest(&other));
            let mut other = list.clone();
            other.remove(at);
            prop_assert_ne!(digest(&list), digest(&other));
        }
    }
}
