//! One entry of the index as bytes: a mark, the length of what follows, a checksum, and then what is looked for most at
//! fixed places, so that a hundred thousand entries need not be decoded to look at a few.
//!
//! A frame that is torn or overwritten costs itself: reading goes on at the next mark. Unaware of files.
use super::super::{FileEntry, Record, Reference};
use crate::hash::{Seen, Stamp};
use crate::key::Digest;
use crate::options::Keep;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::os::unix::ffi::OsStrExt;

const MARK: [u8; 4] = *b"\xffAn3";
const HEAD: usize = 16;
/// First byte of what a frame says of a record, and of a file outside the store.
const RECORD: u8 = b'R';
const SEEN: u8 = b'S';
const STAMP: usize = 40;

/// What a frame says, not yet taken apart.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Frame<'a> {
    /// A record.
    Record(Brief<'a>),
    /// A file outside the store: its path, what the system said of it, its digest.
    Seen(&'a [u8], Stamp, Digest),
}

/// A record without its key document and hardware.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Brief<'a> {
    /// Action key.
    pub(crate) key: Digest,
    /// Digest of the artifact.
    pub(crate) output: Digest,
    /// Of the record's own file.
    pub(crate) stamp: Stamp,
    /// What stays in the store.
    pub(crate) keep: Keep,
    rest: &'a [u8],
}

/// The remainder of a record as postcard has it.
#[derive(Serialize, Deserialize)]
struct Packed<'a> {
    #[serde(borrow)]
    files: Vec<PackedFile<'a>>,
    kind: &'a str,
    version: u32,
    artifact: &'a str,
    #[serde(borrow)]
    metrics: Vec<(&'a str, f64)>,
    seconds: f64,
    peak_mib: Option<f64>,
    started: f64,
    finished: f64,
    pid: u32,
}

/// A file of an artifact.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PackedFile<'a> {
    /// Path inside the artifact.
    pub(crate) name: &'a str,
    /// Bytes.
    pub(crate) size: u64,
    digest: [u8; 32],
    /// Where it lies, if outside the store.
    #[serde(borrow)]
    pub(crate) reference: Option<(&'a str, Stamp)>,
}

/// The frame of a record; `None`: it has a path that is not UTF-8 and stays out of the index.
pub(super) fn of_record(stamp: &Stamp, record: &Record) -> Option<Vec<u8>> {
    let files = record.files.iter().map(packed_file).collect::<Option<Vec<_>>>();
    let packed = Packed {
        files: files?,
        kind: &record.kind,
        version: record.version,
        artifact: &record.artifact,
        metrics: record.metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect(),
        seconds: record.seconds,
        peak_mib: record.peak_mib,
        started: record.started,
        finished: record.finished,
        pid: record.pid,
    };
    let mut bytes = vec![0; HEAD];
    bytes.push(RECORD);
    bytes.extend_from_slice(record.key.as_bytes());
    bytes.extend_from_slice(record.output.as_bytes());
    put_stamp(stamp, &mut bytes);
    bytes.push(u8::from(record.keep.is_all()));
    framed(postcard::to_extend(&packed, bytes).ok()?)
}

fn packed_file(file: &FileEntry) -> Option<PackedFile<'_>> {
    let reference = match &file.reference {
        Some(reference) => Some((reference.path.to_str()?, reference.stamp)),
        None => None,
    };
    Some(PackedFile { name: &file.name, size: file.size, digest: *file.digest.as_bytes(), reference })
}

/// The frame of a file outside the store.
pub(super) fn of_seen(seen: &Seen) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    bytes.push(SEEN);
    bytes.extend_from_slice(seen.digest.as_bytes());
    put_stamp(&seen.stamp, &mut bytes);
    bytes.extend_from_slice(seen.path.as_os_str().as_bytes());
    framed(bytes)
}

fn put_stamp(stamp: &Stamp, bytes: &mut Vec<u8>) {
    let Stamp { dev, ino, size, mtime, ctime } = stamp;
    for number in [*dev, *ino, *size, mtime.cast_unsigned(), ctime.cast_unsigned()] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn framed(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let length = u32::try_from(bytes.len() - HEAD).ok()?;
    let sum = sum(&bytes[HEAD..]);
    bytes[..4].copy_from_slice(&MARK);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..HEAD].copy_from_slice(&sum.to_le_bytes());
    Some(bytes)
}

