//! The commit protocol. Objects first, record last; nothing half is ever visible and nothing good is ever removed
//! before its replacement is in place:
//!
//! 1. a stage writes into a folder of its own in `tmp/`, on the store's file system;
//! 2. every file is hashed, made read-only and synced, then every folder;
//! 3. the files outside the store must still be what the stage saw;
//! 4. the folder is renamed to its digest, without replacing; a damaged one there is exchanged in the same step;
//! 5. the folder of trees is synced;
//! 6. the record is written beside, synced and renamed into place, and its folder synced: now the result exists;
//! 7. the index learns of it, and checkpoints and an old failure of the key are removed.
//!
//! A crash between any two steps leaves rubbish in `tmp/` or a tree without a record; both are harmless.
use super::{FileEntry, Hardware, Record, Reference, Store, sync_folder};
use crate::failpoint::pass;
use crate::hash::{self, Stamp};
use crate::key::Digest;
use crate::options::Keep;
use crate::{Failure, Source};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A finished stage's result before it is published.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Action key.
    pub key: Digest,
    /// All that went into the key.
    pub document: Value,
    /// Stage kind.
    pub kind: String,
    /// Version of the kind.
    pub version: u32,
    /// Artifact type.
    pub artifact: String,
    /// Folder from [`Store::workspace`]; the files lie in its `out`.
    pub folder: PathBuf,
    /// Files of the artifact that stay where they are: name, path, digest.
    pub references: Vec<(String, PathBuf, String)>,
    /// Files outside the store that the stage read, as they were when the key was computed.
    pub sources: Vec<(Source, Stamp, Digest)>,
    /// What stays in the store.
    pub keep: Keep,
    /// Named results and measurements.
    pub metrics: BTreeMap<String, f64>,
    /// Begin, seconds since the Unix epoch.
    pub started: f64,
    /// Seconds it took.
    pub seconds: f64,
    /// Largest resident memory that is not a mapped file, MiB.
    pub peak_mib: Option<f64>,
}

impl Store {
    /// Makes a folder for the work on a key, with an empty folder `out` in it. The caller holds the key's lease.
    ///
    /// # Errors
    /// The disk's.
    pub fn workspace(&self, key: &Digest) -> Result<PathBuf, Failure> {
        let folder = self.base.join("tmp").join(format!("{key}-{}", super::unique()));
        let out = folder.join("out");
        pass("workspace-make")
            .and_then(|()| std::fs::create_dir_all(&out))
            .and_then(|()| pass("workspace-made"))
            .map_err(|e| Failure::io("create", &out, &e))?;
        Ok(folder)
    }

    /// Publishes a result. The caller holds the key's lease, and removes the draft's folder afterwards.
    ///
    /// # Errors
    /// The disk's; a source that changed while the stage ran; files that an artifact cannot have. Whatever was
    /// published for this key before is still there.
    pub fn publish(&self, draft: Draft) -> Result<Arc<Record>, Failure> {
        let out = draft.folder.join("out");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |e: std::io::Error| Failure::io("write", &path, &e)
        };
        pass("begin").map_err(at(&out))?;
        let references = self.link_references(&draft, &out)?;
        let mut files = Vec::new();
        collect(&out, "", &references, &mut files)?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        pass("tree-synced").map_err(at(&out))?;
        for (source, stamp, digest) in &draft.sources {
            self.unchanged(&source.path, stamp, digest)?;
        }
        pass("sources-checked").map_err(at(&out))?;
        let output = hash::tree(files.iter().map(|file| (file.name.as_str(), file.size, &file.digest)));
        // From here to the record nobody may find these files unneeded and remove them.
        let _share = self.leases().share_new_tree(&output)?;
        self.place(&out, &output, &files)?;

