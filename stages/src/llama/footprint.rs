//! How many bytes a model takes on a device before its first activation, from its configuration alone.
//!
//! Big weights and their gradients are in the device's dtype (f32 on the CPU, bf16 on CUDA); norms, biases, rotary
//! tables, LoRA's A and B and everything trained of these is f32. AdamW keeps two moments, and an f32 master of each
//! big weight that is shorter than f32 (see `anneal_ops::adamw`). Unaware of files and batches.
use super::adapter::Adapter;
use super::config::LlamaConfig;
use super::weights::{linear_shapes, tensor_shapes};
use anneal_engine::{Failure, FailureClass};
use anneal_ops::{Category, Memory, StateDtype};

/// Bytes of an f32.
const F32: usize = size_of::<f32>();

/// Bytes by category. Sizes that no machine has saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    bytes: [usize; Category::ALL.len()],
    /// Numbers in big weights, and in norms and biases.
    numbers: (usize, usize),
    /// Bytes of a big weight's element.
    elem: usize,
}

impl Footprint {
    /// The base on `B`, frozen.
    pub fn of<B: Memory>(config: &LlamaConfig) -> Self {
        Self::with_elem(config, size_of::<B::Elem>())
    }

    /// The base, frozen, with big weights of `elem` bytes a number.
    fn with_elem(config: &LlamaConfig, elem: usize) -> Self {
        let mut numbers = (0_usize, 0_usize);
        for (_, shape) in tensor_shapes(config) {
            let count = shape.iter().fold(1, |product: usize, size| product.saturating_mul(*size));
            let sum = if shape.len() == 2 { &mut numbers.0 } else { &mut numbers.1 };
            *sum = sum.saturating_add(count);
        }
        // Cosines and sines of every position.
        let tables = config.max_position_embeddings.saturating_mul(config.head_dim);
        let mut footprint = Self { bytes: [0; Category::ALL.len()], numbers, elem };
        footprint.add(Category::Weights, numbers.0.saturating_mul(elem));
        footprint.add(Category::Weights, numbers.1.saturating_add(tables).saturating_mul(F32));
        footprint
    }

    /// With an adapter of so many numbers; see [`lora_numbers`] and [`numbers_of`].
    #[must_use]
    pub fn adapter(mut self, numbers: usize) -> Self {
        self.add(Category::Adapters, numbers.saturating_mul(F32));
        self
    }

    /// With that adapter's gradients and moments.
    #[must_use]
    pub fn train_adapter(mut self) -> Self {
        let adapter = self.get(Category::Adapters);
        self.add(Category::Gradients, adapter);
        self.add(Category::Optimizer, adapter.saturating_mul(2));
        self
    }

    /// With the gradients, moments and masters of the whole base.
    #[must_use]
    pub fn train_base(mut self, states: StateDtype) -> Self {
        let (big, small) = self.numbers;
        let master = if self.elem < F32 { F32 } else { 0 };
        let state = match states {
            StateDtype::F32 => 2 * F32 + master,
            StateDtype::Bf16 => 2 * self.elem,
        };
        self.add(Category::Gradients, big.saturating_mul(self.elem).saturating_add(small.saturating_mul(F32)));
        self.add(Category::Optimizer, big.saturating_mul(state).saturating_add(small.saturating_mul(2 * F32)));
        self
    }

    fn add(&mut self, category: Category, bytes: usize) {
        let slot = &mut self.bytes[category as usize];
        *slot = slot.saturating_add(bytes);
    }

    /// Bytes of a category.
    pub fn get(&self, category: Category) -> usize {
        self.bytes[category as usize]
    }

    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.bytes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Refuses what cannot fit into `device` as it is now. A device that does not tell its memory takes everything.
    ///
    /// # Errors
    /// Out of memory: what is needed by category, what is free, and the number of bytes missing.
    pub fn require<B: Memory>(&self, device: &B) -> Result<(), Failure> {
        self.fit(device.memory_available(), device.memory_total())
    }

    fn fit(&self, available: Option<usize>, device: Option<usize>) -> Result<(), Failure> {
        let Some(missing) = available.and_then(|free| self.total().checked_sub(free)).filter(|bytes| *bytes > 0) else {
            return Ok(());
        };
        let device = device.map_or_else(String::new, |bytes| format!(" of {}", gib(bytes)));
        let message = format!(
            "the model does not fit: before the first batch it needs {} ({}), and {}{device} is free: {missing} bytes \
             are missing",
            gib(self.total()),
            listed(&self.bytes),
            gib(available.unwrap_or(0)),
        );
        let hint = if self.get(Category::Gradients) > self.get(Category::Adapters) {
            "end what else uses the device; on a GPU optimizer_states = \"bf16\" takes a third of what AdamW keeps; `train-lora` \
             needs little beside the weights"
        } else {
            "end what else uses the device, or take a smaller model or a device with more memory"
        };
        Err(Failure::new(FailureClass::Oom, message).hint(hint))
    }
}

/// Numbers in updates of this rank on these linear modules of every layer.
pub fn lora_numbers(config: &LlamaConfig, rank: usize, targets: &[String]) -> usize {
    let hit = |name: &str| targets.iter().any(|target| target == name);
    let shapes = linear_shapes(config).into_iter().filter(|(name, _)| hit(name));
    let layer = shapes.fold(0_usize, |sum, (_, [out, input])| sum.saturating_add(out.saturating_add(input)));
    layer.saturating_mul(rank).saturating_mul(config.num_hidden_layers)
}

