//! Slots: the host's cores and GPUs as leases, shared by every driver on it, whatever its outputs folder.
//!
//! A slot is a lock on a file; the process that works holds it, so a worker that outlives its driver keeps its GPU.
//! Unaware of what runs in a slot, and of how GPUs are found.
use crate::Failure;
use crate::lease::Lease;
use std::fs::{File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the locks lie, if not in the temporary folder: for tests, and for hosts with several of these.
pub const FOLDER_VARIABLE: &str = "ANNEAL_SLOTS";

/// A GPU of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// What `CUDA_VISIBLE_DEVICES` calls it.
    pub id: String,
    /// Its memory, MiB.
    pub memory_mib: Option<u64>,
}

/// The slots of this host.
#[derive(Debug, Clone)]
pub struct Slots {
    folder: PathBuf,
    cores: usize,
    gpus: Vec<Gpu>,
}

/// Slots that were taken: free again when dropped, or when the child that got the leases ends.
#[derive(Debug)]
pub struct Taken {
    /// The leases.
    pub leases: Vec<Lease>,
    /// Which GPUs.
    pub gpus: Vec<Gpu>,
}

/// What a stage asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Cores.
    pub cores: usize,
    /// GPUs.
    pub gpus: usize,
}

impl Slots {
    /// The slots whose locks lie in a folder, which is made if need be. If it cannot be used, `instead` is: then only
    /// the drivers of one outputs folder share slots.
    pub fn open(folder: &Path, instead: &Path, cores: usize, gpus: Vec<Gpu>) -> Self {
        let usable = prepare(folder).is_ok();
        let folder = if usable { folder } else { instead };
        Self { folder: folder.to_owned(), cores: cores.max(1), gpus }
    }

    /// The folder that every driver on this host uses.
    pub fn host_folder() -> PathBuf {
        std::env::var_os(FOLDER_VARIABLE).map_or_else(|| std::env::temp_dir().join("anneal-slots"), PathBuf::from)
    }

    /// GPUs of this host.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// Takes all that is asked for, or nothing if that is not free now. No stage can have more cores than there are.
    ///
    /// # Errors
    /// A lock file cannot be opened, or the file system has no locks.
    pub fn try_take(&self, demand: Demand) -> Result<Option<Taken>, Failure> {
        let mut taken = Taken { leases: Vec::new(), gpus: Vec::new() };
        for core in 0..self.cores {
            if taken.leases.len() == demand.cores.min(self.cores) {
                break;
            }
            taken.leases.extend(self.attempt(&format!("cpu-{core}"))?);
        }
        if taken.leases.len() < demand.cores.min(self.cores) {
            return Ok(None);
        }
        for gpu in &self.gpus {
            if taken.gpus.len() == demand.gpus {
                break;
            }
            if let Some(lease) = self.attempt(&format!("gpu-{}", crate::store::file_name(&gpu.id)))? {
                taken.leases.push(lease);
                taken.gpus.push(gpu.clone());
            }
        }
        Ok((taken.gpus.len() >= demand.gpus).then_some(taken))
    }

    fn attempt(&self, name: &str) -> Result<Option<Lease>, Failure> {
        let path = self.folder.join(format!("{name}.lock"));
        let file = open(&path).map_err(|e| Failure::io("open", &path, &e))?;
        Lease::try_exclusive(&path, file)
    }
}

/// Makes the folder so that other users can put their locks there too.
fn prepare(folder: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(folder) {
        Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(0o1777))?,
        Err(e) if e.kind() == ErrorKind::NotFound => std::fs::create_dir_all(folder)?,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    open(&folder.join("cpu-0.lock")).map(drop)
}

/// A lock needs no permission to write: another user's file is opened for reading. Systems refuse to open a file with
/// `O_CREAT` that belongs to somebody else in a folder like this, so that comes second.
fn open(path: &Path) -> std::io::Result<File> {
    match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        opened => return opened,
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    // Whatever the umask says; if another process was faster, the file is its own to change.
    let _ = file.set_permissions(Permissions::from_mode(0o644));
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(dir: &Path, cores: usize, gpus: usize) -> Slots {
        let gpu = |i: usize| Gpu { id: i.to_string(), memory_mib: Some(1000) };
        Slots::open(&dir.join("slots"), dir, cores, (0..gpus).map(gpu).collect())
    }

    #[test]
    fn all_that_is_asked_for_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // Two drivers.
        let (a, b) = (slots(dir.path(), 3, 2), slots(dir.path(), 3, 2));
        let one = a.try_take(Demand { cores: 1, gpus: 1 }).unwrap().unwrap();
        assert_eq!(one.gpus[0].id, "0");
        assert!(b.try_take(Demand { cores: 1, gpus: 2 }).unwrap().is_none());
        let other = b.try_take(Demand { cores: 2, gpus: 1 }).unwrap().unwrap();
        assert_eq!(other.gpus[0].id, "1");
        assert!(a.try_take(Demand { cores: 1, gpus: 0 }).unwrap().is_none());
        drop(one);
        assert!(b.try_take(Demand { cores: 1, gpus: 1 }).unwrap().is_some());
        drop(other);
        // More cores than there are: all of them.
        assert_eq!(a.try_take(Demand { cores: 100, gpus: 0 }).unwrap().unwrap().leases.len(), 3);
        assert!(a.try_take(Demand { cores: 1, gpus: 3 }).unwrap().is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let slots = Slots::open(&dir.path().join("file"), dir.path(), 1, Vec::new());
        assert!(slots.try_take(Demand { cores: 1, gpus: 0 }).unwrap().is_some());
        assert!(dir.path().join("cpu-0.lock").exists());
    }
}
