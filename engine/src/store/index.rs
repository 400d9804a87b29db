//! The index: one append-only file with the stat cache and the records, a checked binary frame each (`frame`).
//!
//! Only an index. Whatever is wrong with it, absent, torn or overwritten with rubbish, costs time and never a result:
//! sound frames are kept, records are read again from their own files, and a fresh index replaces the old one. Frames
//! that another process appends to a file just replaced are lost, which again costs only time.
mod frame;
mod packed;

use super::Record;
use crate::failpoint::pass;
use crate::hash::{Seen, Stamp};
use crate::key::Digest;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use frame::Brief;
pub(crate) use packed::Packed;

/// The version in it changes with the frames.
const HEADER: &[u8] = b"anneal index 3\n";
/// Headers of earlier versions: theirs are replaced without a word.
const EARLIER: [&[u8]; 2] = [b"anneal index 1\n", b"anneal index 2\n"];

/// What an index held.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// What it held.
    pub(super) packed: Packed,
    /// Records whose frames were missing.
    pub(super) read_again: Vec<(Stamp, Arc<Record>)>,
    /// What was wrong with it, if it was there and had to be rebuilt.
    pub(super) complaint: Option<String>,
    torn: bool,
}

/// Where frames are appended.
#[derive(Debug)]
pub(super) struct Index {
    /// `None`: it could not be opened; everything works without it, slower.
    file: Option<File>,
}

impl Index {
    /// Reads the index of a store, and mends it first if it must be mended.
    pub(super) fn open(base: &Path) -> (Self, Loaded) {
        let path = base.join("index");
        let mut loaded = match pass("index-read").and_then(|()| std::fs::read(&path)) {
            Ok(bytes) => parse(bytes),
            Err(e) => {
                let complaint = format!("{} cannot be read ({e})", path.display());
                let complaint = (e.kind() != ErrorKind::NotFound).then_some(complaint);
                Loaded { torn: true, complaint, ..Loaded::default() }
            }
        };
        if loaded.torn {
            rebuild(base, &mut loaded);
        }
        // Half of the frames are about files and records that later frames replaced: time to write it anew.
        let (frames, live) = loaded.packed.counts();
        if loaded.torn || frames > 1000 + 2 * live {
            // If this fails, the old one stays and is mended next time.
            let _ = replace(&path, &loaded);
        }
        let file = pass("index-open").and_then(|()| OpenOptions::new().append(true).open(&path)).ok();
        (Self { file }, loaded)
    }

    /// Appends a record.
    pub(super) fn append_record(&self, stamp: &Stamp, record: &Record) {
        self.append(frame::of_record(stamp, record));
    }

    /// Appends a file outside the store.
    pub(super) fn append_seen(&self, seen: &Seen) {
        self.append(frame::of_seen(seen));
    }

    /// In one write, so that frames of several processes do not mix. A failure is no loss.
    fn append(&self, frame: Option<Vec<u8>>) {
        if let (Some(mut file), Some(frame)) = (self.file.as_ref(), frame) {
            let _ = pass("index-append").and_then(|()| file.write_all(&frame)).and_then(|()| pass("index-appended"));
        }
    }
}

fn parse(bytes: Vec<u8>) -> Loaded {
    let mut loaded = Loaded::default();
    if !bytes.starts_with(HEADER) {
        loaded.torn = true;
        let known = EARLIER.iter().any(|header| bytes.starts_with(header));
        loaded.complaint = (!known).then(|| "the store's index is damaged".to_owned());
        return loaded;
    }
    let (packed, sound) = Packed::new(bytes, HEADER.len());
    if !sound {
        loaded.torn = true;
        loaded.complaint = Some("the store's index is damaged in part".to_owned());
    }
    loaded.packed = packed;
    loaded
}

/// Adds the records whose frames are missing.
fn rebuild(base: &Path, loaded: &mut Loaded) {
    let Ok(entries) = pass("index-rebuild").and_then(|()| std::fs::read_dir(base.join("records"))) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let key = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Digest>().ok());
        if key.is_none_or(|key| loaded.packed.record(&key).is_some()) {
            continue;
        }
        if let (Ok(stamp), Ok(mut record)) = (Stamp::of(&path), Record::read(&path))
            && key == Some(record.key)
        {
            record.document = serde_json::Value::Null;
            record.hardware = None;
            loaded.read_again.push((stamp, Arc::new(record)));
        }
    }
}

fn replace(path: &Path, loaded: &Loaded) -> std::io::Result<()> {
    let mut bytes = HEADER.to_vec();
    loaded.packed.live().for_each(|frame| bytes.extend_from_slice(frame));
    for (stamp, record) in &loaded.read_again {
        bytes.extend(frame::of_record(stamp, record).unwrap_or_default());
    }
    let fresh: PathBuf = path.with_file_name(format!("tmp/index-{}", super::unique()));
    pass("index-create")
        .and_then(|()| std::fs::write(&fresh, bytes))
        .and_then(|()| pass("index-written"))
        .and_then(|()| std::fs::rename(&fresh, path))
        .and_then(|()| pass("index-replaced"))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&fresh);
        })
}