/// Numbers in an adapter's updates of layers; those of the head and of the embedding are merged into the weights.
pub fn numbers_of(adapter: &Adapter) -> usize {
    let layers = adapter.modules.iter().filter(|(module, _)| module.starts_with("model.layers."));
    layers.map(|(_, lora)| lora.a.len() + lora.b.len()).sum()
}

/// Bytes for people: GiB, or MiB below one.
pub(crate) fn gib(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

/// The categories that have any.
pub(crate) fn listed(bytes: &[usize; Category::ALL.len()]) -> String {
    let some = Category::ALL.iter().zip(bytes).filter(|(_, bytes)| **bytes > 0);
    some.map(|(category, bytes)| format!("{category} {}", gib(*bytes))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::BenchModel;
    use anneal_ops::Category::{Adapters, Gradients, Optimizer, Weights};
    use anneal_ops::Cpu;

    fn shape(name: &str) -> LlamaConfig {
        let Ok(BenchModel::Shape(config)) = BenchModel::find(name) else { panic!("{name} is a shape") };
        *config
    }

    /// Llama-3-8B: 8,030,261,248 numbers, of which 65 norms of 4096; tables of 8192 positions x 64 x 2.
    const NORMS: usize = 65 * 4096;
    const TABLES: usize = 8192 * 128 * 4;

    #[test]
    fn llama_3_8b_has_the_published_bytes() {
        let footprint = Footprint::with_elem(&shape("llama-3-8b"), 2);
        assert_eq!(footprint.get(Weights), 2 * 8_030_261_248 + 2 * NORMS + TABLES);
        assert_eq!((footprint.get(Weights) as f64 / 1e7).round(), 1607.0, "16.06 GB of weights, 4 MB of tables");
        assert_eq!(footprint.total(), footprint.get(Weights));
        // f32, as on the CPU.
        assert_eq!(Footprint::of::<Cpu>(&shape("llama-3-8b")).get(Weights), 4 * 8_030_261_248 + TABLES);
    }

    #[test]
    fn full_fine_tuning_adds_gradients_moments_and_masters() {
        let base = Footprint::with_elem(&shape("llama-3-8b"), 2);
        let short = base.train_base(StateDtype::Bf16);
        assert_eq!(short.get(Gradients), 2 * 8_030_261_248 + 2 * NORMS);
        assert_eq!(short.get(Optimizer), 4 * 8_030_261_248 + 4 * NORMS);
        assert_eq!(gib(short.total()), "59.84 GiB");
        let full = base.train_base(StateDtype::F32);
        assert_eq!(full.get(Optimizer), 12 * (8_030_261_248 - NORMS) + 8 * NORMS);
        // Where weights are f32 they are their own masters, and "bf16" changes nothing.
        let cpu = Footprint::of::<Cpu>(&shape("smollm2-135m"));
        let (f32, bf16) = (cpu.train_base(StateDtype::F32), cpu.train_base(StateDtype::Bf16));
        assert_eq!((f32.get(Optimizer), f32), (8 * 134_515_008, bf16));
        assert_eq!(f32.get(Gradients), 4 * 134_515_008);
    }

    #[test]
    fn lora_is_counted_by_rank_and_module() {
        let config = shape("llama-3-8b");
        let all: Vec<String> = linear_shapes(&config).iter().map(|(name, _)| (*name).to_owned()).collect();
        // PEFT's own count for r = 16 on all seven linears.
        assert_eq!(lora_numbers(&config, 16, &all), 41_943_040);
        assert_eq!(lora_numbers(&config, 16, &["q_proj".to_owned()]), 16 * 32 * 8192);
        let footprint = Footprint::with_elem(&config, 2).adapter(41_943_040).train_adapter();
        let of = |category| footprint.get(category);
        assert_eq!((of(Adapters), of(Gradients), of(Optimizer)), (167_772_160, 167_772_160, 335_544_320));
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_bytes_missing() {
        let full = Footprint::with_elem(&shape("llama-3-8b"), 2).train_base(StateDtype::F32);
        let free = full.total() - 12_345;
        let failure = full.fit(Some(free), Some(80 << 30)).unwrap_err();
        assert_eq!(failure.class, FailureClass::Oom);
        for part in ["12345 bytes are missing", "weights 14.96 GiB", "optimizer 89.74 GiB", "of 80.00 GiB is free"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        assert!(failure.hint.unwrap_or_default().contains("optimizer_states"));
        assert_eq!(full.fit(Some(full.total()), None), Ok(()));
        assert_eq!(full.fit(None, None), Ok(()), "a device that does not tell");
        let frozen = Footprint::with_elem(&shape("llama-3-8b"), 2);
        assert!(frozen.fit(Some(0), None).unwrap_err().hint.unwrap_or_default().contains("smaller model"));
        Footprint::of::<Cpu>(&shape("smollm2-135m")).require(&Cpu::default()).unwrap();
    }

    #[test]
    fn sizes_beyond_any_machine_saturate() {
        let raw = serde_json::json!({
            "model_type": "llama", "vocab_size": 1_u32 << 31, "hidden_size": 1_u32 << 31, "num_hidden_layers": 64,
            "intermediate_size": 1_u32 << 31, "num_attention_heads": 2, "num_key_value_heads": 1,
        });
        let config = LlamaConfig::from_json(raw.as_object().cloned().unwrap_or_default()).unwrap();
        let footprint = Footprint::with_elem(&config, 2).train_base(StateDtype::F32);
        assert_eq!(footprint.total(), usize::MAX);
        assert!(footprint.require(&Cpu::default()).is_err());
    }
}
