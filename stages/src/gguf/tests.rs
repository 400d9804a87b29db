//! What a damaged or dishonest file leads to, and the whole way from a file to a folder.
use super::testing::{HIDDEN, tiny};
use super::*;
use proptest::prelude::*;

fn check(bytes: Vec<u8>) -> Result<(), Failure> {
    Gguf::from_bytes(Path::new("m.gguf"), bytes)?.check()
}

fn refused(builder: &testing::Builder) -> String {
    let failure = check(builder.build()).expect_err("should be refused");
    assert!(failure.message.starts_with("m.gguf: ") && failure.hint.is_some(), "{failure}");
    failure.message
}

#[test]
fn the_tiny_model_is_whole() {
    check(tiny().build()).unwrap();
}

#[test]
fn every_truncation_is_an_error_with_file_and_byte() {
    let whole = tiny().build();
    for length in 0..whole.len() {
        let failure = check(whole[..length].to_vec()).expect_err("truncated");
        assert!(failure.message.starts_with("m.gguf: byte "), "{length}: {failure}");
        assert!(failure.message.contains("the file ends at byte"), "{length}: {failure}");
    }
}

#[test]
fn a_truncated_file_on_disk_is_an_error_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    let whole = tiny().build();
    for length in [0, 3, 20, 400, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let failure = Gguf::open(&path).expect_err("truncated");
        assert!(failure.message.contains("cut.gguf: byte "), "{failure}");
    }
    let failure = Gguf::open(dir.path()).expect_err("a folder");
    assert!(failure.message.contains("no file"), "{failure}");
}

/// Counts, lengths and offsets that would ask for terabytes if they were believed.
#[test]
fn absurd_sizes_are_refused_before_memory_is_asked_for() {
    let header = |tensors: u64, keys: u64, rest: &[u8]| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([tensors.to_le_bytes(), keys.to_le_bytes()].concat());
        bytes.extend(rest);
        let failure = check(bytes).expect_err("absurd");
        assert!(failure.hint.is_some(), "no next step: {failure}");
        failure.message
    };
    assert!(header(u64::MAX, 0, &[]).contains("byte 8: 18446744073709551615 tensors"));
    assert!(header(0, 1 << 60, &[0; 64]).contains("byte 16: 1152921504606846976 metadata entries"));
    assert!(header(0, 1, &[0xff; 64]).contains("byte 24: expected a metadata key of 18446744073709551615 bytes"));
    let array = [&1_u64.to_le_bytes()[..], b"k", &9_u32.to_le_bytes(), &4_u32.to_le_bytes(), &[0xff; 40]].concat();
    assert!(header(0, 1, &array).contains("array elements should follow"));
    let nested = [&1_u64.to_le_bytes()[..], b"k", &9_u32.to_le_bytes(), &9_u32.to_le_bytes(), &[0; 40]].concat();
    assert!(header(0, 1, &nested).contains("`k` is an array of the type 9"));
    let tensor = |shape: &[u64], offset: u64| {
        let sizes: Vec<u8> = shape.iter().flat_map(|size| size.to_le_bytes()).collect();
        let rank = (shape.len() as u32).to_le_bytes();
        let all = [&1_u64.to_le_bytes()[..], b"t", &rank, &sizes, &[0; 4], &offset.to_le_bytes(), &[0; 64]].concat();
        header(1, 0, &all)
    };
    assert!(tensor(&[u64::MAX, u64::MAX], 0).contains("absurd shape"));
    assert!(tensor(&[0], 0).contains("absurd shape"));
    assert!(tensor(&[1 << 40], 0).contains("bytes from 0 bytes after the header on, but the file ends"));
    assert!(tensor(&[4], u64::MAX - 31).contains("after the header on, but the file ends"));
    assert!(tensor(&[4], 7).contains("no multiple of 32"));
    assert!(tensor(&[1; 5], 0).contains("5 dimensions"));
    assert!(tensor(&[1; 9], 0).contains("9 dimensions") && tensor(&[], 0).contains("0 dimensions"));
    assert!(tensor(&[1 << 32, 1 << 32, 2], 0).contains("absurd shape"));
    // A text, and a text inside an array, that end far behind the file.
    let long = |parts: &[&[u8]]| header(0, 1, &[&[&1_u64.to_le_bytes()[..], b"k"], parts].concat().concat());
    let length = (1_u64 << 60).to_le_bytes();
    assert!(long(&[&8_u32.to_le_bytes(), &length]).contains("expected the text of `k` of 1152921504606846976 bytes"));
    let one = [&9_u32.to_le_bytes()[..], &8_u32.to_le_bytes(), &1_u64.to_le_bytes(), &length].concat();
    assert!(long(&[&one]).contains("expected a text of `k` of 1152921504606846976 bytes"));
    assert!(long(&[&77_u32.to_le_bytes(), &[0; 40]]).contains("`k` has the unknown type 77"));
}

