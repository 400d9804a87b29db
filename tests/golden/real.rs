//! Real models: stories260K against what transformers recorded, and on a GPU every number of stories260K and of
//! SmolLM2-135M-Instruct against our own CPU backend in f32, which the other tests hold to transformers.
//!
//! SmolLM2 is the .gguf file that `ANNEAL_TEST_SMOLLM2` names. Unaware of how bf16 is judged (`ruler.rs`).
use crate::case::{self, Real};
use crate::device::{on_every_device, on_gpu};
use crate::ruler::{Compared, Findings, Ruler};
use crate::yardsticks::yardsticks;
use crate::{compared, pass};
use anneal_ops::{Backend, Cpu, Grads, NoneTape, act_to_vec};
use anneal_stages::gguf::Gguf;
use anneal_stages::llama::generate::Generator;
use anneal_stages::llama::{Batch, LlamaConfig, Model, WeightSource};
use std::collections::BTreeMap;
use std::path::Path;

fn ruler<'a, B: Backend>(findings: &'a Findings, model: &str, index: usize) -> Ruler<'a> {
    Ruler::new::<B>(findings, &format!("{model} {index}"), &format!("/{model}/{index}"))
}

fn check_stories<B: Backend>(device: B) {
    let Some(data) = case::data_dir() else { return };
    let findings = Findings::default();
    let (config, files) = case::open(&data.join("models/stories260K"));
    let model = Model::read(device, &config, &files, false).unwrap();
    for real in case::real_cases(&data) {
        let ruler = ruler::<B>(&findings, "stories260K", real.index);
        let batch = real.batch();
        let logits = act_to_vec(&model.logits(&batch).unwrap());
        let ours = &logits[logits.len() - real.logits.len()..];
        ruler.some_logits(ours, &real.logits);
        let mut generator = Generator::new(&model);
        let generated = generator.greedy(&real.ids, real.greedy.len(), &[]).unwrap();
        if !real.greedy.is_empty() {
            let reference = || Model::read(Cpu::default(), &config, &files, false).unwrap();
            ruler.greedy("greedy", &real.ids, &generated.ids, &real.greedy, reference);
        }
        let (loss, NoneTape) = model.loss(&batch, 1.0, NoneTape, None).unwrap();
        // A loss below 1 is compared as if it were 1: it is a difference of large numbers.
        let (mean, golden) = (loss.sum / loss.count as f64, real.loss);
        let f32_limit = 1e-5 * golden.max(1.0) / golden;
        ruler.loss("loss", mean, golden, f32_limit);
    }
}

#[test]
fn a_real_model_gives_the_logits_and_text_of_transformers() {
    on_every_device!(check_stories);
}

/// Gradients of one kind (all q_proj, say) together, as the yardsticks have them.
fn by_kind(all: Vec<Compared>) -> Vec<Compared> {
    let mut kinds: BTreeMap<String, Compared> = BTreeMap::new();
    for (name, ours, golden) in all {
        let kind = name.rsplit('.').nth(1).unwrap().to_owned();
        let entry = kinds.entry(kind.clone()).or_insert_with(|| (kind, vec![], vec![]));
        entry.1.extend(ours);
        entry.2.extend(golden);
    }
    kinds.into_values().collect()
}

/// Logits, losses and every gradient of each prompt on `device` against the CPU.
fn check_against_cpu<B: Backend>(
    device: B,
    name: &str,
    files: &dyn WeightSource,
    config: &LlamaConfig,
    all: &[Vec<u32>],
) {
    let findings = Findings::default();
    let mut low = Model::read(device, config, files, true).unwrap();
    let mut high = Model::read(Cpu::default(), config, files, true).unwrap();
    for (index, ids) in all.iter().enumerate() {
        let ruler = ruler::<B>(&findings, name, index);
        let batch = Batch::pack([(&ids[..], &vec![1; ids.len()][..])]).unwrap();
        let (ours, golden) = (act_to_vec(&low.logits(&batch).unwrap()), act_to_vec(&high.logits(&batch).unwrap()));
        ruler.logits(&format!("logits of {} tokens", ids.len()), &ours, &golden, &batch);
        let (mut grads, mut golden_grads) = (Grads::default(), Grads::default());
        let (ours, golden) = (pass(&low, &batch, None, &mut grads), pass(&high, &batch, None, &mut golden_grads));
        ruler.loss("loss", ours, golden, 0.0);
        let parameters = high.base_parameters();
        let mut golden: BTreeMap<&String, Vec<f32>> =
            parameters.iter().map(|(name, p)| (name, p.read_grad(&mut golden_grads).unwrap())).collect();
        drop(golden_grads);
        let ours = compared(&low.base_parameters(), &mut grads, |name| golden.remove(&name.to_owned()).unwrap());
        ruler.gradients("gradients", &by_kind(ours));
    }
}

fn check_stories_on_gpu<B: Backend>(device: B) {
    let Some(data) = case::data_dir() else { return };
    let (config, files) = case::open(&data.join("models/stories260K"));
    let prompts: Vec<Vec<u32>> = case::real_cases(&data).into_iter().map(|real: Real| real.ids).collect();
    check_against_cpu(device, "stories260K", &files, &config, &prompts);
}

#[test]
fn stories_on_a_gpu_are_those_of_the_cpu() {
    on_gpu!(check_stories_on_gpu);
}

fn check_smollm2<B: Backend>(device: B) {
    let Some(path) = std::env::var_os("ANNEAL_TEST_SMOLLM2") else {
        println!("skipped: ANNEAL_TEST_SMOLLM2 is not set");
        return;
    };
    let file = Gguf::open(Path::new(&path)).unwrap();
    let weights = file.direct().unwrap();
    let ids = |prompt: &serde_json::Value| serde_json::from_value(prompt["ids"].clone()).unwrap();
    let prompts: Vec<Vec<u32>> = yardsticks()["smollm2"].as_array().unwrap().iter().map(ids).collect();
    assert_eq!(prompts.iter().map(Vec::len).collect::<Vec<_>>(), [64, 512]);
    check_against_cpu(device, "smollm2", &weights, weights.config(), &prompts);
}

#[test]
fn smollm2_on_a_gpu_is_that_of_the_cpu() {
    on_gpu!(check_smollm2);
}
