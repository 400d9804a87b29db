//! The bytes of a GGUF file, read where they are wanted, and a cursor over its header.
//!
//! Positional reads, not a mapping: a file that somebody truncates meanwhile is an error, not a SIGBUS. Nothing is
//! allocated before its size was compared with what is left of the file. Unaware of what the bytes mean.
use anneal_engine::Failure;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of the header read at once.
const WINDOW: usize = 1 << 16;

/// A file, or bytes in memory under a file's name.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let fail = |e: std::io::Error| Failure::io("read", path, &e);
        let file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() {
            return Err(Failure::user(format!("{}: no file, expected a GGUF file", path.display())));
        }
        Ok(Self { path: path.to_owned(), len: meta.len(), bytes: Bytes::File(file) })
    }

    pub(super) fn memory(name: &Path, bytes: Vec<u8>) -> Self {
        Self { path: name.to_owned(), len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Something wrong at a byte of this file.
    pub(super) fn fault(&self, offset: u64, what: impl std::fmt::Display) -> Failure {
        Failure::user(format!("{}: byte {offset}: {what}", self.path.display())).hint(
            "copy the file again and compare its sha256; if it is the same, take another conversion of the model, or \
             its Hugging Face folder",
        )
    }

    /// The file ends before what begins at `offset` does.
    pub(super) fn truncated(&self, offset: u64, what: impl std::fmt::Display) -> Failure {
        self.fault(offset, format!("{what}, but the file ends at byte {}", self.len))
            .hint("the file is truncated or was damaged on its way; copy it again and compare its sha256")
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let wanted = buffer.len();
        let short = || self.truncated(offset, format!("{wanted} bytes should follow"));
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let start = usize::try_from(offset).map_err(|_| short())?;
                let end = start.checked_add(wanted).ok_or_else(short)?;
                buffer.copy_from_slice(bytes.get(start..end).ok_or_else(short)?);
                Ok(())
            }
            Bytes::File(file) => file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => short(),
                _ => Failure::io("read", &self.path, &e),
            }),
        }
    }
}

/// Reads a header front to back.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    source: &'a Source,
    offset: u64,
    window: Vec<u8>,
    /// Where the window begins in the file.
    start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, offset: 0, window: Vec::new(), start: 0 }
    }

    /// Where the next byte is.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes between here and the file's end.
    pub(super) fn left(&self) -> u64 {
        self.source.len - self.offset
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        let begin = self.offset - self.start;
        let have = (self.window.len() as u64).saturating_sub(begin);
        if have < N as u64 {
            if self.left() < N as u64 {
                return Err(self.source.truncated(self.offset, format!("expected {what} of {N} bytes")));
            }
            let size = self.left().min(WINDOW as u64) as usize;
            self.window.resize(size, 0);
            self.source.read_at(self.offset, &mut self.window)?;
            self.start = self.offset;
        }
        let begin = (self.offset - self.start) as usize;
        bytes.copy_from_slice(&self.window[begin..begin + N]);
        self.offset += N as u64;
        Ok(bytes)
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8, Failure> {
        self.bytes::<1>(what).map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Failure> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Failure> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    /// A number of any width.
    pub(super) fn number<T, const N: usize>(&mut self, read: fn([u8; N]) -> T) -> Result<T, Failure> {
        self.bytes("a number").map(read)
    }

    /// A count of things that take at least `least` bytes each: refused if the file cannot hold them.
    pub(super) fn count(&mut self, what: &str, least: u64) -> Result<u64, Failure> {
        let at = self.offset;
        let count = self.u64(what)?;
        if count > self.left() / least {
            return Err(self.source.truncated(at, format!("{count} {what} should follow")));
        }
        Ok(count)
    }

    /// A text: its length, then its UTF-8.
    pub(super) fn text(&mut self, what: &str) -> Result<String, Failure> {
        let at = self.offset;
        let length = self.u64(what)?;
        if length > self.left() {
            return Err(self.source.truncated(at, format!("expected {what} of {length} bytes")));
        }
        let begin = self.offset - self.start;
        let inside = begin.checked_add(length).filter(|end| *end <= self.window.len() as u64);
        let bytes = match inside {
            Some(end) => self.window[begin as usize..end as usize].to_vec(),
            None => {
                let mut bytes = vec![0; length as usize];
                self.source.read_at(self.offset, &mut bytes)?;
                bytes
            }
        };
        self.offset += length;
        String::from_utf8(bytes).map_err(|_| self.source.fault(at, format!("{what} is not UTF-8")))
    }
}
