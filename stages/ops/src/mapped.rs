//! Files mapped into memory, read-only. Unaware of formats.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use crate::OpError;

/// A whole file as bytes, without reading it into memory of our own. An empty file is an empty slice.
#[derive(Debug)]
pub struct MappedFile {
    // None for an empty file, which no system maps.
    map: Option<memmap2::Mmap>,
}

impl MappedFile {
    /// Maps `path`. Pages are read when they are first touched.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpError> {
        let path = path.as_ref();
        let fail = |source| OpError::Map { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the mapping is private and read-only. Undefined behaviour needs the file to change or shrink while
        // it is mapped: what is mapped here are artifacts (made read-only when committed, replaced by rename only)
        // and model files of the user, which nothing in this project writes.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(fail)?;
        Ok(Self { map: Some(map) })
    }

    /// Says that `range` was read and is not needed soon, so that it stops counting as this process's memory. The bytes
    /// stay readable: the system reads them again.
    pub fn release(&self, range: Range<usize>) {
        if let Some(map) = self.map.as_ref().filter(|map| range.start < range.end && range.end <= map.len()) {
            // SAFETY: the mapping is read-only, so dropping its pages loses nothing: the next access maps the file's
            // bytes again, and slices into it stay valid.
            let advised = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.end - range.start)
            };
            // Only advice: where the system refuses it, the memory stays counted and nothing else changes.
            drop(advised);
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_map_empty_ones_too_and_missing_ones_are_named() {
        let folder = std::env::temp_dir().join(format!("anneal-ops-mapped-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("some"), b"bytes").unwrap();
        std::fs::write(folder.join("none"), b"").unwrap();
        let some = MappedFile::open(folder.join("some")).unwrap();
        assert_eq!(&*some, b"bytes");
        some.release(1..4);
        some.release(2..99);
        assert_eq!(&*some, b"bytes");
        assert!(MappedFile::open(folder.join("none")).unwrap().is_empty());
        let error = MappedFile::open(folder.join("missing")).unwrap_err().to_string();
        assert!(error.starts_with("cannot map ") && error.contains("missing"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
