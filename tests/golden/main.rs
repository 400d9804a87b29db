//! Numbers against transformers and PEFT: logits, loss, every gradient, AdamW steps, greedy ids, adapters.
//!
//! Two sets of goldens: the ones in the folder that ANNEAL_TEST_DATA names, and our own small ones in
//! `tests/fixtures/golden`, which are always there. Both were made by transformers on the CPU in f32. Each test runs on
//! every device: in f32 within fixed bounds, in bf16 within multiples of torch-bf16's own error (`ruler.rs`).
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test says that it skips, and fails by panicking")]
mod case;
mod device;
mod generation;
mod real;
mod ruler;
mod yardsticks;

use anneal_ops::{
    AdamwHyper, AdamwPart, AdamwState, Backend, Cpu, Grads, OpTape, ParamRef, act_to_vec, adamw, grad_norm,
};
use anneal_stages::llama::adapter::Adapter;
use anneal_stages::llama::generate::Generator;
use anneal_stages::llama::{Batch, Model, Parameters, WeightFiles};
use case::{Case, cases, relative_l2};
use device::on_every_device;
use ruler::{Compared, Findings, GRADIENTS, Ruler};

fn model<B: Backend>(device: &B, case: &Case, train_base: bool) -> Model<B> {
    let files = WeightFiles::open(&case.dir).unwrap();
    Model::read(device.clone(), &case.config, &files, train_base).unwrap()
}

fn ruler<'a, B: Backend>(findings: &'a Findings, case: &Case) -> Ruler<'a> {
    Ruler::new::<B>(findings, &case.name(), &format!("/cases/{}", case.name()))
}

/// Forward and backward; returns the mean loss.
fn pass<B: Backend>(model: &Model<B>, batch: &Batch, dropout: Option<u64>, grads: &mut Grads<B>) -> f64 {
    let scale = 1.0 / batch.rows.len() as f32;
    let (loss, tape) = model.loss(batch, scale, OpTape::default(), dropout).unwrap();
    tape.backward(grads).unwrap();
    loss.sum / loss.count as f64
}

/// Each parameter's gradient beside the golden one.
fn compared<B: Backend>(
    parameters: &Parameters<'_, B>,
    grads: &mut Grads<B>,
    mut golden: impl FnMut(&str) -> Vec<f32>,
) -> Vec<Compared> {
    parameters.iter().map(|(name, p)| (name.clone(), p.read_grad(grads).unwrap(), golden(name))).collect()
}

fn check_logits_loss_and_gradients<B: Backend>(device: B) {
    let findings = Findings::default();
    for case in cases() {
        let ruler = ruler::<B>(&findings, &case);
        let mut model = model(&device, &case, true);
        let batch = case.batch();
        let logits = act_to_vec(&model.logits(&batch).unwrap());
        ruler.logits("logits", &logits, &case.valid_rows("logits"), &batch);
        let mut grads = Grads::default();
        let loss = pass(&model, &batch, None, &mut grads);
        ruler.loss("loss", loss, case.number("loss_f64"), 1e-6);
        let parameters = model.base_parameters();
        let golden = |name: &str| case.tensor(&format!("grad.{name}"));
        ruler.gradients("gradients", &compared(&parameters, &mut grads, golden));
        let norm = grad_norm(&mut grads, &parameters.refs).unwrap();
        let golden = case.number("grad_norm");
        ruler.norm("grad_norm", norm, golden, 1e-5);
    }
}

#[test]
fn logits_loss_and_every_gradient() {
    on_every_device!(check_logits_loss_and_gradients);
}

/// AdamW's state of every parameter, and the parameters before the first step.
struct Trained<B: Backend> {
    states: Vec<AdamwState<B>>,
    before: Vec<Vec<f32>>,
}

impl<B: Backend> Trained<B> {
    fn new(device: &B, parameters: &Parameters<'_, B>) -> Self {
        let states = parameters.refs.iter().map(|p| AdamwState::new(device, p.len()).unwrap()).collect();
        Self { states, before: parameters.refs.iter().map(|p| p.read()).collect() }
    }

    fn step(&mut self, parameters: &mut Parameters<'_, B>, grads: &mut Grads<B>, hyper: &AdamwHyper) {
        let both = parameters.refs.iter_mut().zip(&mut self.states);
        let part = |(parameter, state)| AdamwPart { param: ParamRef::reborrow(parameter), state, decays: true };
        adamw::step(&mut both.map(part).collect::<Vec<_>>(), grads, hyper).unwrap();
    }