/// A checksum against torn writes and rubbish, not against malice: eight bytes at a time are mixed in by an odd factor,
/// which loses nothing of them.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: u64| {
        let mixed = (sum ^ word).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 29)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = words.iter().fold(mix(0, bytes.len() as u64), |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    sum = mix(sum, u64::from_le_bytes(last));
    mix(sum, FACTOR)
}

/// Whole frames by mark and length, each with its place, and whether there was nothing else. Their checksums are another
/// matter.
pub(super) fn split(bytes: &[u8], begin: usize) -> (Vec<(u32, u32)>, bool) {
    // Most frames are about that long.
    let mut pieces = Vec::with_capacity(bytes.len() / 160);
    let (mut at, mut sound) = (begin, true);
    while at < bytes.len() {
        match piece(&bytes[at..]) {
            Some(length) => {
                // Gigabytes of index have frames that nobody finds any more: that costs time.
                if let (Ok(at), Ok(length)) = (u32::try_from(at), u32::try_from(length)) {
                    pieces.push((at, length));
                }
                at += length;
            }
            None => {
                sound = false;
                let next = bytes[at + 1..].windows(MARK.len()).position(|window| window == MARK);
                at = next.map_or(bytes.len(), |next| at + 1 + next);
            }
        }
    }
    (pieces, sound)
}

/// The length of a whole frame at the beginning of some bytes.
fn piece(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.get(4..8)?.first_chunk()?) as usize;
    (bytes.starts_with(&MARK) && bytes.len() >= HEAD + length).then_some(HEAD + length)
}

/// Whether a frame is as it was written.
pub(super) fn is_sound(piece: &[u8]) -> bool {
    let told = piece.get(8..HEAD).and_then(|told| told.first_chunk()).map(|told| u64::from_le_bytes(*told));
    told.is_some() && told == piece.get(HEAD..).map(sum) && read(piece).is_some()
}

/// What a frame says.
pub(super) fn read(piece: &[u8]) -> Option<Frame<'_>> {
    let (first, mut rest) = piece.get(HEAD..)?.split_first()?;
    match *first {
        RECORD => {
            let (key, output) = (take_digest(&mut rest)?, take_digest(&mut rest)?);
            let stamp = take_stamp(&mut rest)?;
            let (keep, rest) = rest.split_first()?;
            let keep = if *keep == 1 { Keep::All } else { Keep::Metrics };
            Some(Frame::Record(Brief { key, output, stamp, keep, rest }))
        }
        SEEN => {
            let digest = take_digest(&mut rest)?;
            let stamp = take_stamp(&mut rest)?;
            Some(Frame::Seen(rest, stamp, digest))
        }
        _ => None,
    }
}

fn take_digest(bytes: &mut &[u8]) -> Option<Digest> {
    let (digest, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(Digest::new(*digest))
}

fn take_stamp(bytes: &mut &[u8]) -> Option<Stamp> {
    let (stamp, rest) = bytes.split_first_chunk::<STAMP>()?;
    *bytes = rest;
    let number = |i: usize| stamp.get(i * 8..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let (mtime, ctime) = (number(3)?.cast_signed(), number(4)?.cast_signed());
    Some(Stamp { dev: number(0)?, ino: number(1)?, size: number(2)?, mtime, ctime })
}

impl<'a> Brief<'a> {
    /// The files of its artifact; `None`: they are not what this version writes.
    pub(crate) fn files(&self) -> Option<Vec<PackedFile<'a>>> {
        Some(postcard::from_bytes::<Packed<'a>>(self.rest).ok()?.files)
    }

    /// All of it.
    pub(crate) fn unpack(&self) -> Option<Record> {
        let packed: Packed<'a> = postcard::from_bytes(self.rest).ok()?;
        let file = |file: PackedFile<'_>| FileEntry {
            name: file.name.to_owned(),
            size: file.size,
            digest: Digest::new(file.digest),
            reference: file.reference.map(|(path, stamp)| Reference { path: path.into(), stamp }),
        };
        Some(Record {
            key: self.key,
            kind: packed.kind.to_owned(),
            version: packed.version,
            artifact: packed.artifact.to_owned(),
            output: self.output,
            files: packed.files.into_iter().map(file).collect(),
            keep: self.keep,
            metrics: packed.metrics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            seconds: packed.seconds,
            peak_mib: packed.peak_mib,
            started: packed.started,
            finished: packed.finished,
            pid: packed.pid,
            hardware: None,
            document: Value::Null,
        })
    }
}
