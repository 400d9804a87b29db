//! safetensors files from anywhere, and `--set` with anything: an error or a value, never a panic, and never a byte
//! from outside the file.
use anneal_engine::manifest::{LoadOptions, load};
use anneal_stages::tensor_file::{FloatType, OutTensor, TensorFile, write};
use proptest::prelude::*;
use serde_json::json;
use std::path::Path;

fn small(dir: &Path) -> Vec<u8> {
    let path = dir.join("small.safetensors");
    let tensors = [
        ("a".to_owned(), OutTensor::floats(&[1.0, -2.0, 3.5], &[3], FloatType::F32)),
        ("b".to_owned(), OutTensor::floats(&[0.5; 4], &[2, 2], FloatType::Bf16)),
    ];
    write(&path, &tensors).unwrap();
    std::fs::read(path).unwrap()
}

/// Opens a file of these bytes and reads every tensor that it claims to have.
fn read(dir: &Path, bytes: &[u8]) -> Result<usize, String> {
    let path = dir.join("any.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let file = TensorFile::open(&path).map_err(|failure| {
        assert!(failure.message.contains("any.safetensors") && failure.hint.is_some(), "{failure}");
        failure.message
    })?;
    let mut total = 0;
    for name in file.names() {
        let info = file.info(&name).unwrap();
        let read = file.bytes(&name).map_err(|failure| failure.message)?;
        assert_eq!(read.len(), info.data_offsets.1 - info.data_offsets.0);
        total += read.len();
        let _ = file.read_f32(&name, &info.shape.clone());
    }
    assert!(total <= bytes.len());
    Ok(total)
}

#[test]
fn a_model_cut_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = small(dir.path());
    assert_eq!(read(dir.path(), &whole), Ok(20));
    for length in 0..whole.len() {
        let message = read(dir.path(), &whole[..length]).unwrap_err();
        assert!(message.contains("any.safetensors") && message.contains("bytes"), "{length}: {message}");
    }
    // Longer than it says is no whole file either: something else was appended.
    assert!(read(dir.path(), &[&whole[..], b"x"].concat()).is_err());
}

#[test]
fn absurd_headers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |header: &str, data: usize| {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
        let result = read(dir.path(), &bytes);
        assert!(result.is_err(), "{header}: {result:?}");
    };
    let tensor = |dtype: &str, shape: serde_json::Value, from: u64, to: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]});
    refused("", 0);
    refused("[]", 0);
    refused("{\"a\":", 8);
    refused(&json!({"a": tensor("F32", json!([2]), 0, 16)}).to_string(), 16);
    refused(&json!({"a": tensor("F32", json!([4]), 0, 16)}).to_string(), 8);
    refused(&json!({"a": tensor("F32", json!([2]), 8, 0)}).to_string(), 8);
    refused(&json!({"a": tensor("F99", json!([2]), 0, 8)}).to_string(), 8);
    refused(&json!({"a": tensor("F32", json!([-2]), 0, 8)}).to_string(), 8);
    refused(&json!({"a": tensor("F32", json!([u64::MAX, u64::MAX]), 0, 8)}).to_string(), 8);
    refused(&json!({"a": tensor("F32", json!([u64::MAX / 2 + 1, 2]), 0, 8)}).to_string(), 8);
    refused(&json!({"a": tensor("F32", json!([2]), u64::MAX - 7, u64::MAX)}).to_string(), 8);
    let (a, b) = (tensor("F32", json!([2]), 0, 8), tensor("F32", json!([2]), 4, 12));
    refused(&json!({"a": a, "b": b}).to_string(), 12);
    // One name twice: both fit, and which one is meant cannot be known. The names in two spellings of JSON.
    let one = tensor("F32", json!([2]), 0, 8);
    for second in ["a", "\\u0061"] {
        let text = format!("{{\"a\": {one}, \"{second}\": {one}}}");
        let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &[0; 8]].concat();
        let message = read(dir.path(), &bytes).unwrap_err();
        assert!(message.contains("the tensor `a` is there twice"), "{message}");
    }
    // A header that nests without end.
    refused(&format!("{{\"a\": {}", "[".repeat(200_000)), 8);
    for length in [u64::MAX, u64::MAX - 7, 1 << 62, 100_000_001, 9] {
        assert!(read(dir.path(), &[&length.to_le_bytes()[..], b"{}"].concat()).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_an_error_or_a_file(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = small(dir.path());
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(dir.path(), &bytes);
    }

    #[test]
    fn any_override_is_an_error_or_a_value(
        stage in "(lora|data|experiment|base|stages|[a-z.\"]{0,6})",
        key in "(rank|dataset.train|init.vocab_size|seed|target_modules|[a-zé_.\"'\\[\\]# -]{0,10})",
        equals in "(=|=|=|)",
        value in "([0-9]{1,20}|-?[0-9]{1,3}\\.[0-9]e[0-9]{1,3}|\\[.{0,8}\\]|\\{.{0,12}\\}|\"[^\"]{0,5}\"?|\\PC{0,12}|[\\x00-\\x20]{0,3})",
    ) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny");
        let set = format!("{stage}.{key}{equals}{value}");
        let options = LoadOptions { sets: vec![set], cwd: root.clone(), root: Some(root.clone()), any_size: false };
        if let Err(problems) = load(&anneal_stages::registry(), &root.join("tiny.toml"), &options) {
            prop_assert!(!problems.0.is_empty());
        }
    }
}
