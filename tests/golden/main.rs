//! Numbers against transformers and PEFT: logits, loss, every gradient, AdamW steps, greedy ids, adapters.
//!
//! Two sets of goldens: the ones in the folder that ANNEAL_TEST_DATA names, and our own small ones in
//! `tests/fixtures/golden`, which are always there. Both were made by transformers on the CPU in f32.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test says that it skips, and fails by panicking")]
mod case;

use anneal_ops::{AdamwHyper, AdamwState, Cpu, Grads, NoneTape, OpTape, act_to_vec, adamw, grad_norm};
use anneal_stages::llama::adapter::Adapter;
use anneal_stages::llama::generate::Generator;
use anneal_stages::llama::{Model, WeightFiles};
use case::{Case, cases, max_error, relative_l2};

/// max|a-b| <= LIMIT * max|b| for every tensor.
const LIMIT: f64 = 1e-5;

fn model(case: &Case, train_base: bool) -> Model<Cpu> {
    let files = WeightFiles::open(&case.dir).unwrap();
    Model::read(Cpu::default(), &case.config, &files, train_base).unwrap()
}

#[track_caller]
fn assert_close(what: &str, case: &Case, ours: &[f32], golden: &[f32]) {
    let error = max_error(ours, golden);
    assert!(error <= LIMIT, "{}: {what} differs by {error:.2e} of its largest value", case.name());
}

#[test]
fn logits_loss_and_every_gradient() {
    for case in cases() {
        let mut model = model(&case, true);
        let batch = case.batch();
        let logits = act_to_vec(&model.logits(&batch).unwrap());
        assert_close("logits", &case, &logits, &case.valid_rows("logits"));
        let mut grads = Grads::default();
        let scale = 1.0 / batch.rows.len() as f32;
        let (loss, tape) = model.loss(&batch, scale, OpTape::default(), None).unwrap();
        tape.backward(&mut grads).unwrap();
        let (ours, golden) = (loss.sum / loss.count as f64, case.number("loss_f64"));
        assert!((ours - golden).abs() <= 1e-6 * golden, "{}: loss {ours} against {golden}", case.name());
        for (name, parameter) in model.base_parameters().iter() {
            let ours = parameter.read_grad(&mut grads).unwrap();
            assert_close(name, &case, &ours, &case.tensor(&format!("grad.{name}")));
        }
        let norm = grad_norm(&mut grads, &model.base_parameters().refs).unwrap();
        let golden = case.number("grad_norm");
        assert!((norm - golden).abs() <= 1e-5 * golden, "{}: grad_norm {norm} against {golden}", case.name());
    }
}

#[test]
fn weights_after_five_adamw_steps() {
    for case in cases() {
        let mut model = model(&case, true);
        let batch = case.batch();
        let recorded = case.steps("adamw_full", "loss_gradnorm");
        let mut states: Vec<AdamwState<Cpu>> =
            model.base_parameters().refs.iter().map(|p| AdamwState::new(&Cpu::default(), p.len()).unwrap()).collect();
        for (index, golden) in recorded.iter().enumerate() {
            let mut grads = Grads::default();
            let scale = 1.0 / batch.rows.len() as f32;
            let (loss, tape) = model.loss(&batch, scale, OpTape::default(), None).unwrap();
            tape.backward(&mut grads).unwrap();
            let mut parameters = model.base_parameters();
            let norm = grad_norm(&mut grads, &parameters.refs).unwrap();
            let mean = loss.sum / loss.count as f64;
            assert!((mean - golden[0]).abs() < 1e-4 * golden[0], "{} step {index}: {mean} {golden:?}", case.name());
            assert!((norm - golden[1]).abs() < 1e-3 * golden[1], "{} step {index}: {norm} {golden:?}", case.name());
            let grad_scale = (1.0 / (norm + 1e-6)).min(1.0) as f32;
            let hyper = AdamwHyper {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
                step: index as u64 + 1,
                grad_scale,
            };
            for (parameter, state) in parameters.refs.iter_mut().zip(&mut states) {
                adamw::step(parameter, &mut grads, state, &hyper).unwrap();
            }
        }
        for (name, parameter) in model.base_parameters().iter() {
            let error = relative_l2(&parameter.read(), &case.tensor(&format!("after5.{name}")));
            assert!(error <= 1e-4, "{}: {name} differs by {error:.2e}", case.name());
        }
    }
}

