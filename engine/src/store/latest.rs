//! Readable names for the newest results: `outputs/latest/<experiment>/<stage>` links into the store, and
//! `keys.json` beside them remembers which key each stage had, so that a run can say what changed since.
//!
//! Conveniences: nothing here decides whether a stage runs. Unaware of records.
use super::scratch::Scratch;
use super::{FOLDER, Store};
use crate::Failure;
use crate::failpoint::pass;
use crate::key::Digest;
use crate::resolve::Found;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Holds the digest of the names and keys for which everything here is up to date.
const STATE: &str = ".state";

/// Holds the manifest, relative to the project's root, whose results these are.
const MANIFEST: &str = ".manifest";

/// Bytes that are hashed in one go.
const PIECE: usize = 64 << 10;

/// The newest results of one experiment.
#[derive(Debug)]
pub struct Latest {
    folder: PathBuf,
    /// The store's own folder, on the same file system.
    base: PathBuf,
    /// Read on first use: a run without work never needs it.
    keys: std::cell::OnceCell<BTreeMap<String, Digest>>,
    news: BTreeMap<String, Digest>,
}

impl Latest {
    /// The newest results of an experiment in the outputs folder of this store.
    pub fn of(store: &Store, experiment: &str) -> Self {
        let folder = store.outputs().join("latest").join(file_name(experiment));
        Self { folder, base: store.outputs().join(FOLDER), keys: std::cell::OnceCell::new(), news: BTreeMap::new() }
    }

    fn keys(&self) -> &BTreeMap<String, Digest> {
        self.keys.get_or_init(|| {
            let text = std::fs::read(self.folder.join("keys.json")).unwrap_or_default();
            serde_json::from_slice(&text).unwrap_or_default()
        })
    }

