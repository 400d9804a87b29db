//! Adapters that come from elsewhere, written with the names and keys that PEFT uses.
use super::*;
use crate::tensor_file::{self, FloatType, OutTensor};
use serde_json::{Value, json};

fn base(tied: bool) -> LlamaConfig {
    let json = json!({"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 4, "tie_word_embeddings": tied});
    let Value::Object(raw) = json else { panic!("an object") };
    LlamaConfig::from_json(raw).unwrap()
}

/// A folder with these tensors, numbered through, and these keys beside r = 2 and alpha = 4.
fn folder(keys: Value, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    std::fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
    let tensor = |(name, shape): &(&str, &[usize])| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32 - 3.0).collect();
        (format!("{PREFIX}{name}"), OutTensor::floats(&values, shape, FloatType::F32))
    };
    let tensors: Vec<_> = tensors.iter().map(tensor).collect();
    tensor_file::write(&dir.path().join(WEIGHTS), &tensors).unwrap();
    dir
}

const Q0_A: &str = "model.layers.0.self_attn.q_proj.lora_A.weight";
const Q0_B: &str = "model.layers.0.self_attn.q_proj.lora_B.weight";

fn refusal(keys: Value, tensors: &[(&str, &[usize])], tied: bool) -> String {
    let failure = Adapter::read(folder(keys, tensors).path(), &base(tied)).expect_err("refused");
    format!("{} / {}", failure.message, failure.hint.unwrap_or_default())
}

#[test]
fn the_first_pattern_that_matches_decides() {
    let keys = json!({"rank_pattern": {"layers.1.self_attn.q_proj": 3, "q_proj": 5, "^model.layers.0.mlp.up_proj": 7},
        "alpha_pattern": {"q_proj": 10, ".*": 1.5}});
    let (a, b): (&[usize], &[usize]) = (&[5, 8], &[8, 5]);
    let config = AdapterConfig::read(folder(keys, &[(Q0_A, a), (Q0_B, b)]).path()).unwrap();
    let rank = |module: &str| config.rank(module).unwrap();
    assert_eq!(rank("model.layers.0.self_attn.q_proj"), 5);
    assert_eq!(rank("model.layers.1.self_attn.q_proj"), 3);
    assert_eq!((rank("model.layers.0.mlp.up_proj"), rank("model.layers.1.mlp.up_proj")), (7, 2));
    assert_eq!(rank("model.layers.0.self_attn.xq_proj"), 2, "a pattern begins at a dot");
    assert_eq!(config.scaling("model.layers.0.self_attn.q_proj", 5).unwrap(), 2.0);
    assert_eq!(config.scaling("lm_head", 2).unwrap(), 0.75);
}

