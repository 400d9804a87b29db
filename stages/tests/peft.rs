//! Adapters that PEFT wrote (`tests/fixtures/peft`, made by `tests/tools/check_peft.py`): their logits here are PEFT's,
//! read as they are, written again, and merged. The other direction needs PEFT itself: `check_peft.py check`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use anneal_stages::llama::adapter::Adapter;
use anneal_stages::llama::logits::{Request, write_logits};
use anneal_stages::llama::save::write_model;
use anneal_stages::llama::{LlamaConfig, WeightFiles, WeightSource};
use anneal_stages::tensor_file::{FloatType, TensorFile};
use safetensors::Dtype;
use std::path::{Path, PathBuf};

/// Relative to the largest logit.
const TOLERANCE: f32 = 1e-5;
const ADAPTERS: [&str; 3] = ["patterns", "whole_modules", "head_and_embedding"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/peft")
}

/// The largest difference from the golden logits of this name, relative to the largest of these.
fn error(model: &Path, adapter: Option<&Path>, name: &str) -> f32 {
    let golden = TensorFile::open(&fixtures().join("golden.safetensors")).unwrap();
    let ids = golden.read("ids", Dtype::I64, i64::from_le_bytes).unwrap();
    let ids: Vec<u32> = ids.iter().map(|id| u32::try_from(*id).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits.safetensors");
    let shape = write_logits(Request { model, adapter, ids: &ids, numerics: "cpu-f32", out: &out }).unwrap();
    let ours = TensorFile::open(&out).unwrap().read_f32("logits", &shape).unwrap();
    let theirs = golden.read_f32(name, &shape).unwrap();
    let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
    largest(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b)) / largest(&mut theirs.iter().copied())
}

#[test]
fn adapters_of_peft_have_its_logits_read_written_again_and_merged() {
    let base = fixtures().join("base");
    let config = LlamaConfig::read(&base.join("config.json")).unwrap();
    let weights = WeightFiles::open(&base).unwrap();
    assert!(error(&base, None, "base") <= TOLERANCE);
    for name in ADAPTERS {
        let folder = fixtures().join(name);
        assert!(error(&base, None, name) > 1e-2, "{name} changes nothing");
        let read = error(&base, Some(&folder), name);
        assert!(read <= TOLERANCE, "{name}: {read}");

        let adapter = Adapter::read(&folder, &config).unwrap();
        let again = tempfile::tempdir().unwrap();
        adapter.write(again.path(), &config, "base").unwrap();
        assert_eq!(Adapter::read(again.path(), &config).unwrap(), adapter, "{name}");
        let written = error(&base, Some(again.path()), name);
        assert!(written <= TOLERANCE, "{name} written again: {written}");

        let merged = tempfile::tempdir().unwrap();
        write_model(merged.path(), &config, FloatType::F32, usize::MAX, |name, shape| {
            let saved = adapter.saved.get(name).map(|(values, _)| Ok(values.clone()));
            let mut values = saved.unwrap_or_else(|| weights.read_f32(name, shape))?;
            if let Some(update) = name.strip_suffix(".weight").and_then(|module| adapter.modules.get(module)) {
                update.merge(&mut values);
            }
            Ok(values)
        })
        .unwrap();
        let folded = error(merged.path(), None, name);
        assert!(folded <= TOLERANCE, "{name} merged: {folded}");
    }
}

#[test]
fn logits_refuse_what_the_model_cannot_take() {
    let base = fixtures().join("base");
    let dir = tempfile::tempdir().unwrap();
    let refused = |ids: &[u32], numerics: &str| {
        let out = dir.path().join("out");
        let failure = write_logits(Request { model: &base, adapter: None, ids, numerics, out: &out }).unwrap_err();
        assert!(!out.exists());
        failure.message
    };
    assert_eq!(refused(&[], "cpu-f32"), "there is no token id");
    assert_eq!(refused(&[1, 61], "cpu-f32"), "token id 61 (number 1) is outside the model's vocabulary");
    assert_eq!(refused(&[1; 65], "cpu-f32"), "65 token ids, but the model's positions end at 64");
    assert!(refused(&[1], "fp4").contains("fp4"));
}
