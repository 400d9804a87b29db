//! Tests of `bench train` on a tiny shape on the CPU.
use super::*;
use anneal_engine::FailureClass;

fn bench(method: Method) -> TrainBench {
    let raw = serde_json::json!({
        "model_type": "llama", "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    });
    let config = LlamaConfig::from_json(raw.as_object().cloned().unwrap_or_default()).unwrap();
    TrainBench {
        model: BenchModel::Shape(Box::new(config)),
        numerics: "cpu-f32",
        method,
        checkpointing: Checkpointing::None,
        full_layers: None,
        optimizer_states: OptimizerStates::F32,
        batch_size: 2,
        sequence_length: 32,
        labelled: 1.0,
        warmup: 1,
        steps: 2,
        seed: 5,
    }
}

fn lora() -> Method {
    Method::Lora { rank: 4, target_modules: vec!["q_proj".into(), "down_proj".into()] }
}

#[test]
fn steps_of_both_methods_are_measured_and_begin_at_chance() {
    for (method, trainable) in [(lora(), 2 * (4 * 32 + 4 * 40)), (Method::Full, 0)] {
        let measured = run(&bench(method.clone())).unwrap();
        assert_eq!((measured.step_seconds.len(), measured.losses.len()), (2, 3));
        assert!((measured.losses[0] - 97_f64.ln()).abs() < 0.2, "{:?}", measured.losses);
        let expected = if method == Method::Full { measured.parameters } else { trainable };
        assert_eq!(measured.trainable_parameters, expected);
        assert_eq!((measured.peak_tflops, measured.labelled_tokens), (None, 62), "no peak is known of a CPU");
        let named = |wanted| measured.memory.categories.iter().find(|(category, _)| *category == wanted);
        let (weights, adapters) = (named(Category::Weights), named(Category::Adapters));
        // Weights, and tables of 32 positions x 4.
        let expected = (4 * measured.parameters + 4 * 32 * 4) as f64 / f64::from(1 << 20);
        assert_eq!(weights.map(|(_, mib)| *mib), Some(expected));
        assert_eq!(adapters.is_some(), method != Method::Full);
    }
}

#[test]
fn every_op_of_a_step_is_timed() {
    let measured = run(&bench(lora())).unwrap();
    let calls = |op: &str| measured.ops.iter().find(|time| time.op == op).map_or(0, |time| time.calls as usize);
    // Two layers of four nodes for seven linears (q, k and v are one, gate and up too) which add the residuals, two norms
    // and two rotations; the last norm; one update of all LoRA matrices.
    let expected = [
        ("linear.forward", 8),
        ("linear.backward", 8),
        ("attention.forward", 2),
        ("attention.backward", 2),
        ("rms_norm.forward", 5),
        ("rms_norm.backward", 5),
        ("rope.forward", 4),
        ("rope.backward", 4),
        ("swiglu.forward", 2),
        ("swiglu.backward", 2),
        ("embedding.forward", 1),
        ("cross_entropy.forward", 1),
        ("cross_entropy.backward", 1),
        ("grad_norm", 1),
        ("adamw", 1),
    ];
    for (op, count) in expected {
        assert_eq!(calls(op), count * PROFILED, "{op}");
    }
    assert_eq!(measured.ops.len(), expected.len(), "{:?}", measured.ops);
    let sum: f64 = measured.ops.iter().map(|time| time.seconds).sum();
    assert!(sum > 0.0 && sum <= measured.profiled_seconds, "{sum} of {}", measured.profiled_seconds);
}

#[test]
fn checkpointing_changes_no_loss_and_runs_layers_again() {
    let base = run(&bench(lora())).unwrap();
    for checkpointing in [Checkpointing::Selective, Checkpointing::Full] {
        let measured = run(&TrainBench { checkpointing, ..bench(lora()) }).unwrap();
        assert_eq!(measured.losses, base.losses);
        let calls = |ops: &[OpTime], op| ops.iter().find(|time| time.op == op).map_or(0, |time| time.calls);
        let (again, once) = (calls(&measured.ops, "linear.forward"), calls(&base.ops, "linear.forward"));
        assert_eq!(again, if checkpointing == Checkpointing::Full { 2 * once } else { once });
        // One of the two layers.
        let some = run(&TrainBench { checkpointing, full_layers: Some(1), ..bench(lora()) }).unwrap();
        assert_eq!(some.losses, base.losses);
        let again = calls(&some.ops, "linear.forward");
        assert_eq!(again, if checkpointing == Checkpointing::Full { once + once / 2 } else { once });
    }
}

#[test]
fn a_share_of_the_tokens_can_be_labelled() {
    let measured = run(&TrainBench { labelled: 0.1, ..bench(lora()) }).unwrap();
    assert_eq!(measured.labelled_tokens, 2 * 3);
    assert!(run(&TrainBench { labelled: 0.0, ..bench(lora()) }).is_err());
}

#[test]
fn a_sequence_that_is_too_long_is_refused() {
    let long = TrainBench { sequence_length: 33, ..bench(Method::Full) };
    assert!(run(&long).unwrap_err().hint.unwrap_or_default().contains("32"));
}

#[test]
fn a_model_that_cannot_fit_is_refused_before_a_weight_is_drawn() {
    let raw = serde_json::json!({
        "model_type": "llama", "vocab_size": 1 << 24, "hidden_size": 1 << 20, "intermediate_size": 1 << 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
    });
    let config = LlamaConfig::from_json(raw.as_object().cloned().unwrap_or_default()).unwrap();
    let huge = TrainBench { model: BenchModel::Shape(Box::new(config)), ..bench(Method::Full) };
    let failure = run(&huge).unwrap_err();
    assert_eq!(failure.class, FailureClass::Oom);
    assert!(failure.message.contains("bytes are missing"), "{}", failure.message);
}