#[test]
fn other_versions_are_refused() {
    for (version, part) in [
        (0_u32, "GGUF version 0, expected 2 or 3"),
        (1, "GGUF version 1, expected 2 or 3"),
        (4, "GGUF version 4, expected 2 or 3"),
        (u32::MAX, "GGUF version 4294967295"),
        (2_u32.swap_bytes(), "big-endian"),
        (3_u32.swap_bytes(), "big-endian"),
    ] {
        let mut bytes = tiny().build();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let failure = check(bytes).expect_err("another version");
        assert!(failure.message.contains(part) && failure.hint.is_some(), "{failure}");
    }
    let mut second = tiny().build();
    second[4] = 2;
    check(second).unwrap();
    assert!(check(b"GGML\x03\0\0\0".to_vec()).unwrap_err().message.contains("does not begin with \"GGUF\""));
}

/// Swaps the last place of `from` in the file for `to`, of the same length.
fn patched(builder: &testing::Builder, from: &[u8], to: &[u8]) -> String {
    let mut bytes = builder.build();
    let at = bytes.windows(from.len()).rposition(|window| window == from).expect("it is there");
    bytes[at..at + to.len()].copy_from_slice(to);
    let failure = check(bytes).expect_err("should be refused");
    assert!(failure.message.starts_with("m.gguf: byte ") && failure.hint.is_some(), "{failure}");
    failure.message
}

#[test]
fn names_that_are_there_twice_and_tensors_that_overlap() {
    let key = patched(&tiny(), b"llama.context_length", b"general.architecture");
    assert!(key.contains("the key `general.architecture` is there twice"), "{key}");
    let k_as_v = patched(&tiny(), b"blk.0.attn_v.weight", b"blk.0.attn_k.weight");
    assert!(k_as_v.contains("the tensor `blk.0.attn_k.weight` is there twice, first at byte"), "{k_as_v}");
    // The gate's offset is put on that of the tensor before it.
    let file = Gguf::from_bytes(Path::new("m.gguf"), tiny().build()).unwrap();
    let data = file.tensors.iter().map(|tensor| tensor.offset).min().unwrap();
    let (gate, output) =
        (file.tensor("blk.0.ffn_gate.weight").unwrap(), file.tensor("blk.0.attn_output.weight").unwrap());
    let entry = |offset: u64| [&[0; 4][..], &(offset - data).to_le_bytes()].concat();
    let overlap = patched(&tiny(), &entry(gate.offset), &entry(output.offset + 32));
    assert!(
        overlap.contains("the tensor `blk.0.ffn_gate.weight` begins within `blk.0.attn_output.weight`"),
        "{overlap}"
    );
}

#[test]
fn every_key_that_a_llama_needs_is_missed_by_name() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
        "token_embd.weight",
        "blk.0.attn_k.weight",
    ] {
        let message = refused(&tiny().without(key));
        assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
    }
}

