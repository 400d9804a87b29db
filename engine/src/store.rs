//! The content-addressed store under `outputs/objects-v1/`. The version in the name changes with the layout:
//!
//! ```text
//! trees/<digest>/       an artifact: its files (mode 0444) and links to files that stay where they are
//! records/<key>.json    what ran and what came out; written last, so a record promises its tree
//! failures/<key>.json   why a key failed the last time
//! checkpoints/<key>/    what an unfinished stage left for its next attempt
//! locks/                leases, see `lease`
//! tmp/<key>-<pid>-<n>/  work in progress; swept when nobody holds the lease of the key
//! memos/                what runs without work found, see `memo`
//! index                 stat cache and records in one file, so that a run without work reads one file, not thousands
//! ```
//! Unaware of the graph, of scheduling and of what an artifact means.
mod failures;
mod glance;
mod index;
mod latest;
mod layout;
mod publish;
mod record;
mod scratch;
mod stray;
mod sweep;
#[cfg(test)]
mod tests;

pub use failures::{FailureRow, Limits};
pub(crate) use glance::{Glance, Lately, Whole};
pub use latest::Latest;
pub(crate) use latest::file_name;
pub use publish::Draft;
pub use record::{FileEntry, Hardware, Record, Reference};

use crate::Failure;
use crate::failpoint::pass;
use crate::hash::{Stamp, StatCache};
use crate::key::{Digest, DigestMap};
use crate::lease::Leases;
use crate::options::Keep;
use index::{Brief, Index, Loaded, Packed};
use scratch::Scratch;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Name of the store's folder in the outputs folder.
pub const FOLDER: &str = "objects-v1";

/// The store of one outputs folder. Any number of processes may use it at once.
#[derive(Debug)]
pub struct Store {
    outputs: PathBuf,
    base: PathBuf,
    /// What the index held when the store was opened.
    packed: Packed,
    /// Records that are not in it, or were taken out of it.
    records: Mutex<DigestMap<(Stamp, Arc<Record>)>>,
    /// Files outside the store that are not in it.
    cache: StatCache,
    index: Index,
    complaint: Option<String>,
}

/// Why a key has no result in the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Miss {
    /// It never ran here.
    Absent,
    /// It ran, but its result is no longer whole; says what is wrong.
    Damaged(String),
    /// It ran, and its files were removed because only its record was to be kept.
    Dropped(Arc<Record>),
}

