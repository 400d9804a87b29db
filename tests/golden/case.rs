//! Reads golden cases: `config.json`, `model.safetensors`, `golden.json`, `golden.safetensors` and, for LoRA,
//! `lora_init`, `lora_after5` and `lora_golden.safetensors`.
use anneal_stages::llama::{Batch, LlamaConfig, WeightFiles};
use anneal_stages::tensor_file::TensorFile;
use safetensors::Dtype;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One golden case.
pub(crate) struct Case {
    pub(crate) dir: PathBuf,
    pub(crate) config: LlamaConfig,
    json: Value,
    files: Vec<TensorFile>,
}

/// The folder of shared test data, if the environment names it; says so when it does not.
pub(crate) fn data_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("ANNEAL_TEST_DATA").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: ANNEAL_TEST_DATA is not set");
    }
    dir
}

/// `tests/fixtures`; in a copy on another machine, below the folder that ANNEAL_TEST_ROOT names (the repository's root).
pub(crate) fn fixtures() -> PathBuf {
    let root = std::env::var_os("ANNEAL_TEST_ROOT").map(|root| PathBuf::from(root).join("tests"));
    root.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR"))).join("fixtures")
}

pub(crate) fn open(dir: &Path) -> (LlamaConfig, WeightFiles) {
    (LlamaConfig::read(&dir.join("config.json")).unwrap(), WeightFiles::open(dir).unwrap())
}

/// Every case at hand: our own, and those of the shared data if it is there.
pub(crate) fn cases() -> Vec<Case> {
    let mut dirs = folders(&fixtures().join("golden"));
    assert!(!dirs.is_empty(), "tests/fixtures/golden is part of the repository");
    if let Some(data) = data_dir() {
        let shared = folders(&data.join("golden"));
        assert!(!shared.is_empty(), "ANNEAL_TEST_DATA has no golden cases");
        dirs.extend(shared);
    }
    dirs.into_iter().map(Case::read).collect()
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("golden.json").exists()).collect();
    folders.sort();
    folders
}

impl Case {
    fn read(dir: PathBuf) -> Self {
        let json = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let names = ["golden.safetensors", "lora_golden.safetensors", "model.safetensors"];
        let files = names.iter().map(|name| TensorFile::open(&dir.join(name)).unwrap()).collect();
        Self { config: LlamaConfig::read(&dir.join("config.json")).unwrap(), dir, json, files }
    }

