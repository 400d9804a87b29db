//! Folder -> `consolidate` -> folder: every tensor's bytes and every other file come back; what an adapter changes is
//! rounded once.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use anneal_engine::{Launch, Stage, StageContext, StageInput};
use anneal_stages::artifact::{ADAPTER, MODEL};
use anneal_stages::consolidate::Consolidate;
use anneal_stages::llama::adapter::{Adapter, AdapterConfig};
use anneal_stages::llama::weights::tensor_shapes;
use anneal_stages::llama::{LlamaConfig, WeightFiles, WeightSource};
use anneal_stages::random::Stream;
use anneal_stages::tensor_file::{self, FloatType, OutTensor};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

fn config() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 4,
        "tie_word_embeddings": false, "dtype": "bfloat16", "unknown_key": {"kept": true}})
}

const OTHERS: [(&str, &str); 3] =
    [("tokenizer.json", "{ \"any\" : 1 }"), ("generation_config.json", "{}"), ("chat_template.jinja", "{{ x }}\n")];

/// A folder whose tensors have random bits, NaNs among them, in the dtype that `of` names.
fn folder(of: &dyn Fn(&str) -> Dtype) -> (tempfile::TempDir, LlamaConfig) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    OTHERS.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
    let config = LlamaConfig::read(&dir.path().join("config.json")).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let dtype = of(&name);
        let count = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let mut stream = Stream::new(5, &name);
        let bytes = (0..count).map(|_| (stream.uniform() * 256.0) as u8).collect();
        (name, OutTensor::raw(dtype, &shape, bytes))
    };
    let tensors: Vec<_> = tensor_shapes(&config).into_iter().map(tensor).collect();
    tensor_file::write(&dir.path().join("model.safetensors"), &tensors).unwrap();
    (dir, config)
}

fn consolidate(base: &Path, adapter: Option<&Path>, params: &Value) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let input =
        |artifact: &str, dir: &Path| StageInput { artifact: artifact.into(), dir: dir.into(), digest: "0".into() };
    let mut inputs = BTreeMap::from([("model".to_owned(), input(MODEL, base))]);
    inputs.extend(adapter.map(|dir| ("adapter".to_owned(), input(ADAPTER, dir))));
    let mut context = StageContext {
        name: "back",
        params,
        seed: 1,
        numerics: "cpu-f32",
        device_memory_limit_mib: None,
        inputs: &inputs,
        sources: &[],
        out: out.path(),
        checkpoints: out.path(),
        launch: Launch { root: out.path(), scratch: out.path(), log: out.path(), adopt: None },
        emit: &|_| (),
        stop: &|| false,
        programs_mib: std::cell::Cell::new(None),
        metrics: RefCell::default(),
        references: RefCell::default(),
    };
    Consolidate.run(&mut context).unwrap();
    out
}

fn same(max_shard_bytes: u64) -> Value {
    json!({"dtype": "same", "max_shard_bytes": max_shard_bytes})
}

#[test]
fn every_tensor_and_every_other_file_come_back() {
    let mixed = |name: &str| if name.contains("norm") { Dtype::F32 } else { Dtype::F16 };
    let dtypes: [&dyn Fn(&str) -> Dtype; 4] = [&|_| Dtype::F32, &|_| Dtype::BF16, &|_| Dtype::F16, &mixed];
    for of in dtypes {
        let (base, config) = folder(of);
        for shard in [1_000_000, 700] {
            let back = consolidate(base.path(), None, &same(shard));
            let (before, after) = (WeightFiles::open(base.path()).unwrap(), WeightFiles::open(back.path()).unwrap());
            for (name, _) in tensor_shapes(&config) {
                assert_eq!(before.stored(&name).unwrap(), after.stored(&name).unwrap(), "{name}");
            }
            let index = back.path().join("model.safetensors.index.json");
            assert_eq!(index.exists(), shard == 700);
            for (name, text) in OTHERS {
                assert_eq!(std::fs::read_to_string(back.path().join(name)).unwrap(), text);
            }
            let text = std::fs::read_to_string(back.path().join("config.json")).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), self::config());
        }
    }
}

#[test]
fn an_adapter_changes_its_own_modules_and_rounds_them_once() {
    let (base, config) = folder(&|_| Dtype::BF16);
    let before = WeightFiles::open(base.path()).unwrap();
    let targets = ["v_proj".to_owned()];
    let mut adapter = Adapter::fresh(&config, AdapterConfig::lora(2, 3.0, 0.0, false), &targets, 1).unwrap();
    adapter.modules.values_mut().for_each(|lora| lora.b.iter_mut().enumerate().for_each(|(i, b)| *b = i as f32 * 0.01));
    let folder = tempfile::tempdir().unwrap();
    adapter.write(folder.path(), &config, "base").unwrap();
    let after = consolidate(base.path(), Some(folder.path()), &same(1_000_000));
    let after = WeightFiles::open(after.path()).unwrap();
    for (name, shape) in tensor_shapes(&config) {
        let (dtype, bytes) = after.stored(&name).unwrap();
        let Some(lora) = name.strip_suffix(".weight").and_then(|module| adapter.modules.get(module)) else {
            assert_eq!((dtype, bytes), before.stored(&name).unwrap(), "{name}");
            continue;
        };
        let mut expected = before.read_f32(&name, &shape).unwrap();
        lora.merge(&mut expected);
        let expected: Vec<u8> = expected.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
        assert!(dtype == Dtype::BF16 && bytes == expected, "{name}");
    }
    let as_f32 = consolidate(base.path(), None, &json!({"dtype": "float32", "max_shard_bytes": 1_000_000}));
    let text = std::fs::read_to_string(as_f32.path().join("config.json")).unwrap();
    assert!(text.contains("\"dtype\": \"float32\""), "{text}");
    let (name, shape) = tensor_shapes(&config).remove(1);
    let exact =
        |files: &WeightFiles| files.read_f32(&name, &shape).unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let widened = WeightFiles::open(as_f32.path()).unwrap();
    assert!(widened.stored(&name).unwrap().0 == Dtype::F32 && exact(&widened) == exact(&before));
    assert_eq!(FloatType::of(Dtype::F64), None);
}
