//! Peak memory by category, and what a lack of memory is told with.
//!
//! On a device that counts, memory in use is read where one phase ends and the next begins: weights after loading,
//! adapters after attaching, optimizer after its states are made and after the first update (masters), gradients after
//! the first backward; only the first step waits for the device. Logits are what the head's op says it holds;
//! activations are the peak of forward and backward minus all of that, so that the categories add up to the peak.
//! Where memory is not counted (the CPU) the sizes of tensors stand for all but activations, which are the rest of the
//! process's peak: host data and what the allocator keeps included. Unaware of batches and of where results go.
use super::config::LlamaConfig;
use super::footprint::{Footprint, gib, listed};
use super::model::Model;
use super::weights::WeightSource;
use crate::failure::{OTHERS, OrFail};
use anneal_engine::memory::{self, Sampler};
use anneal_engine::{Failure, FailureClass};
use anneal_ops::{Backend, Category, MemoryUse, ParamRef, cross_entropy_workspace};

/// What is known of a device's memory while a model is loaded and trained.
pub struct Ledger<B: Backend> {
    device: B,
    tally: Tally,
    /// Of the process, where the device does not count, with its memory at the beginning, MiB.
    sampler: Option<(Sampler, f64)>,
}

/// Bytes by category, from what a device has in use at the ends of phases.
#[derive(Debug, Default)]
struct Tally {
    bytes: [usize; Category::ALL.len()],
    /// In use when the last phase ended; `None`: the device does not count.
    settled: Option<usize>,
    peak: usize,
    /// Updates so far. The first step makes gradients and masters; later ones find them.
    updates: u64,
}

impl Tally {
    /// Whatever came into use since the last phase ended belongs to `category`.
    fn settle(&mut self, category: Category, used: Option<MemoryUse>) {
        if let (Some(used), Some(before)) = (used, self.settled.as_mut()) {
            self.bytes[category as usize] += used.current.saturating_sub(*before);
            *before = used.current;
        }
    }

    /// What forward and backward held at most beside what stays.
    fn held(&mut self, logits: usize, used: Option<MemoryUse>) {
        let mut most = |category: Category, bytes: usize| {
            let slot = &mut self.bytes[category as usize];
            *slot = (*slot).max(bytes);
        };
        most(Category::Logits, logits);
        if let (Some(used), Some(settled)) = (used, self.settled) {
            most(Category::Activations, used.peak.saturating_sub(settled).saturating_sub(logits));
        }
    }
}

/// Peak memory of a run, MiB.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPeak {
    /// By category; those that have any.
    pub categories: Vec<(Category, f64)>,
    /// The most at any time: of the device, or of this process where the device does not count.
    pub peak_mib: Option<f64>,
}

impl<B: Backend> Ledger<B> {
    /// Begins before anything is loaded: what is in use by now is the libraries' workspace.
    ///
    /// # Errors
    /// The device failed.
    pub fn open(device: &B) -> Result<Self, Failure> {
        device.reset_peak().or_fail()?;
        let settled = device.memory_use().or_fail()?.map(|used| used.current);
        let mut tally = Tally { settled, peak: settled.unwrap_or(0), ..Tally::default() };
        tally.bytes[Category::Workspace as usize] = tally.peak;
        let sampler = settled.is_none().then(|| (Sampler::start(), memory::current_mib().unwrap_or(0.0)));
        Ok(Self { device: device.clone(), tally, sampler })
    }

