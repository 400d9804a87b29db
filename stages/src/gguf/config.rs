//! `config.json` and `generation_config.json` from the metadata of a Llama in GGUF form.
//!
//! Unaware of the weights beyond their names and shapes.
use super::Gguf;
use super::special::SpecialIds;
use crate::llama::LlamaConfig;
use anneal_engine::Failure;
use serde_json::{Map, Value, json};

const KEYS: &str = "llama";
/// Tensor of Llama 3.1's rescaled rotary frequencies: what each frequency is divided by.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The configuration; its dtype is written with the weights.
pub(super) fn config(file: &Gguf, special: &SpecialIds) -> Result<LlamaConfig, Failure> {
    let meta = &file.metadata;
    let architecture = meta.require("general.architecture", meta.text("general.architecture")?)?;
    if architecture != KEYS {
        let what = format!("is {architecture:?}, expected \"llama\"");
        return Err(meta.fault("general.architecture", what).hint("anneal fine-tunes models of the Llama family"));
    }
    let parts = meta.integer("split.count")?.unwrap_or(1);
    if parts > 1 {
        let hint = "join the parts first: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf";
        return Err(meta.fault("split.count", format!("is {parts}: the file is only a part of a model")).hint(hint));
    }
    let key = |name: &str| format!("{KEYS}.{name}");
    let optional = |name: &str| meta.integer(&key(name));
    let required = |name: &str| meta.require(&key(name), optional(name)?);
    if let Some(experts) = optional("expert_count")?.filter(|count| *count > 0) {
        return Err(meta.fault(&key("expert_count"), format!("is {experts}; mixtures of experts are not read")));
    }
    let context = optional("context_length")?.unwrap_or(2048);
    if let Some(window) = optional("attention.sliding_window")?.filter(|window| (1..context).contains(window)) {
        let what = format!("is {window}; this engine's attention sees the whole context");
        return Err(meta.fault(&key("attention.sliding_window"), what));
    }
    let layers = required("block_count")?;
    // Each layer has nine tensors: a lie here would otherwise cost memory before the tensors are looked for.
    if layers > file.tensors.len() as u64 {
        let what = format!("is {layers}, but the file has {} tensors", file.tensors.len());
        return Err(meta.fault(&key("block_count"), what));
    }
    let (hidden, heads) = (required("embedding_length")?, required("attention.head_count")?);
    let head_dim = optional("attention.key_length")?.unwrap_or(hidden / heads.max(1));
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(width) = optional(name)?.filter(|width| *width != head_dim) {
            return Err(meta.fault(&key(name), format!("is {width}, heads are {head_dim} wide: not a plain Llama")));
        }
    }
    let epsilon = meta.float(&key("attention.layer_norm_rms_epsilon"))?;
    let epsilon = meta.require(&key("attention.layer_norm_rms_epsilon"), epsilon)?;
    let theta = meta.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let has_bias = |name: &str| file.tensor(&format!("blk.0.{name}.bias")).is_some();
    let mut raw = Map::new();
    let mut put = |key: &str, value: Value| raw.insert(key.to_owned(), value);
    if let Some(name) = meta.text("general.name")? {
        put("_name_or_path", json!(name));
    }
    put("architectures", json!(["LlamaForCausalLM"]));
    put("model_type", json!("llama"));
    put("hidden_size", json!(hidden));
    put("intermediate_size", json!(required("feed_forward_length")?));
    put("num_hidden_layers", json!(layers));
    put("num_attention_heads", json!(heads));
    put("num_key_value_heads", json!(optional("attention.head_count_kv")?.unwrap_or(heads)));
    put("head_dim", json!(head_dim));
    put("vocab_size", json!(file.vocabulary_rows()?));
    put("max_position_embeddings", json!(context));
    put("rms_norm_eps", decimal(epsilon));
    put("rope_theta", decimal(theta));
    if let Some(scaling) = rope_scaling(file, f64::from(theta), head_dim)? {
        put("rope_scaling", scaling);
    }
    put("hidden_act", json!("silu"));
    put("tie_word_embeddings", json!(file.tensor("output.weight").is_none()));
    put("attention_bias", json!(["attn_q", "attn_k", "attn_v", "attn_output"].iter().any(|name| has_bias(name))));
    put("mlp_bias", json!(["ffn_gate", "ffn_up", "ffn_down"].iter().any(|name| has_bias(name))));
    for (name, value) in special.json() {
        put(&name, value);
    }
    LlamaConfig::from_json(raw).map_err(|problems| {
        Failure::user(format!("{}: {}", file.path().display(), problems.join("; ")))
            .hint("the file's metadata make no Llama that this engine knows")
    })
}

/// The f32 of the file as the shortest decimal that means it: 1e-5, not 9.999999747378752e-6.
fn decimal(number: f32) -> Value {
    json!(number.to_string().parse::<f64>().unwrap_or(f64::from(number)))
}

/// The rescaling of the rotary frequencies, as `config.json` has it.
fn rope_scaling(file: &Gguf, theta: f64, head_dim: u64) -> Result<Option<Value>, Failure> {
    let meta = &file.metadata;
    if file.tensor(ROPE_FACTORS).is_some() {
        return llama3(file, theta, head_dim).map(Some);
    }
    let factor = meta.float("llama.rope.scaling.factor")?;
    match meta.text("llama.rope.scaling.type")? {
        None | Some("none") => Ok(None),
        Some("linear") => match factor {
            Some(factor) if factor > 0.0 => Ok(Some(json!({"rope_type": "linear", "factor": decimal(factor)}))),
            _ => Err(meta.fault("llama.rope.scaling.factor", "is missing or not positive")),
        },
        Some(other) => {
            let what = format!("is {other:?}; known are \"none\", \"linear\" and Llama 3's factors");
            Err(meta.fault("llama.rope.scaling.type", what))
        }
    }
}

/// Llama 3.1 and later come with the factors themselves instead of the four numbers that they follow from. All such
/// models have low 1, high 4 and an original length of 8192, and the largest factor is the fourth number; whether the
/// factors really follow from these is checked, so that nothing is guessed.
fn llama3(file: &Gguf, theta: f64, head_dim: u64) -> Result<Value, Failure> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    const ORIGINAL: f64 = 8192.0;
    let half = (head_dim / 2) as usize;
    let factors = file.read_f32(ROPE_FACTORS, &[half])?;
    let factor = f64::from(factors.iter().copied().fold(0.0, f32::max));
    let expected = |i: usize| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        if wavelength < ORIGINAL / HIGH {
            1.0
        } else if wavelength > ORIGINAL / LOW {
            factor
        } else {
            let smooth = (ORIGINAL / wavelength - LOW) / (HIGH - LOW);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let odd = factors.iter().enumerate().find(|(i, found)| {
        let wanted = expected(*i);
        // NaN counts as odd. Converters computed these in f32.
        let apart = (f64::from(**found) - wanted).abs();
        apart.is_nan() || apart > 1e-4 * wanted
    });
    if let Some((i, found)) = odd {
        let what =
            format!("`{ROPE_FACTORS}`[{i}] is {found}; Llama 3's rule for factor {factor} gives {}", expected(i));
        return Err(file
            .fault_at(ROPE_FACTORS, what)
            .hint("only Llama 3's own rescaling can be written as config.json"));
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": ORIGINAL as u64,
    }))
}
