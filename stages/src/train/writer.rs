//! Checkpoints written while training goes on: the snapshot is host memory, so the next steps cannot change it.
//!
//! One is under way at a time. A checkpoint counts, and is announced, when it is whole on disk; a failure to write it
//! fails the run at the next step. Unaware of what a snapshot holds.
use super::checkpoint::{self, Snapshot};
use anneal_engine::Failure;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the writing thread returns: how long it took.
type Written = Result<Duration, Failure>;

/// The writer of one run's checkpoints. Dropped, it waits for the one under way.
#[derive(Default)]
pub(super) struct Writer {
    /// The step and its thread.
    under_way: Option<(u64, JoinHandle<Written>)>,
    /// What the last one took.
    took: Duration,
}

impl Writer {
    /// Starts writing `snapshot` into `dir`. To be called with none under way.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn start(&mut self, dir: &Path, snapshot: Snapshot) -> Result<(), Failure> {
        let (step, folder) = (snapshot.step, dir.to_owned());
        let write = move || {
            let started = Instant::now();
            checkpoint::write(&folder, &snapshot).map(|()| started.elapsed())
        };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(write);
        self.under_way = Some((step, thread.map_err(|e| Failure::io("write a checkpoint into", dir, &e))?));
        Ok(())
    }

    /// The step of a checkpoint that has become whole since the last call.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn poll(&mut self) -> Result<Option<u64>, Failure> {
        let done = self.under_way.as_ref().is_some_and(|(_, thread)| thread.is_finished());
        if done { self.finish() } else { Ok(None) }
    }

    /// As [`Writer::poll`], waiting for it.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn finish(&mut self) -> Result<Option<u64>, Failure> {
        let Some((step, thread)) = self.under_way.take() else { return Ok(None) };
        self.took = thread.join().map_err(|_| Failure::bug("the thread that writes checkpoints panicked"))??;
        Ok(Some(step))
    }

    /// Whether a checkpoint now would take longer than the work that it could save, `remaining`.
    pub(super) fn outlasts(&self, remaining: Duration) -> bool {
        self.took > remaining
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The run has failed already, or the caller has asked for the last one.
        let _ = self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(step: u64) -> Snapshot {
        Snapshot { step, ..Snapshot::default() }
    }

    #[test]
    fn a_checkpoint_is_announced_once_and_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::default();
        assert_eq!(writer.finish().unwrap(), None);
        writer.start(dir.path(), snapshot(3)).unwrap();
        let announced = loop {
            if let Some(step) = writer.poll().unwrap() {
                break step;
            }
        };
        assert_eq!((announced, writer.poll().unwrap()), (3, None));
        assert_eq!(checkpoint::latest(dir.path()).unwrap().0, Some(snapshot(3)));
        assert!(writer.outlasts(Duration::ZERO) && !writer.outlasts(Duration::from_secs(3600)));
        writer.start(dir.path(), snapshot(4)).unwrap();
        drop(writer);
        assert_eq!(checkpoint::latest(dir.path()).unwrap().0, Some(snapshot(4)), "dropping waits");
    }

    #[test]
    fn a_failure_to_write_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut writer = Writer::default();
        writer.start(&file, snapshot(3)).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("file"));
        assert_eq!(writer.finish().unwrap(), None);
    }
}
