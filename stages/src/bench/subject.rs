//! What generates in a measurement: a model, perhaps with an adapter beside its weights, on a device.
//!
//! Unaware of what is generated.
use super::BenchModel;
use crate::failure::OrFail;
use crate::llama::adapter::Adapter;
use crate::llama::footprint::{Footprint, lora_numbers};
use crate::llama::memory::Ledger;
use crate::llama::{AdapterConfig, Model};
use crate::random::Stream;
use crate::train_lora::MODULES;
use anneal_engine::Failure;
use anneal_ops::{Backend, Category};
use std::time::Instant;

/// A model to measure, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// The model.
    pub model: BenchModel,
    /// Numerics class, such as `cpu-f32`.
    pub numerics: &'static str,
    /// Rank of a random adapter of all linear modules, computed beside the weights; 0: none.
    pub adapter_rank: usize,
    /// Seed of weights, adapter and ids.
    pub seed: u64,
}

impl Subject {
    /// The model on the device, and the seconds that it took to get there.
    pub(super) fn open<B: Backend>(&self, device: &B, ledger: &mut Ledger<B>) -> Result<(Model<B>, f64), Failure> {
        let config = self.model.config()?;
        let targets: Vec<String> = MODULES.iter().map(|module| (*module).to_owned()).collect();
        let footprint = Footprint::of::<B>(&config);
        ledger.expect(&match self.adapter_rank {
            0 => footprint,
            rank => footprint.adapter(lora_numbers(&config, rank, &targets)),
        })?;
        let started = Instant::now();
        let mut model = ledger.phase(Category::Weights, || self.model.open(device.clone(), self.seed, false))?;
        if self.adapter_rank > 0 {
            let rank = self.adapter_rank;
            let lora = AdapterConfig::lora(rank, 2.0 * rank as f64, 0.0, false);
            let mut adapter = Adapter::fresh(&config, lora, &targets, self.seed)?;
            // A fresh B is zero, which would change no token.
            for (name, module) in &mut adapter.modules {
                let mut stream = Stream::new(self.seed, &format!("lora_B {name}"));
                module.b.iter_mut().for_each(|b| *b = 0.01 * (2.0 * stream.uniform() - 1.0));
            }
            ledger.phase(Category::Adapters, || model.attach(&adapter))?;
        }
        device.synchronize().or_fail()?;
        Ok((model, started.elapsed().as_secs_f64()))
    }
}
