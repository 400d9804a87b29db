//! What must not change an answer: how many are decoded together, what is shared, in which order they are asked for.
//!
//! Unaware of texts: ids are compared.
use crate::device::on_every_device;
use anneal_ops::{Backend, Cpu};
use anneal_stages::llama::adapter::Adapter;
use anneal_stages::llama::generate::{Ending, Generated, Generator, Limits, Request};
use anneal_stages::llama::generate_batch::generate;
use anneal_stages::llama::init::initial_values;
use anneal_stages::llama::sampling::Sampling;
use anneal_stages::llama::weights::tensor_shapes;
use anneal_stages::llama::{AdapterConfig, LlamaConfig, Model, WeightFiles};
use anneal_stages::random::Stream;
use anneal_stages::tensor_file::{FloatType, OutTensor, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const VOCABULARY: u32 = 211;
const WINDOW: usize = 230;
const NEW: usize = 24;

/// Grouped heads, biases, a head of its own, products wide enough for every kernel; and an adapter.
fn config() -> LlamaConfig {
    let Value::Object(raw) = json!({"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 96,
        "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "attention_bias": true, "tie_word_embeddings": false, "initializer_range": 0.15,
        "max_position_embeddings": WINDOW})
    else {
        panic!("an object")
    };
    LlamaConfig::from_json(raw).unwrap()
}

fn adapter(config: &LlamaConfig) -> Adapter {
    let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_owned);
    let mut adapter = Adapter::fresh(config, AdapterConfig::lora(4, 8.0, 0.25, false), &targets, 5).unwrap();
    // Fresh, B is zero and would change nothing.
    for (name, lora) in &mut adapter.modules {
        let mut stream = Stream::new(5, name);
        lora.b.iter_mut().for_each(|b| *b = 0.1 * stream.normal());
    }
    adapter
}

fn bare<B: Backend>(device: B, damage: bool) -> Model<B> {
    let config = config();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let mut values = initial_values(&config, 3, &name, &shape);
        if damage && name == "lm_head.weight" {
            values[7] = f32::NAN;
        }
        let tensor = OutTensor::floats(&values, &shape, FloatType::F32);
        (name, tensor)
    };
    let tensors: Vec<_> = tensor_shapes(&config).into_iter().map(tensor).collect();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("model.safetensors"), &tensors).unwrap();
    Model::read(device, &config, &WeightFiles::open(dir.path()).unwrap(), false).unwrap()
}

fn model<B: Backend>(device: B) -> Model<B> {
    let mut model = bare(device, false);
    let adapter = adapter(model.config());
    model.attach(&adapter).unwrap();
    model
}

/// Prompts by name, with their groups: five contexts of 9 to 180 tokens, each with a few questions; two are alone.
fn prompts() -> Vec<(String, usize, Vec<u32>)> {
    let mut stream = Stream::new(1, "prompts");
    let mut prompts = Vec::new();
    let template: Vec<u32> = (0..21).map(|_| stream.below(VOCABULARY)).collect();
    for (group, (context, questions)) in [(100, 5), (9, 1), (180, 3), (33, 4), (64, 1)].into_iter().enumerate() {
        let context: Vec<u32> =
            template.iter().copied().chain((0..context).map(|_| stream.below(VOCABULARY))).collect();
        for question in 0..questions {
            let mut prompt = context.clone();
            prompt.extend((0..3 + 5 * question).map(|_| stream.below(VOCABULARY)));
            prompts.push((format!("{group}-{question}"), group, prompt));
        }
    }
    // The same prompt twice, and one that another begins with.
    prompts.push(("3-again".into(), 3, prompts[12].2.clone()));
    prompts.push(("3-short".into(), 3, prompts[12].2[..40].to_vec()));
    prompts
}

fn answers<B: Backend>(
    model: &Model<B>,
    prompts: &[(String, usize, Vec<u32>)],
    limits: &Limits<'_>,
) -> BTreeMap<String, Generated> {
    let requests: Vec<Request<'_>> =
        prompts.iter().map(|(key, group, prompt)| Request { prompt, group: *group, key }).collect();
    let mut told = Vec::new();
    let answers = generate(model, &requests, limits, &mut |done| {
        told.push(done);
        Ok(())
    });
    let answers = answers.unwrap_or_else(|(request, failure)| panic!("{request:?}: {failure}"));
    assert!(told.is_sorted() && told.last() == Some(&prompts.len()), "{told:?}");
    prompts.iter().map(|(key, ..)| key.clone()).zip(answers).collect()
}

/// End tokens that some answers reach early, some late and some never.
const END: [u32; 9] = [3, 17, 40, 77, 101, 130, 160, 190, 200];

