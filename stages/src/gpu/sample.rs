//! A thread that asks a device for its facts again and again and keeps the last, the peaks and the means.
//!
//! Unaware of who asks for them and of the library behind a [`Source`].
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two samples. One takes about a millisecond, most of it for the power sensor.
pub(super) const PERIOD: Duration = Duration::from_millis(200);

/// What a device says of itself at one time, each fact if it tells it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Facts {
    /// Memory in use, by all processes, MiB.
    pub used_mib: Option<f64>,
    /// Memory that it has, MiB.
    pub total_mib: Option<f64>,
    /// Share of the last moments in which a kernel ran, percent.
    pub utilisation_percent: Option<f64>,
    /// Power drawn, W.
    pub power_watts: Option<f64>,
    /// Temperature of the chip, degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// Energy since some time in the past, J; grows.
    pub energy_joules: Option<f64>,
}

/// A device that tells facts.
pub trait Source: Send {
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    fn name(&self) -> String;
    /// The facts now; `None`: it does not answer any more, so nobody needs to ask again.
    fn sample(&mut self) -> Option<Facts>;
}

/// What a sampler saw from its start to its end.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    /// Name of the device; empty before it was opened.
    pub name: String,
    /// The latest facts; `None`: there were none.
    pub last: Option<Facts>,
    /// Largest memory in use, by all processes, MiB.
    pub peak_used_mib: Option<f64>,
    /// Mean utilisation, percent.
    pub mean_utilisation: Option<f64>,
    /// Mean power, W.
    pub mean_power_watts: Option<f64>,
    /// Highest temperature, degrees Celsius.
    pub peak_temperature: Option<f64>,
    /// Energy, J: the device's own counter where it has one, else mean power times time.
    pub energy_joules: Option<f64>,
}

/// Sum and number of what was seen.
#[derive(Debug, Clone, Copy, Default)]
struct Mean(f64, u32);

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            *self = Self(self.0 + value, self.1 + 1);
        }
    }
    fn get(self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / f64::from(self.1))
    }
}

fn larger(so_far: Option<f64>, now: Option<f64>) -> Option<f64> {
    so_far.into_iter().chain(now).reduce(f64::max)
}

/// All samples so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    name: String,
    last: Option<Facts>,
    peak_used_mib: Option<f64>,
    peak_temperature: Option<f64>,
    utilisation: Mean,
    power: Mean,
    first_energy: Option<f64>,
}

impl Seen {
    pub(super) fn add(&mut self, facts: Facts) {
        self.peak_used_mib = larger(self.peak_used_mib, facts.used_mib);
        self.peak_temperature = larger(self.peak_temperature, facts.temperature_celsius);
        self.utilisation.add(facts.utilisation_percent);
        self.power.add(facts.power_watts);
        self.first_energy = self.first_energy.or(facts.energy_joules);
        self.last = Some(facts);
    }

    /// `seconds`: since the first sample.
    pub(super) fn totals(&self, seconds: f64) -> Totals {
        let counted = self.last.and_then(|last| Some(last.energy_joules? - self.first_energy?));
        let mean_power_watts = self.power.get();
        Totals {
            name: self.name.clone(),
            last: self.last,
            peak_used_mib: self.peak_used_mib,
            mean_utilisation: self.utilisation.get(),
            mean_power_watts,
            peak_temperature: self.peak_temperature,
            // A counter that stood still or began anew (a reloaded driver) says nothing.
            energy_joules: counted.filter(|joules| *joules > 0.0).or(mean_power_watts.map(|watts| watts * seconds)),
        }
    }
}

/// A thread that samples until it is finished or dropped.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    started: Instant,
    thread: Option<JoinHandle<()>>,
}

fn held(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // The samples are whole whatever happened to the thread that held the lock.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sampler {
    /// Starts sampling the device that `open` finds. Opening takes a while, so it is the thread's first work; without a
    /// device or a thread there are no facts.
    pub fn start(open: impl FnOnce() -> Option<Box<dyn Source>> + Send + 'static) -> Self {
        Self::every(PERIOD, open)
    }

    pub(super) fn every(period: Duration, open: impl FnOnce() -> Option<Box<dyn Source>> + Send + 'static) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&seen));
        let body = move || {
            let Some(mut source) = open() else { return };
            held(&shared).name = source.name();
            while !stopped.load(Ordering::Relaxed) {
                let Some(facts) = source.sample() else { return };
                held(&shared).add(facts);
                std::thread::park_timeout(period);
            }
        };
        let thread = std::thread::Builder::new().name("gpu facts".to_owned()).spawn(body).ok();
        Self { stop, seen, started: Instant::now(), thread }
    }

    /// What was seen so far.
    pub fn totals(&self) -> Totals {
        held(&self.seen).totals(self.started.elapsed().as_secs_f64())
    }

    /// Ends sampling.
    pub fn finish(mut self) -> Totals {
        self.end();
        self.totals()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // If it panicked, what it saw still counts.
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}
