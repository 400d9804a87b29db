//! One entry of the index as bytes: a mark, the length of what follows, eight bytes of its BLAKE3, and postcard.
//!
//! A frame that is torn or overwritten costs itself: reading goes on at the next mark. Unaware of files.
use super::super::{FileEntry, Record, Reference};
use crate::hash::{Seen, Stamp};
use crate::key::Digest;
use crate::options::Keep;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const MARK: [u8; 4] = *b"\xffAn2";
const HEAD: usize = 16;
/// Fewer frames than this are not worth a second thread.
const MANY: usize = 2000;

/// What a frame says.
#[derive(Debug)]
pub(super) enum Frame {
    /// A record, without its key document and hardware, and the stamp of its file.
    Record(Stamp, Record),
    /// A file outside the store.
    Seen(Seen),
}

/// The same as postcard has it: digests as bytes, no field left out.
#[derive(Serialize, Deserialize)]
enum Packed<'a> {
    #[serde(borrow)]
    Record(Box<PackedRecord<'a>>),
    Seen {
        path: &'a str,
        stamp: Stamp,
        digest: [u8; 32],
    },
}

#[derive(Serialize, Deserialize)]
struct PackedRecord<'a> {
    stamp: Stamp,
    key: [u8; 32],
    output: [u8; 32],
    kind: &'a str,
    version: u32,
    artifact: &'a str,
    #[serde(borrow)]
    files: Vec<PackedFile<'a>>,
    keep_all: bool,
    #[serde(borrow)]
    metrics: Vec<(&'a str, f64)>,
    seconds: f64,
    peak_mib: Option<f64>,
    started: f64,
    finished: f64,
    pid: u32,
}

#[derive(Serialize, Deserialize)]
struct PackedFile<'a> {
    name: &'a str,
    size: u64,
    digest: [u8; 32],
    #[serde(borrow)]
    reference: Option<(&'a str, Stamp)>,
}

/// The frame of a record; `None`: it has a path that is not UTF-8 and stays out of the index.
pub(super) fn of_record(stamp: &Stamp, record: &Record) -> Option<Vec<u8>> {
    let files = record.files.iter().map(packed_file).collect::<Option<Vec<_>>>();
    frame(&Packed::Record(Box::new(PackedRecord {
        stamp: *stamp,
        key: *record.key.as_bytes(),
        output: *record.output.as_bytes(),
        kind: &record.kind,
        version: record.version,
        artifact: &record.artifact,
        files: files?,
        keep_all: record.keep.is_all(),
        metrics: record.metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect(),
        seconds: record.seconds,
        peak_mib: record.peak_mib,
        started: record.started,
        finished: record.finished,
        pid: record.pid,
    })))
}

fn packed_file(file: &FileEntry) -> Option<PackedFile<'_>> {
    let reference = match &file.reference {
        Some(reference) => Some((reference.path.to_str()?, reference.stamp)),
        None => None,
    };
    Some(PackedFile { name: &file.name, size: file.size, digest: *file.digest.as_bytes(), reference })
}

/// The frame of a file outside the store; `None` as for a record.
pub(super) fn of_seen(seen: &Seen) -> Option<Vec<u8>> {
    frame(&Packed::Seen { path: seen.path.to_str()?, stamp: seen.stamp, digest: *seen.digest.as_bytes() })
}

fn frame(packed: &Packed<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    bytes = postcard::to_extend(packed, bytes).ok()?;
    let length = u32::try_from(bytes.len() - HEAD).ok()?;
    let sum = check(&bytes[HEAD..]);
    bytes[..4].copy_from_slice(&MARK);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..HEAD].copy_from_slice(&sum);
    Some(bytes)
}

fn check(payload: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    sum
}

/// All sound frames in order, and whether there was nothing else.
pub(super) fn decode_all(bytes: &[u8]) -> (Vec<Frame>, bool) {
    let mut pieces: Vec<&[u8]> = Vec::new();
    let (mut at, mut sound) = (0, true);
    while at < bytes.len() {
        match piece(&bytes[at..]) {
            Some(piece) => {
                pieces.push(piece);
                at += piece.len();
            }
            None => {
                sound = false;
                let next = bytes[at + 1..].windows(MARK.len()).position(|window| window == MARK);
                at = next.map_or(bytes.len(), |next| at + 1 + next);
            }
        }
    }
    let frames: Vec<Option<Frame>> = if pieces.len() < MANY {
        pieces.into_iter().map(decode).collect()
    } else {
        pieces.into_par_iter().map(decode).collect()
    };
    let sound = sound && frames.iter().all(Option::is_some);
    (frames.into_iter().flatten().collect(), sound)
}

/// A whole frame at the beginning of some bytes, by its mark and length.
fn piece(bytes: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    bytes.starts_with(&MARK).then(|| bytes.get(..HEAD + length)).flatten()
}

fn decode(piece: &[u8]) -> Option<Frame> {
    let payload = &piece[HEAD..];
    if piece[8..HEAD] != check(payload) {
        return None;
    }
    Some(match postcard::from_bytes(payload).ok()? {
        Packed::Record(packed) => Frame::Record(packed.stamp, unpack(*packed)),
        Packed::Seen { path, stamp, digest } => {
            Frame::Seen(Seen { path: path.into(), stamp, digest: Digest::new(digest) })
        }
    })
}

fn unpack(packed: PackedRecord<'_>) -> Record {
    let file = |file: PackedFile<'_>| FileEntry {
        name: file.name.to_owned(),
        size: file.size,
        digest: Digest::new(file.digest),
        reference: file.reference.map(|(path, stamp)| Reference { path: path.into(), stamp }),
    };
    Record {
        key: Digest::new(packed.key),
        kind: packed.kind.to_owned(),
        version: packed.version,
        artifact: packed.artifact.to_owned(),
        output: Digest::new(packed.output),
        files: packed.files.into_iter().map(file).collect(),
        keep: if packed.keep_all { Keep::All } else { Keep::Metrics },
        metrics: packed.metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        seconds: packed.seconds,
        peak_mib: packed.peak_mib,
        started: packed.started,
        finished: packed.finished,
        pid: packed.pid,
        hardware: None,
        document: Value::Null,
    }
}
