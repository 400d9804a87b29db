//! Memory of this process and of the host, as Linux tells it.
//!
//! Counts resident anonymous memory only (`RssAnon`): a mapped file of weights is resident too, but costs nobody
//! anything that the system could not take back. Unaware of devices.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two samples. One costs about 30 us.
const PERIOD: Duration = Duration::from_millis(20);

/// Largest value seen in this process, KiB.
static PEAK: AtomicU64 = AtomicU64::new(0);

/// Resident memory of this process that is not a mapped file, MiB; `None` where the system does not tell.
pub fn current_mib() -> Option<f64> {
    sample().map(mib)
}

/// The largest such value so far, MiB: of all samples, and now. Spikes between two samples are missed unless a
/// [`Sampler`] runs, and then those under 20 ms.
pub fn peak_mib() -> Option<f64> {
    sample()?;
    Some(mib(PEAK.load(Ordering::Relaxed)))
}

/// Memory of the host, MiB.
pub fn host_mib() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:").map(|kib| kib / 1024)
}

/// Processes that the kernel killed for want of memory since it started; evidence when a worker was killed.
pub fn oom_kills() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/vmstat").ok()?, "oom_kill")
}

/// Resident memory of another process and of all that it started that is not a mapped file, KiB; `None` once it is gone.
pub fn tree_kib(pid: u32) -> Option<u64> {
    let mut sum = field(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "RssAnon:")?;
    // Each thread has children of its own. A kernel that does not list them leaves them out.
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        sum += children.split_whitespace().filter_map(|child| tree_kib(child.parse().ok()?)).sum::<u64>();
    }
    Some(sum)
}

fn sample() -> Option<u64> {
    let kib = field(&std::fs::read_to_string("/proc/self/status").ok()?, "RssAnon:")?;
    PEAK.fetch_max(kib, Ordering::Relaxed);
    Some(kib)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace).find_map(|mut w| (w.next() == Some(name)).then_some(w))?;
    words.next()?.parse().ok()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// A thread that samples while a stage runs.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts sampling. If the system has no thread to spare, only the end is sampled.
    pub fn start() -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let body = move || {
            while !stopped.load(Ordering::Relaxed) {
                let Some(kib) = sample() else { return };
                highest.fetch_max(kib, Ordering::Relaxed);
                std::thread::park_timeout(PERIOD);
            }
        };
        let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(body).ok();
        Self { stop, peak, thread }
    }

    /// Ends sampling: the largest value since the start, MiB.
    pub fn finish(mut self) -> Option<f64> {
        let now = sample()?;
        Some(mib(self.peak.fetch_max(now, Ordering::Relaxed).max(now))).inspect(|_| self.end())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread does not panic; if it did, its samples would still count.
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_seen_and_remembered() {
        let sampler = Sampler::start();
        let spike = vec![1u8; 64 << 20];
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(spike.iter().step_by(4096).map(|b| u64::from(*b)).sum::<u64>(), 16384);
        drop(spike);
        assert!(sampler.finish().is_some_and(|peak| peak >= 64.0));
        assert!(peak_mib().is_some_and(|peak| peak >= 64.0));
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "RssAnonX: 1 kB\nRssAnon:\t  1234 kB\nRssFile: 5 kB\n";
        assert_eq!(field(text, "RssAnon:"), Some(1234));
        assert_eq!(field(text, "Rss"), None);
    }
}
