//! Any bytes as a safetensors file, and as the weights of an adapter: no panic, no byte from outside the file, and an
//! error names the file.
//!
//! What precedes the first byte 0xff, which no text has, is the `adapter_config.json`; without such a byte a plain one
//! stands in. A header of changed length would nearly always be refused at once, so every file is read a second time
//! with the length that its header really has. `cargo +nightly fuzz run safetensors` in `tests/` (with a stable
//! compiler: `RUSTC_BOOTSTRAP=1 cargo fuzz run safetensors`); a folder with seeds comes from `tests/tools/fuzz_seeds.py`.
#![no_main]

use anneal_stages::llama::adapter::{Adapter, CONFIG, WEIGHTS};
use anneal_stages::llama::{LlamaConfig, WeightFiles, WeightSource};
use anneal_stages::tensor_file::TensorFile;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A folder of this process, in memory where the system has such a place: the reader maps files.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = parent.join(format!("anneal-fuzz-safetensors-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
});

/// The base that adapters are read for; the seeds' tensors fit it.
static BASE: LazyLock<LlamaConfig> = LazyLock::new(|| {
    let json = json!({"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 4, "tie_word_embeddings": false});
    let Value::Object(raw) = json else { unreachable!("an object") };
    LlamaConfig::from_json(raw).unwrap()
});

fn read(config: &[u8], bytes: &[u8]) {
    let dir = FOLDER.as_path();
    let path = dir.join(WEIGHTS);
    std::fs::write(&path, bytes).unwrap();
    let file = match TensorFile::open(&path) {
        Ok(file) => file,
        Err(failure) => return assert!(failure.message.contains(WEIGHTS), "{failure}"),
    };
    let mut total = 0;
    for name in file.names() {
        let info = file.info(&name).unwrap();
        let stored = file.bytes(&name).unwrap();
        assert_eq!(stored.len(), info.data_offsets.1 - info.data_offsets.0);
        total += stored.len();
        match file.read_f32(&name, &info.shape.clone()) {
            Ok(numbers) => assert!(numbers.len() <= stored.len()),
            Err(failure) => assert!(failure.message.contains(&format!("`{name}`")), "{failure}"),
        }
    }
    assert!(total <= bytes.len());
    std::fs::write(dir.join(CONFIG), config).unwrap();
    if let Err(failure) = Adapter::read(dir, &BASE) {
        assert!(failure.message.contains(CONFIG) || failure.message.contains(WEIGHTS), "{failure}");
    }
    // As a model's only file: the list of what does not fit.
    std::fs::copy(&path, dir.join("model.safetensors")).unwrap();
    let model = WeightFiles::open(dir).unwrap();
    if let Err(failure) = model.check(&BASE) {
        assert!(failure.message.contains("model.safetensors"), "{failure}");
    }
}

fuzz_target!(|input: &[u8]| {
    let plain: &[u8] = br#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#;
    let (config, bytes) = match input.iter().position(|byte| *byte == 0xff) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (plain, input),
    };
    read(config, bytes);
    // The header ends with its last brace.
    if let (Some(rest), Some(end)) = (bytes.get(8..), bytes.iter().rposition(|byte| *byte == b'}'))
        && let Some(length) = end.checked_sub(7)
        && length <= rest.len()
    {
        read(config, &[&(length as u64).to_le_bytes()[..], rest].concat());
    }
});