#[test]
fn values_of_another_type_are_refused_by_key() {
    for (builder, part) in [
        (tiny().f32("llama.embedding_length", 8.0), "`llama.embedding_length` is a number, expected an integer from 0"),
        (
            tiny().raw("llama.block_count", 5, (-1_i32).to_le_bytes().into()),
            "`llama.block_count` is an integer, expected",
        ),
        (tiny().raw("llama.block_count", 10, u64::MAX.to_le_bytes().into()), "an absurd number"),
        (tiny().text("llama.attention.layer_norm_rms_epsilon", "1e-5"), "is a text, expected a finite number"),
        (tiny().f32("llama.rope.freq_base", f32::NAN), "`llama.rope.freq_base` is a number, expected a finite number"),
        (tiny().u32("general.architecture", 1), "`general.architecture` is an integer, expected a text"),
        (tiny().text("tokenizer.ggml.tokens", "a"), "`tokenizer.ggml.tokens` is a text, expected a list of texts"),
        (tiny().i32s("tokenizer.ggml.scores", &[0; 8]), "is a list of integers, expected a list of numbers"),
        (tiny().f32s("tokenizer.ggml.scores", &[0.0]), "`tokenizer.ggml.scores` has 1 entries for 8 tokens"),
        (tiny().i32s("tokenizer.ggml.token_type", &[9; 8]), "has the unknown kind 9"),
        (tiny().u32("tokenizer.ggml.add_bos_token", 1), "`tokenizer.ggml.add_bos_token` is an integer, expected true"),
        (tiny().u32("tokenizer.chat_template", 1), "`tokenizer.chat_template` is an integer, expected a text"),
        (tiny().u32("general.alignment", 0), "general.alignment is 0, expected a power of two"),
        (tiny().u32("general.alignment", 48), "general.alignment is 48, expected a power of two"),
    ] {
        let message = refused(&builder);
        assert!(message.contains(part), "{part} not in {message}");
    }
    // A row of 8 numbers is a quarter of a block.
    let odd = refused(&tiny().tensor("blk.0.attn_q.weight", &[HIDDEN, HIDDEN], 8, vec![0; 68]));
    assert!(odd.contains("`blk.0.attn_q.weight` has rows of 8, no multiple of Q8_0's block"), "{odd}");
}

/// 256 runs of one letter, each a piece of all the longer ones: 32,640 merges of 3 MB from a file of 40 kB.
#[test]
fn a_vocabulary_made_to_explode_is_refused() {
    let tokens: Vec<String> = (1..=256).map(|length| "a".repeat(length)).collect();
    let builder = tiny().texts("tokenizer.ggml.tokens", &tokens).f32s("tokenizer.ggml.scores", &[0.0; 256]);
    let message = refused(&builder.without("tokenizer.ggml.token_type"));
    assert!(message.contains("no trained vocabulary"), "{message}");
    let long = ["<unk>", "<s>", "</s>", "a", "b", "▁", "ab", &"x".repeat(257)];
    assert!(refused(&tiny().texts("tokenizer.ggml.tokens", &long)).contains("has a piece of 257 bytes at 7"));
}

#[test]
fn what_is_not_read_is_named() {
    assert!(refused(&tiny().text("general.architecture", "qwen2")).contains("is \"qwen2\", expected \"llama\""));
    assert!(refused(&tiny().u32("split.count", 3)).contains("only a part of a model"));
    assert!(refused(&tiny().u32("llama.expert_count", 8)).contains("mixtures of experts"));
    assert!(refused(&tiny().u32("llama.attention.sliding_window", 16)).contains("sliding_window"));
    assert!(refused(&tiny().u32("llama.rope.dimension_count", 2)).contains("not a plain Llama"));
    assert!(refused(&tiny().text("llama.rope.scaling.type", "yarn")).contains("\"yarn\""));
    assert!(refused(&tiny().text("tokenizer.ggml.model", "bert")).contains("is \"bert\""));
    assert!(refused(&tiny().text("tokenizer.ggml.model", "gpt2")).contains("`tokenizer.ggml.pre` is absent"));
    let qwen = tiny().text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    assert!(refused(&qwen).contains("is \"qwen2\"; known are"));
    let quantised = refused(&tiny().tensor("blk.0.attn_q.weight", &[HIDDEN, HIDDEN], 10, vec![0; 84]));
    assert!(quantised.contains("`blk.0.attn_q.weight` is Q2_K, which is not read"), "{quantised}");
}

