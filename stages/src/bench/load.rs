//! From a model's file to its first logit: opening, reading or dequantising, and one token's forward pass.
//!
//! Unaware of what comes after.
use super::BenchModel;
use crate::failure::OrFail;
use crate::llama::footprint::Footprint;
use crate::llama::memory::Ledger;
use anneal_engine::Failure;
use anneal_ops::{Backend, BackendVisitor, Category, with_backend};
use std::time::Instant;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadMeasured {
    /// Seconds until the weights are on the device.
    pub load_seconds: f64,
    /// Seconds until the first logits are there, loading included.
    pub first_logit_seconds: f64,
    /// Peak of the device's memory, or of this process's where the device does not count, MiB.
    pub peak_mib: Option<f64>,
}

/// Loads once.
///
/// # Errors
/// What reading the model finds wrong; no memory.
pub fn run(model: &BenchModel, numerics: &'static str, seed: u64) -> Result<LoadMeasured, Failure> {
    with_backend(numerics, Work { model, seed }).or_fail()?
}

struct Work<'a> {
    model: &'a BenchModel,
    seed: u64,
}

impl BackendVisitor for Work<'_> {
    type Out = Result<LoadMeasured, Failure>;

    fn visit<B: Backend>(self, device: B) -> Self::Out {
        let mut ledger = Ledger::open(&device)?;
        ledger.expect(&Footprint::of::<B>(&self.model.config()?))?;
        let started = Instant::now();
        let model = ledger.phase(Category::Weights, || self.model.open(device.clone(), self.seed, false))?;
        device.synchronize().or_fail()?;
        let load_seconds = started.elapsed().as_secs_f64();
        let logits = model.next_logits(&[0], &mut model.empty_cache()).or_fail().map_err(|f| ledger.explain(f))?;
        let first_logit_seconds = started.elapsed().as_secs_f64();
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(Failure::user("the model's first logits are not finite").hint("its weights are damaged"));
        }
        Ok(LoadMeasured { load_seconds, first_logit_seconds, peak_mib: ledger.finish()?.peak_mib })
    }
}
