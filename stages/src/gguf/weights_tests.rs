use super::*;
use crate::gguf::testing::{HIDDEN, tiny, tiny_tensors, value};
use crate::llama::{LlamaConfig, WeightFiles, WeightSource};
use crate::tensor_file::{self, OutTensor};

fn open(bytes: Vec<u8>) -> Gguf {
    Gguf::from_bytes(Path::new("tiny.gguf"), bytes).unwrap()
}

fn folder(file: &Gguf, max_shard: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    file.write_shards(dir.path(), max_shard, &mut |_, _| Ok(())).unwrap();
    dir
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()
}

/// The tiny model with its matrices as f16; rows of q and k stay as they are, whatever that means.
fn tiny_f16() -> crate::gguf::testing::Builder {
    tiny_tensors().into_iter().filter(|(.., shape)| shape.len() == 2).fold(tiny(), |builder, (ours, theirs, shape)| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| value(ours, i)).collect();
        builder.tensor(theirs, &shape, 1, halves(&values))
    })
}

#[test]
fn the_bytes_are_those_of_the_other_writer_and_the_rows_hugging_faces() {
    let dir = folder(&open(tiny().build()), u64::MAX);
    let expected: Vec<_> = tiny_tensors()
        .into_iter()
        .map(|(ours, _, shape)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|index| value(ours, index)).collect();
            (ours.to_owned(), OutTensor::floats(&values, &shape, FloatType::F32))
        })
        .collect();
    let other = dir.path().join("other.safetensors");
    tensor_file::write(&other, &expected).unwrap();
    assert!(std::fs::read(dir.path().join(SINGLE)).unwrap() == std::fs::read(other).unwrap());
    let config = LlamaConfig::read(&dir.path().join("config.json")).unwrap();
    assert!(config.tie_word_embeddings && config.dtype() == Some(FloatType::F32));
    assert_eq!((config.rms_norm_eps, config.rope_theta, config.head_dim), (1e-5, 1e4, 4));
    assert_eq!((config.bos_token_id, config.eos_token_ids), (Some(1), vec![2]));
}

#[test]
fn shards_hold_what_one_file_holds() {
    let file = open(tiny().build());
    let (one, many) = (folder(&file, u64::MAX), folder(&file, 500));
    assert!(many.path().join(INDEX).exists() && !many.path().join(SINGLE).exists());
    let (one, many) = (WeightFiles::open(one.path()).unwrap(), WeightFiles::open(many.path()).unwrap());
    for (name, _, shape) in tiny_tensors() {
        assert_eq!(one.read_f32(name, &shape).unwrap(), many.read_f32(name, &shape).unwrap(), "{name}");
    }
}

#[test]
fn the_dtype_is_the_narrowest_that_loses_nothing() {
    let of = |builder: &crate::gguf::testing::Builder| {
        let dir = folder(&open(builder.build()), u64::MAX);
        LlamaConfig::read(&dir.path().join("config.json")).unwrap().dtype()
    };
    assert_eq!(of(&tiny()), Some(FloatType::F32));
    assert_eq!(of(&tiny_f16()), Some(FloatType::F16));
    // One number that no half can hold, in a norm: everything stays exact in f32.
    let mut norm = vec![1.0; HIDDEN];
    norm[3] = 1.000_1;
    assert_eq!(of(&tiny_f16().floats("output_norm.weight", &[HIDDEN], &norm)), Some(FloatType::F32));
    let bf16 = vec![0; HIDDEN * HIDDEN * 2];
    assert_eq!(of(&tiny_f16().tensor("blk.0.attn_q.weight", &[HIDDEN, HIDDEN], 30, bf16)), Some(FloatType::F32));
}

#[test]
fn biases_of_q_and_k_are_permuted_like_their_rows() {
    let bias = |size: usize| (0..size).map(|i| i as f32).collect::<Vec<_>>();
    let builder = tiny()
        .floats("blk.0.attn_q.bias", &[HIDDEN], &bias(HIDDEN))
        .floats("blk.0.attn_k.bias", &[4], &bias(4))
        .floats("blk.0.attn_v.bias", &[4], &bias(4))
        .floats("blk.0.attn_output.bias", &[HIDDEN], &bias(HIDDEN));
    let dir = folder(&open(builder.build()), u64::MAX);
    let files = WeightFiles::open(dir.path()).unwrap();
    let q = files.read_f32("model.layers.0.self_attn.q_proj.bias", &[HIDDEN]).unwrap();
    assert_eq!(q, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(files.read_f32("model.layers.0.self_attn.v_proj.bias", &[4]).unwrap(), bias(4));
}

#[test]
fn pieces_cover_large_tensors_exactly() {
    // Rows of 4 KiB in f32: several pieces, the last of them short.
    let (rows, width) = (1031, 1024);
    let values: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
    let file = open(crate::gguf::testing::Builder::default().floats("t", &[rows, width], &values).build());
    let planned = Planned { name: "t".into(), shape: vec![rows, width], tensor: &file.tensors[0], head: None };
    let dir = tempfile::tempdir().unwrap();
    let mut told = 0;
    let progress = &mut |done: u64, total: u64| {
        assert!(done <= total);
        told = done;
        Ok(())
    };
    write(&file, &[planned], FloatType::F32, u64::MAX, dir.path(), progress).unwrap();
    assert_eq!(told, (rows * width * 4) as u64);
    assert!(WeightFiles::open(dir.path()).unwrap().read_f32("t", &[rows, width]).unwrap() == values);
}