    pub(crate) fn name(&self) -> String {
        self.dir.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn file(&self, name: &str) -> &TensorFile {
        let found = self.files.iter().find(|file| file.info(name).is_some());
        found.unwrap_or_else(|| panic!("{}: no golden `{name}`", self.name()))
    }

    /// A recorded tensor, or a weight of the model by its own name.
    pub(crate) fn tensor(&self, name: &str) -> Vec<f32> {
        let file = self.file(name);
        file.read_f32(name, &file.info(name).unwrap().shape.clone()).unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        self.file(name).read(name, Dtype::I64, i64::from_le_bytes).unwrap()
    }

    /// The two rows without their padding, packed.
    pub(crate) fn batch(&self) -> Batch {
        let ids: Vec<u32> = self.integers("input_ids").iter().map(|id| *id as u32).collect();
        let labelled: Vec<u8> = self.integers("labels").iter().map(|label| u8::from(*label != -100)).collect();
        let lengths = self.lengths();
        let width = ids.len() / lengths.len();
        let rows = lengths.iter().enumerate().map(|(row, len)| row * width..row * width + len);
        Batch::pack(rows.map(|range| (&ids[range.clone()], &labelled[range]))).unwrap()
    }

    /// Tokens that are no padding, by row.
    fn lengths(&self) -> Vec<usize> {
        let mask = self.integers("attention_mask");
        let rows = self.file("attention_mask").info("attention_mask").unwrap().shape[0];
        mask.chunks(mask.len() / rows).map(|row| row.iter().filter(|m| **m == 1).count()).collect()
    }

    /// A tensor [rows, width, ...] without the rows of padding.
    pub(crate) fn valid_rows(&self, name: &str) -> Vec<f32> {
        let values = self.tensor(name);
        let lengths = self.lengths();
        let width = self.integers("input_ids").len() / lengths.len();
        let inner = values.len() / (lengths.len() * width);
        let rows = lengths.iter().enumerate();
        rows.flat_map(|(row, len)| values[row * width * inner..][..len * inner].to_vec()).collect()
    }

    pub(crate) fn number(&self, key: &str) -> f64 {
        self.json[key].as_f64().unwrap()
    }

    pub(crate) fn steps(&self, key: &str, inner: &str) -> Vec<Vec<f64>> {
        serde_json::from_value(self.json[key][inner].clone()).unwrap()
    }

    pub(crate) fn losses(&self, key: &str) -> Vec<f64> {
        serde_json::from_value(self.json[key]["losses"].clone()).unwrap()
    }

    pub(crate) fn greedy(&self) -> Vec<u32> {
        serde_json::from_value(self.json["greedy"].clone()).unwrap()
    }
}

/// A prompt of the real model with what transformers said of it.
pub(crate) struct Real {
    pub(crate) index: usize,
    pub(crate) ids: Vec<u32>,
    /// Of every token, or of the last only.
    pub(crate) logits: Vec<f32>,
    /// Mean next-token loss over the prompt.
    pub(crate) loss: f64,
    /// The greedy continuation; empty where it would leave the model's positions.
    pub(crate) greedy: Vec<u32>,
}

impl Real {
    pub(crate) fn batch(&self) -> Batch {
        Batch::pack([(&self.ids[..], &vec![1; self.ids.len()][..])]).unwrap()
    }
}

pub(crate) fn real_cases(data: &Path) -> Vec<Real> {
    let golden = data.join("golden");
    let json: Value = serde_json::from_slice(&std::fs::read(golden.join("real_stories260K.json")).unwrap()).unwrap();
    let file = TensorFile::open(&golden.join("real_stories260K.safetensors")).unwrap();
    let cases = json["cases"].as_array().unwrap();
    let real = cases.iter().enumerate().map(|(index, case)| {
        let name = [format!("{index}.logits"), format!("{index}.logits_last")];
        let name = name.iter().find(|name| file.info(name).is_some()).unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        // Null where the prompt already fills the model's positions.
        let greedy: Option<Vec<u32>> = serde_json::from_value(case["greedy24"].clone()).unwrap();
        Real {
            index,
            logits: file.read_f32(name, &file.info(name).unwrap().shape.clone()).unwrap(),
            loss: case["loss"].as_f64().unwrap(),
            greedy: greedy.unwrap_or_default(),
            ids,
        }
    });
    real.collect()
}

/// max|a-b| / max|b|.
pub(crate) fn max_error(ours: &[f32], golden: &[f32]) -> f64 {
    assert_eq!(ours.len(), golden.len());
    let largest = golden.iter().fold(0.0_f64, |max, b| max.max(f64::from(b.abs())));
    let apart = ours.iter().zip(golden).fold(0.0_f64, |max, (a, b)| max.max((f64::from(*a) - f64::from(*b)).abs()));
    // A NaN is never the larger of two numbers: look for it.
    if ours.iter().any(|a| !a.is_finite()) { f64::INFINITY } else { apart / largest }
}

/// ||a-b|| / ||b||.
pub(crate) fn relative_l2(ours: &[f32], golden: &[f32]) -> f64 {
    relative_l2_of_all([(ours, golden)])
}

/// The same of all pairs (ours, golden) together.
pub(crate) fn relative_l2_of_all<'a>(pairs: impl IntoIterator<Item = (&'a [f32], &'a [f32])>) -> f64 {
    let (mut apart, mut norm) = (0.0, 0.0);
    for (ours, golden) in pairs {
        assert_eq!(ours.len(), golden.len());
        for (a, b) in ours.iter().zip(golden).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
            apart += (a - b) * (a - b);
            norm += b * b;
        }
    }
    (apart / norm).sqrt()
}
