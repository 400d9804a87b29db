//! Tests of the ledger: its arithmetic as a counting device would feed it, and on the CPU.
use super::*;
use crate::bench::BenchModel;
use anneal_ops::{Cpu, OpError, StateDtype};

fn config() -> LlamaConfig {
    let raw = serde_json::json!({
        "model_type": "llama", "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    });
    LlamaConfig::from_json(raw.as_object().cloned().unwrap_or_default()).unwrap()
}

#[test]
fn arithmetic_agrees_with_the_tensors_of_a_model() {
    let device = Cpu::default();
    let mut model = BenchModel::Shape(Box::new(config())).open(device.clone(), 1, true).unwrap();
    let footprint = Footprint::of::<Cpu>(&config()).train_base(StateDtype::F32);
    let bytes = bytes_of(&model.base_parameters().refs);
    assert_eq!(footprint.get(Category::Weights), bytes + 32 * 4 * 4, "and the rotary tables");
    assert_eq!(footprint.get(Category::Gradients), bytes);
    let mut ledger = Ledger::open(&device).unwrap();
    ledger.expect(&footprint).unwrap();
    ledger.begin_step().unwrap();
    // 5 rows: logits of a chunk and its inputs, the rows' gradients and the head's.
    let logits = logits_bytes(&model, 5, true);
    assert_eq!(logits, 4 * (5 * (97 + 16) + 5 * 16 + 97 * 16));
    assert_eq!((logits_bytes(&model, 5, false), logits_bytes(&model, 0, true)), (4 * (5 * (97 + 16) + 5 * 16), 0));
    ledger.after_backward(logits).unwrap();
    ledger.after_backward(10).unwrap();
    ledger.after_update().unwrap();
    assert_eq!(ledger.peak().unwrap(), None);
    let peak = ledger.finish().unwrap();
    let metrics: std::collections::BTreeMap<String, f64> = peak.metrics().collect();
    assert_eq!(metrics.get("memory_weights_mib"), Some(&mib(bytes + 512)));
    assert_eq!(metrics.get("memory_optimizer_mib"), Some(&mib(2 * bytes)));
    assert_eq!(metrics.get("memory_logits_mib"), Some(&mib(logits)), "the most, not the last");
    assert!(!metrics.contains_key("memory_adapters_mib"));
    assert!(peak.peak_mib.is_some());
}

/// Weights that nobody may read.
struct Sealed;

impl WeightSource for Sealed {
    fn check(&self, _: &LlamaConfig) -> Result<(), Failure> {
        Ok(())
    }

    fn read_f32(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, Failure> {
        Err(Failure::bug(format!("{name} was read")))
    }
}

#[test]
fn what_does_not_fit_is_not_read() {
    let small = Footprint::of::<Cpu>(&config());
    let refused = |need: &Footprint| load(Cpu::default(), &config(), &Sealed, false, need).err();
    let failure = refused(&small.adapter(usize::MAX / 8)).unwrap();
    assert_eq!(failure.class, FailureClass::Oom);
    assert!(failure.message.contains("bytes are missing"), "{}", failure.message);
    assert!(refused(&small).unwrap().message.contains("was read"));
}

#[test]
fn categories_of_a_counting_device_add_up_to_its_peak() {
    let used = |current, peak| Some(MemoryUse { current, peak });
    let mut tally = Tally { settled: Some(64), ..Tally::default() };
    tally.bytes[Category::Workspace as usize] = 64;
    tally.settle(Category::Weights, used(1064, 1100));
    tally.settle(Category::Adapters, used(1084, 1100));
    tally.settle(Category::Optimizer, used(1124, 1130));
    // The first step leaves gradients (20) and masters (40); its peak had no masters yet.
    tally.settle(Category::Gradients, used(1144, 5000));
    tally.held(500, used(1144, 5000));
    tally.settle(Category::Optimizer, used(1184, 5000));
    assert_eq!(tally.bytes, [1000, 20, 20, 80, 3356, 500, 64]);
    tally.held(480, used(1500, 5050));
    assert_eq!(tally.bytes, [1000, 20, 20, 80, 5050 - 1184 - 480, 500, 64], "work under way is not settled");
    tally.held(500, used(1184, 5100));
    assert_eq!(tally.bytes.iter().sum::<usize>(), 5100);
    // Memory that was given back is nobody's.
    tally.settle(Category::Weights, used(100, 5100));
    assert_eq!(tally.bytes[0], 1000);
}

#[test]
fn on_the_cpu_activations_are_the_rest_of_the_process() {
    let ledger = Ledger::open(&Cpu::default()).unwrap();
    let held = vec![1_u8; 96 << 20];
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert!(held.iter().step_by(4096).all(|byte| *byte == 1));
    let peak = ledger.finish().unwrap();
    let activations = peak.categories.iter().find(|(category, _)| *category == Category::Activations);
    // Other tests of this process may free memory meanwhile.
    assert!(activations.is_some_and(|(_, mib)| *mib > 48.0), "{peak:?}");
}

#[test]
fn a_lack_of_memory_is_told_with_its_category_and_what_is_taken() {
    let mut ledger = Ledger::open(&Cpu::default()).unwrap();
    ledger.expect(&Footprint::of::<Cpu>(&config())).unwrap();
    let short = || Err::<(), _>(OpError::OutOfMemory { bytes: Some(4096) });
    let failure = ledger.phase(Category::Weights, || short().or_fail()).unwrap_err();
    assert_eq!(failure.class, FailureClass::Oom);
    let start = "the device is out of memory for weights: 4096 more bytes were asked for; taken so far: weights 0.0";
    assert!(failure.message.starts_with(start), "{}", failure.message);
    assert!(failure.message.contains("; the device has "), "{}", failure.message);
    let hint = failure.hint.unwrap_or_default();
    assert!(["batch_size", "checkpointing", "batch_tokens"].iter().all(|word| hint.contains(word)), "{hint}");
    let named = || short().map_err(|e| e.lacking(Category::Logits)).or_fail();
    let failure = ledger.phase(Category::Activations, named).unwrap_err();
    assert!(failure.message.starts_with("the device is out of memory for logits: 4096"), "{}", failure.message);
    let other = Failure::user("no");
    assert_eq!(ledger.explain(other.clone()), other);
}
