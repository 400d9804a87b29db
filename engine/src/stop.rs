//! The wish to stop, counted: the first asks for an orderly end, the second for the end.
//!
//! Unaware of what stops.
use crate::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often somebody asked to stop. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Counts Ctrl+C and SIGTERM from now on; neither ends the process by itself any more.
    ///
    /// # Errors
    /// The system has no thread or no signal handler to give.
    pub fn on_signals() -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::bug(format!("cannot listen for Ctrl+C: {e}"));
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let stop = Self::default();
        let counted = stop.clone();
        let body = move || signals.forever().for_each(|_| counted.request());
        std::thread::Builder::new().name("signals".to_owned()).spawn(body).map_err(failed)?;
        Ok(stop)
    }

    /// Asks to stop.
    pub fn request(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody asked.
    pub fn requested(&self) -> bool {
        self.count() > 0
    }

    /// How often.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
