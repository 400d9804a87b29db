//! A stage's view of its GPU: events while it computes and measurements when it ends.
//!
//! A context's sinks belong to the stage's thread, so the sampler's thread only looks; the stage emits, by polling.
//! Unaware of how facts are found.
use super::sample::{Sampler, Totals};
use anneal_engine::StageContext;
use anneal_engine::event::{Device, Event};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Least time between two events.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts to watch the device that the stage computes on. On the CPU, or where the driver tells nothing, the watch does
/// nothing.
pub fn watch<'a, 'c>(context: &'a StageContext<'c>) -> Watch<'a, 'c> {
    let numerics = context.numerics.to_owned();
    let sampler = numerics.starts_with("cuda").then(|| Sampler::start(move || super::source(&numerics)));
    Watch::new(context, sampler)
}

/// A watch over a device. Dropped without [`Watch::finish`], because the stage failed, it emits the last facts.
pub struct Watch<'a, 'c> {
    context: &'a StageContext<'c>,
    sampler: Option<Sampler>,
    told: Cell<Option<Instant>>,
}

impl<'a, 'c> Watch<'a, 'c> {
    pub(super) fn new(context: &'a StageContext<'c>, sampler: Option<Sampler>) -> Self {
        Self { context, sampler, told: Cell::new(None) }
    }

    /// Emits the latest facts if the last time was a second or more ago. Cheap: to be called at every step.
    pub fn poll(&self) {
        let Some(sampler) = &self.sampler else { return };
        if self.told.get().is_some_and(|told| told.elapsed() < INTERVAL) {
            return;
        }
        if tell(self.context, &sampler.totals()) {
            self.told.set(Some(Instant::now()));
        }
    }

    /// Ends the watch: the last facts as an event, measurements into the record, with the most bytes that this process
    /// had on the device, where these are counted.
    pub fn finish(mut self, peak: Option<usize>) {
        let totals = self.sampler.take().map(Sampler::finish);
        if let Some(totals) = &totals {
            tell(self.context, totals);
            measure(self.context, totals);
        }
        if let Some(peak) = peak {
            self.context.metric("gpu_peak_mib", peak as f64 / f64::from(1 << 20));
        }
    }
}

impl Drop for Watch<'_, '_> {
    fn drop(&mut self) {
        // Not while a panic unwinds: a second one, from a sink, would end the process.
        if let Some(sampler) = self.sampler.take().filter(|_| !std::thread::panicking()) {
            tell(self.context, &sampler.finish());
        }
    }
}

/// Whether there was something to tell.
fn tell(context: &StageContext<'_>, totals: &Totals) -> bool {
    let Some(facts) = totals.last else { return false };
    (context.emit)(Event::Device(Device {
        name: totals.name.clone(),
        used_mib: facts.used_mib,
        total_mib: facts.total_mib,
        utilisation_percent: facts.utilisation_percent,
        power_watts: facts.power_watts,
        temperature_celsius: facts.temperature_celsius,
    }));
    true
}

fn measure(context: &StageContext<'_>, totals: &Totals) {
    for (name, value) in [
        ("gpu_peak_used_mib", totals.peak_used_mib),
        ("gpu_mean_utilisation", totals.mean_utilisation),
        ("gpu_mean_power_watts", totals.mean_power_watts),
        ("gpu_peak_temperature_celsius", totals.peak_temperature),
        ("gpu_energy_joules", totals.energy_joules),
    ] {
        if let Some(value) = value {
            context.metric(name, value);
        }
    }
}
