//! The frames of an index as they lie in its file, found by key or by path, and taken apart only when somebody asks.
//!
//! Fixed once it is read: what is new since lies elsewhere. Unaware of files.
use super::frame::{Brief, Frame, is_sound, read, split, sum};
use crate::hash::Stamp;
use crate::key::{Digest, FirstBytes};
use rayon::prelude::*;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Fewer frames than this are not worth a second thread.
const MANY: usize = 2000;

/// Place and length of a frame, by the first bytes of its key or by the checksum of its path. Of two that share these,
/// one is not found, which costs time.
type Places = HashMap<u64, (u32, u32), BuildHasherDefault<FirstBytes>>;

/// An index in memory.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    records: Places,
    seen: Places,
    frames: usize,
}

impl Packed {
    /// Takes the bytes of an index whose frames begin at `begin`; says whether there was nothing but sound frames.
    pub(super) fn new(bytes: Vec<u8>, begin: usize) -> (Self, bool) {
        let (mut pieces, mut sound) = split(&bytes, begin);
        let fine = |(at, length): &(u32, u32)| is_sound(slice(&bytes, *at, *length));
        let all = if pieces.len() < MANY { pieces.iter().all(fine) } else { pieces.par_iter().all(fine) };
        if !all {
            sound = false;
            pieces.retain(fine);
        }
        let mut packed = Self { frames: pieces.len(), ..Self::default() };
        packed.records.reserve(pieces.len());
        for (at, length) in pieces {
            match read(slice(&bytes, at, length)) {
                Some(Frame::Record(brief)) => drop(packed.records.insert(first(&brief.key), (at, length))),
                Some(Frame::Seen(path, ..)) => drop(packed.seen.insert(sum(path), (at, length))),
                None => {}
            }
        }
        packed.bytes = bytes;
        (packed, sound)
    }

    /// How many frames there were, and how many of them no later one replaced.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.frames, self.records.len() + self.seen.len())
    }

    /// The frames that no later one replaced, as they are.
    pub(super) fn live(&self) -> impl Iterator<Item = &[u8]> {
        self.records.values().chain(self.seen.values()).map(|(at, length)| slice(&self.bytes, *at, *length))
    }

    /// All records.
    pub(crate) fn records(&self) -> impl Iterator<Item = Brief<'_>> {
        self.records.values().filter_map(|(at, length)| match read(slice(&self.bytes, *at, *length))? {
            Frame::Record(brief) => Some(brief),
            Frame::Seen(..) => None,
        })
    }

    /// The record of a key.
    pub(crate) fn record(&self, key: &Digest) -> Option<Brief<'_>> {
        let (at, length) = self.records.get(&first(key))?;
        match read(slice(&self.bytes, *at, *length))? {
            Frame::Record(brief) if brief.key == *key => Some(brief),
            _ => None,
        }
    }

    /// What was seen of a file outside the store.
    pub(crate) fn seen(&self, path: &Path) -> Option<(Stamp, Digest)> {
        let path = path.as_os_str().as_bytes();
        let (at, length) = self.seen.get(&sum(path))?;
        match read(slice(&self.bytes, *at, *length))? {
            Frame::Seen(known, stamp, digest) if known == path => Some((stamp, digest)),
            _ => None,
        }
    }
}

fn slice(bytes: &[u8], at: u32, length: u32) -> &[u8] {
    bytes.get(at as usize..at as usize + length as usize).unwrap_or_default()
}

fn first(key: &Digest) -> u64 {
    key.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