#[test]
fn metadata_and_tensors_must_agree() {
    assert!(refused(&tiny().without("llama.embedding_length")).contains("`llama.embedding_length` is missing"));
    assert!(refused(&tiny().u32("llama.block_count", u32::MAX)).contains("but the file has 11 tensors"));
    assert!(refused(&tiny().u32("llama.block_count", 2)).contains("no tensor `blk.1.attn_norm.weight`"));
    assert!(refused(&tiny().u32("llama.attention.head_count", 0)).contains("num_attention_heads"));
    assert!(refused(&tiny().u32("llama.feed_forward_length", 7)).contains("`blk.0.ffn_gate.weight` has shape [6, 8]"));
    assert!(refused(&tiny().text("llama.block_count", "one")).contains("is a text, expected an integer"));
    assert!(refused(&tiny().u32("tokenizer.ggml.eos_token_id", 8)).contains("is 8, but there are 8 tokens"));
    assert!(refused(&tiny().i32s("tokenizer.ggml.token_type", &[1])).contains("has 1 entries for 8 tokens"));
    let twice = ["a", "b", "a", "c", "d", "e", "f", "g"];
    assert!(refused(&tiny().texts("tokenizer.ggml.tokens", &twice)).contains("has \"a\" twice, as 0 and as 2"));
    let extra = refused(&tiny().floats("blk.0.attn_sinks", &[1], &[1.0]));
    assert!(extra.contains("`blk.0.attn_sinks` belongs to no Llama"), "{extra}");
    let swapped = [b"GGUF\0\0\0\x03".to_vec(), vec![0; 16]].concat();
    assert!(check(swapped).unwrap_err().message.contains("big-endian"));
}

/// Factors as a converter computes them for Llama 3.2's factor of 32, and ones that follow from no rule.
#[test]
fn llama_3_factors_become_its_four_numbers() {
    // Head width 4: two frequencies, wavelengths 2 pi and 2 pi sqrt(theta).
    let smooth = (8192.0 / (std::f64::consts::TAU * 5e5_f64.sqrt()) - 1.0) / 3.0;
    let second = (1.0 / ((1.0 - smooth) / 32.0 + smooth)) as f32;
    let long = 5e8;
    let file = |theta: f32, factors: [f32; 2]| {
        let built = tiny().f32("llama.rope.freq_base", theta).floats("rope_freqs.weight", &[2], &factors).build();
        let file = Gguf::from_bytes(Path::new("m.gguf"), built).unwrap();
        config::config(&file, &SpecialIds::default())
    };
    let found = file(long, [1.0, 32.0]).unwrap().rope_scaling;
    let expected = crate::llama::config::RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    assert_eq!(found, expected);
    assert!(second > 1.0 && second < 32.0);
    // The rule cannot be told from the second number alone when no frequency is fully rescaled.
    let odd = file(5e5, [1.0, second]).unwrap_err();
    assert!(odd.message.contains("rope_freqs.weight"), "{odd}");
    assert!(file(long, [1.0, f32::NAN]).is_err());
    assert!(file(long, [2.0, 32.0]).is_err());
}

#[test]
fn a_folder_appears_complete_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad, out) = (dir.path().join("g.gguf"), dir.path().join("b.gguf"), dir.path().join("new/folder"));
    std::fs::write(&good, tiny().build()).unwrap();
    std::fs::write(&bad, tiny().without("output_norm.weight").build()).unwrap();
    let quiet: Progress<'_> = &mut |_, _| Ok(());
    assert!(convert(&bad, &out, quiet).is_err());
    assert!(!out.exists() && std::fs::read_dir(dir.path().join("new")).unwrap().next().is_none());
    let stop: Progress<'_> = &mut |_, _| Err(Failure::user("stop"));
    assert!(convert(&good, &out, stop).is_err() && !out.exists());
    let summary = convert(&good, &out, quiet).unwrap();
    assert_eq!(summary.vocabulary, Some(8));
    assert!(out.join("model.safetensors").exists() && out.join("tokenizer_config.json").exists());
    assert!(convert(&good, &out, quiet).unwrap_err().message.contains("is there already"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes changed anywhere, any length: an error or a model, never a panic; an error names the file.
    #[test]
    fn mutated_files_never_panic(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        keep in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = tiny().build();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Err(failure) = check(bytes) {
            prop_assert!(failure.message.starts_with("m.gguf"), "{}", failure);
        }
    }
}