    /// Remembers whose results these are. Returns the manifest that they were of so far, if that is another one which is
    /// still there.
    pub fn claim(&self, manifest: &Path, root: &Path) -> Option<PathBuf> {
        let manifest = manifest.canonicalize().ok()?;
        let ours = manifest.strip_prefix(root.canonicalize().ok()?).unwrap_or(&manifest);
        let path = self.folder.join(MANIFEST);
        let before = std::fs::read(&path).map(|bytes| PathBuf::from(OsString::from_vec(bytes))).ok();
        if before.as_deref() == Some(ours) {
            return None;
        }
        // Torn or not there, it costs a remark.
        let _ = std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&path, ours.as_os_str().as_bytes()));
        before.filter(|before| root.join(before).is_file())
    }

    /// Whether these are the results of this manifest, so that there is nothing to remember or to tell.
    pub(crate) fn is_of(&self, manifest: &Path, root: &Path) -> bool {
        let ours = || {
            let manifest = manifest.canonicalize().ok()?;
            Some(manifest.strip_prefix(root.canonicalize().ok()?).unwrap_or(&manifest).to_owned())
        };
        let known = std::fs::read(self.folder.join(MANIFEST)).ok();
        known.map(|bytes| PathBuf::from(OsString::from_vec(bytes))).is_some_and(|known| ours() == Some(known))
    }

    /// Stands for the names and keys for which everything here is up to date.
    pub(crate) fn state(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.join(STATE)).ok()
    }

    /// The key that a stage had the last time it was run or found.
    pub fn key(&self, stage: &str) -> Option<Digest> {
        self.keys().get(stage).copied()
    }

    /// Whether the stage of that name in the manifest, or an instance of it, ever had a result.
    pub fn knows(&self, base: &str) -> bool {
        let instance = format!("{base}[");
        let first = self.keys().range(instance.clone()..).next();
        self.keys().contains_key(base) || first.is_some_and(|(name, _)| name.starts_with(&instance))
    }

    /// The stages whose last key was one of these.
    pub fn names<'a>(&'a self, keys: &'a [Digest]) -> impl Iterator<Item = &'a str> {
        self.keys().iter().filter(|(_, key)| keys.contains(key)).map(|(name, _)| name.as_str())
    }

    /// Remembers a stage's key without a link, because its files are not there, or will not be for long. A link to an
    /// older result would lead astray.
    pub fn note(&mut self, stage: &str, key: Digest) {
        let link = self.folder.join(file_name(stage));
        if link.is_symlink() {
            let _ = std::fs::remove_file(link);
        }
        self.news.insert(stage.to_owned(), key);
    }

    /// Links a stage's name to an artifact, in one step: a reader sees the old one or the new one.
    ///
    /// # Errors
    /// The disk's.
    pub fn link(&mut self, stage: &str, key: Digest, output: &Digest) -> Result<(), Failure> {
        self.news.insert(stage.to_owned(), key);
        let link = self.folder.join(file_name(stage));
        // Relative, so that the outputs folder can be moved.
        let target = PathBuf::from("../..").join(FOLDER).join("trees").join(output.to_string());
        if std::fs::read_link(&link).is_ok_and(|present| present == target) {
            return Ok(());
        }
        let scratch = Scratch::new(&self.base, "latest")?;
        pass("latest-folder")
            .and_then(|()| std::fs::create_dir_all(&self.folder))
            .and_then(|()| pass("latest-link"))
            .and_then(|()| std::os::unix::fs::symlink(&target, &scratch.path))
            .and_then(|()| pass("latest-rename"))
            .and_then(|()| std::fs::rename(&scratch.path, &link))
            .and_then(|()| pass("latest-renamed"))
            .map_err(|e| Failure::io("link", &link, &e))
    }

    /// Links and remembers every stage, unless the last run already did so for exactly these.
    ///
    /// # Errors
    /// The disk's.
    pub fn bring_up_to_date<'a>(
        &mut self,
        stages: impl Iterator<Item = (&'a str, &'a Found)> + Clone,
    ) -> Result<(), Failure> {
        let (mut hasher, mut piece) = (blake3::Hasher::new(), Vec::with_capacity(PIECE + 1024));
        for (name, found) in stages.clone() {
            piece.extend_from_slice(name.as_bytes());
            piece.push(0);
            piece.extend_from_slice(found.key.as_bytes());
            if piece.len() >= PIECE {
                hasher.update(&piece);
                piece.clear();
            }
        }
        hasher.update(&piece);
        let state = Digest::from(hasher.finalize()).to_string();
        let path = self.folder.join(STATE);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == state) {
            return Ok(());
        }
        for (name, found) in stages {
            if found.keep.is_all() {
                self.link(name, found.key, &found.output)?;
            } else {
                self.note(name, found.key);
            }
        }
        self.save()?;
        // Not written, as in outputs that may only be read, it only means to look again next time.
        let _ = std::fs::write(&path, state);
        Ok(())
    }

    /// Writes the keys down, if any is new.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self) -> Result<(), Failure> {
        // What was known of the whole holds no longer.
        let _ = std::fs::remove_file(self.folder.join(STATE));
        if self.news.iter().all(|(stage, key)| self.keys().get(stage) == Some(key)) {
            return Ok(());
        }
        let mut keys = self.keys().clone();
        keys.extend(self.news.iter().map(|(stage, key)| (stage.clone(), *key)));
        let path = self.folder.join("keys.json");
        let scratch = Scratch::new(&self.base, "latest")?;
        let text = serde_json::to_vec_pretty(&keys).unwrap_or_default();
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| pass("latest-keys-write"))
            .and_then(|()| std::fs::write(&scratch.path, text))
            .and_then(|()| pass("latest-keys-rename"))
            .and_then(|()| std::fs::rename(&scratch.path, &path))
            .and_then(|()| pass("latest-keys-renamed"))
            .map_err(|e| Failure::io("write", &path, &e))
    }
}

/// A name as one component of a path: never `..`, hidden, or two components.
pub(crate) fn file_name(name: &str) -> String {
    let name: String = name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    if name.starts_with('.') || name.is_empty() { format!("_{name}") } else { name }
}