impl Store {
    /// Opens the store of an outputs folder, making it if need be.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(outputs: &Path) -> Result<Self, Failure> {
        let outputs = std::path::absolute(outputs).map_err(|e| Failure::io("find", outputs, &e))?;
        layout::check(&outputs)?;
        let base = outputs.join(FOLDER);
        for folder in ["trees", "records", "failures", "checkpoints", "locks", "tmp"] {
            let path = base.join(folder);
            // One `stat` each on the way without work; `create_dir_all` would try to make each first.
            if !path.is_dir() {
                pass("store-folder")
                    .and_then(|()| std::fs::create_dir_all(&path))
                    .map_err(|e| Failure::io("create", &path, &e))?;
            }
        }
        let (index, loaded) = Index::open(&base);
        let Loaded { packed, read_again, complaint, .. } = loaded;
        let records = read_again.into_iter().map(|(stamp, record)| (record.key, (stamp, record))).collect();
        let (records, cache) = (Mutex::new(records), StatCache::default());
        Ok(Self { outputs, base, packed, records, cache, index, complaint })
    }

    /// The outputs folder, absolute.
    pub fn outputs(&self) -> &Path {
        &self.outputs
    }

    /// What was wrong with the store when it was opened, and has been mended.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.as_ref().map(|what| format!("{what}; it was made anew from the records, and nothing is lost"))
    }

    /// Folder of an artifact.
    pub fn tree(&self, output: &Digest) -> PathBuf {
        self.base.join("trees").join(output.to_string())
    }

    /// Folder for the checkpoints of a key; nobody made it yet.
    pub fn checkpoints(&self, key: &Digest) -> PathBuf {
        self.base.join("checkpoints").join(key.to_string())
    }

    /// Where locks of cores lie if the host's own folder cannot be used.
    pub(crate) fn slots_folder(&self) -> PathBuf {
        self.base.join("locks")
    }

    /// Where the memo of a manifest lies in an outputs folder.
    pub(crate) fn memo_in(outputs: &Path, name: &Digest) -> PathBuf {
        outputs.join(FOLDER).join("memos").join(name.to_string())
    }

    /// Puts a memo in its place, in one step. Not durably: it can be made again.
    pub(crate) fn put_memo(&self, name: &Digest, bytes: &[u8]) -> Result<(), Failure> {
        let path = Self::memo_in(&self.outputs, name);
        let scratch = Scratch::new(&self.base, "memos")?;
        std::fs::create_dir_all(self.base.join("memos"))
            .and_then(|()| std::fs::write(&scratch.path, bytes))
            .and_then(|()| std::fs::rename(&scratch.path, &path))
            .map_err(|e| Failure::io("write", &path, &e))
    }

    /// Changes whenever any process publishes a result or writes down a failure.
    pub(crate) fn generation(&self) -> (i64, i64) {
        let changed = |name: &str| Stamp::of(&self.base.join(name)).map_or(0, |stamp| stamp.mtime);
        (changed("records"), changed("failures"))
    }

    /// The leases of this store.
    pub fn leases(&self) -> Leases {
        Leases::new(self.base.join("locks"))
    }

    pub(crate) fn record_path(&self, key: &Digest) -> PathBuf {
        self.base.join("records").join(format!("{key}.json"))
    }

    /// The record of a key if its artifact is whole: every file is there with the right size, and every file outside
    /// the store is unchanged, by its stamp or else by its content.
    ///
    /// # Errors
    /// Why there is no result.
    pub fn look_up(&self, key: &Digest) -> Result<Arc<Record>, Miss> {
        let record = self.entry(key)?;
        let tree = self.tree(&record.output);
        if !record.keep.is_all() && !tree.is_dir() {
            return Err(Miss::Dropped(record));
        }
        for file in &record.files {
            self.check(&tree.join(&file.name), file).map_err(Miss::Damaged)?;
        }
        Ok(record)
    }

    /// Whether the files of a record are there.
    pub fn has_files(&self, record: &Record) -> bool {
        self.tree(&record.output).is_dir()
    }

    /// Removes the files of a record of which only the record is to be kept, unless somebody uses them or another
    /// record needs equal ones; `needed` is asked once nobody can publish any meanwhile. Says whether they are gone.
    ///
    /// # Errors
    /// The disk's.
    pub fn drop_files(&self, record: &Record, needed: &dyn Fn() -> bool) -> Result<bool, Failure> {
        let Some(_alone) = self.leases().try_tree(&record.output)?.filter(|_| !needed()) else { return Ok(false) };
        self.learn_new_records();
        let shares = |output, keep: Keep| output == record.output && keep.is_all();
        if self.known().values().any(|(_, other)| shares(other.output, other.keep))
            || self.packed_only().any(|other| shares(other.output, other.keep))
        {
            return Ok(false);
        }
        let tree = self.tree(&record.output);
        // First out of sight, in one step: a reader sees all of it or nothing.
        let aside = self.base.join("tmp").join(format!("{}-{}", record.key, unique()));
        match std::fs::rename(&tree, &aside) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            renamed => renamed.map_err(|e| Failure::io("remove", &tree, &e))?,
        }
        // What is left of it, the next run sweeps.
        let _ = std::fs::remove_dir_all(&aside);
        Ok(true)
    }

    /// Reads the records that other processes published since this store was opened.
    fn learn_new_records(&self) {
        for entry in std::fs::read_dir(self.base.join("records")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let key = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|key| key.parse().ok());
            if let Some(key) = key
                && self.packed.record(&key).is_none()
                && !self.known().contains_key(&key)
            {
                // One that cannot be read shares nothing.
                let _ = self.entry(&key);
            }
        }
    }

    /// The record of a key with its key document, whether or not its artifact is still whole.
    pub fn record(&self, key: &Digest) -> Option<Record> {
        Record::read(&self.record_path(key)).ok()
    }

    /// As [`Store::record`], but without the document, and from memory if it is there.
    pub(crate) fn brief(&self, key: &Digest) -> Option<Arc<Record>> {
        self.entry(key).ok()
    }

    /// All records that this process knows of, without their documents.
    pub(crate) fn briefs(&self) -> Vec<Arc<Record>> {
        let mut records: Vec<_> = self.known().values().map(|(_, record)| Arc::clone(record)).collect();
        records.extend(self.packed_only().filter_map(|brief| brief.unpack().map(Arc::new)));
        records
    }

    /// The record of a key that was just looked at, without another look.
    pub(crate) fn kept(&self, key: &Digest) -> Option<Arc<Record>> {
        let known = self.known().get(key).map(|(_, record)| Arc::clone(record));
        known.or_else(|| self.packed.record(key)?.unpack().map(Arc::new))
    }

    /// What the index knows of records and nobody took out of it.
    fn packed_only(&self) -> impl Iterator<Item = Brief<'_>> {
        let known: HashSet<Digest> = self.known().keys().copied().collect();
        self.packed.records().filter(move |brief| !known.contains(&brief.key))
    }

    /// All records of stages of one kind, with their documents.
    pub fn records_of(&self, kind: &str) -> Vec<Record> {
        self.learn_new_records();
        let briefs = self.briefs();
        briefs.iter().filter(|record| record.kind == kind).filter_map(|record| self.record(&record.key)).collect()
    }

    fn entry(&self, key: &Digest) -> Result<Arc<Record>, Miss> {
        let path = self.record_path(key);
        // The index may be older than the record, or know of one that was removed: the record's own file decides.
        let stamp = Stamp::of(&path).map_err(|_| Miss::Absent)?;
        if let Some((_, record)) = self.known().get(key).filter(|(known, _)| *known == stamp) {
            return Ok(Arc::clone(record));
        }
        if let Some(record) = self.packed.record(key).filter(|brief| brief.stamp == stamp).and_then(|b| b.unpack()) {
            let record = Arc::new(record);
            self.known().insert(*key, (stamp, Arc::clone(&record)));
            return Ok(record);
        }
        // A read that failed once (no descriptor left, a network that hiccups) is no reason to execute hours again; a
        // record that stays unreadable is replaced by executing its stage.
        let record = Record::read(&path)
            .or_else(|_| Record::read(&path))
            .ok()
            .filter(|record| record.key == *key)
            .ok_or_else(|| Miss::Damaged(format!("{} is not a record", path.display())))?;
        Ok(self.remember(stamp, record))
    }

    fn remember(&self, stamp: Stamp, mut record: Record) -> Arc<Record> {
        record.document = serde_json::Value::Null;
        record.hardware = None;
        self.index.append_record(&stamp, &record);
        let record = Arc::new(record);
        self.known().insert(record.key, (stamp, Arc::clone(&record)));
        record
    }

    fn check(&self, path: &Path, file: &FileEntry) -> Result<(), String> {
        let gone = |e: std::io::Error| format!("{} is not there any more ({e})", path.display());
        let meta = std::fs::symlink_metadata(path).map_err(gone)?;
        let stamp = if meta.is_symlink() { Stamp::of(path).map_err(gone)? } else { Stamp::from(&meta) };
        if stamp.size != file.size {
            return Err(format!("{} has {} bytes instead of {}", path.display(), stamp.size, file.size));
        }
        // A file inside the store is read-only and nobody's to change; one outside is its owner's.
        let unchanged = !meta.is_symlink() || file.reference.as_ref().is_some_and(|r| r.stamp == stamp);
        if unchanged {
            return Ok(());
        }
        let outside = std::fs::read_link(path).map_err(gone)?;
        match self.digest(&outside) {
            Ok((_, digest)) if digest == file.digest => Ok(()),
            Ok(_) => Err(format!("{} has changed since it was used", outside.display())),
            Err(failure) => Err(failure.message),
        }
    }

    /// The digest of a file outside the store, through the stat cache.
    ///
    /// # Errors
    /// It cannot be read, or it changes meanwhile.
    pub fn digest(&self, path: &Path) -> Result<(Stamp, Digest), Failure> {
        if let Some(known) = self.known_file(path) {
            return Ok(known);
        }
        let (stamp, digest, news) = self.cache.digest(path)?;
        if let Some(seen) = news {
            self.index.append_seen(&seen);
        }
        Ok((stamp, digest))
    }

    /// The digest of a file outside the store, if it need not be read for it.
    pub fn known_digest(&self, path: &Path) -> Option<Digest> {
        self.known_file(path).map(|(_, digest)| digest)
    }

    /// The digest of a file outside the store of which the system just said this.
    pub(crate) fn digest_at(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        let packed = self.packed.seen(path).filter(|(known, _)| known == stamp);
        packed.or_else(|| self.cache.get(path).filter(|(known, _)| known == stamp)).map(|(_, digest)| digest)
    }

    fn known_file(&self, path: &Path) -> Option<(Stamp, Digest)> {
        let stamp = Stamp::of(path).ok()?;
        Some((stamp, self.digest_at(path, &stamp)?))
    }

    /// Whether [`Store::digest`] would answer without reading the file.
    pub fn digest_is_known(&self, path: &Path) -> bool {
        self.known_file(path).is_some()
    }

    fn known(&self) -> MutexGuard<'_, DigestMap<(Stamp, Arc<Record>)>> {
        // A panic elsewhere leaves the map whole: every change to it is one insertion.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the entries of a folder durable.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    pass("folder-sync")?;
    std::fs::File::open(path)?.sync_all()
}

/// A name no other process or thread uses: process, and a number that grows.
pub(crate) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // The time tells apart two processes that got the same number one after the other.
    format!("{}-{:x}-{}", std::process::id(), crate::hash::now_nanos(), NEXT.fetch_add(1, Ordering::Relaxed))
}
