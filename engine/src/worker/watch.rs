//! A thread beside a worker: measures its memory from outside, which still counts when it is killed, and ends it when
//! its time is up.
//!
//! Unaware of what the worker does and of what its end means.
use super::supervise::Live;
use crate::memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks: short enough to see a training step's peak, long enough to cost nothing (30 us a look).
const PERIOD: Duration = Duration::from_millis(50);
/// Time for a stage to write a checkpoint when it is asked to stop, before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicBool,
    timed_out: AtomicBool,
    peak_kib: AtomicU64,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches a process of this number. If the system has no thread to spare, nothing is seen and nothing is ended.
    pub(super) fn start(pid: u32, live: &Live, timeout: Option<Duration>) -> Self {
        let (seen, live, begin) = (Arc::new(Seen::default()), live.clone(), Instant::now());
        let theirs = Arc::clone(&seen);
        let body = move || {
            let mut asked: Option<Instant> = None;
            while !theirs.done.load(Ordering::Acquire) {
                if let Some(kib) = memory::tree_kib(pid) {
                    theirs.peak_kib.fetch_max(kib, Ordering::Relaxed);
                }
                match (asked, timeout) {
                    (None, Some(limit)) if begin.elapsed() >= limit => {
                        theirs.timed_out.store(true, Ordering::Release);
                        live.stop(false);
                        asked = Some(Instant::now());
                    }
                    (Some(when), _) if when.elapsed() >= GRACE => live.stop(true),
                    _ => {}
                }
                let left = timeout.filter(|_| asked.is_none()).map(|limit| limit.saturating_sub(begin.elapsed()));
                std::thread::park_timeout(left.unwrap_or(PERIOD).min(PERIOD));
            }
        };
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(body).ok();
        Self { seen, thread }
    }

    /// Ends watching. Says whether the time was up, and the largest resident memory that was seen, MiB.
    pub(super) fn finish(mut self) -> (bool, Option<f64>) {
        self.seen.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread does not panic; if it did, what it saw would still count.
            let _ = thread.join();
        }
        let peak = self.seen.peak_kib.load(Ordering::Relaxed);
        (self.seen.timed_out.load(Ordering::Acquire), (peak > 0).then_some(peak as f64 / 1024.0))
    }
}