    /// In f32 each parameter itself; in bf16 the updates of the masters, all together: of a rounded weight little but
    /// its rounding would be seen. `golden` returns a parameter before and after.
    fn check(&self, ruler: &Ruler<'_>, parameters: &Parameters<'_, B>, golden: impl Fn(&str) -> [Vec<f32>; 2]) {
        let mut updates = [vec![], vec![]];
        let all = parameters.iter().zip(&self.states).zip(&self.before);
        for (((name, parameter), state), before) in all {
            let after = state.read_master().unwrap_or_else(|| parameter.read());
            let [golden_before, golden_after] = golden(name);
            if ruler.exact() {
                ruler.check(name, relative_l2(&after, &golden_after), 1e-4, 0.0, 0.0);
            }
            updates[0].extend(after.iter().zip(before).map(|(after, before)| after - before));
            updates[1].extend(golden_after.iter().zip(&golden_before).map(|(after, before)| after - before));
        }
        if !ruler.exact() {
            let error = relative_l2(&updates[0], &updates[1]);
            ruler.check("updates of five AdamW steps", error, 0.0, GRADIENTS, ruler.torch("/after5"));
        }
    }
}

fn hyper(step: usize, lr: f64, weight_decay: f64, grad_scale: f32) -> AdamwHyper {
    AdamwHyper { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, step: step as u64 + 1, grad_scale }
}

fn check_five_steps<B: Backend>(device: B) {
    let findings = Findings::default();
    for case in cases() {
        let ruler = ruler::<B>(&findings, &case);
        let mut model = model(&device, &case, true);
        let batch = case.batch();
        let mut trained = Trained::new(&device, &model.base_parameters());
        for (index, golden) in case.steps("adamw_full", "loss_gradnorm").iter().enumerate() {
            let mut grads = Grads::default();
            let mean = pass(&model, &batch, None, &mut grads);
            let mut parameters = model.base_parameters();
            let norm = grad_norm(&mut grads, &parameters.refs).unwrap();
            ruler.step_loss(index, mean, golden[0]);
            ruler.norm(&format!("grad_norm of step {}", index + 1), norm, golden[1], 1e-3);
            let grad_scale = (1.0 / (norm + 1e-6)).min(1.0) as f32;
            trained.step(&mut parameters, &mut grads, &hyper(index, 1e-3, 0.01, grad_scale));
        }
        let golden = |name: &str| [case.tensor(name), case.tensor(&format!("after5.{name}"))];
        trained.check(&ruler, &model.base_parameters(), golden);
    }
}

#[test]
fn weights_after_five_adamw_steps() {
    on_every_device!(check_five_steps);
}

fn check_adapters<B: Backend>(device: B) {
    let findings = Findings::default();
    for case in cases() {
        let place = format!("/cases/{}/lora", case.name());
        let ruler = Ruler::new::<B>(&findings, &format!("{}, LoRA", case.name()), &place);
        let adapter = |folder: &str| Adapter::read(&case.dir.join(folder), &case.config).unwrap();
        let (before, after) = (adapter("lora_init"), adapter("lora_after5"));
        let mut model = model(&device, &case, false);
        model.attach(&before).unwrap();
        let batch = case.batch();
        let logits = act_to_vec(&model.logits(&batch).unwrap());
        ruler.logits("logits", &logits, &case.valid_rows("lora_logits"), &batch);
        let mut trained = Trained::new(&device, &model.lora_parameters());
        for (index, golden) in case.losses("lora_adamw").iter().enumerate() {
            let mut grads = Grads::default();
            ruler.step_loss(index, pass(&model, &batch, Some(7), &mut grads), *golden);
            let mut parameters = model.lora_parameters();
            if index == 0 {
                let golden = |name: &str| case.tensor(&format!("lora_grad.base_model.model.{name}.default.weight"));
                ruler.gradients("gradients", &compared(&parameters, &mut grads, golden));
            }
            trained.step(&mut parameters, &mut grads, &hyper(index, 1e-2, 0.0, 1.0));
        }
        trained.check(&ruler, &model.lora_parameters(), |name| {
            let (module, part) = name.rsplit_once('.').unwrap();
            [&before, &after].map(|adapter| {
                let lora = &adapter.modules[module];
                if part == "lora_A" { lora.a.clone() } else { lora.b.clone() }
            })
        });
    }
}

#[test]
fn adapters_load_and_their_gradients_and_steps_agree() {
    on_every_device!(check_adapters);
}

fn check_greedy<B: Backend>(device: B) {
    let findings = Findings::default();
    for case in cases() {
        let ruler = ruler::<B>(&findings, &case);
        let model = model(&device, &case, false);
        let golden = case.greedy();
        let (prompt, golden) = golden.split_at(8);
        let mut generator = Generator::new(&model);
        let cold = generator.greedy(prompt, 16, &[]).unwrap();
        let warm = generator.greedy(prompt, 16, &[]).unwrap();
        let aligned = 7 / Model::<B>::aligned() * Model::<B>::aligned();
        ruler.require(warm.reused == aligned, || format!("{} tokens of the prompt were in the cache", warm.reused));
        let reference = || self::model(&Cpu::default(), &case, false);
        ruler.greedy("cold cache", prompt, &cold.ids, golden, reference);
        ruler.greedy("warm cache", prompt, &warm.ids, golden, reference);
    }
}

#[test]
fn greedy_ids_with_and_without_a_warm_cache() {
    on_every_device!(check_greedy);
}