    /// Refuses what cannot fit, before anything is read. Where memory is not counted, these are the sizes reported.
    ///
    /// # Errors
    /// Out of memory, with the number of bytes missing.
    pub fn expect(&mut self, footprint: &Footprint) -> Result<(), Failure> {
        footprint.require(&self.device)?;
        if self.tally.settled.is_none() {
            self.tally.bytes = Category::ALL.map(|category| footprint.get(category));
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Option<MemoryUse>, Failure> {
        let used = self.device.memory_use().or_fail()?;
        self.tally.peak = self.tally.peak.max(used.map_or(0, |used| used.peak));
        Ok(used)
    }

    /// Whatever came into use since the last phase ended belongs to `category`, as after restoring a checkpoint.
    ///
    /// # Errors
    /// The device failed.
    pub fn settle(&mut self, category: Category) -> Result<(), Failure> {
        // What was freed counts as used until the device has come to it.
        self.device.synchronize().or_fail()?;
        let used = self.read()?;
        self.tally.settle(category, used);
        Ok(())
    }

    /// Runs work that allocates for `category`.
    ///
    /// # Errors
    /// Those of `work`; lack of memory with what it was for and what is in use.
    pub fn phase<R>(&mut self, category: Category, work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        let result = work().map_err(|failure| self.lacking(failure, Some(category)))?;
        self.settle(category)?;
        Ok(result)
    }

    /// Before a step's first forward.
    ///
    /// # Errors
    /// The device failed.
    pub fn begin_step(&mut self) -> Result<(), Failure> {
        self.read()?;
        self.device.reset_peak().or_fail()
    }

    /// After a step's last backward, before its update; `logits` is the most that [`logits_bytes`] said for one of its
    /// micro-batches.
    ///
    /// # Errors
    /// The device failed.
    pub fn after_backward(&mut self, logits: usize) -> Result<(), Failure> {
        if self.tally.updates == 0 {
            self.settle(Category::Gradients)?;
        }
        let used = self.read()?;
        self.tally.held(logits, used);
        Ok(())
    }

    /// After a step's update.
    ///
    /// # Errors
    /// The device failed.
    pub fn after_update(&mut self) -> Result<(), Failure> {
        self.tally.updates += 1;
        if self.tally.updates == 1 { self.settle(Category::Optimizer) } else { Ok(()) }
    }

    /// Adds to a lack of memory what is in use, by category, and what the device has. Other failures stay as they are.
    pub fn explain(&self, failure: Failure) -> Failure {
        self.lacking(failure, None)
    }

    fn lacking(&self, failure: Failure, category: Option<Category>) -> Failure {
        const PLAIN: &str = "out of memory";
        if failure.class != FailureClass::Oom {
            return failure;
        }
        let mut message = failure.message;
        // An op that knew better has named its own category.
        if let Some(category) = category.filter(|_| !message.contains("out of memory for ")) {
            message = message.replacen(PLAIN, &format!("{PLAIN} for {category}"), 1);
        }
        let used = listed(&self.tally.bytes);
        if !used.is_empty() {
            message += &format!("; taken so far: {used}");
        }
        if let Some(total) = self.device.memory_total() {
            message += &format!("; the device has {}", gib(total));
        }
        let mut hint = failure.hint;
        // More than contexts and kernels take.
        if let Some(others) = self.device.memory_elsewhere().filter(|bytes| *bytes > 2 << 30) {
            message += &format!("; other processes hold about {} of it", gib(others));
            hint = Some(OTHERS.to_owned());
        }
        Failure { message, hint, ..failure }
    }

    /// The peak so far, bytes, if the device counts.
    pub fn peak(&mut self) -> Result<Option<usize>, Failure> {
        Ok(self.read()?.map(|_| self.tally.peak))
    }

    /// The result.
    ///
    /// # Errors
    /// The device failed.
    pub fn finish(mut self) -> Result<MemoryPeak, Failure> {
        let counted = self.read()?.map(|_| mib(self.tally.peak));
        let sampled = self.sampler.take().and_then(|(sampler, before)| Some((sampler.finish()?, before)));
        if let Some((peak, before)) = sampled {
            let rest: f64 = self.tally.bytes.iter().map(|bytes| mib(*bytes)).sum();
            let activations = (peak - before - rest).max(0.0) * f64::from(1 << 20);
            self.tally.bytes[Category::Activations as usize] = activations as usize;
        }
        let some = Category::ALL.into_iter().zip(self.tally.bytes).filter(|(_, bytes)| *bytes > 0);
        let categories = some.map(|(category, bytes)| (category, mib(bytes))).collect();
        Ok(MemoryPeak { categories, peak_mib: counted.or(sampled.map(|(peak, _)| peak)) })
    }
}

impl MemoryPeak {
    /// Names and values for the record: `memory_<category>_mib`.
    pub fn metrics(&self) -> impl Iterator<Item = (String, f64)> {
        self.categories.iter().map(|(category, mib)| (format!("memory_{category}_mib"), *mib))
    }
}

/// Reads a model that may be trained, unless `need` (see [`Footprint`]) does not fit: then not a byte of it is read.
///
/// # Errors
/// Those of [`Model::read`] and [`Ledger::expect`].
pub fn load<B: Backend>(
    device: B,
    config: &LlamaConfig,
    files: &dyn WeightSource,
    train_base: bool,
    need: &Footprint,
) -> Result<(Model<B>, Ledger<B>), Failure> {
    // Weights that do not belong to the configuration are the better news.
    files.check(config)?;
    let mut ledger = Ledger::open(&device)?;
    ledger.expect(need)?;
    let model = ledger.phase(Category::Weights, || Model::read(device, config, files, train_base))?;
    Ok((model, ledger))
}

/// Bytes for logits in a micro-batch with so many labelled rows.
pub fn logits_bytes<B: Backend>(model: &Model<B>, rows: usize, train_base: bool) -> usize {
    cross_entropy_workspace(model.device(), rows, model.head(), train_base)
}

/// Bytes of some parameters' values; their gradients take as many.
pub fn bytes_of<B: Backend>(parameters: &[ParamRef<'_, B>]) -> usize {
    parameters.iter().map(ParamRef::bytes).sum()
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