fn check_sameness<B: Backend>(device: B) {
    let model = model(device);
    let prompts = prompts();
    let sampling = Sampling { temperature: 1.3, top_k: 50, top_p: 0.95, seed: 11 };
    for (sampling, stop) in [(None, false), (Some(&sampling), false), (None, true)] {
        let limits = |sequences, prefix_sharing| Limits {
            sampling,
            stop: if stop { Some(&stop_at) } else { None },
            sequences,
            prefix_sharing,
            ..Limits::greedy(NEW, &END)
        };
        let plain = answers(&model, &prompts, &limits(1, false));
        assert!(plain.values().all(|answer| answer.reused == 0));
        let kinds = |ending| plain.values().filter(|answer| answer.ending == ending).count();
        assert!(kinds(Ending::Token) > 0 && kinds(Ending::Token) < plain.len(), "ends: {}", kinds(Ending::Token));
        assert_eq!(kinds(Ending::Stop) > 0, stop);
        let mut other = prompts.clone();
        other.reverse();
        other.sort_by_key(|(_, group, _)| (group * 3) % 5);
        for sequences in [1, 7, 64] {
            for (sharing, prompts) in [(true, &prompts), (false, &prompts), (true, &other)] {
                let found = answers(&model, prompts, &limits(sequences, sharing));
                for (key, answer) in &plain {
                    let same = (&found[key].ids, found[key].ending) == (&answer.ids, answer.ending);
                    assert!(same, "{key}, {sequences} at once, sharing {sharing}: {found:?} {plain:?}");
                }
                let reused: usize = found.values().map(|answer| answer.reused).sum();
                assert_eq!(reused > 300, sharing, "{reused} tokens were reused");
            }
        }
        if sampling.is_none() && !stop {
            let mut generator = Generator::new(&model);
            for (key, _, prompt) in &prompts {
                let answer = generator.greedy(prompt, NEW, &END).unwrap();
                assert_eq!((&answer.ids, answer.ending), (&plain[key].ids, plain[key].ending));
            }
        }
    }
}

fn stop_at(ids: &[u32]) -> Result<bool, anneal_engine::Failure> {
    Ok(ids.last().is_some_and(|id| *id % 16 == 5) || ids.len() == 19)
}

#[test]
fn answers_are_the_same_in_any_batch_with_any_sharing_in_any_order() {
    on_every_device!(check_sameness);
}

fn check_draws<B: Backend>(device: B) {
    let model = model(device);
    let prompts = prompts();
    let draw = |seed, top_k| {
        let sampling = Sampling { temperature: 1.0, top_k, top_p: 1.0, seed };
        let limits = Limits { sampling: Some(&sampling), ..Limits::greedy(NEW, &[]) };
        answers(&model, &prompts, &limits)
    };
    assert!(draw(1, 0) == draw(1, 0) && draw(1, 0) != draw(2, 0));
    assert!(draw(1, 0)["3-3"].ids != draw(1, 0)["3-again"].ids, "the same prompt under another name");
    // The most likely alone is greedy.
    let greedy = answers(&model, &prompts, &Limits::greedy(NEW, &[]));
    let drawn = draw(1, 1);
    let equal = prompts.iter().filter(|(key, ..)| greedy[key].ids == drawn[key].ids).count();
    // In bf16 logits that are sampled are rounded, which makes ties.
    let enough = if B::NUMERICS == "cpu-f32" { prompts.len() } else { prompts.len() / 2 };
    assert!(equal >= enough, "{equal} of {} answers are the greedy ones", prompts.len());
}

#[test]
fn draws_depend_on_the_seed_and_the_name_and_one_token_to_draw_from_is_greedy() {
    on_every_device!(check_draws);
}

fn check_limits<B: Backend>(device: B) {
    let model = model(device.clone());
    let ids = |len: usize| (0..len as u32).map(|i| i * 31 % VOCABULARY).collect::<Vec<u32>>();
    let ask = |prompt: &[u32], limits: &Limits<'_>| {
        generate(&model, &[Request { prompt, group: 0, key: "q" }], limits, &mut |_| Ok(()))
    };
    let limits = Limits::greedy(NEW, &[]);
    let near = ask(&ids(WINDOW - 5), &limits).unwrap().remove(0);
    assert_eq!((near.ids.len(), near.ending, near.ended()), (5, Ending::Window, false));
    let full = ask(&ids(WINDOW), &limits).unwrap().remove(0);
    assert_eq!((full.ids.len(), full.ending), (0, Ending::Window));
    let (at, failure) = ask(&ids(WINDOW + 1), &limits).unwrap_err();
    assert_eq!((at, failure.message.as_str()), (Some(0), "the prompt has 231 tokens, the model's window 230"));
    let cut = ask(&ids(20), &limits).unwrap().remove(0);
    assert_eq!((cut.ids.len(), cut.ending), (NEW, Ending::Limit));
    assert_eq!(ask(&[], &limits).unwrap_err().0, Some(0));
    let stopped = generate(&model, &[Request { prompt: &ids(9), group: 0, key: "q" }], &limits, &mut |_| {
        Err(anneal_engine::Failure::user("enough"))
    });
    assert_eq!(stopped.unwrap_err().1.message, "enough");
    assert_eq!(generate(&model, &[], &limits, &mut |_| Ok(())).unwrap(), []);
    let damaged = bare(device, true);
    let request = |key| Request { prompt: &[1, 2, 3], group: 0, key };
    let (at, failure) = generate(&damaged, &[request("a"), request("b")], &limits, &mut |_| Ok(())).unwrap_err();
    assert_eq!((at, failure.class), (Some(0), anneal_engine::FailureClass::Nan), "{failure}");
    assert_eq!(failure.message, "the model's logits after 3 tokens are not finite");
}

#[test]
fn the_window_the_limit_and_damaged_weights_end_generation() {
    on_every_device!(check_limits);
}

#[test]
fn a_merged_adapter_answers_as_one_beside_the_weights() {
    let prompts = prompts();
    let limits = Limits::greedy(NEW, &END);
    let mut merged = bare(Cpu::default(), false);
    let adapter = adapter(merged.config());
    let base = answers(&merged, &prompts, &limits);
    merged.attach_merged(&adapter).unwrap();
    let merged = answers(&merged, &prompts, &limits);
    let beside = answers(&model(Cpu::default()), &prompts, &limits);
    let equal = beside.iter().filter(|(key, answer)| merged[*key].ids == answer.ids).count();
    assert!(equal + 1 >= beside.len(), "{equal} of {} answers are the same", beside.len());
    assert!(base != beside, "the adapter changes something");
}