#[test]
fn adapters_load_and_their_gradients_and_steps_agree() {
    for case in cases() {
        let adapter = Adapter::read(&case.dir.join("lora_init"), &case.config).unwrap();
        let mut model = model(&case, false);
        model.attach(&adapter).unwrap();
        let batch = case.batch();
        let logits = act_to_vec(&model.logits(&batch).unwrap());
        assert_close("LoRA logits", &case, &logits, &case.valid_rows("lora_logits"));
        let mut states: Vec<AdamwState<Cpu>> =
            model.lora_parameters().refs.iter().map(|p| AdamwState::new(&Cpu::default(), p.len()).unwrap()).collect();
        for (index, golden) in case.losses("lora_adamw").iter().enumerate() {
            let mut grads = Grads::default();
            let scale = 1.0 / batch.rows.len() as f32;
            let (loss, tape) = model.loss(&batch, scale, OpTape::default(), Some(7)).unwrap();
            tape.backward(&mut grads).unwrap();
            let mean = loss.sum / loss.count as f64;
            assert!((mean - golden).abs() < 1e-4 * golden, "{} step {index}: {mean} {golden}", case.name());
            let mut parameters = model.lora_parameters();
            if index == 0 {
                for (name, parameter) in parameters.iter() {
                    let ours = parameter.read_grad(&mut grads).unwrap();
                    let golden = case.tensor(&format!("lora_grad.base_model.model.{name}.default.weight"));
                    assert_close(name, &case, &ours, &golden);
                }
            }
            let hyper = AdamwHyper {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                step: index as u64 + 1,
                grad_scale: 1.0,
            };
            for (parameter, state) in parameters.refs.iter_mut().zip(&mut states) {
                adamw::step(parameter, &mut grads, state, &hyper).unwrap();
            }
        }
        let after = Adapter::read(&case.dir.join("lora_after5"), &case.config).unwrap();
        for (name, parameter) in model.lora_parameters().iter() {
            let (module, part) = name.rsplit_once('.').unwrap();
            let lora = &after.modules[module];
            let golden = if part == "lora_A" { &lora.a } else { &lora.b };
            let error = relative_l2(&parameter.read(), golden);
            assert!(error <= 1e-4, "{}: {name} differs by {error:.2e}", case.name());
        }
    }
}

#[test]
fn greedy_ids_with_and_without_a_warm_cache() {
    for case in cases() {
        let model = model(&case, false);
        let golden = case.greedy();
        let prompt = &golden[..8];
        let mut generator = Generator::new(&model);
        let cold = generator.greedy(prompt, 16, &[]).unwrap();
        assert_eq!(cold.ids, golden[8..], "{}", case.name());
        let warm = generator.greedy(prompt, 16, &[]).unwrap();
        assert_eq!((warm.ids, warm.reused), (cold.ids, 7), "{}", case.name());
    }
}

#[test]
fn a_real_model_gives_the_logits_and_text_of_transformers() {
    let Some(data) = case::data_dir() else { return };
    let (config, files) = case::open(&data.join("models/stories260K"));
    let model = Model::read(Cpu::default(), &config, &files, false).unwrap();
    for real in case::real_cases(&data) {
        let logits = act_to_vec(&model.logits(&real.batch()).unwrap());
        let golden = &real.logits;
        let ours = &logits[logits.len() - golden.len()..];
        let error = max_error(ours, golden);
        assert!(error <= LIMIT, "prompt {}: logits differ by {error:.2e}", real.index);
        let mut generator = Generator::new(&model);
        let generated = generator.greedy(&real.ids, real.greedy.len(), &[]).unwrap();
        assert_eq!(generated.ids, real.greedy, "prompt {}", real.index);
        let (loss, NoneTape) = model.loss(&real.batch(), 1.0, NoneTape, None).unwrap();
        let mean = loss.sum / loss.count as f64;
        assert!((mean - real.loss).abs() <= 1e-5 * real.loss.max(1.0), "prompt {}: {mean} {}", real.index, real.loss);
    }
}