        let record = Record {
            key: draft.key,
            kind: draft.kind,
            version: draft.version,
            artifact: draft.artifact,
            output,
            files,
            keep: draft.keep,
            metrics: draft.metrics,
            seconds: draft.seconds,
            peak_mib: draft.peak_mib,
            started: draft.started,
            finished: hash::now_nanos() as f64 / 1e9,
            pid: std::process::id(),
            hardware: Some(Hardware::here().clone()),
            document: draft.document,
        };
        let path = self.record_path(&draft.key);
        write_record(&record, &draft.folder.join("record.json"), &path).map_err(at(&path))?;
        // From here on the result exists; what follows may fail without harm.
        let stamp = Stamp::of(&path).map_err(at(&path))?;
        let record = self.remember(stamp, record);
        let _ = pass("indexed");
        self.forget_failure(&draft.key);
        let _ = pass("checkpoints-remove").and_then(|()| std::fs::remove_dir_all(self.checkpoints(&draft.key)));
        let _ = pass("checkpoints-removed");
        Ok(record)
    }

    /// Puts the references into the folder as links, and says what each name stands for.
    fn link_references(&self, draft: &Draft, out: &Path) -> Result<BTreeMap<String, (PathBuf, Digest)>, Failure> {
        let mut links = BTreeMap::new();
        for (name, path, digest) in &draft.references {
            // Only a source was hashed into the key and is watched; anything else could change unseen.
            let source = draft.sources.iter().find(|(source, ..)| source.path == *path);
            let Some((_, _, known)) = source.filter(|(_, _, known)| known.to_string() == *digest) else {
                return Err(Failure::bug(format!("the artifact refers to {}, which is no source", path.display())));
            };
            let link = out.join(name);
            pass("reference-link")
                .and_then(|()| link.parent().map_or(Ok(()), std::fs::create_dir_all))
                .and_then(|()| std::os::unix::fs::symlink(path, &link))
                .map_err(|e| Failure::io("link", &link, &e))?;
            links.insert(name.clone(), (path.clone(), *known));
        }
        Ok(links)
    }

    fn unchanged(&self, path: &Path, stamp: &Stamp, digest: &Digest) -> Result<(), Failure> {
        let now = Stamp::of(path).map_err(|e| Failure::io("read", path, &e))?;
        if now == *stamp || self.digest(path)?.1 == *digest {
            return Ok(());
        }
        Err(Failure::user(format!("{} changed while the stage ran, so its result was thrown away", path.display()))
            .hint("run again when nobody writes to that file"))
    }

    /// Renames a finished folder to its digest. An equal one there is as good; a damaged one is exchanged for it.
    fn place(&self, out: &Path, output: &Digest, files: &[FileEntry]) -> Result<(), Failure> {
        let target = self.tree(output);
        let failed = |e: std::io::Error| Failure::io("publish", &target, &e);
        pass("tree-rename").map_err(failed)?;
        if std::fs::symlink_metadata(&target).is_err() {
            match renameat_with(CWD, out, CWD, &target, RenameFlags::NOREPLACE) {
                // The file system knows no such flag (NFS); a plain rename never replaces a folder that has entries.
                Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(out, &target).map_err(failed)?,
                // Another process published the same bytes between the two calls; they are looked at below.
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                other => other.map_err(|e| failed(e.into()))?,
            }
        }
        // What lies there now is read in full unless it is ours: a run may have been forced to mend it.
        if out.exists() && !intact(&target, files) {
            pass("tree-exchange").map_err(failed)?;
            match renameat_with(CWD, out, CWD, &target, RenameFlags::EXCHANGE) {
                Err(Errno::INVAL | Errno::NOSYS) => {
                    let aside = out.with_file_name("damaged");
                    std::fs::rename(&target, &aside)
                        .and_then(|()| {
                            std::fs::rename(out, &target).inspect_err(|_| {
                                let _ = std::fs::rename(&aside, &target);
                            })
                        })
                        .map_err(failed)?;
                }
                other => other.map_err(|e| failed(e.into()))?,
            }
        }
        pass("tree-renamed").map_err(failed)?;
        sync_folder(&self.base.join("trees")).map_err(failed)?;
        pass("trees-synced").map_err(failed)
    }
}

/// Whether a folder in the store has exactly these bytes.
fn intact(target: &Path, files: &[FileEntry]) -> bool {
    files.iter().all(|file| hash::file(&target.join(&file.name)).is_ok_and(|is| is == (file.digest, file.size)))
}

/// Hashes, protects and syncs every file below a folder, then the folder itself.
fn collect(
    folder: &Path,
    prefix: &str,
    references: &BTreeMap<String, (PathBuf, Digest)>,
    files: &mut Vec<FileEntry>,
) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io("read", folder, &e);
    for entry in pass("folder-list").and_then(|()| std::fs::read_dir(folder)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed)?;
        let Ok(part) = entry.file_name().into_string() else {
            return Err(Failure::bug(format!("the stage wrote a file whose name is not UTF-8: {}", path.display())));
        };
        let name = format!("{prefix}{part}");
        if kind.is_dir() {
            collect(&path, &format!("{name}/"), references, files)?;
        } else if let Some((outside, digest)) = references.get(&name) {
            let stamp = Stamp::of(outside).map_err(|e| Failure::io("read", outside, &e))?;
            let reference = Some(Reference { path: outside.clone(), stamp });
            files.push(FileEntry { name, size: stamp.size, digest: *digest, reference });
        } else if kind.is_file() {
            let (digest, size) = finish_file(&path).map_err(|e| Failure::io("write", &path, &e))?;
            files.push(FileEntry { name, size, digest, reference: None });
        } else {
            return Err(Failure::bug(format!("the stage wrote {}, which is neither file nor folder", path.display())));
        }
    }
    sync_folder(folder).map_err(failed)
}

fn finish_file(path: &Path) -> std::io::Result<(Digest, u64)> {
    pass("file-hash")?;
    let found = hash::file(path)?;
    pass("file-hashed")?;
    std::fs::set_permissions(path, Permissions::from_mode(0o444))?;
    pass("file-protected")?;
    std::fs::File::open(path)?.sync_all()?;
    pass("file-synced")?;
    Ok(found)
}

fn write_record(record: &Record, fresh: &Path, path: &Path) -> std::io::Result<()> {
    pass("record-create")?;
    // A program of the stage may have put something there, such as a link to a file of the user's.
    let mut file = std::fs::File::create_new(fresh)?;
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    file.write_all(&text)?;
    pass("record-created")?;
    file.sync_all()?;
    pass("record-synced")?;
    std::fs::rename(fresh, path)?;
    pass("record-renamed")?;
    path.parent().map_or(Ok(()), sync_folder)?;
    pass("records-synced")
}
