//! What the GPU of a stage does while it computes: memory, utilisation, power, temperature, as its driver tells them.
//!
//! A stage starts a [`Watch`], polls it wherever it is between two pieces of work, and finishes it; that makes events
//! about once a second and measurements for the record. Facts that a driver, a MIG slice or a lack of rights keeps to
//! itself are absent, never a failure. Unaware of kernels and of what the stage computes.
#[cfg(any(feature = "cuda", test))]
mod choice;
#[cfg(feature = "cuda")]
mod nvml;
mod sample;
mod survey;
#[cfg(test)]
mod tests;
mod watch;

pub use sample::{Facts, Sampler, Source, Totals};
pub use survey::{Card, Driver, Survey, survey};
pub use watch::{Watch, watch};

/// The GPUs that this process may use: what `CUDA_VISIBLE_DEVICES` calls each, and its memory in MiB. None without the
/// feature `cuda`, or where the driver's library cannot be opened.
pub fn usable() -> Vec<(String, Option<u64>)> {
    #[cfg(feature = "cuda")]
    let found = nvml::usable();
    #[cfg(not(feature = "cuda"))]
    let found = Vec::new();
    found
}

/// Opens the driver's facts on the device that `numerics` computes on; `None`: it has none to tell.
pub fn source(numerics: &str) -> Option<Box<dyn Source>> {
    if !numerics.starts_with("cuda") {
        return None;
    }
    #[cfg(feature = "cuda")]
    let opened = nvml::open();
    #[cfg(not(feature = "cuda"))]
    let opened = None;
    opened
}
