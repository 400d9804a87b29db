//! Looks at many results at once: for each no more than it takes to see that it is there and whole, by the same rules as
//! [`Store::look_up`], to which everything unusual is left.
//!
//! A path is half of what a `stat` costs, so files are named from their folder on; and of results with equal content, the
//! files are looked at once. Unaware of why somebody asks.
use super::{Miss, Store};
use crate::hash::Stamp;
use crate::key::Digest;
use crate::options::Keep;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, openat, statat};
use std::os::fd::OwnedFd;

/// Contents that are remembered as whole.
const LATELY: usize = 64;

/// A result that is whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Whole {
    /// Digest of the artifact.
    pub(crate) output: Digest,
    /// What stays in the store.
    pub(crate) keep: Keep,
    /// Of the record's file; `None` if that has just gone.
    pub(crate) record: Option<Stamp>,
}

/// The store's folders, held open for a moment.
#[derive(Debug)]
pub(crate) struct Glance<'a> {
    store: &'a Store,
    /// None: they cannot be opened, and everything is looked up by its path.
    folders: Option<(OwnedFd, OwnedFd)>,
}

/// What one thread remembers while it looks at results.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    /// Artifacts whose files were just found whole, by the first byte of their digests.
    whole: Vec<Option<Digest>>,
    path: String,
}

impl<'a> Glance<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        let open = |name: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, store.base.join(name), flags, Mode::empty()).ok()
        };
        Self { store, folders: open("records").zip(open("trees")) }
    }

    /// The result of a key, if it is whole.
    ///
    /// # Errors
    /// Why there is none, as [`Store::look_up`] tells it.
    pub(crate) fn look(&self, key: &Digest, lately: &mut Lately) -> Result<Whole, Miss> {
        if let Some(whole) = self.usual(key, lately) {
            return Ok(whole);
        }
        let record = self.store.look_up(key)?;
        let stamp = Stamp::of(&self.store.record_path(key)).ok();
        Ok(Whole { output: record.output, keep: record.keep, record: stamp })
    }

    /// A result that the index knows, whose record is the one that the index read, and whose files all lie in the store.
    fn usual(&self, key: &Digest, lately: &mut Lately) -> Option<Whole> {
        let (records, trees) = self.folders.as_ref()?;
        let brief = self.store.packed.record(key)?;
        let Lately { whole, path } = lately;
        path.clear();
        key.push_hex(path);
        path.push_str(".json");
        if stamp(&statat(records, path.as_str(), AtFlags::empty()).ok()?) != brief.stamp {
            return None;
        }
        let found = Whole { output: brief.output, keep: brief.keep, record: Some(brief.stamp) };
        whole.resize(LATELY, None);
        let remembered = &mut whole[usize::from(brief.output.as_bytes()[0]) % LATELY];
        if *remembered == Some(brief.output) {
            return Some(found);
        }
        path.clear();
        brief.output.push_hex(path);
        path.push('/');
        let folder = path.len();
        let files = brief.files()?;
        // Without a file to look at, only the folder tells whether it is there.
        if !brief.keep.is_all() || files.is_empty() {
            return None;
        }
        for file in &files {
            path.truncate(folder);
            path.push_str(file.name);
            let stat = statat(trees, path.as_str(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if !is_file || file.reference.is_some() || u64::try_from(stat.st_size) != Ok(file.size) {
                return None;
            }
        }
        *remembered = Some(brief.output);
        Some(found)
    }
}

fn stamp(stat: &Stat) -> Stamp {
    let nanos = |seconds: i64, rest: u64| {
        seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(rest).unwrap_or_default())
    };
    Stamp {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        mtime: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime: nanos(stat.st_ctime, stat.st_ctime_nsec),
    }
}
