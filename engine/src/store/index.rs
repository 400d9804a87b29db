//! The index: one append-only file with the stat cache and the records, a checked binary frame each (`frame`).
//!
//! Only an index. Whatever is wrong with it, absent, torn or overwritten with rubbish, costs time and never a result:
//! sound frames are kept, records are read again from their own files, and a fresh index replaces the old one. Frames
//! that another process appends to a file just replaced are lost, which again costs only time.
mod frame;

use super::Record;
use crate::failpoint::pass;
use crate::hash::{Seen, Stamp};
use crate::key::{Digest, DigestMap};
use frame::Frame;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version in it changes with the frames.
const HEADER: &[u8] = b"anneal index 2\n";
/// Headers of earlier versions: theirs are replaced without a word.
const EARLIER: [&[u8]; 1] = [b"anneal index 1\n"];

/// What an index held.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Records by key.
    pub(super) records: DigestMap<(Stamp, Arc<Record>)>,
    /// Files outside the store.
    pub(super) seen: Vec<Seen>,
    /// What was wrong with it, if it was there and had to be rebuilt.
    pub(super) complaint: Option<String>,
    frames: usize,
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
            Ok(bytes) => parse(&bytes),
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
        let live = loaded.records.len() + loaded.seen.len();
        if loaded.torn || loaded.frames > 1000 + 2 * live {
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

fn parse(bytes: &[u8]) -> Loaded {
    let mut loaded = Loaded::default();
    let Some(body) = bytes.strip_prefix(HEADER) else {
        loaded.torn = true;
        let known = EARLIER.iter().any(|header| bytes.starts_with(header));
        loaded.complaint = (!known).then(|| "the store's index is damaged".to_owned());
        return loaded;
    };
    let (frames, sound) = frame::decode_all(body);
    if !sound {
        loaded.torn = true;
        loaded.complaint = Some("the store's index is damaged in part".to_owned());
    }
    let mut seen = HashMap::new();
    loaded.frames = frames.len();
    loaded.records.reserve(frames.len());
    for frame in frames {
        match frame {
            Frame::Record(stamp, record) => drop(loaded.records.insert(record.key, (stamp, Arc::new(record)))),
            Frame::Seen(file) => drop(seen.insert(file.path.clone(), file)),
        }
    }
    loaded.seen = seen.into_values().collect();
    loaded
}

/// Adds the records whose frames are missing.
fn rebuild(base: &Path, loaded: &mut Loaded) {
    let Ok(entries) = pass("index-rebuild").and_then(|()| std::fs::read_dir(base.join("records"))) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let key = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Digest>().ok());
        if key.is_none_or(|key| loaded.records.contains_key(&key)) {
            continue;
        }
        if let (Ok(stamp), Ok(mut record)) = (Stamp::of(&path), Record::read(&path))
            && key == Some(record.key)
        {
            record.document = serde_json::Value::Null;
            record.hardware = None;
            loaded.records.insert(record.key, (stamp, Arc::new(record)));
        }
    }
}

fn replace(path: &Path, loaded: &Loaded) -> std::io::Result<()> {
    let mut bytes = HEADER.to_vec();
    for (stamp, record) in loaded.records.values() {
        bytes.extend(frame::of_record(stamp, record).unwrap_or_default());
    }
    for seen in &loaded.seen {
        bytes.extend(frame::of_seen(seen).unwrap_or_default());
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
