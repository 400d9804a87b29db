//! The index: one append-only file with the stat cache and the records, a checked JSON line each.
//!
//! Only an index. Whatever is wrong with it, absent, torn or overwritten with rubbish, costs time and never a result:
//! sound lines are kept, records are read again from their own files, and a fresh index replaces the old one. Lines
//! that another process appends to a file just replaced are lost, which again costs only time.
use super::Record;
use crate::failpoint::pass;
use crate::hash::{Seen, Stamp};
use crate::key::Digest;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HEADER: &str = "anneal index 1";

/// A line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Line {
    /// A record, without its key document, and the stamp of its file.
    Record {
        /// Stamp of the record's file.
        stamp: Stamp,
        /// The record.
        record: Box<Record>,
    },
    /// A file outside the store.
    Seen(Seen),
}

/// What an index held.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Records by key.
    pub(super) records: HashMap<Digest, (Stamp, Arc<Record>)>,
    /// Files outside the store.
    pub(super) seen: Vec<Seen>,
    lines: usize,
    torn: bool,
}

/// Where lines are appended.
#[derive(Debug)]
pub(super) struct Index {
    /// `None`: it could not be opened; everything works without it, slower.
    file: Option<File>,
}

impl Index {
    /// Reads the index of a store, and mends it first if it must be mended.
    pub(super) fn open(base: &Path) -> (Self, Loaded) {
        let path = base.join("index");
        let mut loaded = pass("index-read")
            .and_then(|()| std::fs::read(&path))
            .map_or_else(|_| Loaded { torn: true, ..Loaded::default() }, |b| parse(&b));
        if loaded.torn {
            rebuild(base, &mut loaded);
        }
        // Half of the lines are about files and records that later lines replaced: time to write it anew.
        let live = loaded.records.len() + loaded.seen.len();
        if loaded.torn || loaded.lines > 1000 + 2 * live {
            // If this fails, the old one stays and is mended next time.
            let _ = replace(&path, &loaded);
        }
        let file = pass("index-open").and_then(|()| OpenOptions::new().append(true).open(&path)).ok();
        (Self { file }, loaded)
    }

    /// Appends a line, in one write, so that lines of several processes do not mix. A failure is no loss.
    pub(super) fn append(&self, line: &Line) {
        if let (Some(mut file), Some(text)) = (self.file.as_ref(), encode(line)) {
            let _ = pass("index-append")
                .and_then(|()| file.write_all(text.as_bytes()))
                .and_then(|()| pass("index-appended"));
        }
    }
}

/// A line: eight hexadecimal digits of its BLAKE3, a space, JSON.
fn encode(line: &Line) -> Option<String> {
    let json = serde_json::to_string(line).ok()?;
    Some(format!("{} {json}\n", check(json.as_bytes())))
}

fn check(json: &[u8]) -> String {
    blake3::hash(json).to_hex()[..8].to_owned()
}

fn decode(line: &[u8]) -> Option<Line> {
    let (sum, json) = line.split_at_checked(9)?;
    (sum.strip_suffix(b" ")? == check(json).as_bytes()).then(|| serde_json::from_slice(json).ok())?
}

fn parse(bytes: &[u8]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut seen = HashMap::new();
    let mut lines = bytes.split(|b| *b == b'\n');
    loaded.torn = lines.next() != Some(HEADER.as_bytes()) || bytes.last() != Some(&b'\n');
    for line in lines.filter(|line| !line.is_empty()) {
        loaded.lines += 1;
        match decode(line) {
            Some(Line::Record { stamp, record }) => {
                loaded.records.insert(record.key, (stamp, Arc::from(record)));
            }
            Some(Line::Seen(file)) => {
                seen.insert(file.path.clone(), file);
            }
            None => loaded.torn = true,
        }
    }
    loaded.seen = seen.into_values().collect();
    loaded
}

/// Adds the records whose lines are missing.
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
            loaded.records.insert(record.key, (stamp, Arc::new(record)));
        }
    }
}

fn replace(path: &Path, loaded: &Loaded) -> std::io::Result<()> {
    let mut text = format!("{HEADER}\n");
    let records = loaded.records.values();
    let lines = records.map(|(stamp, record)| Line::Record { stamp: *stamp, record: Box::new(Record::clone(record)) });
    for line in lines.chain(loaded.seen.iter().cloned().map(Line::Seen)) {
        text.push_str(&encode(&line).unwrap_or_default());
    }
    let fresh: PathBuf = path.with_file_name(format!("tmp/index-{}", super::unique()));
    pass("index-create")
        .and_then(|()| std::fs::write(&fresh, text))
        .and_then(|()| pass("index-written"))
        .and_then(|()| std::fs::rename(&fresh, path))
        .and_then(|()| pass("index-replaced"))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&fresh);
        })
}