#[test]
fn what_was_read_is_written_again_and_read_the_same() {
    let keys = json!({"use_rslora": true, "rank_pattern": {"model.layers.0.self_attn.q_proj": 5},
        "alpha_pattern": {"q_proj": 2.5}, "target_modules": ["layers.0.self_attn.q_proj", "lm_head"],
        "init_lora_weights": "gaussian"});
    let tensors: &[(&str, &[usize])] = &[
        (Q0_A, &[5, 8]),
        (Q0_B, &[8, 5]),
        ("lm_head.lora_A.weight", &[2, 8]),
        ("lm_head.lora_B.weight", &[11, 2]),
        ("model.embed_tokens.lora_embedding_A", &[2, 11]),
        ("model.embed_tokens.lora_embedding_B", &[8, 2]),
        ("model.embed_tokens.base_layer.weight", &[11, 8]),
        ("model.norm.weight", &[8]),
    ];
    let from = folder(keys, tensors);
    let base = base(false);
    let read = Adapter::read(from.path(), &base).unwrap();
    assert_eq!(read.modules["model.layers.0.self_attn.q_proj"].scaling, (2.5 / 5.0_f64.sqrt()) as f32);
    assert_eq!(read.saved.keys().collect::<Vec<_>>(), ["model.embed_tokens.weight", "model.norm.weight"]);
    // Row v of the table changes by scaling * B A[:, v].
    let embedding = &read.modules[EMBEDDING];
    let mut table = vec![0.0; 11 * 8];
    embedding.merge(&mut table);
    let (a, b) = (|r: usize, v: usize| (r * 11 + v) as f32 - 3.0, |h: usize, r: usize| (h * 2 + r) as f32 - 3.0);
    for (v, h) in [(0, 0), (3, 5), (10, 7)] {
        let expected = embedding.scaling * (b(h, 0) * a(0, v) + b(h, 1) * a(1, v));
        assert!((table[v * 8 + h] - expected).abs() < 1e-4, "{v} {h}");
    }
    let to = tempfile::tempdir().unwrap();
    read.write(to.path(), &base, "a-base").unwrap();
    assert_eq!(Adapter::read(to.path(), &base).unwrap(), read);
    let config: Value = serde_json::from_str(&std::fs::read_to_string(to.path().join(CONFIG)).unwrap()).unwrap();
    assert_eq!(config["target_modules"], json!(["embed_tokens", "lm_head", "model.layers.0.self_attn.q_proj"]));
    assert_eq!(config["modules_to_save"], json!(["embed_tokens", "norm"]));
    let keys: Vec<&String> = config.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

#[test]
fn what_would_compute_something_else_is_refused_by_name() {
    let good: &[(&str, &[usize])] = &[(Q0_A, &[2, 8]), (Q0_B, &[8, 2])];
    for (keys, part) in [
        (json!({"peft_type": "IA3"}), "peft_type \"IA3\""),
        (json!({"use_dora": true}), "use_dora = true"),
        (json!({"bias": "lora_only"}), "bias \"lora_only\""),
        (json!({"init_lora_weights": "pissa_niter_4"}), "init_lora_weights \"pissa_niter_4\""),
        (json!({"alora_invocation_tokens": [1, 2]}), "alora_invocation_tokens = [1,2]"),
        (json!({"layer_replication": [[0, 2]]}), "layer_replication"),
        (json!({"rank_pattern": {"(?=x)": 2}}), "pattern \"(?=x)\" cannot be used here"),
        (json!({"rank_pattern": {"q_proj": 0}}), "a rank is 0"),
        (json!({"r": 4}), "has rank 2, adapter_config.json says 4"),
        (json!({"r": "4"}), "invalid type"),
    ] {
        let text = refusal(keys, good, false);
        assert!(text.contains(part), "{part} not in {text}");
    }
    let fine = json!({"use_dora": false, "arrow_config": null, "target_parameters": [], "init_lora_weights": true});
    assert!(Adapter::read(folder(fine, good).path(), &base(false)).is_ok());
}

/// Of the same widths but with fewer layers: every tensor fits, and half of the model would stay as it was.
#[test]
fn an_adapter_of_a_shallower_base_is_refused_and_one_of_some_layers_is_not() {
    let layer: &[(&str, &[usize])] = &[(Q0_A, &[2, 8]), (Q0_B, &[8, 2])];
    for (keys, part) in [
        (json!({"target_modules": ["q_proj"]}), "`model.layers.1.self_attn.q_proj`; there are updates up to layer 0"),
        (json!({"target_modules": ["self_attn.q_proj"]}), "`model.layers.1.self_attn.q_proj`;"),
        (json!({"target_modules": ".*\\.q_proj"}), "`model.layers.1.self_attn.q_proj`;"),
        (json!({"target_modules": "all-linear"}), "`model.layers.0.self_attn.k_proj` and 12 more;"),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": [0, 1]}), "the base has layers 0 to 1"),
        (
            json!({"target_modules": ["k_proj", "q_proj"], "layers_to_transform": 0}),
            "`model.layers.0.self_attn.k_proj`",
        ),
        (json!({"target_modules": ["q_proj"], "exclude_modules": ["k_proj"]}), "`model.layers.1.self_attn.q_proj`;"),
    ] {
        let text = refusal(keys.clone(), layer, false);
        assert!(text.contains(part) && text.contains("another depth"), "{keys}: {part} not in {text}");
    }
    for keys in [
        json!({"target_modules": ["q_proj"], "layers_to_transform": [0]}),
        json!({"target_modules": ["q_proj"], "layers_to_transform": 0}),
        json!({"target_modules": ["q_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]}),
        json!({"target_modules": ["q_proj"], "exclude_modules": ".*1.*"}),
        json!({"target_modules": ["layers.0.self_attn.q_proj"]}),
        json!({"target_modules": ["0.self_attn.q_proj", "j"]}),
        json!({"target_modules": "model\\.layers\\.0\\..*q_proj"}),
        json!({"target_modules": null}),
        // Look-ahead, which cannot be read here, promises nothing.
        json!({"target_modules": "(?=x).*"}),
    ] {
        let read = Adapter::read(folder(keys.clone(), layer).path(), &base(false));
        assert!(read.is_ok(), "{keys}: {read:?}");
    }
}

#[test]
fn tensors_of_another_base_are_refused_by_name() {
    for (tensors, tied, part) in [
        (&[(Q0_A, &[2, 9][..]), (Q0_B, &[8, 2])][..], false, "has shape [2, 9], the configuration asks for [2, 8]"),
        (&[(Q0_A, &[0, 8]), (Q0_B, &[8, 0])], false, "is empty / a ZeRO-3 checkpoint"),
        (&[(Q0_A, &[2, 8])], false, "there is no tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_B"),
        (&[(Q0_B, &[8, 2])], false, "has no A beside it"),
        (
            &[("model.layers.2.mlp.up_proj.lora_A.weight", &[2, 8])],
            false,
            "belongs to no module of the base / the adapter was made for a base of another shape",
        ),
        (&[("model.layers.0.self_attn.q_proj.lora_magnitude_vector", &[8])], false, "is neither a LoRA update nor"),
        (&[("lm_head.lora_A.weight", &[2, 8]), ("lm_head.lora_B.weight", &[11, 2])], true, "tie_word_embeddings"),
        (&[("model.embed_tokens.weight", &[11, 8])], true, "tie_word_embeddings"),
        (&[("lm_head.weight", &[11, 8])], true, "tie_word_embeddings"),
    ] {
        let text = refusal(json!({}), tensors, tied);
        assert!(text.contains(part), "{part} not in {text}");
    }
}
